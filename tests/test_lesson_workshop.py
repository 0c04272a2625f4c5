"""The workshop: it runs for those who answer nothing, its exercises fail then, and its own solutions pass them."""

from typing import ClassVar

import nbformat
from lessons import NOTEBOOKS, Lesson, executed, fits_a_small_machine

NAMES = ["counts", "training", "surgery", "doubt", "order"]
SOLVED = """
failed_first = failed_first + [not {0}.check()] if "failed_first" in globals() else [not {0}.check()]
while {0}.ladder["solution"] is None:
    {0}.climb()
exec({0}.solution)
{0}.assert_passed()
exec({0}.code())
"""


class TestWorkshop(Lesson):
    """Executed as it is, and with each exercise checked, then solved by its own solution."""

    path = NOTEBOOKS / "11_workshop.ipynb"
    asked: ClassVar = dict(passed="[exercise.passed for exercise in exercises]")

    def test_it_runs_for_those_who_answer_nothing_and_no_exercise_is_passed(self, said):
        assert said["passed"] == [False] * 5

    def test_each_exercise_fails_at_first_and_its_solution_and_asserts_pass(self, tmp_path, record_property):
        notebook = nbformat.read(self.path, 4)
        for name in NAMES:
            i = next(i for i, cell in enumerate(notebook.cells) if cell.source.rstrip().endswith(f"\n{name}"))
            notebook.cells.insert(i + 1, nbformat.v4.new_code_cell(SOLVED.format(name)))
        path = tmp_path / f"{self.path.stem} solved.ipynb"
        nbformat.write(notebook, path)
        _, said = executed(path, failed_first="failed_first", **self.asked)
        assert said["failed_first"] == [True] * 5 and said["passed"] == [True] * 5
        fits_a_small_machine(said, record_property)
