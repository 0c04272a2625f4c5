"""Who computes: this process, several processes of this machine, or whatever else has an `imap`.

    class Executor(Protocol):
        def imap(self, function, tasks) -> Iterator[tuple[int, result or exception]]

`function` stands in a module, and tasks are plain values, so that both can be sent. Results come as they are ready,
each with its task's position; a task that fails gives its exception, and the others go on. For clusters see
`bridges.dask_executor`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

Outcome = tuple[int, Any]  # a task's position, and its result or its exception


class ProcessDied(RuntimeError):
    """A task's process ended without an answer, again and again."""


class Executor(Protocol):
    def imap(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Outcome]:
        """`function` of each task, in the order in which they are done."""


class SerialExecutor:
    """One task after the other, in this process."""

    n_processes = 1

    def imap(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Outcome]:
        for position, task in enumerate(tasks):
            try:
                result = function(task)
            except Exception as error:  # noqa: BLE001 - handed on with its task
                result = error
            yield position, result


class ProcessExecutor:
    """Several processes of this machine, each with a Python of its own.

    Nothing listens on a port. A process that is killed costs its task a new try; a task whose process dies whenever it
    is tried gives a `ProcessDied`. If this process is killed, the others end by themselves.

    Parameters
    ----------
    n_processes
        How many.
    retries
        How often a task is tried again whose process died.
    """

    def __init__(self, n_processes: int, retries: int = 2):
        if n_processes < 1:
            raise ValueError(f"n_processes={n_processes} processes cannot compute anything; give 1 or more.")
        self.n_processes, self.retries = n_processes, retries

    def imap(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Outcome]:
        waiting, running = iter(enumerate(tasks)), {}
        while True:
            try:
                with self._pool(self.n_processes) as pool:
                    yield from self._drained(pool, function, waiting, running)
                return
            except BrokenProcessPool:  # it does not say whose process died: those under way are tried alone
                suspects = [running.pop(future) for future in list(running)]
                yield from self._one_by_one(function, suspects)

    @staticmethod
    def _pool(n_processes: int) -> ProcessPoolExecutor:
        # spawned: a fork would copy torch's threads in whatever state they are
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(n_processes, mp_context=context, initializer=end_with_parent)

    def _drained(
        self, pool: ProcessPoolExecutor, function: Callable, waiting: Iterator, running: dict[Future, tuple[int, Any]]
    ) -> Iterator[Outcome]:
        while True:
            for position, task in itertools.islice(waiting, self.n_processes + 1 - len(running)):
                try:
                    running[pool.submit(function, task)] = position, task
                except BrokenProcessPool:
                    running[Future()] = position, task
                    raise
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise error
                position, _ = running.pop(future)
                yield position, future.result() if error is None else error

    def _one_by_one(self, function: Callable, suspects: list[tuple[int, Any]]) -> Iterator[Outcome]:
        pool = self._pool(1)
        try:
            for position, task in suspects:
                for _ in range(self.retries + 1):
                    future = pool.submit(function, task)
                    error = future.exception()
                    if not isinstance(error, BrokenProcessPool):
                        yield position, future.result() if error is None else error
                        break
                    pool.shutdown()
                    pool = self._pool(1)
                else:
                    yield (
                        position,
                        ProcessDied(
                            f"its process was killed {self.retries + 1} times, perhaps for want of memory. Use smaller "
                            "chunks or fewer processes"
                        ),
                    )
        finally:
            pool.shutdown()


def executor_of(given: Executor | int | None) -> Executor:
    """None is this process, a number that many processes of this machine.

    Raises
    ------
    TypeError
        If it is neither, and has no `imap`.
    """
    if given is None:
        return SerialExecutor()
    if isinstance(given, int) and not isinstance(given, bool):
        return ProcessExecutor(given)
    if hasattr(given, "imap"):
        return given
    mend = "Give None, a number of processes, or an object with an `imap`."
    if hasattr(given, "submit") and hasattr(given, "scheduler_info"):
        mend = "Wrap it: scarches_widgets.bridges.dask_executor.DaskExecutor(client)."
    raise TypeError(f"executor is a {type(given).__name__}, which cannot be given tasks. {mend}")


def end_with_parent() -> None:
    """Let this process end when the one that started it does, even by SIGKILL; else it would wait for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
