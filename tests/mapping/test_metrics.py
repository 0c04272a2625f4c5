import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score, silhouette_samples
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from scarches_widgets.data.names import DataError
from scarches_widgets.mapping import metrics


@pytest.fixture
def cells():
    """Three overlapping types in two batches, one of which is shifted."""
    rng = np.random.default_rng(0)
    labels = rng.choice(["B", "NK", "T"], 240)
    batches = rng.choice(["hospital 1", "hospital 2"], 240, p=[0.7, 0.3])
    z = rng.normal(size=(240, 4)) + 2 * (labels == "T")[:, None] - 2 * (labels == "B")[:, None]
    return z + (batches == "hospital 2")[:, None], labels, batches


def test_leave_one_out_accuracy_is_that_of_scikit_learn(cells):
    z, labels, _ = cells
    predicted = cross_val_predict(KNeighborsClassifier(7), z, labels, cv=LeaveOneOut())
    np.testing.assert_array_equal(metrics.knn_predict(z, labels, n_neighbors=7), predicted)
    assert metrics.knn_accuracy(z, labels, n_neighbors=7) == pytest.approx((predicted == labels).mean())


def test_accuracy_of_a_query_is_that_of_scikit_learn(cells):
    z, labels, _ = cells
    expected = KNeighborsClassifier(7).fit(z[:150], labels[:150]).score(z[150:], labels[150:])
    assert metrics.knn_accuracy(z[:150], labels[:150], z[150:], labels[150:], 7) == pytest.approx(expected)


def test_twins_do_not_vote_for_themselves():
    z = np.zeros((6, 2))  # all at one place: a cell need not be among its own first neighbours
    for n_neighbors in (1, 3, 5):
        neighbors = metrics._other_neighbors(z, n_neighbors)
        assert neighbors.shape == (6, n_neighbors)
        assert not (neighbors == np.arange(6)[:, None]).any()


def test_transfer_accuracy_asks_only_other_batches():
    z = np.array([[0.0], [0.1], [10], [10.1]])  # each batch swaps the other's places
    labels, batches = ["B", "T", "T", "B"], ["one", "two", "one", "two"]
    assert metrics.transfer_accuracy(z, labels, batches, 1) == 0
    assert metrics.transfer_accuracy(z, ["B", "B", "T", "T"], batches, 1) == 1


def test_transfer_accuracy_leaves_out_types_that_only_one_batch_has():
    z = np.array([[0.0], [0.1], [5]])
    assert metrics.transfer_accuracy(z, ["B", "B", "only here"], ["one", "two", "two"], 1) == 1


def test_macro_f1_counts_rare_types_fully_and_unknown_as_a_miss():
    truth = ["T"] * 98 + ["rare"] * 2
    assert metrics.macro_f1(truth, ["T"] * 100) == pytest.approx((2 * 0.98 / 1.98) / 2)
    predicted = ["T"] * 90 + ["Unknown"] * 8 + ["rare"] * 2
    assert metrics.macro_f1(truth, predicted) == pytest.approx((2 * 90 / 188 + 1) / 2)


def test_macro_f1_is_that_of_scikit_learn_where_all_types_are_predicted(cells):
    _, labels, _ = cells
    predicted = np.random.default_rng(1).permutation(labels)
    assert metrics.macro_f1(labels, predicted) == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_mixing_is_one_for_shuffled_batches_however_uneven():
    rng = np.random.default_rng(2)
    z, labels = rng.normal(size=(1200, 3)), np.repeat(["B", "T"], 600)
    batches = rng.choice(["one", "two", "three"], 1200, p=[0.9, 0.07, 0.03])
    for n_neighbors in (5, 30):
        assert metrics.batch_mixing_within_types(z, labels, batches, n_neighbors) > 0.95


def test_the_mixing_expected_by_chance_is_the_mean_over_shuffled_batches():
    rng = np.random.default_rng(3)
    z, batches = rng.normal(size=(40, 2)), np.repeat(["one", "two"], [30, 10])
    neighbors = metrics._other_neighbors(z, 6)

    def entropy(batches):
        p = (batches[neighbors] == "one").mean(axis=1)
        return -sum(np.where(q > 0, q * np.log(np.maximum(q, 1e-300)), 0) for q in (p, 1 - p)).mean()

    by_chance = np.mean([entropy(rng.permutation(batches)) for _ in range(4000)])
    batches = np.where(z[:, 0] > np.sort(z[:, 0])[29], "two", "one")  # the same shares, but apart
    score = metrics.batch_mixing_within_types(z, ["T"] * 40, batches, 6)
    assert score == pytest.approx(entropy(batches) / by_chance, rel=0.01)


def test_mixing_is_zero_for_separated_batches_although_types_look_alike():
    rng = np.random.default_rng(4)
    batches = np.repeat(["one", "two"], 100)
    z = rng.normal(size=(200, 3)) + 100 * (batches == "two")[:, None]
    assert metrics.batch_mixing_within_types(z, ["T"] * 200, batches) == 0


def test_mixing_looks_within_types_so_that_a_type_of_one_batch_does_not_count():
    rng = np.random.default_rng(5)
    z, batches = rng.normal(size=(300, 3)), rng.choice(["one", "two"], 300)
    labels = np.where(np.arange(300) < 200, "shared", "private")
    batches[200:] = "one"
    expected = metrics.batch_mixing_within_types(z[:200], labels[:200], batches[:200])
    assert metrics.batch_mixing_within_types(z, labels, batches) == expected
    assert np.isnan(metrics.batch_mixing_within_types(z[200:], labels[200:], batches[200:]))


