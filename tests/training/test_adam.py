import subprocess
import sys

import pytest
import torch

from scarches_widgets.training.adam import Adam

OPTIONS = dict(lr=3e-2, eps=0.01, weight_decay=0.1)


def weights():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (7,), (2, 2))]


def give_gradients(parameters, step):
    """All of them but the last, which is never used."""
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters[:-1]:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_each_step_is_that_of_torch():
    ours, theirs = weights(), weights()
    adam, torchs = Adam(ours, **OPTIONS), torch.optim.Adam(theirs, fused=True, **OPTIONS)
    for step in range(20):
        adam.lr = torchs.param_groups[0]["lr"] = 0.01 * (1 + step % 3)
        give_gradients(ours, step)
        give_gradients(theirs, step)
        adam.step()
        torchs.step()
    for a, b in zip(ours, theirs):
        assert torch.equal(a, b)
    assert torch.equal(ours[-1], weights()[-1])
    adam.zero_grad()
    assert all(parameter.grad is None for parameter in ours)


def test_an_anchor_draws_its_parameter_by_its_strength():
    """The minimum of ½ (w − 3)² + ½ · 4 · (w − 1)² is at 7/5; without the anchor it is at 3."""
    found = {}
    for strength in (0.0, 4.0):
        weight = torch.nn.Parameter(torch.zeros(1))
        adam = Adam([weight], lr=0.05, eps=1e-8, weight_decay=0.0)
        adam.anchors = {id(weight): (torch.ones(1), strength)}
        for _ in range(800):
            adam.zero_grad()
            (0.5 * (weight - 3) ** 2).sum().backward()
            adam.step()
        found[strength] = weight.item()
    assert found == pytest.approx({0.0: 3.0, 4.0: 1.4}, abs=1e-3)


def test_a_state_that_was_kept_goes_on_to_equal_bits_and_is_a_copy():
    first = weights()
    adam = Adam(first, **OPTIONS)
    give_gradients(first, 0)
    adam.step()
    second = [torch.nn.Parameter(parameter.detach().clone()) for parameter in first]
    other = Adam(second, **OPTIONS)
    other.load_state_dict(adam.state_dict())
    for parameters, one in ((first, adam), (second, other)):
        give_gradients(parameters, 1)
        one.step()
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_weight_decay_spares_those_that_it_is_told_to_spare():
    ours, theirs = weights(), weights()
    adam = Adam(ours, **OPTIONS, undecayed=[ours[1]])
    groups = [{"params": [theirs[0]]}, {"params": [theirs[1]], "weight_decay": 0.0}]
    torchs = torch.optim.Adam(groups, fused=True, **OPTIONS)
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        adam.step()
        torchs.step()
    assert all(torch.equal(a, b) for a, b in zip(ours[:2], theirs))
    assert torch.equal(ours[2], weights()[2])


def test_a_step_without_any_gradient_does_nothing():
    Adam(weights(), **OPTIONS).step()


def test_training_does_not_load_torchs_compiler():
    code = (
        "import sys, scarches_widgets as sca\n"
        "adata = sca.datasets.atlas(n_obs=60, n_vars=60)\n"
        "sca.models.SCVI(adata).train(max_epochs=1, progress=False)\n"
        "assert 'torch._dynamo' not in sys.modules and 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
