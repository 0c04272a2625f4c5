"""Matching a query's genes to a reference's, by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .findings import counted
from .names import DataError, did_you_mean, listed, shown

WORTH_A_WARNING = 0.9  # share of the reference's genes below which a mapping is announced with a warning
ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}(\.\d+)?$")
RULES: dict[str, tuple[str, Callable[[str], str]]] = {
    "strip_version": ("removing version suffixes", lambda name: re.sub(r"\.\d+$", "", name)),
    "ignore_case": ("ignoring upper and lower case", str.casefold),
}


@dataclass(frozen=True)
class GeneReport:
    """How the genes of a query compare to those of a reference.

    Attributes
    ----------
    n_reference, n_query, n_shared
        Numbers of genes.
    missing
        Genes of the reference that the query lacks, in the reference's order; they are filled with zeros.
    extra
        Genes of the query that the reference lacks; they are not used.
    reordered
        Whether the shared genes stand in another order.
    hint
        What would match more genes, as a sentence; None if nothing would.
    noun
        What one of them is called: "gene", or "feature" where modalities are measured.
    """

    n_reference: int
    n_query: int
    n_shared: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    reordered: bool
    hint: str | None = None
    noun: str = "gene"

    @property
    def overlap(self) -> float:
        """Share of the reference's genes that the query has, 0 to 1."""
        return self.n_shared / self.n_reference

    def __str__(self) -> str:
        reference = f"the reference's {counted(self.n_reference, self.noun)}"
        parts = [f"{self.n_shared:,} of {reference} found ({self.overlap:.1%})"]
        if self.missing:
            parts.append(f"{len(self.missing):,} missing, filled with zeros ({listed(self.missing)})")
        if self.extra:
            parts.append(f"{len(self.extra):,} extra, not used ({listed(self.extra)})")
        if self.reordered:
            parts.append("put into the reference's order")
        return "; ".join(parts) + "." + (f" {self.hint}" if self.hint else "")


def align_genes(
    reference: Sequence[str],
    var: pd.DataFrame,
    gene_map: str | Mapping[str, str] | None = None,
    min_gene_overlap: float = 0.0,
    noun: str = "gene",
) -> tuple[np.ndarray | None, GeneReport]:
    """Where each gene of a query stands among a reference's genes.

    Parameters
    ----------
    reference
        Gene names of the reference, in its order.
    var
        The query's `var`; its index holds the gene names.
    gene_map
        How names are made comparable: a mapping from the query's names to the reference's, the name of a column of
        `var` that holds the reference's kind of names, `"strip_version"` (ENSG….15 → ENSG…) or `"ignore_case"`.
    min_gene_overlap
        Least share of the reference's genes that must be found, 0 to 1.
    noun
        What one of them is called.

    Returns
    -------
    columns
        Position in the reference of each gene of the query, int64 (n_query,), −1 for extra genes; None if the query
        has exactly the reference's genes in the reference's order.
    report

    Raises
    ------
    DataError
        If too few genes are found, or if two genes of the query answer to one of the reference.
    TypeError, ValueError
        If `gene_map` or `min_gene_overlap` is not what it can be.
    """
    if not 0 <= min_gene_overlap <= 1:
        raise ValueError(f"min_gene_overlap={min_gene_overlap:g} is no share: pass a number from 0 to 1.")
    names, rule = _comparable_names(var, gene_map)
    positions = _positions(reference, names, rule)
    found = positions[positions >= 0]
    _refuse_ambiguous(reference, var, positions, gene_map)
    present = np.zeros(len(reference), dtype=bool)
    present[found] = True
    report = GeneReport(
        n_reference=len(reference),
        n_query=len(names),
        n_shared=len(found),
        missing=tuple(np.asarray(reference, dtype=object)[~present]),
        extra=tuple(str(name) for name in var.index[positions < 0]),
        reordered=bool((np.diff(found) < 0).any()),
        hint=None if present.all() else _hint(reference, var, len(found)),
        noun=noun,
    )
    if report.n_shared == 0 or report.overlap < min_gene_overlap:
        raise DataError(_too_few(report, min_gene_overlap))
    identical = len(positions) == len(reference) and np.array_equal(positions, np.arange(len(reference)))
    return (None if identical else positions), report


