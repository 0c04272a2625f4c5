import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.special import softmax

from scarches_widgets import datasets
from scarches_widgets.mapping import metrics


@pytest.fixture(scope="module")
def atlas():
    return datasets.atlas()


def principal_components(adata, n_components=30):
    from sklearn.decomposition import PCA

    counts = adata.X.toarray()
    return PCA(n_components, random_state=0).fit_transform(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)))


def expected_counts(adata):
    """The formula at the top of datasets.py, from what the AnnData holds."""
    truth = adata.uns["truth"]
    logits = adata.var["log_baseline"].to_numpy() + adata.obsm["X_truth"] @ truth["effects"].to_numpy().T
    logits += truth["batch_effects"][adata.obs["batch"]].to_numpy().T
    return adata.obs["library_size"].to_numpy()[:, None] * softmax(logits, axis=1)


def test_an_atlas_holds_raw_counts_and_names_for_batches_and_three_levels_of_types(atlas):
    assert atlas.shape == (2000, 500)
    assert sparse.isspmatrix_csr(atlas.X) and atlas.X.dtype == np.float32
    assert (atlas.X.data > 0).all() and (atlas.X.data == np.round(atlas.X.data)).all()
    assert list(atlas.obs["batch"].cat.categories) == ["batch0", "batch1", "batch2"]
    assert atlas.obs[["type_level1", "type_level2", "cell_type"]].nunique().tolist() == [2, 4, 8]
    assert atlas.obs_names.is_unique and atlas.var_names[0] == "Gene0001"


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_ones():
    one, same, other = (datasets.atlas(300, 60, seed=seed) for seed in (5, 5, 6))
    assert one.X.data.tobytes() == same.X.data.tobytes() and one.X.indices.tobytes() == same.X.indices.tobytes()
    pd.testing.assert_frame_equal(one.obs, same.obs)
    assert one.X.nnz != other.X.nnz


def test_the_global_random_state_is_neither_read_nor_moved():
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = datasets.atlas(300, 60)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert (one.X != datasets.atlas(300, 60).X).nnz == 0


def test_the_same_seed_with_more_cells_gives_more_cells_of_the_same_atlas():
    few, many = datasets.atlas(300, 60), datasets.atlas(900, 60)
    pd.testing.assert_frame_equal(few.var, many.var)
    for truth in ("effects", "batch_effects"):
        pd.testing.assert_frame_equal(few.uns["truth"][truth], many.uns["truth"][truth])


def test_every_type_occurs_in_every_batch_even_among_few_cells():
    adata = datasets.atlas(40, 100, n_batches=4, n_types=10)
    assert (pd.crosstab(adata.obs["batch"], adata.obs["cell_type"]) == 1).all(axis=None)


def test_counts_have_the_mean_and_variance_that_the_truth_says(atlas):
    mean = expected_counts(atlas)
    variance = mean + mean**2 / atlas.var["inverse_dispersion"].to_numpy()
    residuals = (atlas.X.toarray() - mean) / np.sqrt(variance)
    assert abs(residuals.mean()) < 0.005
    assert residuals.var() == pytest.approx(1, abs=0.02)
    for batch in atlas.obs["batch"].cat.categories:
        assert abs(residuals[atlas.obs["batch"] == batch].mean()) < 0.01


def test_library_size_is_the_expected_number_of_counts(atlas):
    ratio = np.asarray(atlas.X.sum(axis=1)).ravel() / atlas.obs["library_size"]
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert ratio.std() < 0.15


def test_markers_are_higher_in_their_type_than_in_its_siblings(atlas):
    markers = atlas.uns["truth"]["markers"]
    assert len(set().union(*markers.values())) == sum(map(len, markers.values()))  # no gene marks two types
    for name, genes in markers.items():
        own = atlas.obs["cell_type"] == name
        siblings = (atlas.obs["type_level2"] == atlas.obs["type_level2"][own].iloc[0]) & ~own
        if siblings.any():
            rates = [atlas[cells, genes].X.sum() / atlas.X[cells.to_numpy()].sum() for cells in (own, siblings)]
            assert rates[0] > 1.5 * rates[1], name


