import math
import re

import numpy as np
import pytest
import torch

from scarches_widgets.nn.noise import Noise, generator_of


def noise(*place, seed=0):
    return Noise(seed, "training", *place)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_masks_keep_the_share_that_was_asked_for_in_each_row_and_column(probability):
    kept = noise(0, 0).kept_like(torch.empty(1999, 1001), probability)
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    spread = math.sqrt(probability * (1 - probability))
    assert abs(float(kept.double().mean()) - probability) <= 5 * spread / math.sqrt(kept.numel()) + 1e-5
    for mean, n in ((kept.mean(0), 1999), (kept.mean(1), 1001)):
        assert float((mean - probability).abs().max()) <= 5 * spread / math.sqrt(n) + 1e-5
    neighbours = torch.corrcoef(kept[:, :2].T.double())[0, 1] if spread else torch.tensor(0.0)
    assert abs(float(neighbours)) < 5 / math.sqrt(1999)


def test_a_step_draws_the_same_whenever_it_comes_and_other_steps_draw_others():
    like = torch.empty(33, 5)
    first, again, other, seed = (
        (one.kept_like(like, 0.5), one.normal_like(like))
        for one in (noise(3, 7), noise(3, 7), noise(3, 8), noise(3, 7, seed=1))
    )
    for kind in range(2):
        assert torch.equal(first[kind], again[kind])
        assert not torch.equal(first[kind], other[kind]) and not torch.equal(first[kind], seed[kind])


def test_two_masks_of_one_step_differ_and_torchs_own_generator_is_left_alone():
    state = torch.get_rng_state()
    one = noise(0, 0)
    assert not torch.equal(one.kept_like(torch.empty(100), 0.5), one.kept_like(torch.empty(100), 0.5))
    assert torch.equal(torch.get_rng_state(), state)


def test_sixteen_bits_decide_or_eight_if_that_is_asked_for():
    words = np.random.Generator(np.random.SFC64(noise(0, 0).generator.initial_seed())).integers(
        2**64 - 1, size=3, dtype=np.uint64, endpoint=True
    )
    for n_bits, threshold in ((16, 0.3 * 2**16), (8, 77)):
        kept = noise(0, 0).kept_like(torch.empty(2, 5), 0.3, **({} if n_bits == 16 else {"n_bits": 8}))
        expected = words.view(f"u{n_bits // 8}")[:10] < round(threshold)
        assert kept.flatten().tolist() == expected.tolist()


@pytest.mark.parametrize("seed", [-1, 1.5, "one", None])
def test_what_is_no_seed_is_named(seed):
    with pytest.raises(ValueError, match=re.escape(f"seed={seed!r} must be a whole number")):
        generator_of(seed, "weights")
