"""The lesson that compares integrations, executed top to bottom: what it says about its cells must come true."""

from typing import ClassVar

from lessons import NOTEBOOKS, Lesson


class TestIntegration(Lesson):
    path = NOTEBOOKS / "02_integration.ipynb"
    asked: ClassVar = dict(
        status="[run.status, mapping.status]",
        table="table.T.to_dict()",
        named="float((adapted.predict() == truth.to_numpy()).mean())",
        distances="[float(within), float(between)]",
        samples="sorted(samples.obs_names)",
        colors="[view.color for view in views]",
    )

    def test_both_models_keep_types_and_mix_laboratories_where_components_do_not(self, said):
        assert said["status"] == ["done", "done"]
        of_components = said["table"]["PCA"]
        for model in ("trVAE", "scPoli"):
            for score, least in (("types across laboratories", 0.25), ("mixing", 0.4), ("names for the query", 0.0)):
                assert said["table"][model][score] > of_components[score] + least
        assert said["colors"] == ["cell_type"] * 3

    def test_scpoli_keeps_types_best_and_names_most_of_a_query_whose_names_it_has_not_seen(self, said):
        scores = said["table"]
        assert scores["scPoli"]["types across laboratories"] > scores["trVAE"]["types across laboratories"]
        assert said["named"] > 0.85 and scores["scPoli"]["names for the query"] > 0.85

    def test_samples_of_one_laboratory_lie_near_each_other_though_nobody_said_which_they_are(self, said):
        within, between = said["distances"]
        assert within < 0.85 * between
        assert len(said["samples"]) == 8 and {"Boston, donor 1", "Boston, donor 2"} < set(said["samples"])
