"""Encoders and the decoder of sequences: padding has no part, and torch's own layers say the same."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scarches_widgets.data.receptors import Chain
from scarches_widgets.nn.layers import initialize
from scarches_widgets.nn.noise import Noise, generator_of
from scarches_widgets.nn.sequences import (
    ENCODERS,
    Attention,
    CoarseDropout,
    FeedForward,
    Places,
    TransformerDecoder,
    position_codes,
)

SHAPE = {"width": 8, "n_layers": 2, "n_heads": 2, "expansion": 2, "dropout_rate": 0.3}
TOKENS = torch.tensor([[2, 1, 5, 3, 0, 0], [2, 4, 0, 0, 0, 0], [2, 4, 6, 5, 1, 3]])


def made(cls, *arguments, **options):
    part = cls(*arguments, **(SHAPE | options))
    initialize(part, generator_of(0, "weights"))
    return part.eval()


@pytest.mark.parametrize("kind", ENCODERS)
def test_what_stands_after_the_end_changes_nothing(kind):
    encoder = made(ENCODERS[kind], 7, 10, 4)
    said = encoder(TOKENS, None)
    assert said.shape == (3, 4)
    np.testing.assert_allclose(encoder(F.pad(TOKENS, (0, 3)), None).detach(), said.detach(), atol=1e-6)
    np.testing.assert_allclose(encoder(TOKENS[1:2, :2], None).detach(), said[1:2].detach(), atol=1e-6)


@pytest.mark.parametrize("kind", ENCODERS)
def test_neighbours_in_a_minibatch_change_nothing(kind):
    encoder = made(ENCODERS[kind], 7, 10, 4)
    alone = torch.cat([encoder(TOKENS[i : i + 1], None) for i in range(3)])
    np.testing.assert_allclose(encoder(TOKENS, None).detach(), alone.detach(), atol=1e-6)


@pytest.mark.parametrize("kind", ENCODERS)
def test_making_an_encoder_does_not_move_the_global_generator(kind):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    made(ENCODERS[kind], 7, 10, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_attention_is_torchs():
    ours, theirs = Attention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    initialize(ours, generator_of(1, "weights"))
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    is_residue, generator = TOKENS > 0, torch.Generator().manual_seed(0)
    table, memory = (torch.randn(3, 6, 8, generator=generator, requires_grad=True) for _ in range(2))
    places = Places(is_residue)
    values = table.flatten(0, 1)[places.index]
    pairs = [
        (ours.to_itself(values, places, ~is_residue[:, :, None]), theirs(table, table, table, ~is_residue)),
        (ours.to_memory(values, places, memory), theirs(table, memory, memory)),
    ]
    for found, (expected, _) in pairs:
        expected = expected.flatten(0, 1)[places.index]
        np.testing.assert_allclose(found.detach(), expected.detach(), atol=1e-5)
        wanted = {"inputs": [table, memory], "retain_graph": True, "allow_unused": True}
        for ours_there, there in zip(*(torch.autograd.grad(of.square().sum(), **wanted) for of in (found, expected))):
            assert (ours_there is None) == (there is None)
            if there is not None:
                np.testing.assert_allclose(ours_there, there, atol=1e-4)


def test_positions_have_the_published_codes():
    codes = position_codes(5, 6, torch.zeros(1)).numpy()
    assert codes[3, 0] == pytest.approx(np.sin(3), abs=1e-6) and codes[3, 1] == pytest.approx(np.cos(3), abs=1e-6)
    assert codes[4, 4] == pytest.approx(np.sin(4 / 1e4 ** (4 / 6)), abs=1e-6)


def test_an_inner_layer_in_chunks_has_the_value_and_gradients_of_its_parts(monkeypatch):
    monkeypatch.setattr("scarches_widgets.nn.sequences._FeedForward.CHUNK", 16)  # two rows
    part = FeedForward(4, 2, 0.25)
    initialize(part, generator_of(0, "weights"))
    part.train()
    values = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    noise = Noise(0, "training")
    kept = torch.cat([noise.kept_like(torch.empty(n, 8), 0.75, n_bits=8) for n in (2, 2, 1)])
    pair = part(values, Noise(0, "training")), part.narrow(torch.relu(part.wide(values)) * kept / 0.75)
    np.testing.assert_allclose(*(one.detach() for one in pair), rtol=1e-5)
    gradients = [torch.autograd.grad(one.square().sum(), [values, *part.parameters()]) for one in pair]
    for found, expected in zip(*gradients):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_coarse_dropout_keeps_its_share_and_the_mean():
    dropout, ones = CoarseDropout(0.3), torch.ones(400, 400)
    left = dropout(ones, Noise(0, "training"))
    assert left.count_nonzero() / ones.numel() == pytest.approx(0.7, abs=0.01)
    assert left.mean() == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(dropout.added(ones, ones, Noise(0, "training")), 1 + left, rtol=1e-6)
    assert dropout.eval()(ones, None) is ones


def test_an_empty_table_is_no_fault():
    decoder = made(TransformerDecoder, 7, 10, 5)
    for tokens, n_cells in ((TOKENS, 0), (TOKENS[:, :1], 3)):
        chain = Chain(tokens, torch.arange(3)).of(torch.arange(n_cells))
        hidden = torch.ones(n_cells, 5, requires_grad=True)
        told = decoder(hidden, chain, None)
        told.sum().backward()
        assert told.shape == (0,) and chain.n_residues == 0


def test_the_decoder_predicts_each_residue_from_those_before_it():
    decoder = made(TransformerDecoder, 7, 10, 5)
    hidden, cells = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.arange(3)
    logits, targets = decoder.told(hidden, Chain(TOKENS, cells), None)
    assert targets.tolist() == [1, 5, 3, 4, 4, 6, 5, 1, 3]
    changed = TOKENS.clone()
    changed[2, 4] = 5  # the fifth of the third sequence: only what comes after may change
    after, _ = decoder.told(hidden, Chain(changed, cells), None)
    same = (after - logits).abs().amax(1) < 1e-6
    assert same.tolist() == [True] * 8 + [False]


def test_the_decoder_says_the_same_of_a_sequence_that_is_given_once_or_for_each_cell():
    decoder = made(TransformerDecoder, 7, 10, 5)
    hidden, of_cell = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 2, 2])
    shared = decoder(hidden, Chain(TOKENS, of_cell), None)
    apart = decoder(hidden, Chain(TOKENS[of_cell], torch.arange(4)), None)
    np.testing.assert_allclose(shared.detach(), apart.detach(), atol=1e-6)
