"""Put a note at the head of notebooks: a Binder session is public and temporary."""

import json
import sys
from pathlib import Path

NOTE = (
    "**This session is public and temporary.** It ends after some minutes without use, and all that was made in it is "
    "lost: download what you want to keep. Upload no private data, and type no passwords or tokens. It has one CPU and "
    "1 to 2 GB of memory; `!scarches-widgets doctor` says what fits."
)
CELL = {"cell_type": "markdown", "id": "binder-note", "metadata": {}, "source": [NOTE]}


def add_note(path: Path) -> None:
    """Make the note the first cell, once."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if notebook["cells"][:1] != [CELL]:
        notebook["cells"].insert(0, CELL)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        add_note(Path(name))
