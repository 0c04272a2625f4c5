"""The lesson on tissue, executed top to bottom: what it says about its cells must come true."""

from typing import ClassVar

from lessons import NOTEBOOKS, Lesson


class TestTissue(Lesson):
    path = NOTEBOOKS / "09_tissue.ipynb"
    asked: ClassVar = dict(
        status="mapper.status",
        better="bool(mapper.held_out.is_better)",
        correlations="[correlation, of_neighbours]",
        errors="[float(np.median(error[sure])), float(np.median(error[~sure]))]",
        right="[float(right[sure].mean()), float(right[~sure].mean())]",
        unknown='float((query.obs["predicted_region"] == "Unknown").mean())',
        written='"X_sagenet" in query.obsm',
        zone='int((reference.obs["zone"] == "left rim").sum())',
        truth_hidden='"spatial" not in query.obsm and "region" not in query.obs',
    )

    def test_cells_are_placed_better_than_by_neighbours_and_best_where_the_model_is_confident(self, said):
        assert said["status"] == "done" and said["better"] and said["truth_hidden"]
        ours, neighbours = said["correlations"]
        assert ours > neighbours + 0.05
        assert said["errors"][0] < said["errors"][1] and said["right"][0] > said["right"][1]

    def test_unassigned_cells_are_unknown_and_a_region_is_named_by_hand(self, said):
        assert said["written"] and 0.2 < said["unknown"] < 0.3
        assert 100 < said["zone"] < 220
