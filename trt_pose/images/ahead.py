"""Work that threads do ahead of whoever takes the results, in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ..limits import usable_cores

T = TypeVar("T")
R = TypeVar("R")
_MOST_THREADS = 8
_END: Any = object()


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], depth: int, threads: int = _MOST_THREADS
) -> Generator[R, None, None]:
    """Yields ``function`` of each item, in order; threads work on the next ones meanwhile.

    What ``function`` raises is raised in the place of its result. When the caller stops, what has not begun is dropped.

    Args:
        function: called in several threads.
        items: taken in the thread of the caller, ``depth`` ahead of what it gets.
        depth: largest number of results that wait for the caller.
        threads: largest number of threads; there are no more than cores that the process may use.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(min(threads, depth, usable_cores()), "trt_pose_ahead")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Yields the items of an iterator, which one thread takes ahead; closes it at the end."""
    taken = map_ahead(lambda _: next(items, _END), itertools.repeat(None), depth, threads=1)
    try:
        for item in taken:
            if item is _END:
                return
            yield item
    finally:
        taken.close()
        if isinstance(items, Generator):
            items.close()
