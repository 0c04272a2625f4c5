"""An exercise in a real JupyterLab: by keyboard, with hints, reloaded, and remembered by the notebook's file."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
expect.set_options(timeout=20_000)

VIEW = ".scaw-exercise"
DATA = """
import scarches_widgets as sca
losses = [1042.25]
"""
SHOWN = """
exercise = sca.widgets.Exercise(
    "Why is it <b>worse</b>?",
    "The held-out loss is above 900 nats per cell. Append a better one to `losses`.\\n\\nWhat was wrong?",
    {"The last of `losses` is below 900.": "losses[-1] < 900", "You know why.": "answer == 'too few epochs'"},
    choices=["too many genes", "too few epochs"],
    hints=["Look at `losses`.", "`losses.append(…)`"],
    solution="losses.append(880.0)\\nexercise.answer = 'too few epochs'",
)
exercise
"""


def told(nb):
    return nb.widget(f"{VIEW} .scaw-outcome")


def test_it_is_solved_by_keyboard_with_hints_and_no_key_reaches_the_notebook(notebook):
    nb = notebook([DATA, SHOWN])
    nb.run_all()
    nb.wait_for(VIEW)
    view = nb.widget(VIEW)
    nb.tab_to("too many genes")
    nb.press("Space")
    expect(view.get_by_label("too many genes")).to_be_checked()
    nb.press("Control+Enter")
    expect(told(nb)).to_have_text("0 of 2 checks are met.")
    expect(view.get_by_role("list", name="Checks")).to_contain_text("It is 1,042 now.")
    expect(view.get_by_role("list", name="Checks")).to_contain_text("Not this one.")
    nb.tab_to("Hint 1 of 2")
    nb.press("Enter")
    expect(view.get_by_role("list", name="Hints")).to_contain_text("Look at losses.")
    nb.press("Enter")
    expect(view.get_by_role("button", name="Show the solution")).to_be_focused()
    nb.press("Enter")
    expect(view.get_by_label("Solution")).to_contain_text("losses.append(880.0)")
    nb.execute("losses.append(880.0)")
    view.get_by_label("too many genes").focus()
    nb.press("ArrowDown")
    expect(view.get_by_label("too few epochs")).to_be_checked()
    nb.tab_to("Check")
    nb.press("d", "d", "x")
    nb.press("Enter")
    expect(told(nb)).to_have_text("All 2 checks are met.")
    expect(view.locator(".scaw-badge")).to_have_text("passed")
    assert nb.execute("print(exercise.passed, exercise.answer)") == "True too few epochs\n"
    assert nb.page.evaluate("() => scawPanel.content.model.cells.length") == 2, "a key reached the notebook"
    assert view.locator("b").count() == 0, "the title is text"


@pytest.mark.slow
def test_progress_outlives_the_page_and_in_the_notebooks_file_the_kernel(notebook):
    nb = notebook([DATA, SHOWN])
    nb.run_all()
    nb.wait_for(VIEW)
    view = nb.widget(VIEW)
    view.get_by_label("too few epochs").check()
    view.get_by_role("button", name="Hint 1 of 2").click()
    nb.execute("losses.append(1.0)")
    view.get_by_role("button", name="Check").click()
    expect(told(nb)).to_have_text("All 2 checks are met.")
    nb.reload(VIEW)
    expect(told(nb)).to_have_text("All 2 checks are met.")
    expect(nb.widget(VIEW).get_by_label("too few epochs")).to_be_checked()
    nb.check_access(nb.widget(VIEW))

    metadata = json.loads(nb._path.read_text(encoding="utf-8"))["metadata"]["scarches_widgets"]
    kept = metadata["exercises"]["Why is it <b>worse</b>?"]
    assert (kept["answer"], kept["attempts"], kept["rungs"]) == ("too few epochs", 1, 1)
    nb.restart_kernel()
    nb.wait_for_text(f"{VIEW} .scaw-badge", "kernel gone")
    expect(nb.widget(VIEW).get_by_role("button", name="Check")).to_have_attribute("aria-disabled", "true")
    nb.run_all()
    view = nb.widget(VIEW)
    expect(view.get_by_label("too few epochs")).to_be_checked()
    expect(view.get_by_role("list", name="Hints")).to_contain_text("Look at losses.")
    expect(told(nb)).to_contain_text(f"Passed on {kept['passed'][:10]}.")
    assert nb.execute("print(exercise.passed)") == "False\n", "the state is asked, not the file"
    view.get_by_role("button", name="Check").click()
    expect(told(nb)).to_contain_text("1 of 2 checks are met.")
    view.get_by_role("button", name="Start over").click()
    expect(view.get_by_label("too few epochs")).not_to_be_checked()
