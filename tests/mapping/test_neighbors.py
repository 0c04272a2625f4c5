"""faiss finds nearly all of the nearest cells, says how many, and the same ones each time."""

import sys

import faiss
import numpy as np
import pytest

from scarches_widgets.mapping.chunks import map_query
from scarches_widgets.mapping.neighbors import WANTED_RECALL, ExactSearch, FaissSearch, tuned


def types(n_cells, n_dimensions=8, n_types=12, seed=0):
    """Latents of cells of some types, float32."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).normal(scale=3, size=(n_types, n_dimensions))
    return (centres[rng.integers(0, n_types, n_cells)] + rng.normal(size=(n_cells, n_dimensions))).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    return types(8000)


@pytest.fixture(scope="module")
def exact(reference):
    return ExactSearch(reference)


def test_recall_is_that_of_other_cells_too_and_distances_are_exact(reference, exact):
    fast, query = FaissSearch(reference), types(700, seed=1)
    recall = tuned(fast, exact, query[:200], 30)
    assert recall.n_lists == round(4 * 8000**0.5) and WANTED_RECALL <= recall.recall <= 1 and recall.n_measured == 200
    assert recall.n_probed < recall.n_lists / 2
    true_distances, true_rows = exact.nearest(query[200:], 30, 1)
    distances, rows = fast.nearest(query[200:], 30, 1)
    assert np.mean([len(np.intersect1d(*pair)) / 30 for pair in zip(rows, true_rows)]) > 0.995
    whole = (rows == true_rows).all(axis=1)
    assert whole.mean() > 0.9
    np.testing.assert_allclose(distances[whole], true_distances[whole], rtol=1e-12)


def test_more_lists_are_looked_through_where_few_find_too_little():
    """In 30 dimensions without any structure."""
    cells = np.random.default_rng(0).normal(size=(3000, 30)).astype(np.float32)
    fast, exact = FaissSearch(cells), ExactSearch(cells)
    assert fast.n_probed == 16 < fast.n_lists
    few = fast.nearest(cells[:200], 50, 1)[0] <= exact.nearest(cells[:200], 50, 1)[0][:, -1:] + 1e-9
    assert few.mean() < 0.9
    recall = tuned(fast, exact, cells[:200] + 0.1, 50)
    assert recall.recall >= WANTED_RECALL and recall.n_probed == fast.n_probed > 64


def test_a_small_reference_is_searched_whole_and_says_so():
    cells = types(15)
    fast, exact = FaissSearch(cells), ExactSearch(cells)
    recall = tuned(fast, exact, cells, 15)
    assert recall.n_probed == recall.n_lists and recall.recall == 1
    assert "all lists, so that search='exact' is quicker" in str(recall)
    np.testing.assert_array_equal(fast.nearest(cells, 15, 1)[1], exact.nearest(cells, 15, 1)[1])


def test_cells_whose_lists_hold_too_few_get_all_their_neighbours(reference, exact):
    fast = FaissSearch(reference[:400], n_probed=1)
    distances, rows = fast.nearest(reference[:50], 300, 1)
    assert (np.sort(rows)[:, 1:] > np.sort(rows)[:, :-1]).all() and rows.min() >= 0
    np.testing.assert_allclose(distances, ExactSearch(reference[:400]).nearest(reference[:50], 300, 1)[0], rtol=1e-12)


def test_equal_distances_are_in_the_order_of_the_reference(reference):
    cells = np.repeat(reference[:300], 4, axis=0)
    distances, rows = FaissSearch(cells, n_probed=100).nearest(reference[:300], 4, 1)
    assert (distances == 0).all()
    np.testing.assert_array_equal(rows, np.arange(1200).reshape(300, 4))


def test_the_same_lists_and_neighbours_whatever_the_threads_and_from_bytes(reference):
    query = types(300, seed=2)
    fast = FaissSearch(reference)
    faiss.omp_set_num_threads(2)
    try:
        written = FaissSearch(reference).serialised()
        assert written == fast.serialised() and faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(1)
    again = FaissSearch(reference, written, fast.n_probed)
    for one, other in zip(fast.nearest(query, 30, 1), again.nearest(query, 30, 2)):
        np.testing.assert_array_equal(one, other)


def test_without_faiss_the_error_tells_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'scarches-widgets\[faiss\]'.*search='exact'"):
        map_query("cells.h5ad", "model", tmp_path / "out", search="faiss")
    with pytest.raises(ValueError, match="search is 'exact' or 'faiss', not 'annoy'"):
        map_query("cells.h5ad", "model", tmp_path / "out", search="annoy")
    assert not (tmp_path / "out").exists()
