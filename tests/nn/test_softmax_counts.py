import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scarches_widgets.nn.likelihoods import log_negative_binomial, log_zero_inflated_negative_binomial
from scarches_widgets.nn.softmax_counts import FAR, TABLED, log_softmax_negative_binomial, seen_in
from scarches_widgets.nn.softmax_counts_cpu import FEW, LEAST_SHARE, MANY

N, G = 7, 30


def inputs(dtype=torch.float64, per_cell=False, inflated=True, seed=0, spread=3.0):
    """Counts of all kinds: none in a cell, one that is large, one with a fraction, both sides of the table's end."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: spread * torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    counts = torch.poisson(2 * torch.rand(N, G, generator=generator), generator=generator).to(dtype)
    counts[1] = 0
    counts[0, :4] = torch.tensor([2500.0, TABLED - 1, TABLED, TABLED + 1])
    counts[2, 3:6] = torch.tensor([1.5, 0.5, 40.25])
    counts[3, :5] = torch.tensor([FEW, FEW + 1, MANY, MANY + 1, 100.0])
    library_size = counts.sum(1, keepdim=True).clamp_min(1)
    parameters = [draw(N, G), library_size, draw(*((N, G) if per_cell else (G,)))]
    parameters += [draw(N, G)] if inflated else []
    return counts, [parameter.requires_grad_() for parameter in parameters]


def elementwise(counts, logits, library_size, log_theta, inflation=None):
    mean, theta = library_size * torch.softmax(logits, -1), log_theta.exp()
    if inflation is None:
        return log_negative_binomial(counts, mean, theta).sum(-1)
    return log_zero_inflated_negative_binomial(counts, mean, theta, inflation).sum(-1)


@pytest.mark.parametrize("inflated", [False, True])
@pytest.mark.parametrize("per_cell", [False, True])
def test_value_and_every_gradient_equal_those_of_the_elementwise_formulas(per_cell, inflated):
    counts, parameters = inputs(per_cell=per_cell, inflated=inflated)
    weights = torch.linspace(-1, 2, N, dtype=torch.float64)
    found, expected = log_softmax_negative_binomial(counts, *parameters), elementwise(counts, *parameters)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)
    for ours, theirs in zip(
        torch.autograd.grad(weights @ found, parameters), torch.autograd.grad(weights @ expected, parameters)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("per_cell", [False, True])
@pytest.mark.parametrize("inflated", [False, True])
def test_gradients_are_those_of_finite_differences(inflated, per_cell):
    counts, parameters = inputs(per_cell=per_cell, inflated=inflated, spread=1.0)
    assert torch.autograd.gradcheck(lambda *p: log_softmax_negative_binomial(counts, *p), parameters)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 3.0, 12.0]), st.booleans(), st.booleans())
def test_single_precision_is_right_to_its_last_digits(seed, spread, per_cell, inflated):
    """Those of the largest term: value and dispersion's gradient are differences of terms as large as the count."""
    counts, parameters = inputs(torch.float32, per_cell, inflated, seed, spread)
    precise = [parameter.detach().double().requires_grad_() for parameter in parameters]
    found, expected = log_softmax_negative_binomial(counts, *parameters), elementwise(counts.double(), *precise)
    last_digit = torch.finfo(torch.float32).eps * float(counts.max())
    torch.testing.assert_close(found.double(), expected, rtol=3e-6, atol=16 * last_digit)
    gradients = torch.autograd.grad(found.sum(), parameters), torch.autograd.grad(expected.sum(), precise)
    for place, (ours, theirs) in enumerate(zip(*gradients)):
        rounding = 4 * last_digit if place == 2 else 1e-5  # 2: by log θ
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()) + rounding)


def test_zeros_that_a_float32_sigmoid_cannot_hold_are_still_exact():
    counts = torch.zeros(1, 3)
    logits, library, log_theta = torch.tensor([[20.0, 0, 0]]), torch.tensor([[1e6]]), torch.full((3,), 8.0)
    for inflation in (-2 * FAR, 2 * FAR):
        parameters = [logits, library, log_theta, torch.full((1, 3), inflation)]
        found = log_softmax_negative_binomial(counts, *parameters)
        expected = elementwise(counts.double(), *(parameter.double() for parameter in parameters))
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("n_levels", [2, 50])  # few enough to be looked up, and too many
@pytest.mark.parametrize("inflated", [False, True])
def test_dispersions_by_level_are_those_of_each_cell_s_level(n_levels, inflated):
    counts, (logits, library_size, _, *inflation) = inputs(inflated=inflated)
    table = torch.randn(n_levels, G, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    rows, weights = torch.arange(N) % n_levels, torch.linspace(-1, 2, N, dtype=torch.float64)
    given = [logits, library_size, table, *inflation]
    found = log_softmax_negative_binomial(counts, *given, rows=rows)
    expected = elementwise(counts, logits, library_size, table[rows], *inflation)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)
    for ours, theirs in zip(
        torch.autograd.grad(weights @ found, given), torch.autograd.grad(weights @ expected, given)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inflated", [False, True])
def test_single_precision_takes_dispersions_by_level_too(inflated):
    counts, (logits, library_size, _, *inflation) = inputs(torch.float32, inflated=inflated)
    table = torch.randn(3, G, generator=torch.Generator().manual_seed(1)).requires_grad_()
    rows = torch.arange(N) % 3
    given = [logits, library_size, table, *inflation]
    precise = [one.detach().double().requires_grad_() for one in given]
    found = log_softmax_negative_binomial(counts, *given, rows=rows)
    expected = log_softmax_negative_binomial(counts.double(), *precise, rows=rows)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)
    for ours, theirs in zip(torch.autograd.grad(found.sum(), given), torch.autograd.grad(expected.sum(), precise)):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=2e-5 * float(theirs.abs().max()))


def test_more_threads_give_the_same_bits():
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(3 * torch.rand(3 * LEAST_SHARE, G, generator=generator), generator=generator)
    logits, log_theta = torch.randn(counts.shape, generator=generator), torch.randn(G, generator=generator)
    given, n_threads, found = (counts, logits, counts.sum(1, keepdim=True), log_theta), torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(log_softmax_negative_binomial(*given))
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_that_is_not_a_number_stays_so(dtype):
    counts, parameters = inputs(dtype)
    with torch.no_grad():
        parameters[0][0, 0] = float("nan")
    assert log_softmax_negative_binomial(counts, *parameters).isnan()[0]


def test_places_that_are_known_change_nothing_and_without_gradients_the_value_is_the_same():
    counts, parameters = inputs()
    found = log_softmax_negative_binomial(counts, *parameters, seen_in(counts))
    with torch.no_grad():
        assert torch.equal(found, log_softmax_negative_binomial(counts, *parameters))


def test_only_what_is_trained_gets_a_gradient():
    counts, parameters = inputs()
    for parameter in parameters[1:]:
        parameter.requires_grad_(False)
    log_softmax_negative_binomial(counts, *parameters).sum().backward()
    assert parameters[0].grad is not None and all(parameter.grad is None for parameter in parameters[1:])
