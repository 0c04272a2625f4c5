"""Every view in every state that it has, in both themes, before axe: no serious fault of accessibility."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DATA = """
import warnings; warnings.simplefilter("ignore")
from unittest.mock import patch
import scarches_widgets as sca
from scarches_widgets.models.scvi import SCVIModule
from scarches_widgets.training.run import TrainingRun
from scarches_widgets.widgets import EmbeddingView, Exercise, GenePrograms, LossMonitor, MappingPanel, ModelHub
from scarches_widgets.widgets import TrainingPanel, TreeEditor

adata = sca.datasets.atlas(n_obs=300, n_vars=60, seed=1)
reference, query = adata[adata.obs["batch"] != "batch2"].copy(), adata[adata.obs["batch"] == "batch2"].copy()
model = sca.models.SCVI(reference, batch_key="batch", labels_key="cell_type", encode_covariates=True, n_hidden=16)
model.train(max_epochs=2, progress=False)
foreign = query.copy()
foreign.var_names = [f"of another species {i}" for i in range(60)]
FOR_EVER, FEW = 100_000, 2
"""
# Each panel is brought into its state by what a user would do; only a run's failure is made.
PANELS = """
def trainer(max_epochs=FEW, **options):
    return TrainingPanel(reference, batch_key="batch", n_hidden=16, max_epochs=max_epochs, **options)

def mapper(max_epochs=FEW, cells=query, **options):
    return MappingPanel(model, cells.copy(), max_epochs=max_epochs, labels_key="cell_type", **options)

def has_epochs(panel):
    import time
    while panel.run is None or not panel.run.epochs: time.sleep(0.02)

def in_each_state(make, start):
    panels = {state: make(FOR_EVER) for state in ("running", "paused", "stopped")}
    panels |= {state: make() for state in ("ready", "done", "failed")}
    start(panels["done"]); panels["done"].wait()
    with patch.object(SCVIModule, "loss", side_effect=ArithmeticError("The loss became NaN. Try lr=0.001.")):
        start(panels["failed"]); panels["failed"].wait()
    for state in ("paused", "stopped"):
        start(panels[state]); has_epochs(panels[state])
    panels["paused"].pause(); panels["stopped"].stop(); panels["stopped"].wait()
    return panels

trainers = in_each_state(trainer, lambda panel: panel.train())
trainers |= {"empty": TrainingPanel(), "invalid": trainer(labels_key="cell_type")}
trainers["invalid"].set_state({"values": {"n_latent": -3, "batch_key": "library_size"}})
mappers = in_each_state(mapper, lambda panel: panel.map())
mappers["invalid"] = mapper(cells=foreign)
trainers["running"].train(); mappers["running"].map()  # last, for the failure is everybody's while it is made
has_epochs(mappers["running"])
"""
PROGRAMS = """
def explorer(**training):
    sets = adata.uns["truth"]["markers"]
    model = sca.models.EXPIMAP(adata, gene_sets=sets, min_genes=1, hidden_layer_sizes=[8], batch_key="batch")
    if training:
        model.train(progress=False, **training)
    view = GenePrograms(model, basis="truth")
    view.wait()
    return view

explorers = {"empty": explorer()} | {state: explorer(max_epochs=FEW) for state in ("ready", "failed", "running")}
explorers["ready"].compare("batch", "batch0"); explorers["ready"].wait()
with patch.object(sca.models.EXPIMAP, "latent_enrich", side_effect=MemoryError("There is no memory. Use fewer cells.")):
    explorers["failed"].compare("batch", "batch0"); explorers["failed"].wait()
explorers["failed"].write_obs()
explorers["running"].model.train(max_epochs=FOR_EVER, background=True)
"""
HUBS = """
import tempfile
from pathlib import Path
shelf = Path(tempfile.mkdtemp())
sca.hub.save(model, shelf / "sound"); sca.hub.save(model, shelf / "damaged")
tensors = shelf / "damaged" / "model.safetensors"
tensors.write_bytes(tensors.read_bytes()[:-1])
hubs = {"empty": ModelHub("nowhere")}
hubs |= {state: ModelHub(shelf, query) for state in ("ready", "running", "done", "failed")}
for hub in hubs.values(): hub.wait()
hubs["done"].load("sound"); hubs["done"].wait()
hubs["failed"].load("damaged"); hubs["failed"].wait()
hubs["ready"]._click_choose({"key": "local:sound"}, [])
hubs["ready"].draft = {"id": "1", "key": "local:sound", "title": "A model", "state": "filled", "link": "https://zenodo.org/1"}
never = __import__("threading").Event()
hubs["running"]._begin("download", "local:sound", "Downloading a.zip", lambda cancel: str(never.wait()))
hubs["running"]._progressing()(3_000_000, 9_000_000)
"""
EXERCISES = """
def exercise(expression, **options):
    checks = {"The model, `model`, is trained.": expression, "You know why.": "answer == 'speed'"}
    return Exercise("Train", "Train it. Why `lr`?", checks, choices=["speed", "luck"], hints=["Click."], **options)

exercises = {
    "right": exercise("model.history is not None", solution="model.train()"),
    "solution": exercise("len(model.history) == 5", solution="model.train(max_epochs=5)"),
    "wrong": exercise("later > 0"), "fresh": exercise("later > 0"),
}
exercises["right"].answer, exercises["wrong"].answer = "speed", "luck"
for name in ("right", "solution", "wrong"): exercises[name].climb(); exercises[name].check()
exercises["solution"].climb()
"""
VIEWS = """
monitors = {state: LossMonitor(panel.run) for state, panel in trainers.items() if panel.run is not None}
monitors |= {"empty": LossMonitor(trainers["ready"]), "ready": LossMonitor(TrainingRun(iter(())))}
selected = EmbeddingView(reference, "truth", "cell_type"); selected.selection = range(50)
wrong = EmbeddingView(reference, "truth", "library_size")
wrong._obey(wrong, {"op": "color", "key": "a column that is not there"}, [])
def trial(number, epochs):
    told = LossMonitor(name=f"trial {number}")
    for i in told.wrap(range(epochs)): told.log(loss=9.0 - i, val_loss=9.5 - i)
    told.run.wait()
    told.run.title = f"trial {number}"
    return told.run

