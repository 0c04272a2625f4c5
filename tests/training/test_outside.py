"""Runs that others compute: losses told epoch by epoch, tables, and CSV files as Lightning and Keras write them."""

import math
import time

import numpy as np
import pandas as pd
import pytest

from scarches_widgets.data.names import DataError
from scarches_widgets.training.outside import FollowedFile, ToldRun, parted, run_of_history

NAMES = {
    "loss": ("train", "loss"),
    "val_loss": ("validation", "loss"),
    "train_loss": ("train", "loss"),
    "train_loss_epoch": ("train", "loss"),
    "elbo_validation": ("validation", "elbo"),
    "reconstruction_loss_train": ("train", "reconstruction_loss"),
    "val/loss": ("validation", "loss"),
    "train_kl_latent": ("train", "kl_latent"),
    "val": ("train", "val"),
}


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_losses_are_understood_as_lightning_keras_and_scvi_tools_spell_them(name):
    assert parted(name) == NAMES[name]


def test_what_a_loop_tells_becomes_epochs_with_their_best():
    run = ToldRun(3).start()
    first = {"epoch": 0, "loss": 3.0, "val_loss": 2.0, "lr": 0.1}
    for values in (first, {"loss": np.float32(2), "val_loss": 1.0}, {"val_loss": 4.0}):
        run.tell({**values, "step": 7, "name": "x"})
    run.end("the loop has ended")
    run.wait(10)
    history = run.history
    assert list(history.index) == [0, 1, 2] and list(history["val_loss"]) == [2, 1, 4]
    assert history["train_loss"][:2].tolist() == [3, 2] and math.isnan(history["train_loss"][2])
    assert history["learning_rate"][0] == 0.1
    assert [epoch.is_best for epoch in run.epochs] == [True, True, False]
    assert run.epochs[-1].n_without_improvement == 1 and run.status == "done"


def test_what_is_told_of_one_epoch_in_pieces_is_put_together_and_the_later_value_counts():
    run = ToldRun().start()
    run.tell({"loss": 3.0, "lr": 0.1}, 0)
    run.tell({"val_loss": 2.0}, 0)
    run.tell({"loss": 1.0}, 1)
    run.tell({"loss": 9.0, "val_loss": 4.0}, 1)
    for number in (7, 8):
        run.begin_epoch(number)
        run.tell({"loss": 1.0})
        run.tell({"val_loss": 1.0 * number})
    run.begin_epoch(9)
    run.tell({"loss": 1.0}, epoch=20)
    run.tell({"val_loss": 1.0})
    run.end("the loop has ended")
    run.wait(10)
    assert run.history["train_loss"].to_dict() == {0: 3, 1: 9, 7: 1, 8: 1, 20: 1}
    assert list(run.history["val_loss"]) == [2, 4, 7, 8, 1] and run.history["learning_rate"][0] == 0.1
    assert [epoch.is_best for epoch in run.epochs] == [True, False, False, False, True]
    assert [epoch.n_without_improvement for epoch in run.epochs] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("values", [{}, {"epoch": 1, "lr": 0.1}, {"loss": "high"}, {"loss": None}, {"loss": [1]}])
def test_what_holds_no_loss_is_refused(values):
    with pytest.raises(DataError, match="There is no loss among"):
        ToldRun().tell(values)


def test_a_table_is_a_run_that_has_ended():
    table = pd.DataFrame({"elbo_train": [3.0, 2.0], "elbo_validation": [4.0, 3.0]}, index=[5, 10])
    run = run_of_history(table)
    assert run.status == "done" and list(run.history.index) == [5, 10]
    assert list(run.history["val_elbo"]) == [4, 3]


def test_two_lines_of_one_epoch_as_lightning_writes_them_are_put_together(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train_loss,val_loss\n0,9,3.5,\n0,9,,4.5\n1,19,2.5,\n1,19,,nan\n2,29,1.5,\n2,29,,2.5")
    run = FollowedFile(path, follow=False)
    assert run.start().wait(10) == "done"
    assert list(run.history["train_loss"]) == [3.5, 2.5, 1.5]
    np.testing.assert_array_equal(run.history["val_loss"], [4.5, np.nan, 2.5])


def test_a_file_that_does_not_exist_yet_is_followed_as_it_grows_until_stop(tmp_path):
    path = tmp_path / "log.csv"
    run = FollowedFile(path).start()
    with path.open("w") as file:
        file.write("epoch,loss,val_loss\n0,5,6\n1,4,")
        file.flush()
        wait_until(lambda: len(run.epochs) == 1)  # once its lines have settled; half a line waits for the rest
        file.write("5\n2,3,4\n")
    wait_until(lambda: len(run.epochs) == 3)
    assert list(run.history["val_loss"]) == [6, 5, 4]
    run.stop()
    assert run.wait(10) in ("done", "stopped")


def test_without_follow_a_missing_file_is_refused_and_one_that_shrinks_fails_in_words(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        FollowedFile(tmp_path / "x.csv", follow=False)
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss\n" + "".join(f"{i},{i}\n" for i in range(50)))
    run = FollowedFile(path).start()
    wait_until(lambda: len(run.epochs) >= 49)
    path.write_text("epoch,loss\n")
    with pytest.raises(DataError, match="has become shorter"):
        run.wait(10)