def _comparable_names(var: pd.DataFrame, gene_map: str | Mapping[str, str] | None) -> tuple[list[str], str | None]:
    """The query's names as they are to be looked up, and the rule to apply to both sides."""
    names = [str(name) for name in var.index]
    if gene_map is None:
        return names, None
    if isinstance(gene_map, Mapping):
        return [str(gene_map.get(name, name)) for name in names], None
    if not isinstance(gene_map, str):
        raise TypeError(
            f"gene_map is a {type(gene_map).__name__}. Pass a dict from query to reference names, the name of a column "
            f"of the query's var, or one of {listed(RULES)}."
        )
    if gene_map in RULES:
        return names, gene_map
    if gene_map in var.columns:
        return [str(name) for name in var[gene_map]], None
    choices = [*RULES, *map(str, var.columns)]
    raise DataError(
        f"gene_map='{gene_map}' is neither a rule nor a column of the query's var."
        f"{did_you_mean(gene_map, choices)} There are: {listed(choices, 20)}. "
        "A dict from query to reference names works too."
    )


def _positions(reference: Sequence[str], names: Sequence[str], rule: str | None) -> np.ndarray:
    """Place of each name in the reference: of the same name, else of the only one that the rule makes the same."""
    place = {name: i for i, name in enumerate(reference)}
    if rule is None:
        return np.array([place.get(name, -1) for name in names], dtype=np.int64)
    simplify = RULES[rule][1]
    simple = [simplify(name) for name in reference]
    n_of = Counter(simple)
    place_of_simple = {name: i for i, name in enumerate(simple) if n_of[name] == 1}
    found = [place.get(name, place_of_simple.get(simplify(name), -1)) for name in names]
    return np.array(found, dtype=np.int64)


def _refuse_ambiguous(
    reference: Sequence[str], var: pd.DataFrame, positions: np.ndarray, gene_map: str | Mapping[str, str] | None
) -> None:
    found = positions[positions >= 0]
    if len(found) == len(np.unique(found)):
        return
    twice = np.flatnonzero(np.bincount(found, minlength=len(reference)) > 1)
    gene = reference[twice[0]]
    rivals = var.index[positions == twice[0]]
    claimed = counted(len(twice), "gene of the reference is", "genes of the reference are")
    raise DataError(
        f"{claimed} claimed by several genes of the query ({shown(gene)}: {listed(rivals)}), and which one is meant "
        f"cannot be told. {_mend_of_rivals(gene_map)}"
    )


def _mend_of_rivals(gene_map: str | Mapping[str, str] | None) -> str:
    if gene_map is None:
        return "Sum or drop the duplicates, or make the names unique with adata.var_names_make_unique()."
    if isinstance(gene_map, Mapping):
        return "Let gene_map send only one of them there."
    if gene_map in RULES:
        return "Drop all but one, or say which is meant with gene_map={query name: reference name}."
    return f"Sum them, or keep the first of each: adata[:, ~adata.var['{gene_map}'].duplicated()]."


def _hint(reference: Sequence[str], var: pd.DataFrame, n_found: int) -> str | None:
    """The rule or column of `var` that would find clearly more genes, as advice."""
    names = [str(name) for name in var.index]
    candidates = [
        (_positions(reference, names, rule), f"after {words}; set gene_map='{rule}'")
        for rule, (words, _) in RULES.items()
    ]
    for column in var.columns:
        if not pd.api.types.is_numeric_dtype(var[column]):
            candidates.append(
                (_positions(reference, [str(name) for name in var[column]], None),
                 f"by the column '{column}' of var; set gene_map='{column}'")
            )  # fmt: skip
    n_best, advice = max((len(np.unique(found[found >= 0])), advice) for found, advice in candidates)
    if n_best > n_found + 0.05 * len(reference):
        return f"{n_best / len(reference):.0%} match {advice}."
    kinds = kind_of_names(reference), kind_of_names(names)
    if kinds[0] != kinds[1]:
        return (
            f"The reference names genes by {kinds[0]}, the query by {kinds[1]}; "
            "set gene_map={query name: reference name}."
        )
    return None


def kind_of_names(names: Sequence[str]) -> str:
    ensembl = sum(bool(ENSEMBL.match(name)) for name in names)
    return "Ensembl identifiers" if ensembl > len(names) / 2 else "symbols"


def _too_few(report: GeneReport, min_gene_overlap: float) -> str:
    advice = report.hint or (
        f"Use the same identifiers in both, or set min_gene_overlap={np.floor(report.overlap * 100) / 100:g} to fill "
        f"the missing {report.noun}s with zeros."
        if report.n_shared
        else "Use the same identifiers in both."
    )
    if "set " in advice:
        advice += " (It is an argument of load_query_data, and an attribute of a model.)"
    of = f"of the reference's {counted(report.n_reference, report.noun)}"
    if report.n_shared == 0:
        none = f"None {of} is in the query"
        return f"{none} ({listed(report.missing)}). {advice}"
    return (
        f"{len(report.missing):,} {of} are missing from the query "
        f"({listed(report.missing)}), so the embedding would be unreliable: {report.overlap:.1%} are shared and "
        f"{min_gene_overlap:.0%} are asked for. {advice}"
    )
