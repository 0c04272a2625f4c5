"""Products and mixtures of normal distributions, against a grid and against draws."""

import numpy as np
import pytest
import torch

from scarches_widgets.nn.divergences import Normal
from scarches_widgets.nn.experts import ExpertDropout, mixture_of_experts, product_of_experts
from scarches_widgets.nn.noise import Noise


@pytest.fixture
def experts():
    generator = torch.Generator().manual_seed(0)
    return [
        Normal(torch.randn(50, 3, generator=generator), torch.rand(50, 3, generator=generator) + 0.1) for _ in range(3)
    ]


def test_the_product_is_that_of_the_densities_and_the_prior(experts):
    grid = np.linspace(-12, 12, 200_001)
    of_all = [(0.0, 1.0), *((float(mean[0, 0]), float(variance[0, 0])) for mean, variance in experts)]
    density = np.exp(sum(-((grid - mean) ** 2) / (2 * variance) for mean, variance in of_all))
    density /= density.sum()
    mean = (density * grid).sum()
    found = product_of_experts(experts)
    np.testing.assert_allclose(float(found.mean[0, 0]), mean, rtol=1e-5)
    np.testing.assert_allclose(float(found.variance[0, 0]), (density * (grid - mean) ** 2).sum(), rtol=1e-5)


def test_the_mixture_is_the_mean_of_the_experts_draws(experts):
    rng = np.random.default_rng(0)
    draws = np.mean(
        [rng.normal(float(mean[0, 0]), float(variance[0, 0]) ** 0.5, 400_000) for mean, variance in experts], axis=0
    )
    found = mixture_of_experts(experts)
    np.testing.assert_allclose(float(found.mean[0, 0]), draws.mean(), atol=0.01)
    np.testing.assert_allclose(float(found.variance[0, 0]), draws.var(), rtol=0.03)


@pytest.mark.parametrize("joined", [product_of_experts, mixture_of_experts])
def test_a_modality_that_is_missing_leaves_the_others_posterior_to_the_bit(joined, experts):
    present = torch.tensor([[True, False, True], [True, False, False]]).repeat(25, 1)
    blind = [experts[0], Normal(torch.full((50, 3), torch.nan), torch.full((50, 3), torch.nan)), experts[2]]
    found, pair, alone = joined(blind, present), joined([experts[0], experts[2]]), joined([experts[0]])
    for i in range(2):
        assert torch.equal(found[i][::2], pair[i][::2])
        assert torch.equal(found[i][1::2], alone[i][1::2])
    assert torch.equal(joined(experts).mean, joined(experts, torch.ones(50, 3, dtype=torch.bool)).mean)


def test_an_expert_of_a_missing_modality_learns_nothing(experts):
    parts = [Normal(mean.clone().requires_grad_(), variance.clone().requires_grad_()) for mean, variance in experts]
    present = torch.tensor([[True, True, False]]).repeat(50, 1)
    for joined in (product_of_experts, mixture_of_experts):
        sum(joined(parts, present)).sum().backward()
    assert all(part.grad.count_nonzero() == 0 for part in parts[2])
    assert all(part.grad.isfinite().all() and part.grad.count_nonzero() == 150 for part in parts[0])


def test_a_cell_without_any_modality_has_the_prior_in_a_product_and_none_in_a_mixture(experts):
    present = torch.ones(50, 3, dtype=torch.bool)
    present[7] = False
    prior = product_of_experts(experts, present)
    assert prior.mean[7].tolist() == [0, 0, 0] and prior.variance[7].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="1 of 50 cells have no modality"):
        mixture_of_experts(experts, present)


def test_dropout_leaves_a_share_of_the_cells_with_one_modality_that_they_have():
    present = torch.tensor([[True, True, False], [True, True, True], [False, True, False]]).repeat(2000, 1)
    dropout = ExpertDropout(0.4)
    kept = dropout(present, Noise(0, "training"))
    assert not (kept & ~present).any() and kept.any(1).all()
    whole = (kept == present).all(1).view(-1, 3).float().mean(0)
    np.testing.assert_allclose(whole, [0.6, 0.6, 1.0], atol=0.05)
    np.testing.assert_allclose(kept[1::3].float().mean(0), [0.6 + 0.4 / 3] * 3, atol=0.05)
    assert torch.equal(dropout.eval()(present, None), present)
    dropout.train().frozen = True
    assert torch.equal(dropout(present, Noise(0, "training")), present)
