"""Cells with several modalities, each measured in some of them: side by side in one AnnData.

Features of all modalities stand in one matrix; `var["modality"]` says which is whose. Which cell has which modality is
said by `obsm["modality_mask"]`, a DataFrame of bool, cells × modalities: never guessed from sums, which are zero or
negative in normalised data too. Without it, each cell has every modality of which the AnnData has features.

`organize_multimodal_anndatas` makes such an AnnData of one AnnData per modality and dataset, `as_one_anndata` of a
MuData.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .findings import Finding, Findings, counted, error, some, warning
from .genes import GeneReport, align_genes
from .matrix import Matrix, Unreadable, matrix_of, where_is
from .modalities import RNA_NAMES, ROUNDING_NOISE
from .names import DataError, did_you_mean, listed, shown

if TYPE_CHECKING:
    from anndata import AnnData

    from .schema import DataSchema

logger = logging.getLogger(__name__)
MODALITY_KEY = "modality"  # column of var
MASK_KEY = "modality_mask"  # table of obsm
GROUP_KEY = "group"  # column of obs: which dataset a cell is from


# ---- one AnnData of several ------------------------------------------------------------------------------------------


def organize_multimodal_anndatas(
    adatas: Sequence[Sequence[AnnData | None]],
    layers: Sequence[Sequence[str | None]] | None = None,
    *,
    modalities: Sequence[str] | None = None,
) -> AnnData:
    """Put datasets, each with some of the modalities, into one AnnData.

    Parameters
    ----------
    adatas
        One list per modality, RNA first, of one AnnData per dataset; None where a dataset lacks the modality. What a
        dataset has of several modalities is of the same cells, by name; what a modality has in several datasets is of
        the same features. Not modified.
    layers
        Layers to read, in lists of the same lengths; None for X.
    modalities
        Names of the modalities; None: "rna", "modality1", ….

    Returns
    -------
    AnnData of all cells × all features (CSR, float32; zero where a modality is missing) with `var["modality"]`,
    `obsm["modality_mask"]`, `obs["group"]` (which dataset: "0", "1", …) besides the datasets' own columns, and
    `uns["modality_lengths"]`. A cell's name that several datasets have gets the dataset's number.

    Raises
    ------
    DataError
        If lengths, cells or features do not fit, or two modalities have a feature of the same name.

    Examples
    --------
    >>> adata = organize_multimodal_anndatas(  # doctest: +SKIP
    ...     [[rna_of_multiome, rna_alone], [peaks_of_multiome, None]], modalities=["rna", "atac"]
    ... )
    """
    names = [*modalities] if modalities is not None else ["rna", *(f"modality{i}" for i in range(1, len(adatas)))]
    lengths = {len(datasets) for datasets in adatas}
    layers = layers if layers is not None else [[None] * len(datasets) for datasets in adatas]
    if len(names) != len(adatas) or len(lengths) != 1 or [len(row) for row in layers] != [len(row) for row in adatas]:
        raise DataError(
            f"adatas has {counted(len(adatas), 'modality', 'modalities')} with {listed(map(len, adatas))} datasets, "
            f"modalities {len(names)} names, layers lists of {listed(map(len, layers))}. Give one list per modality, "
            "all of one length: the number of datasets, with None where a dataset lacks the modality."
        )
    tables, n_before, taken = [], 0, {name: [] for name in names}
    for dataset in range(*lengths):
        here = {name: row[dataset] for name, row in zip(names, adatas) if row[dataset] is not None}
        if not here:
            raise DataError(f"Dataset {dataset} has no modality at all: every list has None there. Leave it out.")
        first, cells = next(iter(here.items()))
        for name, part in here.items():
            rows = _paired(cells, part, first, name, dataset)
            layer = layers[names.index(name)][dataset]
            taken[name].append((part, layer, n_before + rows))
        obs = _combined({name: part.obs for name, part in here.items()}, cells.obs_names)
        tables.append(obs.assign(**{GROUP_KEY: str(dataset)}))
        n_before += cells.n_obs
    obs = pd.concat(tables)
    twice = obs.index.duplicated(keep=False)
    if twice.any():
        logger.warning("%d names of cells are in several datasets; these get the dataset's number.", twice.sum())
        obs.index = np.where(twice, obs.index + "-" + obs[GROUP_KEY], obs.index)
    obs[GROUP_KEY] = pd.Categorical(obs[GROUP_KEY])
    return _side_by_side(obs, taken)


def as_one_anndata(data) -> AnnData:
    """A MuData's modalities side by side, RNA first; an AnnData is returned as it is. X of each modality is read."""
    if not hasattr(data, "mod"):
        return data
    names = sorted(data.mod, key=lambda name: name.casefold() not in RNA_NAMES)
    own = data.obs[[name for name in data.obs if ":" not in name]]
    obs = _combined({"": own} | {name: data.mod[name].obs for name in names}, data.obs_names)
    taken = {}
    for name in names:
        part = data.mod[name]
        rows = data.obs_names.get_indexer(part.obs_names)
        if (rows < 0).any():
            raise DataError(f"The MuData's cells are not those of its '{shown(name)}' any more: call mdata.update().")
        taken[name] = [(part, None, rows)]
    adata = _side_by_side(obs, taken)
    if not (adata.obsm[MASK_KEY].sum(1) > 1).any() and len(names) > 1:
        raise DataError(
            f"The MuData is not paired: none of its {adata.n_obs:,} cells has two of {listed(names)}, so that nothing "
            "ties their latents together. If the cells are the same, give them the same names in each (barcodes often "
            "differ by a suffix such as '-1'); if not, add cells that have both, or join them knowingly with "
            "organize_multimodal_anndatas."
        )
    return adata


