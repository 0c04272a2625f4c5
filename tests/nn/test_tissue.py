import numpy as np
import pytest

from scarches_widgets.nn.tissue import morans_i, neighbour_graph, partition, spatial_components


@pytest.fixture
def places():
    return np.random.default_rng(0).uniform(0, 10, (200, 2))


def test_cells_of_a_square_grid_have_their_four_neighbours():
    places = np.array([(x, y) for x in range(5) for y in range(5)], dtype=float)
    graph = neighbour_graph(places, 4)
    middle = graph[12].indices
    assert sorted(middle) == [7, 11, 13, 17]
    assert (graph != graph.T).nnz == 0 and graph.diagonal().sum() == 0 and set(graph.data) == {1.0}


def test_cells_of_two_sections_are_no_neighbours_and_cells_at_one_place_are(places):
    sections = np.arange(200) % 2
    rows, columns = neighbour_graph(places, 6, sections).nonzero()
    assert (sections[rows] == sections[columns]).all()
    twice = np.repeat(places[:5], 2, axis=0)
    assert all(neighbour_graph(twice, 1)[2 * i, 2 * i + 1] == 1 for i in range(5))


def test_a_single_cell_has_no_neighbours(places):
    assert neighbour_graph(places[:1]).nnz == 0


def test_morans_i_is_that_of_its_formula(places):
    graph, rng = neighbour_graph(places), np.random.default_rng(1)
    values = np.stack([places[:, 0], rng.normal(size=200), np.full(200, 3.0)], axis=1)
    found = morans_i(values, graph)
    w = graph.toarray()
    for column in (0, 1):
        centered = values[:, column] - values[:, column].mean()
        expected = 200 / w.sum() * (w * np.outer(centered, centered)).sum() / (centered**2).sum()
        assert abs(found[column] - expected) < 1e-10
    assert found[0] > 0.8 and abs(found[1]) < 0.15 and found[2] == 0


def test_the_first_component_is_the_pattern_of_the_tissue_and_not_the_largest_variance(places):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(200, 30))
    z[:, 0] *= 3  # noise of one gene
    z[:, 10:15] += np.sin(places[:, :1])  # a pattern of five
    components = spatial_components(z, neighbour_graph(places), 4)
    assert components.shape == (30, 4) and components.dtype == np.float32
    np.testing.assert_allclose(components.T @ components, np.eye(4), atol=1e-5)
    assert abs(np.corrcoef(z @ components[:, 0], np.sin(places[:, 0]))[0, 1]) > 0.8


@pytest.mark.parametrize(("method", "resolution"), [("kmeans", 9), ("grid", 9), ("leiden", 1.0)])
@pytest.mark.parametrize("n_dims", [2, 3])
def test_a_partition_numbers_compact_regions_without_gaps_and_repeats_itself(method, resolution, n_dims):
    places = np.random.default_rng(0).uniform(0, 10, (400, n_dims))
    regions = partition(places, method, resolution, seed=1)
    assert regions.dtype == np.int64 and set(regions) == set(range(regions.max() + 1))
    np.testing.assert_array_equal(partition(places, method, resolution, seed=1), regions)
    within = np.mean([places[regions == region].std(0).mean() for region in range(regions.max() + 1)])
    assert within < 0.8 * places.std(0).mean()
    if method != "leiden":
        assert 4 <= regions.max() + 1 <= 18


def test_a_grid_of_flat_tissue_is_cut_along_its_length_only():
    places = np.stack([np.linspace(0, 100, 50), np.zeros(50)], axis=1)
    assert partition(places, "grid", 5).tolist() == np.repeat(range(5), 10).tolist()
