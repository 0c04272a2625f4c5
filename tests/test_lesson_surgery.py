"""The lesson on surgery and label transfer, executed top to bottom: what it says about its cells must come true."""

import pytest
from lessons import NOTEBOOKS, executed, fits_a_small_machine, growth_of

pytestmark = pytest.mark.slow

LESSON = NOTEBOOKS / "01_surgery.ipynb"


@pytest.fixture(scope="module")
def lesson():
    """The notebook with its outputs, and what its kernel then said."""
    return executed(
        LESSON,
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


def test_surgery_brings_the_new_cells_nearer_and_leaves_the_reference_as_it_was(lesson):
    _, said = lesson
    assert said["status"] == ["done", "done"] and said["truth_hidden"]
    (right_before, mixed_before), (right_after, mixed_after) = said["fit"].values()
    assert right_after > right_before and mixed_after > mixed_before + 0.05
    assert said["same"] and said["trained"] < 0.01


def test_novelty_finds_the_type_that_the_atlas_lacks_better_than_the_vote_does(lesson):
    _, said = lesson
    vote, _, novelty = said["unseen"]
    assert novelty > 0.85 and novelty > vote + 0.03


def test_names_that_are_kept_are_right_and_the_unseen_type_has_none(lesson):
    _, said = lesson
    of_all, of_kept = said["right"]
    assert of_kept > 0.95 and of_kept > of_all + 0.1
    of_unseen, of_known = said["unknown"]
    assert of_unseen > 0.9 and of_known < 0.4
    assert said["trail"] >= 3, "the review began, rejected cells, and was applied"


def test_the_lesson_fits_a_small_machine(lesson, record_property):
    _, said = lesson
    assert fits_a_small_machine(said, record_property), said


def test_the_lesson_is_kept_without_outputs_and_is_small_with_them(lesson):
    notebook, _ = lesson
    assert growth_of(LESSON, notebook) < 300_000