def _paired(cells: AnnData, part: AnnData, first: str, name: str, dataset: int) -> np.ndarray:
    """Where each cell of `part` stands among `cells`."""
    rows = cells.obs_names.get_indexer(part.obs_names)
    n_alone = int((~cells.obs_names.isin(part.obs_names)).sum())
    if n_alone or (rows < 0).any():
        raise DataError(
            f"Dataset {dataset} is not paired: {n_alone:,} of {cells.n_obs:,} cells have '{first}' and no '{name}', "
            f"{int((rows < 0).sum()):,} have '{name}' and no '{first}'. Keep the cells that have both, or give the "
            "others as datasets of their own, with None for what they lack."
        )
    return rows


def _combined(tables: Mapping[str, pd.DataFrame], cells: pd.Index) -> pd.DataFrame:
    """All columns; of one that several tables have, the first that knows a cell's value."""
    obs = pd.DataFrame(index=cells)
    for table in tables.values():
        for name, column in table.items():
            values = column.astype(object).reindex(cells)
            obs[name] = values if name not in obs else obs[name].where(obs[name].notna(), values)
    return obs.infer_objects()


def _side_by_side(obs: pd.DataFrame, taken: Mapping[str, list]) -> AnnData:
    """`taken`: of each modality, AnnData, layer, and the place of each of their cells among all."""
    from anndata import AnnData

    blocks, tables, mask = [], [], pd.DataFrame(index=obs.index)
    for name, parts in taken.items():
        if not parts:
            raise DataError(f"No dataset has '{name}'. Leave this modality out.")
        features = parts[0][0].var_names
        here, measured = [], np.zeros(len(obs), dtype=bool)
        for part, layer, rows in parts:
            order = _same_features(features, part.var_names, name)
            values = sp.coo_matrix(part.X if layer is None else part.layers[layer])
            here.append((values.data, rows[values.row], order[values.col]))
            measured[rows] = True
        data, rows, columns = (np.concatenate(pieces) for pieces in zip(*here))
        blocks.append(sp.csr_matrix((data.astype(np.float32), (rows, columns)), shape=(len(obs), len(features))))
        tables.append(parts[0][0].var.assign(**{MODALITY_KEY: name}))
        mask[name] = measured
    var = pd.concat(tables)
    var[MODALITY_KEY] = pd.Categorical(var[MODALITY_KEY], list(taken))
    _refuse_clashes(var)
    adata = AnnData(sp.hstack(blocks, format="csr"), obs=obs, var=var, obsm={MASK_KEY: mask})
    adata.uns["modality_lengths"] = [len(table) for table in tables]
    return adata


def _same_features(features: pd.Index, others: pd.Index, name: str) -> np.ndarray:
    """Place of each of `others` among `features`."""
    order = features.get_indexer(others) if features.is_unique and others.is_unique else np.array([-1])
    if (order < 0).any() or len(features) != len(others):
        n_shared = int(others.isin(features).sum())
        raise DataError(
            f"The datasets do not have the same features of '{name}': {len(features):,} ({listed(features)}) and "
            f"{len(others):,} ({listed(others)}), {n_shared:,} of them the same. Names must be unique and the same in "
            "all; peaks must be counted on one set of intervals, written in one way (chr1_100_200, chr1:100-200)."
        )
    return order


