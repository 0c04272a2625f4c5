"""Gene programs that a surgery adds to a layer: what stays, what is drawn, and what the proximal steps do to it."""

import torch

from scarches_widgets.models import surgery
from scarches_widgets.nn.layers import initialize
from scarches_widgets.nn.programs import GrowingHead, ProgramLayer


def grown(soft: bool = False) -> ProgramLayer:
    """Two programs of three genes; one annotated and one free program added."""
    layer = ProgramLayer(2, 3, {"batch": 2}, soft=False)
    initialize(layer, torch.Generator().manual_seed(0))
    surgery.freeze(layer)
    surgery.grow(layer, {"program": 2})
    layer.added[0].mask.copy_(torch.tensor([[1.0, 1], [0, 1], [1, 1]]))
    layer.soft_added = soft
    return layer


def test_programs_that_are_added_leave_reconstructions_as_they_are():
    layer = ProgramLayer(2, 3, {"batch": 2}, soft=False)
    initialize(layer, torch.Generator().manual_seed(0))
    z, categories = (
        torch.randn(5, 4, generator=torch.Generator().manual_seed(1)),
        {"batch": torch.tensor([0, 1, 0, 1, 0])},
    )
    (before,) = layer.outputs(z[:, :2], categories)
    (after,) = grown().outputs(z, categories)
    torch.testing.assert_close(before, after)


def test_only_the_last_surgery_s_programs_are_trained_and_counted_as_new():
    layer = grown()
    assert layer.newest_free().tolist() == [False, False, False, True]
    assert [name for name, weight in layer.named_parameters() if weight.requires_grad] == ["added.0.weight"]
    surgery.freeze(layer)
    surgery.grow(layer, {"program": 1})
    assert layer.newest_free().tolist() == [False, False, False, False, True]
    assert [name for name, weight in layer.named_parameters() if weight.requires_grad] == ["added.1.weight"]
    assert layer.loadings().shape == layer.annotations().shape == (3, 5)


def test_a_surgery_that_adds_nothing_has_no_new_program():
    assert ProgramLayer(2, 3, {}, soft=False).newest_free().tolist() == [False, False]


def test_proximal_steps_shrink_what_was_added_each_by_its_own_price():
    for soft, annotated in ((True, [[0.5], [0.4], [-0.5]]), (False, [[0.5], [0.0], [-0.5]])):
        layer = grown(soft)
        reference = layer.weight.detach().clone()
        with torch.no_grad():
            layer.added[0].weight.copy_(torch.tensor([[0.5, 0.3], [0.5, -0.1], [-0.5, 0.0]]))
        layer.after_step(0.1, 10.0, 1.0, 2.0)
        found = layer.loadings().detach()[:, 2:]
        torch.testing.assert_close(found[:, :1], torch.tensor(annotated))
        torch.testing.assert_close(found[:, 1], torch.tensor([0.1, 0.0, 0.0]))
        assert torch.equal(layer.weight, reference), "frozen"


def test_a_head_s_old_outputs_keep_their_bits():
    head = GrowingHead(6, 3)
    initialize(head, torch.Generator().manual_seed(0))
    features = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    before = head(features)
    surgery.grow(head, {"program": 2})
    assert torch.equal(head(features)[:, :3], before) and head(features).shape == (7, 5)
