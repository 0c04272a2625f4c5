"""Vectors of conditions: what they add to a layer, how long they are, how they grow."""

import copy

import torch

from scarches_widgets.nn.condition_embedding import ConditionEmbedding, EmbeddedLinear
from scarches_widgets.nn.layers import initialize
from scarches_widgets.nn.noise import generator_of

CELLS = {"batch": torch.tensor([0, 2, 1, 2]), "site": torch.tensor([1, 0, 1, 1])}


def network():
    vectors = ConditionEmbedding({"batch": 3, "site": 2}, (4, 2), max_norm=1.0)
    layers = torch.nn.ModuleList([vectors, EmbeddedLinear(5, 7, vectors), EmbeddedLinear(3, 7, vectors, bias=False)])
    initialize(layers, generator_of(0, "weights"))
    return layers


def test_a_layer_adds_its_weights_times_the_vectors_of_the_cell_s_conditions():
    vectors, layer, _ = network()
    features = torch.randn(4, 5, generator=generator_of(1, "weights"))
    of_cells = torch.cat([table.rows()[CELLS[table.variable]] for table in vectors.tables], dim=1)
    expected = features @ layer.weight.T + layer.bias + of_cells @ layer.of_conditions.T
    torch.testing.assert_close(layer(features, CELLS), expected)


def test_no_vector_is_longer_than_allowed_and_frozen_ones_are_not_touched():
    vectors = network()[0]
    first, second = (table.blocks[0] for table in vectors.tables)
    assert (first.norm(dim=1) <= 1 + 1e-6).all()
    with torch.no_grad():
        first.mul_(10)
        second.mul_(0.01).add_(3)
    second.requires_grad_(False)
    before = second.clone()
    vectors.clip()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3))
    assert torch.equal(second, before)


def test_layers_share_the_vectors_also_in_a_copy_and_they_are_kept_once():
    layers = copy.deepcopy(network())
    assert sum("tables" in name for name in layers.state_dict()) == 2
    with torch.no_grad():
        layers[0].tables[0].blocks[0].zero_()
        layers[0].tables[1].blocks[0].zero_()
    features = torch.ones(4, 3)
    torch.testing.assert_close(layers[2](features, CELLS), features @ layers[2].weight.T)


def test_a_new_condition_starts_at_the_mean_of_the_others():
    vectors = network()[0]
    vectors.tables[0].grow(2)
    torch.testing.assert_close(vectors.tables[0].rows()[3:], vectors.tables[0].rows()[:3].mean(0).repeat(2, 1))
