"""What every widget promises, without a browser: messages are sent to it as a page, or a forger, would send them."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from contextlib import contextmanager
from typing import ClassVar
from unittest import mock

import pytest
import traitlets
from browser.toy import Toy
from hypothesis import given, settings
from hypothesis import strategies as st
from node import node
from traitlets.log import get_logger

from scarches_widgets.training.run import TrainingRun
from scarches_widgets.widgets import LossMonitor, base
from scarches_widgets.widgets.base import Publisher, inlined


def state_of(widget):
    """All that the widget would tell a browser."""
    return {name: getattr(widget, name) for name in widget.keys if name != "layout"}


def update(state, **more):
    return {"content": {"data": {"method": "update", "state": state, **more}}, "buffers": []}


def custom(content):
    return {"content": {"data": {"method": "custom", "content": content}}, "buffers": []}


@contextmanager
def nothing_raised():
    """ipywidgets catches what handlers raise, and logs it."""
    log = get_logger()
    with mock.patch.object(log, "warning") as warning, mock.patch.object(log, "error") as error:
        yield
    assert not warning.called, warning.call_args
    assert not error.called, error.call_args


# What it is made of


def test_a_misspelt_option_is_refused_with_the_nearest_name():
    with pytest.raises(TypeError, match=r"Toy has no option 'nmaes'\. Did you mean 'names'\?"):
        Toy(nmaes=["B cell"])
    with pytest.raises(TypeError, match=r"has no option 'zzz'\.$"):
        Toy(zzz=1)


def test_a_new_widget_has_no_error_and_shows_its_status():
    assert Toy().error is None
    assert repr(Toy()) == "Toy(ready)"
    with pytest.raises(traitlets.TraitError):
        Toy(status="asleep")


# What the browser may do


def test_the_browser_writes_what_is_writable():
    toy = Toy()
    toy._handle_msg(update({"count": 3}))
    assert toy.count == 3


@pytest.mark.parametrize(
    "state",
    [
        {"status": "done"},
        {"error": {"what": "no"}},
        {"names": ["x"]},
        {"_esm": "alert(1)"},
        {"_view_name": "Other"},
        {"layout": "IPY_MODEL_0"},
        {"unknown": 1},
        {"__class__": "Other"},
        {"count": "3"},
        {"count": None},
        {"count": 1.5},
        {"count": [3]},
    ],
    ids=str,
)
def test_what_it_may_not_write_is_ignored_and_the_page_is_shown_what_holds(state):
    toy = Toy(names=["B cell"], count=1)
    before = state_of(toy)
    with nothing_raised(), mock.patch.object(toy, "send_state") as send_state:
        toy._handle_msg(update(state))
    assert state_of(toy) == before
    known = [name for name in state if name in toy.keys]
    assert [call.args[0] for call in send_state.call_args_list] == [known] * bool(known)


def test_one_refused_value_does_not_hold_up_the_others():
    toy = Toy()
    toy._handle_msg(update({"status": "done", "count": 5, "unknown": 1}))
    assert (toy.count, toy.status) == (5, "ready")


def test_a_value_that_passes_its_check_but_not_the_trait_is_refused():
    class Loose(Toy):
        writable: ClassVar = {"count": lambda value: value}

    toy = Loose(count=1)
    toy._handle_msg(update({"count": "many"}))
    assert toy.count == 1 and toy.error is None


def test_an_observer_that_refuses_a_value_says_so_on_the_screen():
    toy = Toy()

    def refuse(change):
        raise ValueError("7 is no good number. Take 8.")

    toy.observe(refuse, "count")
    toy._handle_msg(update({"count": 7}))
    assert toy.error == {"what": "7 is no good number.", "mend": "Take 8.", "field": None}


def test_commands_are_carried_out_and_their_errors_shown():
    toy = Toy()
    toy._handle_msg(custom({"op": "add", "name": "T cell"}))
    assert toy.names == ["T cell"] and toy.error is None
    toy._handle_msg(custom({"op": "break"}))
    assert toy.error == {"what": "The toy is broken.", "mend": "Buy another one.", "field": None}


@pytest.mark.parametrize("content", [{"op": "_add"}, {"op": "close"}, {"op": ["add"]}, {"op": {}}, {}, [], "add", None])
def test_what_is_no_command_is_ignored(content):
    toy = Toy()
    before = state_of(toy)
    with nothing_raised():
        toy._handle_msg(custom(content))
    assert state_of(toy) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
STATE = st.dictionaries(st.sampled_from([*Toy().keys, "keys", "comm", "_trait_values", "__dict__"]) | st.text(), JSON)
PATHS = (
    st.lists(st.lists(st.sampled_from(["count", "names", "x", 0, -1, None, []]), max_size=3) | JSON, max_size=3) | JSON
)
OPS = st.fixed_dictionaries({"op": st.sampled_from(["break", "_add", "close", [], {}]) | JSON})
DATA = st.one_of(
    st.fixed_dictionaries({"method": st.just("update"), "state": STATE | JSON}, optional={"buffer_paths": PATHS}),
    st.fixed_dictionaries({"method": st.just("custom"), "content": OPS | JSON}),
    st.fixed_dictionaries({"method": st.sampled_from(["update", "custom", "request_state", "echo_update"]) | JSON}),
    JSON,
)
BUFFERS = st.lists(st.binary(max_size=8), max_size=3)
MESSAGE = JSON | st.fixed_dictionaries(
    {"content": st.fixed_dictionaries({"data": DATA})}, optional={"buffers": BUFFERS | JSON}
)
FORGED = Toy(names=["B cell"])


@settings(max_examples=500, deadline=None)
@given(message=MESSAGE, state=STATE)
def test_forged_messages_change_nothing_and_raise_nothing(message, state):
    toy = FORGED
    with nothing_raised():
        toy._handle_msg(message)
        toy.set_state(state)
    assert type(toy.count) is int
    assert (toy.status, toy.names, toy.comm is not None) == ("ready", ["B cell"], True)


# The publishing thread


def until(condition, limit=10.0):
    """Wait for a condition; False if it does not come about."""
    end = time.monotonic() + limit
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_however_often_it_is_touched_it_publishes_ten_times_a_second_at_most_and_the_last_touch_always():
    news, published, times = [0], [], []

    def publish():
        times.append(time.monotonic())
        published.append(news[0])

    publisher = Publisher(publish)

    def touch_often():
        for _ in range(400):
            news[0] += 1
            publisher.touch()
            time.sleep(0.001)

    threads = [threading.Thread(target=touch_often) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert until(lambda: published and published[-1] == news[0])
    publisher.close()
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert len(times) >= 3 and min(gaps) > 0.09


def publishing_threads():
    return {thread for thread in threading.enumerate() if thread.name == "scarches-publisher"}


def test_closing_ends_the_thread_and_later_touches_start_none():
    before = publishing_threads()
    published = threading.Event()
    publisher = Publisher(published.set)
    publisher.touch()
    assert published.wait(10)
    assert len(publishing_threads() - before) == 1
    publisher.close()
    assert until(lambda: publishing_threads() <= before)
    publisher.touch()
    assert publishing_threads() <= before


def test_an_idle_publisher_ends_its_thread_and_starts_another_when_touched():
    before = publishing_threads()
    published = []
    publisher = Publisher(lambda: published.append(1), interval=0.001, patience=0.01)
    for n in (1, 2, 3):
        publisher.touch()
        assert until(lambda n=n: len(published) == n)
        assert until(lambda: publishing_threads() <= before)


def test_a_failing_publication_is_logged_and_the_next_one_goes_on(caplog):
    published = []

    def publish():
        published.append(1)
        if len(published) == 1:
            raise OSError("The comm is closed.")

    publisher = Publisher(publish, interval=0.01)
    with caplog.at_level(logging.ERROR):
        publisher.touch()
        assert until(lambda: len(published) == 1)
        publisher.touch()
        assert until(lambda: len(published) == 2)
    publisher.close()
    assert [record.getMessage() for record in caplog.records] == ["A widget could not publish."]
    assert "The comm is closed." in caplog.text


# JavaScript as one text


@pytest.fixture
def modules(tmp_path):
    """An entry that imports two modules of one name, one of which imports the other, under names of its own."""
    (tmp_path / "deep").mkdir()
    files = {
        "deep/shapes.js": 'export const unit = "µm";\nexport function area(a, b) { return a * b; }\n',
        "shapes.js": 'import { area as plane, unit } from "./deep/shapes.js";\n'
        "const two = 2;\n"
        "export async function later() { return two; }\n"
        "export class Box { volume(a) { return `${plane(a, a) * a} ${unit}³`; } }\n",
        "entry.js": 'import {\n  Box,\n  later as soon,\n} from "./shapes.js";\n'
        'import { area, unit } from "./deep/shapes.js";\n'
        "const two = 'mine';\n"
        "export const answer = async () => [new Box().volume(3), await soon(), area(2, 3), unit, two];\n"
        "export default { render: () => answer() };\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_nested_imports_become_one_module_that_means_the_same(modules):
    text = inlined(modules / "entry.js")
    (modules / "one").mkdir()
    (modules / "one" / "file.mjs").write_text(text, encoding="utf-8")
    answers = []
    for file in ("entry.js", "one/file.mjs"):
        script = f"import entry, {{ answer }} from {(modules / file).as_uri()!r};"
        script += "console.log(JSON.stringify([await answer(), await entry.render()]));"
        run = node("--input-type=module", "--eval", script)
        assert run.returncode == 0, run.stderr
        answers.append(run.stdout)
    assert answers[0] == answers[1] == '[["27 µm³",2,6,"µm","mine"],["27 µm³",2,6,"µm","mine"]]\n'
    assert "import" not in text


def test_a_module_that_two_others_share_is_inlined_once(modules):
    text = inlined(modules / "entry.js")
    assert text.count("return a * b;") == 1
    assert text.count("class Box") == 1


@pytest.mark.parametrize(
    "line",
    [
        "import './other.js';",
        'import * as other from "./other.js";',
        "import { a } from './other.js';",
        'export { a } from "./other.js";',
    ],
)
def test_an_import_that_cannot_be_inlined_is_refused_when_python_loads_the_file(tmp_path, line):
    (tmp_path / "entry.js").write_text(f'export const start = "./here";\n{line}\n')
    with pytest.raises(ValueError, match=r"entry\.js: .*other\.js.* cannot be inlined"):
        inlined(tmp_path / "entry.js")


# What a notebook keeps


def test_a_displayed_widget_leaves_a_picture_and_a_sentence_in_the_notebook():
    toy = Toy(names=["<script>"], count=3)
    data, metadata = toy._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == toy.model_id
    assert data["text/plain"] == "1 names, counted to 3"
    assert '<img alt="1 names, counted to 3" src="data:image/png;base64,iVBOR' in data["text/html"]
    assert isinstance(metadata, dict)


def test_the_summary_is_text_wherever_it_is_shown(tmp_path):
    class Named(Toy):
        def _summary(self):
            return '"><script>alert(1)</script>'

    page = Named().export_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http" not in page


def test_a_snapshot_is_a_picture_in_either_format():
    assert Toy().snapshot("png").data.startswith(b"\x89PNG")
    assert "<svg" in Toy().snapshot().data
    with pytest.raises(ValueError, match="'gif' is neither 'svg' nor 'png'"):
        Toy().snapshot("gif")


class Shell:
    """What the kernel tells of the cell that runs."""

    def __init__(self, **request):
        self.request = request

    def get_parent(self):
        return {"content": self.request}


@pytest.mark.parametrize(
    ("shell", "server", "expected"),
    [
        (Shell(allow_stdin=False), "", False),  # nbclient
        (Shell(allow_stdin=False), "voila/0.5.8", True),
        (Shell(allow_stdin=True), "", True),  # JupyterLab
        (Shell(comm_id="a", data={}), "", True),  # a click
        (None, "", True),  # no kernel
    ],
)
def test_a_program_that_executes_a_notebook_has_no_page(monkeypatch, shell, server, expected):
    monkeypatch.setattr(base, "get_ipython", lambda: shell)
    monkeypatch.setenv("SERVER_SOFTWARE", server)
    assert base.has_page() is expected


def test_without_a_page_a_view_is_a_picture_that_is_renewed_when_the_work_has_ended(monkeypatch):
    monkeypatch.setattr(base, "get_ipython", lambda: Shell(allow_stdin=False))
    shown = []

    class Shown:
        def update(self, bundle, raw):
            shown.append(bundle)

    monkeypatch.setattr(base, "display", lambda bundle, **options: shown.append(bundle) or Shown())
    view = LossMonitor(TrainingRun(iter(())))
    assert view.comm is None
    view._ipython_display_()
    view.status = "running"
    view.status = "done"
    assert len(shown) == 2 and all(set(bundle) == {"text/html", "text/plain"} for bundle in shown)
