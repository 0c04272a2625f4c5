"""Style sheets of several widgets stand on one page, as in a Suite: none changes what another one says of a class."""

import re
from collections import defaultdict
from pathlib import Path

import scarches_widgets.widgets

FOLDER = Path(scarches_widgets.widgets.__file__).parent


def test_no_two_style_sheets_say_different_things_of_one_class():
    said = defaultdict(dict)  # (class, property) -> sheet: value
    for sheet in FOLDER.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", sheet.read_text(encoding="utf-8"), flags=re.S)
        for selectors, block in re.findall(r"^([^{}@\s][^{}]*)\{([^{}]*)\}", text, re.M):
            for selector in selectors.split(","):
                for entry in filter(None, map(str.strip, block.split(";"))):
                    name, value = map(str.strip, entry.split(":", 1))
                    said[selector.strip(), name][sheet.name] = value
    assert len(said) > 500
    apart = {key: values for key, values in said.items() if len(set(values.values())) > 1}
    assert not apart
