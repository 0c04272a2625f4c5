"""T-cell receptors beside RNA: where an AnnData keeps their sequences, what may be wrong with them, how they are read.

A receptor is a pair of CDR3 amino-acid sequences, of its alpha and of its beta chain. They stand in two columns of
`obs`, as strings, or in scirpy's `obsm["airr"]`, which holds all contigs of a cell: then the productive contig with the
most UMIs is the cell's, for each chain. scirpy itself is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .findings import Finding, Findings, counted, error, some
from .matrix import layer_names
from .modalities import RNA_NAMES, _one_of
from .names import DataError, did_you_mean, listed, shown

if TYPE_CHECKING:
    from anndata import AnnData

CHAINS = ("alpha", "beta")
LOCI = ("TRA", "TRB")  # of the chains, in the same order
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"  # tokens 1 to 20; 0 is padding
AIRR = "airr"  # scirpy's key of obsm
COLUMNS = (  # of obs, alpha and beta, as several tools write them
    ("TRA_cdr3", "TRB_cdr3"),
    ("TRA_junction_aa", "TRB_junction_aa"),
    ("VJ_1_junction_aa", "VDJ_1_junction_aa"),
    ("IR_VJ_1_junction_aa", "IR_VDJ_1_junction_aa"),
    ("IR_VJ_1_cdr3", "IR_VDJ_1_cdr3"),
    ("TRA_cdr3_aa", "TRB_cdr3_aa"),
    ("cdr3_TRA", "cdr3_TRB"),
)
NOT_OBSERVED = ("", "None", "nan", "NaN", "NA")  # as text; 10x writes None
UMIS = ("duplicate_count", "umi_count", "umis", "consensus_count", "reads")  # columns of contigs, the first there is
SPELLINGS = {"barcode": "cell_id", "chain": "locus", "cdr3": "junction_aa"}  # 10x -> AIRR; their cdr3 has its ends

_TOKENS = np.zeros(256, dtype=np.int64)
_TOKENS[np.frombuffer(AMINO_ACIDS.encode(), dtype=np.uint8)] = np.arange(1, len(AMINO_ACIDS) + 1)


# ---- as a network sees them ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """One chain of some cells: each distinct sequence once."""

    tokens: Tensor  # int64 (distinct, longest); 0 after a sequence's end
    of_cell: Tensor  # int64 (cells,), row of `tokens`

    def of(self, cells: Tensor) -> Chain:
        """The chain of some of the cells, bool (cells,) or int64."""
        distinct, of_cell = torch.unique(self.of_cell[cells], return_inverse=True)
        return Chain(self.tokens[distinct], of_cell)

    @property
    def n_residues(self) -> Tensor:
        """Of all cells, but for the first of each."""
        return (self.tokens[:, 1:] > 0).sum(1)[self.of_cell].sum()


@dataclass(frozen=True)
class Receptors:
    """Both chains of some cells, as tensors."""

    chains: tuple[Chain, Chain]

    def to(self, device: torch.device | str) -> Receptors:
        return Receptors(tuple(Chain(chain.tokens.to(device), chain.of_cell.to(device)) for chain in self.chains))

    def __getitem__(self, cells: slice) -> Receptors:
        of_cells = [chain.tokens[chain.of_cell[cells]] for chain in self.chains]
        return Receptors(tuple(Chain(tokens, torch.arange(len(tokens), device=tokens.device)) for tokens in of_cells))


class EncodedReceptors:
    """Tokens of the distinct sequences of many cells, of which `of` takes those of a few."""

    def __init__(self, sequences: Sequence[np.ndarray]):
        self._chains = [_encoded(chain) for chain in sequences]

    def of(self, rows: np.ndarray) -> Receptors:
        chains = []
        for codes, tokens in self._chains:
            distinct, of_cell = np.unique(codes[rows], return_inverse=True)
            here = tokens[distinct]
            longest = max(1, int((here > 0).sum(1).max(initial=0)))
            chains.append(Chain(torch.from_numpy(here[:, :longest].astype(np.int64)), torch.from_numpy(of_cell)))
        return Receptors(tuple(chains))


def _encoded(sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each cell's sequence, int64 (cells,), and the tokens of each, uint8 (distinct, longest)."""
    codes, distinct = pd.factorize(sequences)
    longest = max(1, max(map(len, distinct), default=0))
    letters = np.array([text.encode("ascii", "replace") for text in distinct], dtype=f"S{longest}")
    return codes, _TOKENS[letters.view(np.uint8)].reshape(len(distinct), longest).astype(np.uint8)


