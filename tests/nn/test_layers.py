import torch
import torch.nn.functional as F

from scarches_widgets.nn.layers import MLP, ConditionalLinear, Dropout, initialize
from scarches_widgets.nn.noise import Noise, generator_of

LEVELS = {"batch": 3, "covariate sex": 2}
CODES = {"batch": torch.tensor([0, 2, 1, 1]), "covariate sex": torch.tensor([1, 0, 1, 0])}
FEATURES = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def layer(levels=LEVELS, seed=0):
    linear = ConditionalLinear(5, 6, levels)
    initialize(linear, generator_of(seed, "weights"))
    return linear


def test_rows_per_category_equal_one_hot_columns_after_the_features_in_the_published_order():  # trap T1
    linear = layer()
    published = torch.cat([linear.weight, linear.offsets[0].rows().T, linear.offsets[1].rows().T], dim=1)
    one_hots = [F.one_hot(CODES[variable], n) for variable, n in LEVELS.items()]
    expected = F.linear(torch.cat([FEATURES, *one_hots], dim=1), published, linear.bias)
    torch.testing.assert_close(linear(FEATURES, CODES), expected)


def test_a_variable_with_a_single_level_adds_nothing_and_learns_nothing():  # trap T2
    linear = layer({"batch": 1})
    batch = {"batch": torch.zeros(4, dtype=torch.int64)}
    assert torch.equal(linear(FEATURES, batch), F.linear(FEATURES, linear.weight, linear.bias))
    assert not linear.offsets[0].blocks[0].requires_grad


def test_growing_one_variable_leaves_every_old_output_and_every_other_variable_as_it_was():  # trap T16
    linear = layer()
    before = linear(FEATURES, CODES)
    linear.offsets[0].grow(2)
    assert torch.equal(linear(FEATURES, CODES), before)
    assert [len(block) for block in linear.offsets[0].blocks] == [3, 2]
    assert [len(block) for block in linear.offsets[1].blocks] == [2]


def test_a_new_level_starts_as_the_average_of_the_levels_before():
    linear = layer()
    table = linear.offsets[0]
    mean = table.rows().mean(0)
    table.grow(1)
    torch.testing.assert_close(table.rows()[3], mean)


def test_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first, second, other = layer(seed=3), layer(seed=3), layer(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)


def test_dropout_keeps_the_mean_uses_the_given_noise_and_passes_through_when_frozen():
    dropout, ones = Dropout(0.25).train(), torch.ones(400, 400)
    dropped = dropout(ones, Noise(0, "training", 0, 0))
    assert abs(dropped.mean().item() - 1) < 0.01
    assert torch.equal(dropped, dropout(ones, Noise(0, "training", 0, 0)))
    assert not torch.equal(dropped, dropout(ones, Noise(0, "training", 0, 1)))
    dropout.frozen = True
    assert torch.equal(dropout(ones, Noise(0, "training", 0, 0)), ones)


def test_a_frozen_batch_norm_keeps_its_statistics_in_training():  # trap T9
    mlp = MLP(5, 8, 1, batch_norm=True)
    initialize(mlp, generator_of(0, "weights"))
    mlp.batch_norms[0].frozen = True
    mlp.train()
    before = mlp.batch_norms[0].running_mean.clone()
    mlp(FEATURES)
    assert torch.equal(mlp.batch_norms[0].running_mean, before)


def test_layer_norm_has_unit_variance_per_cell_and_no_weights():  # trap T8
    mlp = MLP(5, 64, 1, layer_norm=True)
    assert {name for name, _ in mlp.named_parameters()} == {"linears.0.weight", "linears.0.bias"}