def test_cells_that_run_a_program_express_more_of_its_genes(atlas):
    truth = atlas.uns["truth"]
    assert list(truth["programs"]) == ["Interferon response", "Cell cycle", "Hypoxia", "Stress response"]
    for name, genes in truth["programs"].items():
        activity = atlas.obsm["X_truth"][:, list(truth["coordinates"]).index(name)]
        share = np.asarray(atlas[:, genes].X.sum(axis=1)).ravel() / atlas.obs["library_size"]
        assert share[activity > 1].mean() > 1.3 * share[activity == 0].mean(), name


@pytest.mark.parametrize("n_types", [1, 8, 24, 40])
def test_the_types_form_a_tree_in_which_every_name_is_unique(n_types):
    adata = datasets.atlas(n_types, 4 * n_types + 16, n_batches=1, n_types=n_types)
    parents, children = adata.uns["truth"]["hierarchy"].T
    assert len(set(children)) == len(children)  # each node has one parent
    assert set(parents) - set(children) == {"root"}
    leaves = set(children) - set(parents)
    assert leaves == set(adata.obs["cell_type"]) and len(leaves) == n_types
    parent_of = dict(zip(children, parents))
    assert all(parent_of[obs.cell_type] == obs.type_level2 for obs in adata.obs.itertuples())
    assert all(parent_of[obs.type_level2] == obs.type_level1 for obs in adata.obs.itertuples())


def test_neighbours_in_a_pca_label_a_new_batch_well_but_imperfectly(atlas):
    z, labels, batches = principal_components(atlas), atlas.obs["cell_type"], atlas.obs["batch"]
    assert 0.75 < metrics.transfer_accuracy(z, labels, batches) < 0.92
    assert metrics.batch_mixing_within_types(z, labels, batches) < 0.4
    assert metrics.knn_accuracy(z, labels) > 0.95  # the types are there to be found


def test_errors_stay_mostly_within_the_family_of_the_type(atlas):
    z, batches = principal_components(atlas), atlas.obs["batch"]
    families = metrics.transfer_accuracy(z, atlas.obs["type_level2"], batches)
    assert families > metrics.transfer_accuracy(z, atlas.obs["cell_type"], batches) + 0.05


def test_without_batch_effects_batches_mix_and_a_new_batch_is_labelled_rightly():
    adata = datasets.atlas(batch_strength=0)
    z, labels, batches = principal_components(adata), adata.obs["cell_type"], adata.obs["batch"]
    assert metrics.batch_mixing_within_types(z, labels, batches) > 0.95
    assert metrics.transfer_accuracy(z, labels, batches) > 0.95


def test_without_type_effects_types_cannot_be_told_apart():
    adata = datasets.atlas(type_strength=0, n_programs=0, batch_strength=0)
    assert metrics.knn_accuracy(principal_components(adata), adata.obs["cell_type"]) < 0.3


