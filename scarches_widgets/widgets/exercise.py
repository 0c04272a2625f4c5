"""A question that checks itself: what is to become true, a ladder of hints, a solution, and progress that lasts.

What is to become true is written as expressions, such as `"panel.model is not None"`. So a check can say what a value
is now, and `code()` is a cell of plain asserts, as nbgrader and otter run them. The expressions are those of whoever
wrote the lesson: nothing that a page sends is evaluated.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from numbers import Number
from typing import Any

import traitlets

from ..data.names import did_you_mean, listed, shown
from .base import HERE, Publisher, View, inlined

WATCHED = ("status", "version", "selection")  # traits of other widgets that say that something has been done
INTERVAL = 0.5  # seconds between two looks at what is watched
FRESH = {"answer": None, "attempts": 0, "rungs": 0, "passed": None}


class Exercise(View):
    """Ask a question and check what was done about it.

    Parameters
    ----------
    title
        A few words. In JupyterLab and Notebook the progress is kept in the notebook's file, under this title.
    question
        What is to be done or to be answered; `code` stands between backticks, blank lines part paragraphs.
    checks
        What is to be true, in words -> a Python expression that is true then. Expressions see the names of the cell
        that makes the exercise, as they are when it is checked, and `answer`.
    choices
        Answers to choose from; the chosen one is the name `answer` in checks, None before any is chosen.
    hints
        From the faintest to the plainest; each is shown when it is asked for.
    solution
        Python that makes all checks true, or a sentence. Shown after the last hint, or when the exercise is passed.
    watch
        Widgets after whose work the checks are looked at without a click, such as a `TrainingPanel` or a `TreeEditor`.
    namespace
        Names that expressions see, in place of those of the cell that makes the exercise.

    Attributes
    ----------
    answer
        The chosen one of `choices`, or None. Can be set.
    passed
        Whether all checks were true when they were last looked at.
    progress
        What is kept in the notebook: the `answer`, the number of `attempts`, the `rungs` of the ladder that were
        climbed (hints, then the solution), and when it was `passed` first (UTC, ISO 8601), or None.

    Raises
    ------
    ValueError
        If there is no check, one is no expression, or two choices are the same.
    TypeError
        If a watched thing is no widget that tells when work is done.

    Notes
    -----
    All by Tab and Enter; Ctrl+Enter checks. For a grader without a page: `exercise.assert_passed()`, or the plain
    asserts of `code()`.

    Examples
    --------
    >>> loss = 'panel.model.history["val_unweighted_loss"].min() < 900'  # doctest: +SKIP
    >>> exercise = Exercise("Train", "Train the reference.", {"Held-out cells cost < 900 nats": loss}, watch=[panel])
    >>> exercise.assert_passed()  # doctest: +SKIP
    """

    _esm = inlined(HERE / "exercise.js")
    _css = View._css + (HERE / "js" / "exercise.css").read_text(encoding="utf-8")
    saved_as = "svg"
    title = traitlets.Unicode().tag(sync=True)
    question = traitlets.Unicode().tag(sync=True)
    choices = traitlets.List(traitlets.Unicode()).tag(sync=True)
    answer = traitlets.Unicode(None, allow_none=True).tag(sync=True)  # the browser may write it
    checks = traitlets.List().tag(sync=True)  # of each: its text, whether it is met, and what a value is now
    ladder = traitlets.Dict().tag(sync=True)  # hints that are shown, how many there are, the solution once it is shown
    progress = traitlets.Dict().tag(sync=True)

    writable = {"answer": str}  # noqa: RUF012  which of the choices, the trait says
    commands = {  # noqa: RUF012
        "check": "_click_check",
        "climb": "_click_climb",
        "reset": "_click_reset",
        "recall": "_recall",
    }

    def __init__(
        self,
        title: str,
        question: str,
        checks: Mapping[str, str],
        *,
        choices: Sequence[str] = (),
        hints: Sequence[str] = (),
        solution: str = "",
        watch: Iterable[traitlets.HasTraits] = (),
        namespace: Mapping[str, Any] | None = None,
    ):
        self._expressions = _parsed(checks)
        if len(set(choices)) < len(choices):
            raise ValueError(f"The choices {listed(choices, 10)} are not all different. Write each once.")
        self._names = sys._getframe(1).f_globals if namespace is None else namespace
        self.hints, self.solution = tuple(hints), solution
        self._lock = threading.RLock()
        super().__init__(title=title, question=question, choices=list(choices))
        self._publisher = Publisher(self._look, INTERVAL)
        self.reset()
        for widget in watch:
            self._watch(widget)

    # Checks

    @property
    def passed(self) -> bool:
        return self.status == "done"

    def check(self) -> bool:
        """Look at all checks, as the button does; whether all are met."""
        with self._lock:
            self.progress = {**self.progress, "attempts": self.progress["attempts"] + 1}
            self._look()
            return self.passed

    def assert_passed(self) -> None:
        """Check, and raise AssertionError that names what is not met: for graders, which need no page."""
        if not self.check():
            missing = [
                f"{one['text']}{': ' + one['detail'] if one['detail'] else ''}" for one in self.checks if not one["met"]
            ]
            raise AssertionError(f"{self.title}: {len(missing)} of {len(self.checks)} not met. " + "; ".join(missing))

    def _look(self) -> None:
        with self._lock:
            self.status = "running"
            looked = []
            for text, expression in self._expressions.items():
                met, detail = _asked(expression, {**self._names, "answer": self.answer})
                waits = met is None and any(not one["met"] for one in looked)
                looked.append(
                    {"text": text, "met": bool(met), "detail": "Waits for what is above." if waits else detail}
                )
            self.checks = looked
            all_met = all(one["met"] for one in looked)
            if all_met and self.progress["passed"] is None:
                self.progress = {**self.progress, "passed": datetime.now(UTC).isoformat(timespec="seconds")}
            self.status = "done" if all_met else "ready"
            self._show_ladder()

    def _watch(self, widget: traitlets.HasTraits) -> None:
        traits = [name for name in WATCHED if isinstance(widget, traitlets.HasTraits) and widget.has_trait(name)]
        if not traits:
            raise TypeError(
                f"watch takes widgets that tell when work is done, and was given a {type(widget).__name__}. "
                "Leave it out: the Check button looks at whatever is in Python."
            )
        widget.observe(lambda _: self._publisher.touch(), traits)

    # Hints and progress

    def climb(self) -> str:
        """Show the next hint, or after the last one the solution; its text."""
        with self._lock:
            rungs = [*self.hints, *([self.solution] if self.solution else [])]
            n = min(self.progress["rungs"] + 1, len(rungs))
            self.progress = {**self.progress, "rungs": n}
            self._show_ladder()
            return rungs[n - 1] if n else ""

    def reset(self) -> None:
        """Forget the answer, the attempts and the hints, as before the first click."""
        with self._lock:
            self.answer = None
            self.progress = dict(FRESH)
            self._forget_checks()
            self._show_ladder()

    def _forget_checks(self) -> None:
        self.checks = [{"text": text, "met": False, "detail": ""} for text in self._expressions]
        self.status = "ready"

    def _show_ladder(self) -> None:
        climbed = self.progress["rungs"]
        is_open = bool(self.solution) and (climbed > len(self.hints) or self.passed)
        self.ladder = {
            "hints": list(self.hints[:climbed]),
            "n_hints": len(self.hints),
            "solution": self.solution if is_open else None,
            "has_solution": bool(self.solution),
        }

    @traitlets.observe("answer")
    def _keep_answer(self, change: Mapping[str, Any]) -> None:
        if self.progress:
            self.progress = {**self.progress, "answer": change["new"]}
            self._forget_checks()

    @traitlets.validate("answer")
    def _known_answer(self, proposal: Mapping[str, Any]) -> str | None:
        answer = proposal["value"]
        if answer is not None and answer not in self.choices:
            raise traitlets.TraitError(
                f"'{shown(answer)}' is none of the choices: {listed(self.choices, 10)}."
                f"{did_you_mean(answer, self.choices)}"
            )
        return answer

    # From the page

    def _click_check(self, content: Mapping[str, Any], _: list) -> None:
        if content.get("answer") in self.choices:
            self.answer = content["answer"]  # a click may overtake the choice
        threading.Thread(target=self.check, name="scarches-exercise", daemon=True).start()

    def _click_climb(self, *_: Any) -> None:
        self.climb()

    def _click_reset(self, *_: Any) -> None:
        self.reset()

    def _recall(self, content: Mapping[str, Any], _: list) -> None:
        """Take what the notebook has kept, if nothing was done in this kernel yet."""
        kept = content.get("progress")
        with self._lock:
            if self.progress != FRESH or not isinstance(kept, dict):
                return
            attempts, rungs, passed = (kept.get(name) for name in ("attempts", "rungs", "passed"))
            most = len(self.hints) + bool(self.solution)
            recalled = {
                "attempts": attempts if type(attempts) is int and 0 <= attempts < 1_000_000 else 0,
                "rungs": rungs if type(rungs) is int and 0 <= rungs <= most else 0,
                "passed": _time(passed),
            }
            if kept.get("answer") in self.choices:
                self.answer = kept["answer"]
            self.progress = {**self.progress, **recalled}
            self._show_ladder()

    # For readers without a kernel, and for graders

    def code(self) -> str:
        """The checks as plain asserts, for a cell that a grader such as nbgrader or otter runs."""
        asserts = [f"assert {ast.unparse(one)}, {text!r}" for text, one in self._expressions.items()]
        return "\n".join([*([f"answer = {self.answer!r}"] if self.choices else []), *asserts]) + "\n"

    def _summary(self) -> str:
        n = sum(one["met"] for one in self.checks)
        return f"Exercise “{self.title}”: {self.question} {n} of {len(self.checks)} checks met."

    def _picture(self, format: str) -> bytes:
        from .exercise_picture import exercise_picture

        return exercise_picture(self.title, self.question, self.choices, self.answer, self.checks, format)


def _parsed(checks: Mapping[str, str]) -> dict[str, ast.expr]:
    if not checks:
        raise ValueError(
            "An exercise needs a check. Give words and an expression: {'It is trained': 'model is not None'}."
        )
    parsed = {}
    for text, expression in checks.items():
        try:
            parsed[text] = ast.parse(expression, mode="eval").body
        except (SyntaxError, TypeError) as error:
            raise ValueError(
                f"The check '{shown(text)}' is no Python expression ({error}). Write what is to be true as text, "
                "such as 'panel.model is not None'."
            ) from error
    return parsed


def _asked(expression: ast.expr, names: dict[str, Any]) -> tuple[bool | None, str]:
    """Whether the expression is true, None if it cannot be told; and what a value is, or why."""
    try:
        if met := bool(_value(expression, names)):
            return met, ""
        return met, _value_now(expression, names)
    except NameError as error:
        return None, f"There is no `{error.name}` yet. Run the cells above."
    except Exception as error:  # noqa: BLE001  a learner's state may be anything; what is wrong with it is said
        return None, f"{type(error).__name__}: {shown(error)}"


def _value(expression: ast.expr, names: dict[str, Any]) -> Any:
    return eval(compile(ast.Expression(expression), "<check>", "eval"), names)


def _value_now(expression: ast.expr, names: dict[str, Any]) -> str:
    """Of a comparison that is not true, what stands on the side that is computed, if that is short."""
    if not isinstance(expression, ast.Compare) or len(expression.ops) > 1:
        return ""
    side = expression.left if not isinstance(expression.left, ast.Constant) else expression.comparators[0]
    if isinstance(side, ast.Name) and side.id == "answer":
        return "Not this one." if names["answer"] is not None else "Choose an answer."
    value = _value(side, names)
    if isinstance(value, bool | str) or value is None:
        return f"It is {shown(repr(value))} now."
    return f"It is {value:,.4g} now." if isinstance(value, Number) else ""


def _time(text: object) -> str | None:
    try:
        return datetime.fromisoformat(text).isoformat(timespec="seconds")
    except (TypeError, ValueError):
        return None
