"""The errors, as an application meets and raises them."""

import copy
import pickle

import pytest

import sessionware
from sessionware import SessionInterrupted, SessionMiddleware, SessionwareError, StoreUnavailable
from tests.support.wsgi import call

ERRORS = [
    getattr(sessionware, name)
    for name in sessionware.__all__
    if isinstance(getattr(sessionware, name), type) and issubclass(getattr(sessionware, name), SessionwareError)
]


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("words", [(), ("for a reason",)], ids=["bare", "with words"])
def test_every_error_can_be_raised_and_carried(kind: type[SessionwareError], words: tuple[str, ...]) -> None:
    """By an application, which knows it by its name alone, and out of the process where it was raised."""
    error = kind(*words)

    for carried in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(carried) is kind
        assert (str(carried), vars(carried)) == (str(error), vars(error))
    assert not words or str(error) == "for a reason"


@pytest.mark.parametrize(("kind", "status"), [(SessionInterrupted, 400), (StoreUnavailable, 503)])
def test_what_an_application_raises_is_answered_as_our_own(
    sqlite: str, kind: type[SessionwareError], status: int
) -> None:
    """As Django's SessionInterrupted is."""

    def app(_environ: object, _start_response: object) -> list[bytes]:
        raise kind

    assert call(SessionMiddleware(app, sqlite), "/").status == status


def test_an_error_keeps_what_it_knows() -> None:
    """Whether a session is left, and whether the database may have time later."""
    assert pickle.loads(pickle.dumps(SessionInterrupted(ended=True))).ended
    assert pickle.loads(pickle.dumps(StoreUnavailable("x", busy=True))).busy
