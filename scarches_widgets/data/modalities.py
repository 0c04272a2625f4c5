"""Proteins beside RNA: where an AnnData or a MuData keeps them, what may be wrong with them, and how they are read.

A protein is *measured* in a batch if any cell of the batch has a count of it. Where it is not, its counts may be zero,
NaN, or left out; it must then be missing from the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .findings import Finding, Findings, counted, error, some, warning
from .matrix import layer_names
from .names import DataError, did_you_mean, listed, shown

if TYPE_CHECKING:
    from anndata import AnnData

ROUNDING_NOISE = 1e-4  # distance from a whole number that float32 files leave
RNA_NAMES = ("rna", "gex", "gene_expression", "transcriptome")  # of a MuData's modality
PROTEIN_NAMES = ("prot", "protein", "proteins", "protein_expression", "adt", "cite", "antibody", "antibody_capture")


@dataclass(frozen=True)
class ProteinTable:
    """Protein counts as they are stored, and the name of each column."""

    key: str  # in obsm
    names: tuple[str, ...]
    values: np.ndarray | sp.csr_matrix  # (cells, proteins); NaN = not measured

    @property
    def where(self) -> str:
        return f"obsm['{shown(self.key)}']"

    @property
    def numbers(self) -> np.ndarray:
        """The values that are stored, in one row; zeros of a sparse matrix are not among them."""
        return self.values.data if sp.issparse(self.values) else self.values.ravel()

    def in_order(self, proteins: Sequence[str]) -> ProteinsInOrder:
        return ProteinsInOrder(self, proteins)

    def measured(self, codes: np.ndarray, n_batches: int, proteins: Sequence[str]) -> np.ndarray:
        """Which of `proteins` are measured in which batch, bool (batches, proteins); `codes` are the cells' batches."""
        seen = np.zeros((n_batches, len(self.names)), dtype=bool)
        for batch in np.unique(codes):
            seen[batch] = np.asarray((self.values[codes == batch] > 0).sum(0)).ravel() > 0
        columns = pd.Index(self.names).get_indexer(list(proteins))
        return np.where(columns >= 0, seen[:, columns], False)


class ProteinsInOrder:
    """Counts of a model's proteins, cell by cell; zero where a protein is not there."""

    def __init__(self, table: ProteinTable, proteins: Sequence[str]):
        self._values, self._n = table.values, len(proteins)
        self._from = pd.Index(table.names).get_indexer(list(proteins))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """float32 (rows, proteins)."""
        taken = self._values[rows]
        taken = taken.toarray() if sp.issparse(taken) else taken
        counts, found = np.zeros((len(rows), self._n), dtype=np.float32), self._from >= 0
        counts[:, found] = taken[:, self._from[found]]
        return np.rint(np.nan_to_num(counts, copy=False, nan=0.0))


# ---- where they are --------------------------------------------------------------------------------------------------


def the_protein_key(adata: AnnData) -> str:
    """Key of the one table in `obsm` that holds counts.

    Raises
    ------
    DataError
        If there is none, or several.
    """
    tables = [key for key in adata.obsm if isinstance(adata.obsm[key], pd.DataFrame)]
    of_counts = [key for key in tables if _holds_counts(adata.obsm[key])]
    if len(of_counts) == 1:
        return of_counts[0]
    if of_counts:
        raise DataError(
            f"{len(of_counts)} tables in obsm hold counts ({listed(map(repr, of_counts), 10)}), and any of them may be "
            f"the proteins. Say which: protein_key={of_counts[0]!r}."
        )
    others = f" obsm has: {listed(adata.obsm, 10)}." if len(adata.obsm) else " obsm is empty."
    raise DataError(
        f"No table in obsm holds counts of proteins.{others} Put raw counts there, as a DataFrame with the proteins' "
        "names: adata.obsm['protein_expression'] = pd.DataFrame(counts, index=adata.obs_names, columns=names); or "
        "name an array and its names: protein_key=…, protein_names_key=… (a key of uns)."
    )


def _holds_counts(table: pd.DataFrame) -> bool:
    numeric = (pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes)
    if not table.size or not all(numeric) or any(map(pd.api.types.is_bool_dtype, table.dtypes)):
        return False
    values = table.to_numpy(dtype=np.float64, na_value=np.nan)
    values = values[~np.isnan(values)]
    return bool(len(values) and (values >= 0).all() and np.isfinite(values).all() and (values == np.rint(values)).all())