def _refuse_clashes(var: pd.DataFrame) -> None:
    twice = var.index[var.index.duplicated()].unique()
    if len(twice):
        where = listed(f"'{name}'" for name in var.loc[[twice[0]], MODALITY_KEY])
        raise DataError(
            f"{counted(len(twice), 'feature is', 'features are')} there twice ({listed(twice)}; '{shown(twice[0])}' in "
            f"{where}), and features are matched by name. Rename those of one modality, such as "
            "adata.var_names = 'adt_' + adata.var_names."
        )


# ---- what an AnnData has of them -------------------------------------------------------------------------------------


def modalities_of(adata: AnnData, key: str | None = None) -> dict[str, np.ndarray]:
    """Columns of each modality, in the order in which modalities come.

    Raises
    ------
    DataError
        If `var` does not say, or says it of some features only.
    """
    key = key or MODALITY_KEY
    if key not in adata.var:
        raise DataError(
            f"var has no column '{shown(key)}' that says which feature is of which modality."
            f"{did_you_mean(key, adata.var.columns)} Pass a MuData; or join one AnnData per modality with "
            "sca.models.organize_multimodal_anndatas([[rna], [atac]], modalities=['rna', 'atac']); or name the column: "
            "modality_key='…'."
        )
    column = adata.var[key]
    if column.isna().any():
        raise DataError(
            f"var['{shown(key)}'] does not say what {int(column.isna().sum()):,} features are "
            f"({listed(adata.var_names[column.isna()])}). Name their modality, or drop them."
        )
    _refuse_clashes(adata.var.assign(**{MODALITY_KEY: column.astype(str)}))
    codes, names = pd.factorize(column.astype(str))
    return {str(name): np.flatnonzero(codes == i) for i, name in enumerate(names)}


def not_a_count(adata: AnnData, columns: np.ndarray, layer: str | None) -> str | None:
    """The first value of these features that is no count, and where it stands; None if all are counts, or the matrix
    cannot be read, of which `validate` says why."""
    if (layer is not None and layer not in adata.layers) or matrix_of(adata, layer).stored is None:
        return None
    try:
        return _not_a_count(adata, columns, layer)
    except Unreadable:
        return None


def _not_a_count(adata: AnnData, columns: np.ndarray, layer: str | None) -> str | None:
    for block in _of_features(matrix_of(adata, layer), columns).blocks():
        values = block.values
        wrong = (values < 0) | ~np.isfinite(values) | (np.abs(values - np.rint(values)) > ROUNDING_NOISE)
        if wrong.any():
            cells, features = (np.broadcast_to(part, values.shape)[wrong] for part in (block.cells, block.genes))
            feature = adata.var_names[columns[features[0]]]
            return f"{values[wrong][0]:g} at cell '{shown(adata.obs_names[cells[0]])}', feature '{shown(feature)}'"
    return None


def _of_features(matrix: Matrix, columns: np.ndarray) -> Matrix:
    return replace(matrix, genes=columns if matrix.genes is None else matrix.genes[columns])


def mask_of(adata: AnnData, names: Sequence[str]) -> np.ndarray:
    """Which cell has which of these modalities, as `obsm["modality_mask"]` says, bool (cells, modalities)."""
    mask = np.ones((adata.n_obs, len(names)), dtype=bool)
    if MASK_KEY not in adata.obsm:
        return mask
    table = adata.obsm[MASK_KEY]
    if not isinstance(table, pd.DataFrame) or not set(map(str, table.columns)) & set(names):
        raise DataError(
            f"obsm['{MASK_KEY}'] must be a DataFrame of True and False with a column for each modality "
            f"({listed(names, 10)}), and " + ("is none." if not hasattr(table, "columns") else "has none of these.")
        )
    for i, name in enumerate(names):
        if name in table:
            if not np.isin(table[name].to_numpy(), (0, 1)).all():
                raise DataError(f"obsm['{MASK_KEY}']['{shown(name)}'] holds other values than True and False.")
            mask[:, i] = table[name].to_numpy(dtype=bool)
    return mask


def measured_modalities(adata: AnnData, schema: DataSchema, columns: np.ndarray | None) -> np.ndarray:
    """Which cell has which of the schema's modalities, bool (cells, modalities).

    Parameters
    ----------
    adata
        Not modified.
    schema
        With modalities.
    columns
        Place in the schema of each feature of `adata`, −1 = none; None if they are the schema's.

    Raises
    ------
    DataError
        If a cell has none.
    """
    names = [name for name, _ in schema.modalities]
    measured = mask_of(adata, names) & (found_in(schema.modalities, columns) > 0)
    alone = ~measured.any(1)
    if alone.any():
        raise DataError(
            f"{int(alone.sum()):,} of {counted(adata.n_obs, 'cell')} have none of the model's modalities "
            f"({listed(names)}), by obsm['{MASK_KEY}'] and the features that are there: "
            f"{listed(adata.obs_names[alone])}. Leave them out, or correct the mask."
        )
    return measured