# ---- as an AnnData keeps them ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReceptorTable:
    """The CDR3 of each cell's alpha and beta chain as text, "" = not observed."""

    where: tuple[str, str]  # the place of each chain, as messages name it
    sequences: tuple[np.ndarray, np.ndarray]  # object (cells,)

    @property
    def has_both(self) -> np.ndarray:
        """Which cells have both chains, bool (cells,)."""
        alpha, beta = self.sequences
        return (alpha != "") & (beta != "")

    @property
    def n_predicted(self) -> np.ndarray:
        """Residues of both chains of each cell, but for the first of each, int64 (cells,)."""
        return sum(np.array([max(0, len(text) - 1) for text in chain]) for chain in self.sequences)

    @property
    def clonotypes(self) -> np.ndarray:
        """Each cell's pair of sequences as one text, object (cells,)."""
        alpha, beta = self.sequences
        return alpha + "_" + beta

    def encoded(self) -> EncodedReceptors:
        return EncodedReceptors(self.sequences)


def the_receptor_keys(adata: AnnData) -> tuple[str, ...]:
    """The columns of `obs` with the CDR3 of both chains, or `("airr",)` for scirpy's contigs in `obsm`.

    Raises
    ------
    DataError
        If there are none.
    """
    for columns in COLUMNS:
        if all(column in adata.obs for column in columns):
            return columns
    if AIRR in adata.obsm:
        return (AIRR,)
    raise DataError(
        "There are no receptors: obs has no pair of columns with CDR3 sequences, such as "
        f"{listed([' and '.join(pair) for pair in COLUMNS], 2)}, and obsm no '{AIRR}' (scirpy). Name your columns: "
        f"receptor_keys=('alpha column', 'beta column'). obs has: {listed(adata.obs.columns, 20)}."
    )


def receptor_table(adata: AnnData, keys: Sequence[str]) -> ReceptorTable:
    """The receptors of all cells.

    Parameters
    ----------
    adata
        Cells. Not modified.
    keys
        Columns of `obs` with the CDR3 of alpha and of beta; or one key of `obsm` with contigs.

    Raises
    ------
    DataError
        If they are not there, or contigs lack a field.
    """
    keys = tuple(keys)
    if len(keys) == 1:
        key = keys[0]
        if key not in adata.obsm:
            raise DataError(
                f"obsm has no '{shown(key)}' to read contigs from.{did_you_mean(key, adata.obsm)} Name two columns of "
                "obs, or a key of obsm: receptor_keys=…"
            )
        best = _most_umis(_flat(adata.obsm[key], key), np.arange(adata.n_obs), f"obsm['{shown(key)}']")
        where = tuple(f"obsm['{shown(key)}'], locus {locus}" for locus in LOCI)
        return ReceptorTable(where, tuple(_as_sequences(best[f"{locus}_cdr3"]) for locus in LOCI))
    if len(keys) != 2:
        raise DataError(
            f"receptor_keys={keys!r}: name two columns of obs, of the alpha and of the beta chain, or one key of obsm."
        )
    for key in keys:
        if key not in adata.obs:
            raise DataError(
                f"obs has no column '{shown(key)}' to read CDR3 sequences from.{did_you_mean(key, adata.obs.columns)} "
                f"There are: {listed(adata.obs.columns, 20)}."
            )
    return ReceptorTable(
        tuple(f"obs['{shown(key)}']" for key in keys), tuple(_as_sequences(adata.obs[k]) for k in keys)
    )


def receptor_columns(contigs: pd.DataFrame, cell_names: Sequence[str]) -> pd.DataFrame:
    """Each cell's receptor from a table of contigs: AIRR Rearrangement, or 10x `all_contig_annotations.csv`.

    Parameters
    ----------
    contigs
        One row per contig: `cell_id`, `locus`, `junction_aa`, `productive`, and a count of UMIs (or, as 10x writes
        them, `barcode`, `chain`, `cdr3`, `productive`, `umis`).
    cell_names
        The cells wanted, in order.

    Returns
    -------
    DataFrame, one row per cell: `TRA_cdr3`, `TRA_v`, `TRA_j`, `TRB_cdr3`, `TRB_v`, `TRB_j` of the productive contig
    with the most UMIs, "" where there is none.

    Raises
    ------
    DataError
        If a column is missing.
    """
    contigs = contigs.rename(columns={name: ours for name, ours in SPELLINGS.items() if ours not in contigs})
    cells = pd.Index(cell_names).get_indexer(contigs["cell_id"]) if "cell_id" in contigs else None
    if cells is None:
        raise DataError(f"The contigs have no column 'cell_id' (or 'barcode'). There are: {listed(contigs, 20)}.")
    genes = {"v_gene": "v_call", "j_gene": "j_call"}
    contigs = contigs.rename(columns={name: ours for name, ours in genes.items() if ours not in contigs})
    best = _most_umis(contigs.assign(cell=cells)[cells >= 0], np.arange(len(cell_names)), "The table of contigs")
    return best.set_axis(pd.Index(cell_names), axis=0)


