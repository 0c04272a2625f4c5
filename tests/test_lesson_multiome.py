"""The lesson on RNA and chromatin, executed top to bottom: what it says about its cells must come true."""

from typing import ClassVar

from lessons import NOTEBOOKS, Lesson


class TestMultiome(Lesson):
    path = NOTEBOOKS / "05_multiome.ipynb"
    asked: ClassVar = dict(
        status="[panel.status, mapping.status]",
        hidden="sorted({'cell_type', 'atac_expected'} & {*query.obs, *query.obsm, *reference.obsm})",
        measured="has[['rna', 'atac']].astype(bool).to_numpy().tolist()",
        right="right",
        mixing="mixing",
        sure="[int(sure.sum()), int((~sure).sum()), float(is_right[sure].mean()), float(is_right[~sure].mean())]",
        meet="meet.tolist()",
        correlations="correlations.to_dict()",
        fold="[float(fold.corr().iloc[0, 1]), int(called.sum()), float((~follows)[called].mean())]",
    )

    def test_cells_measured_by_one_modality_are_named_better_than_by_components(self, said):
        assert said["status"] == ["done", "done"] and said["hidden"] == []
        assert said["measured"] == [[True, True], [True, False], [False, True]]
        for who, lead in (("RNA only", 0.1), ("ATAC only", 0.03)):
            found = said["right"][who]
            assert found["MultiVAE"] > 0.8 and found["MultiVAE"] > found["PCA"] + lead
        assert 0.5 < said["mixing"] < 0.9, "a rest of the sample is left in the latents"

    def test_where_neighbours_agree_names_of_a_new_sample_are_right_more_often(self, said):
        n_sure, n_others, of_sure, of_others = said["sure"]
        assert n_sure > 2 * n_others > 0 and of_sure > 0.8 and of_sure > of_others + 0.1

    def test_the_halves_of_a_cell_meet_in_its_type_and_hardly_nearer(self, said):
        among_all, among_its_type = said["meet"]
        assert among_all < 0.15 and 0.3 < among_its_type < 0.5

    def test_imputed_chromatin_follows_the_type_and_less_the_cell(self, said):
        of_model, of_ridge = said["correlations"]["MultiVAE"], said["correlations"]["ridge"]
        assert all(of_model[where] > of_ridge[where] + 0.03 for where in of_model)
        assert of_model["within a type"] < of_model["all cells"] - 0.1 < 0.6
        correlation, n_called, in_vain = said["fold"]
        assert correlation > 0.75 and n_called > 80 and 0 < in_vain < 0.15
