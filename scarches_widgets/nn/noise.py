"""Random draws that depend on a seed and a place in the run, and on nothing else.

The noise of a training step is a pure function of (seed, stream, epoch, step). A run that is resumed in the middle
therefore draws the same numbers without their state having been saved, two runs in one process cannot disturb each
other, and torch's global generator is neither read nor moved.
"""

from __future__ import annotations

import numbers

import numpy as np
import torch
from torch import Tensor

STREAMS = {"weights": 0, "training": 1, "validation": 2, "inference": 3, "order": 4, "split": 5, "labels": 6}


def seed_of(seed: int, stream: str, *place: int) -> int:
    """A 64-bit seed for one place of one stream; neighbouring places give unrelated seeds."""
    if not isinstance(seed, numbers.Integral) or seed < 0:
        raise ValueError(f"seed={seed!r} must be a whole number, zero or more.")
    return int(np.random.SeedSequence([seed, STREAMS[stream], *place]).generate_state(1, np.uint64)[0])


def generator_of(seed: int, stream: str, *place: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator that starts at `seed_of(seed, stream, *place)`."""
    return torch.Generator(device=device).manual_seed(seed_of(seed, stream, *place))


class Noise:
    """What one step may draw: standard normals for latent samples, and keep-or-drop masks for dropout."""

    def __init__(self, seed: int, stream: str, *place: int, device: torch.device | str = "cpu"):
        self.generator = generator_of(seed, stream, *place, device=device)
        self._bits = np.random.Generator(np.random.SFC64(self.generator.initial_seed()))

    def normal_like(self, values: Tensor) -> Tensor:
        """Standard normal draws of the shape, type and device of `values`."""
        return torch.empty_like(values).normal_(generator=self.generator)

    def kept_like(self, values: Tensor, probability: float, n_bits: int = 16) -> Tensor:
        """Zeros and ones of the shape of `values`; each is one with `probability`, which `n_bits`, 8 or 16, decide."""
        if values.device.type != "cpu":
            return torch.empty_like(values).bernoulli_(probability, generator=self.generator)
        # 16 bits for each decide as well as torch's 24, and come ten times faster
        n_words = -(-values.numel() * n_bits // 64)
        words = self._bits.integers(2**64 - 1, size=n_words, dtype=np.uint64, endpoint=True)
        kept = words.view(f"u{n_bits // 8}")[: values.numel()] < round(probability * 2**n_bits)
        return torch.from_numpy(kept.astype(np.float32)).view(values.shape).to(values.dtype)

    def part(self, start: int, n: int, n_all: int) -> PartOfNoise:
        """For cells `start` to `start + n` of `n_all`: what these would get if all were drawn for together."""
        return PartOfNoise(self, start, n, n_all)


class PartOfNoise:
    """Draws for all cells of a step, of which it hands out those of some."""

    def __init__(self, noise: Noise, start: int, n: int, n_all: int):
        self.noise = noise
        self._start, self._n, self._n_all = start, n, n_all

    def normal_like(self, values: Tensor) -> Tensor:
        return self._own(self.noise.normal_like(self._for_all(values)))

    def kept_like(self, values: Tensor, probability: float, n_bits: int = 16) -> Tensor:
        return self._own(self.noise.kept_like(self._for_all(values), probability, n_bits))

    def part(self, start: int, n: int, n_all: int) -> PartOfNoise:
        """For other cells of the same step."""
        return PartOfNoise(self.noise, start, n, n_all)

    def _for_all(self, values: Tensor) -> Tensor:
        n_rounds = len(values) // self._n  # where each cell comes several times, all come once before any comes again
        return values.new_empty(n_rounds * self._n_all, *values.shape[1:])

    def _own(self, drawn: Tensor) -> Tensor:
        rounds = drawn.view(-1, self._n_all, *drawn.shape[1:])
        return rounds[:, self._start : self._start + self._n].reshape(-1, *drawn.shape[1:])
