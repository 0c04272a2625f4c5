import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax

from scarches_widgets.nn.places import (
    Atoms,
    jensen_shannon_distance,
    jensen_shannon_of_pairs,
    normalized_entropy,
)


@pytest.fixture(params=[2, 3], ids=["2-D", "3-D"])
def tissue(request):
    """Places and regions of 60 cells, and log-probabilities of 9 query cells."""
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 100, (60, request.param))
    regions = np.stack([rng.integers(0, n, 60) for n in (3, 5)], axis=1)
    log_p = [log_softmax(3 * rng.normal(size=(9, n)), axis=1) for n in (3, 5)]
    return places, regions, log_p


def naive_posterior(regions, log_p, sharpness):
    log_w = np.zeros((len(log_p[0]), len(regions)))
    for of_partition, region in zip(log_p, regions.T):
        log_w += sharpness * (of_partition[:, region] - np.log(np.bincount(region)[region]))
    return softmax(log_w, axis=1)


@pytest.mark.parametrize("sharpness", [1.0, 0.5])
def test_sums_over_atoms_are_sums_over_cells(tissue, sharpness):
    places, regions, log_p = tissue
    atoms = Atoms.of(regions, places)
    w = naive_posterior(regions, log_p, sharpness)
    posterior = atoms.posterior(log_p, sharpness)
    np.testing.assert_allclose(posterior.sum(1), 1)
    np.testing.assert_allclose((posterior / atoms.n_cells)[:, atoms.of_cell], w, atol=1e-12)
    place, spread = atoms.mean_place(posterior)
    np.testing.assert_allclose(place, w @ places)
    squares = ((places[None] - place[:, None]) ** 2).sum(-1)
    np.testing.assert_allclose(spread, np.sqrt((w * squares).sum(1)))


def test_coordinates_far_from_zero_lose_no_precision(tissue):
    places, regions, log_p = tissue
    near, far = Atoms.of(regions, places), Atoms.of(regions, places + 1e7)
    spreads = [atoms.mean_place(atoms.posterior(log_p))[1] for atoms in (near, far)]
    np.testing.assert_allclose(spreads[1], spreads[0], rtol=1e-4)


def test_between_two_modes_far_apart_the_heavier_one_is_taken_and_the_uncertainty_says_so():
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.normal((0, 0), 2, (50, 2)), rng.normal((100, 0), 2, (50, 2))])
    atoms = Atoms.of(np.arange(100)[:, None], places)
    posterior = np.zeros((3, 100))
    posterior[0, :50], posterior[0, 50:] = 0.6, 0.4  # two modes
    posterior[1, :50], posterior[1, 50:] = 0.9, 0.1  # one and a few
    posterior[2, :50] = 1.0
    posterior /= posterior.sum(1, keepdims=True)
    place, spread, is_bimodal = atoms.place(posterior)
    assert is_bimodal.tolist() == [True, False, False]
    assert abs(place[0, 0]) < 2 and abs(place[1, 0] - 10) < 2 and abs(place[2, 0]) < 2
    assert spread[0] > 50 and spread[2] < 5


@pytest.mark.parametrize("shape", ["line", "disc", "normal"])
def test_one_wide_mode_is_not_taken_for_two(shape):
    rng = np.random.default_rng(0)
    places = rng.normal(size=(2000, 2))
    if shape == "disc":
        places = places[np.linalg.norm(places, axis=1) < 1]
    elif shape == "line":
        places = np.stack([np.linspace(0, 1, 2000), np.zeros(2000)], axis=1)
    atoms = Atoms.of(np.arange(len(places))[:, None], places)
    place, _, is_bimodal = atoms.place(np.full((1, len(places)), 1 / len(places)))
    assert not is_bimodal.any()
    np.testing.assert_allclose(place[0], places.mean(0))


def test_a_cell_that_is_certain_of_its_regions_has_their_centre_by_every_read_out(tissue):
    places, regions, _ = tissue
    atoms = Atoms.of(regions, places)
    certain = [np.log(np.full((1, n), 1e-9)) for n in (3, 5)]
    for of_partition, region in zip(certain, regions[0]):
        of_partition[0, region] = 0.0
    same = (regions == regions[0]).all(1)
    np.testing.assert_allclose(atoms.place(atoms.posterior(certain))[0][0], places[same].mean(0), rtol=1e-3)
    centers = [places[regions[:, m] == regions[0, m]].mean(0) for m in range(2)]
    np.testing.assert_allclose(atoms.centroid_place(certain)[0], np.mean(centers, axis=0), rtol=1e-3)


def test_entropy_is_0_of_a_certain_row_and_1_of_an_even_one():
    np.testing.assert_allclose(normalized_entropy(np.array([[1, 0, 0], [1 / 3] * 3])), [0, 1], atol=1e-12)
    assert normalized_entropy(np.ones((2, 1))).tolist() == [0, 0]


def test_distances_are_scipys_and_a_metric():
    rng = np.random.default_rng(0)
    p = softmax(3 * rng.normal(size=(12, 6)), axis=1)
    p[0], p[1] = np.eye(6)[0], np.eye(6)[1]
    distances = jensen_shannon_distance(p, p)
    expected = [[jensenshannon(one, other, base=2) for other in p] for one in p]
    np.testing.assert_allclose(distances, np.nan_to_num(expected), atol=1e-7)
    assert distances[0, 1] == pytest.approx(1) and (distances.max(), distances.min()) <= (1 + 1e-12, 0)
    assert (distances[:, None] <= distances[:, :, None] + distances[None] + 1e-12).all()
    np.testing.assert_allclose(jensen_shannon_of_pairs(p[:, None], p[None]), distances, atol=1e-7)
