"""Gene sets: read from GMT files, matched to the genes of an AnnData, written into it as a mask of genes × terms.

A GMT file has one set per line, tab-separated: name, description, genes. Lines without tabs are read as scArches reads
them: a name, then genes, separated by blanks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .findings import counted
from .genes import kind_of_names
from .names import DataError, listed, shown

if TYPE_CHECKING:
    from anndata import AnnData

Source = str | os.PathLike | Mapping[str, Iterable[str]]
CACHE = "SCARCHES_WIDGETS_CACHE"  # the environment variable that names the folder, in place of ~/.cache
NAMED = {  # a name that stands for a collection -> where it comes from
    "reactome": "https://www.gsea-msigdb.org/gsea/msigdb (human, C2, CP:REACTOME, gene symbols)",
}
MIN_GENES = 12  # of a set: expiMap uses it if more than these are measured
LONGEST_LABEL = 30  # characters of a cleaned name, as scArches cuts it


@dataclass(frozen=True)
class GeneSetReport:
    """How gene sets met the genes of an AnnData.

    Attributes
    ----------
    sets
        One row per set that was read, by its full name: `term` (the label it was given; NaN if it was left out),
        `n_genes` (in the set), `n_found` (of them, in the AnnData), `coverage` (their share, 0 to 1).
    n_genes_covered, n_genes
        Genes of the AnnData that are in at least one of the sets kept, and all of them.
    written
        What was written into the AnnData.
    """

    sets: pd.DataFrame
    n_genes_covered: int
    n_genes: int
    written: tuple[str, ...] = ()

    @property
    def terms(self) -> list[str]:
        """Labels of the sets that were kept, in the order of the mask's columns."""
        return self.sets["term"].dropna().tolist()

    def __str__(self) -> str:
        kept = self.sets[self.sets["term"].notna()]
        return (
            f"{len(kept):,} of {counted(len(self.sets), 'gene set')} kept (median {kept['n_found'].median():g} genes, "
            f"{kept['coverage'].median():.0%} of a set found); they cover {self.n_genes_covered:,} of "
            f"{counted(self.n_genes, 'gene')}." + (f" Written: {listed(self.written)}." if self.written else "")
        )


def read_gene_sets(source: Source | Iterable[str | os.PathLike]) -> dict[str, tuple[str, ...]]:
    """Gene sets by name.

    Parameters
    ----------
    source
        A GMT file, several of them, a dict of names and genes, or "reactome": the GMT file in the cache folder (see
        `cache_folder`) whose name begins so. A file of this name in the working directory comes before.

    Returns
    -------
    dict, name -> genes, each gene once, in the order of the source.

    Raises
    ------
    FileNotFoundError
        If a file is not there; for "reactome", the message says which file to put where.
    DataError
        If a file holds no gene set, or two sets of one name with different genes.
    """
    if isinstance(source, Mapping):
        named = [(str(name), [str(gene) for gene in genes]) for name, genes in source.items()]
        return _unique(named, "the dict")
    if isinstance(source, str | os.PathLike):
        source = [source]
    sets = [pair for one in source for pair in _sets_in(_path_of(one))]
    return _unique(sets, "the files")


def cache_folder(of: str = "genesets") -> Path:
    """Where named collections lie, or files `of` another kind: a folder of that name in `$SCARCHES_WIDGETS_CACHE`, else
    in `~/.cache/scarches_widgets`."""
    given = os.environ.get(CACHE)
    return (Path(given) if given else Path.home() / ".cache" / "scarches_widgets") / of


def add_annotations(
    adata: AnnData,
    files: Source | Iterable[str | os.PathLike],
    min_genes: int = 0,
    max_genes: int | None = None,
    varm_key: str = "I",
    uns_key: str = "terms",
    clean: bool = True,
    genes_use_upper: bool = True,
) -> GeneSetReport:
    """Write which gene is in which set into `adata.varm[varm_key]`, and the sets' labels into `adata.uns[uns_key]`.

    Parameters
    ----------
    adata
        Gets `varm[varm_key]`, int32 (genes, terms) of 0 and 1, dense, and `uns[uns_key]`, a list of labels. Nothing
        else is changed: to drop genes that are in no set, `adata._inplace_subset_var(adata.varm["I"].sum(1) > 0)`.
    files
        As in `read_gene_sets`.
    min_genes, max_genes
        A set is kept if more than `min_genes` and, unless None, fewer than `max_genes` of its genes are in `adata`.
    varm_key, uns_key
        Where to write.
    clean
        Whether to shorten names as scArches does: without what stands before the first "_", 30 characters at most.
        Labels that are then the same get a number.
    genes_use_upper
        Whether upper and lower case of gene names count as the same.

    Returns
    -------
    GeneSetReport

    Raises
    ------
    DataError
        If no set is kept; the message says what the names look like on both sides.

    References
    ----------
    Lotfollahi et al. 2023, doi:10.1038/s41556-022-01072-x.
    """
    mask, report = match_gene_sets(adata, files, min_genes, max_genes, clean, genes_use_upper)
    adata.varm[varm_key] = mask
    adata.uns[uns_key] = report.terms
    return replace(report, written=(f"varm['{varm_key}']", f"uns['{uns_key}']"))


