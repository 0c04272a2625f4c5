"""The lesson on scaling out, executed top to bottom: what it says about processes and files must come true."""

from typing import ClassVar

from lessons import NOTEBOOKS, Lesson


class TestScalingOut(Lesson):
    path = NOTEBOOKS / "10_scaling_out.ipynb"
    asked: ClassVar = dict(
        correlation="float(correlation)",
        losses="losses.to_numpy().tolist()",
        watched="[monitor.status, list(monitor.histories), len(monitor._drawn())]",
        before_the_cut="len(written)",
        was_there="mapped.report['was_there'].tolist()",
        cells="[mapped.n_cells, len(truth), some.n_obs]",
        the_same="[bool(np.array_equal(mapped.latent(), at_once)), digests() == before]",
        shell="[done.returncode, done.stdout]",
        right="[float(right.mean()), float(right[most_doubt].mean())]",
    )

    def test_two_processes_train_what_one_does(self, said):
        assert said["watched"] == ["done", ["two processes", "one process"], 4] and len(said["losses"]) == 60
        first_of_one, first_of_two = said["losses"][0]
        assert abs(first_of_one - first_of_two) < 1e-5 * first_of_one
        assert all(abs(one - two) < 0.01 * one for one, two in said["losses"])
        assert said["correlation"] > 0.98

    def test_nothing_is_computed_twice_and_all_is_what_it_would_be_at_once(self, said):
        n_there = said["was_there"].count(True)
        assert n_there == said["before_the_cut"] == 4 and said["was_there"] == sorted(said["was_there"], reverse=True)
        mapped, wanted, adapted_to = said["cells"]
        assert mapped == wanted > 7 * adapted_to
        assert said["the_same"] == [True, True]
        status, text = said["shell"]
        assert status == 0 and f"in {len(said['was_there'])} chunks, {len(said['was_there'])} of them earlier" in text

    def test_names_are_true_and_less_often_where_neighbours_disagree(self, said):
        of_all, of_most_doubt = said["right"]
        assert of_all > 0.8 and of_most_doubt < of_all - 0.1
