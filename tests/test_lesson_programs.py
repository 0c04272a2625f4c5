"""The lesson on gene programs, executed top to bottom: what it says about its cells must come true."""

from typing import ClassVar

from lessons import NOTEBOOKS, Lesson


class TestPrograms(Lesson):
    path = NOTEBOOKS / "03_programs.ipynb"
    asked: ClassVar = dict(
        status="[run.status, explorer.status]",
        first='[explorer.table["term"].iloc[0], best]',
        factors='found["bayes_factor"].to_dict()',
        shifts='found["mean_shift"].to_dict()',
        correlations="correlations.tolist()",
        highest="by_type.idxmax().to_dict()",
    )

    def test_the_program_that_differs_comes_first_and_random_genes_hardly_shift(self, said):
        assert said["status"] == ["done", "ready"] and said["first"] == ["Interferon response"] * 2
        assert max(said["factors"].values()) < 2.3
        decoys = [abs(shift) for term, shift in said["shifts"].items() if term.startswith("Decoy")]
        assert len(decoys) == 6 and max(decoys) < said["shifts"]["Interferon response"] / 3

    def test_scores_follow_what_cells_truly_do(self, said):
        assert min(said["correlations"]) > 0.7

    def test_logarithms_are_refused_as_counts_and_known_types_run_known_programs(self, lesson):
        notebook, said = lesson
        texts = [output["text"] for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
        assert any("The model's likelihood is one of raw counts" in text for text in texts)
        highest = said["highest"]
        assert highest["B cells"] == "CD19+ B" and highest["Cytotoxicity"] == "CD56+ NK"
        assert highest["Monocytes"] in ("Dendritic", "CD14+ Monocyte")