def test_silhouettes_are_the_scaled_ones_of_scikit_learn(cells):
    z, labels, batches = cells
    expected = (silhouette_samples(z, labels).mean() + 1) / 2
    assert metrics.silhouette_of_labels(z, labels) == pytest.approx(expected)
    of_type = [labels == label for label in ("B", "NK", "T")]
    expected = np.mean([1 - np.abs(silhouette_samples(z[cells], batches[cells])).mean() for cells in of_type])
    assert metrics.silhouette_of_batches(z, labels, batches) == pytest.approx(expected)


def test_a_sampled_silhouette_is_repeatable_and_near_the_full_one(cells):
    z, labels, _ = cells
    sampled = metrics.silhouette_of_labels(z, labels, max_cells=120, seed=1)
    assert sampled == metrics.silhouette_of_labels(z, labels, max_cells=120, seed=1)
    assert sampled != metrics.silhouette_of_labels(z, labels, max_cells=120, seed=2)
    assert sampled == pytest.approx(metrics.silhouette_of_labels(z, labels), abs=0.05)


def test_a_type_split_in_two_places_is_as_connected_as_its_larger_part():
    rng = np.random.default_rng(6)
    z = rng.normal(size=(80, 2))
    z[60:] += 1000
    assert metrics.graph_connectivity(z, ["T"] * 80, 10) == 0.75
    assert metrics.graph_connectivity(z, ["T"] * 60 + ["B"] * 20, 10) == 1


def test_clusters_under_other_names_are_the_same_partition(cells):
    _, labels, _ = cells
    renamed = np.unique(labels, return_inverse=True)[1] + 7
    assert metrics.nmi(labels, renamed) == pytest.approx(1)
    assert metrics.ari(labels, renamed) == pytest.approx(1)


def test_nmi_and_ari_of_a_small_table_are_those_worked_out_by_hand():
    labels, clusters = list("AAABBB"), list("xxyyyy")
    mutual = 2 / 6 * np.log(2) + 1 / 6 * np.log(0.5) + 3 / 6 * np.log(1.5)
    mean_entropy = (np.log(2) - 2 / 6 * np.log(2 / 6) - 4 / 6 * np.log(4 / 6)) / 2
    assert metrics.nmi(labels, clusters) == pytest.approx(mutual / mean_entropy)
    pairs, by_chance, most = 1 + 3, 6 * 7 / 15, (6 + 7) / 2  # pairs together in both; expected; at best
    assert metrics.ari(labels, clusters) == pytest.approx((pairs - by_chance) / (most - by_chance))


def test_k_means_finds_well_separated_types_and_is_repeatable():
    rng = np.random.default_rng(7)
    labels = rng.choice(["B", "NK", "T"], 300)
    z = rng.normal(size=(300, 3)) + 20 * np.unique(labels, return_inverse=True)[1][:, None]
    clusters = metrics.cluster(z, 3, seed=1)
    assert metrics.ari(labels, clusters) == 1
    np.testing.assert_array_equal(clusters, metrics.cluster(z, 3, seed=1))


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(8)
    scores, is_positive = rng.integers(0, 6, 120), rng.random(120) < 0.3
    difference = scores[is_positive][:, None] - scores[~is_positive]
    pairs = (difference > 0).mean() + (difference == 0).mean() / 2
    assert metrics.auroc(scores, is_positive) == pytest.approx(pairs)
    assert metrics.auroc(scores, is_positive) == pytest.approx(roc_auc_score(is_positive, scores))


def test_scores_gathers_what_the_single_functions_say(cells):
    z, labels, batches = cells
    table = metrics.scores(z, labels, batches, n_neighbors=9, max_cells=100, seed=3)
    assert table["knn_accuracy"] == metrics.knn_accuracy(z, labels, n_neighbors=9)
    assert table["ari"] == metrics.ari(labels, metrics.cluster(z, 3, seed=3))
    assert table["silhouette_of_labels"] == metrics.silhouette_of_labels(z, labels, 100, 3)
    assert table["transfer_accuracy"] == metrics.transfer_accuracy(z, labels, batches, 9)
    assert table["batch_mixing_within_types"] == metrics.batch_mixing_within_types(z, labels, batches, 9)
    assert list(metrics.scores(z, labels).index) == list(table.index[:6])
    assert metrics.scores(z, labels, ["one"] * len(z))[-3:].isna().all()


def test_scores_prefer_an_embedding_without_the_batch_effect(cells):
    z, labels, batches = cells
    corrected = z - (batches == "hospital 2")[:, None]
    better = metrics.scores(corrected, labels, batches) - metrics.scores(z, labels, batches)
    assert better[["transfer_accuracy", "batch_mixing_within_types", "silhouette_of_batches"]].min() > 0


def test_unfit_arguments_are_refused_with_their_numbers(cells):
    z, labels, _ = cells
    with pytest.raises(ValueError, match=r"labels must have one name per cell \(240\); got shape \(100,\)"):
        metrics.graph_connectivity(z, labels[:100])
    with pytest.raises(DataError, match="1 of 240 labels are missing"):
        metrics.nmi([None, *labels[1:]], labels)
    with pytest.raises(DataError, match="NaN, infinite or enormous"):
        metrics.knn_accuracy(np.where(np.arange(240)[:, None] == 3, np.nan, z), labels)
    with pytest.raises(DataError, match="two batches or more"):
        metrics.transfer_accuracy(z, labels, ["one"] * 240)
    with pytest.raises(DataError, match="there are 0 and 240"):
        metrics.auroc(z[:, 0], np.zeros(240))
    with pytest.raises(DataError, match="1 of 2 scores are NaN"):
        metrics.auroc([np.nan, 1], [True, False])
    with pytest.raises(TypeError, match="together"):
        metrics.knn_accuracy(z, labels, query_z=z)
    with pytest.raises(ValueError, match="two cells or more"):
        metrics.knn_accuracy(z[:1], labels[:1])
