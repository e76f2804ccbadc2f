"""Two that meet: who arrives waits, until who attends lets them go."""

import threading

from tests.support.meeting import Meeting, wait_at

PATIENCE = 20.0


def test_who_arrives_waits_to_be_let_go() -> None:
    """Else what was to happen in between would happen at any time."""
    gone = threading.Event()

    def arrive(port: int) -> None:
        wait_at(port)
        gone.set()

    with Meeting() as meeting:
        thread = threading.Thread(target=arrive, args=[meeting.port])
        thread.start()
        with meeting.attend():
            waited = not gone.wait(0.1)
        thread.join(PATIENCE)

    assert waited
    assert gone.is_set()
