import math

import numpy as np
import pytest
import torch

from scarches_widgets.nn.graph_layers import CONVOLUTIONS, GeneEdges, TiltedMean

N_GENES, N_OUT = 12, 5


def network(seed=0):
    """Edges of a random graph in which gene 0 has no neighbour, and its neighbour lists."""
    rng = np.random.default_rng(seed)
    joined = np.triu(rng.random((N_GENES, N_GENES)) < 0.3, 1)
    joined[0] = False
    joined = joined | joined.T
    to, origin = np.nonzero(joined)
    edges = GeneEdges(N_GENES, len(to))
    edges.edges.copy_(torch.from_numpy(np.stack([origin, to])))
    return edges, [np.flatnonzero(row) for row in joined]


def layer_of(name):
    edges, neighbors = network()
    layer = CONVOLUTIONS[name](edges, N_OUT)
    layer.initialize(torch.Generator().manual_seed(0))
    return layer, neighbors


def naive(name, layer, neighbors, x):
    """One gene of one cell after the other; the published key's bias, which cancels, is 0.7 here."""
    p = {key: value.detach().double().numpy() for key, value in layer.named_parameters()}
    out = np.zeros((*x.shape, N_OUT))
    for cell in range(len(x)):
        for i, around in enumerate(neighbors):
            if name == "GraphSAGE":
                mean = x[cell, around].mean() if len(around) else 0.0
                out[cell, i] = p["weights"][0] * mean + p["weights"][1] * x[cell, i] + p["bias"]
            elif name == "GCN":
                degree = len(around) + 1
                total = sum(x[cell, j] / math.sqrt(degree * (len(neighbors[j]) + 1)) for j in [*around, i])
                out[cell, i] = p["weight"] * total + p["bias"]
            else:
                query = p["query_weight"] * x[cell, i] + p["query_bias"]
                logits = np.array([query @ (p["key_weight"] * x[cell, j] + 0.7) for j in around]) / math.sqrt(N_OUT)
                weights = np.exp(logits - logits.max(initial=0))
                weights /= max(weights.sum(), 1e-300)
                out[cell, i] = p["skip_weight"] * x[cell, i] + p["skip_bias"]
                for weight, j in zip(weights, around):
                    out[cell, i] += weight * (p["value_weight"] * x[cell, j] + p["value_bias"])
    return out


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_equals_a_loop_over_genes_and_neighbours(name):
    layer, neighbors = layer_of(name)
    x = np.random.default_rng(1).normal(size=(7, N_GENES))
    with torch.no_grad():
        fast = layer.double()(torch.from_numpy(x)).numpy()
    assert np.abs(fast - naive(name, layer, neighbors, x)).max() < 1e-6


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_in_single_precision_is_as_exact_and_its_gradients_are_finite(name):
    layer, neighbors = layer_of(name)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(7, N_GENES)).astype(np.float32))
    out = layer(x)
    assert np.abs(out.detach().numpy() - naive(name, layer, neighbors, x.numpy().astype(float))).max() < 1e-5
    out.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


def test_attention_stays_finite_and_exact_at_enormous_expression():
    layer, neighbors = layer_of("TransformerConv")
    x = torch.full((2, N_GENES), 1e4)
    x[1] *= -1
    assert torch.isfinite(layer(x)).all()
    x = np.random.default_rng(1).normal(size=(4, N_GENES)) * 30
    with torch.no_grad():
        fast = layer.double()(torch.from_numpy(x)).numpy()
    assert np.abs(fast - naive("TransformerConv", layer, neighbors, x)).max() < 1e-6


@pytest.mark.parametrize("scale", [1.0, 30.0])  # below and above the exponents that need a shift
def test_the_gradients_of_a_tilted_mean_are_those_of_differences(scale):
    edges, _ = network()
    rng = np.random.default_rng(2)
    x, sharpness = (torch.from_numpy(rng.normal(size=(N_GENES, 3)) * scale).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda *of: TiltedMean.apply(*of, edges.edges), (x, sharpness / scale**1.5))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_network_without_edges_leaves_each_gene_to_itself(name):
    layer = CONVOLUTIONS[name](GeneEdges(N_GENES, 0), N_OUT)
    layer.initialize(torch.Generator().manual_seed(0))
    x = np.random.default_rng(1).normal(size=(3, N_GENES))
    fast = layer.double()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(fast, naive(name, layer, [np.array([], int)] * N_GENES, x), atol=1e-12)
