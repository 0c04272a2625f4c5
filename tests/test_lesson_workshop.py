"""The workshop: it runs for those who answer nothing, its exercises fail then, and its own solutions pass them."""

import nbformat
import pytest
from lessons import NOTEBOOKS, executed, fits_a_small_machine, growth_of

pytestmark = pytest.mark.slow

LESSON = NOTEBOOKS / "11_workshop.ipynb"
NAMES = ["counts", "training", "surgery", "doubt", "order"]
SOLVED = """
failed_first = failed_first + [not {0}.check()] if "failed_first" in globals() else [not {0}.check()]
while {0}.ladder["solution"] is None:
    {0}.climb()
exec({0}.solution)
{0}.assert_passed()
exec({0}.code())
"""


@pytest.fixture(scope="module")
def unanswered():
    """As it runs from top to bottom."""
    return executed(LESSON, passed="[exercise.passed for exercise in exercises]")


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """With each exercise checked, then solved by its own solution."""
    notebook = nbformat.read(LESSON, 4)
    for name in NAMES:
        i = next(i for i, cell in enumerate(notebook.cells) if cell.source.rstrip().endswith(f"\n{name}"))
        notebook.cells.insert(i + 1, nbformat.v4.new_code_cell(SOLVED.format(name)))
    path = tmp_path_factory.mktemp("workshop") / LESSON.name
    nbformat.write(notebook, path)
    return executed(path, failed_first="failed_first", passed="[exercise.passed for exercise in exercises]")


def test_it_runs_for_those_who_answer_nothing_and_no_exercise_is_passed(unanswered):
    _, said = unanswered
    assert said["passed"] == [False] * 5


def test_each_exercise_fails_at_first_and_its_solution_and_asserts_pass(solved):
    _, said = solved
    assert said["failed_first"] == [True] * 5 and said["passed"] == [True] * 5


def test_the_lesson_fits_a_small_machine(solved, record_property):
    _, said = solved
    assert fits_a_small_machine(said, record_property), said


def test_the_lesson_is_kept_without_outputs_and_is_small_with_them(unanswered):
    notebook, _ = unanswered
    assert growth_of(LESSON, notebook) < 300_000
