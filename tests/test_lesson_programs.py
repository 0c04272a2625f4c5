"""The lesson on gene programs, executed top to bottom: what it says about its cells must come true."""

import pytest
from lessons import NOTEBOOKS, executed, fits_a_small_machine, growth_of

pytestmark = pytest.mark.slow

LESSON = NOTEBOOKS / "03_programs.ipynb"


@pytest.fixture(scope="module")
def lesson():
    """The notebook with its outputs, and what its kernel then said."""
    return executed(
        LESSON,
        status="[run.status, explorer.status]",
        first='[explorer.table["term"].iloc[0], best]',
        factors='found["bayes_factor"].to_dict()',
        shifts='found["mean_shift"].to_dict()',
        correlations="correlations.tolist()",
        highest="by_type.idxmax().to_dict()",
    )


def test_the_program_that_differs_comes_first_and_random_genes_hardly_shift(lesson):
    _, said = lesson
    assert said["status"] == ["done", "ready"] and said["first"] == ["Interferon response"] * 2
    assert max(said["factors"].values()) < 2.3
    decoys = [abs(shift) for term, shift in said["shifts"].items() if term.startswith("Decoy")]
    assert len(decoys) == 6 and max(decoys) < said["shifts"]["Interferon response"] / 3


def test_scores_follow_what_cells_truly_do(lesson):
    _, said = lesson
    assert min(said["correlations"]) > 0.7


def test_logarithms_are_refused_as_counts_and_known_types_run_known_programs(lesson):
    notebook, said = lesson
    texts = [output["text"] for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
    assert any("The model's likelihood is one of raw counts" in text for text in texts)
    highest = said["highest"]
    assert highest["B cells"] == "CD19+ B" and highest["Cytotoxicity"] == "CD56+ NK"
    assert highest["Monocytes"] in ("Dendritic", "CD14+ Monocyte")


def test_the_lesson_fits_a_small_machine(lesson, record_property):
    _, said = lesson
    assert fits_a_small_machine(said, record_property), said


def test_the_lesson_is_kept_without_outputs_and_is_small_with_them(lesson):
    notebook, _ = lesson
    assert growth_of(LESSON, notebook) < 300_000
