"""Lessons, executed top to bottom, and what their kernel then says."""

import json
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
# The peak is read from /proc: getrusage's may be that of the process that started the kernel, here all tests before.
COST = r"""
import json, re, time
print(json.dumps({
    "CPU seconds": time.process_time(),
    "peak GB": int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1e6,
    %s
}))
"""


def executed(lesson: Path, before: str = "", **asked: str) -> tuple[nbformat.NotebookNode, dict]:
    """The notebook with its outputs, and what its kernel then said: its cost, and the value of each expression `asked`
    for, evaluated after the code `before`."""
    notebook = nbformat.read(lesson, 4)
    entries = "\n    ".join(f"{name!r}: {expression}," for name, expression in asked.items())
    notebook.cells.append(nbformat.v4.new_code_cell(before + COST % entries))
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    said = json.loads(notebook.cells.pop().outputs[-1]["text"])
    return notebook, {"lesson": lesson.stem, **said}


def fits_a_small_machine(said: dict, record_property) -> bool:
    """A minute on one CPU that nobody else uses, and as much memory as Binder gives a kernel; noted for the table that
    the tests end with."""
    record_property("cost of a lesson", f"{said['lesson']:14} {said['CPU seconds']:11.0f} {said['peak GB']:8.2f}")
    return said["CPU seconds"] < 120 and said["peak GB"] < 1.2


def growth_of(lesson: Path, notebook: nbformat.NotebookNode) -> int:
    """Bytes that outputs add to a lesson, which is kept without any."""
    kept = json.loads(lesson.read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in kept["cells"])
    return len(nbformat.writes(notebook).encode()) - lesson.stat().st_size
