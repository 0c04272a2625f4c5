"""What a query's training may move of its reference: the options of scArches' surgery."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Self

from ..nn.layers import Dropout
from . import surgery
from .base import LEAST_OVERLAP, Model


class FreezingChoice:
    """Surgery of a model whose module names its `first_layers`.

    Attributes
    ----------
    freeze, freeze_expression, remove_dropout
        Of a query: how it was adapted; see `load_query_data`.
    """

    flags = ("freeze", "freeze_expression", "remove_dropout")
    freeze = freeze_expression = remove_dropout = True

    @classmethod
    def load_query_data(
        cls,
        adata,
        reference_model: Model | str | os.PathLike,
        *,
        gene_map: str | Mapping[str, str] | None = None,
        min_gene_overlap: float = LEAST_OVERLAP,
        freeze: bool = True,
        freeze_expression: bool = True,
        remove_dropout: bool = True,
    ) -> Self:
        """Adapt a reference to a query by architecture surgery; see `Model.load_query_data`.

        Parameters
        ----------
        adata, reference_model, gene_map, min_gene_overlap
            As in `Model.load_query_data`.
        freeze
            Whether training leaves the reference's weights in the new model as they are. False: all of them are
            trained, so that reference cells no longer lie where they lay.
        freeze_expression
            Whether the same holds of the first layer of encoder and decoder. False: these are trained too.
        remove_dropout
            Whether the query trains without dropout.

        Returns
        -------
        A model of the same kind; the reference itself is untouched, whatever is chosen.
        """
        query = super().load_query_data(adata, reference_model, gene_map=gene_map, min_gene_overlap=min_gene_overlap)
        query.freeze, query.freeze_expression, query.remove_dropout = freeze, freeze_expression, remove_dropout
        query._thaw()
        return query

    def _thaw(self) -> None:
        if not self._surgeries:
            return
        if not self.freeze:
            surgery.thaw(self.module)
        elif not self.freeze_expression:
            for layer in self.module.first_layers:
                surgery.thaw(layer)
        for part in self.module.modules():
            if isinstance(part, Dropout):
                part.frozen = self.remove_dropout
