"""Where a run is computed."""

from __future__ import annotations

import logging

import torch

from ..nn.likelihoods import log_zero_inflated_negative_binomial
from ..nn.noise import Noise

logger = logging.getLogger(__name__)
TOLERANCE = 1e-3  # of a trial step's loss and gradient, relative


def device_of(name: str) -> torch.device:
    """The device that a user names.

    Parameters
    ----------
    name
        As torch has it ("cpu", "cuda", "cuda:1", "mps"), or "auto": CUDA where there is a device; else Apple's MPS,
        if a trial step there gives what the CPU gives; else the CPU.

    Raises
    ------
    ValueError
        If there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available() and agrees_with_cpu("mps"):
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device='{name}' cannot be used here ({error}). Use 'auto' or 'cpu'.") from error
    return device


def agrees_with_cpu(device: str) -> bool:
    """Whether one step of a small network, with our likelihood and its gradient, is right on `device`.

    Some releases of torch lack an operation on MPS, or compute it wrongly; which ones, only a trial tells.
    """
    try:
        there, here = (_trial_step(where) for where in (device, "cpu"))
        Noise(0, "training", 0, 0, device=device).normal_like(torch.empty(2, 2, device=device))
    except (RuntimeError, TypeError) as error:  # NotImplementedError is a RuntimeError
        logger.info("%s is left aside: %s", device, error)
        return False
    close = all(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in zip(there, here))
    if not close:
        logger.warning("%s is left aside: a trial step there differs from the CPU's.", device)
    return close


def _trial_step(device: str) -> list[torch.Tensor]:
    """Loss and gradients, on the CPU."""
    grid = torch.linspace(-2, 2, 12)
    parameters = [(grid * scale).reshape(3, 4).to(device).requires_grad_() for scale in (1.0, 0.5, -1.0)]
    counts = torch.arange(12.0).reshape(3, 4).to(device)
    mean, dispersion, logits = parameters
    mean = 10 * torch.softmax(torch.nn.functional.layer_norm(mean, (4,)) + mean, dim=-1)
    loss = -log_zero_inflated_negative_binomial(counts, mean, dispersion.exp(), logits).sum()
    loss.backward()
    return [loss.detach().cpu(), *(parameter.grad.cpu() for parameter in parameters)]
