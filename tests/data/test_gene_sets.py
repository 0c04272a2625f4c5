"""Gene sets: read, matched by name, written as scArches writes them, and faults explained."""

import anndata as ad
import numpy as np
import pytest

import scarches_widgets as sca
from scarches_widgets.data.gene_sets import labels_of, read_gene_sets
from scarches_widgets.data.names import DataError

GENES = ["CD3D", "CD3E", "MS4A1", "LYZ", "Nkg7"]
GMT = "REACTOME_T_CELLS\thttp://cd3d example\tCD3D\tCD3E\tCD8A\nREACTOME_NK\t\tNKG7\tGNLY\n\nREACTOME_B\tna\tMS4A1\r\n"


@pytest.fixture
def cells():
    adata = ad.AnnData(np.ones((3, 5), dtype=np.float32))
    adata.var_names = GENES
    return adata


@pytest.fixture
def gmt(tmp_path):
    (tmp_path / "sets.gmt").write_text(GMT)
    return tmp_path / "sets.gmt"


def test_a_gmt_file_holds_names_and_genes_and_the_description_is_no_gene(gmt):
    assert read_gene_sets(gmt) == {
        "REACTOME_T_CELLS": ("CD3D", "CD3E", "CD8A"),
        "REACTOME_NK": ("NKG7", "GNLY"),
        "REACTOME_B": ("MS4A1",),
    }


def test_lines_without_tabs_are_a_name_and_genes(tmp_path):
    (tmp_path / "sets.txt").write_text("NK NKG7 GNLY\n")
    assert read_gene_sets(str(tmp_path / "sets.txt")) == {"NK": ("NKG7", "GNLY")}


def test_annotations_are_a_dense_mask_and_labels_and_nothing_else_changes(cells, gmt):
    report = sca.utils.add_annotations(cells, str(gmt))
    assert cells.uns == {"terms": ["T_CELLS", "NK", "B"]}
    assert isinstance(cells.varm["I"], np.ndarray) and cells.varm["I"].dtype == np.int32
    np.testing.assert_array_equal(cells.varm["I"].T, [[1, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 1, 0, 0]])
    assert list(cells.varm) == ["I"] and list(cells.var) == []
    assert report.terms == cells.uns["terms"]
    assert report.sets.loc["REACTOME_T_CELLS"].tolist() == ["T_CELLS", 3, 2, pytest.approx(2 / 3)]
    assert "they cover 4 of 5 genes. Written: varm['I'], uns['terms']" in str(report)
    cells._inplace_subset_var(cells.varm["I"].sum(1) > 0)  # as tutorials go on
    assert list(cells.var_names) == ["CD3D", "CD3E", "MS4A1", "Nkg7"]


def test_case_counts_if_it_is_to_count(cells, gmt):
    report = sca.utils.add_annotations(cells, gmt, genes_use_upper=False)
    assert report.terms == ["T_CELLS", "B"] and np.isnan(report.sets["term"]["REACTOME_NK"])


def test_limits_are_exclusive_as_published(cells, gmt):
    assert sca.utils.add_annotations(cells, gmt, min_genes=1).terms == ["T_CELLS"]
    assert sca.utils.add_annotations(cells, gmt, max_genes=2, clean=False).terms == ["REACTOME_NK", "REACTOME_B"]


def test_labels_that_become_the_same_get_numbers():
    names = [f"REACTOME_{'A' * 30}{end}" for end in "XYZ"] + ["KEGG_B", "B", "B (2)", "_"]
    labels = labels_of(names)
    assert labels == ["A" * 30, "A" * 30 + " (2)", "A" * 30 + " (3)", "B", "B (3)", "B (2)", "_"]


def test_several_files_are_put_together_and_contradictions_refused(gmt, tmp_path):
    (tmp_path / "more.gmt").write_text("REACTOME_B\tna\tMS4A1\nOTHER\tna\tLYZ\n")
    assert list(read_gene_sets([gmt, tmp_path / "more.gmt"])) == [
        "REACTOME_T_CELLS",
        "REACTOME_NK",
        "REACTOME_B",
        "OTHER",
    ]
    (tmp_path / "more.gmt").write_text("REACTOME_B\tna\tCD19\n")
    with pytest.raises(DataError, match="called 'REACTOME_B' and differ"):
        read_gene_sets([gmt, tmp_path / "more.gmt"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no gene set"),
        (b"NAME\tdescription\n", r"Line 1 .*\(NAME\) names no gene"),
        (b"\x89PNG\xff", "UTF-8"),
    ],
)
def test_a_file_that_is_no_gmt_file_is_refused(tmp_path, content, says):
    (tmp_path / "file.gmt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_gene_sets(tmp_path / "file.gmt")


def test_a_named_collection_is_looked_for_in_the_cache_and_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("SCARCHES_WIDGETS_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"get the file from .*gsea-msigdb.*put it there as '.*genesets.reactome\.gmt'"
    ):
        read_gene_sets("reactome")
    (tmp_path / "genesets").mkdir()
    (tmp_path / "genesets" / "reactome_v7.gmt").write_text(GMT)
    assert len(read_gene_sets("Reactome")) == 3
    with pytest.raises(FileNotFoundError, match=r"no file 'nothing\.gmt'.*or one of reactome"):
        read_gene_sets("nothing.gmt")


def test_when_nothing_matches_the_message_says_why(cells, gmt):
    cells.var["symbol"] = cells.var_names.to_numpy()
    cells.var_names = [f"symbol{i}" for i in range(5)]
    with pytest.raises(DataError, match=r"None of 3 gene sets .*adata\.var_names = adata\.var\['symbol'\]"):
        sca.utils.add_annotations(cells, gmt)
    del cells.var["symbol"]
    with pytest.raises(DataError, match=r"genes such as CD3D, .*adata such as symbol0"):
        sca.utils.add_annotations(cells, gmt)
    cells.var_names = [f"ENSG0000000000{i}" for i in range(5)]
    with pytest.raises(DataError, match="sets name genes by symbols, adata by Ensembl identifiers"):
        sca.utils.add_annotations(cells, gmt)
    cells.var_names = ["Cd3d", "Cd3e", "Ms4a1", "Lyz2", "Nkg7"]
    with pytest.raises(DataError, match="pass genes_use_upper=True"):
        sca.utils.add_annotations(cells, gmt, genes_use_upper=False)
    assert not cells.varm and not cells.uns


@pytest.mark.realdata
def test_reactome_gives_the_mask_that_scarches_wrote(real_data):
    import pickle

    class Builtins(pickle.Unpickler):
        def find_class(self, module, name):
            raise pickle.UnpicklingError(f"{module}.{name} is no builtin")

    folder = real_data / "checkpoints" / "expimap_0.6.1_kang"
    with (folder / "attr.pkl").open("rb") as file:
        theirs = np.array(Builtins(file).load()["mask_"])  # (terms, genes)
    genes, terms = ((folder / name).read_text().split() for name in ("var_names.csv", "terms.txt"))
    cells = ad.AnnData(np.ones((2, len(genes)), dtype=np.float32))
    cells.var_names = genes
    file = real_data / "genesets" / "reactome_msigdb_v7.5.1.symbols.gmt"
    sca.utils.add_annotations(cells, file, min_genes=theirs.sum(1).min() - 1)
    np.testing.assert_array_equal(cells.varm["I"].T, theirs)
    assert [term.split(" (")[0] for term in cells.uns["terms"]] == terms  # ours tell those cut to the same apart
