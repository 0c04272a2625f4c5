"""What a model with a classifier says of cells: labels, how sure they are, and how new a cell is."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.findings import counted
from ..data.minibatches import Minibatch
from ..data.names import did_you_mean, listed
from ..nn.classifier import uncertainty_of
from ..training.events import Event, RunEnded

logger = logging.getLogger(__name__)
NEW_LABELS = ("ignore", "hold out", "extend")
QUERY_LABELS = ("use", "ignore")


class LabelVerbs:
    """Verbs of a model whose module has `encode(cells)`, a `classifier`, `label_logits(cells)` and `label_novelty` (see
    `nn.classifier`)."""

    needs_labels = True
    ignores_labels = False  # in training, those of its own cells

    def predict(self, adata=None, soft: bool = False, *, batch_size: int = 256) -> np.ndarray | pd.DataFrame:
        """Label each cell, by the classifier at the posterior mean.

        Parameters
        ----------
        adata
            Cells; None for the model's own. Genes and batches are matched by name; their labels are not looked at.
        soft
            Whether to return each label's probability.
        batch_size
            Cells at a time.

        Returns
        -------
        Labels, object (cells,); or with `soft`, a DataFrame, cells × labels, 0 to 1, rows sum to 1.
        """
        p = self._per_cell(adata, lambda cells: self.module.label_logits(cells).softmax(-1), batch_size)
        if not soft:
            return np.array(self.schema.labels, dtype=object)[p.argmax(1)]
        columns = pd.Index(self.schema.labels, name=self.schema.labels_key, dtype=object)
        return pd.DataFrame(p, index=self._adata_or_own(adata).obs_names, columns=columns)

    def predict_with_uncertainty(self, adata=None, *, batch_size: int = 256) -> pd.DataFrame:
        """Label each cell, and say how sure the label is, and how unlike all labelled cells the cell is.

        A classifier spreads its probability over the labels that it knows, so a cell of an unknown type can be
        labelled with certainty; `novelty` sees such cells.

        Parameters
        ----------
        adata, batch_size
            As in `predict`.

        Returns
        -------
        DataFrame, one row per cell:

        - `label`
        - `uncertainty`: 1 − the label's probability, 0 to 1
        - `novelty`: share of the labelled reference cells that are nearer to a label and labelled more surely, 0 to 1;
          uniform over reference cells, near 1 for cells of another kind. A query's batch effect raises it, so compare
          cells within a query. NaN, with a warning, if the model was not trained here. See
          `nn.classifier.LabelNovelty`.
        """
        z, p = self._split(self._per_cell(adata, self._latent_and_probabilities, batch_size))
        labels = np.array(self.schema.labels, dtype=object)[p.argmax(1)]
        uncertainty = uncertainty_of(p)
        novelty = np.full(len(z), np.nan)
        if self.module.label_novelty.is_fitted:
            novelty = self.module.label_novelty.novelty(z, uncertainty)
        else:
            warnings.warn(
                "Novelty is NaN: this model does not know where its labels lie, because it was not trained here on "
                "labelled cells. Labels and uncertainties are right.",
                stacklevel=2,
            )
        columns = {"label": labels, "uncertainty": uncertainty, "novelty": novelty}
        return pd.DataFrame(columns, index=self._adata_or_own(adata).obs_names)

    def _latent_and_probabilities(self, cells: Minibatch) -> Tensor:
        z = self.module.encode(cells).mean
        return torch.cat([z, self.module.classifier(z).softmax(-1)], dim=1)

    def _split(self, latents_and_probabilities: np.ndarray) -> list[np.ndarray]:
        return np.split(latents_and_probabilities, [self.config.n_latent], axis=1)

    def held_out_report(self, *, batch_size: int = 256) -> pd.DataFrame:
        """What became of the cells whose labels the model does not know.

        Returns
        -------
        DataFrame, one row per such label in the model's cells: `n_cells`, `predicted` (most frequent prediction),
        `share` of the cells that it has, and means of `uncertainty` and `novelty` (see `predict_with_uncertainty`).
        """
        adata = self._adata_or_own(None)
        new = self.schema.new_labels(adata)
        columns = ["n_cells", "predicted", "share", "uncertainty", "novelty"]
        if not new:
            return pd.DataFrame(columns=columns, index=pd.Index([], name=self.schema.labels_key))
        scores = self.predict_with_uncertainty(batch_size=batch_size)
        codes = replace(self.schema, labels=new).label_codes(adata)
        rows = []
        for code in range(len(new)):
            cells = scores[codes == code]
            votes = cells["label"].value_counts()
            means = cells[["uncertainty", "novelty"]].mean()
            rows.append([len(cells), votes.index[0], votes.iloc[0] / len(cells), *means])
        return pd.DataFrame(rows, columns=columns, index=pd.Index(new, name=self.schema.labels_key))

    # Labels of a query

    def _take_labels(self, new: tuple[str, ...], new_labels: str) -> None:
        """Say what the query's labels mean to this model, and make room for new ones if it is to learn them."""
        codes = self.schema.label_codes(self.adata)
        n_known = 0 if codes is None else int((codes >= 0).sum())
        if n_known and not self.ignores_labels:
            warnings.warn(
                f"{n_known:,} of the query's {len(codes):,} cells carry labels that the reference knows, and training "
                "learns from them. To map without them, for example to compare predictions with them, pass "
                "query_labels='ignore'.",
                stacklevel=4,
            )
        if not new:
            return
        what = f"{counted(len(new), 'label')} of the query {'is' if len(new) == 1 else 'are'} new ({listed(new)})"
        if new_labels == "extend":
            logger.info("%s: the classifier learns them.", what)
            self._learn_labels(new)
        elif new_labels == "hold out":
            logger.info("%s: their cells are held out, as unlabelled.", what)
        else:
            warnings.warn(
                f"{what}: their cells are taken as unlabelled, and can only be given labels of the reference. Pass "
                "new_labels='extend' to learn them, or 'hold out' to see what becomes of them.",
                stacklevel=4,
            )

    # Where labels lie

    def _note(self, event: Event) -> None:
        super()._note(event)
        if isinstance(event, RunEnded) and event.status != "failed" and self.is_trained:
            self._locate_labels()

    def _locate_labels(self) -> None:
        """Remember where the labels lie that training could move; a reference's stay as they are."""
        blocks = self.module.classifier.rows.blocks
        n_frozen = sum(len(block) for block in blocks if not block.requires_grad)
        codes = None if self.ignores_labels else self.schema.label_codes(self.adata)
        if codes is None or n_frozen == len(self.schema.labels) or not (codes >= n_frozen).any():
            return
        rows = np.flatnonzero(codes >= n_frozen)
        z, p = self._split(self._of_own_cells(rows, self._latent_and_probabilities))
        if n_frozen:
            self.module.label_novelty.locate(z, codes[rows], range(n_frozen, len(self.schema.labels)))
        else:
            self.module.label_novelty.fit(z, codes[rows], uncertainty_of(p))


def check_label_options(query_labels: str, new_labels: str) -> None:
    """Refuse what `load_query_data` cannot do with a query's labels."""
    for name, value, known in (("query_labels", query_labels, QUERY_LABELS), ("new_labels", new_labels, NEW_LABELS)):
        if value not in known:
            raise ValueError(f"{name}='{value}' is none of {listed(known)}.{did_you_mean(value, known)}")
    if query_labels == "ignore" and new_labels == "extend":
        raise ValueError(
            "query_labels='ignore' hides the cells from which new_labels='extend' would learn. Choose one of them."
        )
