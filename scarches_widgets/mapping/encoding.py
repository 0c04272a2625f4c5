"""Latents of cells in chunks, to the same bits whatever the chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..models.base import Model

if TYPE_CHECKING:
    from anndata import AnnData

MINIBATCH = 256  # cells at a time; chunks are multiples of it, so that no cell's neighbours in it depend on their size
CHUNK = 50 * 1024  # cells


def encoded(model: Model, cells: AnnData) -> np.ndarray:
    """Posterior means, float32 (cells, n_latent)."""
    return model.get_latent_representation(cells, batch_size=MINIBATCH)


def beside(model: Model) -> tuple[str, ...]:
    """Keys of `obsm` and `uns` that a model reads of its cells."""
    keys = (model.schema.protein_key, model.schema.protein_names_key)
    return tuple(key for key in keys if key is not None)
