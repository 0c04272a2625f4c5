"""Loops over numbers that are compiled for the processor at hand, and exponentials and logarithms for them.

A loop over float32 that calls the C library's `expf` or `log1pf` takes one number after the other. These here are
polynomials, of which a compiler makes vector instructions; they are right to two units in the last place.

Coefficients: Cephes' expf and logf (S. Moshier 1992, netlib.org/cephes).
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

ANY_ORDER = {
    "contract",
    "reassoc",
    "nsz",
    "arcp",
}  # how a loop may be sped up: sums in any order; NaN and infinity stay what they are
LEAST = np.float32(-87.0)  # exp of less has no full float32 any more
LOG2_E = np.float32(1.44269504088896341)
LN_2 = np.float32(0.693359375), np.float32(-2.12194440e-4)  # the second is what the first lacks
EXP = tuple(map(np.float32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)))
LOG = tuple(
    map(
        np.float32,
        (
            *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
            *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
        ),
    )
)
ROOT_HALF = 0x3F3504F3  # the bits of √½
MANTISSA = 0x007FFFFF
INT, FLOAT = ir.IntType(32), ir.FloatType()


def compiled(**options) -> Callable:
    """A decorator as `numba.njit`: dividing by zero gives infinity, other threads may run beside, and what has been
    compiled is kept for the next process wherever a folder can be written."""

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(error_model="numpy", nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder for it
            return numba.njit(error_model="numpy", nogil=True, **options)(function)

    return decorate


@intrinsic
def _floor(context, x):
    def write(context, builder, signature, arguments):
        return builder.call(builder.module.declare_intrinsic("llvm.floor", [FLOAT]), arguments)

    return types.float32(types.float32), write


@intrinsic
def _two_to(context, whole):
    """2 to the power of a whole number between −126 and 127."""

    def write(context, builder, signature, arguments):
        exponent = builder.add(builder.fptosi(arguments[0], INT), INT(127))
        return builder.bitcast(builder.shl(exponent, INT(23)), FLOAT)

    return types.float32(types.float32), write


@intrinsic
def _exponent(context, x):
    """The e of x = m · 2ᵉ with √½ ≤ m < √2."""

    def write(context, builder, signature, arguments):
        bits = builder.sub(builder.bitcast(arguments[0], INT), INT(ROOT_HALF))
        return builder.sitofp(builder.ashr(bits, INT(23)), FLOAT)

    return types.float32(types.float32), write


@intrinsic
def _mantissa(context, x):
    """The m of it."""

    def write(context, builder, signature, arguments):
        bits = builder.sub(builder.bitcast(arguments[0], INT), INT(ROOT_HALF))
        return builder.bitcast(builder.add(builder.and_(bits, INT(MANTISSA)), INT(ROOT_HALF)), FLOAT)

    return types.float32(types.float32), write


@compiled(fastmath={"contract"})
def exp_of_negative(x):
    """exp(x) of a float32 x ≤ 0; of x < −87, exp(−87). NaN stays NaN."""
    x = LEAST if x < LEAST else x
    n = _floor(x * LOG2_E + np.float32(0.5))
    r = x - n * LN_2[0] - n * LN_2[1]
    p = ((((EXP[0] * r + EXP[1]) * r + EXP[2]) * r + EXP[3]) * r + EXP[4]) * r + EXP[5]
    return (p * r * r + r + np.float32(1)) * _two_to(n)


@compiled(fastmath={"contract"})
def log(x):
    """log(x) of a positive, finite, normal float32."""
    n, m = _exponent(x), _mantissa(x) - np.float32(1)
    square = m * m
    p = (((LOG[0] * m + LOG[1]) * m + LOG[2]) * m + LOG[3]) * m + LOG[4]
    p = ((((p * m + LOG[5]) * m + LOG[6]) * m + LOG[7]) * m + LOG[8]) * m * square
    return p + n * LN_2[1] - np.float32(0.5) * square + m + n * LN_2[0]


@compiled(fastmath={"contract"})
def log_1_plus(x):
    """log(1 + x) of a finite float32 x ≥ 0. NaN stays NaN."""
    y = np.float32(1) + x
    return log(y) + (x - (y - np.float32(1))) / y  # what rounding 1 + x has lost


def log_1_plus_each(values: Tensor) -> Tensor:
    """log(1 + x) of finite float32 values ≥ 0 on a CPU, three times as fast as torch's."""
    values = values.contiguous()
    found = torch.empty_like(values)
    _log_1_plus_each(values.view(-1).numpy(), found.view(-1).numpy())
    return found


@compiled()
def _log_1_plus_each(values, found):
    for i in range(len(values)):
        found[i] = log_1_plus(values[i])
