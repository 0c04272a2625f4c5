"""The lesson on surgery and label transfer, executed top to bottom: what it says about its cells must come true."""

from typing import ClassVar

from lessons import NOTEBOOKS, Lesson


class TestSurgery(Lesson):
    path = NOTEBOOKS / "01_surgery.ipynb"
    asked: ClassVar = dict(
        status="[panel.status, mapping.status]",
        fit="{when: list(map(float, fit[when].values())) for when in fit}",
        same="bool(np.array_equal(before, model.get_latent_representation()))",
        trained="n_trained / n_weights",
        unseen='aurocs["finds the unseen type"].tolist()',
        right="[float(right.mean()), float(right[named].mean())]",
        unknown="[float((~named)[unseen].mean()), float((~named)[known].mean())]",
        trail="len(review.review.trail)",
        truth_hidden='"cell_type" not in query.obs',
    )

    def test_surgery_brings_the_new_cells_nearer_and_leaves_the_reference_as_it_was(self, said):
        assert said["status"] == ["done", "done"] and said["truth_hidden"]
        (right_before, mixed_before), (right_after, mixed_after) = said["fit"].values()
        assert right_after > right_before and mixed_after > mixed_before + 0.05
        assert said["same"] and said["trained"] < 0.01

    def test_novelty_finds_the_type_that_the_atlas_lacks_better_than_the_vote_does(self, said):
        vote, _, novelty = said["unseen"]
        assert novelty > 0.85 and novelty > vote + 0.03

    def test_names_that_are_kept_are_right_and_the_unseen_type_has_none(self, said):
        of_all, of_kept = said["right"]
        assert of_kept > 0.95 and of_kept > of_all + 0.1
        of_unseen, of_known = said["unknown"]
        assert of_unseen > 0.9 and of_known < 0.4
        assert said["trail"] >= 3, "the review began, rejected cells, and was applied"
