"""Options as users of scArches and scvi-tools spell them, and what happens to mistakes."""

import numpy as np
import pytest
from small import QUICK, SMALL, fingerprint

import scarches_widgets as sca
from scarches_widgets.training.options import PUBLISHED_SPELLINGS, planned, respelled
from scarches_widgets.training.plan import METRICS, TrainingPlan


@pytest.fixture(scope="module")
def adata():
    return sca.datasets.atlas(n_obs=60, n_vars=24, n_batches=2, n_types=2, seed=1)


@pytest.fixture
def model(adata):
    return sca.models.SCVI(adata, batch_key="batch", **SMALL)


def train(model, **options):
    return model.train(**{**QUICK, "batch_size": 16, **options})


# What cannot be

BAD_VALUES = [
    ("max_epochs", 0, "greater than or equal to 1"),
    ("max_epochs", -1, "greater than or equal to 1"),
    ("max_epochs", float("nan"), "finite"),
    ("max_epochs", 1e12, "less than or equal to 100000"),
    ("max_epochs", "many", "valid integer"),
    ("batch_size", 0, "greater than or equal to 2"),
    ("batch_size", 1, "greater than or equal to 2"),  # of which batch normalisation can take no variance
    ("batch_size", 2.5, "valid integer"),
    ("batch_size", "x", "valid integer"),
    ("lr", 0, "greater than 0"),
    ("lr", -1e-3, "greater than 0"),
    ("lr", float("nan"), "finite"),
    ("lr", float("inf"), "finite"),
    ("weight_decay", -1, "greater than or equal to 0"),
    ("seed", -1, "greater than or equal to 0"),
    ("seed", 2**64, "less than 9223372036854775808"),
    ("seed", 1.5, "valid integer"),
    ("train_size", 0, "greater than 0"),
    ("train_size", 1.5, "less than or equal to 1"),
    ("train_size", float("nan"), "less than or equal to 1"),
    ("kl_weight", -1, "greater than or equal to 0"),
    ("kl_warmup_epochs", -1, "greater than or equal to 0"),
    ("threads", 0, "greater than or equal to 1"),
    ("schedule", "slow", "'auto' or 'published'"),
    ("early_stopping", "perhaps", "valid boolean"),
    ("device", 3, "valid string"),
]


@pytest.mark.parametrize(
    ("name", "value", "wanted"), BAD_VALUES, ids=[f"{name}={value}" for name, value, _ in BAD_VALUES]
)
def test_a_bad_value_is_refused_with_its_name_and_range_before_any_work(model, name, value, wanted):
    before = fingerprint(model)
    with pytest.raises(ValueError, match=f"{name}=.*{wanted}"):
        train(model, **{name: value})
    assert model.run is None
    assert fingerprint(model) == before


BAD_STOPPING = [
    ("patience", 0, "greater than or equal to 1"),
    ("threshold", -1, "greater than or equal to 0"),
    ("mode", "least", "'min' or 'max'"),
    ("lr_factor", 1, "less than 1"),
    ("lr_patience", 0, "greater than or equal to 1"),
]


@pytest.mark.parametrize(("name", "value", "wanted"), BAD_STOPPING, ids=[name for name, _, _ in BAD_STOPPING])
def test_a_bad_value_of_early_stopping_is_refused_with_its_name_and_range(model, name, value, wanted):
    with pytest.raises(ValueError, match=f"early_stopping_kwargs .*{name}=.*{wanted}"):
        train(model, early_stopping=True, early_stopping_kwargs={name: value})


def test_options_that_are_no_dict_are_refused(model):
    with pytest.raises(TypeError, match=r"Options are a dict such as \{'patience': 20\}, not 3"):
        train(model, early_stopping=True, early_stopping_kwargs=3)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "x", None])
def test_a_time_between_checkpoints_that_is_none_is_refused(model, tmp_path, seconds):
    with pytest.raises(ValueError, match=r"checkpoint_every=.* is not a number of seconds"):
        train(model, checkpoint_dir=tmp_path / "run", checkpoint_every=seconds)
    assert not (tmp_path / "run").exists()


def test_several_bad_values_are_named_at_once(model):
    with pytest.raises(ValueError, match=r"batch_size=0 .*; lr=-1 .*"):
        train(model, batch_size=0, lr=-1)


@pytest.mark.parametrize(
    ("name", "value", "wanted"), [("n_latent", 0, "equal to 1"), ("dropout_rate", 1, "less than 1")]
)
def test_a_bad_value_of_a_network_is_refused_with_its_name_and_range(adata, name, value, wanted):
    with pytest.raises(ValueError, match=f"SCVI .*{name}={value} .*{wanted}"):
        sca.models.SCVI(adata, **{name: value})


