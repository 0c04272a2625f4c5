"""Options as users spell them, made into typed ones: the one door for both upstreams' names and for mistakes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ..data.names import did_you_mean, listed
from .plan import EarlyStopping, TrainingPlan

logger = logging.getLogger(__name__)
T = TypeVar("T")

# scArches and scvi-tools -> here
PUBLISHED_SPELLINGS = {
    # data
    "condition_key": "batch_key",
    "condition_keys": "batch_key",
    "cell_type_key": "labels_key",
    "cell_type_keys": "labels_key",
    "protein_expression_obsm_key": "protein_key",
    "protein_names_uns_key": "protein_names_key",
    # networks
    "latent_dim": "n_latent",
    "dr_rate": "dropout_rate",
    "recon_loss": "gene_likelihood",
    "beta": "mmd_weight",
    "use_bn": "use_batch_norm",
    "use_ln": "use_layer_norm",
    "gene_dispersion": "dispersion",
    "dropout_rate_encoder": "dropout_rate",
    # surgery
    "new_n_ext": "n_new_terms",
    "new_ext_mask": "new_gene_sets",
    "new_soft_ext_mask": "soft_new_mask",
    # training
    "classification_ratio": "classification_weight",
    "pro_recons_weight": "protein_weight",
    "n_epochs": "max_epochs",
    "learning_rate": "lr",
    "train_frac": "train_size",
    "use_early_stopping": "early_stopping",
    "alpha_kl": "kl_weight",
    "alpha": "group_lasso_weight",
    "omega": "group_lasso_term_weights",
    "eta": "prototype_weight",
    "clustering_res": "clustering_resolution",
    "alpha_l1": "l1_weight",
    "alpha_l1_epoch_anneal": "l1_warmup_epochs",
    "gamma_ext": "free_l1_weight",
    "gamma_epoch_anneal": "free_l1_warmup_epochs",
    "max_kl_weight": "kl_weight",
    "alpha_epoch_anneal": "kl_warmup_epochs",
    "n_epochs_kl_warmup": "kl_warmup_epochs",
    "alpha_iter_anneal": "kl_warmup_steps",
    "n_steps_kl_warmup": "kl_warmup_steps",
    "accelerator": "device",
    # early stopping
    "early_stopping_metric": "metric",
    "early_stopping_monitor": "metric",
    "early_stopping_mode": "mode",
    "early_stopping_min_delta": "threshold",
    "early_stopping_patience": "patience",
    "early_stopping_warmup_epochs": "warmup_epochs",
    "reduce_lr_on_plateau": "reduce_lr",
}
WITHOUT_EFFECT = {  # of both upstreams' train(), and why it is not needed here
    "check_val_every_n_epoch": "the cells held out are looked at after every epoch",
    "enable_progress_bar": "progress=False hides the bar",
    "seed_everything": "seed=… decides everything",
    "shuffle_set_split": "the split is always drawn by the seed",
    "load_sparse_tensor": "rows are always fetched sparse",
}


def respelled(options: Mapping[str, Any], own: Mapping[str, str] = {}) -> dict[str, Any]:
    """The options under the names used here; `own` holds spellings that mean another option in this place.

    Raises
    ------
    TypeError
        If one option is given under two names.
    """
    if not isinstance(options, Mapping):
        raise TypeError(f"Options are a dict such as {{'patience': 20}}, not {options!r}.")
    result: dict[str, Any] = {}
    spellings = PUBLISHED_SPELLINGS | dict(own)
    for name, value in options.items():
        ours = spellings.get(name, name)
        if ours in result:
            twin = next(other for other in options if other != name and spellings.get(other, other) == ours)
            raise TypeError(f"{twin} and {name} are two spellings of one option. Give one of them.")
        result[ours] = value
    return result


def field_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def typed(cls: type[T], options: Mapping[str, Any], of: str) -> T:
    """`options`, validated as the pydantic dataclass `cls`.

    Raises
    ------
    TypeError
        If an option does not exist; the nearest name is offered.
    ValueError
        If a value is of the wrong type or out of range.
    """
    known = field_names(cls)
    for name in options:
        if name not in known:
            raise TypeError(
                f"{of} has no option '{name}'.{did_you_mean(name, [*known, *PUBLISHED_SPELLINGS])} "
                f"Its options: {listed(known, 40)}."
            )
    try:
        return TypeAdapter(cls).validate_python(dict(options))
    except ValidationError as error:
        faults = "; ".join(_sentence(fault) for fault in error.errors())
        raise ValueError(f"{of} was given a value that it cannot use: {faults}.") from error


def planned(
    cls: type[TrainingPlan], options: Mapping[str, Any], early_stopping_kwargs: Mapping[str, Any] | None = None
) -> TrainingPlan:
    """The arguments of `train()` as a plan of class `cls`; also as `plan_kwargs`, or early stopping's among the others.

    Raises
    ------
    TypeError, ValueError
        As `typed`; and if one option is given in two places.
    """
    own = getattr(cls, "spellings", {})
    nested = [options.get(name) or {} for name in ("plan_kwargs", "trainer_kwargs")]
    options = {name: value for name, value in options.items() if name not in ("plan_kwargs", "trainer_kwargs")}
    options = respelled(options, own)
    for name, value in (item for part in nested for item in respelled(part, own).items()):
        if name in options:
            raise TypeError(f"{name} is given in two places of train(). Give it once.")
        options[name] = value
    stopping = respelled(early_stopping_kwargs or {})
    watched = field_names(EarlyStopping)
    for name in WITHOUT_EFFECT.keys() & options:
        logger.info("%s=%r has no effect: %s.", name, options.pop(name), WITHOUT_EFFECT[name])
    if "use_gpu" in options:
        if "device" in options:
            raise TypeError("use_gpu and device are two spellings of one option. Give one of them.")
        options["device"] = _device_of_use_gpu(options.pop("use_gpu"))
    for name in [name for name in options if name in watched]:
        if name in stopping:
            raise TypeError(f"{name} is given in two places: to train() and in early_stopping_kwargs. Give it once.")
        stopping[name] = options.pop(name)
    stopping = dataclasses.asdict(cls().early_stopping_kwargs) | stopping  # each class of plans has its own defaults
    options["early_stopping_kwargs"] = typed(EarlyStopping, stopping, of="early_stopping_kwargs")
    return typed(cls, options, of="train()")


def _device_of_use_gpu(value: Any) -> str:
    """scvi-tools before 1.0: None or True is a GPU if there is one, an int its number, a str its name."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return "cpu" if value is False else "auto"
    return f"cuda:{value}"


def _sentence(fault: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"]) or "the options"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    value = repr(fault["input"])
    return f"{where}={value if len(value) <= 80 else value[:79] + '…'} {message}"
