from itertools import permutations

import numpy as np
import pytest
from scipy import sparse

from scarches_widgets.nn.enrichment import enrichment


def drawn(n: int, density: float, seed: int, symmetric: bool) -> sparse.csr_matrix:
    """A random graph without loops."""
    joined = np.random.default_rng(seed).random((n, n)) < density
    np.fill_diagonal(joined, False)
    return sparse.csr_matrix((joined | joined.T if symmetric else joined).astype(float))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1], [0, 1, 0, 1, 1, 1, 3]])
def test_mean_and_variance_are_those_of_all_permutations(symmetric, labels):
    graph, codes = drawn(7, 0.4, 1, symmetric), np.array(labels)
    found = enrichment(graph, codes, 4)
    one_hot = np.eye(4)[np.array(list(permutations(codes)))]  # (permutations, cells, labels)
    every = np.einsum("pia,ij,pjb->pab", one_hot, graph.toarray(), one_hot, optimize=True)
    np.testing.assert_array_equal(found.counts, every[0])
    np.testing.assert_allclose(found.mean, every.mean(0), atol=1e-9)
    np.testing.assert_allclose(found.variance, every.var(0), atol=1e-9)


def test_labels_are_permuted_within_libraries_and_edges_between_them_do_not_count():
    graph, codes = drawn(8, 0.5, 2, True), np.array([0, 0, 1, 2, 0, 1, 1, 2])
    libraries = np.repeat([5, 9], 4)
    parts = [enrichment(graph[rows][:, rows], codes[rows], 3) for rows in (slice(0, 4), slice(4, 8))]
    whole = enrichment(graph, codes, 3, libraries)
    for name in ("counts", "mean", "variance"):
        np.testing.assert_allclose(getattr(whole, name), sum(getattr(part, name) for part in parts))


def test_the_diagonal_and_the_weights_of_edges_do_not_count():
    graph, codes = drawn(9, 0.4, 3, True), np.arange(9) % 3
    weighted = (graph.multiply(7) + sparse.identity(9)).tocsr()
    np.testing.assert_array_equal(enrichment(weighted, codes, 3).zscore, enrichment(graph, codes, 3).zscore)


def test_a_count_that_no_permutation_changes_has_z_0():
    graph = drawn(6, 0.5, 4, True)
    assert enrichment(graph, np.zeros(6, dtype=int), 1).zscore == 0  # one label
    assert (enrichment(graph, np.zeros(6, dtype=int), 3).zscore == 0).all()  # two that no cell has
    empty = enrichment(sparse.csr_matrix((6, 6)), np.arange(6) % 2, 2)
    assert (empty.zscore == 0).all() and (empty.counts == 0).all()
    assert np.isfinite(enrichment(drawn(3, 0.9, 5, True), np.array([0, 1, 1]), 2).zscore).all()


def test_neighbours_alike_in_blocks_are_enriched():
    n = 400
    chain = sparse.diags([np.ones(n - 1)] * 2, [1, -1]).tocsr()
    z = enrichment(chain, np.repeat([0, 1], n // 2), 2).zscore
    assert z[0, 0] > 10 and z[1, 1] > 10 and z[0, 1] < -10