def test_an_atlas_is_the_same_after_writing_and_reading(tmp_path):
    adata = datasets.atlas(100, 80)
    adata.write_h5ad(tmp_path / "atlas.h5ad")
    read = ad.read_h5ad(tmp_path / "atlas.h5ad")
    assert (read.X != adata.X).nnz == 0
    assert list(read.uns["truth"]["markers"]["Naive B"]) == adata.uns["truth"]["markers"]["Naive B"]
    assert read.uns["truth"]["hierarchy"].tolist() == adata.uns["truth"]["hierarchy"].tolist()
    np.testing.assert_array_equal(read.uns["truth"]["effects"], adata.uns["truth"]["effects"])
    assert datasets.atlas(**read.uns["truth"]["parameters"]).X.nnz == adata.X.nnz


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_obs": 23}, "n_obs=23 must be a whole number of at least 24"),
        ({"n_obs": 2000.0}, "n_obs=2000.0 must be a whole number"),
        ({"n_vars": 47}, "n_vars=47 must be a whole number of at least 48"),
        ({"n_types": 600}, "n_vars=500 must be a whole number of at least 2,416"),
        ({"n_types": 0}, "n_types=0 must be"),
        ({"n_batches": 0}, "n_batches=0 must be"),
        ({"n_programs": -1}, "n_programs=-1 must be"),
        ({"seed": None}, "seed=None must be"),
        ({"batch_strength": -0.1}, "batch_strength=-0.1 must lie between 0"),
        ({"type_strength": np.nan}, "type_strength=nan must lie between 0"),
        ({"mean_counts": 0}, "mean_counts=0 must be more than 0"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.atlas(**{"n_obs": 20_000, **arguments})


def test_the_blood_cells_of_scanpy_come_without_a_download(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)
    adata = datasets.pbmc68k()
    assert adata.shape == (700, 765)
    assert adata.X.min() < 0 and adata.raw.X.min() >= 0
    assert "CD19+ B" in set(adata.obs["bulk_labels"])


def test_importing_the_module_imports_no_heavy_package():
    code = "import sys, scarches_widgets.datasets as d; assert not {'pandas', 'anndata', 'scanpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------- RNA and proteins


@pytest.fixture(scope="module")
def cite_seq():
    return datasets.cite_seq()


def test_cells_with_proteins_have_the_rna_of_an_atlas_and_raw_counts_of_proteins(cite_seq):
    rna = datasets.atlas(n_batches=2)
    assert (cite_seq.X != rna.X).nnz == 0 and cite_seq.obs.equals(rna.obs)
    counts = cite_seq.obsm["protein_expression"]
    assert counts.shape == (2000, 20) and (counts.dtypes == "int32").all() and (counts.to_numpy() >= 0).all()
    again = datasets.cite_seq()
    pd.testing.assert_frame_equal(again.obsm["protein_expression"], counts)
    assert not datasets.cite_seq(seed=1).obsm["protein_expression"].equals(counts)


def test_a_protein_is_in_the_foreground_where_its_node_of_the_tree_is_and_a_control_nowhere(cite_seq):
    proteins, foreground = cite_seq.uns["truth"]["proteins"], cite_seq.obsm["protein_foreground"]
    assert not foreground[["Control1", "Control2"]].to_numpy().any()
    levels = cite_seq.obs[["type_level1", "type_level2", "cell_type"]].astype(str)
    for name, node in proteins["node"][:-2].items():
        below = (levels == node).any(axis=1)
        assert 0 < below.mean() < 1
        assert foreground.loc[below, name].mean() > 0.9 and foreground.loc[~below, name].mean() < 0.06


def test_protein_counts_follow_the_formula_of_their_truth(cite_seq):
    truth = cite_seq.uns["truth"]
    counts, expected = (cite_seq.obsm[f"protein_{key}"].to_numpy() for key in ("expression", "expected"))
    theta = truth["proteins"]["inverse_dispersion"].to_numpy()
    standardised = (counts - expected) / np.sqrt(expected + expected**2 / theta)
    assert abs(standardised.mean()) < 0.02 and abs(standardised.std() - 1) < 0.02
    log_ratio = np.log(expected) - truth["log_background"][cite_seq.obs["batch"]].to_numpy().T
    is_foreground = cite_seq.obsm["protein_foreground"].to_numpy()
    assert abs(log_ratio[~is_foreground].mean()) < 0.05  # depth and antibody that sticks: mean zero


def test_a_panel_too_small_for_its_controls_is_refused():
    with pytest.raises(ValueError, match="n_proteins=2 must be a whole number of at least 3, two of which"):
        datasets.cite_seq(n_proteins=2)


# ---------------------------------------------------------------------------------------------------------- multiome


@pytest.fixture(scope="module")
def multiome():
    return datasets.multiome(600, 60, 200, n_proteins=6, n_types=4)


def test_cells_with_chromatin_have_the_rna_and_proteins_of_others_and_fragments_in_peaks(multiome):
    cite = datasets.cite_seq(600, 60, 6, n_types=4)
    of = {name: multiome[:, multiome.var["modality"] == name] for name in ("rna", "atac", "protein")}
    assert (of["rna"].X != cite.X).nnz == 0 and of["rna"].obs.equals(cite.obs)
    np.testing.assert_array_equal(of["protein"].X.toarray(), cite.obsm["protein_expression"])
    assert of["atac"].shape == (600, 200) and of["atac"].var["gene"].isin(of["rna"].var_names).all()
    assert multiome.obsm["modality_mask"].all(axis=None) and multiome.X.has_canonical_format
    assert (datasets.multiome(600, 60, 200, n_proteins=6, n_types=4).X != multiome.X).nnz == 0


def test_fragments_follow_the_genes_beside_their_peaks(multiome):
    fragments = multiome[:, multiome.var["modality"] == "atac"].X.toarray()
    expected = multiome.obsm["atac_expected"] * fragments.sum(1, keepdims=True)
    standardised = (fragments - expected) / np.sqrt(expected)
    assert abs(standardised.mean()) < 0.02 and abs(standardised.std() - 1) < 0.03
    peaks = multiome.var[multiome.var["modality"] == "atac"]
    effects = multiome.uns["truth"]["effects"].loc[peaks["gene"]].to_numpy() * peaks[["weight"]].to_numpy()
    batch_effects = multiome.uns["truth"]["peak_batch_effects"][multiome.obs["batch"]].to_numpy().T
    logits = multiome.obsm["X_truth"] @ effects.T + batch_effects + peaks["log_baseline"].to_numpy()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(multiome.obsm["atac_expected"], shares, rtol=1e-4)


def test_what_is_not_measured_in_a_batch_is_zero_and_masked(multiome):
    mosaic = datasets.multiome(600, 60, 200, n_proteins=6, n_types=4, measured={"batch1": ["rna", "protein"]})
    lacks = (mosaic.obs["batch"] == "batch1").to_numpy()
    is_peak = (mosaic.var["modality"] == "atac").to_numpy()
    assert mosaic.obsm["modality_mask"]["atac"].tolist() == (~lacks).tolist()
    assert mosaic[lacks, is_peak].X.nnz == 0
    for cells, features in ((~lacks, slice(None)), (slice(None), ~is_peak)):
        assert (mosaic[cells, features].X != multiome[cells, features].X).nnz == 0
    with pytest.raises(ValueError, match=r"measured=\{'batch9': \['rna'\]\} must name batches"):
        datasets.multiome(600, 60, 200, measured={"batch9": ["rna"]})
    with pytest.raises(ValueError, match="n_peaks=0 must be a whole number of at least 1"):
        datasets.multiome(n_peaks=0)
    with pytest.raises(ValueError, match="mean_fragments=0 must be above 0"):
        datasets.multiome(mean_fragments=0)


# ------------------------------------------------------------------------------------------------------------ tissue


@pytest.fixture(scope="module", params=[2, 3], ids=["2-D", "3-D"])
def tissue(request):
    return datasets.tissue(n_dims=request.param)


def test_a_tissue_holds_raw_counts_of_cells_at_places_in_sections_and_regions(tissue):
    n_dims = tissue.uns["truth"]["parameters"]["n_dims"]
    assert tissue.shape == (2000, 80) and sparse.isspmatrix_csr(tissue.X)
    assert (tissue.X.data > 0).all() and (tissue.X.data == np.round(tissue.X.data)).all()
    places = tissue.obsm["spatial"]
    assert places.shape == (2000, n_dims) and places.min() >= 0 and places.max() <= 1000
    assert tissue.obs["section"].value_counts().tolist() == [1000, 1000]
    centers = tissue.uns["truth"]["region_centers"]
    nearest = np.linalg.norm(places[:, None] - centers, axis=-1).argmin(1)
    assert (tissue.obs["region"].cat.codes == nearest).all()


def test_each_type_of_a_tissue_is_frequent_in_two_regions_far_apart(tissue):
    truth = tissue.uns["truth"]
    is_home = truth["type_shares"].to_numpy() > 0.2
    assert (is_home.sum(0) == 2).all()
    distances = np.linalg.norm(truth["region_centers"][:, None] - truth["region_centers"], axis=-1)
    for homes in is_home.T:
        first, second = np.flatnonzero(homes)
        assert distances[first, second] > 400
    found = pd.crosstab(tissue.obs["region"], tissue.obs["cell_type"], normalize="index").to_numpy()
    assert np.abs(found - truth["type_shares"].to_numpy()).max() < 0.12


def test_counts_of_a_tissue_follow_the_formula_of_their_truth(tissue):
    truth = tissue.uns["truth"]
    logits = tissue.var["log_baseline"].to_numpy() + tissue.obsm["X_truth"] @ truth["effects"].to_numpy().T
    logits += truth["section_effects"][tissue.obs["section"]].to_numpy().T
    expected = tissue.obs["library_size"].to_numpy()[:, None] * softmax(logits, axis=1)
    variance = expected + expected**2 / tissue.var["inverse_dispersion"].to_numpy()
    standardised = (tissue.X.toarray() - expected) / np.sqrt(variance)
    assert abs(standardised.mean()) < 0.02 and abs(standardised.std() - 1) < 0.02


def test_a_field_of_a_tissue_has_one_value_at_one_place_and_varies_smoothly(tissue):
    fields, places = tissue.obsm["X_truth"][:, 8:], tissue.obsm["spatial"]
    distance = np.linalg.norm(places[:500, None] - places[None, :500], axis=-1)
    near = (distance > 0) & (distance < 40)
    change = np.abs(fields[:500, None] - fields[None, :500]).max(-1)
    assert change[near].max() < 0.6 < change.max()


def test_the_same_seed_with_more_cells_is_the_same_tissue():
    few, many = datasets.tissue(100, seed=3), datasets.tissue(400, seed=3)
    for name in ("effects", "section_effects"):
        pd.testing.assert_frame_equal(few.uns["truth"][name], many.uns["truth"][name])
    np.testing.assert_array_equal(few.uns["truth"]["region_centers"], many.uns["truth"]["region_centers"])
    assert (few.X != datasets.tissue(100, seed=3).X).nnz == 0
    assert (few.X != datasets.tissue(100, seed=4).X).nnz > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_dims": 4}, "n_dims=4: a tissue has 2 or 3"),
        ({"n_obs": 1}, r"n_obs=1 must be a whole number of at least 2 \(n_sections\)"),
        ({"n_vars": 15}, "n_vars=15 must be a whole number of at least 16"),
        ({"n_regions": 0}, "n_regions=0 must be"),
        ({"field_strength": -1}, "field_strength=-1 must lie between 0"),
        ({"mean_counts": 0}, "mean_counts=0 must be more than 0"),
    ],
)
def test_a_tissue_s_argument_out_of_range_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.tissue(**arguments)


