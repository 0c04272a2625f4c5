"""A classifier whose classes can grow, and novelty against its formulas in numpy and scipy."""

import numpy as np
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import rankdata

from scarches_widgets.nn.classifier import Classifier, LabelNovelty
from scarches_widgets.nn.layers import initialize
from scarches_widgets.nn.noise import generator_of


def clusters(seed=0, n=300):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    spread = np.array([[1, 0.2], [0.3, 2], [1, 1]])[labels]
    z = np.array([[0, 0], [6, 0], [0, 9]])[labels] + spread * rng.normal(size=(n, 2))
    return z.astype(np.float32), labels, rng.random(n) * 0.1


def test_a_classifier_that_grows_keeps_the_logits_of_its_labels():
    for n_layers in (0, 2):
        classifier = Classifier(4, "label", 3, 8, n_layers)
        initialize(classifier, generator_of(0, "weights"))
        z = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
        before = classifier(z)
        assert before.shape == (10, 3)
        classifier.rows.grow(2), classifier.biases.grow(2)
        torch.testing.assert_close(classifier(z)[:, :3], before)
        torch.testing.assert_close(classifier(z)[:, 3:], before.mean(1, keepdim=True).repeat(1, 2))


def test_distances_are_those_of_mahalanobis_with_shrunken_covariances():
    z, labels, uncertainty = clusters()
    novelty = LabelNovelty("label", 3, 2)
    novelty.fit(z, labels, uncertainty)
    residuals = z - np.stack([z[labels == y].mean(0) for y in range(3)])[labels]
    common = residuals.T @ residuals / (len(z) - 3)
    for y in range(3):
        own = residuals[labels == y]
        covariance = (own.T @ own + 3 * common) / (len(own) + 3)
        expected = [mahalanobis(cell, z[labels == y].mean(0), np.linalg.inv(covariance)) for cell in z]
        np.testing.assert_allclose(novelty.distances(z)[:, y], expected, rtol=1e-3)


def test_novelty_is_fisher_s_combination_as_a_share_of_the_reference():
    z, labels, uncertainty = clusters()
    novelty = LabelNovelty("label", 3, 2)
    novelty.fit(z, labels, uncertainty)
    ranks = [(rankdata(values) - 1) / len(z) for values in (novelty.distances(z).min(1), uncertainty)]
    combined = -sum(np.log1p(-rank) for rank in ranks)
    np.testing.assert_allclose(novelty.novelty(z, uncertainty), (rankdata(combined) - 1) / len(z), atol=0.02)


def test_cells_far_from_all_labels_are_new_and_the_farther_the_newer():
    z, labels, uncertainty = clusters()
    novelty = LabelNovelty("label", 3, 2)
    novelty.fit(z, labels, uncertainty)
    away = np.array([[-20, -20], [-200, -200], [-2000, -2000]], dtype=np.float32)
    scores = novelty.novelty(away, np.full(3, 0.05))
    assert (scores > 0.99).all() and (scores < 1).all() and (np.diff(scores) >= 0).all()
    sure, unsure = (novelty.novelty(z[:1], np.array([value])) for value in (0.01, 0.09))
    assert sure < unsure


def test_a_new_label_is_located_without_moving_the_others_or_the_scale():
    z, labels, uncertainty = clusters()
    novelty = LabelNovelty("label", 3, 2)
    novelty.fit(z, labels, uncertainty)
    before = {name: value.clone() for name, value in novelty.state_dict().items()}
    novelty.grow(1)
    cells = np.random.default_rng(1).normal([30, 30], 1, (50, 2)).astype(np.float32)
    assert (novelty.novelty(cells, np.zeros(50)) > 0.9).all()
    novelty.locate(cells, np.full(50, 3), [3])
    assert (novelty.novelty(cells, np.zeros(50)) < 0.9).mean() > 0.5
    for name, value in before.items():
        assert torch.equal(getattr(novelty, name)[: len(value)], value), name


def test_a_label_without_cells_is_infinitely_far():
    z, labels, uncertainty = clusters()
    novelty = LabelNovelty("label", 4, 2)
    novelty.fit(z, labels, uncertainty)
    assert np.isinf(novelty.distances(z)[:, 3]).all() and np.isfinite(novelty.novelty(z, uncertainty)).all()


def test_a_single_cell_or_cells_in_one_place_can_be_fitted():
    for z in (np.zeros((1, 2)), np.zeros((5, 2))):
        novelty = LabelNovelty("label", 1, 2)
        novelty.fit(z, np.zeros(len(z), dtype=int), np.zeros(len(z)))
        assert np.isfinite(novelty.novelty(z, np.zeros(len(z)))).all()
