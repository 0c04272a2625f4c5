import pytest
import torch
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from scarches_widgets.nn.divergences import (
    MMD_BANDWIDTHS,
    Normal,
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
