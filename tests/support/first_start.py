"""Many processes that do the same thing at the same moment: forked from one that is warm, behind a barrier.

    python -m tests.support.first_start URL PROCESSES ROUNDS

In each round every process meets a database without a table: half of them create it, half of them use it.
Who is told that the database is busy comes again, as a visitor would: a hundred may need more than our patience.
"""

import os
import sys
import traceback
from collections.abc import Callable

from sessionware import StoreUnavailable
from sessionware.store import SessionStore

VISITS = 8
FEW = 8


def store_of_round(url: str, number: int) -> SessionStore:
    """Return a store whose table nobody has used before this round: on SQLite a new file."""
    if url.startswith("sqlite"):
        return SessionStore(f"{url}.{number}")
    return SessionStore(url, f"round_{number}")


def together(processes: int, work: Callable[[int], None]) -> int:
    """Run *work* in so many forked processes at once; return how many of them failed."""
    started, start = os.pipe()
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            os.close(start)
            os.read(started, 1)  # until the parent closes its end
            os._exit(_outcome(work, number))
        children.append(child)
    os.close(started)
    os.close(start)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def first_use(url: str, round_number: int, processes: int) -> Callable[[int], None]:
    """Return what each process does in a round; in every other one with a store from before the fork."""
    visits = VISITS if processes > FEW else 1
    preloaded = store_of_round(url, round_number) if round_number % 2 == 0 else None

    def work(number: int) -> None:
        for visit in range(visits):
            try:
                return _use(preloaded or store_of_round(url, round_number), number)
            except StoreUnavailable as error:
                if not error.busy or visit == visits - 1:
                    raise

    return work


def _use(store: SessionStore, number: int) -> None:
    if number % 2:
        store.create_table()
    key = store.create({"number": number})
    assert store.read(key) == {"number": number}


def _outcome(work: Callable[[int], None], number: int) -> int:
    try:
        work(number)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Run the rounds; exit with how many processes failed."""
    url, processes, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    SessionStore(url)  # imports the driver, and whatever else a process imports first
    failed = sum(together(processes, first_use(url, number, processes)) for number in range(rounds))
    sys.exit(min(failed, 100))


if __name__ == "__main__":
    main()
