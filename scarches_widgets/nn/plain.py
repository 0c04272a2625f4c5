"""Where compiled loops may stand in for torch. Kept apart from them: importing a compiler takes a moment."""

from __future__ import annotations

import torch
from torch import Tensor


def are_plain(*tensors: Tensor | None) -> bool:
    """Whether all, but for None, are float32 on a CPU, as compiled loops take them."""
    return all(one is None or (one.device.type == "cpu" and one.dtype == torch.float32) for one in tensors)
