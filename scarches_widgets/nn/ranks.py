"""One training in several processes, with the result of one: what the processes (torch's ranks) tell each other.

Each rank computes on its share of a step's cells. A loss term on a rank is its *share* of the term: their sum over all
ranks is the term, and the sum of their gradients its gradient.

    mean over cells                   Σ over own cells / number of all cells
    what couples cells (MMD, HSIC)    of all cells, which each rank gathers; each has 1 / ranks of it
    batch normalisation               by mean and variance of all cells

`Ranks.sum` passes gradients: what comes back is the sum over ranks too, which makes all three exact. Steps of fewer
cells than ranks are computed whole by every rank; each then has 1 / ranks of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class SharedCells(Protocol):
    """A `data.minibatches.Minibatch`."""

    share: Any  # which of the step's cells these are; None: all


class RankLost(RuntimeError):
    """Another process of this training has ended or does not answer."""


class Ranks:
    """The processes of one training, of which this is number `rank` of `size`."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes, prints and shows."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on each of them; gradients flow through."""
        return _Sum.apply(values, self)

    def sum_(self, values: Tensor) -> Tensor:
        """The same in place, without gradients."""
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            raise RankLost(self._loss_of_another(str(error))) from error
        return values

    def _loss_of_another(self, reported: str) -> str:
        """What is to be said where the connection to another process broke, as gloo or nccl `reported`."""
        who = f"process {1 - self.rank}" if self.size == 2 else f"a process other than {self.rank}"
        if re.search("timed? ?out", reported, re.IGNORECASE):
            what, look = "has not answered for too long", "See whether it hangs, or the network between them is down"
        elif re.search("closed|reset|refused|broken pipe", reported, re.IGNORECASE):
            what, look = "has ended", "Its own output says why; without a word, it was killed, often for lack of memory"
        else:
            what, look = "cannot be reached", "Its own output may say why"
        return (
            f"Of the {self.size} processes of this training, numbered from 0, {who} {what}, so process {self.rank} "
            f"cannot go on. {look}. Then start all of them again; with a checkpoint_dir and resume=True, they go on "
            "from what was saved last."
        )

    def largest(self, number: int) -> int:
        """The largest of all ranks' numbers, each 0 or more."""
        numbers = torch.zeros(self.size, dtype=torch.int64)
        numbers[self.rank] = number
        return int(self.sum_(numbers).max())

    def texts(self, text: str) -> list[str]:
        """What each rank says, in the order of their numbers; no text ends in a zero byte."""
        data = text.encode()
        longest = self.largest(len(data))
        said = torch.zeros(self.size, longest, dtype=torch.uint8)
        said[self.rank, : len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        return [bytes(row.tolist()).rstrip(b"\0").decode() for row in self.sum_(said)]

    def of_all(self, values: Tensor, cells: SharedCells) -> Tensor:
        """`values` of all cells of the step, from each rank's of its own, (cells, …)."""
        whole = values.new_zeros(cells.share.n_cells, *values.shape[1:])
        whole[cells.share.start : cells.share.start + len(values)] = values
        return self.sum(whole) if values.is_floating_point() else self.sum_(whole)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum_(values.clone())

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum_(upstream.contiguous().clone()), None


_step: ContextVar[Ranks | None] = ContextVar("ranks of the step under way", default=None)


@contextlib.contextmanager
def step_of(ranks: Ranks | None, cells: SharedCells) -> Iterator[None]:
    """While it lasts, layers that look at several cells look at those of all `ranks`."""
    token = _step.set(None if cells.share is None or cells.share.is_whole else ranks)
    try:
        yield
    finally:
        _step.reset(token)


def in_step() -> Ranks | None:
    """The ranks among which the cells of the step under way are divided; None if they are not."""
    return _step.get()


def mean_of(values: Tensor, cells: SharedCells) -> Tensor:
    """The mean of `values`, (cells,), over a step's cells; in several ranks, this one's share of it."""
    share = cells.share
    if share is None:
        return values.mean()
    return values.mean() / share.n_ranks if share.is_whole else values.sum() / share.n_cells


def together(function: Callable[..., Tensor], cells: SharedCells, *values: Tensor) -> Tensor:
    """A term that couples cells: `function` of `values`, each (cells, …); in several ranks, this one's share of it."""
    ranks = _step.get()
    if cells.share is None:
        return function(*values)
    gathered = values if ranks is None else [ranks.of_all(one, cells) for one in values]
    return function(*gathered) / cells.share.n_ranks
