import pytest
import torch
import torch.nn.functional as F

from scarches_widgets.nn.programs import ProgramLayer
from scarches_widgets.nn.sparse_linear import AT_ONCE, SparseLinear, places_of

CELLS, INPUTS, OUTPUTS = AT_ONCE + 13, 40, 60
CATEGORIES = {"batch": torch.zeros(CELLS, dtype=torch.int64)}


def masked(share=0.05):
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(OUTPUTS, INPUTS, generator=generator) < share).float()
    mask[3], mask[:, 5] = 0, 0  # an output without inputs, an input without outputs
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator).requires_grad_()
    return torch.randn(CELLS, INPUTS, generator=generator).requires_grad_(), weight, mask


def test_a_sparse_map_and_its_gradients_are_those_of_the_dense_one():
    inputs, weight, mask = masked()
    found, expected = SparseLinear.apply(inputs, weight, *places_of(mask)), F.linear(inputs, weight * mask)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(CELLS, OUTPUTS)
    for ours, theirs in zip(
        torch.autograd.grad(found, (inputs, weight), upstream),
        torch.autograd.grad(expected, (inputs, weight), upstream),
    ):
        torch.testing.assert_close(ours, theirs)


def test_weights_that_are_not_trained_get_no_gradient():
    inputs, weight, mask = masked()
    SparseLinear.apply(inputs, weight.requires_grad_(False), *places_of(mask)).sum().backward()
    assert weight.grad is None and inputs.grad is not None


@pytest.mark.parametrize("n_added", [0, 2])
@pytest.mark.parametrize("share", [0.05, 0.5])  # below and above what is left out
def test_programs_explain_the_same_whether_or_not_forbidden_weights_are_left_out(share, n_added):
    _, _, mask = masked(share)
    layer = ProgramLayer(INPUTS, OUTPUTS, {"batch": 2}, soft=False)
    layer.initialize(torch.Generator().manual_seed(0))
    layer.annotate(mask)
    with torch.no_grad():
        layer.weight.normal_()  # outside the mask too
    if n_added:
        layer.grow(n_added)
    activities = torch.randn(CELLS, INPUTS + n_added)
    single, double = (
        layer.outputs(activities, CATEGORIES)[0],
        layer.double().outputs(activities.double(), CATEGORIES)[0],
    )
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_a_mask_that_has_changed_is_looked_at_again():
    layer = ProgramLayer(INPUTS, OUTPUTS, {}, soft=False)
    layer.annotate(masked()[2])
    with torch.no_grad():
        layer.weight.fill_(1)
    activities = torch.ones(1, INPUTS)
    before = layer.outputs(activities, {})[0]
    layer.load_state_dict(layer.state_dict() | {"mask": torch.zeros_like(layer.mask)})
    assert before.any() and not layer.outputs(activities, {})[0].any()
