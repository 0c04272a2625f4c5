"""Checks of the values in X or a layer, by what one pass over all of them has counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .counts import looks_like
from .findings import Finding, counted, error, note, some, warning
from .names import listed, shown
from .scan import Place, Scan, Tally

if TYPE_CHECKING:
    from .validate import Request

EXACT_IN_FLOAT16 = 2**11  # above, neighbouring whole numbers become one


def check_finite(asked: Request, scan: Scan) -> Iterator[Finding]:
    if scan.nan.count:
        yield error("nan-values", asked.where, **_which(asked, scan.nan))(
            f"{asked.where} has {scan.nan.count:,} NaN (the first at {_place(asked, scan.nan.first[0])}).",
            "A single one makes the loss of its whole minibatch NaN.",
            "Find the step that made it, often a division by a total of zero, or remove the cell or gene.",
        )
    if scan.infinite.count:
        first = scan.infinite.first[0]
        yield error("infinite-values", asked.where, **_which(asked, scan.infinite))(
            f"{asked.where} has {counted(scan.infinite.count, 'infinite value')} "
            f"(the first, {first.value}, at {_place(asked, first)}).",
            "A single one makes the loss of its whole minibatch NaN.",
            "Find the step that made it, often a logarithm of zero or a division by it, or remove the cell or gene.",
        )


def check_negative(asked: Request, scan: Scan) -> Iterator[Finding]:
    negative, dtype = scan.negative, scan.matrix.stored.dtype
    if not negative.count:
        return
    what = f"{asked.where} has {counted(negative.count, 'negative value')} (lowest {_at(asked, negative.worst)})."
    if dtype.kind == "i" and negative.worst.value <= -(2**30):
        why = f"Values near -2^31 in {dtype}: overflow upstream? A sum grew larger than its type holds."
        mend = "Repeat the step that made them with a larger type, such as float64."
        yield error("overflowed-values", asked.where, **_which(asked, negative))(what, why, mend)
    elif asked.expects == "counts":
        looks = " This looks scaled (each gene centred on zero)." if scan.fractional.count else ""
        why = f"Counts are never negative.{looks}"
        yield error("negative-values", asked.where, **_which(asked, negative))(what, why, _mend_counts(asked))
    elif asked.expects == "normalized":
        why = "The model's decoder gives no value below zero, so it could not fit these; they look scaled."
        mend = "Use log-normalised values before sc.pp.scale: pass the layer that holds them as layer=."
        yield error("negative-values", asked.where, **_which(asked, negative))(what, why, mend)


def check_fractional(asked: Request, scan: Scan) -> Iterator[Finding]:
    fractional, nearly_whole = scan.fractional, scan.nearly_whole
    if fractional.count:
        percent = 100 * fractional.count / scan.n_nonzero
        yield error("fractional-values", asked.where, **_which(asked, fractional))(
            f"{asked.where} has {counted(fractional.count, 'value')} with a fraction, {percent:.3g} % of the "
            f"nonzero ones ({_at(asked, fractional.first[0])}).",
            f"The model's likelihood is one of raw counts; this looks {looks_like(scan)}.",
            _mend_counts(asked),
        )
    elif nearly_whole.count:
        first = nearly_whole.first[0]
        yield warning("nearly-whole-values", asked.where, **_which(asked, nearly_whole))(
            f"{asked.where} has {counted(nearly_whole.count, 'value')} a hair beside a whole number "
            f"({first.value!r} at {_place(asked, first)}).",
            "This is float noise, at most 1e-6, as left by a normalisation undone; the values will be rounded.",
        )


def check_normalized(asked: Request, scan: Scan) -> Iterator[Finding]:
    if asked.expects == "normalized" and scan.all_whole and scan.n_nonzero:
        yield warning("counts-not-normalized", asked.where)(
            f"{asked.where} holds whole numbers only (highest {scan.highest:,.0f}), which look like raw counts.",
            "The model's squared error is for log-normalised values; with counts, a few genes outweigh all others.",
            "Normalise them (sc.pp.normalize_total, sc.pp.log1p), or choose a likelihood of counts, such as 'nb'.",
        )


def _mend_counts(asked: Request) -> str:
    return asked.counts_elsewhere or (
        "Neither X, nor raw, nor a layer holds counts: go back to before normalising, keep them with "
        "adata.layers['counts'] = adata.X.copy() and pass layer='counts'."
    )


def check_large(asked: Request, scan: Scan) -> Iterator[Finding]:
    inexact, huge = scan.inexact, scan.huge
    if inexact.count:
        yield error("inexact-counts", asked.where, **_which(asked, inexact))(
            f"{asked.where} has {counted(inexact.count, 'count')} above 2^24 = 16,777,216 "
            f"(highest {_at(asked, inexact.worst)}).",
            "Models compute in float32, where such neighbours as 16,777,216 and 16,777,217 are the same number.",
            "No cell holds so many molecules of a gene: look at how this value came about, or remove the gene.",
        )
    elif huge.count:
        yield warning("huge-counts", asked.where, **_which(asked, huge))(
            f"{asked.where} has {counted(huge.count, 'count')} above a million (highest {_at(asked, huge.worst)}).",
            "A few such values outweigh all others in the loss.",
            "Check that these are counts per cell, not sums over cells or intensities.",
        )


def check_type(asked: Request, scan: Scan) -> Iterator[Finding]:
    dtype, counts = scan.matrix.stored.dtype, asked.expects == "counts"
    if counts and dtype == np.float16 and scan.highest > EXACT_IN_FLOAT16:
        yield warning("half-precision", asked.where)(
            f"{asked.where} is float16 and holds counts up to {scan.highest:,.0f}.",
            "Above 2,048 float16 skips whole numbers, so that some counts were rounded before they came here.",
            "If you have them in a wider type, use those.",
        )
    if dtype.kind == "b":
        what = f"{asked.where} is boolean: only whether a gene was seen (binarised)."
        if counts:
            why = "The model's likelihood is one of counts."
            yield error("boolean-values", asked.where)(what, why, _mend_counts(asked))
        else:
            yield warning("boolean-values", asked.where)(what, "It will be read as 0 and 1.")


def check_zeros(asked: Request, scan: Scan) -> Iterator[Finding]:
    """All values, or all of a cell or a gene."""
    n_cells, n_genes = asked.adata.shape
    if not scan.n_nonzero:
        yield error("all-zero", asked.where, count=n_cells * n_genes)(
            f"All {n_cells:,} × {n_genes:,} values of {asked.where} are zero.",
            "There is nothing to learn from.",
            asked.counts_elsewhere or "Look at the step that made it.",
        )
        return
    cells, genes = asked.adata.obs_names[~scan.cells_seen], asked.adata.var_names[~scan.genes_seen]
    zeros = f"{asked.where} holds nothing but zeros for"
    if len(cells):
        yield warning("empty-cells", asked.where, **some(cells))(
            f"{zeros} {len(cells):,} of {counted(n_cells, 'cell')} ({listed(cells)}).",
            "Their place in the embedding says nothing about them.",
            "Remove them: sc.pp.filter_cells(adata, min_counts=1).",
        )
    if len(genes) and asked.for_training:
        yield warning("empty-genes", asked.where, **some(genes))(
            f"{zeros} {len(genes):,} of {counted(n_genes, 'gene')} ({listed(genes)}).",
            "They teach the model nothing.",
            "Remove them: sc.pp.filter_genes(adata, min_cells=1).",
        )


def check_storage(asked: Request, scan: Scan) -> Iterator[Finding]:
    zeros, duplicates = scan.n_explicit_zeros, scan.n_duplicates
    untidy = [
        counted(zeros, "explicit zero") if zeros else "",
        counted(duplicates, "duplicate entry", "duplicate entries") if duplicates else "",
        "entries out of order" if scan.unsorted else "",
    ]
    if any(untidy):
        yield note("untidy-sparse", asked.where, count=zeros + duplicates or 1)(
            f"{asked.where} stores {' and '.join(filter(None, untidy))}.",
            "The values are the same; this is mended on a copy, and your matrix stays as it is.",
        )
    if asked.for_training and scan.matrix.kind == "sparse file" and scan.matrix.by_gene:
        yield error("stored-by-gene", asked.where)(
            f"{asked.where} stands in its file gene by gene (CSC).",
            "Training reads a few cells at a time, and each time would go through the whole file.",
            "Load it with adata.to_memory(), or write the file anew with X in CSR.",
        )


def _which(asked: Request, tally: Tally) -> dict[str, Any]:
    """`count` and `examples` of a finding."""
    return {"count": tally.count, "examples": tuple(_place(asked, place) for place in tally.first)}


def _at(asked: Request, place: Place) -> str:
    return f"{place.value:.6g} at {_place(asked, place)}"


def _place(asked: Request, place: Place) -> str:
    return f"cell '{shown(asked.adata.obs_names[place.cell])}', gene '{shown(asked.adata.var_names[place.gene])}'"


VALUE_CHECKS: tuple[Callable[[Request, Scan], Iterator[Finding]], ...] = (
    check_finite,
    check_negative,
    check_fractional,
    check_normalized,
    check_large,
    check_type,
    check_zeros,
    check_storage,
)
