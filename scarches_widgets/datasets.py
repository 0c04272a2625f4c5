"""Simulated single-cell data whose truth is known, for lessons and tests; a small real data set, and `published` ones.

`atlas`, of cell i and gene g:

    logits_ig = log_baseline_g + Σ_c X_truth_ic · effects_gc + batch_effects_(g, batch of i)
    fractions_i = softmax_g(logits_ig)
    counts_ig ~ NegativeBinomial(library_size_i · fractions_ig, inverse_dispersion_g)

where coordinate c of X_truth is 1 for the lineage, the family and the type of the cell, or the activity of a program.
`tissue` is drawn by the same formula, with sections for batches; its coordinates are 1 for the type of the cell, or the
value of a smooth field at its place.

`cite_seq` is an atlas whose cells have counts of surface proteins besides, each from a background (antibody that floats
about or sticks) or, where the protein is expressed, a foreground above it; of cell i and protein p:

    background_ip = exp(log_background_(p, batch of i) + Normal(0, 0.4)) · protein_depth_i
    expected_ip = background_ip · (fold_p if foreground_ip else 1)
    counts_ip ~ NegativeBinomial(expected_ip, inverse_dispersion_p)

`receptors` is an atlas of T cells that carry receptors. A clonotype binds one epitope; its CDR3 carry the epitope's
motifs, by which the receptor tells a part of the epitopes apart, and its cells run the epitope's response, by which the
RNA tells a part of them apart: neither alone tells all.

`multiome` is an atlas whose cells have fragments in peaks of open chromatin besides, each peak near a gene g(p):

    logits_ip = log_baseline_p + weight_p · Σ_c X_truth_ic · effects_(g(p), c) + batch_effects_(p, batch of i)
    fragments_ip ~ Poisson(fragments_i · softmax_p(logits_ip))

One seed fixes all; the process's global random state is neither read nor moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from numbers import Integral
from typing import TYPE_CHECKING

from .data.published import published  # noqa: F401

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

# Type, family, lineage; the first few already span the tree. Names are unique over all three levels.
IMMUNE_TYPES = (
    ("CD4 naive T", "T cells", "Lymphoid"),
    ("CD8 cytotoxic T", "T cells", "Lymphoid"),
    ("Classical monocyte", "Monocytes", "Myeloid"),
    ("Naive B", "B cells", "Lymphoid"),
    ("CD4 memory T", "T cells", "Lymphoid"),
    ("Nonclassical monocyte", "Monocytes", "Myeloid"),
    ("Memory B", "B cells", "Lymphoid"),
    ("CD56dim NK", "Innate lymphoid cells", "Lymphoid"),
    ("Conventional dendritic", "Dendritic cells", "Myeloid"),
    ("Plasmacytoid dendritic", "Dendritic cells", "Myeloid"),
    ("Hematopoietic stem cell", "Stem and progenitor cells", "Progenitor"),
    ("Regulatory T", "T cells", "Lymphoid"),
    ("CD56bright NK", "Innate lymphoid cells", "Lymphoid"),
    ("Plasma cell", "B cells", "Lymphoid"),
    ("Neutrophil", "Granulocytes", "Myeloid"),
    ("Erythroblast", "Erythroid cells", "Progenitor"),
    ("CD8 naive T", "T cells", "Lymphoid"),
    ("MAIT", "T cells", "Lymphoid"),
    ("Gamma-delta T", "T cells", "Lymphoid"),
    ("Inflammatory macrophage", "Macrophages", "Myeloid"),
    ("Resident macrophage", "Macrophages", "Myeloid"),
    ("Mast cell", "Granulocytes", "Myeloid"),
    ("Granulocyte-monocyte progenitor", "Stem and progenitor cells", "Progenitor"),
    ("Reticulocyte", "Erythroid cells", "Progenitor"),
    ("Intermediate monocyte", "Monocytes", "Myeloid"),
    ("Transitional B", "B cells", "Lymphoid"),
)
PROGRAMS = ("Interferon response", "Cell cycle", "Hypoxia", "Stress response", "Glycolysis", "Antigen presentation")
LEVELS = ("type_level1", "type_level2", "cell_type")
CELLS_AT_ONCE = 2048  # a fixed number: it is part of what a seed means
TISSUE_WIDTH = 1000.0  # µm, in each dimension


def atlas(
    n_obs: int = 2000,
    n_vars: int = 500,
    n_batches: int = 3,
    n_types: int = 8,
    seed: int = 0,
    *,
    n_programs: int = 4,
    batch_strength: float = 1.0,
    type_strength: float = 1.0,
    mean_counts: float = 1500.0,
) -> AnnData:
    """Counts of an immune atlas from several batches: cell types in a tree, and gene programs that vary within types.

    With the default strengths, a new batch is labelled well but clearly imperfectly by its neighbours in a PCA, and
    almost perfectly by a model that corrects for batches.

    Parameters
    ----------
    n_obs
        Cells; at least one per batch and type.
    n_vars
        Genes; at least 4 × (n_types + n_programs).
    n_batches, n_types, n_programs
        Every type occurs in every batch, in shares that differ between batches.
    seed
        Genes, types and batches are drawn apart from the cells: the same seed with another `n_obs` gives other cells of
        the same atlas.
    batch_strength
        Scale of the batches' effects on genes and of their differences in depth. 0: batches differ only in the shares
        of their types.
    type_strength
        Scale of the effects of lineages, families, types and markers. 0: types are alike.
    mean_counts
        Expected counts of a cell, averaged over batches (geometric mean).

    Returns
    -------
    AnnData of raw counts (CSR, float32) with

    - `obs`: `batch`; `type_level1` (lineage), `type_level2` (family), `cell_type`; `library_size` (expected counts)
    - `var`: `log_baseline`, `inverse_dispersion`
    - `obsm["X_truth"]`: the cell's noise-free state: 1 for each node on its type's path, then its programs' activities
    - `uns["truth"]`: `coordinates`, the names of X_truth's columns; `effects` (genes × coordinates) and `batch_effects`
      (genes × batches), in natural logarithms; `markers`, each type's own raised genes; `programs`, each program's
      genes; `hierarchy`, rows of parent and child from "root" down; `parameters`, the arguments

    Raises
    ------
    ValueError
        An argument is out of range.
    """
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    parameters = dict(
        n_obs=n_obs, n_vars=n_vars, n_batches=n_batches, n_types=n_types, seed=seed, n_programs=n_programs
    )
    parameters |= dict(batch_strength=batch_strength, type_strength=type_strength, mean_counts=mean_counts)
    _check_ranges(**parameters)
    biology_rng, batch_rng, cell_rng = np.random.default_rng(seed).spawn(3)
    types = _types(n_types)
    var, effects, markers, programs = _draw_biology(types, n_vars, n_programs, type_strength, biology_rng)
    program_frequency = biology_rng.beta(0.6, 0.9, (n_types, n_programs))  # how often cells of a type run a program
    batch_effects, depth, type_shares = _draw_batches(effects[types["cell_type"]], n_batches, batch_strength, batch_rng)

    batch, cell_type = _assign_cells(n_obs, type_shares, cell_rng)
    is_active = cell_rng.random((n_obs, n_programs)) < program_frequency[cell_type]
    activity = is_active * cell_rng.gamma(2.0, 0.5, (n_obs, n_programs))  # mean 1 where active
    nodes = [name for name in effects if name not in programs]
    on_path = np.stack([types.isin([node]).any(axis=1) for node in nodes], axis=1)  # (types, nodes)
    state = np.hstack([on_path[cell_type], activity])  # (cells, coordinates)
    library_size = mean_counts * depth[batch] * cell_rng.lognormal(-(0.35**2) / 2, 0.35, n_obs)
    counts = _draw_counts(state, effects, batch_effects, batch, library_size, var, cell_rng)

    obs = pd.DataFrame(index=[f"Cell{number:05d}" for number in range(1, n_obs + 1)])
    obs["batch"] = pd.Categorical.from_codes(batch, batch_effects.columns)
    for level in LEVELS:
        obs[level] = pd.Categorical(types[level].to_numpy()[cell_type], categories=types[level].unique())
    obs["library_size"] = library_size
    truth = {
        "coordinates": effects.columns.to_numpy(dtype=object),
        "effects": effects,
        "batch_effects": batch_effects,
        "markers": markers,
        "programs": programs,
        "hierarchy": _edges(types),
        "parameters": parameters,
    }
    return AnnData(counts, obs=obs, var=var, obsm={"X_truth": state.astype(np.float32)}, uns={"truth": truth})


def cite_seq(
    n_obs: int = 2000,
    n_vars: int = 500,
    n_proteins: int = 20,
    n_batches: int = 2,
    n_types: int = 8,
    seed: int = 0,
    *,
    n_programs: int = 4,
    batch_strength: float = 1.0,
    type_strength: float = 1.0,
    mean_counts: float = 1500.0,
) -> AnnData:
    """An `atlas` whose cells have counts of surface proteins besides RNA, each from a background or a foreground.

    A protein marks one node of the tree of types: 95 % of the cells below it express the protein, and 2 % of the
    others. The last two proteins are isotype controls, which no cell expresses.

    Parameters
    ----------
    n_obs, n_vars, n_batches, n_types, seed, n_programs, batch_strength, type_strength, mean_counts
        As in `atlas`; `batch_strength` also scales how the proteins' backgrounds differ between batches.
    n_proteins
        At least 3, controls included.

    Returns
    -------
    AnnData as from `atlas`, with the same RNA, and besides

    - `obsm["protein_expression"]`: DataFrame of raw counts, cells × proteins
    - `obsm["protein_foreground"]`: DataFrame, whether the cell expresses the protein; bool
    - `obsm["protein_expected"]`: DataFrame, the expected counts
    - `uns["truth"]`, in addition: `proteins` (DataFrame: `node` of the tree, empty for controls; `fold`, foreground
      over background; `inverse_dispersion`) and `log_background` (proteins × batches)

    Raises
    ------
    ValueError
        An argument is out of range.
    """
    import numpy as np
    import pandas as pd

    _check_whole("n_proteins", n_proteins, 3, ", two of which are controls")
    adata = atlas(
        n_obs, n_vars, n_batches, n_types, seed,
        n_programs=n_programs, batch_strength=batch_strength, type_strength=type_strength, mean_counts=mean_counts,
    )  # fmt: skip
    truth = adata.uns["truth"]
    truth["parameters"]["n_proteins"] = n_proteins
    panel_rng, cell_rng = np.random.default_rng([seed, 1]).spawn(2)
    on_path = pd.DataFrame(adata.obsm["X_truth"], columns=truth["coordinates"])[_partial_nodes(_types(n_types))] > 0
    proteins, log_background = _draw_panel(
        list(on_path), n_proteins, list(truth["batch_effects"]), batch_strength, panel_rng
    )

    expresses = np.zeros((n_obs, n_proteins))
    marks = proteins["node"] != ""
    expresses[:, marks] = np.where(on_path[proteins.loc[marks, "node"]], 0.95, 0.02)
    foreground = cell_rng.random((n_obs, n_proteins)) < expresses
    depth = cell_rng.lognormal(0, 0.3, (n_obs, 1))
    background = (
        np.exp(log_background[adata.obs["batch"]].to_numpy().T + cell_rng.normal(0, 0.4, foreground.shape)) * depth
    )
    expected = background * np.where(foreground, proteins["fold"], 1)
    inverse_dispersion = proteins["inverse_dispersion"].to_numpy()
    counts = cell_rng.poisson(cell_rng.gamma(inverse_dispersion, expected / inverse_dispersion)).astype(np.int32)
    for key, values in (("expression", counts), ("foreground", foreground), ("expected", expected)):
        adata.obsm[f"protein_{key}"] = pd.DataFrame(values, index=adata.obs_names, columns=proteins.index)
    truth |= {"proteins": proteins, "log_background": log_background}
    return adata


def receptors(
    n_obs: int = 2000,
    n_vars: int = 500,
    n_epitopes: int = 6,
    n_batches: int = 2,
    seed: int = 0,
    *,
    motif_strength: float = 1.0,
    response_strength: float = 1.0,
    batch_strength: float = 1.0,
    mean_counts: float = 1500.0,
) -> AnnData:
    """T cells with receptors, whose epitope neither RNA nor receptor tells alone.

    Epitopes come in pairs. Those of a pair share the motifs of their receptors, and cells of one pair's first and of
    another pair's first epitope share the response of their genes (likewise of the second): the receptor tells which
    pair it is, the RNA which of the two.

    Parameters
    ----------
    n_obs
        Cells.
    n_vars
        Genes, at least 40.
    n_epitopes
        An even number of at least 4.
    n_batches
        Donors. Clonotypes are of one donor each.
    seed
        Of genes, motifs, clonotypes and cells.
    motif_strength
        Share of the clonotypes whose CDR3 carry the motifs of their epitope, 0 to 1; the others' are drawn by chance.
    response_strength
        Scale of the responses' effects on genes.
    batch_strength
        Scale of the donors' effects on genes and of their differences in depth.
    mean_counts
        Expected counts of a cell, averaged over batches (geometric mean).

    Returns
    -------
    AnnData of raw counts (CSR, float32) with

    - `obs`: `batch`; `epitope`; `pair`, which the motifs tell; `response`, which the genes tell; `clonotype`; the amino
      acids of `TRA_cdr3` and `TRB_cdr3`; `has_motif`; `library_size` (expected counts)
    - `var`: `log_baseline`, `inverse_dispersion`
    - `obsm["X_truth"]`: 1 for the cell's response
    - `uns["truth"]`: `effects` (genes × responses) and `batch_effects` (genes × batches), in natural logarithms;
      `motifs` (DataFrame: pairs × chains); `parameters`, the arguments

    Raises
    ------
    ValueError
        An argument is out of range.
    """
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    parameters = {name: value for name, value in locals().items() if name not in ("np", "pd", "AnnData")}
    _check_receptors(**parameters)
    biology_rng, clone_rng, cell_rng = np.random.default_rng([seed, 2]).spawn(3)
    responses = ["Response A", "Response B"]
    genes = pd.Index([f"Gene{number:04d}" for number in range(1, n_vars + 1)])
    var = pd.DataFrame({"log_baseline": biology_rng.normal(0, 1.2, n_vars)}, index=genes)
    var["inverse_dispersion"] = biology_rng.lognormal(np.log(4), 0.4, n_vars)
    shifts = response_strength * biology_rng.normal(0, 0.8, (n_vars, 2)) * (biology_rng.random((n_vars, 2)) < 0.15)
    effects = pd.DataFrame(shifts, index=genes, columns=responses)
    batches = [f"batch{number}" for number in range(n_batches)]
    batch_effects = batch_strength * biology_rng.normal(0, 0.3, (n_vars, n_batches))
    batch_effects = pd.DataFrame(batch_effects, index=genes, columns=batches)
    log_depth = batch_strength * biology_rng.normal(0, 0.3, n_batches)
    pairs = [f"Pair {number}" for number in range(1, n_epitopes // 2 + 1)]
    motifs = pd.DataFrame(_draw_motifs(len(pairs), biology_rng), index=pairs, columns=["alpha", "beta"])

    clones = _draw_clones(n_obs, n_epitopes, n_batches, motif_strength, motifs, clone_rng)
    clone = np.repeat(np.arange(len(clones)), clones["n_cells"])[cell_rng.permutation(n_obs)]
    of_cell = clones.iloc[clone]
    batch, epitope = of_cell["batch"].to_numpy(), of_cell["epitope"].to_numpy()
    state = np.eye(2)[epitope % 2]
    depth = np.exp(log_depth - log_depth.mean())[batch]
    library_size = mean_counts * depth * cell_rng.lognormal(-(0.35**2) / 2, 0.35, n_obs)
    counts = _draw_counts(state, effects, batch_effects, batch, library_size, var, cell_rng)

    obs = pd.DataFrame(index=[f"Cell{number:05d}" for number in range(1, n_obs + 1)])
    obs["batch"] = pd.Categorical.from_codes(batch, batches)
    obs["epitope"] = pd.Categorical.from_codes(epitope, [f"Epitope {number}" for number in range(1, n_epitopes + 1)])
    obs["pair"] = pd.Categorical.from_codes(epitope // 2, pairs)
    obs["response"] = pd.Categorical.from_codes(epitope % 2, responses)
    obs["clonotype"] = pd.Categorical([f"Clone{number:04d}" for number in clone + 1])
    for column in ("TRA_cdr3", "TRB_cdr3", "has_motif"):
        obs[column] = of_cell[column].to_numpy()
    obs["library_size"] = library_size
    truth = {"effects": effects, "batch_effects": batch_effects, "motifs": motifs, "parameters": parameters}
    return AnnData(counts, obs=obs, var=var, obsm={"X_truth": state.astype(np.float32)}, uns={"truth": truth})


def multiome(
    n_obs: int = 2000,
    n_vars: int = 500,
    n_peaks: int = 2000,
    n_batches: int = 2,
    n_types: int = 8,
    seed: int = 0,
    *,
    n_proteins: int = 0,
    measured: Mapping[str, Sequence[str]] | None = None,
    n_programs: int = 4,
    batch_strength: float = 1.0,
    type_strength: float = 1.0,
    mean_counts: float = 1500.0,
    mean_fragments: float = 500.0,
) -> AnnData:
    """An `atlas` whose cells have fragments in peaks of open chromatin besides RNA, and proteins if asked for.

    A peak is open where the gene beside it is expressed, more or less; three in ten are open in all cells alike.

    Parameters
    ----------
    n_obs, n_vars, n_batches, n_types, seed, n_programs, batch_strength, type_strength, mean_counts
        As in `atlas`; `batch_strength` also scales how batches differ in their peaks.
    n_peaks
        At least 1.
    n_proteins
        As in `cite_seq`; 0 for none.
    measured
        What is measured in a batch, of "rna", "atac" and "protein", such as {"batch1": ["rna"]}; all in the others.
    mean_fragments
        Expected fragments of a cell.

    Returns
    -------
    AnnData as from `atlas`, its modalities side by side as `MultiVAE` reads them: features of all in X,
    `var["modality"]`, and `obsm["modality_mask"]`; what is not measured is zero. Besides

    - `var["gene"]`, the gene beside a peak; `var["weight"]`, how it follows the gene
    - `obsm["atac_expected"]`: each peak's expected share of the fragments, float32 cells × peaks; also where the
      modality is not measured, as are the proteins' tables of `cite_seq`
    - `uns["truth"]`, in addition: `peak_batch_effects` (peaks × batches)

    Raises
    ------
    ValueError
        An argument is out of range.
    """
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse
    from scipy.special import softmax

    from .data.multimodal import MASK_KEY, MODALITY_KEY

    _check_whole("n_peaks", n_peaks, 1)
    if mean_fragments <= 0:
        raise ValueError(f"mean_fragments={mean_fragments!r} must be above 0.")
    strengths = dict(n_programs=n_programs, batch_strength=batch_strength, type_strength=type_strength)
    sizes = n_batches, n_types, seed
    if n_proteins:
        cells = cite_seq(n_obs, n_vars, n_proteins, *sizes, **strengths, mean_counts=mean_counts)
    else:
        cells = atlas(n_obs, n_vars, *sizes, **strengths, mean_counts=mean_counts)
    truth = cells.uns["truth"]
    peak_rng, cell_rng = np.random.default_rng([seed, 2]).spawn(2)
    starts = 1000 * np.arange(1, n_peaks + 1)
    peaks = pd.DataFrame({"gene": cells.var_names[np.arange(n_peaks) * n_vars // n_peaks]})
    peaks.index = [f"chr1-{start}-{start + 500}" for start in starts]
    peaks["weight"] = peak_rng.uniform(0.5, 1.5, n_peaks) * (peak_rng.random(n_peaks) < 0.7)
    peaks["log_baseline"] = peak_rng.normal(0, 1, n_peaks)
    shift = peak_rng.normal(0, 0.3, (n_peaks, n_batches)) * (peak_rng.random((n_peaks, n_batches)) < 0.5)
    batch_effects = pd.DataFrame(batch_strength * shift, index=peaks.index, columns=truth["batch_effects"].columns)
    effects = (truth["effects"].loc[peaks["gene"]].to_numpy() * peaks[["weight"]].to_numpy()).T
    logits = cells.obsm["X_truth"] @ effects + batch_effects[cells.obs["batch"]].to_numpy().T
    expected = softmax(logits + peaks["log_baseline"].to_numpy(), axis=1).astype(np.float32)
    n_fragments = mean_fragments * cell_rng.lognormal(-(0.4**2) / 2, 0.4, (n_obs, 1))
    fragments = sparse.csr_matrix(cell_rng.poisson(n_fragments * expected).astype(np.float32))

    blocks = {"rna": (cells.X, cells.var), "atac": (fragments, peaks)}
    if n_proteins:
        table = cells.obsm.pop("protein_expression")
        blocks["protein"] = sparse.csr_matrix(table.to_numpy(np.float32)), truth["proteins"]
    mask = pd.DataFrame(True, index=cells.obs_names, columns=[*blocks])
    for batch, names in (measured or {}).items():
        if batch not in batch_effects or not names or not set(names) <= {*blocks}:
            raise ValueError(
                f"measured={{{batch!r}: {names!r}}} must name batches of {[*batch_effects]} and, of each, at least one "
                f"of {[*blocks]}."
            )
        mask.loc[cells.obs["batch"] == batch, [name for name in blocks if name not in names]] = False
    X = [sparse.diags_array(mask[name].to_numpy(np.float32)) @ values for name, (values, _) in blocks.items()]
    X = sparse.csr_matrix(sparse.hstack(X))
    X.eliminate_zeros()
    X.sum_duplicates()
    var = pd.concat([table.assign(**{MODALITY_KEY: name}) for name, (_, table) in blocks.items()])
    var[MODALITY_KEY] = pd.Categorical(var[MODALITY_KEY], [*blocks])
    for name in ("gene", "node"):
        if name in var:
            var[name] = var[name].fillna("")
    truth["peak_batch_effects"] = batch_effects
    truth["parameters"] |= {"n_peaks": n_peaks, "n_proteins": n_proteins, "mean_fragments": mean_fragments}
    obsm = {**cells.obsm, "atac_expected": expected, MASK_KEY: mask}
    return AnnData(X, obs=cells.obs, var=var, obsm=obsm, uns={"truth": truth})


def tissue(
    n_obs: int = 2000,
    n_vars: int = 80,
    n_sections: int = 2,
    n_types: int = 8,
    seed: int = 0,
    *,
    n_dims: int = 2,
    n_regions: int = 8,
    n_fields: int = 6,
    field_strength: float = 1.0,
    section_strength: float = 1.0,
    mean_counts: float = 400.0,
) -> AnnData:
    """Counts of cells at known places: regions of which each has types of its own, types that recur at distant places,
    and genes that vary smoothly over the tissue, whatever the type.

    Each type is frequent in two regions far apart, so that it alone does not tell where a cell lies; the fields do.

    Parameters
    ----------
    n_obs
        Cells of all sections.
    n_vars
        Genes, at least 2 per type.
    n_sections
        Slices of one tissue, cells uniform over it. Their regions and fields are the same, their depths and ambient
        expression differ.
    n_types, n_regions, n_fields
        Cell types, regions (the parts of the tissue that are nearest to one of so many points), and fields.
    seed
        Tissue and sections are drawn apart from the cells: the same seed with another `n_obs` gives other cells of the
        same tissue.
    n_dims
        2 or 3. The tissue is 1,000 µm wide in each dimension; a section of a 3-D tissue is a whole block.
    field_strength
        Scale of the fields' effects. 0: cells of a type are alike wherever they lie.
    section_strength
        Scale of the sections' effects on genes and of their differences in depth.
    mean_counts
        Expected counts of a cell, averaged over sections (geometric mean).

    Returns
    -------
    AnnData of raw counts (CSR, float32) with

    - `obs`: `section`, `region`, `cell_type`, `library_size` (expected counts)
    - `var`: `log_baseline`, `inverse_dispersion`
    - `obsm["spatial"]`: coordinates (cells, n_dims), float64, in µm
    - `obsm["X_truth"]`: 1 for the cell's type, then the fields at its place (each of mean 0 and variance about 1)
    - `uns["truth"]`: `coordinates`, the names of X_truth's columns; `effects` (genes × coordinates) and
      `section_effects` (genes × sections), in natural logarithms; `region_centers` (regions × dimensions, µm);
      `type_shares` (regions × types); `parameters`, the arguments

    Raises
    ------
    ValueError
        An argument is out of range.
    """
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    parameters = {name: value for name, value in locals().items() if name not in ("np", "pd", "AnnData")}
    _check_tissue(**parameters)
    tissue_rng, section_rng, cell_rng = np.random.default_rng(seed).spawn(3)
    var, effects, fields = _draw_tissue_biology(n_vars, n_types, n_fields, n_dims, field_strength, tissue_rng)
    centers, type_shares = _draw_regions(n_regions, n_types, n_dims, tissue_rng)
    sections = [f"section{number}" for number in range(n_sections)]
    shifts = section_strength * section_rng.normal(0, 0.3, (n_vars, n_sections))
    section_effects = pd.DataFrame(shifts, index=var.index, columns=sections)
    log_depth = section_strength * section_rng.normal(0, 0.3, n_sections)
    depth = np.exp(log_depth - log_depth.mean())

    section = cell_rng.permutation(np.arange(n_obs) % n_sections)
    places = cell_rng.uniform(0, TISSUE_WIDTH, (n_obs, n_dims))
    region = ((places[:, None] - centers) ** 2).sum(-1).argmin(axis=1)
    by_chance = (cell_rng.random((n_obs, 1)) > type_shares.cumsum(axis=1)[region]).sum(axis=1)
    cell_type = np.minimum(by_chance, n_types - 1)  # shares may sum to a little less than 1
    state = np.hstack([np.eye(n_types)[cell_type], fields(places)])
    library_size = mean_counts * depth[section] * cell_rng.lognormal(-(0.35**2) / 2, 0.35, n_obs)
    counts = _draw_counts(state, effects, section_effects, section, library_size, var, cell_rng)

    obs = pd.DataFrame(index=[f"Cell{number:05d}" for number in range(1, n_obs + 1)])
    obs["section"] = pd.Categorical.from_codes(section, sections)
    obs["region"] = pd.Categorical.from_codes(region, [f"Region {number}" for number in range(n_regions)])
    obs["cell_type"] = pd.Categorical.from_codes(cell_type, effects.columns[:n_types])
    obs["library_size"] = library_size
    truth = {
        "coordinates": effects.columns.to_numpy(dtype=object),
        "effects": effects,
        "section_effects": section_effects,
        "region_centers": centers,
        "type_shares": pd.DataFrame(type_shares, obs["region"].cat.categories, obs["cell_type"].cat.categories),
        "parameters": parameters,
    }
    obsm = {"spatial": places, "X_truth": state.astype(np.float32)}
    return AnnData(counts, obs=obs, var=var, obsm=obsm, uns={"truth": truth})


def pbmc68k() -> AnnData:
    """700 real blood cells × 765 genes, which come with scanpy: nothing is downloaded.

    Returns
    -------
    AnnData whose `X` is log-normalised and scaled per gene, and whose `raw.X` is log-normalised: neither holds counts,
    so models of counts do not fit. Cell types are in `obs["bulk_labels"]`.

    References
    ----------
    Zheng et al. 2017, doi:10.1038/ncomms14049.
    """
    import scanpy

    return scanpy.datasets.pbmc68k_reduced()


def _check_ranges(
    n_obs, n_vars, n_batches, n_types, n_programs, seed, batch_strength, type_strength, mean_counts
) -> None:
    whole = {"n_batches": (n_batches, 1), "n_types": (n_types, 1), "n_programs": (n_programs, 0), "seed": (seed, 0)}
    for name, (value, least) in whole.items():
        _check_whole(name, value, least)
    _check_whole("n_obs", n_obs, n_batches * n_types, " (n_batches × n_types), so that every batch has every type")
    enough = 4 * (n_types + n_programs)
    _check_whole("n_vars", n_vars, enough, " (4 × (n_types + n_programs)), so that each has genes of its own")
    _check_strengths(batch_strength=batch_strength, type_strength=type_strength)
    _check_mean_counts(mean_counts)


def _check_tissue(
    n_obs, n_vars, n_sections, n_types, seed, n_dims, n_regions, n_fields, field_strength, section_strength, mean_counts
) -> None:
    if n_dims not in (2, 3):
        raise ValueError(f"n_dims={n_dims!r}: a tissue has 2 or 3 dimensions.")
    least = {"n_sections": (n_sections, 1), "n_types": (n_types, 1), "n_regions": (n_regions, 1)}
    for name, (value, at_least) in (least | {"n_fields": (n_fields, 0), "seed": (seed, 0)}).items():
        _check_whole(name, value, at_least)
    _check_whole("n_obs", n_obs, n_sections, " (n_sections), so that each section has a cell")
    _check_whole("n_vars", n_vars, 2 * n_types, " (2 × n_types), so that each type has genes of its own")
    _check_strengths(field_strength=field_strength, section_strength=section_strength)
    _check_mean_counts(mean_counts)


def _draw_tissue_biology(
    n_vars: int, n_types: int, n_fields: int, n_dims: int, field_strength: float, rng: np.random.Generator
):
    """Genes (`var`), effects (genes × types and fields), and the fields: a function of places, µm (cells, n_dims).

    A field is √2 cos(k·x + phase), of half a wave to one and a half over the tissue's width.
    """
    import numpy as np
    import pandas as pd

    genes = pd.Index([f"Gene{number:04d}" for number in range(1, n_vars + 1)])
    var = pd.DataFrame({"log_baseline": rng.normal(0, 1, n_vars)}, index=genes)
    var["inverse_dispersion"] = rng.lognormal(np.log(4), 0.4, n_vars)
    of_types = rng.normal(0, 0.3, (n_vars, n_types))
    owner = rng.permutation(n_vars) % (2 * n_types)  # half of the genes mark a type
    marks = owner < n_types
    of_types[np.flatnonzero(marks), owner[marks]] += rng.uniform(0.8, 1.6, marks.sum())
    of_fields = field_strength * rng.normal(0, 0.6, (n_vars, n_fields)) * (rng.random((n_vars, n_fields)) < 0.3)
    names = [*(f"Type {number}" for number in range(n_types)), *(f"Field {number}" for number in range(n_fields))]
    effects = pd.DataFrame(np.hstack([of_types, of_fields]), index=genes, columns=names)

    directions = rng.normal(0, 1, (n_fields, n_dims))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    waves = directions * 2 * np.pi * rng.uniform(0.5, 1.5, (n_fields, 1)) / TISSUE_WIDTH
    phases = rng.uniform(0, 2 * np.pi, n_fields)
    return var, effects, lambda places: np.sqrt(2) * np.cos(places @ waves.T + phases)


def _draw_regions(n_regions: int, n_types: int, n_dims: int, rng: np.random.Generator):
    """Centres of regions, µm (regions, n_dims), and shares of types, (regions, types), each type in two far regions."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    candidates = rng.uniform(0, TISSUE_WIDTH, (20, n_regions, n_dims))
    distances = np.linalg.norm(candidates[:, :, None] - candidates[:, None], axis=-1)
    nearest = np.where(np.eye(n_regions, dtype=bool), np.inf, distances).min(axis=(1, 2))
    best = int(nearest.argmax())  # so that no two regions share nearly one centre
    _, far_home = linear_sum_assignment(-distances[best])  # each region is another's, as far away as can be
    shares = np.full((n_regions, n_types), 0.2 / n_types)
    for cell_type in range(n_types):
        home = cell_type % n_regions
        shares[[home, far_home[home]], cell_type] += 1
    return candidates[best], shares / shares.sum(axis=1, keepdims=True)


