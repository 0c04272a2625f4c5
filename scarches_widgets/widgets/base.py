"""What every widget shares: a guarded door to the browser, errors as data, lasting pictures, one publishing thread.

A view is thin. Results go domain → trait → screen; wishes go screen → trait or command → one domain call. Everything
that arrives from the browser is foreign: only traits in `writable` can be written and only commands in `commands` can
be sent, each value is checked here, and what does not fit is dropped without a word (a real page never sends it).

Handlers may run on any thread (ipykernel 7 has subshells), so they only set events or start threads of their own.

A notebook that a program executes (see `has_page`) gets pictures in place of live views, and no state of them. One
that is reopened in JupyterLab without its kernel shows "model not found" in place of a live view, unless Lab's setting
"Save Widget State Automatically" was on; then the view is back, read-only and without its chart, for BokehJS is not
saved: what must last is `snapshot()`.
"""

from __future__ import annotations

import base64
import html
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets
from IPython import get_ipython
from IPython.display import display
from ipywidgets.widgets.widget import _put_buffers

from ..data.names import did_you_mean

logger = logging.getLogger(__name__)
HERE = Path(__file__).parent
LEAST_INTERVAL = 0.1  # seconds between two messages of one widget
IMPORT = re.compile(r'^import\s+(?P<what>\{[^}]*\})\s+from\s+"(?P<path>\.[^"]+)";?\s*$', re.M)
RELATIVE = re.compile(r"""^(?:import|export)\b[^;=(]*["']\.\.?/[^"'\n]*["']""", re.M)  # in whatever form
EXPORT = re.compile(r"^export\s+(?=(async\s+)?(const|let|function|class)\b)", re.M)
EXPORTED = re.compile(r"^export\s+(?:async\s+)?(?:const|let|function\*?|class)\s+([A-Za-z_$][\w$]*)", re.M)
UNFIT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, traitlets.TraitError)  # a check's "no"
STATUSES = ("empty", "ready", "invalid", "running", "pausing", "paused", "stopping", "stopped", "done", "failed")
ENDED = STATUSES[-3:]


def has_page() -> bool:
    """Whether the cell that runs now was sent by a page, which can show widgets.

    nbclient, and with it `nbconvert --execute`, papermill and nbmake, sends cells without one and says so: nobody is
    there to answer `input()`. It would save the whole state of each widget (BokehJS too), and nbconvert would prefer
    that to pictures, though it needs a CDN. Voilà executes through nbclient too, but for a page.
    """
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila/"):
        return True
    request = getattr(get_ipython(), "get_parent", dict)()
    return request.get("content", {}).get("allow_stdin", True)


