"""Which device "auto" stands for."""

import pytest
import torch

from scarches_widgets.training import device
from scarches_widgets.training.device import agrees_with_cpu, device_of


@pytest.fixture
def machine(monkeypatch):
    def of(cuda: bool, mps: bool):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return of


def test_auto_takes_cuda_where_there_is_any_and_else_the_cpu(machine):
    machine(cuda=True, mps=True)
    assert device_of("auto").type == "cuda"
    machine(cuda=False, mps=False)
    assert device_of("auto").type == "cpu"


@pytest.mark.parametrize("is_right", [True, False])
def test_auto_takes_mps_only_if_a_trial_there_gives_what_the_cpu_gives(machine, monkeypatch, is_right):
    machine(cuda=False, mps=True)
    monkeypatch.setattr(device, "agrees_with_cpu", lambda name: is_right)
    assert device_of("auto").type == ("mps" if is_right else "cpu")


def test_a_device_agrees_with_the_cpu_only_if_the_numbers_do(monkeypatch, caplog):
    assert agrees_with_cpu("cpu")
    right = device._trial_step
    assert all(torch.isfinite(part).all() for part in right("cpu"))
    steps = iter([[part * 1.1 for part in right("cpu")], right("cpu")])
    monkeypatch.setattr(device, "_trial_step", lambda where: next(steps))
    assert not agrees_with_cpu("cpu") and "differs from the CPU's" in caplog.text


def test_a_device_that_lacks_an_operation_is_left_aside(monkeypatch):
    def lacking(where):
        raise NotImplementedError("aten::lgamma is not implemented there")

    monkeypatch.setattr(device, "_trial_step", lacking)
    assert not agrees_with_cpu("cpu")


def test_a_device_that_is_not_there_is_refused_with_what_to_use():
    with pytest.raises(ValueError, match=r"device='gpu7' cannot be used here .* 'auto' or 'cpu'"):
        device_of("gpu7")