class Sweep:
    runs, status, error, controls, in_foreground = [trial(0, 3), trial(1, 2)], "done", None, ("stop",), False
    n_begun = n_trials = 2
    def watch_trials(self, watcher): pass
    def watch_status(self, watcher): pass

sweep = LossMonitor(Sweep())
looping = LossMonitor()
stepping = looping.wrap(range(9)); next(stepping); looping.log(loss=1.0)
tree = sca.hierarchy.Hierarchy.from_obs(reference, ["type_level1", "cell_type"])
trees = [TreeEditor(tree, reference, batch_key="batch"), TreeEditor(tree, readonly=True)]
views = {"none": EmbeddingView(reference, "truth"), "selected": selected, "wrong": wrong}
display(*monitors.values(), *trainers.values(), *mappers.values(), *explorers.values(), *views.values(), *trees)
display(*hubs.values(), *exercises.values(), sweep, looping)
"""
STATES = {
    ".scaw-loss-monitor": ["empty", "ready", "running", "running", "paused", "stopped", "done", "done", "failed"],
    ".scaw-training-panel": {"empty", "invalid", "ready", "running", "paused", "stopped", "done", "failed"},
    ".scaw-mapping-panel": {"invalid", "ready", "running", "paused", "stopped", "done", "failed"},
    ".scaw-gene-programs": {"empty", "ready", "running", "failed"},
    ".scaw-tree-editor": {"ready", "readonly"},
    ".scaw-model-hub": {"empty", "ready", "running", "done", "failed"},
    ".scaw-exercise": ["ready", "ready", "ready", "done"],
}
EMBEDDING = ".scaw-embedding-view"


def test_no_serious_fault_in_any_state_of_any_view_in_either_theme(notebook):
    nb = notebook([DATA, PANELS, PROGRAMS, HUBS, EXERCISES, VIEWS])
    nb.run_all()
    for css, states in STATES.items():
        for state in states:
            nb.wait_for(f"{css}[data-status={state}]", timeout=60)
        assert nb.widgets(css).count() == len(states)
    nb.page.wait_for_function(
        f"() => document.querySelectorAll('{EMBEDDING} .scaw-chart[data-ready]').length === 3", timeout=60_000
    )
    nb.wait_for_text(f"{EMBEDDING} [role=alert]", "a column that is not there")
    for told in ("Not this one.", "model.train(max_epochs=5)"):
        nb.wait_for_text(".scaw-exercise", told)
    nb.widgets("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    nb.widgets("button:text-is('Table')").evaluate_all("all => all.forEach((one) => one.click())")
    for theme in ("light", "dark"):
        nb.set_theme(theme)
        assert nb.axe() == [], theme

    n = nb.widgets().count()
    nb.restart_kernel()
    nb.page.wait_for_function(
        "n => [...document.querySelectorAll('.jp-OutputArea .scaw-root .scaw-badge')]"
        ".filter((badge) => badge.textContent === 'kernel gone').length === n",
        arg=n,
        timeout=60_000,
    )
    for theme in ("dark", "light"):
        nb.set_theme(theme)
        assert nb.axe() == [], theme


LABELLED = """
import numpy as np
from scarches_widgets.widgets import LabelReview, Suite
rng = np.random.default_rng(0)
labelled = query.copy()
for name in ("a", "b"):
    labelled.obs[f"predicted_{name}"] = rng.choice(["B cell", "T cell", "NK cell"], labelled.n_obs)
    labelled.obs[f"uncertainty_{name}"] = rng.random(labelled.n_obs)
labelled.obsm["X_umap"] = rng.normal(size=(labelled.n_obs, 2))
reviews = [LabelReview(labelled), LabelReview(labelled, against="cell_type")]
for review in reviews: review.wait(60)
reviews[1].review.reject([0]); reviews[1].selection = range(5); reviews[1].apply("reviewed")
suites = {step: Suite(model, labelled) for step in ("data", "train", "map", "tree", "share")} | {"monitor": Suite()}
suites["tree"].make_tree(["type_level1", "cell_type"])
for step, suite in suites.items(): suite.open_step(step)
suites["data"].show_error(ValueError("This cannot be read. Choose another file."))
display(*reviews, *suites.values())
"""


def test_no_serious_fault_in_reviews_and_in_the_steps_of_a_suite(notebook):
    nb = notebook([DATA, LABELLED])
    nb.run_all()
    nb.page.wait_for_function("() => document.querySelectorAll('.scaw-suite').length === 6", timeout=60_000)
    for css in ("training-panel", "mapping-panel", "label-review .scaw-dots", "tree-editor", "model-hub"):
        nb.wait_for(f".scaw-suite .scaw-{css}", timeout=60)
    assert "Nothing has been trained here yet" in nb.wait_for(".scaw-suite .scaw-locked-reason:visible").text_content()
    nb.widgets("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    for theme in ("light", "dark"):
        nb.set_theme(theme)
        assert nb.axe() == [], theme
    nb.restart_kernel()
    nb.wait_for_text(".scaw-suite > .scaw-head .scaw-badge", "kernel gone")
    for theme in ("dark", "light"):
        nb.set_theme(theme)
        assert nb.axe() == [], theme
