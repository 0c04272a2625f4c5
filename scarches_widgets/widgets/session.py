"""What views of the same cells share: which cells are selected, how they are coloured, and what was done to them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from ..data.names import DataError, did_you_mean, listed, shown
from .coloring import find_color
from .session_script import Source, Step, follow, script_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..mapping.hierarchy import Hierarchy
    from ..models.base import Model


NO_CELLS = np.zeros(0, dtype=np.int64)
NO_CELLS.setflags(write=False)


class CellIndices(traitlets.TraitType):
    """Positions of cells: int64, ascending, without repeats, read-only, and compared as a whole.

    Can be set with positions, a boolean mask or names of cells; whoever carries the trait has an `adata` (or None).
    """

    info_text = "positions of cells, a boolean mask or names of cells"

    default_value = NO_CELLS

    def validate(self, obj: Any, value: Any) -> np.ndarray:
        return positions_of(value, obj.adata)

    def set(self, obj: Any, value: Any) -> None:
        new = self._validate(obj, value)
        old = self.get(obj)
        if not np.array_equal(old, new):
            obj._trait_values[self.name] = new
            obj._notify_trait(self.name, old, new)


class CellsSelected:
    """What whoever has an `adata` and a `selection` says of the selected cells."""

    @property
    def obs_names(self) -> pd.Index:
        """Names of the selected cells."""
        return self._known.obs_names[self.selection]

    @property
    def mask(self) -> np.ndarray:
        """Which cells are selected, bool (cells,)."""
        mask = np.zeros(self._known.n_obs, dtype=bool)
        mask[self.selection] = True
        return mask

    @property
    def _known(self) -> AnnData:
        if self.adata is None:
            raise ValueError("There are no cells yet, so none can be named. Give `adata=` to the session or to a view.")
        return self.adata


class Session(CellsSelected, traitlets.HasTraits):
    """What views of one AnnData share: give the same session to several views, and they are linked.

    Parameters
    ----------
    selection
        Positions of the selected cells; can be set with a boolean mask or with names of cells too.
    color
        Column of `obs`, or gene, by which every view colours its cells; None: all alike.
    adata
        The cells. A session without any takes those of its first view.
    model
        The model that a view has trained, adapted or loaded; None before.

    Attributes
    ----------
    steps
        What was done, in order: each a `session_script.Step`.
    sources
        Name of a variable in the script → where it comes from, a `session_script.Source`.
    models
        Name of a model in the script → the folder in which it was saved.
    tree, review
        The `Hierarchy` that is edited, and the `mapping.review.Review` of labels; None before.

    Examples
    --------
    >>> session = Session()
    >>> EmbeddingView(adata, "X_umap", session=session)
    >>> EmbeddingView(adata, "X_pca", session=session)
    >>> session.observe(lambda change: print(len(change["new"])), "selection")
    >>> session.follow(TrainingPanel(reference))  # what is trained there becomes part of the script
    >>> print(session.code())

    Notes
    -----
    A plain object with traits, without a screen: it can be observed and linked in scripts. Later views add what they
    share as further traits.
    """

    selection = CellIndices()
    color = traitlets.Unicode(None, allow_none=True)
    adata = traitlets.Any(None, allow_none=True)
    model = traitlets.Any(None, allow_none=True)
    steps = traitlets.Tuple()
    sources = traitlets.Dict()
    models = traitlets.Dict()
    tree = traitlets.Any(None, allow_none=True)
    review = traitlets.Any(None, allow_none=True)

    def __init__(
        self, selection: Any = (), color: str | None = None, adata: AnnData | None = None, model: Model | None = None
    ):
        super().__init__(model=model)
        self.objects: dict[str, Any] = {}  # name of a variable in the script -> what it stands for now
        self.made_tree: str | None = None  # the line of the script that made `tree`; None: it was given in Python
        self.held_review: dict[str, Any] | None = None  # decisions of a file whose predicted labels are not there yet
        self.adata = adata
        self.color = color
        self.selection = selection

    def __repr__(self) -> str:
        cells = f"{self.adata.n_obs:,} cells" if self.adata is not None else "no cells yet"
        return f"Session({cells}, {len(self.selection):,} selected, color={self.color!r})"

    def adopt(self, adata: AnnData) -> None:
        """Take the cells of a view, or refuse the view if the session has others."""
        if self.adata is None:
            self.adata = adata
        elif self.adata is not adata:
            raise DataError(
                f"The session already has an AnnData ({self.adata.n_obs:,} cells), and what is selected in one would "
                f"mean nothing in another ({adata.n_obs:,} cells). Make a new `Session()` for it, or give its views "
                "`session.adata`."
            )

    # What was done

    def follow(self, widget: Any) -> None:
        """Make what is done in a widget of this package, from now on, part of the script."""
        follow(self, widget)

    def record(self, step: Step, again: bool = False) -> None:
        """Note that something was done; `again` says that it goes on from the last step of its kind, which it replaces.

        A training that nothing was made of yet gives way to the next one, too.
        """
        steps = list(self.steps)
        last = max((i for i, one in enumerate(steps) if again and one.kind == step.kind), default=None)
        if last is not None:
            steps[last] = step
        elif steps and steps[-1].kind == step.kind == "train":
            steps[-1] = step
        else:
            steps.append(step)
        self.steps = tuple(steps)

    def make_tree(self, cells: str, keys: list[str]) -> Hierarchy:
        """A tree of the label columns `keys`, coarse to fine, of the AnnData that the script calls `cells`."""
        from ..mapping.hierarchy import Hierarchy

        self.tree = Hierarchy.from_obs(self.objects[cells], keys)
        self.made_tree = f"tree = sca.hierarchy.Hierarchy.from_obs({cells}, {keys!r})"
        return self.tree

    def name_of(self, value: Any, name: str) -> str:
        """What the script calls an AnnData or a model; `name` if it has no name yet, or with a number."""
        for known, one in self.objects.items():
            if one is value:
                return known
        free = next(one for one in [name, *(f"{name}_{i}" for i in range(2, 1000))] if one not in self.objects)
        self.objects[free] = value
        if free not in self.sources:
            self.sources = {**self.sources, free: Source(is_model=hasattr(value, "module"))}
        return free

    def code(self) -> str:
        """A script that does all of `steps` again, from the files that were read, and gives the same labels.

        What was given in Python and not read from a file is read from one that the script names.
        """
        return script_of(self.sources, self.steps)

    def save(self, path: str | os.PathLike) -> Path:
        """Write what was selected, done and decided as a small JSON file; by custom its name ends in `.scaw.json`.

        In it stand: positions of the selected cells, the colour, the steps with their options, losses and code, paths
        of data and models as seen from the file, the tree, and the review's rule, thresholds and decisions with their
        labels and comments. Not in it: data, names of cells, cells' labels. It can tell whether an AnnData is the same
        by a SHA-256 of all its cell names; who has the same list of names can recognise it by that. Names of columns,
        genes, groups and cell types, comments, and the reviewer's name are written as they are.

        Raises
        ------
        OSError
            If it cannot be written; what stood there before is kept.
        """
        from .session_file import write_session

        path = Path(path).expanduser()
        write_session(self, path)
        return path

    def load(self, path: str | os.PathLike) -> Session:
        """Take up what `save` wrote, all of it or nothing; this session, whose cells must be those of the file.

        Models are not loaded and nothing is computed: `models` says where models are, and `code()` gives the script.
        Decisions on labels that are not in `obs` yet wait for them, see `take_up_review`. Code in a file from
        others is text like any: read it before you run it.

        Raises
        ------
        DataError
            If the file is no session, or one of another AnnData; then nothing is changed.
        """
        from .session_file import fitted, read_session

        path = Path(path).expanduser()
        parts = fitted(read_session(path), self.adata, path.parent)
        with self.hold_trait_notifications():
            for name, value in parts.items():
                setattr(self, name, value)
        return self

    def take_up_review(self) -> Any:
        """The review of a loaded file, once the labels that it is of are in `obs`; None if there is none to take up.

        Raises
        ------
        DataError
            If the labels are others than those that were reviewed.
        """
        from ..mapping.review import Review

        if self.held_review is not None and self.adata is not None:
            self.review = Review.from_json(self.adata, self.held_review)
            self.held_review = None
        return self.review

    @traitlets.validate("color")
    def _check_color(self, proposal: dict) -> str | None:
        if self.adata is not None:
            find_color(self.adata, proposal["value"])
        return proposal["value"]

    @traitlets.validate("adata")
    def _check_adata(self, proposal: dict) -> Any:
        adata = proposal["value"]
        if adata is not None:
            find_color(adata, self.color)
            positions_of(self.selection, adata)
        return adata


def positions_of(selection: Any, adata: AnnData | None) -> np.ndarray:
    """A selection as ascending int64 positions without repeats, read-only.

    Parameters
    ----------
    selection
        Positions (from 0), a boolean mask over all cells, or names of cells; None or empty for no cell.
    adata
        The cells; None if they are not known yet: then only positions can be checked, and only for their sign.
    """
    values = np.atleast_1d(np.asarray([] if selection is None else selection))
    if values.ndim != 1:
        raise DataError(f"A selection has one dimension, not {values.ndim}. Give positions, a mask or names of cells.")
    if values.size == 0:
        return NO_CELLS
    if values.dtype == bool or (values.dtype.kind == "O" and all(isinstance(v, bool | np.bool_) for v in values)):
        chosen = _where(values.astype(bool), adata)
    elif values.dtype.kind in "iu":
        chosen = _in_range(values, adata)
    elif values.dtype.kind in "OUST":
        chosen = _of_names(values, adata)
    else:
        raise DataError(
            f"A selection of {values.dtype} is neither positions nor names nor a mask. Convert it, for example with "
            "`np.flatnonzero(…)`."
        )
    chosen = np.array(chosen, dtype=np.int64)
    if (np.diff(chosen) <= 0).any():  # a mask's positions ascend already, and of many cells sorting takes long
        chosen = np.unique(chosen)
    chosen.setflags(write=False)
    return chosen


def _where(mask: np.ndarray, adata: AnnData | None) -> np.ndarray:
    if adata is not None and len(mask) != adata.n_obs:
        raise DataError(
            f"The mask has {len(mask):,} values, and there are {adata.n_obs:,} cells. Give one for each cell."
        )
    return np.flatnonzero(mask)


def _in_range(positions: np.ndarray, adata: AnnData | None) -> np.ndarray:
    wrong = positions < 0
    if adata is not None:
        wrong |= positions >= adata.n_obs
    if wrong.any():
        last = f"{adata.n_obs - 1:,}" if adata is not None else "the number of cells, less one"
        raise DataError(
            f"{int(wrong.sum()):,} of {len(positions):,} positions do not exist ({listed(positions[wrong])}). "
            f"They count from 0 to {last}."
        )
    return positions


def _of_names(names: np.ndarray, adata: AnnData | None) -> np.ndarray:
    if adata is None:
        raise DataError("The session has no cells yet, so names cannot be found. Give it `adata=` first.")
    found = adata.obs_names.isin(names)
    unknown = [name for name in names if name not in adata.obs_names]
    if unknown:
        raise DataError(
            f"{len(unknown):,} of {len(names):,} names are not in adata.obs_names ({listed(unknown)})."
            f"{did_you_mean(unknown[0], adata.obs_names[:10_000])} The first cell is '{shown(adata.obs_names[0])}'."
        )
    return np.flatnonzero(found)
