"""A query's genes are found by name wherever they stand, what is lost is said, and advice works when it is followed."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarches_widgets.data.genes import align_genes
from scarches_widgets.data.names import DataError

SYMBOLS = [f"GENE{i}" for i in range(40)]
ENSEMBL = [f"ENSG{i:011d}" for i in range(40)]


def var(names, **columns):
    return pd.DataFrame(columns, index=[str(name) for name in names])


def advised(text: str, option: str = "gene_map") -> str:
    """The value that a message advises for an option."""
    (value,) = re.findall(rf"set {option}='?([^\s'.]+(?:\.\d+)?)'?", text)
    return value


# ----------------------------------------------------------------------------------------------------- found by name


def test_the_reference_s_own_genes_need_no_rearrangement():
    columns, report = align_genes(SYMBOLS, var(SYMBOLS))
    assert columns is None
    assert (report.overlap, report.missing, report.extra, report.reordered, report.hint) == (1.0, (), (), False, None)
    assert str(report) == "40 of the reference's 40 genes found (100.0%)."


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_genes_in_any_order_are_led_back_to_their_places(data):
    present = data.draw(st.lists(st.sampled_from(range(len(SYMBOLS))), min_size=1, unique=True))
    n_extra = data.draw(st.integers(0, 5))
    names = data.draw(st.permutations([SYMBOLS[i] for i in present] + [f"OTHER{i}" for i in range(n_extra)]))
    columns, report = align_genes(SYMBOLS, var(names))
    columns = np.arange(len(SYMBOLS)) if columns is None else columns
    assert [SYMBOLS[column] if column >= 0 else None for column in columns] == [
        name if name in SYMBOLS else None for name in names
    ]
    assert report.n_shared == len(present) and len(report.extra) == n_extra
    assert list(report.missing) == [gene for i, gene in enumerate(SYMBOLS) if i not in present]
    shared = [name for name in names if name in SYMBOLS]
    assert report.reordered == (shared != sorted(shared, key=SYMBOLS.index))


def test_a_report_counts_and_names_missing_extra_and_moved_genes():
    _, report = align_genes(SYMBOLS, var([*SYMBOLS[39:4:-1], "MT-CO1", "XIST"]))
    assert str(report) == (
        "35 of the reference's 40 genes found (87.5%); 5 missing, filled with zeros (GENE0, GENE1, GENE2, …); "
        "2 extra, not used (MT-CO1, XIST); put into the reference's order."
    )


# ------------------------------------------------------------------------------- other names for the same genes


@pytest.mark.parametrize(
    ("reference", "query", "rule", "because"),
    [
        (ENSEMBL, var(f"{name}.{i % 9 + 1}" for i, name in enumerate(ENSEMBL)), "strip_version", "version suffixes"),
        ([f"{name}.2" for name in ENSEMBL], var(ENSEMBL), "strip_version", "version suffixes"),
        (SYMBOLS, var(map(str.capitalize, SYMBOLS)), "ignore_case", "upper and lower case"),
        (SYMBOLS, var(ENSEMBL, feature_name=SYMBOLS), "feature_name", "the column 'feature_name' of var"),
        (ENSEMBL, var(SYMBOLS, gene_ids=ENSEMBL, n_cells=range(40)), "gene_ids", "the column 'gene_ids' of var"),
        (ENSEMBL, var(SYMBOLS, gene_ids=pd.Categorical(ENSEMBL)), "gene_ids", "the column 'gene_ids' of var"),
    ],
    ids=["versions in the query", "versions in the reference", "mouse spelling", "symbols", "Ensembl", "categorical"],
)
def test_names_that_differ_by_a_rule_are_recognised_and_the_advice_works(reference, query, rule, because):
    with pytest.raises(DataError, match=f"None of the reference's 40 genes.*100% match .*{because}") as raised:
        align_genes(reference, query)
    assert advised(str(raised.value)) == rule
    columns, report = align_genes(reference, query, gene_map=rule)
    assert columns is None and report.overlap == 1


def test_symbols_against_ensembl_identifiers_are_told_apart_and_a_dict_translates():
    with pytest.raises(DataError, match="reference names genes by symbols, the query by Ensembl identifiers") as raised:
        align_genes(SYMBOLS, var(ENSEMBL))
    assert "gene_map={query name: reference name}" in str(raised.value)
    columns, report = align_genes(SYMBOLS, var(ENSEMBL[::-1]), gene_map=dict(zip(ENSEMBL, SYMBOLS)))
    assert columns.tolist() == list(range(39, -1, -1)) and report.overlap == 1


def test_genes_that_a_dict_does_not_name_keep_their_names():
    columns, _ = align_genes(["CD3D", "NKG7"], var(["NKG7", "T3D", "LYZ"]), gene_map={"T3D": "CD3D"})
    assert columns.tolist() == [1, 0, -1]


def test_advice_that_would_find_few_more_genes_is_not_given():
    _, report = align_genes(SYMBOLS, var([SYMBOLS[0].lower(), *SYMBOLS[1:]]))
    assert report.hint is None


def test_a_gene_of_exactly_the_same_name_goes_before_one_that_differs_by_case():
    reference = ["Atp6", "ATP6", "ND1"]
    columns, report = align_genes(reference, var(["ATP6", "nd1", "Atp6"]), gene_map="ignore_case")
    assert columns.tolist() == [1, 2, 0]
    # `atp6` could be either of two genes, so it is neither
    columns, report = align_genes(reference, var(["atp6", "nd1"]), gene_map="ignore_case")
    assert columns.tolist() == [-1, 2] and report.missing == ("Atp6", "ATP6")


def test_a_gene_map_that_does_not_exist_is_answered_with_the_nearest_and_all_others():
    with pytest.raises(
        DataError, match=r"Did you mean 'gene_ids'\? There are: strip_version, ignore_case, gene_ids, chr"
    ):
        align_genes(ENSEMBL, var(SYMBOLS, gene_ids=ENSEMBL, chr="1"), gene_map="gene_id")


# ---------------------------------------------------------------------------- two genes of the query for one gene


TWICE = ["CD3D", "NKG7", "CD3D"]


@pytest.mark.parametrize(
    ("query", "gene_map", "mend"),
    [
        (var(TWICE), None, lambda query: (query.set_axis(["CD3D", "NKG7", "CD3D-1"]), None)),
        (var(["CD3D", "NKG7", "Cd3d"]), "ignore_case", lambda query: (query.iloc[:2], "ignore_case")),
        (var("abc", symbol=TWICE), "symbol", lambda query: (query[~query["symbol"].duplicated()], "symbol")),
        (var("abc"), dict(zip("abc", TWICE)), lambda query: (query, {"a": "CD3D", "b": "NKG7"})),
    ],
    ids=["by name", "by a rule", "by a column", "by a dict"],
)
def test_two_genes_that_answer_to_one_are_refused_with_a_mend_that_works(query, gene_map, mend):
    with pytest.raises(DataError, match=r"1 gene of the reference is claimed by several.*CD3D: .*, .*cannot be told"):
        align_genes(["CD3D", "NKG7"], query, gene_map)
    columns, report = align_genes(["CD3D", "NKG7"], *mend(query))
    assert report.overlap == 1 and (columns is None or columns.tolist() == [0, 1, -1])


# --------------------------------------------------------------------------------------------- too few genes in common


def test_too_few_shared_genes_are_refused_and_the_advised_overlap_is_accepted():
    query = var([*SYMBOLS[:13], "XIST"])
    with pytest.raises(DataError, match="27 of the reference's 40 genes are missing from the query") as raised:
        align_genes(SYMBOLS, query, min_gene_overlap=0.5)
    assert "(GENE13, GENE14, GENE15, …)" in str(raised.value)
    assert "32.5% are shared and 50% are asked for" in str(raised.value)
    _, report = align_genes(SYMBOLS, query, min_gene_overlap=float(advised(str(raised.value), "min_gene_overlap")))
    assert report.n_shared == 13


def test_no_shared_gene_at_all_is_refused_however_few_are_asked_for():
    with pytest.raises(DataError, match=r"None of the reference's 40 genes is in the query \(GENE0, GENE1, GENE2, …\)"):
        align_genes(SYMBOLS, var(["XIST"]), min_gene_overlap=0.0)


def test_names_of_any_characters_are_found():
    names = ["HLA-A,B", "#gene", 'quo"te', "tab\t", "new\nline", "", "🧬", "\u05d0", "x" * 10_000, "nan"]
    columns, report = align_genes(names, var(names[::-1]))
    assert columns.tolist() == list(range(9, -1, -1)) and report.overlap == 1


def test_a_percentage_in_place_of_a_share_is_refused():
    with pytest.raises(ValueError, match="min_gene_overlap=70 is no share: pass a number from 0 to 1"):
        align_genes(SYMBOLS, var(SYMBOLS), min_gene_overlap=70)


def test_a_gene_map_of_another_type_is_refused_with_what_it_can_be():
    table = var(ENSEMBL, symbol=SYMBOLS)
    with pytest.raises(
        TypeError, match=r"gene_map is a Series\. Pass a dict .*, the name of a column .*, or one of strip"
    ):
        align_genes(SYMBOLS, table, gene_map=table["symbol"])