def _most_umis(contigs: pd.DataFrame, cells: np.ndarray, where: str) -> pd.DataFrame:
    """Sequence and genes of the best contig of each locus; `contigs.cell` is a position in `cells`."""
    lacking = [name for name in ("locus", "junction_aa") if name not in contigs]
    if lacking:
        raise DataError(f"{where} has no field {listed(lacking)}. It has: {listed(contigs, 20)}.")
    found = contigs[contigs["junction_aa"].notna() & ~contigs["junction_aa"].isin(NOT_OBSERVED)]
    if "productive" in found:
        found = found[found["productive"].map(lambda value: str(value).lower() in ("true", "t", "1", "yes"))]
    umis = next((name for name in UMIS if name in found), None)
    if umis is not None:  # a stable sort: of contigs with as many, the first
        found = found.sort_values(umis, ascending=False, kind="stable")
    columns = {}
    for locus in LOCI:
        best = found[found["locus"] == locus].drop_duplicates("cell").set_index("cell")
        for name, field in (("cdr3", "junction_aa"), ("v", "v_call"), ("j", "j_call")):
            column = best[field] if field in best else pd.Series(dtype=object)
            columns[f"{locus}_{name}"] = column.reindex(cells).fillna("").astype(str)
    return pd.DataFrame(columns)


def _flat(contigs, key: str) -> pd.DataFrame:
    """scirpy's contigs, a list of records per cell, as one row per contig with the position of its `cell`."""
    fields = getattr(contigs, "fields", None)
    if fields is None:
        raise DataError(
            f"obsm['{shown(key)}'] holds no contigs: it is a {type(contigs).__name__}, not a list of records per cell "
            "as scirpy writes it. Name two columns of obs instead: receptor_keys=('alpha column', 'beta column')."
        )
    wanted = [name for name in ("locus", "junction_aa", "productive", "v_call", "j_call", *UMIS) if name in fields]
    columns = {name: contigs[name].to_list() for name in wanted}
    lengths = [len(cell) for cell in next(iter(columns.values()), [])]
    flat = {name: [value for cell in cells for value in cell] for name, cells in columns.items()}
    return pd.DataFrame(flat).assign(cell=np.repeat(np.arange(len(lengths)), lengths))


def _as_sequences(column: pd.Series) -> np.ndarray:
    values = column.astype(object)
    return values.where(values.notna() & ~values.isin(NOT_OBSERVED), "").astype(str).str.strip().to_numpy(dtype=object)


# ---- what may be wrong with them -------------------------------------------------------------------------------------


def check_receptors(table: ReceptorTable, cell_names: Sequence[str], longest: int) -> Findings:
    """Every fault of the receptors of a model that reads sequences of at most `longest` residues."""
    return Findings(_faults(table, np.asarray(cell_names, dtype=object), longest))


