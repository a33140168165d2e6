"""The same work for every structure of a cohort, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

Found = TypeVar("Found")


class Each(Protocol):
    """Does some work for every structure."""

    def __call__(
        self, work: Callable[[int], list[Found]], structures: Sequence[str], /
    ) -> list[Found]:
        """All that `work` finds, given the place of each structure, in their order."""


def each(threads: int) -> Each:
    """`one_by_one`, or in as many processes.

    Processes are forked: they share the cohort in memory, and `work` may be any function. What it
    returns is pickled.
    """
    return one_by_one if threads == 1 else partial(_side_by_side, threads)


def one_by_one(work: Callable[[int], list[Found]], structures: Sequence[str], /) -> list[Found]:
    """In this process."""
    return list(chain.from_iterable(map(work, range(len(structures)))))


def _side_by_side(
    threads: int, work: Callable[[int], list[Found]], structures: Sequence[str], /
) -> list[Found]:
    fork = get_context("fork")
    with ProcessPoolExecutor(threads, fork, initializer=_remember, initargs=(work,)) as pool:
        return list(chain.from_iterable(pool.map(_worked, range(len(structures)))))


_work: Callable[[int], list[Any]]
"""In a process that was forked: what it works at."""


def _remember(work: Callable[[int], list[Any]]) -> None:
    global _work
    _work = work


def _worked(index: int) -> list[Any]:
    return _work(index)
