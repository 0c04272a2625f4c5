"""Pictures of every widget, light, dark and narrow, to be looked at; they stand in the README too, side by side.

    PYTHONPATH=tests python -m browser.screenshots FOLDER [WIDGET …] | --readme

A widget's name is its class's (`LabelReview`); without any, all are taken. `--readme` takes anew what the README shows.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright
from scipy.spatial import cKDTree

from .chromium import chromium
from .conftest import FLAGS
from .lab import TESTS, Lab, Notebook

IN_README = TESTS.parent / "notebooks" / "pictures"
WIDTHS = {"wide": 1280, "narrow": 700}  # of the window, CSS pixels
COLOURS = 256  # of a picture in the repository
HEIGHT = 1600
SETTLING = 700  # ms after which charts have followed a new width
DATA = """
import warnings; warnings.simplefilter("ignore")
import numpy as np
import scarches_widgets as sca
from scarches_widgets.widgets import *
from scarches_widgets.widgets.suite_steps import laid_out

atlas = sca.datasets.atlas(n_obs=1500, n_vars=150, seed=0)
is_query = atlas.obs["batch"] == atlas.obs["batch"].cat.categories[-1]
reference, query = atlas[~is_query].copy(), atlas[is_query].copy()
trainer = TrainingPanel(reference, batch_key="batch", labels_key="cell_type", encode_covariates=True, max_epochs=30)
trainer.train(); trainer.wait()
mapper = MappingPanel(trainer.model, query, labels_key="cell_type", max_epochs=15)
mapper.map(); mapper.wait()
query.obsm["X_scvi_tsne"] = laid_out(query.obsm[mapper.embedding])[1]
tissue = sca.datasets.tissue(n_obs=1200, n_vars=80, seed=0)
placed, dissociated = (tissue[tissue.obs["section"] == name].copy() for name in ("section0", "section1"))
del dissociated.obsm["spatial"]
"""
SCENES = {  # class -> what the last line shows
    "TrainingPanel": "trainer",
    "LossMonitor": "LossMonitor(trainer.run)",
    "MappingPanel": "mapper",
    "LabelReview": "review = LabelReview(query, threshold=0.3); review.wait()\nreview",
    "EmbeddingView": "cells = EmbeddingView(query, 'scvi_tsne', 'cell_type')\n"
    "cells.selection = query.obs['cell_type'] == query.obs['cell_type'].value_counts().index[1]\ncells",
    "TreeEditor": "tree = sca.hierarchy.Hierarchy.from_obs(reference, ['type_level1', 'cell_type'])\n"
    "TreeEditor(tree, reference, 'cell_type', 'batch')",
    "SpatialMapper": "mapped = SpatialMapper(placed, dissociated, region_key='region', color='region', max_epochs=60)\n"
    "mapped.map(); mapped.wait()\nmapped",
    "GenePrograms": "expimap = sca.models.EXPIMAP(reference, gene_sets=atlas.uns['truth']['programs'], min_genes=3)\n"
    "expimap.train(max_epochs=20, progress=False)\nreference.obsm['X_expimap_tsne'] = "
    "laid_out(expimap.get_latent_representation())[1]\nprograms = GenePrograms(expimap, basis='expimap_tsne')\n"
    "programs.compare('cell_type', programs.groupings['cell_type'][0]); programs.wait()\nprograms",
    "ModelHub": "import os; os.mkdir('models'); sca.hub.save(trainer.model, 'models/atlas')\n"
    "hub = ModelHub('models', query); hub.wait()\nhub",
    "Suite": "suite = Suite(trainer.model, query)\nsuite.session.color = 'predicted_cell_type'\n"
    "suite.open_step('map'); suite.wait()\nsuite",
    "Exercise": "Exercise('Fewer epochs', 'Train `model` for 5 epochs. What changes?', "
    "{'`model` has 5 epochs.': 'len(model.history) == 5'}, choices=['the loss', 'the genes'], hints=['Look.'])",
}
ALONE_IN_README = ("LossMonitor", "LabelReview", "SpatialMapper", "GenePrograms")
GAP = 24  # pixels between pictures that stand side by side


def css_of(widget: str) -> str:
    """The selector of a widget's class: `.scaw-label-review` of `LabelReview`."""
    return ".scaw-" + "".join(f"-{one.lower()}" if one.isupper() else one for one in widget).lstrip("-")