def _faults(table: ReceptorTable, cell_names: np.ndarray, longest: int) -> Iterator[Finding]:
    for chain, where, sequences in zip(CHAINS, table.where, table.sequences):
        codes, distinct = pd.factorize(sequences)
        strange = np.array([bool(text) and not set(text) <= set(AMINO_ACIDS) for text in distinct], dtype=bool)[codes]
        long = np.array([len(text) > longest for text in distinct], dtype=bool)[codes]
        empty = sequences == ""
        if strange.any():
            letters = sorted(set("".join(set(sequences[strange]))) - set(AMINO_ACIDS))
            example = shown(sequences[strange][0])
            yield error("not-amino-acids", where, **some(cell_names[strange]))(
                f"{where} has letters that stand for no amino acid ({listed(map(repr, letters), 5)}) in "
                f"{counted(int(strange.sum()), 'cell')} ({listed(cell_names[strange])}), such as '{example}'.",
                "'*' and '_' mark contigs that are not productive, 'X' a residue that was not resolved; nucleotides "
                "or lower case are no CDR3 here.",
                "Take these cells out, or correct their sequences.",
            )
        if (long & ~strange).any():
            long &= ~strange
            most = max(map(len, sequences[long]))
            yield error("long-receptors", where, **some(cell_names[long]))(
                f"{where} has {counted(int(long.sum()), 'sequence')} longer than {longest} residues (the longest has "
                f"{most}; {listed(cell_names[long])}).",
                "The model has no weights for positions beyond that.",
                f"Take these cells out, or train a model with max_tcr_length={most}; a CDR3 of more than 30 residues "
                "is often an error of assembly.",
            )
        if empty.all():
            yield error("no-receptors", where)(
                f"No cell has a sequence of the {chain} chain in {where}.",
                "There is nothing to read.",
                "Check the column, or use a model of RNA alone.",
            )
        elif empty.any():
            yield error("empty-chains", where, **some(cell_names[empty]))(
                f"{where} is empty in {empty.sum():,} of {len(empty):,} cells ({listed(cell_names[empty])}).",
                f"The model reads both chains of each cell, and has nothing to say of a receptor without {chain}.",
                f"Keep the {int(table.has_both.sum()):,} cells with both: adata[mvTCR.has_receptor(adata)].copy()",
            )


# ---- cells of one clonotype stay together ----------------------------------------------------------------------------


def split_clonotypes(
    clonotypes: Sequence[object], test_size: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split cells so that no clonotype is on both sides, which would let a model recognise what it is tested on.

    Parameters
    ----------
    clonotypes
        Of each cell: a column of obs, or `ReceptorTable.clonotypes`.
    test_size
        Share of the cells, 0 to 1, that is held out at most.
    seed
        Of the order in which clonotypes are drawn.

    Returns
    -------
    Positions of the cells to train on, and of those held out, each sorted.
    """
    return grouped_split(clonotypes, test_size, np.random.default_rng(seed))


def grouped_split(groups: Sequence[object], share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw whole groups, in random order, each that still fits into `share` of the rows; the rest, and those drawn."""
    codes, _ = pd.factorize(np.asarray(groups, dtype=object), use_na_sentinel=False)
    sizes = np.bincount(codes)
    room, is_drawn = int(share * len(codes) + 1e-9), np.zeros(len(sizes), dtype=bool)
    for group in rng.permutation(len(sizes)):
        if sizes[group] <= room:
            is_drawn[group] = True
            room -= sizes[group]
    return np.flatnonzero(~is_drawn[codes]), np.flatnonzero(is_drawn[codes])


# ---- MuData ----------------------------------------------------------------------------------------------------------


def with_receptors(data) -> AnnData:
    """The RNA of a MuData as an AnnData with scirpy's contigs in `obsm["airr"]`; an AnnData is returned as it is.

    Raises
    ------
    DataError
        If a modality is missing, or they are not of the same cells.
    """
    if not hasattr(data, "mod"):
        return data
    from anndata import AnnData

    rna = data.mod[_one_of(data.mod, RNA_NAMES, "RNA", "it as mdata.mod['gex']")]
    if AIRR not in data.mod:
        raise DataError(
            f"The MuData has no modality '{AIRR}' with receptors, as scirpy writes it. It has: {listed(data.mod, 10)}."
        )
    airr = data.mod[AIRR]
    order = airr.obs_names.get_indexer(rna.obs_names)
    if (order < 0).any() or airr.n_obs != rna.n_obs:
        raise DataError(
            f"The MuData is not paired: of {rna.n_obs:,} cells with RNA, {int((order < 0).sum()):,} have no '{AIRR}', "
            f"which has {airr.n_obs:,} cells. Keep the cells that have both: mudata.pp.intersect_obs(mdata)."
        )
    layers = {name: rna.layers[name] for name in layer_names(rna)}
    adata = AnnData(rna.X, obs=rna.obs.copy(), var=rna.var, uns=dict(data.uns), layers=layers)
    for name in data.obs:
        if name not in adata.obs and ":" not in name:
            adata.obs[name] = data.obs[name].reindex(rna.obs_names)
    for name in airr.obs:
        if name not in adata.obs:
            adata.obs[name] = airr.obs[name].to_numpy()[order]
    if AIRR in airr.obsm:
        adata.obsm[AIRR] = airr.obsm[AIRR][order]
    return adata