# --------------------------------------------------------------------------------------------------------- receptors


def test_receptors_carry_the_motifs_of_their_pair_and_cells_the_response_of_their_genes():
    cells = datasets.receptors(400, 60)
    motifs = cells.uns["truth"]["motifs"]
    for column, chain in (("TRA_cdr3", "alpha"), ("TRB_cdr3", "beta")):
        assert all(motif in text for motif, text in zip(motifs[chain].loc[cells.obs["pair"]], cells.obs[column]))
    number = cells.obs["epitope"].cat.codes
    assert (number // 2 == cells.obs["pair"].cat.codes).all() and (number % 2 == cells.obs["response"].cat.codes).all()
    np.testing.assert_array_equal(cells.obsm["X_truth"].argmax(1), number % 2)


def test_cells_of_a_clonotype_share_receptor_epitope_and_donor():
    cells = datasets.receptors(400, 60)
    shared = cells.obs.groupby("clonotype", observed=True)[["TRA_cdr3", "TRB_cdr3", "epitope", "batch"]].nunique()
    assert (shared == 1).all().all() and 50 < len(shared) < 200


def test_without_motifs_receptors_are_drawn_by_chance():
    cells = datasets.receptors(400, 60, motif_strength=0.0)
    assert not cells.obs["has_motif"].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_epitopes": 5}, "n_epitopes=5 must be even"),
        ({"n_obs": 3}, "n_obs=3"),
        ({"motif_strength": 2}, "motif_strength=2"),
    ],
)
def test_an_argument_of_receptors_out_of_range_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.receptors(**arguments)
