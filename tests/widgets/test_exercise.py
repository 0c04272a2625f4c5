"""An exercise without a page: wrong answers fail, right ones pass, and what a page sends is looked at first."""

from __future__ import annotations

import pytest
import traitlets
from pages import click, nothing_raised, wait_until

from scarches_widgets.widgets import Exercise
from scarches_widgets.widgets.exercise import FRESH

CHOICES = ["the batch", "the cell type"]


def trained(losses, **options):
    """An exercise on a loss, and the names that its checks see."""
    names = {"losses": losses}
    checks = {"There is a loss.": "len(losses) > 0", "The loss is below 900.": "min(losses) < 900"}
    return Exercise("Train", "Train until the loss is below 900.", checks, namespace=names, **options), names


def test_a_wrong_state_fails_and_says_what_the_value_is_and_the_right_one_passes():
    exercise, names = trained([1042.25])
    assert not exercise.check() and not exercise.passed
    assert [one["met"] for one in exercise.checks] == [True, False]
    assert exercise.checks[1]["detail"] == "It is 1,042 now."
    with pytest.raises(AssertionError, match=r"Train: 1 of 2 not met\. The loss is below 900\.: It is 1,042 now\."):
        exercise.assert_passed()
    names["losses"].append(880.0)
    exercise.assert_passed()
    assert exercise.passed and exercise.progress["attempts"] == 3
    names["losses"].clear()
    assert not exercise.check(), "it holds as long as the state does"
    assert exercise.progress["passed"], "but that it was passed once is kept"


def test_its_code_is_plain_asserts_that_fail_on_the_wrong_state_and_pass_on_the_right_one():
    exercise, names = trained([1042.25])
    with pytest.raises(AssertionError, match=r"The loss is below 900\."):
        exec(exercise.code(), names)
    names["losses"].append(880.0)
    exec(exercise.code(), names)


def test_a_choice_is_checked_and_stands_in_the_code():
    exercise = Exercise("What", "What?", {"Look again.": "answer == 'the batch'"}, choices=CHOICES)
    assert not exercise.check() and exercise.checks[0]["detail"] == "Choose an answer."
    exercise.answer = "the cell type"
    assert not exercise.check() and exercise.checks[0]["detail"] == "Not this one."
    exercise.answer = "the batch"
    assert exercise.check()
    exercise.answer = "the cell type"
    assert not exercise.passed, "another answer has not been checked"
    exercise.answer = "the batch"
    assert exercise.code() == "answer = 'the batch'\nassert answer == 'the batch', 'Look again.'\n"
    with pytest.raises(traitlets.TraitError, match=r"'the bacth' is none of the choices.* Did you mean 'the batch'\?"):
        exercise.answer = "the bacth"


def test_names_are_those_of_the_cell_that_makes_it_as_they_are_when_it_is_checked():
    names = {"Exercise": Exercise}
    exec("exercise = Exercise('Name', 'Make x.', {'x is 3': 'x == 3'})", names)
    assert not names["exercise"].check()
    assert names["exercise"].checks[0]["detail"] == "There is no `x` yet. Run the cells above."
    names["x"] = 3
    assert names["exercise"].check()


def test_a_check_that_cannot_be_told_waits_for_those_above_or_says_why():
    checks = {"It is trained.": "model is not None", "It fits.": "model['loss'] < 1"}
    exercise = Exercise("Fit", "Fit.", checks, namespace={"model": None})
    assert not exercise.check()
    assert [one["detail"] for one in exercise.checks] == ["It is None now.", "Waits for what is above."]
    exercise = Exercise("Fit", "Fit.", checks, namespace={"model": {}})
    assert not exercise.check() and exercise.checks[1]["detail"] == "KeyError: 'loss'"


def test_hints_come_one_by_one_then_the_solution_which_is_open_to_those_who_pass():
    exercise, names = trained([1000.0], hints=["More epochs.", "100 of them."], solution="losses.append(1)")
    assert exercise.ladder == {"hints": [], "n_hints": 2, "solution": None, "has_solution": True}
    assert [exercise.climb() for _ in range(4)] == ["More epochs.", "100 of them.", *["losses.append(1)"] * 2]
    assert exercise.ladder["solution"] == "losses.append(1)" and exercise.progress["rungs"] == 3
    exercise.reset()
    assert exercise.ladder["hints"] == [] and exercise.progress == FRESH
    exec(exercise.solution, names)
    exercise.assert_passed()
    assert exercise.ladder["solution"] and exercise.ladder["hints"] == []


def test_it_looks_by_itself_when_a_watched_widget_has_done_something():
    class Panel(traitlets.HasTraits):
        status = traitlets.Unicode("ready")

    panel = Panel()
    exercise, names = trained([1000.0], watch=[panel])
    names["losses"].append(10.0)
    panel.status = "done"
    wait_until(lambda: exercise.passed)
    assert exercise.progress["attempts"] == 0 and exercise.progress["passed"]
    with pytest.raises(TypeError, match=r"watch takes widgets .* was given a list"):
        trained([1.0], watch=[[panel]])


def test_a_page_checks_chooses_and_recalls_and_what_is_forged_changes_nothing():
    exercise = Exercise("What", "What?", {"Look again.": "answer == 'the batch'"}, choices=CHOICES, hints=["Hm."])
    kept = {"answer": "the cell type", "attempts": 4, "rungs": 1, "passed": "2026-11-23T10:00:00+00:00"}
    forged = {"answer": "__import__('os')", "attempts": -1, "rungs": 7, "passed": "<script>"}
    with nothing_raised():
        for content in ({"progress": 3}, {"progress": {**forged, "attempts": True}}, {"progress": forged}, {}):
            click(exercise, "recall", **content)
        assert exercise.progress == FRESH and exercise.answer is None
        click(exercise, "recall", progress=kept)
        assert exercise.progress == kept and exercise.ladder["hints"] == ["Hm."] and not exercise.passed
        click(exercise, "recall", progress={**kept, "attempts": 9})
        assert exercise.progress["attempts"] == 4, "what was done in this kernel counts"
        for answer in ("neither", ["the batch"], {}, None):
            exercise.set_state({"answer": answer})
            click(exercise, "check", answer=answer)
        assert exercise.answer == "the cell type"
        click(exercise, "check", answer="the batch")
        wait_until(lambda: exercise.passed)
        click(exercise, "climb")
        click(exercise, "reset")
        assert exercise.progress == FRESH


@pytest.mark.parametrize(
    ("checks", "options", "message"),
    [
        ({}, {}, "An exercise needs a check"),
        ({"It is": "x ="}, {}, "The check 'It is' is no Python expression"),
        ({"It is": len}, {}, "The check 'It is' is no Python expression"),
        ({"It is": "x"}, {"choices": ["a", "a"]}, "The choices a, a are not all different"),
    ],
)
def test_an_exercise_that_cannot_be_passed_is_refused(checks, options, message):
    with pytest.raises(ValueError, match=message):
        Exercise("No", "No.", checks, **options)


def test_readers_without_a_kernel_see_the_question_and_what_is_met(tmp_path):
    exercise, _ = trained([1000.0], choices=["<b>", "$x$"])
    exercise.check()
    assert "<svg" in exercise.snapshot().data and "met: There is a loss." in exercise.snapshot().data
    assert exercise.snapshot("png").data.startswith(b"\x89PNG")
    page = exercise.export_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1 of 2 checks met." in page and "<b>" not in page
