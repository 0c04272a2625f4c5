"""The steps of a suite: why each is locked, in words, and which widgets it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..data.names import DataError, shown
from ..mapping.jobs import SURGERY_READY
from ..mapping.predictions import models_of
from .embedding_view import EmbeddingView
from .gene_programs import GenePrograms
from .label_review import LabelReview
from .mapping_panel import MappingPanel
from .model_hub import ModelHub
from .spatial_mapper import SpatialMapper
from .training_panel import TrainingPanel
from .tree_editor import TreeEditor

if TYPE_CHECKING:
    from anndata import AnnData

    from .base import View
    from .suite import Suite

MOST_LAID_OUT = 4_000  # cells of which a t-SNE is made; of more, principal components
USUAL = {"batch_key": ("batch", "sample", "donor"), "labels_key": ("cell_type", "celltype", "cell_types")}


@dataclass(frozen=True)
class StepOfSuite:
    """One step.

    Attributes
    ----------
    title
        In words.
    locked
        Why it cannot be taken yet, and which step mends that; ("", "") if it can.
    make
        Makes its widgets, by name, the first time it is opened; `needed` names those that can be made now.
    """

    title: str
    locked: Callable[[Suite], tuple[str, str]]
    make: Callable[[Suite], Mapping[str, Callable[[], View]]]


FREE = ("", "")
NO_REFERENCE = ("There are no cells of a reference yet. Open their file in step Data.", "data")


def _training(suite: Suite) -> dict[str, Callable[[], View]]:
    def make() -> View:
        cells, name = suite.reference, suite.model_name
        options = dict(SURGERY_READY.get(name, {}))
        for key, names in USUAL.items():
            column = next((one for one in names if one in cells.obs), None)
            if column is not None:
                options[key] = column
        if suite.split_column is not None:
            options["batch_key"] = suite.split_column
        panel = TrainingPanel(cells, name)
        panel.model_names = []  # the step itself lets choose
        panel.set(**{key: value for key, value in options.items() if key in panel.values})
        panel.watch_runs(lambda run: suite.touch())
        return panel

    return {"training": make}


def _monitor(suite: Suite) -> dict[str, Callable[[], View]]:
    return {"monitor": lambda: suite.widgets["training"].monitor}


def _mapping(suite: Suite) -> dict[str, Callable[[], View]]:
    def panel() -> View:
        return MappingPanel(suite.reference_model, suite.query)

    def review() -> View:
        try:
            there = suite.session.take_up_review()
        except DataError as error:  # the labels are others now
            suite.session.held_review = there = None
            suite.show_error(error)
        return LabelReview(suite.query if there is None else there, session=suite.session)

    return {
        **({"mapping": panel} if suite.reference_model is not None else {}),
        **({"review": review} if has_predictions(suite.query) else {}),
    }


def _tree(suite: Suite) -> dict[str, Callable[[], View]]:
    if suite.session.tree is None:
        return {}

    def make() -> View:
        try:
            return TreeEditor(suite.session.tree, suite.session.adata, session=suite.session)
        except DataError:  # no column of these cells has the tree's labels: the tree alone
            return TreeEditor(suite.session.tree)

    return {"tree": make}


def _tissue(suite: Suite) -> dict[str, Callable[[], View]]:
    def make() -> View:
        region = next((one for one in ("region", "niche", "domain") if one in suite.tissue.obs), None)
        of_query = {} if suite.query is None else {"session": suite.session, "region_key": region}
        return SpatialMapper(suite.tissue, suite.query, **of_query)

    return {"tissue": make}


def _programs(suite: Suite) -> dict[str, Callable[[], View]]:
    return {"programs": lambda: GenePrograms(suite.latest_model, suite.session.adata, session=suite.session)}


def _share(suite: Suite) -> dict[str, Callable[[], View]]:
    return {"hub": lambda: ModelHub(suite.folder / "models", suite.query)}


def _train_locked(suite: Suite) -> tuple[str, str]:
    return FREE if suite.reference is not None else NO_REFERENCE


def _monitor_locked(suite: Suite) -> tuple[str, str]:
    panel = suite.widgets.get("training")
    if panel is not None and panel.run is not None:
        return FREE
    return ("Nothing has been trained here yet, so there is nothing to watch. Begin in step Train.", "train")


def _map_locked(suite: Suite) -> tuple[str, str]:
    panel = suite.widgets.get("training")
    if panel is not None and panel.run is not None and panel.run.is_active:
        return ("The model is being trained. Wait for it, or end it in step Train.", "train")
    if suite.query is not None and has_predictions(suite.query):
        return FREE  # for what is labelled can be reviewed without the model
    if suite.reference_model is None:
        if suite.reference is None:
            return NO_REFERENCE
        return ("There is no trained model to map onto. Train one in step Train, or begin with Suite(model).", "train")
    if suite.query is None:
        return ("There is no query to map. Open a file, or take batches out of the reference, in step Data.", "data")
    return FREE


def _tree_locked(suite: Suite) -> tuple[str, str]:
    if suite.session.tree is not None or suite.label_columns:
        return FREE
    if suite.reference is None:
        return NO_REFERENCE
    return (
        "The reference has no column of labels, of which a tree could be made. Open other cells in step Data.",
        "data",
    )


def _tissue_locked(suite: Suite) -> tuple[str, str]:
    if suite.tissue is None:
        return ("There is no tissue. Open a file of cells with coordinates, obsm['spatial'], in step Data.", "data")
    return FREE


def _programs_locked(suite: Suite) -> tuple[str, str]:
    model = suite.latest_model
    if model is None:
        return ("There is no trained model yet. Gene programs come with EXPIMAP: train one in step Train.", "train")
    if not hasattr(model, "get_gene_program_scores"):
        return (
            f"The model is {_article(type(model).__name__)}, which has no gene programs. Train EXPIMAP in step Train; "
            "its gene sets are read from the cells, where sca.utils.add_annotations(adata, 'sets.gmt') puts them.",
            "train",
        )
    return FREE


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUSM' and name.isupper() else 'a'} {shown(name)}"


STEPS: Mapping[str, StepOfSuite] = {
    "data": StepOfSuite("Data", lambda suite: FREE, lambda suite: {}),
    "train": StepOfSuite("Train", _train_locked, _training),
    "monitor": StepOfSuite("Monitor", _monitor_locked, _monitor),
    "map": StepOfSuite("Map and review", _map_locked, _mapping),
    "tree": StepOfSuite("Tree", _tree_locked, _tree),
    "tissue": StepOfSuite("Tissue", _tissue_locked, _tissue),
    "programs": StepOfSuite("Programs", _programs_locked, _programs),
    "share": StepOfSuite("Share", lambda suite: FREE, _share),
}
WITH_CELLS = ("map", "tree")  # steps beside which the session's cells are shown


def has_predictions(adata: AnnData) -> bool:
    """Whether the cells have labels with uncertainties, which can be reviewed."""
    try:
        return bool(models_of(adata, None))
    except DataError:
        return False


def view_of_cells(suite: Suite, basis: str) -> EmbeddingView:
    return EmbeddingView(suite.session.adata, basis, session=suite.session)


def laid_out(z: np.ndarray) -> tuple[str, np.ndarray]:
    """Latents in two dimensions, float32 (cells, 2), and what was done: "tsne", or "pca" of many cells."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # several threads wait for one another, for minutes where CPUs are shared
        if 50 <= len(z) <= MOST_LAID_OUT:
            how, position = "tsne", TSNE(random_state=0, init="pca").fit_transform(z)
        else:
            n = min(2, *z.shape)
            how, position = "pca", PCA(n, svd_solver="full").fit_transform(z)
            position = np.pad(position, ((0, 0), (0, 2 - n)))
    return how, position.astype(np.float32)
