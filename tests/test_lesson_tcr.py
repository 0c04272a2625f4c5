"""The lesson on receptors, executed top to bottom: what it says about its cells must come true."""

from typing import ClassVar

from lessons import NOTEBOOKS, Lesson


class TestTCR(Lesson):
    path = NOTEBOOKS / "06_tcr.ipynb"
    asked: ClassVar = dict(
        status="run.status",
        hidden="sorted({'pair', 'response'} & set(untested.obs))",
        apart="len(set(tested.obs['clonotype']) & set(untested.obs['clonotype']))",
        shares="shares.to_numpy().tolist()",
        right="right.T.to_dict()",
        certain="[int(sure.sum()), float(is_right[sure].mean()), float(is_right[~sure].mean())]",
        careless="{name: float(share) for name, share in careless.items()}",
        linked="[view.session is session for view in (by_rna, by_receptor, by_both)]",
    )

    def test_cells_of_large_clones_are_drawn_less_often(self, said):
        of_small, *_, of_large = said["shares"]
        assert of_small[1] > 1.2 * of_small[0] and of_large[1] < 0.8 * of_large[0]

    def test_both_tell_the_epitope_genes_the_response_and_receptors_the_pair(self, said):
        assert said["status"] == "done" and said["hidden"] == [] and said["apart"] == 0
        assert said["linked"] == [True] * 3
        rna, tcr, both = (said["right"][name] for name in ("rna", "tcr", "joint"))
        assert both["epitope"] > max(rna["epitope"], tcr["epitope"]) + 0.05
        assert rna["response"] > tcr["response"] + 0.15
        assert tcr["pair"] > max(rna["pair"] + 0.15, both["pair"] - 0.05)

    def test_where_neighbours_agree_they_are_right_more_often(self, said):
        n, of_sure, of_others = said["certain"]
        assert 30 < n < 230 and of_sure > of_others + 0.1

    def test_a_random_split_promises_too_much(self, said):
        assert said["careless"]["tcr"] > said["right"]["tcr"]["epitope"] + 0.1
