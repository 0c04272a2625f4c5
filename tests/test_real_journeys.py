"""The journey of the command line on measured data: blood of six donors, and lung cancer lines on several plates."""

import pandas as pd
import pytest

from scarches_widgets.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


def mapped(reference, query_batches, out) -> pd.DataFrame:
    arguments = ["map", "--reference", reference, "--batch-key", "batch", "--labels-key", "cell_type", "--out", out]
    assert main([*map(str, arguments), "--query-batches", *query_batches, "--json"]) == 0
    return pd.read_csv(out / "scores.csv", index_col="method")


def test_a_sixth_donor_is_labelled_from_five_others_and_mixes_with_them(real_data, tmp_path):
    scores = mapped(real_data / "pbmc_kang_donors.h5ad", ["donor1015"], tmp_path / "kang")
    ours, baseline = scores.loc["surgery + kNN"], scores.loc["PCA + kNN"]
    assert ours["accuracy"] >= 0.88
    assert ours["mixing_within_types"] >= baseline["mixing_within_types"] + 0.1
    assert ours["asw_types"] >= baseline["asw_types"]


def test_cell_lines_that_the_reference_lacks_are_clearly_more_uncertain(real_data, tmp_path):
    plates = ["sc_celseq2_5cl_p1", "sc_celseq2_5cl_p2", "sc_celseq2_5cl_p3"]
    scores = mapped(real_data / "celllines_5batches.h5ad", plates, tmp_path / "lines")
    assert scores.loc["surgery + kNN", "auroc_unknown_types"] >= 0.9
    assert scores.loc["surgery + kNN", "accuracy"] >= 0.95
