"""Models of scArches, read: trVAE, expiMap and scPoli.

A model is three files: `model_params.pt` (tensors), `attr.pkl` (options, conditions, labels) and `var_names.csv`. Each
condition has a column in the layers that conditions enter (`cond_L`) and in the dispersions (`theta`); here these are
rows of tables (see `nn.layers`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.container import DamagedFile
from ..data.names import listed, shown
from ..models import EXPIMAP, TRVAE, scPoli
from .foreign import UnsupportedModel, Weights, assembled, check_plain, names_of, read_gene_list, text_or_none
from .pickles import read_pickle, read_torch

logger = logging.getLogger(__name__)
OPTIONS = ("hidden_layer_sizes_", "dr_rate_", "recon_loss_", "latent_dim_", "mmd_on_", "mmd_boundary_", "beta_",
           "embedding_dims_", "embedding_dim_", "embedding_max_norm_")  # fmt: skip
FILES = ("model_params.pt", "attr.pkl", "var_names.csv")


def from_scarches(
    path: str | os.PathLike, adata=None, *, terms: Sequence[str] | None = None
) -> TRVAE | EXPIMAP | scPoli:
    """Read a trVAE, expiMap or scPoli that scArches saved. Nothing of the file is run.

    Parameters
    ----------
    path
        The folder, with `model_params.pt`, `attr.pkl` and `var_names.csv`.
    adata
        Cells for the model to hold; may be given later to each call instead. The training data are not needed.
    terms
        Names of an expiMap's programs, which its files lack, in the order of its mask; None: those in
        `adata.uns["terms"]`, else "program_0", …

    Returns
    -------
    A model of the same name, for `get_latent_representation`, `load_query_data`, `save`, … Its history is empty. A
    scPoli's `classify` labels as there; how far labelled cells usually are from their prototypes is not in the file, so
    it knows no scaled uncertainty and no novelty. Several conditions of a scPoli share the dispersions of the first.

    Raises
    ------
    DamagedFile
        The file is damaged, hostile, or no such model.
    UnsupportedModel
        It is a model of another kind, or has options that the network here lacks.
    FileNotFoundError
        There is no such folder or file.
    """
    folder = Path(path).expanduser()
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        there = listed(sorted(os.listdir(folder)), 6) if folder.is_dir() else "no such folder"
        raise FileNotFoundError(f"'{folder}' lacks {listed(missing)} of a model of scArches ({there}).")
    said = read_pickle(folder / "attr.pkl")
    if not isinstance(said, dict):
        raise DamagedFile(f"'{folder / 'attr.pkl'}' does not describe a model of scArches.")
    tensors, genes = read_torch(folder / "model_params.pt"), read_gene_list(folder / "var_names.csv")
    if not isinstance(tensors, dict):
        raise DamagedFile(f"'{folder / 'model_params.pt'}' holds no tensors by name.")
    try:
        if "mask_" in said:
            if terms is None and adata is not None:
                terms = getattr(adata, "uns", {}).get("terms")
            return _expimap(said, tensors, genes, terms, adata)
        if "embedding_dims_" in said or "embedding_dim_" in said:
            return _scpoli(said, tensors, genes, adata)
        if "mmd_on_" in said:
            return _trvae(said, tensors, genes, adata)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedFile(f"'{folder}' lacks what scArches writes of a model ({shown(error)!r}).") from error
    if "scvi_setup_dict_" in said:
        raise UnsupportedModel(f"'{folder}' was written by scvi-tools. Call sca.hub.from_scvi_tools.")
    raise UnsupportedModel(f"'{folder}' holds a model of scArches that is no trVAE, expiMap or scPoli.")


def _trvae(said: dict, tensors: dict, genes: tuple[str, ...], adata) -> TRVAE:
    config = _network(said) | {
        "n_latent": said["latent_dim_"],
        "use_mmd": said["use_mmd_"],
        "mmd_on": said["mmd_on_"],
        "mmd_boundary": said["mmd_boundary_"],
        "mmd_weight": said["beta_"],
    }
    return assembled(TRVAE, config, _schema(said, genes), _OfTRVAE(tensors), adata, said["is_trained_"] is True)


def _expimap(said: dict, tensors: dict, genes: tuple[str, ...], terms: Sequence[str] | None, adata) -> EXPIMAP:
    if said.get("n_ext_", 0) or said.get("n_ext_m_", 0):
        raise UnsupportedModel(
            "This expiMap is a query's, with programs of its own, which are not read. Read its reference, and map the "
            "query onto that."
        )
    config, last = _network(said), text_or_none(said.get("decoder_last_layer_"))
    likelihood = config["gene_likelihood"]
    last = last or {"nb": "softmax", "mse": "identity"}.get(likelihood)
    if last != {"nb": "softmax", "mse": "relu"}.get(likelihood) or said.get("use_l_encoder_"):
        raise UnsupportedModel(
            f"This expiMap ends in '{shown(last)}' (decoder_last_layer) or learns library sizes, as the network here "
            "does not."
        )
    weights = _OfEXPIMAP(tensors)
    mask, (n_genes, n_terms) = said["mask_"], weights.take("decoder.L0.expr_L.weight").shape
    if len(mask) != n_terms or any(len(row) != n_genes for row in mask):
        raise DamagedFile("The expiMap's mask does not have a row for each program and a column for each gene.")
    weights.mask = torch.from_numpy(np.asarray(mask, dtype=np.float32).T.copy())
    terms = [f"program_{i}" for i in range(n_terms)] if terms is None else names_of(terms)
    if len(terms) != n_terms:
        raise ValueError(f"terms names {len(terms)} programs, and the expiMap has {n_terms}.")
    config |= {"terms": tuple(terms), "soft_mask": bool(said.get("soft_mask_", False))}
    return assembled(EXPIMAP, config, _schema(said, genes), weights, adata, said["is_trained_"] is True)


def _scpoli(said: dict, tensors: dict, genes: tuple[str, ...], adata) -> scPoli:
    if sorted(said.get("inject_condition_", ("decoder", "encoder"))) != ["decoder", "encoder"]:
        raise UnsupportedModel("This scPoli's conditions enter encoder or decoder only; here they enter both.")
    conditions = said["conditions_"]
    if not isinstance(conditions, dict):  # up to 0.5.9 there was one
        conditions = {said["condition_key_"]: conditions}
    levels = [(text_or_none(key), names_of(names)) for key, names in conditions.items()]
    keys = [text_or_none(key) for key in said["cell_type_keys_"] or ()]
    cell_types = said["cell_types_"] or {}
    labels = {key: [name for name, of in cell_types.items() if key in names_of(of)] for key in keys}
    dims = said["embedding_dims_"] if "embedding_dims_" in said else said["embedding_dim_"]
    config = _network(said) | {
        "n_latent": said["latent_dim_"],
        "embedding_dims": dims if isinstance(dims, int) else tuple(dims),
        "embedding_max_norm": float(said.get("embedding_max_norm_", 1.0)),
        "further_labels": tuple((key, names_of(labels[key])) for key in keys[1:]),
        "unlabeled_categories": names_of(said.get("unknown_ct_names_") or ()),
    }
    schema: dict[str, Any] = {"genes": genes, "batch_key": levels[0][0], "batches": levels[0][1]}
    schema["categorical_covariates"] = tuple(levels[1:])
    if keys:
        schema |= {"labels_key": keys[0], "labels": names_of(labels[keys[0]])}
    weights = _OfScPoli(tensors)
    weights.max_norm, weights.first_levels = config["embedding_max_norm"], levels[0][1]
    weights.combinations = names_of(said.get("conditions_combined_", levels[0][1]))
    weights.labelled, weights.unlabelled = (said.get(f"prototypes_{kind}_") or {} for kind in ("labeled", "unlabeled"))
    order = list(cell_types)
    weights.rows_of_keys = [[order.index(name) for name in labels[key]] for key in keys]
    return assembled(scPoli, config, schema, weights, adata, said["is_trained_"] is True)


def _network(said: dict) -> dict[str, Any]:
    """Options that all three have."""
    check_plain({name: said.get(name) for name in OPTIONS})
    return {
        "hidden_layer_sizes": tuple(said["hidden_layer_sizes_"]),
        "dropout_rate": said["dr_rate_"],
        "gene_likelihood": said["recon_loss_"],
        "use_batch_norm": bool(said["use_bn_"]),
        "use_layer_norm": bool(said["use_ln_"]) and not said["use_bn_"],  # never both, there
    }


def _schema(said: dict, genes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "genes": genes,
        "batch_key": text_or_none(said["condition_key_"]),
        "batches": names_of(said["conditions_"]),
    }


# ---- tensors ---------------------------------------------------------------------------------------------------------


class _OfTRVAE(Weights):
    def rename(self) -> None:
        self.stack("encoder.hidden", "encoder.FC.L0", "encoder.FC")
        self.heads()
        self.stack("decoder.hidden", "decoder.FirstL.L0", "decoder.HiddenL")
        is_mse = "decoder.recon_decoder.0.weight" in self.theirs
        self.linear("decoder.fraction_logits", f"decoder.{'recon' if is_mse else 'mean'}_decoder.0")
        if "decoder.zero_inflation_logits.weight" in self.wanted:
            self.linear("decoder.zero_inflation_logits", "decoder.dropout_decoder")
        self.dispersion()

    def heads(self) -> None:
        self.linear("encoder.mean", "encoder.mean_encoder")
        self.linear("encoder.log_variance", "encoder.log_var_encoder")

    def dispersion(self) -> None:
        if "decoder.log_inverse_dispersion.table.blocks.0" in self.wanted:
            self.ours["decoder.log_inverse_dispersion.table.blocks.0"] = self.take("theta").T.contiguous()

    def stack(self, ours: str, first: str, others: str) -> None:
        """Hidden layers, the first of which the conditions enter."""
        self.first(f"{ours}.linears.0", first)
        self.norm(f"{ours}.batch_norms.0", first.replace(".L0", ".N0"))
        i = 1
        while f"{ours}.linears.{i}.weight" in self.wanted:
            self.linear(f"{ours}.linears.{i}", f"{others}.L{i}")
            self.norm(f"{ours}.batch_norms.{i}", f"{others}.N{i}")
            i += 1

    def first(self, ours: str, theirs: str) -> None:
        self.linear(ours, f"{theirs}.expr_L")
        for table in self.tables(ours):
            self.ours[table] = self.take(f"{theirs}.cond_L.weight").T.contiguous()

    def linear(self, ours: str, theirs: str) -> None:
        for part in ("weight", "bias"):
            if f"{ours}.{part}" in self.wanted:
                self.ours[f"{ours}.{part}"] = self.take(f"{theirs}.{part}")

    def norm(self, ours: str, theirs: str) -> None:
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if f"{ours}.{name}" in self.wanted:
                self.ours[f"{ours}.{name}"] = self.take(f"{theirs}.{name}")


class _OfEXPIMAP(_OfTRVAE):
    mask: Tensor  # (genes, terms)

    def rename(self) -> None:
        self.stack("encoder.hidden", "encoder.FC.L0", "encoder.FC")
        self.heads()
        self.first("decoder.hidden", "decoder.L0")
        self.ours["decoder.hidden.mask"] = self.mask
        self.dispersion()


class _OfScPoli(_OfTRVAE):
    added_here = ("prototypes.", "clusters.", "label_novelty.")
    max_norm: float
    first_levels: tuple[str, ...]
    combinations: tuple[str, ...]
    labelled: dict[str, Tensor | None]
    unlabelled: dict[str, Tensor | None]
    rows_of_keys: list[list[int]]

    def rename(self) -> None:
        super().rename()
        i = 0
        while (table := f"conditions.tables.{i}.blocks.0") in self.wanted:
            vectors = self.take("embedding.weight" if "embedding.weight" in self.theirs else f"embeddings.{i}.weight")
            lengths = vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)
            self.ours[table], i = vectors * (self.max_norm / lengths).clamp_max(1), i + 1  # as when they are looked up
        means, covariances = self.labelled.get("mean"), self.labelled.get("cov")
        for i, rows in enumerate(self.rows_of_keys if isinstance(means, Tensor) else ()):
            self.ours[f"prototypes.{i}.means"] = means[rows]
            self.ours[f"prototypes.{i}.n_cells"] = torch.ones(len(rows), dtype=torch.int64)
            if isinstance(covariances, Tensor):
                self.ours[f"prototypes.{i}.variance"] = (
                    covariances[rows].diagonal(dim1=1, dim2=2).mean().clamp_min(1e-6)
                )
        self.clusters(self.unlabelled.get("mean"))

    def first(self, ours: str, theirs: str) -> None:
        super().first(ours, theirs)
        self.ours[f"{ours}.of_conditions"] = self.take(f"{theirs}.cond_L.weight")

    def clusters(self, means: Tensor | None) -> None:
        if not isinstance(means, Tensor) or not len(means):
            return
        most, n_latent = self.wanted["clusters.means"].shape
        n = min(len(means), most)
        if n < len(means):
            logger.warning("Of %d prototypes of unlabelled cells, %d are read.", len(means), n)
        self.ours["clusters.means"] = torch.zeros(most, n_latent)
        self.ours["clusters.means"][:n] = means[:n]
        self.ours["clusters.n_cells"] = (torch.arange(most) < n).long()

    def dispersion(self) -> None:
        """There, one per combination of conditions; here, per level of the first: the mean of its combinations'."""
        table = "decoder.log_inverse_dispersion.table.blocks.0"
        if table not in self.wanted:
            return
        theta = self.take("theta").T.contiguous()
        if len(self.combinations) != len(self.first_levels) or self.combinations != self.first_levels:
            rows = [
                [i for i, name in enumerate(self.combinations) if name == level or name.startswith(f"{level}_")]
                for level in self.first_levels
            ]
            theta = torch.stack([theta[of_level or slice(None)].mean(0) for of_level in rows])
        self.ours[table] = theta
