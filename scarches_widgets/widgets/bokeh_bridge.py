"""BokehJS for the page, out of the installed bokeh wheel: no CDN, no `output_notebook()`, once per kernel.

A hidden widget carries the script; figures (`js/bokeh_figure.js`) wait for it on a promise of the page. jupyter_bokeh
is not used: it loses streamed points when the page is reloaded.
"""

from __future__ import annotations

import gzip
import threading
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import bokeh
import traitlets

from .base import HERE, has_page, inlined

SCRIPTS = ("bokeh.min.js", "bokeh-gl.min.js")
_lock = threading.Lock()
_loader: BokehLoader | None = None


class BokehLoader(anywidget.AnyWidget):
    """Carries BokehJS to the page; never displayed."""

    _esm = inlined(HERE / "js" / "bokeh_loader.js")
    version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    source = traitlets.Bytes().tag(sync=True)

    def set_state(self, sync_data: dict) -> None:
        """Nothing here is the browser's to write."""


@cache
def _script() -> bytes:
    folder = Path(bokeh.__file__).parent / "server" / "static" / "js"
    return gzip.compress(b"\n;".join((folder / name).read_bytes() for name in SCRIPTS), mtime=0)


def ensure_loader() -> None:
    """Make the kernel's loader, if there is none alive and a page to load into."""
    global _loader
    with _lock:
        if has_page() and (_loader is None or _loader.comm is None):
            _loader = BokehLoader(source=_script())


def figure_item(figure: Any) -> dict:
    """A figure as JSON for `embedFigure`."""
    from bokeh.embed import json_item

    return json_item(figure)
