"""Where receptors are read from, how they become tokens, and what is said of those that are unfit."""

from types import SimpleNamespace

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scarches_widgets.data.names import DataError
from scarches_widgets.data.receptors import (
    AMINO_ACIDS,
    EncodedReceptors,
    check_receptors,
    receptor_columns,
    receptor_table,
    split_clonotypes,
    the_receptor_keys,
    with_receptors,
)

KEYS = ("TRA_cdr3", "TRB_cdr3")


def cells(alpha, beta, columns=KEYS):
    names = [f"cell{i}" for i in range(len(alpha))]
    return AnnData(np.ones((len(alpha), 2)), obs=pd.DataFrame(dict(zip(columns, (alpha, beta))), index=names))


def said(alpha, beta, longest=30):
    adata = cells(alpha, beta)
    return check_receptors(receptor_table(adata, KEYS), adata.obs_names, longest)


def test_each_distinct_sequence_is_tokenised_once_and_cut_to_the_longest_of_the_step():
    alpha, beta = np.array(["CAF", "CAYWF", "CAF"], dtype=object), np.array(["CC", "CC", "CC"], dtype=object)
    receptors = EncodedReceptors((alpha, beta)).of(np.array([2, 0]))
    assert receptors.chains[0].tokens.tolist() == [[AMINO_ACIDS.index(letter) + 1 for letter in "CAF"]]
    assert receptors.chains[0].of_cell.tolist() == receptors.chains[1].of_cell.tolist() == [0, 0]
    one = EncodedReceptors((alpha, beta)).of(np.arange(3))[1:2]
    assert one.chains[0].tokens.tolist() == [[AMINO_ACIDS.index(letter) + 1 for letter in "CAYWF"]]
    assert one.chains[0].of_cell.tolist() == [0]


@pytest.mark.parametrize("columns", [KEYS, ("IR_VJ_1_junction_aa", "IR_VDJ_1_junction_aa")])
def test_columns_of_several_tools_are_found_by_their_names(columns):
    adata = cells(["CAF", None], ["CASF", "None"], columns)
    adata.obs = adata.obs.astype("category")
    table = receptor_table(adata, the_receptor_keys(adata))
    assert [list(chain) for chain in table.sequences] == [["CAF", ""], ["CASF", ""]]
    assert table.has_both.tolist() == [True, False]


class Records(list):
    """As much of an awkward array of records as is read: fields, each with a list per cell."""

    @property
    def fields(self):
        return ["locus", "junction_aa", "productive", "umi_count"]

    def __getitem__(self, name):
        return SimpleNamespace(to_list=lambda: [[contig[name] for contig in cell] for cell in self])


def contig(locus, junction, umis, productive=True):
    return {"locus": locus, "junction_aa": junction, "productive": productive, "umi_count": umis}


def test_of_scirpys_contigs_the_productive_one_with_the_most_umis_is_the_cells():
    contigs = Records(
        [
            [contig("TRA", "CAF", 2), contig("TRA", "CVF", 5), contig("TRB", "CASF", 1), contig("TRB", "CF", 9, False)],
            [],
            [contig("TRB", "CSSF", 3), contig("TRA", None, 9)],
        ]
    )
    adata = SimpleNamespace(obs=pd.DataFrame(index=list("abc")), obsm={"airr": contigs}, n_obs=3)
    assert the_receptor_keys(adata) == ("airr",)
    table = receptor_table(adata, ("airr",))
    assert [list(chain) for chain in table.sequences] == [["CVF", "", ""], ["CASF", "", "CSSF"]]


