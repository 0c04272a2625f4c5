"""A JupyterLab server and, as a page object, one notebook in it: what every browser test drives.

A `Notebook` waits for what it needs (a selector, an idle kernel), never for time. It keeps what no widget may cause
(requests to other hosts, console errors) and what a widget should do little of (messages).
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import axe_playwright_python
import nbformat
from playwright.sync_api import BrowserContext, Locator, Page, Route, WebSocket

TOKEN = "t"
TESTS = Path(__file__).resolve().parents[1]
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
ROOT = ".scaw-root"  # what every widget of the package is in
QUIET = {  # a Lab that asks nobody for news
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
LAB_NOISE = {  # console errors that JupyterLab itself causes, and why they are no fault of a widget
    "^Could not restore the debugger state: Canceled future": "Lab asks a kernel that is being ended",
}
STRIP_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Lab:
    """A JupyterLab of its own: nothing of the user's settings, kernels or workspaces."""

    def __init__(self, folder: Path):
        self.root = folder / "notebooks"
        self.root.mkdir()
        self.log = folder / "lab.log"
        for name, settings in QUIET.items():
            path = folder / "SETTINGS" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = self._start(folder, port)
        self._wait_until_up()

    def _start(self, folder: Path, port: int) -> subprocess.Popen:
        own = {
            "JUPYTER_CONFIG_DIR": "CONFIG",
            "JUPYTER_DATA_DIR": "DATA",
            "JUPYTER_RUNTIME_DIR": "RUNTIME",
            "JUPYTERLAB_SETTINGS_DIR": "SETTINGS",
            "JUPYTERLAB_WORKSPACES_DIR": "WORKSPACES",
            "IPYTHONDIR": "IPYTHON",
        }
        environment = {
            **os.environ,
            **{name: str(folder / where) for name, where in own.items()},
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": port,
            "ServerApp.port_retries": 0,
            "ServerApp.root_dir": self.root,
            "IdentityProvider.token": TOKEN,
            "LabApp.expose_app_in_browser": True,  # window.jupyterapp, through which tests give commands
            "LabApp.extension_manager": "readonly",
        }
        command += [f"--{name}={value}" for name, value in options.items()]
        with open(self.log, "wb") as log:
            return subprocess.Popen(command, env=environment, cwd=self.root, stdout=log, stderr=log)

    def _wait_until_up(self, limit: float = 120) -> None:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                self.ask("GET", "/api/status")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        log = self.log.read_text(errors="replace")[-4000:]
        raise RuntimeError(f"JupyterLab did not start within {limit:.0f} s:\n{log}")

    def ask(self, method: str, path: str) -> Any:
        """The server's answer to a REST request."""
        headers = {"Authorization": f"token {TOKEN}"}
        request = urllib.request.Request(f"{self.url}{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def end_kernels(self) -> None:
        for session in self.ask("GET", "/api/sessions"):
            self.ask("DELETE", f"/api/sessions/{session['id']}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(15)


@dataclass(frozen=True)
class Message:
    """One message between browser and kernel, as it went through the websocket."""

    sent: bool  # by the browser; else received from the kernel
    type: str  # "comm_msg", "comm_open", "status", …
    method: str | None  # of a comm message: "update", "echo_update", "custom"
    comm: str | None  # id of the widget's comm
    size: int  # bytes, buffers included
    content: dict


class Messages(list):
    """The messages so far, oldest first; `clear()` starts a new count."""

    def to_browser(self, method: str | None = None) -> list[Message]:
        """What widgets got from the kernel; `method` "custom" or "update" if only those count."""
        return [m for m in self if not m.sent and m.type.startswith("comm_") and method in (None, m.method)]

    def to_kernel(self, method: str | None = None) -> list[Message]:
        """What widgets sent to the kernel."""
        return [m for m in self if m.sent and m.type.startswith("comm_") and method in (None, m.method)]

    @staticmethod
    def size(messages: Iterable[Message]) -> int:
        return sum(message.size for message in messages)


def read_message(frame: bytes | str, sent: bool) -> Message:
    """One frame of Jupyter's websocket; binary ones are `v1.kernel.websocket.jupyter.org`, text is the older JSON."""
    if isinstance(frame, bytes):
        n = int.from_bytes(frame[:8], "little")
        offsets = [int.from_bytes(frame[8 * (i + 1) : 8 * (i + 2)], "little") for i in range(n)]
        header, content = (json.loads(frame[offsets[i] : offsets[i + 1]]) for i in (1, 4))
    else:
        message = json.loads(frame)
        header, content = message["header"], message["content"]
    data = content.get("data") if header["msg_type"].startswith("comm_") else None
    method = data.get("method") if isinstance(data, dict) else None
    return Message(sent, header["msg_type"], method, content.get("comm_id"), len(frame), content)


def cut_off(view: Locator) -> list[str]:
    """What reaches beyond a view's right edge, but for charts, words for screen readers and what scrolls."""
    return view.evaluate(
        """root => {
            const scrolls = (one) => one !== root && one !== null
                && (["auto", "scroll"].includes(getComputedStyle(one).overflowX) || scrolls(one.parentElement));
            return [...root.querySelectorAll("*")]
                .filter((one) => one.getBoundingClientRect().right > root.getBoundingClientRect().right)
                .filter((one) => !one.closest(".scaw-chart, .scaw-quiet") && !scrolls(one))
                .map((one) => one.outerHTML.slice(0, 200));
        }"""
    )


class CellError(RuntimeError):
    """A cell of the notebook failed; the text is its traceback."""


class Notebook:
    """A notebook, open in the browser.

    Attributes
    ----------
    page
        Playwright's page, for what is not covered here.
    external
        URLs outside the test's server that were asked for (and refused); must stay empty.
    errors
        Uncaught JavaScript errors and console errors, but for `LAB_NOISE`; must stay empty. A test that provokes one on
        purpose checks it and removes it.
    """

    def __init__(self, lab: Lab, context: BrowserContext, path: Path, pictures: Path):
        self.lab = lab
        self.page: Page = context.new_page()
        self.external: list[str] = []
        self.errors: list[str] = []
        self._path = path
        self._pictures = pictures
        self._messages = Messages()
        self._size = dict(self.page.viewport_size)
        context.route(re.compile(f"^(?!{re.escape(lab.url)}/|data:|blob:)"), self._refuse)
        self.page.on("pageerror", lambda error: self._note(f"{error.name}: {error.message}\n{error.stack}"))
        self.page.on("console", lambda line: self._note(line.text) if line.type == "error" else None)
        self.page.on("websocket", self._listen)

    @classmethod
    def write(cls, path: Path, cells: Sequence[str]) -> None:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, path)

    # Open, look at

    def open(self, timeout: float = 120) -> None:
        """Open (or open again) and wait until the kernel is there."""
        name = self._path.relative_to(self.lab.root).as_posix()
        self.page.goto(f"{self.lab.url}/doc/tree/{name}?token={TOKEN}&reset")
        ready = """() => {
            const panel = window.jupyterapp?.shell?.currentWidget;
            const kernel = panel?.sessionContext?.session?.kernel;
            if (kernel?.connectionStatus !== "connected" || !["idle", "busy"].includes(kernel.status)) return false;
            window.scawPanel = panel;  // later the current widget may be another one
            return panel.content.widgets.length > 0;
        }"""
        self.page.wait_for_function(ready, timeout=1000 * timeout)

    def widget(self, css: str = ROOT) -> Locator:
        """What matches `css` in the cells' outputs; the first one if there are several."""
        return self.widgets(css).first

    def widgets(self, css: str = ROOT) -> Locator:
        """All that match `css` in the cells' outputs."""
        return self.page.locator(f".jp-OutputArea {css}")

    locator = widgets

    def wait_for(self, css: str = ROOT, timeout: float = 30) -> Locator:
        """The first element in the outputs that matches, when it is visible."""
        found = self.widget(css)
        found.wait_for(state="visible", timeout=1000 * timeout)
        return found

    def wait_for_text(self, css: str, text: str, timeout: float = 30) -> None:
        """Wait until the first element that matches `css` contains the text."""
        self.page.locator(f".jp-OutputArea {css}").filter(has_text=text).first.wait_for(timeout=1000 * timeout)

    def screenshot(self, name: str) -> Path:
        """Take a picture of what is on the screen; its path."""
        path = self._pictures / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def press(self, *keys: str) -> None:
        """Press keys one after another where the focus is: "Tab", "Enter", "Control+ArrowRight", "a"."""
        for key in keys:
            self.page.keyboard.press(key)

    def draw_over(self, chart: Locator, *points: tuple[float, float], key: str | None = None) -> None:
        """Drag over a chart through points, shares of its width and height; with a key held down if one is given."""
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        first, *others = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        keyboard, mouse = self.page.keyboard, self.page.mouse
        if key:
            keyboard.down(key)
        mouse.move(*first)
        mouse.down()
        for point in others:
            mouse.move(*point, steps=4)
        mouse.up()
        if key:
            keyboard.up(key)

    def tab_to(self, name: str, limit: int = 60) -> None:
        """Press Tab until the element with the focus has a name (what a screen reader says) that matches."""
        names = []
        for _ in range(limit):
            self.press("Tab")
            names.append(
                self.page.evaluate(
                    "() => { const a = document.activeElement;"
                    " return (a.getAttribute('aria-label') ?? (a.labels?.[0] ?? a).textContent).trim(); }"
                )
            )
            if re.fullmatch(name, names[-1]):
                return
        raise AssertionError(f"Tab does not lead to {name!r}, but to {names}")

    def focused(self) -> str:
        """Name and text of the element that has the focus, to see where a key led."""
        return self.page.evaluate(
            "() => { const a = document.activeElement;"
            " return `${a.tagName.toLowerCase()} ${a.getAttribute('aria-label') || a.textContent}`.trim(); }"
        )

    # Run

    def run_all(self, wait: bool = True, timeout: float = 120) -> None:
        """Run all cells; outputs may be drawn later than this returns. `wait=False` does not wait for the kernel."""
        self._command("notebook:run-all-cells", wait, timeout)
        for i in range(self.page.evaluate("() => scawPanel.content.model.cells.length") if wait else 0):
            self._check_cell(i)

    def run_cell(self, i: int, wait: bool = True, timeout: float = 120) -> None:
        self._activate(i)
        self._command("notebook:run-cell", wait, timeout)
        if wait:
            self._check_cell(i)

    def _activate(self, i: int) -> None:
        self.page.evaluate(
            "i => { jupyterapp.shell.activateById(scawPanel.id);"
            " scawPanel.content.deselectAll(); scawPanel.content.activeCellIndex = i; }",
            i,
        )

    def _command(self, name: str, wait: bool, timeout: float = 60) -> None:
        if wait:
            self._do("name => jupyterapp.commands.execute(name)", name, timeout)
        else:
            self.page.evaluate("name => { jupyterapp.commands.execute(name).catch(() => 0); }", name)

    def _check_cell(self, i: int) -> None:
        for output in self.outputs(i):
            if output["output_type"] == "error":
                raise CellError(STRIP_COLOURS.sub("", "\n".join(output["traceback"])))

    def outputs(self, i: int) -> list[dict]:
        """A cell's outputs as they stand in the notebook."""
        return self.page.evaluate("i => scawPanel.content.model.cells.get(i).outputs?.toJSON() ?? []", i)

    def execute(self, code: str, timeout: float = 60) -> str:
        """Run code in the kernel beside the cells; what it printed. Raises `CellError` with its traceback."""
        answer = self._do(
            """async code => {
                const future = scawPanel.sessionContext.session.kernel.requestExecute({ code, store_history: false });
                const answer = { text: "", error: null };
                future.onIOPub = ({ header, content }) => {
                    if (header.msg_type === "stream" && content.name === "stdout") answer.text += content.text;
                    if (header.msg_type === "error") answer.error = content.traceback.join("\\n");
                };
                await future.done;
                return answer;
            }""",
            code,
            timeout,
        )
        if answer["error"] is not None:
            raise CellError(STRIP_COLOURS.sub("", answer["error"]))
        return answer["text"]

    def new_view(self, i: int, css: str = ROOT, timeout: float = 30) -> Locator:
        """Lab's "Create New View for Output" of a cell: the widget once more, below the notebook; the new view."""
        views = self.page.locator(f".jp-LinkedOutputView {css}")
        before = views.count()
        self._activate(i)
        self._command("notebook:create-output-view", wait=False)
        views.nth(before).wait_for(timeout=1000 * timeout)
        return views.nth(before)

    # The kernel's life

    def interrupt(self) -> None:
        self._do("() => scawPanel.sessionContext.session.kernel.interrupt()")

    def restart_kernel(self, timeout: float = 60) -> None:
        """Restart as Lab's menu does, and wait until the new kernel answers."""
        self._do("() => scawPanel.sessionContext.restartKernel()", timeout=timeout)
        self.wait_for_status("idle", timeout)

    def shut_down_kernel(self, timeout: float = 60) -> None:
        """Shut down as Lab's menu does."""
        self._do("() => scawPanel.sessionContext.shutdown()", timeout=timeout)

    def kill_kernel(self, timeout: float = 60) -> None:
        """Kill the kernel's process, as a machine out of memory does, and wait until the server's new one answers."""
        pid = int(self.execute("import os; print(os.getpid())"))
        os.kill(pid, 9)
        self.page.get_by_role("button", name="Ok").click(timeout=1000 * timeout)  # "The kernel appears to have died"
        self.wait_for_status("idle", timeout)

    def wait_for_status(self, status: str, timeout: float = 60) -> None:
        """Wait until the kernel is connected and "idle" or "busy"."""
        self.page.wait_for_function(
            "status => { const kernel = scawPanel.sessionContext.session?.kernel;"
            " return kernel?.connectionStatus === 'connected' && kernel.status === status; }",
            arg=status,
            timeout=1000 * timeout,
        )

    def reload(self, css: str | None = ROOT, timeout: float = 60) -> None:
        """Save, load the page anew, and wait until `css` is visible in the outputs (None: for no widget)."""
        self._do("() => jupyterapp.commands.execute('docmanager:save')", timeout=timeout)
        self.open(timeout)
        if css is not None:
            self.wait_for(css, timeout)

    # How it is looked at

    def set_theme(self, theme: str) -> None:
        """Change the Lab's theme, "light" or "dark"."""
        self._do("theme => jupyterapp.commands.execute('apputils:change-theme', { theme })", THEMES[theme])
        light = "true" if theme == "light" else "false"
        self.page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=light)

    def resize(self, width: int, height: int | None = None) -> None:
        """Change the window's size, in CSS pixels."""
        self._size = {"width": width, "height": height or self._size["height"]}
        self.page.set_viewport_size(self._size)

    def zoom(self, factor: float) -> None:
        """Zoom as a browser does: at 2 (200 %) the page has half as many CSS pixels."""
        self.page.set_viewport_size({side: round(pixels / factor) for side, pixels in self._size.items()})

    # What it did

    @property
    def messages(self) -> Messages:
        """All messages to and from the kernel up to now."""
        self.page.evaluate("0")  # lets the events arrive that Playwright holds
        return self._messages

    def axe(self) -> list[str]:
        """Serious and critical accessibility faults within the widgets, one line each."""
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        faults = self._do("async root => (await axe.run({ include: [[root]] })).violations", ROOT)
        return [
            f"{fault['id']} ({fault['impact']}): {fault['help']}: {node['html']}"
            for fault in faults
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    def check_access(self, *views: Locator) -> None:
        """Fail on a serious fault before axe in either theme, and if anything of the views is cut off when narrow.

        Narrow: a window of 640 pixels, and one of 1280 at 200 % and at 400 %; Lab's own bars take their part of each.
        """
        for theme in THEMES:
            self.set_theme(theme)
            assert self.axe() == [], theme
        before = dict(self._size)
        for width, zoom in ((640, 1), (1280, 2), (1280, 4)):
            self.resize(width)
            self.zoom(zoom)
            for view in views:
                cut = cut_off(view)
                assert not cut, f"cut off in a window of {width} pixels at {100 * zoom} %: {cut}"
        self.resize(**before)

    def check(self) -> None:
        """Fail if the page asked another host for anything or wrote an error; every test ends with it."""
        self.page.evaluate("0")
        assert not self.external, "The page asked other hosts:\n" + "\n".join(self.external)
        assert not self.errors, "The page wrote errors:\n" + "\n".join(self.errors)

    def _do(self, script: str, argument: Any = None, timeout: float = 60) -> Any:
        """Call an async JavaScript function and wait for its value. (`evaluate` alone would wait without a limit.)"""
        self.page.evaluate(
            f"""argument => {{
                const job = window.scawJob = {{}};
                ({script})(argument)
                    .then((value) => {{ job.value = value ?? null; }})
                    .catch((error) => {{ job.error = String(error?.stack ?? error); }})
                    .finally(() => {{ job.done = true; }});
            }}""",
            argument,
        )
        self.page.wait_for_function("() => window.scawJob.done", timeout=1000 * timeout)
        job = self.page.evaluate("() => window.scawJob")
        if "error" in job:
            raise RuntimeError(job["error"])
        return job["value"]

    def _refuse(self, route: Route) -> None:
        self.external.append(route.request.url)
        route.abort()

    def _note(self, text: str) -> None:
        if not any(re.search(noise, text) for noise in LAB_NOISE):
            self.errors.append(text)

    def _listen(self, socket: WebSocket) -> None:
        if not socket.url.startswith(self.lab.url.replace("http", "ws", 1) + "/"):
            self.external.append(socket.url)
        if "/channels" in socket.url:
            socket.on("framereceived", lambda frame: self._messages.append(read_message(frame, sent=False)))
            socket.on("framesent", lambda frame: self._messages.append(read_message(frame, sent=True)))
