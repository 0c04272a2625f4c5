"""Which models these cells have everything for, and which lack what: told before one is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..data.modalities import the_protein_key
from ..data.multimodal import modalities_of
from ..data.names import DataError, listed, shown
from ..data.receptors import the_receptor_keys
from .form import columns_of
from .panel import remark

if TYPE_CHECKING:
    from anndata import AnnData

    from ..models.base import Model


def models_for(adata: AnnData) -> list[dict[str, str]]:
    """A remark on each model, those first that the cells have everything for."""
    from .. import models

    remarks = []
    for name in sorted(models.__all__, key=str.casefold):
        try:
            has = " ".join(_evidence(getattr(models, name), adata))
            remarks.append(remark("ok", f"{name}.", has))
        except DataError as fault:
            remarks.append(remark("lacks", f"{name}.", str(fault)))
    return sorted(remarks, key=lambda one: one["level"] != "ok")


def names_with(model: type[Model]) -> list[str]:
    """The models that can be chosen where this one is; a class of the user's own stands alone."""
    from .. import models

    names = sorted(models.__all__, key=str.casefold)
    return names if getattr(models, model.__name__, None) is model else []


def _evidence(model: type[Model], adata: AnnData) -> Iterator[str]:
    """What the cells have that a model needs, or the DataError of what they lack."""
    if has := model.found_in(adata):
        yield has
    if hasattr(model, "obsm_keys"):
        yield f"obsm['{shown(the_protein_key(adata))}'] holds counts of proteins."
    if hasattr(model, "var_keys"):
        yield f"var tells modalities apart: {listed(modalities_of(adata), 5)}."
    if getattr(model, "reads_receptors", False):
        yield f"Receptors stand in {' and '.join(map(shown, the_receptor_keys(adata)))}."
    if hasattr(model, "predict") and getattr(model, "needs_labels", False):
        columns = [one.value for one in columns_of(adata.obs) if one.value is not None and not one.group]
        if not columns:
            raise DataError("obs has no column of categories, so there are no labels to learn from. Add one.")
        yield f"Labels may stand in obs: {listed(columns, 5)}."
