import numpy as np
import pytest
from sklearn.covariance import graphical_lasso

from scarches_widgets.nn import gene_network as module
from scarches_widgets.nn.gene_network import gene_network


def chain(n_cells=600, n_genes=12, seed=0):
    """Each gene depends on the one before it, in two chains of six; so only neighbours in a chain are joined."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_cells, n_genes))
    for gene in range(n_genes):
        if gene % 6:
            z[:, gene] += 0.9 * z[:, gene - 1]
    return z


def pairs(network):
    return {tuple(sorted(pair)) for pair in network.edges.T.tolist()}


def test_neighbours_in_a_chain_are_joined_and_the_two_chains_are_not():
    network = gene_network(chain())
    found = pairs(network)
    assert {(i, i + 1) for i in range(11) if i != 5} <= found
    assert not {(i, j) for i, j in found if i < 6 <= j}
    assert network.report["is_chosen"].sum() == 1 and network.alpha in set(network.report["alpha"])
    assert f"{len(found)} edges" in str(network)


def test_each_edge_stands_in_both_directions_sorted_by_where_it_arrives():
    origin, to = gene_network(chain(), alpha=0.2).edges
    assert {*zip(origin, to)} == {*zip(to, origin)} and (origin != to).all() and (np.diff(to) >= 0).all()


def test_parts_solved_alone_give_the_lasso_of_all_genes():
    z = chain()
    correlation = np.corrcoef(z.T)
    joined = graphical_lasso(correlation, 0.25, max_iter=500, tol=1e-3)[1] != 0
    np.fill_diagonal(joined, False)
    assert pairs(gene_network(z, alpha=0.25)) == {tuple(sorted(pair)) for pair in np.argwhere(joined).tolist()}


def test_a_constant_gene_has_no_edges():
    z = chain()
    z[:, 3] = 7.0
    network = gene_network(z)
    assert 3 not in network.edges and np.isfinite(network.report["ebic"]).all()


def test_a_larger_penalty_leaves_fewer_edges():
    numbers = [gene_network(chain(), alpha).edges.shape[1] for alpha in (0.02, 0.3, 0.9)]
    assert numbers[0] > numbers[1] > numbers[2] == 0


def test_of_many_genes_the_strongest_partial_correlations_are_taken(monkeypatch):
    monkeypatch.setattr(module, "MOST_GENES", 11)
    monkeypatch.setattr(module, "EDGES_PER_GENE", 2)
    network = gene_network(chain())
    assert network.alpha is None and {(i, i + 1) for i in range(11) if i != 5} <= pairs(network)
    assert "partial correlations" in str(network)


def test_a_penalty_at_which_the_solver_fails_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(module, "_precision", lambda *_: None)
    with pytest.raises(ValueError, match=r"no gene network at alpha=0\.3.*Raise gene_network_alpha"):
        gene_network(chain(), alpha=0.3)