def _check_receptors(
    n_obs, n_vars, n_epitopes, n_batches, seed, motif_strength, response_strength, batch_strength, mean_counts
) -> None:
    _check_whole("n_vars", n_vars, 40)
    _check_whole("n_batches", n_batches, 1)
    _check_whole("seed", seed, 0)
    _check_whole("n_epitopes", n_epitopes, 4)
    if n_epitopes % 2:
        raise ValueError(f"n_epitopes={n_epitopes} must be even, for epitopes come in pairs.")
    _check_whole("n_obs", n_obs, n_epitopes * n_batches, " (n_epitopes × n_batches), a cell for each")
    if not 0 <= motif_strength <= 1:
        raise ValueError(f"motif_strength={motif_strength!r} is a share of clonotypes, 0 to 1.")
    _check_strengths(response_strength=response_strength, batch_strength=batch_strength)
    _check_mean_counts(mean_counts)


def _draw_motifs(n: int, rng: np.random.Generator) -> list[list[str]]:
    """Four residues for each of `n` pairs of epitopes and each chain."""
    import numpy as np

    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    return [["".join(rng.choice(letters, 4)) for _ in range(2)] for _ in range(n)]


def _draw_clones(
    n_obs: int, n_epitopes: int, n_batches: int, motif_strength: float, motifs: pd.DataFrame, rng: np.random.Generator
) -> pd.DataFrame:
    """One row per clonotype: its cells (geometric, mean 4), donor, epitope and both CDR3, of 12 to 18 residues."""
    import numpy as np
    import pandas as pd

    letters, rows, left = np.array(list("ACDEFGHIKLMNPQRSTVWY")), [], n_obs
    ends = {"alpha": ("CAV", "F"), "beta": ("CASS", "EQYF")}
    while left:
        n_cells = min(left, int(rng.geometric(0.25)))
        left -= n_cells
        number = len(rows)
        epitope, has_motif = number % n_epitopes, bool(rng.random() < motif_strength)
        row = {
            "n_cells": n_cells,
            "epitope": epitope,
            "batch": number // n_epitopes % n_batches,
            "has_motif": has_motif,
        }
        for column, (chain, (start, end)) in zip(("TRA_cdr3", "TRB_cdr3"), ends.items()):
            middle = list(rng.choice(letters, rng.integers(12, 19) - len(start) - len(end)))
            if has_motif:
                middle[1:5] = motifs[chain].iloc[epitope // 2]
            row[column] = start + "".join(middle) + end
        rows.append(row)
    return pd.DataFrame(rows)


def _check_strengths(**strengths: float) -> None:
    for name, value in strengths.items():
        if not 0 <= value <= 5:
            raise ValueError(f"{name}={value!r} must lie between 0 (no effect) and 5.")


def _check_mean_counts(mean_counts: float) -> None:
    if not 0 < mean_counts <= 1e7:
        raise ValueError(f"mean_counts={mean_counts!r} must be more than 0 and at most 10 million counts per cell.")


def _check_whole(name: str, value: int, least: int, why: str = "") -> None:
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least:,}{why}.")