def test_a_device_that_is_not_there_is_refused(model):
    with pytest.raises(ValueError, match=r"device='gpu7' cannot be used here .* 'auto' or 'cpu'"):
        train(model, device="gpu7")


def test_training_on_fewer_than_two_cells_is_refused(adata):
    one = sca.models.SCVI(adata[:3].copy(), **SMALL)
    with pytest.raises(ValueError, match="at least 2 cells, and there are 1 "):
        train(one, train_size=0.3)


# What is misspelt


def test_a_misspelt_option_of_training_is_refused_with_the_nearest_name(model):
    with pytest.raises(TypeError, match=r"train\(\) has no option 'max_epoch'\. Did you mean 'max_epochs'\?"):
        train(model, max_epoch=3)
    assert model.run is None


def test_a_misspelt_option_of_a_network_is_refused_with_the_nearest_name(adata):
    with pytest.raises(TypeError, match=r"SCVI has no option 'n_latnt'\. Did you mean 'n_latent'\?"):
        sca.models.SCVI(adata, n_latnt=3)


def test_a_misspelt_option_of_early_stopping_is_refused_with_the_nearest_name(model):
    with pytest.raises(TypeError, match=r"has no option 'patiense'\. Did you mean 'patience'\?"):
        train(model, early_stopping_kwargs={"patiense": 3})


def test_a_misspelt_option_within_plan_kwargs_is_refused_with_the_nearest_name(model):
    with pytest.raises(TypeError, match=r"has no option 'weight_decy'\. Did you mean 'weight_decay'\?"):
        train(model, plan_kwargs={"weight_decy": 3})


# One option, two names


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3, "n_epochs": 3},
        {"early_stopping": True, "use_early_stopping": True},
        {"early_stopping_kwargs": {"metric": "val_loss", "early_stopping_metric": "val_loss"}},
        {"kl_weight": 1.0, "alpha_kl": 0.5},
        {"plan_kwargs": {"n_epochs_kl_warmup": 3, "kl_warmup_epochs": 3}},
    ],
    ids=str,
)
def test_one_option_under_two_names_is_refused(model, options):
    with pytest.raises(TypeError, match="two spellings of one option"):
        train(model, **{"max_epochs": None, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 1e-3, "plan_kwargs": {"lr": 1e-2}},
        {"early_stopping_patience": 3, "early_stopping_kwargs": {"patience": 4}},
    ],
    ids=str,
)
def test_one_option_in_two_places_is_refused(model, options):
    with pytest.raises(TypeError, match="two"):
        train(model, **options)


def test_every_published_spelling_stands_for_one_name_and_every_metric_for_a_column():
    for theirs, ours in PUBLISHED_SPELLINGS.items():
        assert respelled({theirs: 1}) == {ours: 1}
        assert ours not in PUBLISHED_SPELLINGS
    assert all(column.startswith(("train_", "val_")) for column in METRICS.values())


# Both upstreams' spellings do what they say

SCARCHES_STOPPING = {  # as printed in scArches' tutorials
    "early_stopping_metric": "val_unweighted_loss",
    "threshold": 0,
    "patience": 20,
    "reduce_lr": True,
    "lr_patience": 13,
    "lr_factor": 0.1,
}


def test_scarches_training_options_are_understood(model):
    run = train(
        model,
        max_epochs=None,
        n_epochs=3,
        alpha_epoch_anneal=2,
        alpha_kl=0.5,
        train_frac=0.8,
        learning_rate=0.004,
        use_early_stopping=True,
        early_stopping_kwargs=SCARCHES_STOPPING,
    )
    assert (run.started.max_epochs, run.started.n_train) == (3, 48)
    assert run.started.patience == 20
    assert list(model.history["kl_weight"]) == [0, 0.25, 0.5]
    assert model.history["learning_rate"].max() <= 0.004


def test_scvi_tools_training_options_are_understood(model):
    run = train(
        model,
        max_epochs=3,
        accelerator="cpu",
        schedule="published",
        early_stopping=True,
        early_stopping_monitor="elbo_validation",
        early_stopping_patience=44,
        early_stopping_min_delta=0.0,
        plan_kwargs={"lr": 0.004, "weight_decay": 0.0, "n_epochs_kl_warmup": 2, "max_kl_weight": 0.5},
    )
    assert run.started.patience == 44
    assert list(model.history["kl_weight"]) == [0, 0.25, 0.5]
    assert set(model.history["learning_rate"]) == {0.004}


