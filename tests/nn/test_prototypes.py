"""Prototypes against sums written down anew, and clusters that are known."""

import random

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_t

from scarches_widgets.nn.classifier import uncertainty_of
from scarches_widgets.nn.clusters import clusters_of
from scarches_widgets.nn.prototypes import Prototypes

Z = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(-1, 3, 50)  # no cell has the fourth label


@pytest.fixture
def prototypes():
    found = Prototypes(4, 3)
    found.locate(torch.from_numpy(Z), torch.from_numpy(LABELS))
    return found


def test_a_prototype_is_the_mean_of_its_label_s_cells_and_a_label_without_cells_has_none(prototypes):
    means = np.stack([Z[label == LABELS].mean(0) for label in range(3)])
    np.testing.assert_allclose(prototypes.means[:3].numpy(), means, atol=1e-6)
    assert prototypes.there.tolist() == [True, True, True, False]
    distances = prototypes.distances(torch.from_numpy(Z)).numpy()
    np.testing.assert_allclose(distances[:, :3], cdist(Z, means), rtol=1e-5)
    assert np.isinf(distances[:, 3]).all()


def test_the_pull_is_the_sum_over_labels_of_the_mean_distance_of_their_cells(prototypes):
    labels = np.where(np.arange(50) % 7 == 0, 3, LABELS)
    expected = sum(
        np.linalg.norm(Z[labels == label] - prototypes.means[label].numpy(), axis=1).mean() for label in range(3)
    )
    assert float(prototypes.pull(torch.from_numpy(Z), torch.from_numpy(labels))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("cells", ["none labelled", "on its prototype", "no labels at all"])
def test_the_pull_has_finite_gradients_everywhere(prototypes, cells):
    z = prototypes.means[[0, 1]].clone().requires_grad_()
    labels = torch.tensor([0, 1] if cells == "on its prototype" else [-1, -1])
    pull = (Prototypes(0, 3) if cells == "no labels at all" else prototypes).pull(z, labels)
    pull.backward()
    assert float(pull.detach()) == 0 and torch.isfinite(z.grad).all()


def test_probabilities_are_those_of_equally_wide_student_distributions(prototypes):
    prototypes.measure(torch.from_numpy(Z), torch.from_numpy(LABELS))
    known, means = LABELS >= 0, prototypes.means.numpy()
    variance = ((Z[known] - means[LABELS[known]]) ** 2).mean()
    weights = np.stack([multivariate_t(mean, variance * np.eye(3), df=4).pdf(Z) for mean in means[:3]], axis=1)
    probabilities = prototypes(torch.from_numpy(Z)).softmax(-1).numpy()
    np.testing.assert_allclose(probabilities[:, :3], weights / weights.sum(1, keepdims=True), rtol=1e-4)
    assert (probabilities[:, 3] == 0).all()


def test_fixed_prototypes_stay_and_new_ones_are_learned(prototypes):
    before = prototypes.means.clone()
    prototypes.fix()
    prototypes.append(1)
    prototypes.locate(torch.from_numpy(Z + 5), torch.from_numpy(np.where(LABELS == 0, 4, LABELS)))
    assert torch.equal(prototypes.means[:4], before)
    np.testing.assert_allclose(prototypes.means[4].numpy(), Z[LABELS == 0].mean(0) + 5, atol=1e-5)


def test_shares_of_nearer_reference_cells_are_uniform_over_them_and_rise_beyond(prototypes):
    z = torch.from_numpy(Z[LABELS >= 0])
    prototypes.measure(torch.from_numpy(Z), torch.from_numpy(LABELS))
    nearest = prototypes.distances(z).amin(1).numpy()
    shares = prototypes.share_nearer(nearest)
    assert shares.mean() == pytest.approx(0.5, abs=0.02) and (np.argsort(shares) == np.argsort(nearest)).all()
    beyond = prototypes.share_nearer(nearest.max() * np.array([1.0, 2.0, 10.0]))
    assert (np.diff(beyond) > 0).all() and beyond[-1] < 1


# ------------------------------------------------------------------------------------------------------------- clusters

CENTRES = np.random.default_rng(2).normal(size=(3, 5)) * 20
TRUTH = np.random.default_rng(3).choice(3, 300, p=[0.6, 0.3, 0.1])
POINTS = (CENTRES[TRUTH] + np.random.default_rng(4).normal(size=(300, 5))).astype(np.float32)


@pytest.mark.parametrize(
    "options", [{"resolution": 0.1}, {"method": "kmeans", "n_clusters": 3}], ids=["leiden", "kmeans"]
)
def test_clusters_that_lie_apart_are_found_largest_first(options):
    found = clusters_of(POINTS, most=10, **options)
    np.testing.assert_array_equal(found, TRUTH)


def test_clusters_are_the_same_each_time_and_leave_the_process_s_random_state_alone():
    random.seed(5)
    state = random.getstate()
    first = clusters_of(POINTS, most=256, seed=1)
    assert random.getstate() == state
    random.seed(6)
    np.testing.assert_array_equal(clusters_of(POINTS, most=256, seed=1), first)


def test_more_clusters_than_there_is_room_for_join_the_nearest():
    found = clusters_of(POINTS, resolution=0.1, most=2)
    assert set(found) == {0, 1}
    nearest = cdist(POINTS[TRUTH == 2], CENTRES[:2]).argmin(1)
    np.testing.assert_array_equal(found[TRUTH == 2], nearest)


def test_few_cells_are_clustered_too():
    for n_cells in (1, 2, 5):
        assert len(clusters_of(POINTS[:n_cells], most=256)) == n_cells
        assert len(clusters_of(POINTS[:n_cells], method="kmeans", n_clusters=9, most=256)) == n_cells


def test_a_cell_far_from_all_labels_is_less_sure_than_one_between_two(prototypes):
    means = torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]])
    prototypes.means[:3], prototypes.variance = means, torch.tensor(1.0)
    near, far, farther = (prototypes(torch.tensor([[-x, 0, 0]])).softmax(-1).max().item() for x in (0.5, 20.0, 200.0))
    assert near > 0.99 and near > far > farther


def test_an_uncertainty_keeps_its_digits():
    p = np.array([[1e-12, 1, 2e-20], [0.25, 0.5, 0.25]], dtype=np.float32)
    np.testing.assert_allclose(uncertainty_of(p), [1e-12, 0.5], rtol=1e-6)
    assert p[0, 1] == 1
