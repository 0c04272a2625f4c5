import math

import pytest
import torch
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from scarches_widgets.nn import divergences
from scarches_widgets.nn.divergences import (
    MMD_BANDWIDTHS,
    Normal,
    dependence,
    discrepancy_between_groups,
    kl_between_normals,
    kl_to_standard_normal,
    maximum_mean_discrepancy,
)
from scarches_widgets.nn.noise import Noise

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def test_kl_to_the_standard_normal_equals_the_closed_form_of_torch():
    mean, variance = random(50, 3), random(50, 3).exp()
    expected = kl_divergence(TorchNormal(mean, variance.sqrt()), TorchNormal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(Normal(mean, variance)), expected)
    assert kl_to_standard_normal(Normal(torch.zeros(1), torch.ones(1))).item() == 0


def test_kl_between_normals_equals_the_closed_form_of_torch():
    q, p = Normal(random(50, 3), random(50, 3).exp()), Normal(random(50, 3), random(50, 3).exp())
    expected = kl_divergence(TorchNormal(q.mean, q.variance.sqrt()), TorchNormal(p.mean, p.variance.sqrt()))
    torch.testing.assert_close(kl_between_normals(q, p), expected)


def test_samples_have_the_mean_and_variance_of_their_distribution():
    q = Normal(torch.full((40_000, 2), 3.0), torch.full((40_000, 2), 0.25))
    sample = q.rsample(Noise(0, "training", 0, 0))
    assert sample.mean().item() == pytest.approx(3, abs=0.01)
    assert sample.var().item() == pytest.approx(0.25, abs=0.005)
    assert torch.equal(q.rsample(None), q.mean)


def test_discrepancy_of_equal_samples_is_zero_and_grows_with_their_distance():
    a = random(60, 4)
    assert maximum_mean_discrepancy(a, a).item() == pytest.approx(0, abs=1e-12)
    near, far = (maximum_mean_discrepancy(a, a + shift).item() for shift in (0.5, 3.0))
    assert 0 < near < far


def test_discrepancy_equals_its_definition_written_as_sums():
    a, b = random(7, 2), random(5, 2)

    def mean_kernel(u, v):
        return sum(
            sum(torch.exp(-((x - y) ** 2).sum() / (2 * width)) for x in u for y in v) / (len(u) * len(v))
            for width in MMD_BANDWIDTHS
        )

    expected = mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)
    torch.testing.assert_close(maximum_mean_discrepancy(a, b), expected)


@pytest.mark.parametrize("boundary", [None, 2])
def test_discrepancy_between_groups_is_the_sum_over_their_pairs_with_its_gradient(boundary):
    """Group 1 has no cell, 3 a single one, which counts unless a boundary is given, and two cells are the same."""
    values = random(40, 3)
    values[1] = values[0]
    values.requires_grad_()
    groups = torch.tensor([0, 2, 4, 5] * 10)
    groups[7] = 3
    of_group = [values[groups == code] for code in range(6)]
    pairs = [(0, 4), (0, 5)] if boundary else [(0, 2), (0, 3), (0, 4), (0, 5), (2, 3), (2, 4), (2, 5), (3, 4), (3, 5)]
    pairs += [(0, 2)] if boundary else [(4, 5)]
    expected = sum(maximum_mean_discrepancy(of_group[i], of_group[j]) for i, j in pairs)
    found = discrepancy_between_groups(values, groups, boundary)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(loss, values)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("boundary", [None, 1])
@pytest.mark.parametrize("n_dimensions", [1, 10, 70])
def test_single_precision_on_a_cpu_gives_the_discrepancy_and_the_gradient_of_double_precision(n_dimensions, boundary):
    """Among cells that are far apart, the same, and as near as the narrowest kernels are wide."""
    values = 2 * random(90, n_dimensions).float()
    values[:30] = values[30:60] + 1e-3 * random(30, n_dimensions).float()
    values[1] = values[0]
    groups = torch.arange(90) % 3
    groups[4] = 4
    single, double = values.clone().requires_grad_(), values.double().requires_grad_()
    found, expected = (discrepancy_between_groups(v, groups, boundary) for v in (single, double))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad(3 * loss, v)[0] for loss, v in ((found, single), (expected, double)))
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_a_single_group_has_no_discrepancy_and_a_gradient_of_zero():
    values = random(5, 2).float().requires_grad_()
    for boundary in (None, 1):
        found = discrepancy_between_groups(values, torch.zeros(5, dtype=torch.int64), boundary)
        assert found.item() == 0 and not torch.autograd.grad(found, values)[0].any()


def test_kernels_of_many_pairs_are_added_up_part_by_part(monkeypatch):
    values, groups = random(40, 3), torch.arange(40) % 2
    whole = discrepancy_between_groups(values, groups)
    monkeypatch.setattr(divergences, "AT_A_TIME", 100)
    torch.testing.assert_close(discrepancy_between_groups(values, groups), whole)


def test_dependence_equals_its_definition_written_as_sums():
    """With the kernels of scArches 0.6.1: exp(−distance² / (2 g²)), g = 2 Γ((d + 1) / 2) / Γ(d / 2)."""
    a, b = random(9, 3), random(9, 1)
    b[:, 0] += a[:, 0]

    def kernel(values):
        d = values.shape[1]
        g = 2 * math.gamma((d + 1) / 2) / math.gamma(d / 2)
        return torch.stack(
            [torch.stack([torch.exp(-((x - y) ** 2).sum() / (2 * g**2)) for y in values]) for x in values]
        )

    k, m = kernel(a), kernel(b)
    centring = torch.eye(9, dtype=torch.float64) - 1 / 9
    expected = torch.trace(k @ centring @ m @ centring) / 81  # Gretton et al. 2005, equation 9, over n²
    torch.testing.assert_close(dependence(a, b), expected.sqrt())


def test_dependence_tells_a_function_from_noise():
    a = random(300, 2)
    of_function, of_noise = (dependence(a, b).item() for b in (a[:, :1].square(), random(300, 1)))
    assert of_function > 2 * of_noise > 0


def test_dependence_on_what_never_changes_is_almost_zero_with_a_gradient():
    """Rounding leaves the estimator below zero for some of these samples; its plain root is then NaN."""
    n_nan = 0
    for seed in range(20):
        a = torch.randn(100, 5, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        b = torch.full((100, 1), 0.3, requires_grad=True)
        found = dependence(a, b)
        found.backward()
        assert 0 < found.item() < 1e-3
        assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()
        k, m = torch.exp(-torch.cdist(a, a).square() / 8), torch.ones(100, 100)
        plain = (k * m).mean() + k.mean() * m.mean() - 2 * (k.mean(1) * m.mean(1)).mean()
        n_nan += bool(plain.sqrt().isnan())
    assert n_nan