def protein_table(adata: AnnData, key: str, names_key: str | None = None) -> ProteinTable | None:
    """The table under `obsm[key]`; None if there is none.

    Parameters
    ----------
    adata
        Cells. Not modified.
    key
        Of `obsm`: a DataFrame whose columns are the proteins, or an array, dense or sparse.
    names_key
        Of `uns`: the proteins' names, if it is an array.

    Raises
    ------
    DataError
        If an array has no names, or values are no numbers.
    """
    if key not in adata.obsm:
        return None
    values = adata.obsm[key]
    if isinstance(values, pd.DataFrame):
        names = tuple(str(name) for name in values.columns)
        if not all(pd.api.types.is_numeric_dtype(dtype) for dtype in values.dtypes):
            column = next(name for name, dtype in zip(names, values.dtypes) if not pd.api.types.is_numeric_dtype(dtype))
            raise DataError(f"obsm['{shown(key)}'] is no table of numbers: '{shown(column)}' holds other values.")
        is_plain = len(set(values.dtypes)) == 1 and isinstance(values.dtypes.iloc[0], np.dtype)
        return ProteinTable(key, names, values.to_numpy() if is_plain else values.to_numpy(np.float32, na_value=np.nan))
    if names_key is None or names_key not in adata.uns:
        near = did_you_mean(names_key, adata.uns) if names_key is not None else ""
        asked = f"uns['{shown(names_key)}'] does not exist.{near}" if names_key is not None else ""
        raise DataError(
            f"obsm['{shown(key)}'] is an array, whose columns have no names, and proteins are matched by name. {asked} "
            f"Make it a DataFrame, or put the names into uns and pass protein_names_key=…"
        )
    names = tuple(str(name) for name in adata.uns[names_key])
    if len(names) != values.shape[1]:
        raise DataError(
            f"uns['{shown(names_key)}'] has {len(names)} names for the {values.shape[1]} columns of "
            f"obsm['{shown(key)}']. Give one name for each."
        )
    if hasattr(values, "compute"):
        values = values.compute()
    return ProteinTable(key, names, values.tocsr() if sp.issparse(values) else np.asarray(values))


# ---- what may be wrong with them -------------------------------------------------------------------------------------


def check_proteins(
    table: ProteinTable, batches: Sequence[object], cell_names: Sequence[str], for_training: bool = True
) -> Findings:
    """Every fault of a table of protein counts; `batches` are the cells'."""
    return Findings(_faults(table, np.asarray(batches, dtype=object), cell_names, for_training))


def _faults(
    table: ProteinTable, batches: np.ndarray, cell_names: Sequence[str], for_training: bool
) -> Iterator[Finding]:
    numbers, where = table.numbers, table.where
    twice = sorted({name for name in table.names if table.names.count(name) > 1})
    if twice:
        yield error("duplicated-proteins", where, **some(twice))(
            f"{where} has {counted(len(twice), 'protein')} more than once ({listed(twice)}).",
            "Proteins are matched by name, and it would be chance which of them is taken.",
            "Sum or drop the doubles.",
        )
    known = numbers[~np.isnan(numbers)] if numbers.dtype.kind == "f" else numbers
    raw = "Pass raw counts of antibodies (before CLR or DSB), as the sequencer counted them."
    if len(known) and known.min() < 0:
        yield error("negative-proteins", where, count=int((known < 0).sum()))(
            f"{where} has {counted(int((known < 0).sum()), 'negative value')} (lowest {known.min():g}).",
            "Counts are never negative; these look normalised or denoised.",
            raw,
        )
    elif len(known) and not np.isfinite(known.max()):
        yield error("infinite-proteins", where)(f"{where} has infinite values.", "No loss can be computed.", raw)
    elif known.dtype.kind == "f" and (far := np.abs(known - np.rint(known)) > ROUNDING_NOISE).any():
        yield error("fractional-proteins", where, count=int(far.sum()))(
            f"{where} has {counted(int(far.sum()), 'value')} with a fraction ({known[far][0]:g}).",
            "Proteins are modelled as counts; these look normalised.",
            raw,
        )
    if for_training and not (known > 0).any():
        yield error("no-proteins", where)(
            f"No cell has a count of any protein in {where}: all are zero or missing.",
            "There is nothing to learn about proteins.",
            "Check the table, or use SCVI for RNA alone.",
        )
    elif for_training:
        seen = np.asarray((table.values > 0).sum(0)).ravel() > 0
        never = [name for name, one in zip(table.names, seen) if not one]
        if never:
            yield warning("unseen-proteins", where, **some(never))(
                f"{where} has {counted(len(never), 'protein')} without any count ({listed(never)}).",
                "They count as not measured, and what the model says of them is arbitrary.",
                "Leave them out.",
            )
    if numbers.dtype.kind == "f":
        yield from _gaps(table, batches, cell_names)