def _types(n_types: int) -> pd.DataFrame:
    """One row per type, one column per level; after the named types, generated ones, three to a family."""
    import pandas as pd

    generated = [
        (f"Type {number}", f"Family {number // 3}", f"Lineage {number // 9}")
        for number in range(len(IMMUNE_TYPES), n_types)
    ]
    return pd.DataFrame([*IMMUNE_TYPES, *generated][:n_types], columns=LEVELS[::-1])


def _program_names(n_programs: int) -> list[str]:
    return [*PROGRAMS, *(f"Program {number}" for number in range(len(PROGRAMS), n_programs))][:n_programs]


def _edges(types: pd.DataFrame) -> np.ndarray:
    """Rows of parent and child, from "root" down."""
    import numpy as np

    paths = types.assign(root="root")
    edges = [edge for parent, child in pairwise(["root", *LEVELS]) for edge in zip(paths[parent], paths[child])]
    return np.array(list(dict.fromkeys(edges)), dtype=object)


def _draw_biology(types: pd.DataFrame, n_vars: int, n_programs: int, type_strength: float, rng: np.random.Generator):
    """Genes (`var`), effects (genes × tree nodes and programs), and the genes of each type's markers and each program.

    What a lineage or family adds, all its types share: so siblings are alike and are confused first.
    """
    import numpy as np
    import pandas as pd

    genes = pd.Index([f"Gene{number:04d}" for number in range(1, n_vars + 1)])
    var = pd.DataFrame({"log_baseline": rng.normal(0, 1.2, n_vars)}, index=genes)
    var["inverse_dispersion"] = rng.lognormal(np.log(4), 0.4, n_vars)
    columns = {}
    for level, share_of_genes in zip(LEVELS, (0.2, 0.15, 0.08)):
        for node in types[level].unique():
            columns[node] = type_strength * rng.normal(0, 0.7, n_vars) * (rng.random(n_vars) < share_of_genes)
    effects = pd.DataFrame(columns | dict.fromkeys(_program_names(n_programs), 0.0), index=genes)

    shuffled = iter(rng.permutation(genes))  # so that no gene serves two types or programs
    n_markers = max(2, min(10, n_vars // (4 * len(types))))
    n_program_genes = max(2, min(40, n_vars // (4 * max(n_programs, 1))))
    markers = {name: sorted(islice(shuffled, n_markers)) for name in types["cell_type"]}
    programs = {name: sorted(islice(shuffled, n_program_genes)) for name in _program_names(n_programs)}
    for name, raised in markers.items():
        var.loc[raised, "log_baseline"] -= 1
        effects.loc[raised, name] = type_strength * rng.uniform(1, 2, n_markers)
    for name, raised in programs.items():
        effects.loc[raised, name] = rng.uniform(0.4, 1.0, n_program_genes)
    return var, effects, markers, programs


def _draw_batches(type_effects: pd.DataFrame, n_batches: int, batch_strength: float, rng: np.random.Generator):
    """Effects on the logarithm (genes × batches), relative depth of each batch, and its shares of types.

    A batch shifts half of the genes at random, and all along the types' own effects, as ambient RNA and dissociation
    do: only the second misleads neighbours, since random shifts stand at right angles to what tells types apart.
    """
    import numpy as np
    import pandas as pd

    n_vars, n_types = type_effects.shape
    at_random = rng.normal(0, 0.3, (n_vars, n_batches)) * (rng.random((n_vars, n_batches)) < 0.5)
    along_types = type_effects.to_numpy() @ rng.uniform(-0.7, 0.7, (n_types, n_batches))
    names = [f"batch{number}" for number in range(n_batches)]
    effects = pd.DataFrame(batch_strength * (at_random + along_types), index=type_effects.index, columns=names)
    log_depth = batch_strength * rng.normal(0, 0.3, n_batches)
    return effects, np.exp(log_depth - log_depth.mean()), rng.dirichlet(np.full(n_types, 4.0), n_batches)


def _partial_nodes(types: pd.DataFrame) -> list[str]:
    """Nodes of the tree that some types are below, and others not, each once; the finest first."""
    nodes = dict.fromkeys(node for level in LEVELS[::-1] for node in types[level])
    return [node for node in nodes if len(types) == 1 or not types.isin([node]).any(axis=1).all()]


def _draw_panel(
    nodes: list[str], n_proteins: int, batches: list[str], batch_strength: float, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What each protein marks and how it is measured, and its log background in each batch."""
    import numpy as np
    import pandas as pd

    n_markers = n_proteins - 2
    names = [*(f"Protein{number:02d}" for number in range(1, n_markers + 1)), "Control1", "Control2"]
    proteins = pd.DataFrame({"node": [nodes[i % len(nodes)] for i in range(n_markers)] + ["", ""]}, index=names)
    proteins["fold"] = np.where(proteins["node"] == "", 1.0, np.exp(rng.uniform(1.5, 3.5, n_proteins)))
    proteins["inverse_dispersion"] = rng.lognormal(np.log(10), 0.3, n_proteins)
    shift = batch_strength * rng.normal(0, 0.3, (n_proteins, len(batches)))
    return proteins, pd.DataFrame(rng.normal(1.8, 0.7, (n_proteins, 1)) + shift, index=names, columns=batches)


def _assign_cells(n_obs: int, type_shares: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Batch and type of each cell, in random order: one cell of each type in each batch, the others by chance."""
    import numpy as np

    n_batches, n_types = type_shares.shape
    n_sure = n_batches * n_types
    batch = np.concatenate([np.arange(n_sure) // n_types, rng.integers(n_batches, size=n_obs - n_sure)])
    by_chance = (rng.random((n_obs, 1)) > type_shares.cumsum(axis=1)[batch]).sum(axis=1)
    cell_type = np.minimum(by_chance, n_types - 1)  # shares may sum to a little less than 1
    cell_type[:n_sure] = np.arange(n_sure) % n_types
    order = rng.permutation(n_obs)
    return batch[order], cell_type[order]


def _draw_counts(state, effects, batch_effects, batch, library_size, var, rng: np.random.Generator) -> csr_matrix:
    """Negative binomial counts, float32 (cells, genes): a Poisson whose rate is gamma-distributed."""
    import numpy as np
    from scipy import sparse
    from scipy.special import softmax

    log_baseline, inverse_dispersion = var["log_baseline"].to_numpy(), var["inverse_dispersion"].to_numpy()
    effects, batch_effects = effects.to_numpy().T, batch_effects.to_numpy().T  # (coordinates, genes), (batches, genes)
    blocks = []
    for start in range(0, len(state), CELLS_AT_ONCE):
        cells = slice(start, start + CELLS_AT_ONCE)
        fractions = softmax(log_baseline + state[cells] @ effects + batch_effects[batch[cells]], axis=1)
        expected_counts = library_size[cells, None] * fractions
        rate = rng.gamma(inverse_dispersion, expected_counts / inverse_dispersion)
        blocks.append(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    return sparse.vstack(blocks, format="csr")