STALLED = 1e9  # nats by which no epoch improves
STALLING = {"threshold": STALLED, "lr_patience": 1, "lr_factor": 0.01}
PLATEAU = {"schedule": "published", "early_stopping_kwargs": {"reduce_lr": True, **STALLING}}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"n_epochs": 3}, {"max_epochs": 3}),
        ({"learning_rate": 0.02}, {"lr": 0.02}),
        ({"plan_kwargs": {"lr": 0.02}}, {"lr": 0.02}),
        ({"plan_kwargs": {"weight_decay": 0.5}}, {"weight_decay": 0.5}),
        ({"trainer_kwargs": {"batch_size": 10}}, {"batch_size": 10}),
        ({"schedule": "published", "plan_kwargs": {"reduce_lr_on_plateau": True, **STALLING}}, PLATEAU),
        ({"train_frac": 0.7}, {"train_size": 0.7}),
        ({"alpha_kl": 0.1, "alpha_epoch_anneal": 0}, {"kl_weight": 0.1, "kl_warmup_epochs": 0}),
    ],
    ids=str,
)
def test_an_upstream_spelling_gives_the_same_bits_as_ours_and_others_than_the_default(adata, theirs, ours):
    def result(options):
        model = sca.models.SCVI(adata, batch_key="batch", **SMALL)
        model.train(**{"n_epochs" if "n_epochs" in options else "max_epochs": 2, "progress": False, **options})
        return fingerprint(model)

    assert result(theirs) == result(ours) != result({})


def test_options_of_upstream_that_need_nothing_here_are_logged_not_refused(model, caplog):
    with caplog.at_level("INFO", logger="scarches_widgets"):
        model.train(max_epochs=1, progress=False, check_val_every_n_epoch=10, plan_kwargs={"weight_decay": 0.0})
    assert (
        "check_val_every_n_epoch=10 has no effect: the cells held out are looked at after every epoch." in caplog.text
    )


@pytest.mark.parametrize(
    ("value", "device"), [(None, "auto"), (True, "auto"), (False, "cpu"), (1, "cuda:1"), ("cuda:0", "cuda:0")]
)
def test_use_gpu_of_older_scvi_tools_is_a_device(value, device):
    assert planned(TrainingPlan, {"use_gpu": value}).device == device


def test_use_gpu_beside_a_device_is_refused(model):
    with pytest.raises(TypeError, match="use_gpu and device are two spellings"):
        model.train(use_gpu=False, device="cpu")


@pytest.mark.parametrize(
    "options",
    [
        {"use_early_stopping": True, "early_stopping_kwargs": {"patience": 2, "threshold": STALLED}},
        {"early_stopping": True, "early_stopping_patience": 2, "early_stopping_min_delta": STALLED},
        {"early_stopping": True, "patience": 2, "threshold": STALLED},
    ],
    ids=["scArches", "scvi-tools", "ours"],
)
def test_patience_stops_the_run_under_each_spelling(model, options):
    run = train(model, max_epochs=20, **options)
    assert len(model.history) == 3
    assert run.ended.reason == "no better val_unweighted_loss in 2 epochs"


def test_early_stopping_is_off_unless_asked_for(model):
    train(model, max_epochs=5, early_stopping_kwargs={"patience": 1, "threshold": STALLED})
    assert len(model.history) == 5


def test_reduce_lr_lowers_the_learning_rate_when_the_metric_stalls(model):
    stopping = {"threshold": STALLED, "patience": 50, "reduce_lr": True, "lr_patience": 2, "lr_factor": 0.1}
    train(model, max_epochs=6, schedule="published", early_stopping=True, early_stopping_kwargs=stopping)
    np.testing.assert_allclose(model.history["learning_rate"], [1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5])


def test_without_reduce_lr_the_learning_rate_stays(model):
    stopping = {"threshold": STALLED, "patience": 50, "lr_patience": 2}
    train(model, max_epochs=6, schedule="published", early_stopping=True, early_stopping_kwargs=stopping)
    assert set(model.history["learning_rate"]) == {1e-3}


@pytest.mark.parametrize("metric", ["reconstruction_loss_validation", "val_recon_loss", "val_reconstruction"])
def test_an_upstream_metric_is_watched_under_its_name_here(model, metric):
    run = train(model, max_epochs=9, early_stopping=True, early_stopping_monitor=metric, patience=1, threshold=STALLED)
    assert run.ended.reason == "no better val_reconstruction in 1 epochs"