def found_in(modalities: Sequence[tuple[str, int]], columns: np.ndarray | None) -> np.ndarray:
    """How many features of each modality are there, int (modalities,)."""
    sizes = np.array([n for _, n in modalities])
    if columns is None:
        return sizes
    of_feature = np.repeat(np.arange(len(sizes)), sizes)
    return np.bincount(of_feature[columns[columns >= 0]], minlength=len(sizes))


def align_modalities(
    features: Sequence[str],
    modalities: Sequence[tuple[str, int]],
    var: pd.DataFrame,
    gene_map: str | Mapping[str, str] | None = None,
    min_gene_overlap: float = 0.0,
) -> tuple[np.ndarray | None, GeneReport]:
    """As `genes.align_genes`, modality by modality: one of which no feature is there is missing, and asks for none.

    Raises
    ------
    DataError
        Also if a modality is there, but with too few of its features.
    """
    columns, report = align_genes(features, var, gene_map, noun="feature")
    found = found_in(modalities, columns)
    if (found > 0).all():
        columns, report = align_genes(features, var, gene_map, min_gene_overlap, "feature")
    else:
        there = np.repeat(found > 0, [n for _, n in modalities])
        features_there = np.array(features, dtype=object)[there]
        own, report = align_genes(features_there, var, gene_map, min_gene_overlap, "feature")
        places = np.flatnonzero(there)
        columns = places if own is None else np.where(own >= 0, places[own], -1)
    for (name, n), n_found in zip(modalities, found):
        if 0 < n_found < min_gene_overlap * n:
            raise DataError(
                f"{n - n_found:,} of the reference's {n:,} features of '{name}' are missing from the query, so the "
                f"embedding would be unreliable: {n_found / n:.1%} are shared and {min_gene_overlap:.0%} are asked "
                "for. Count them on the reference's features (peaks: its intervals); or drop those that there are, to "
                "map by the other modalities; or set min_gene_overlap="
                f"{np.floor(n_found / n * 100) / 100:g} to fill the missing ones with zeros."
            )
    return columns, report


def check_modalities(adata: AnnData, key: str | None, layer: str | None) -> Findings:
    """Modalities that no cell has, or in which batches' zeros look like what was not measured."""
    return Findings(_faults(adata, key, layer))


def _faults(adata: AnnData, key: str | None, layer: str | None) -> Sequence[Finding]:
    blocks = modalities_of(adata, key)
    mask, where, found = mask_of(adata, [*blocks]), where_is(layer), []
    of_feature = np.empty(adata.n_vars, dtype=np.int64)
    for i, columns in enumerate(blocks.values()):
        of_feature[columns] = i
    seen = np.zeros(mask.shape, dtype=bool)
    for block in matrix_of(adata, layer).blocks():
        cells, genes = (np.broadcast_to(part, block.values.shape) for part in (block.cells, block.genes))
        there = block.values != 0
        seen[cells[there], of_feature[genes[there]]] = True
    for i, name in enumerate(blocks):
        empty = adata.obs_names[mask[:, i] & ~seen[:, i]]
        hidden = adata.obs_names[~mask[:, i] & seen[:, i]]
        if not seen[mask[:, i], i].any():
            found.append(
                error("missing-modality", where)(
                    f"No cell has a value other than zero of '{name}'"
                    + (f", and obsm['{MASK_KEY}'] says of none that it was measured." if not mask[:, i].any() else "."),
                    "There is nothing to learn of this modality.",
                    "Leave its features out, or add cells in which it was measured.",
                )
            )
        elif len(empty) > 0.05 * mask[:, i].sum():
            found.append(
                warning("empty-modality", where, **some(empty))(
                    f"{len(empty):,} of {int(mask[:, i].sum()):,} cells have nothing but zeros of '{name}' "
                    f"({listed(empty)}).",
                    "They are taken as measured; if they were not, the model learns that the modality is absent in "
                    "such cells.",
                    f"If so, say False of them in obsm['{MASK_KEY}']['{name}'].",
                )
            )
        if len(hidden):
            found.append(
                warning("masked-values", where, **some(hidden))(
                    f"{counted(len(hidden), 'cell')} ({listed(hidden)}) with values of '{name}', which by "
                    f"obsm['{MASK_KEY}'] was not measured there.",
                    "These values are not read.",
                )
            )
    return found
