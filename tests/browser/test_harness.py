"""The harness itself, shown on a toy widget: what the browser tests of real widgets rely on."""

from __future__ import annotations

import pytest

from .lab import CellError

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror='window.hacked = 1'>"
TOY = f"""from browser.toy import Toy
toy = Toy(names=[{EVIL!r}, "T cell"])
toy"""
GONE = "kernel gone"
# a click and a cell reach the kernel by different threads, so the cell waits for the click
COUNT = (
    "import time\nend = time.time() + 20\n"
    "while toy.count < {} and time.time() < end: time.sleep(0.05)\n"
    "print(toy.count)"
)


@pytest.mark.slow
def test_a_view_works_by_mouse_and_keys_in_both_themes_twice_at_200_percent_and_after_a_reload(notebook):
    nb = notebook([TOY])
    nb.run_all()
    toy = nb.wait_for(".scaw-toy")

    assert toy.locator("li").all_inner_texts() == [EVIL, "T cell"]
    assert toy.locator("img").count() == 0
    assert not nb.page.evaluate("'hacked' in window")
    assert not toy.locator("[role=alert]").inner_text()
    assert nb.axe() == []

    nb.messages.clear()
    toy.locator(".toy-more").click()
    nb.wait_for_text(".toy-count", "1")
    assert nb.execute(COUNT.format(1)) == "1\n"
    assert [list(m.content["data"]["state"]) for m in nb.messages.to_kernel("update")] == [["count"]]
    assert 0 < nb.messages.size(nb.messages.to_kernel()) < 2000

    toy.locator(".toy-add").focus()
    nb.press("Enter", "d", "d", "a", "x", "Tab", "Space")  # d d, a, x would delete and add cells of the notebook
    nb.wait_for_text("li", "<b>added</b>")
    nb.wait_for_text("[role=alert]", "The toy is broken. Buy another one.")
    assert "Break" in nb.focused()
    assert nb.page.evaluate("() => scawPanel.content.model.cells.length") == 1

    nb.set_theme("dark")
    nb.wait_for(".scaw-toy[data-theme=dark]")
    assert nb.axe() == []
    second = nb.new_view(0)
    second.locator(".toy-more").click()
    assert toy.locator(".toy-count").inner_text() == second.locator(".toy-count").inner_text() == "2"

    nb.zoom(2)
    assert nb.page.evaluate("() => window.innerWidth") == 640
    assert all(view.evaluate("e => e.scrollWidth <= e.clientWidth") for view in nb.widgets(".scaw-toy").all())
    nb.zoom(1)
    assert nb.screenshot("toy").stat().st_size > 10_000

    nb.reload(".scaw-toy")
    nb.wait_for(".scaw-toy[data-theme=dark]")
    toy = nb.widget(".scaw-toy")
    assert toy.locator("li").all_inner_texts() == [EVIL, "T cell", "<b>added</b>"]
    assert toy.locator(".toy-count").inner_text() == "2"
    toy.locator(".toy-more").click()
    assert nb.execute(COUNT.format(3)) == "3\n"


@pytest.mark.slow
def test_a_view_says_that_its_kernel_is_gone_and_only_then(notebook):
    nb = notebook([TOY, "import time\nfor _ in range(600): time.sleep(0.1)"])

    def fresh():
        nb.run_cell(0)
        toy = nb.wait_for(".scaw-toy")
        assert toy.locator(".scaw-badge").inner_text() == "ready"
        return toy

    toy = fresh()
    nb.run_cell(1, wait=False)
    nb.wait_for_status("busy")
    nb.interrupt()
    nb.wait_for_status("idle")
    nb.reload(".scaw-toy")
    toy.locator(".toy-more").click()
    assert nb.execute(COUNT.format(1)) == "1\n"
    assert toy.locator(".scaw-badge").inner_text() == "ready"  # busy, interrupted, reloaded: not gone

    nb.restart_kernel()
    nb.wait_for_text(".scaw-badge", GONE, timeout=30)  # 0.1 to 4 s on an idle machine
    assert toy.locator(".toy-more").is_disabled()
    assert toy.locator("li").first.inner_text() == EVIL  # what it showed stays

    fresh()
    nb.kill_kernel()
    nb.wait_for_text(".scaw-badge", GONE, timeout=30)  # 0.1 to 4 s on an idle machine

    fresh()
    nb.shut_down_kernel()
    nb.wait_for_text(".scaw-badge", GONE, timeout=30)  # 0.1 to 4 s on an idle machine


def test_other_hosts_console_errors_and_failing_cells_do_not_go_unnoticed(notebook):
    elsewhere = ["http://example.invalid/image.png", "http://192.0.2.1/script.js"]
    nb = notebook([f"from IPython.display import HTML\nHTML('<img src={elsewhere[0]}>')", "1 / 0"])
    with pytest.raises(CellError, match="ZeroDivisionError"):
        nb.run_all()
    with pytest.raises(CellError, match="KeyError: 'b'"):
        nb.execute("{}['b']")
    assert nb.execute("print('text'); import sys; print('noise', file=sys.stderr)") == "text\n"

    nb.page.evaluate("url => fetch(url).catch(() => 0)", elsewhere[1])
    assert set(nb.external) == set(elsewhere)
    with pytest.raises(AssertionError, match="asked other hosts"):
        nb.check()
    nb.external.clear()
    nb.errors.clear()

    with nb.page.expect_event("pageerror"):
        nb.page.evaluate("() => { setTimeout(() => { throw new Error('boom') }) }")
    nb.page.evaluate("() => console.error('bang')")
    with pytest.raises(AssertionError, match=r"(?s)boom.*bang"):
        nb.check()
    nb.errors.clear()
