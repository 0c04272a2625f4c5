"""The lesson on CITE-seq, executed top to bottom: what it says about its cells must come true."""

from typing import ClassVar

from lessons import NOTEBOOKS, Lesson


class TestCITEseq(Lesson):
    path = NOTEBOOKS / "04_cite_seq.ipynb"
    asked: ClassVar = dict(
        status="[panel.status, mapping.status]",
        right="{rule: [float(of.mean()), float(of.min())] for rule, of in right.items()}",
        recall="{rule: found.tolist() for rule, found in recall.iterrows()}",
        cells="[int(called['totalVI'][hardest].sum()), len(view.selection)]",
        correlations="correlations.mean().to_dict()",
        within='float(correlations["totalVI, within a type"].abs().max())',
        seen='[sorted(query.obsm), "protein_foreground" in reference.obsm]',
    )

    def test_the_model_calls_more_cells_rightly_than_rules_of_thumb_and_no_protein_badly(self, said):
        assert said["status"] == ["done", "done"]
        mean, worst = said["right"].pop("totalVI")
        assert mean > 0.95 and worst > 0.8
        for of_rule, worst_of_rule in said["right"].values():
            assert mean > of_rule + 0.03 and worst_of_rule < 0.75

    def test_it_finds_carriers_where_they_are_usual_and_misses_them_elsewhere(self, said):
        usual, others = said["recall"]["totalVI"]
        assert usual > 0.9 and others < 0.2
        assert said["recall"]["two bells"][1] > others + 0.3
        called, selected = said["cells"]
        assert called == selected > 0

    def test_imputation_is_as_good_as_a_regression_and_knows_nothing_within_a_type(self, said):
        found = said["correlations"]
        assert found["totalVI"] > 0.5 and abs(found["totalVI"] - found["ridge"]) < 0.05
        assert said["within"] < 0.25
        assert said["seen"] == [["X_totalvi", "X_truth"], False], "the truth was hidden from the model"