def in_a_cell() -> bool:
    """Whether a cell has called what runs now and waits for it, so that no click is heard until it is done."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "run_code" and frame.f_globals.get("__name__") == "IPython.core.interactiveshell":
            return True
        frame = frame.f_back
    return False


def inlined(path: Path) -> str:
    """A JavaScript module as one text, its relative imports put into it.

    Each imported module becomes a function that returns its exports; modules are plain ES modules with named exports,
    so the same files run under node and in the browser's tests as they are. Imports are of the one form
    `import { a, b as c } from "./file.js";`; another form of relative import raises ValueError.
    """
    modules: dict[Path, tuple[str, str]] = {}  # imported file -> its constant's name, its text; importers come later
    entry = _with_imports(path.resolve(), modules)
    return "\n".join([*(text for _, text in modules.values()), entry])


def _with_imports(path: Path, modules: dict[Path, tuple[str, str]]) -> str:
    source = path.read_text(encoding="utf-8")

    def constant(match: re.Match) -> str:
        target = (path.parent / match["path"]).resolve()
        if target not in modules:
            body = _with_imports(target, modules)
            names = ", ".join(EXPORTED.findall(body))
            identifier = f"module_{len(modules)}_" + re.sub(r"\W", "_", target.stem)
            text = f"const {identifier} = (() => {{\n{EXPORT.sub('', body)}\nreturn {{ {names} }};\n}})();"
            modules[target] = identifier, text
        what = match["what"].replace(" as ", ": ")
        return f"const {what} = {modules[target][0]};"

    text = IMPORT.sub(constant, source)
    if left := RELATIVE.search(text):
        raise ValueError(f'{path.name}: `{left[0]}` cannot be inlined. Write `import {{ name }} from "./file.js";`.')
    return text


SUBTYPES = {"png": "png", "svg": "svg+xml"}  # of image/, by format


class View(anywidget.AnyWidget):
    """A widget of this package; see the module's text.

    Attributes
    ----------
    status
        One of `STATUSES`. The browser adds "detached" by itself when the kernel is gone.
    error
        None, or what went wrong: `what` happened, how to `mend` it, and the `field` concerned, if any.
    """

    _css = (HERE / "js" / "view.css").read_text(encoding="utf-8")
    status = traitlets.Enum(STATUSES, "ready").tag(sync=True)
    error = traitlets.Dict(default_value=None, allow_none=True).tag(sync=True)

    writable: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}  # trait -> check that returns the value or raises
    saved_as: ClassVar[str] = "png"  # format of the picture in a saved notebook
    commands: ClassVar[Mapping[str, str]] = {}  # op of a custom message -> name of the method that takes its content

    def __init__(self, **options: Any):
        known = [name for name in self.trait_names() if not name.startswith("_")]
        for name in options:
            if name not in self.trait_names():
                raise TypeError(f"{type(self).__name__} has no option '{name}'.{did_you_mean(name, known)}")
        super().__init__(**options)
        self.on_msg(self._obey)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.status})"

    def open(self) -> None:
        if not has_page():
            return
        super().open()
        # ipykernel 7.4 sends a page's messages to the subshell from which the widget last published. After a reload
        # that one is gone, and clicks would be lost ("Unknown subshell_id"); each message knows its own subshell.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda data, own: own

    # From the browser

    def _handle_msg(self, msg: Mapping[str, Any]) -> None:
        """Take a comm message; drop what is no message of this protocol."""
        try:
            data, buffers = msg["content"]["data"], msg.get("buffers") or []
            method = data["method"]
            if method == "update":
                _put_buffers(data["state"], data.pop("buffer_paths", []), buffers)
            part = {"update": data.get("state"), "custom": data.get("content"), "request_state": {}}[method]
        except UNFIT:
            return
        if isinstance(part, dict):
            super()._handle_msg({**msg, "buffers": buffers})

    def set_state(self, sync_data: Mapping[str, Any]) -> None:
        """Take values from the browser: only those that it may write, and only if they pass their check."""
        taken, refused = {}, []
        for name, value in sync_data.items():
            try:
                taken[name] = self.writable[name](value)
            except UNFIT:
                refused.append(name)
        try:
            super().set_state(taken)
        except traitlets.TraitError:  # the check let pass what the trait does not take
            refused += taken
        except (*UNFIT, RuntimeError) as error:  # from what observes the trait
            self.show_error(error)
        known = [name for name in refused if name in self.keys]
        if known:
            self.send_state(known)  # show the browser what holds

    def _obey(self, _: View, content: Any, buffers: list) -> None:
        """Carry out a command of the browser, if it is one."""
        op = content.get("op") if isinstance(content, dict) else None
        if not isinstance(op, str) or op not in self.commands:
            return
        try:
            getattr(self, self.commands[op])(content, buffers)
        except (*UNFIT, RuntimeError) as error:
            self.show_error(error)

    def show_error(self, error: BaseException, field: str | None = None) -> None:
        """Put an exception on the screen as sentences."""
        what, _, mend = (str(error) or type(error).__name__).partition(". ")
        self.error = {"what": what.rstrip(".") + ".", "mend": mend, "field": field}

    # Pictures

    def snapshot(self, format: str = "svg"):
        """A picture of what the widget shows now, as something that a notebook displays and saves.

        Parameters
        ----------
        format
            "svg" or "png".
        """
        if format not in ("svg", "png"):
            raise ValueError(f"format='{format}' is neither 'svg' nor 'png'.")
        from IPython.display import SVG, Image

        data = self._picture(format)
        return SVG(data) if format == "svg" else Image(data)

    def export_html(self, path: str | Path) -> Path:
        """Write the picture and its text as one page that opens offline."""
        path = Path(path)
        title = html.escape(type(self).__name__)
        path.write_text(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
            f"<body>{self._static_html()}</body></html>\n",
            encoding="utf-8",
        )
        return path

    def code(self) -> str:
        """Runnable Python for what was chosen by clicks."""
        raise NotImplementedError

    def _picture(self, format: str) -> bytes:
        """The picture, light, as bytes of an SVG or PNG."""
        raise NotImplementedError

    def _summary(self) -> str:
        """What the widget shows, in a sentence or two."""
        return repr(self)

    def _static_html(self) -> str:
        picture = base64.b64encode(self._picture(self.saved_as)).decode()
        text = html.escape(self._summary())
        image = f'<img alt="{text}" src="data:image/{SUBTYPES[self.saved_as]};base64,{picture}">'
        return f"<figure>{image}<figcaption>{text}</figcaption></figure>"

    def _static_bundle(self) -> dict[str, str]:
        return {"text/html": self._static_html(), "text/plain": self._summary()}

    def _repr_mimebundle_(self, **kwargs: Any):
        """The live view, and for readers without a kernel the picture and its text."""
        if self.comm is None:
            return self._static_bundle(), {}
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        if data is None:
            return bundle
        return {**data, **self._static_bundle()}, metadata

    def _ipython_display_(self) -> None:
        """Without a page: the picture, and a new one in its place when the work shown has ended."""
        if self.comm is not None:
            raise NotImplementedError  # IPython asks for the bundle then
        shown = display(self._static_bundle(), raw=True, display_id=True)

        def renew(change: Mapping[str, Any]) -> None:
            if change["new"] in ENDED:
                shown.update(self._static_bundle(), raw=True)

        self.observe(renew, "status")


class Publisher:
    """One thread that calls `publish` soon after `touch`, but never more often than the interval allows.

    Whatever happens between two calls is thereby one message. The thread ends with `close`, or when nothing has been
    touched for a while; the next touch starts another.
    """

    def __init__(self, publish: Callable[[], None], interval: float = LEAST_INTERVAL, patience: float = 5.0):
        self._publish = publish
        self._interval = interval
        self._patience = patience
        self._lock = threading.Lock()
        self._touched = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def touch(self) -> None:
        """There is news."""
        if self._touched.is_set():
            return  # told already; the way most calls go, in the middle of somebody's training
        self._touched.set()
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="scarches-publisher", daemon=True)
                self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._touched.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            if not self._touched.wait(self._patience):
                with self._lock:
                    if not self._touched.is_set():
                        self._thread = None
                        return
            self._touched.clear()
            if not self._closed.is_set():
                try:
                    self._publish()
                except Exception:  # the screen's fault must not end the news
                    logger.exception("A widget could not publish.")
            self._closed.wait(self._interval)
