"""Batches, labels and covariates are known by name, whatever type or order their column has."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scarches_widgets.data.names import DataError
from scarches_widgets.data.schema import DataSchema, as_text, levels_of
from scarches_widgets.training.options import typed


def cells(**obs) -> ad.AnnData:
    n = len(next(iter(obs.values())))
    obs = pd.DataFrame(obs, index=[f"cell{i}" for i in range(n)])
    return ad.AnnData(np.ones((n, 3), np.float32), obs=obs, var=pd.DataFrame(index=["CD3D", "NKG7", "LYZ"]))


def batch_codes(schema, *batches) -> list[int]:
    return schema.codes(cells(batch=list(batches)))["batch"].tolist()


# ----------------------------------------------------------------------------------------------- by name, not by order


def test_batches_are_coded_by_name_and_not_by_the_order_of_the_categories():
    schema = DataSchema.of(cells(batch=pd.Categorical(["b", "a", "c"], categories=["c", "b", "a"])), batch_key="batch")
    assert schema.batches == ("a", "b", "c")
    other = cells(batch=pd.Categorical(["c", "a"], categories=["a", "c", "b"]))
    assert schema.codes(other)["batch"].tolist() == [2, 0]


def test_categories_that_no_cell_has_are_not_batches():
    column = pd.Categorical(["a", "b"], categories=["a", "b", "lung", "liver"])
    assert DataSchema.of(cells(batch=column), batch_key="batch").batches == ("a", "b")


def test_without_a_batch_key_all_cells_are_of_one_batch():
    schema = DataSchema.of(cells(sample=["a", "b"]))
    assert schema.n_levels == {"batch": 1}
    assert schema.codes(cells(sample=["x", "y"]))["batch"].tolist() == [0, 0]


def test_the_name_of_one_covariate_is_not_taken_for_its_letters():
    adata = cells(sex=["m", "f"], age=[20.0, 80.0])
    schema = DataSchema.of(adata, categorical_covariate_keys="sex", continuous_covariate_keys="age")
    assert schema == DataSchema.of(adata, categorical_covariate_keys=["sex"], continuous_covariate_keys=["age"])
    assert schema.categorical_covariates == (("sex", ("f", "m")),) and schema.continuous_covariates == ("age",)


def test_covariates_have_levels_of_their_own():
    adata = cells(batch=["a", "b", "a"], sex=["m", "f", "f"])
    schema = DataSchema.of(adata, batch_key="batch", categorical_covariate_keys=["sex"])
    assert schema.n_levels == {"batch": 2, "covariate sex": 2}
    assert {variable: codes.tolist() for variable, codes in schema.codes(adata).items()} == {
        "batch": [0, 1, 0],
        "covariate sex": [1, 0, 0],
    }


# -------------------------------------------------------------------------------------------------- types of a column


@pytest.mark.parametrize(
    "column",
    [
        [1, 2],
        [1.0, 2.0],
        ["1", "2"],
        np.array([1, 2], np.int8),
        np.array([1, 2], np.float16),
        pd.Categorical([1, 2]),
        pd.Categorical([1.0, 2.0]),
        pd.array([1, 2], dtype="Int64"),
        pd.array(["1", "2"], dtype="string"),
        np.array([1, "2"], object),
    ],
    ids=lambda column: str(getattr(column, "dtype", type(column[0]).__name__)),
)
def test_one_is_the_same_batch_as_integer_as_decimal_and_as_text(column):
    schema = DataSchema(genes=("CD3D",), batch_key="batch", batches=("1", "2"))
    adata = cells(batch=column)
    assert levels_of(adata.obs["batch"]) == ("1", "2")
    assert schema.codes(adata)["batch"].tolist() == [0, 1]
    assert schema.new_levels(adata) == {}


@pytest.mark.parametrize(
    ("column", "levels"),
    [
        ([True, False, True], ("False", "True")),
        (pd.array([True, False, True], dtype="boolean"), ("False", "True")),
        (pd.cut([1, 5, 9], [0, 4, 10]), ("(0, 4]", "(4, 10]")),
        (pd.to_datetime(["2020-01-31", "2021-01-31", "2021-01-31"]), ("2020-01-31 00:00:00", "2021-01-31 00:00:00")),
        ([0.5, 1.0, 1.0], ("0.5", "1")),
    ],
    ids=["bool", "nullable bool", "interval", "date", "decimal"],
)
def test_values_of_any_type_are_levels_under_their_written_name(column, levels):
    adata = cells(batch=column)
    schema = DataSchema.of(adata, batch_key="batch")
    assert schema.batches == levels
    assert np.array_equal(np.array(levels)[schema.codes(adata)["batch"]], as_text(adata.obs["batch"]))


@pytest.mark.parametrize(
    "column",
    [
        np.array(["T", np.nan, "B"], object),
        np.array(["T", None, "B"], object),
        pd.Categorical(["T", None, "B"]),
        pd.array(["T", None, "B"], dtype="string"),
    ],
    ids=["nan", "None", "categorical", "nullable text"],
)
def test_a_gap_is_no_level_its_cell_is_unlabelled_and_cannot_be_coded_as_a_batch(column):
    adata = cells(cell_type=column)
    schema = DataSchema.of(adata, labels_key="cell_type")
    assert schema.labels == ("B", "T")
    assert schema.label_codes(adata).tolist() == [1, -1, 0]
    with pytest.raises(DataError, match="not seen"):
        DataSchema(genes=("CD3D",), batch_key="cell_type", batches=("B", "T")).codes(adata)


def test_the_name_for_unlabelled_cells_is_no_label_and_neither_are_labels_that_the_model_has_not_learnt():
    adata = cells(cell_type=["T", "Unknown", "B"])
    schema = DataSchema.of(adata, labels_key="cell_type", unlabeled_category="Unknown")
    assert schema.labels == ("B", "T")
    assert schema.label_codes(cells(cell_type=["B", "Unknown", "NK"])).tolist() == [0, -1, -1]
    assert schema.label_codes(cells(batch=["a"])) is None


# ----------------------------------------------------------------------------------------------------- unseen levels


def test_an_unseen_batch_is_refused_with_the_known_ones_and_the_nearest():
    schema = DataSchema(genes=("CD3D",), batch_key="batch", batches=("PBMC 1", "PBMC 2", "liver"))
    with pytest.raises(DataError) as raised:
        batch_codes(schema, "PBMC 1", "pbmc 2 ", "pbmc 2 ", "lung")
    assert str(raised.value) == (
        "obs['batch'] has 2 batches that the model has not seen (pbmc 2 , lung; 3 cells). Did you mean 'PBMC 2'? "
        "It knows: PBMC 1, PBMC 2, liver. Map new ones with load_query_data(adata, model), then train "
        "the model it returns."
    )
    with pytest.raises(DataError, match=r"has 1 batch that the model has not seen \(lung; 1 cell\)"):
        batch_codes(schema, "lung")


def test_a_missing_column_is_named_with_the_ones_that_there_are():
    schema = DataSchema(genes=("CD3D",), batch_key="batch", batches=("a",))
    with pytest.raises(DataError, match=r"no column 'batch'.* Did you mean 'Batch'\? There are: Batch, sex\."):
        schema.codes(cells(Batch=["a"], sex=["f"]))


def test_new_levels_are_sorted_and_look_alikes_are_announced(caplog):
    schema = DataSchema(
        genes=("CD3D",),
        batch_key="batch",
        batches=("PBMC", "liver"),
        categorical_covariates=(("sex", ("f", "m")),),
    )
    query = cells(batch=["lung", "pbmc ", "PBMC", "blood"], sex=["f", "f", "m", "m"])
    with caplog.at_level(logging.WARNING):
        assert schema.new_levels(query) == {"batch": ("blood", "lung", "pbmc ")}
    assert [record.message for record in caplog.records] == [
        "obs['batch']: 'pbmc ' becomes a new level; did you mean 'PBMC'?"
    ]


def test_new_levels_go_behind_the_old_ones_of_their_own_variable():
    schema = DataSchema(
        genes=("CD3D",),
        batch_key="batch",
        batches=("a", "b"),
        categorical_covariates=(("sex", ("f",)), ("site", ("x",))),
    )
    extended = schema.extended({"batch": ("B2",), "covariate site": ("u", "v")})
    assert extended.batches == ("a", "b", "B2")
    assert extended.categorical_covariates == (("sex", ("f",)), ("site", ("x", "u", "v")))
    assert schema.batches == ("a", "b")
    assert extended.extended({}) == extended


# ------------------------------------------------------------------------------------------------------------ as JSON


def test_a_schema_survives_json_to_the_letter():
    schema = DataSchema(
        genes=("HLA-A,B", "#gene", 'quo"te', "tab\t", "🧬"),
        layer="counts",
        batch_key="batch",
        batches=("a", "b"),
        labels_key="cell_type",
        labels=("T", "B"),
        unlabeled_category="Unknown",
        size_factor_key="size",
        categorical_covariates=(("sex", ("f", "m")), ("site", ("x",))),
        continuous_covariates=("age",),
    )
    assert typed(DataSchema, json.loads(json.dumps(asdict(schema))), of="a file") == schema


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genes": ["CD3D", "CD3D"]}, "genes: .* none twice"),
        ({"genes": []}, "at least one name"),
        ({"batches": ["a", "a"]}, "batch: .* none twice"),
        ({"categorical_covariates": [["sex", ["f", "f"]]]}, "covariate sex: .* none twice"),
        ({"batches": "a"}, "batches='a'"),
        ({"genes": [1]}, "genes.0=1"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        typed(DataSchema, {"genes": ["CD3D"], **change}, of="a file")
