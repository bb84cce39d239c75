"""Threads that many share, of which nobody has more than their own share."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Task = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Lanes:
    """Runs what is submitted on `threads` threads: at most `share(key)` of each key at a time.

    What is beyond that waits in its key's lane, holds up no other, and may be cancelled.
    """

    def __init__(self, threads: int, share: Callable[[Hashable], int]) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="webhooks")
        self._share = share
        self._lock = threading.Lock()
        self._is_closed = False
        self._unbegun = 0
        """Tasks that have their share, but no thread yet."""
        self._running: Counter[Hashable] = Counter()
        self._lanes: dict[Hashable, deque[Task]] = {}

    def submit(self, key: Hashable, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        with self._lock:
            self._lanes.setdefault(key, deque()).append((future, function, args))
            self._start(key)
        return future

    def close(self) -> None:
        """Begin nothing more, and wait for nobody."""
        with self._lock:
            self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, key: Hashable) -> None:
        lane = self._lanes[key]
        while lane and not self._is_closed and self._running[key] < self._share(key):
            self._pool.submit(self._run, key, lane.popleft())
            self._running[key] += 1
            self._unbegun += 1
        if not lane and not self._running[key]:
            del self._lanes[key], self._running[key]

    def _run(self, key: Hashable, first: Task) -> None:
        task: Task | None = first
        with self._lock:
            self._unbegun -= 1
        while task:
            _work(*task)
            with self._lock:
                task = self._next(key)

    def _next(self, key: Hashable) -> Task | None:
        """For the thread that has just worked for that key; if nothing, it is free for others."""
        lane = self._lanes[key]
        if lane and not (self._unbegun or self._is_closed or self._running[key] > self._share(key)):
            return lane.popleft()
        self._running[key] -= 1
        self._start(key)
        return None


def _work(future: "Future[Any]", function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            result = function(*args)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