def _gaps(table: ProteinTable, batches: np.ndarray, cell_names: Sequence[str]) -> Iterator[Finding]:
    """NaN among the cells of a batch in which the protein was measured."""
    if not np.isnan(table.numbers).any():
        return
    values = table.values.toarray() if sp.issparse(table.values) else table.values
    for batch in pd.unique(batches):
        here = batches == batch
        is_nan = np.isnan(values[here])
        partly = is_nan.any(0) & ~is_nan.all(0)
        if partly.any():
            cells = np.asarray(cell_names)[here][is_nan[:, partly].any(1)]
            names = [name for name, one in zip(table.names, partly) if one]
            yield error("missing-proteins", table.where, **some(cells))(
                f"{table.where} has NaN for {listed(names)} in {len(cells):,} of the {counted(here.sum(), 'cell')} of "
                f"batch '{shown(batch)}' ({listed(cells)}).",
                "A protein must be measured in all cells of a batch, or in none.",
                "Drop these cells, or give them a batch of their own.",
            )


def announce_differences(table: ProteinTable, proteins: Sequence[str]) -> Iterator[str]:
    """What a query's proteins have less or more than the model's, in sentences.

    Raises
    ------
    DataError
        If none is the same.
    """
    missing = [name for name in proteins if name not in table.names]
    extra = [name for name in table.names if name not in proteins]
    if len(missing) == len(proteins):
        raise DataError(
            f"None of the model's {len(proteins)} proteins is in {table.where}: it has {listed(table.names, 5)}, the "
            f"model {listed(proteins, 5)}. Rename the columns; or, if these are other proteins, take the table out."
        )
    if missing:
        yield f"{len(missing)} of the model's {len(proteins)} proteins are not in {table.where} ({listed(missing)})."
    if extra:
        yield f"{counted(len(extra), 'protein')} of {table.where} are unknown to the model, not used ({listed(extra)})."


# ---- MuData ----------------------------------------------------------------------------------------------------------


def as_anndata(data, protein_key: str | None = None, protein_layer: str | None = None) -> AnnData:
    """The RNA of a MuData as an AnnData with the proteins in `obsm`; an AnnData is returned as it is.

    Nothing is copied that need not be. The proteins' key in `obsm` is the name of their modality.

    Parameters
    ----------
    data
        AnnData or MuData.
    protein_key
        Name of the modality with the proteins; None: found by its name.
    protein_layer
        Layer of that modality; None for X.

    Raises
    ------
    DataError
        If modalities cannot be told apart, or are not of the same cells.
    """
    if not hasattr(data, "mod"):
        return data
    from anndata import AnnData

    protein_key = protein_key or _one_of(data.mod, PROTEIN_NAMES, "proteins", "protein_key='…'", optional=True)
    others = {name: part for name, part in data.mod.items() if name != protein_key}
    rna = others[_one_of(others, RNA_NAMES, "RNA", "it as mdata.mod['rna']")]
    columns = {name: data.obs[name] for name in data.obs if name not in rna.obs and ":" not in name}
    obs = rna.obs.assign(**{name: column.reindex(rna.obs_names) for name, column in columns.items()})
    layers = {name: rna.layers[name] for name in layer_names(rna)}
    adata = AnnData(rna.X, obs=obs, var=rna.var, uns=dict(data.uns), layers=layers)
    if protein_key in data.mod:
        proteins = data.mod[protein_key]
        order = _paired(rna, proteins, protein_key)
        values = proteins.X if protein_layer is None else proteins.layers[protein_layer]
        values = values.toarray() if sp.issparse(values) else np.asarray(values)
        adata.obsm[protein_key] = pd.DataFrame(values[order], index=rna.obs_names, columns=proteins.var_names)
    return adata


def _one_of(
    mod: Mapping[str, object], names: Sequence[str], what: str, mend: str, optional: bool = False
) -> str | None:
    found = [name for name in mod if name.casefold() in names]
    if len(found) == 1:
        return found[0]
    if optional and not found and len(mod) == 1:
        return None
    raise DataError(
        f"Which modality of the MuData holds {what} cannot be told from their names ({listed(mod, 10)}). Pass {mend}."
    )


def _paired(rna: AnnData, proteins: AnnData, key: str) -> np.ndarray:
    """Where each cell with RNA stands among those with proteins."""
    order = proteins.obs_names.get_indexer(rna.obs_names)
    n_alone, n_others = int((order < 0).sum()), int((~proteins.obs_names.isin(rna.obs_names)).sum())
    if n_alone or n_others:
        raise DataError(
            f"The MuData is not paired: {n_alone:,} of {rna.n_obs:,} cells have RNA and no '{shown(key)}', "
            f"{n_others:,} have '{shown(key)}' and no RNA. Keep the cells that have both (mudata.pp.intersect_obs), or "
            "pass an AnnData whose obsm has NaN for batches without proteins."
        )
    return order
