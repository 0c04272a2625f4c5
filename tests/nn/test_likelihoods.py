import numpy as np
import pytest
import scipy.stats as st
import torch
from mpmath import mp

from scarches_widgets.nn.likelihoods import (
    log_negative_binomial,
    log_normal,
    log_poisson,
    log_zero_inflated_negative_binomial,
)

COUNTS = np.array([0, 1, 2, 5, 17, 300, 5000.0])
MEANS = np.array([1e-6, 0.03, 1.0, 7.5, 400.0])
INVERSE_DISPERSIONS = np.array([1e-3, 0.2, 3.0, 150.0, 2e3, 1e6])
X, MU, THETA = (torch.tensor(a) for a in np.meshgrid(COUNTS, MEANS, INVERSE_DISPERSIONS, indexing="ij"))


@np.vectorize
def exact_negative_binomial(x, mu, theta):
    """In 50 digits: scipy takes θ / (θ + μ), which has lost its digits when μ is small beside θ."""
    with mp.workdps(50):
        x, mu, theta = mp.mpf(x), mp.mpf(mu), mp.mpf(theta)
        log_binomial = mp.loggamma(x + theta) - mp.loggamma(theta) - mp.loggamma(x + 1)
        return float(log_binomial + theta * mp.log(theta / (theta + mu)) + x * mp.log(mu / (theta + mu)))


def test_poisson_equals_scipy():
    np.testing.assert_allclose(log_poisson(X, MU), st.poisson.logpmf(X, MU), rtol=1e-10)


def test_negative_binomial_equals_scipy():
    usual = (MU / THETA > 1e-3) & (THETA < 1e4)
    x, mu, theta = X[usual], MU[usual], THETA[usual]
    expected = st.nbinom.logpmf(x.numpy(), theta.numpy(), (theta / (theta + mu)).numpy())
    np.testing.assert_allclose(log_negative_binomial(x, mu, theta), expected, rtol=1e-9, atol=1e-9)


def test_negative_binomial_equals_fifty_digits_for_every_mean_and_dispersion():
    expected = exact_negative_binomial(X.numpy(), MU.numpy(), THETA.numpy())
    np.testing.assert_allclose(log_negative_binomial(X, MU, THETA), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("logits", [-30.0, -2.0, 0.0, 3.0, 30.0])
def test_zero_inflated_negative_binomial_equals_the_mixture_of_zero_and_counts(logits):
    log_count = -np.logaddexp(0, logits) + exact_negative_binomial(X.numpy(), MU.numpy(), THETA.numpy())
    expected = np.where(X == 0, np.logaddexp(-np.logaddexp(0, -logits), log_count), log_count)
    found = log_zero_inflated_negative_binomial(X, MU, THETA, torch.full_like(X, logits))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


def test_normal_equals_scipy():
    found = log_normal(X, MU, THETA)
    np.testing.assert_allclose(found, st.norm.logpdf(X.numpy(), MU.numpy(), THETA.sqrt().numpy()), rtol=1e-10)


def test_probabilities_of_all_counts_sum_to_one():
    x = torch.arange(4000, dtype=torch.float64)
    mu, theta = torch.tensor(30.0, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    assert log_poisson(x, mu).exp().sum() == pytest.approx(1, abs=1e-10)
    assert log_negative_binomial(x, mu, theta).exp().sum() == pytest.approx(1, abs=1e-10)
    assert log_zero_inflated_negative_binomial(x, mu, theta, mu / 10).exp().sum() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("mean", [0.0, 1e-38, 1e-20, 1.0, 1e6, 1e20])
@pytest.mark.parametrize("inverse_dispersion", [0.0, 1e-30, 1e-8, 1.0, 1e8, 1e30])
@pytest.mark.parametrize("logits", [-1e4, 0.0, 1e4])
def test_values_and_gradients_stay_finite_at_both_ends_of_float32(mean, inverse_dispersion, logits):
    counts = torch.tensor([0.0, 1.0, 3.0, 65000.0])
    parameters = [torch.full_like(counts, value).requires_grad_() for value in (mean, inverse_dispersion, logits)]
    log_likelihood = log_zero_inflated_negative_binomial(counts, *parameters).sum()
    log_likelihood.backward()
    assert torch.isfinite(log_likelihood)
    assert all(torch.isfinite(parameter.grad).all() for parameter in parameters)


def test_negative_binomial_in_float32_tends_to_poisson_when_dispersion_vanishes():
    counts, mean = torch.tensor([0.0, 1.0, 5.0, 40.0]), torch.tensor([0.5, 0.5, 6.0, 30.0])
    for inverse_dispersion in (1e7, 1e10):
        found = log_negative_binomial(counts, mean, torch.full_like(mean, inverse_dispersion))
        np.testing.assert_allclose(found, st.poisson.logpmf(counts, mean), rtol=2e-5)


def test_gradients_equal_finite_differences():
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([[0.0, 1, 4], [9, 0, 120]], dtype=torch.float64)
    parameters = [torch.rand(2, 3, generator=generator, dtype=torch.float64) * s + 0.1 for s in (20, 2000, 1)]
    parameters = [parameter.requires_grad_() for parameter in parameters]
    assert torch.autograd.gradcheck(lambda *p: log_zero_inflated_negative_binomial(counts, *p), parameters)