@pytest.mark.parametrize("spelling", ["airr", "10x"])
def test_a_table_of_contigs_gives_each_cells_receptor(spelling):
    contigs = pd.DataFrame(
        {
            "cell_id": ["b", "b", "a", "elsewhere"],
            "locus": ["TRA", "TRA", "TRB", "TRA"],
            "junction_aa": ["CAF", "CVF", "CASF", "CCC"],
            "v_call": ["TRAV1", "TRAV2", "TRBV1", "TRAV1"],
            "productive": ["T", "T", "T", "T"],
            "umi_count": [1, 3, 2, 9],
        }
    )
    if spelling == "10x":
        names = {"cell_id": "barcode", "locus": "chain", "junction_aa": "cdr3", "v_call": "v_gene", "umi_count": "umis"}
        contigs = contigs.rename(columns=names).replace("T", "True")
    found = receptor_columns(contigs, ["a", "b"])
    assert list(found.index) == ["a", "b"]
    assert found[["TRA_cdr3", "TRA_v", "TRB_cdr3"]].to_numpy().tolist() == [["", "", "CASF"], ["CVF", "TRAV2", ""]]
    with pytest.raises(DataError, match="no column 'cell_id'"):
        receptor_columns(contigs.drop(columns=["barcode" if spelling == "10x" else "cell_id"]), ["a"])


def test_letters_that_are_no_amino_acids_are_named_with_their_cells():
    (finding,) = said(["CAF", "CA*F", "CAXF", "caf"], ["CF"] * 4)
    assert "('*', 'X', 'a', 'c', 'f') in 3 cells (cell1, cell2, cell3)" in str(finding)
    assert (finding.level, finding.code) == ("error", "not-amino-acids")


def test_empty_chains_are_counted_and_the_way_to_keep_the_others_is_told():
    (finding,) = said(["CAF", "", "CAF"], ["CF", "CF", "CF"])
    assert (finding.level, finding.code) == ("error", "empty-chains")
    assert "obs['TRA_cdr3'] is empty in 1 of 3 cells (cell1)" in str(finding)
    assert "Keep the 2 cells with both: adata[mvTCR.has_receptor(adata)].copy()" in str(finding)
    (finding,) = said(["CAF", "CAF"], ["", ""])
    assert str(finding).startswith("No cell has a sequence of the beta chain in obs['TRB_cdr3'].")
    assert (finding.level, finding.code) == ("error", "no-receptors")


def test_sequences_that_are_too_long_are_named_with_their_cells():
    (finding,) = said(["CAF", "C" * 31], ["CF", "CF"])
    assert (finding.level, finding.code) == ("error", "long-receptors")
    assert "1 sequence longer than 30 residues (the longest has 31; cell1)" in str(finding)
    assert "max_tcr_length=31" in str(finding)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("TRA_cdr", "TRB_cdr3"), "no column 'TRA_cdr'.*Did you mean 'TRA_cdr3'"),
        (("irr",), "obsm has no 'irr'"),
        (("a", "b", "c"), "name two columns"),
    ],
)
def test_receptors_that_are_not_there_are_asked_for_by_name(keys, message):
    with pytest.raises(DataError, match=message):
        receptor_table(cells(["CAF"], ["CF"]), keys)


def test_data_without_receptors_say_what_was_looked_for():
    with pytest.raises(DataError, match=r"TRA_cdr3 and TRB_cdr3.*obs has: alpha"):
        the_receptor_keys(AnnData(np.ones((1, 1)), obs=pd.DataFrame({"alpha": ["CAF"]}, index=["a"])))


def test_no_clonotype_is_on_both_sides_of_a_split():
    rng = np.random.default_rng(0)
    clonotypes = rng.geometric(0.05, 500)
    train, test = split_clonotypes(clonotypes, 0.2, seed=3)
    assert not set(clonotypes[train]) & set(clonotypes[test])
    assert sorted([*train, *test]) == list(range(500))
    assert 80 <= len(test) <= 100
    np.testing.assert_array_equal(test, split_clonotypes(clonotypes, 0.2, seed=3)[1])


def test_a_mudata_is_read_if_it_is_paired():
    rna, airr = cells(["CAF", "CVF"], ["CF", "CSF"], ("x", "y")), cells(["CAF", "CVF"], ["CF", "CSF"])[::-1].copy()
    del rna.obs
    adata = with_receptors(mudata.MuData({"gex": rna, "airr": airr}))
    assert [list(chain) for chain in receptor_table(adata, KEYS).sequences] == [["CAF", "CVF"], ["CF", "CSF"]]
    with pytest.raises(DataError, match="not paired: of 2 cells with RNA, 1 have no 'airr'"):
        with_receptors(mudata.MuData({"gex": rna, "airr": airr[:1].copy()}))
