"""Saving and loading any model by its folder alone, with a card beside it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .. import models
from ..data import atomic
from ..data.container import MEMBERS, DamagedFile, read_document
from ..data.names import shown
from ..models.base import Model
from ..models.checkpoint import KIND
from ..models.checkpoint import VERSION as MODEL_VERSION
from .cards import CARD, ModelCard, card_of, encoded, read_card


def save(
    model: Model,
    path: str | os.PathLike,
    *,
    card: ModelCard | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> ModelCard:
    """Write a model and its card to a folder. It is whole or absent; `Model.load` reads it, too.

    Parameters
    ----------
    model
        Any model of this package.
    path
        The folder to write; its parent must exist.
    card
        A card whose title and text are kept; its facts are taken anew. None: one made from the model.
    title
        Of a card made from the model.
    overwrite
        Whether to replace a folder that holds a saved model and nothing else.

    Returns
    -------
    The card.

    Raises
    ------
    OSError
        The folder cannot be written. What stood there before is kept.
    """
    target = atomic.check_target(path, {*MEMBERS, CARD}, overwrite)
    with tempfile.TemporaryDirectory() as scratch:
        digest = model.save(Path(scratch) / "model")
        files = {name: (Path(scratch) / "model" / name).read_bytes() for name in sorted(MEMBERS)}
    new = card_of(model, digest, sum(map(len, files.values())), title)
    if card is not None:
        new.title, new.text = card.title, card.text
    atomic.write_folder(target, {**files, CARD: encoded(new)})
    return new


def load(path: str | os.PathLike, adata=None) -> Model:
    """Read a model of any class that `sca.hub.save` or `Model.save` wrote.

    Parameters
    ----------
    path
        The folder.
    adata
        Cells for the model to hold; may be given later to each call instead.

    Raises
    ------
    DamagedFile
        A single bit differs from what was written, or the card is another model's.
    FileNotFoundError
        There is no such folder.
    """
    folder = Path(path).expanduser()
    for name, reader in (("model.pt", "from_scvi_tools"), ("attr.pkl", "from_scarches or sca.hub.from_scvi_tools")):
        if (folder / name).is_file():
            raise DamagedFile(f"'{folder}' holds a model of another package ({name}). Call sca.hub.{reader}.")
    container = read_document(folder, kind=KIND, newest_version=MODEL_VERSION)
    family = container.document.get("family")
    if family not in models.__all__:
        raise DamagedFile(f"'{folder}' holds a model that this release does not know ('{shown(family)}').")
    if (folder / CARD).exists():
        card = read_card(folder)
        if (card.digest, card.family) != (container.digest, family):
            raise DamagedFile(f"The card in '{folder}' describes another model. Copy or download the folder again.")
    return getattr(models, family).load(folder, adata)
