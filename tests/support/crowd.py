"""Processes that call an application of ours, all at once; started once for many tests."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

SIZE = 8


@contextmanager
def crowd() -> Iterator[ProcessPoolExecutor]:
    """Start SIZE processes that import the package anew; they are all there when this returns."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(SIZE)
    with ProcessPoolExecutor(SIZE, mp_context=context, initializer=_keep, initargs=(barrier,)) as pool:
        list(pool.map(_arrive, range(SIZE)))
        yield pool


def all_at_once(pool: ProcessPoolExecutor, work: Callable[..., Any], *words: Any) -> Sequence[Any]:
    """Run ``work(number, *words)`` in every process, begun together; return the results."""
    return list(pool.map(_together, [(work, number, words) for number in range(SIZE)]))


_barrier: Any = None


def _keep(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _arrive(_number: int) -> None:
    _barrier.wait(60)


def _together(task: tuple[Callable[..., Any], int, tuple[Any, ...]]) -> Any:
    work, number, words = task
    _barrier.wait(60)
    return work(number, *words)
