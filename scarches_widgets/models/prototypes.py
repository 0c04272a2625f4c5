"""What a model whose labels are points in latent space says of cells, and of the points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.minibatches import Minibatch
from ..data.names import DataError, did_you_mean, listed
from ..data.schema import LABEL, as_text
from ..nn.classifier import uncertainty_of
from ..nn.clusters import clusters_of
from ..training.cells import TrainingCells

if TYPE_CHECKING:
    from anndata import AnnData


class LabelledCells(TrainingCells):
    """Training cells whose minibatches carry their labels, int64 (cells, label keys), −1 = unlabelled."""

    def __init__(self, cells, plan, codes: np.ndarray):
        super().__init__(cells, plan)
        self._codes = codes

    @property
    def any_labelled(self) -> bool:
        return bool((self._codes[self.train_rows] >= 0).any())

    def labelled(self) -> Iterator[Minibatch]:
        """Those training cells that have a label, always in the same order."""
        rows = self.train_rows[(self._codes[self.train_rows] >= 0).any(1)]
        return map(self._with_labels, self._cells.minibatches(rows, 256))

    def _dealt(self, *arguments) -> Iterator[Minibatch]:
        return map(self._with_labels, super()._dealt(*arguments))

    def _with_labels(self, cells: Minibatch) -> Minibatch:
        return replace(cells, labels=torch.from_numpy(self._codes[cells.rows]))


class PrototypeVerbs:
    """Verbs of a model whose module has `prototypes` (one `Prototypes` per column of labels), of which `classifier` is
    the first, `clusters` (`Prototypes` of unlabelled cells) and `label_novelty`; besides `LabelVerbs`."""

    needs_labels = False

    @property
    def label_levels(self) -> dict[str, tuple[str, ...]]:
        """The labels, by the column of obs in which they stand."""
        first = {self.schema.labels_key: self.schema.labels} if self.schema.labels_key else {}
        return first | dict(self.config.further_labels)

    # Labels of cells

    def predict(self, adata=None, soft: bool = False, *, batch_size: int = 256) -> np.ndarray | pd.DataFrame:
        self._refuse_without_labels()
        return super().predict(adata, soft, batch_size=batch_size)

    def predict_with_uncertainty(self, adata=None, *, batch_size: int = 256) -> pd.DataFrame:
        self._refuse_without_labels()
        return super().predict_with_uncertainty(adata, batch_size=batch_size)

    def classify(
        self,
        adata=None,
        prototype: bool = False,
        get_prob: bool = False,
        scale_uncertainties: bool = False,
        *,
        batch_size: int = 256,
    ) -> dict[str, dict[str, np.ndarray | pd.DataFrame]]:
        """Label each cell by the nearest prototype, under each of the model's columns of labels.

        Parameters
        ----------
        adata
            Cells; None for the model's own. Genes and conditions are matched by name; their labels are not looked at.
        prototype
            Whether X of `adata` holds latent coordinates instead, as that of `get_prototypes_info` does.
        get_prob
            Whether to weigh labels by their probability, as `predict(soft=True)` does, instead of their distance.
        scale_uncertainties
            Whether to measure distances by those of the labelled reference cells.
        batch_size
            Cells at a time.

        Returns
        -------
        By column of labels, a dict with

        - `preds`: labels, object (cells,)
        - `uncert`: distance of the posterior mean from the nearest prototype, (cells,); with `scale_uncertainties` the
          share of labelled reference cells that are nearer to theirs, 0 to 1; with `get_prob` 1 − the label's
          probability
        - `weighted_distances`: DataFrame, cells × labels, of the distances; with `get_prob` of the probabilities

        Raises
        ------
        RuntimeError
            If the model has no prototypes.
        ValueError
            If both `get_prob` and `scale_uncertainties` are asked for.
        """
        self._refuse_without_labels()
        if get_prob and scale_uncertainties:
            raise ValueError("get_prob gives probabilities and scale_uncertainties scales distances. Choose one.")
        if prototype:
            z, names = torch.from_numpy(np.asarray(adata.X, dtype=np.float32)).to(self.device), adata.obs_names
        else:
            z = torch.from_numpy(self.get_latent_representation(adata, batch_size=batch_size)).to(self.device)
            names = self._adata_or_own(adata).obs_names
        return {
            key: _classified(prototypes, z, names, labels, get_prob, scale_uncertainties)
            for (key, labels), prototypes in zip(self.label_levels.items(), self.module.prototypes)
            if prototypes.there.any()
        }

    def _refuse_without_labels(self) -> None:
        self._refuse_if_untrained()
        if not self.schema.labels or not self.module.classifier.there.any():
            raise RuntimeError(
                f"This {type(self).__name__} has no prototypes, because it was not trained on labelled cells. Train "
                "one with labels_key=…, or transfer labels by sca.utils.weighted_knn_transfer."
            )

    # Prototypes

    def get_prototypes_info(self, prototype_set: str = "labeled") -> AnnData:
        """The prototypes as an AnnData: latent coordinates in X.

        Parameters
        ----------
        prototype_set
            "labeled": one per label. "unlabeled": one per cluster of unlabelled cells.

        Returns
        -------
        AnnData, prototypes × n_latent. Its `obs` has `n_cells`, `labels_key` (of labelled ones), and for each column of
        labels `<column>_pred` and `<column>_uncert`, the nearest label and its distance.

        Raises
        ------
        RuntimeError
            If there are none.
        """
        from anndata import AnnData

        if prototype_set not in ("labeled", "unlabeled"):
            raise ValueError(f"prototype_set='{prototype_set}' is neither 'labeled' nor 'unlabeled'.")
        self._refuse_if_untrained()
        if prototype_set == "labeled":
            self._refuse_without_labels()
            tables = [*zip(self.label_levels.items(), self.module.prototypes)]
            names = [label for (_, labels), part in tables for label in np.array(labels)[part.there.cpu().numpy()]]
            keys = [key for (key, _), part in tables for _ in range(int(part.there.sum()))]
            parts = [part for _, part in tables]
        else:
            parts = [self.module.clusters]
            n_clusters = int(self.module.clusters.there.sum())
            names, keys = [str(i) for i in range(n_clusters)], None
            if not n_clusters:
                raise RuntimeError(
                    "There are no prototypes of unlabelled cells: training had no such cells beside a column of "
                    "labels, or unlabeled_prototype_training=False."
                )
        X, n_cells = (
            torch.cat([getattr(part, name)[part.there] for part in parts]).cpu().numpy()
            for name in ("means", "n_cells")
        )
        obs = pd.DataFrame({"n_cells": n_cells}, index=pd.Index(names, dtype=object))
        if keys is not None:
            obs["labels_key"] = keys
        info = AnnData(X, obs=obs)
        if self.schema.labels and self.module.classifier.there.any():
            for key, result in self.classify(info, prototype=True).items():
                info.obs[f"{key}_pred"], info.obs[f"{key}_uncert"] = result["preds"], result["uncert"]
        return info

    def add_new_cell_type(self, cell_type_name: str, obs_key: str, prototypes: Sequence[int]) -> None:
        """Make a label of some clusters of unlabelled cells; the model then predicts it.

        Parameters
        ----------
        cell_type_name
            The label.
        obs_key
            Column of labels that it joins.
        prototypes
            Numbers of the clusters, as in `get_prototypes_info("unlabeled")`. The new prototype is the mean of their
            cells.

        Raises
        ------
        DataError
            If there is no such column, or the label exists.
        ValueError
            If there is no such cluster.
        """
        self._refuse_while_training()
        levels, name = self.label_levels, str(cell_type_name)
        if obs_key not in levels:
            raise DataError(
                f"The model has no labels '{obs_key}'.{did_you_mean(obs_key, levels)} It has: {listed(levels)}."
            )
        if name in levels[obs_key]:
            raise DataError(f"'{name}' is a label of '{obs_key}' already. Choose another name.")
        clusters, chosen = self.module.clusters, sorted({int(i) for i in prototypes})
        n_clusters = int(clusters.there.sum())
        if not chosen or chosen[0] < 0 or chosen[-1] >= n_clusters:
            raise ValueError(f"prototypes={list(prototypes)} must name some of the {n_clusters} clusters, 0 or more.")
        self._append_labels(obs_key, (name,))
        table = self.module.prototypes[list(levels).index(obs_key)]
        n_cells = clusters.n_cells[chosen]
        table.means[-1] = (clusters.means[chosen] * n_cells[:, None]).sum(0) / n_cells.sum()
        table.n_cells[-1] = n_cells.sum()
        table.is_fixed[-1] = True

    def _append_labels(self, key: str, new: tuple[str, ...]) -> None:
        """Make room for `new` labels in a column of labels."""
        self.module.prototypes[list(self.label_levels).index(key)].append(len(new))
        if key == self.schema.labels_key:
            self.schema = self.schema.extended({LABEL: new})
            self.module.label_novelty.grow(len(new))
        else:
            further = tuple((k, (*labels, *new) if k == key else labels) for k, labels in self.config.further_labels)
            self.config = replace(self.config, further_labels=further)

    # Training

    def _own_codes(self) -> np.ndarray:
        """What training knows of the labels of the model's cells, int64 (cells, columns of labels)."""
        obs = self.adata.obs
        codes = np.full((self.adata.n_obs, len(self.label_levels)), -1, dtype=np.int64)
        if self.ignores_labels:
            return codes
        for column, (key, labels) in enumerate(self.label_levels.items()):
            if key in obs:
                codes[:, column] = pd.Index(labels, dtype=object).get_indexer(as_text(obs[key]))
        if self.labeled_indices is not None:
            others = np.ones(len(codes), dtype=bool)
            others[self.labeled_indices] = False
            codes[others] = -1
        return codes

    def _locate_labels(self) -> None:
        is_labelled = self._locate_prototypes()
        if self.label_levels and not is_labelled.all() and self._plan.unlabeled_prototype_training:
            self._find_clusters(np.flatnonzero(~is_labelled))

    def _locate_prototypes(self) -> np.ndarray:
        """Put prototypes where their cells are; which cells have a label, bool (cells,)."""
        codes, module = self._own_codes(), self.module
        is_labelled = (codes >= 0).any(1)
        if is_labelled.any():
            rows = np.flatnonzero(is_labelled)
            z = torch.from_numpy(self._of_own_cells(rows, self._latent)).to(self.device)
            for prototypes, of_key in zip(module.prototypes, torch.from_numpy(codes[rows].T).to(self.device)):
                prototypes.locate(z, of_key)
                if not self._surgeries and bool((of_key >= 0).any()):
                    prototypes.measure(z, of_key)
            self._fit_novelty(z, codes[rows, 0])
        return is_labelled

    def _latent(self, cells: Minibatch) -> Tensor:
        return self.module.encode(cells).mean

    def _fit_novelty(self, z: Tensor, codes: np.ndarray) -> None:
        novelty, rows = self.module.label_novelty, np.flatnonzero(codes >= 0)
        fixed = self.module.classifier.is_fixed.cpu().numpy()
        z, codes = z[torch.from_numpy(rows)], codes[rows]
        if not len(rows):
            return
        if self._surgeries:
            novelty.locate(z.cpu().numpy(), codes, np.flatnonzero(~fixed))
        else:
            with torch.no_grad():
                p = self.module.classifier(z).softmax(-1).cpu().numpy()
            novelty.fit(z.cpu().numpy(), codes, uncertainty_of(p))

    def _find_clusters(self, rows: np.ndarray) -> None:
        plan, clusters = self._plan, self.module.clusters
        z = self._of_own_cells(rows, self._latent)
        codes = clusters_of(
            z,
            method=plan.clustering,
            resolution=plan.clustering_resolution,
            n_clusters=plan.n_clusters,
            most=len(clusters.means),
            seed=plan.seed,
        )
        clusters.clear()
        clusters.locate(torch.from_numpy(z).to(self.device), torch.from_numpy(codes).to(self.device))


def _classified(
    prototypes, z: Tensor, names: pd.Index, labels: Sequence[str], as_probabilities: bool, scaled: bool
) -> dict[str, np.ndarray | pd.DataFrame]:
    with torch.no_grad():
        values = prototypes(z).softmax(-1) if as_probabilities else prototypes.distances(z)
    values = values.cpu().numpy()
    best = values.argmax(1) if as_probabilities else values.argmin(1)
    if as_probabilities:
        uncertainty = uncertainty_of(values)
    else:
        uncertainty = np.take_along_axis(values, best[:, None], 1)[:, 0]
        uncertainty = prototypes.share_nearer(uncertainty) if scaled else uncertainty
    there = prototypes.there.cpu().numpy()
    table = pd.DataFrame(values[:, there], index=names, columns=pd.Index(labels, dtype=object)[there])
    return {"preds": np.array(labels, dtype=object)[best], "uncert": uncertainty, "weighted_distances": table}
