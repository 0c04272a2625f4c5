"""Likelihood of counts whose data lack some of the model's genes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scarches_widgets.data.minibatches import Minibatch
from scarches_widgets.nn.expression import ExpressionDecoder

N_CELLS, N_GENES, KNOWN = 6, 9, [0, 2, 3, 7]


def cells_of(counts: torch.Tensor, **more) -> Minibatch:
    batch = {"batch": torch.arange(N_CELLS) % 2}
    return Minibatch(counts, counts.sum(1, keepdim=True), batch, np.arange(N_CELLS), **more)


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("dispersion_by", [None, "batch"])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "normal", "mse"])
def test_genes_that_the_data_lack_have_no_say_and_no_share(likelihood, dispersion_by, sized):
    torch.manual_seed(0)
    decoders = [
        ExpressionDecoder(3, n, n_hidden=5, likelihood=likelihood, levels={"batch": 2}, dispersion_by=dispersion_by)
        for n in (N_GENES, len(KNOWN))
    ]
    torch.nn.init.normal_(decoders[0].fraction_logits.weight)
    whole = decoders[0].state_dict()
    wanted = decoders[1].state_dict()
    decoders[1].load_state_dict(
        {
            name: whole[name]
            if whole[name].shape == part.shape
            else whole[name][tuple(KNOWN if n == N_GENES else slice(None) for n in whole[name].shape)]
            for name, part in wanted.items()
        }
    )
    counts = torch.poisson(torch.full((N_CELLS, N_GENES), 2.0))
    counts[:, [i for i in range(N_GENES) if i not in KNOWN]] = 0
    sizes = {"size_factor": torch.rand(N_CELLS, 1) + 1} if sized else {}
    z = torch.randn(N_CELLS, 3, requires_grad=True)
    found = decoders[0].log_likelihood(z, cells_of(counts, genes=torch.tensor(KNOWN), **sizes))
    expected = decoders[1].log_likelihood(z, cells_of(counts[:, KNOWN], **sizes))
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(value.sum(), z)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes)
