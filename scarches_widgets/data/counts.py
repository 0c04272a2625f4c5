"""Where an AnnData holds counts, and a guess at what was done to those that are none any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .matrix import Matrix, Unreadable, layer_names, matrix_of, raw_matrix_of, where_is
from .names import shown
from .scan import Scan

if TYPE_CHECKING:
    from anndata import AnnData

CELLS_TO_GUESS_FROM = 128


def find_counts(adata: AnnData, besides: str | None) -> str:
    """How to read counts from somewhere else than `besides`; empty if there are none. Every value is looked at."""
    for layer in sorted(layer_names(adata), key=lambda name: "count" not in str(name).lower()):
        if layer != besides and _holds_counts(matrix_of(adata, layer)):
            return f"{where_is(layer)} holds counts: pass layer='{shown(layer)}'."
    if besides is not None and _holds_counts(matrix_of(adata, None)):
        return "X holds counts: leave `layer` out."
    if adata.raw is not None and _holds_counts(raw_matrix_of(adata)):
        return "adata.raw holds counts: pass adata.raw.to_adata()."
    return ""


def _holds_counts(matrix: Matrix) -> bool:
    """Whether every value is a whole number ≥ 0, and one at least is not zero."""
    highest = 0.0
    try:
        for values in (block.values for block in matrix.blocks() if block.values.size):
            highest = max(highest, float(values.max()))
            if not (values.min() >= 0 and np.isfinite(highest) and (values == np.rint(values)).all()):
                return False
    except Unreadable:
        return False
    return highest > 0 and matrix.stored.dtype.kind != "b"


def looks_like(scan: Scan) -> str:
    """What was probably done to counts that have fractions now."""
    if scan.negative.count:
        return "scaled (each gene centred on zero)"
    if scan.fractional.count < 0.5 * scan.n_nonzero:
        return "like counts that were estimated or corrected (RSEM, SoupX); if so, round them"
    sums, sums_of_expm1 = _sums_of_first_cells(scan.matrix)
    if _is_constant(sums_of_expm1):
        return f"log-normalised: log1p, row sums of expm1 constant near {sums_of_expm1.mean():,.0f}"
    if _is_constant(sums):
        return f"normalised, not log: row sums constant near {sums.mean():,.0f}"
    if scan.highest < 20:
        return f"log-transformed: no value above {scan.highest:.3g}"
    return "normalised, not log"


def _sums_of_first_cells(matrix: Matrix) -> np.ndarray:
    """Sums of x and of expm1(x) over the genes, (2, cells), for the first cells that have any counts."""
    sums = np.zeros((2, CELLS_TO_GUESS_FROM))
    for block in matrix.first_cells(CELLS_TO_GUESS_FROM).blocks():
        cells = np.broadcast_to(block.cells, block.values.shape).ravel()
        values = block.values.ravel().astype(np.float64)
        with np.errstate(over="ignore"):  # expm1 of counts
            sums += [np.bincount(cells, addends, CELLS_TO_GUESS_FROM) for addends in (values, np.expm1(values))]
    return sums[:, sums[0] > 0]


def _is_constant(sums: np.ndarray) -> bool:
    return len(sums) > 1 and bool(np.isfinite(sums).all()) and sums.std() < 0.01 * sums.mean()