def take(nb: Notebook, i: int, widget: str, folder: Path, looks: dict[str, tuple[str, str]]) -> list[Path]:
    """Show one widget in the last cell and take it in each look, a name → (theme, width)."""
    nb.run_cell(i, timeout=300)
    view = nb.wait_for(css_of(widget), timeout=60)
    nb.page.wait_for_function(
        "css => [...document.querySelectorAll(`${css} .scaw-chart`)]"
        ".filter((one) => one.offsetParent).every((one) => one.dataset.ready !== undefined)",
        arg=css_of(widget),
        timeout=60_000,
    )
    taken = []
    for name, (theme, width) in looks.items():
        nb.set_theme(theme)
        nb.resize(WIDTHS[width], HEIGHT)
        nb.page.wait_for_timeout(SETTLING)
        nb.resize(WIDTHS[width], max(HEIGHT, round(view.bounding_box()["height"]) + 300))  # all of it on the screen
        nb.page.wait_for_timeout(SETTLING)
        taken.append(folder / f"{name}.png")
        view.screenshot(path=taken[-1], animations="disabled")
    nb.set_theme("light")
    nb.resize(WIDTHS["wide"], HEIGHT)
    return taken


def side_by_side(pictures: list[Path], found: Path) -> None:
    """All in one picture, at half their size."""
    images = [Image.open(picture).convert("RGB") for picture in pictures]
    images = [image.reduce(2) for image in images]
    width = sum(image.width for image in images) + GAP * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images)), "white")
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + GAP
    save(sheet, found)


def save(image: Image.Image, path: Path) -> None:
    """In few colours: half of them the most frequent ones, as they are; half those that stand for all others, among
    them the colours of thin lines, which the usual way of choosing would mix."""
    pixels = np.asarray(image.convert("RGB"))
    colours, which, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    frequent, rare = np.split(colours[np.argsort(-counts)], [COLOURS // 2])
    if len(rare):
        stand_ins = Image.fromarray(rare[None]).quantize(COLOURS // 2, method=Image.Quantize.MAXCOVERAGE)
        chosen = np.vstack([frequent, np.unique(np.asarray(stand_ins.convert("RGB"))[0], axis=0)])
    else:
        chosen = frequent
    _, nearest = cKDTree(chosen).query(colours)
    few = Image.fromarray(nearest[which].reshape(pixels.shape[:2]).astype(np.uint8), "P")
    few.putpalette(chosen.astype(np.uint8).tobytes())
    few.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="where the pictures go")
    parser.add_argument("widgets", nargs="*", help="all, if none is named")
    parser.add_argument("--readme", action="store_true", help=f"take those of the README, into {IN_README}")
    asked = parser.parse_args()
    if unknown := [name for name in asked.widgets if name not in SCENES]:
        parser.error(f"There is no picture of {unknown[0]}. There are: {', '.join(SCENES)}.")
    if not asked.readme and asked.folder is None:
        parser.error("Name a folder for the pictures, or give --readme.")
    widgets = asked.widgets or SCENES
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        folder = asked.folder or Path(home) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        lab = Lab(Path(home))
        path = chromium(playwrights_own=Path(playwright.chromium.executable_path))
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        context = browser.new_context(viewport={"width": WIDTHS["wide"], "height": HEIGHT})
        try:
            Notebook.write(lab.root / "all.ipynb", [DATA, *(SCENES[widget] for widget in widgets)])
            nb = Notebook(lab, context, lab.root / "all.ipynb", folder)
            nb.open()
            nb.run_cell(0, timeout=300)
            for i, widget in enumerate(widgets, start=1):
                name = css_of(widget).removeprefix(".scaw-").replace("-", "_")
                looks = {name: ("light", "wide")}
                looks |= {f"{name}-dark": ("dark", "wide"), f"{name}-narrow": ("light", "narrow")}
                pictures = take(nb, i, widget, folder, looks)
                if asked.readme:
                    side_by_side(pictures, IN_README / f"{name}_looks.png")
                    if widget in ALONE_IN_README:
                        save(Image.open(pictures[0]), IN_README / pictures[0].name)
            nb.check()
        finally:
            browser.close()
            lab.end_kernels()
            lab.stop()


if __name__ == "__main__":
    main()