def match_gene_sets(
    adata: AnnData,
    files: Source | Iterable[str | os.PathLike],
    min_genes: int = 0,
    max_genes: int | None = None,
    clean: bool = True,
    genes_use_upper: bool = True,
) -> tuple[np.ndarray, GeneSetReport]:
    """What `add_annotations` would write, without writing it: the mask, int32 (genes, terms), and the report."""
    sets = read_gene_sets(files)
    mask, n_found = _mask(adata.var_names, sets, genes_use_upper)
    n_in_set = np.array([len(genes) for genes in sets.values()])
    is_kept = n_found > min_genes
    if max_genes is not None:
        is_kept &= n_found < max_genes
    if not is_kept.any():
        raise DataError(_none_kept(adata, sets, n_found, min_genes, max_genes, genes_use_upper))
    names = [name for name, kept in zip(sets, is_kept) if kept]
    labels = labels_of(names) if clean else names
    table = pd.DataFrame({"n_genes": n_in_set, "n_found": n_found, "coverage": n_found / n_in_set}, index=list(sets))
    table.insert(0, "term", pd.Series(dict(zip(names, labels)), dtype=object).reindex(table.index))
    mask = mask[:, is_kept]
    return mask, GeneSetReport(table, int((mask.sum(1) > 0).sum()), adata.n_vars)


def labels_of(names: Iterable[str]) -> list[str]:
    """Short labels, all different: without the collection's prefix, cut to 30 characters."""
    short = [(name.split("_", 1)[1] if "_" in name[:-1] else name)[:LONGEST_LABEL] for name in names]
    taken, labels = set(short), []
    n_of: Counter[str] = Counter()
    for label in short:
        n_of[label] += 1
        while n_of[label] > 1 and f"{label} ({n_of[label]})" in taken:
            n_of[label] += 1
        labels.append(label if n_of[label] == 1 else f"{label} ({n_of[label]})")
        taken.add(labels[-1])
    return labels


def _mask(
    genes: Iterable[str], sets: Mapping[str, tuple[str, ...]], ignore_case: bool
) -> tuple[np.ndarray, np.ndarray]:
    """0 and 1, int32 (genes, sets), and how many of each set's genes were found."""
    same = str.upper if ignore_case else str
    names = [same(str(gene)) for gene in genes]
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    mask = np.zeros((len(names), len(sets)), dtype=np.int32)
    n_found = np.zeros(len(sets), dtype=np.int64)
    for column, members in enumerate(sets.values()):
        found = [rows[name] for name in {same(gene) for gene in members} if name in rows]
        n_found[column] = len(found)
        for places in found:
            mask[places, column] = 1
    return mask, n_found


def _path_of(source: str | os.PathLike) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    name = str(source).lower()
    if name in NAMED:
        found = sorted(cache_folder().glob(f"{name}*.gmt")) if cache_folder().is_dir() else []
        if found:
            return found[-1]
        raise FileNotFoundError(
            f"gene_sets='{name}' stands for a GMT file in '{cache_folder()}' whose name begins with '{name}', and "
            f"there is none. Nothing is downloaded by itself: get the file from {NAMED[name]} and put it there as "
            f"'{cache_folder() / f'{name}.gmt'}', or pass the path of a GMT file."
        )
    raise FileNotFoundError(
        f"There is no file '{shown(str(source))}' with gene sets (working directory: '{Path.cwd()}'). Pass the path of "
        f"a GMT file, a dict of names and genes, or one of {listed(NAMED)}."
    )


def _sets_in(path: Path) -> list[tuple[str, list[str]]]:
    sets = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is no text in UTF-8, so it is no GMT file ({error.reason}).") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *rest = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        genes = [gene.strip() for gene in (rest[1:] if "\t" in line else rest) if gene.strip()]
        if not genes:
            raise DataError(
                f"Line {number} of '{path}' ({shown(name)}) names no gene. A GMT file has one set per line, separated "
                "by tabs: name, description, genes."
            )
        sets.append((name.strip(), genes))
    if not sets:
        raise DataError(f"'{path}' holds no gene set. A GMT file has one per line: name, description, genes, by tabs.")
    return sets


def _unique(sets: list[tuple[str, list[str]]], where: str) -> dict[str, tuple[str, ...]]:
    unique: dict[str, tuple[str, ...]] = {}
    for name, genes in sets:
        genes = tuple(dict.fromkeys(genes))
        if not genes:
            raise DataError(f"The gene set '{shown(name)}' in {where} has no gene. Leave it out.")
        if set(unique.setdefault(name, genes)) != set(genes):
            raise DataError(f"Two gene sets in {where} are called '{shown(name)}' and differ. Rename one of them.")
    return unique


def _none_kept(adata, sets, n_found, min_genes, max_genes, ignore_case) -> str:
    limits = f"more than {min_genes}" + ("" if max_genes is None else f" and fewer than {max_genes}")
    members = [gene for genes in sets.values() for gene in genes]
    what = (
        f"None of {counted(len(sets), 'gene set')} has {limits} of its genes among the {adata.n_vars:,} of adata (the "
        f"most that any has: {n_found.max()})."
    )
    kinds = kind_of_names(members), kind_of_names([str(name) for name in adata.var_names])
    if kinds[0] != kinds[1]:
        return (
            f"{what} The sets name genes by {kinds[0]}, adata by {kinds[1]}: make them the same (adata.var_names = …)."
        )
    for column in adata.var.columns:
        if not pd.api.types.is_numeric_dtype(adata.var[column]):
            _, there = _mask(adata.var[column].astype(str), sets, ignore_case)
            if there.max() > max(n_found.max(), min_genes):
                return f"{what} The column '{column}' of var has them: adata.var_names = adata.var['{column}']."
    if not ignore_case and _mask(adata.var_names, sets, True)[1].max() > n_found.max():
        return f"{what} More match without regard to upper and lower case: pass genes_use_upper=True."
    return (
        f"{what} The sets have genes such as {listed(members)}, adata such as {listed(adata.var_names)}. Choose lower "
        "limits, or gene sets for this species and these identifiers."
    )
