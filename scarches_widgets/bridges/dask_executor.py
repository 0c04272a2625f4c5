"""Tasks on a `dask.distributed` client, which the user has: of this machine, a batch system or a cloud.

Results go to files that all workers can write, and only small reports come back. A worker that dies costs its tasks a
new try, which is dask's own doing. `local_client` gives a client of this machine that nobody else can reach.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

AHEAD = 4  # tasks per thread of a worker that are handed out at a time


class DaskExecutor:
    """For `executor` of `sca.mapping.map_query`.

    Parameters
    ----------
    client
        A `dask.distributed.Client`. Its workers have this package, and see the files by the same paths.
    retries
        How often dask tries a task again that failed.

    Examples
    --------
    >>> from distributed import Client
    >>> sca.mapping.map_query("cells.h5ad", "model", "mapped", executor=DaskExecutor(Client("tcp://10.0.0.5:8786")))
    """

    def __init__(self, client: Client, retries: int = 2):
        self.client, self.retries = client, retries

    def imap(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """`function` of each task, or its exception, in the order in which they are done."""
        from distributed import as_completed

        threads = sum(worker["nthreads"] for worker in self.client.scheduler_info(n_workers=-1)["workers"].values())
        waiting, position_of = iter(enumerate(tasks)), {}

        def submit() -> Any:
            position, task = next(waiting)
            future = self.client.submit(function, task, pure=False, retries=self.retries)
            position_of[future.key] = position
            return future

        n_first = min(len(tasks), AHEAD * max(1, threads))
        running = as_completed([submit() for _ in itertools.repeat(None, n_first)])
        try:
            for future in running:
                error = future.exception()
                yield position_of.pop(future.key), future.result() if error is None else error
                with contextlib.suppress(StopIteration):
                    running.add(submit())
        finally:
            running.clear()


@contextlib.contextmanager
def local_client(n_workers: int, memory_limit: str = "auto") -> Iterator[Client]:
    """A client of `n_workers` processes of this machine, one thread each; they listen on the loopback address alone,
    and there is no dashboard."""
    from distributed import Client, LocalCluster

    quiet = {"host": "127.0.0.1", "dashboard_address": None, "worker_dashboard_address": None}
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, memory_limit=memory_limit, **quiet) as cluster,
        Client(cluster) as client,
    ):
        yield client
