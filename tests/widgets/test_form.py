"""Forms out of typed options: nothing is left out, nothing passes that the options refuse."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from scarches_widgets import models
from scarches_widgets.training.plan import EarlyStopping, TrainingPlan
from scarches_widgets.widgets.form import LARGEST, Choice, Field, Form, as_entry, as_python, columns_of, fields_of
from scarches_widgets.widgets.mapping_panel import LabelOptions, MappingOptions
from scarches_widgets.widgets.words import MAPPING, OPTIONS

CONFIGS = [getattr(models, name).config_class for name in models.__all__]
PLANS = dict.fromkeys(getattr(models, name).plan_class for name in models.__all__)
CLASSES = [*CONFIGS, *PLANS, EarlyStopping]
FIELDS = {cls: (list(fields_of(cls, "x")), TypeAdapter(cls)) for cls in CLASSES}

entries = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    entries | st.binary(max_size=3) | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_option_has_a_field_and_words(cls):
    names = [field.name for field in fields_of(cls, "x")]
    schema = TypeAdapter(cls).json_schema()["properties"]
    no_single_values = {"early_stopping_kwargs", "terms", "new_terms", "group_lasso_term_weights"}
    no_single_values |= {"embedding_dims", "further_labels", "unlabeled_categories", "likelihoods", "modality_weights"}
    no_single_values |= {"metadata", "training", "feature_dropout"}
    no_single_values |= {"resolutions", "partition_keys", "partition_names", "references"}
    assert set(schema) - set(names) <= no_single_values, "an option that the form cannot draw"
    assert set(names) <= set(OPTIONS), "give it a label in widgets/words.py"
    assert all(field.label and field.label[0].isupper() for field in fields_of(cls, "x"))


@pytest.mark.parametrize("cls", [*CLASSES, MappingOptions, LabelOptions], ids=lambda cls: cls.__name__)
def test_every_default_is_an_entry_that_its_field_takes(cls):
    words = MAPPING if cls in (MappingOptions, LabelOptions) else OPTIONS
    for field in fields_of(cls, "x", words):
        assert field.problem(field.default) is None, field


@pytest.mark.parametrize("given", ["256,64", " 256 64 ", [256, 64], (256, np.int64(64)), np.array([256, 64])])
def test_widths_of_layers_are_one_line_of_numbers_however_they_are_given(given):
    form = Form(fields_of(models.TRVAE.config_class, "x"))
    entries = form.defaults | form.checked({"hidden_layer_sizes": given})
    assert entries["hidden_layer_sizes"] == form.defaults["hidden_layer_sizes"] == "256, 64"
    assert form.chosen(entries, entries) == {} and form.usable(entries)["hidden_layer_sizes"] == [256, 64]


@pytest.mark.parametrize("wrong", ["", "256, many", "0", "9000", "256; 64", [], [0.5], [True], "1 " * 17, 256, "²"])
def test_what_is_no_widths_of_layers_is_refused_in_words(wrong):
    form = Form(fields_of(models.TRVAE.config_class, "x"))
    with pytest.raises(ValueError, match="hidden_layer_sizes must be whole numbers with commas between them"):
        form.checked({"hidden_layer_sizes": wrong})


@settings(max_examples=200, deadline=None)
@given(value=anything)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_what_a_field_takes_the_options_take(cls, value):
    fields, adapter = FIELDS[cls]
    for field in fields:
        entry = field.entry_of(value)
        if field.problem(entry) is None:
            adapter.validate_python({field.name: field.value_of(entry)})


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_limits_are_those_of_the_options(cls):
    """One step beyond a limit is refused by both, the limit itself by both or neither."""
    adapter = TypeAdapter(cls)
    for field in fields_of(cls, "x"):
        limits = [limit for limit in (field.least, field.above, field.most, field.below) if limit is not None]
        for entry in (near for limit in limits for near in (limit - 1, limit, limit + 1)):
            if abs(entry) >= LARGEST - 1:
                continue  # a browser cannot tell these
            entry = int(entry) if field.kind == "whole" else float(entry)
            try:
                adapter.validate_python({field.name: entry})
                taken = True
            except ValidationError:
                taken = False
            assert (field.problem(entry) is None) == taken, (field.name, entry)


@settings(max_examples=500, deadline=None)
@given(value=anything)
def test_whatever_is_sent_becomes_something_that_a_message_can_carry(value):
    entry = as_entry(value)
    assert entry is None or type(entry) in (bool, int, float, str)
    json.dumps(entry, allow_nan=False, ensure_ascii=False).encode("utf-8")


def test_numbers_no_number_can_pass_for():
    [whole] = [field for field in fields_of(TrainingPlan, "x") if field.name == "batch_size"]
    for entry in (True, "128", 128.5, 10**400, float("nan"), float("inf"), [128], "\ud800", "x" * 10_000):
        assert whole.problem(as_entry(entry)) is not None, entry
    assert whole.problem(as_entry(np.int64(128))) is None


def test_a_problem_says_what_is_taken_and_what_was_given():
    fields = {field.name: field for field in fields_of(TrainingPlan, "x")}
    assert fields["batch_size"].problem(1) == "Minibatch must be a whole number from 2 to 1,000,000, not 1."
    assert fields["train_size"].problem(0) == "Training share must be a number, above 0, at most 1, not 0."
    assert fields["lr"].problem(-1.0) == "Learning rate must be a number, above 0, or empty, not -1.0."
    assert fields["early_stopping"].problem(None) == "Early stopping must be yes or no, not empty."
    assert fields["seed"].problem("x" * 200).endswith("x….")


def test_options_in_python_are_checked_by_name_and_value():
    form = Form([Field("key", "Data", "choice", None, "Key", optional=True, choices=(Choice("batch", "batch"),))])
    assert form.checked({"key": "batch"}) == {"key": "batch"}
    with pytest.raises(TypeError, match=r"no option 'kye'\. Did you mean 'key'"):
        form.checked({"kye": "batch"})
    with pytest.raises(ValueError, match=r"key must be one of the choices, not bacth\. Did you mean 'batch'"):
        form.checked({"key": "bacth"})


def test_columns_say_what_they_hold_and_those_that_fit_come_first():
    obs = pd.DataFrame(
        {
            "n_counts": [1.5, 2.0, 3.0],
            "batch": pd.Categorical(["a", "b", "a"], categories=["a", "b", "unused"]),
            "plate": [1, 1, 1],
            "passed": [True, False, True],
            "lists": [[1], [2], [3]],
        }
    )
    labels = [(choice.value, choice.label, choice.group) for choice in columns_of(obs)]
    assert labels == [
        (None, "none", ""),
        ("batch", "batch, 2 levels", ""),
        ("plate", "plate, numeric, 1 level", ""),
        ("passed", "passed, 2 levels", ""),
        ("n_counts", "n_counts, numeric", "Other columns"),
        ("lists", "lists, no categories", "Other columns"),
    ]
    numbers = [choice.value for choice in columns_of(obs, numeric=True) if not choice.group]
    assert numbers == [None, "n_counts", "plate"]


def test_columns_with_hostile_names_are_listed_or_left_out_but_never_break_the_form():
    names = ["<img src=x>", "a\nb", "b", "b", 7, "\ud800", ""]
    obs = pd.DataFrame([[*"abcdefg"]] * 2, columns=names)
    choices = columns_of(obs)
    assert [choice.value for choice in choices] == [None, "<img src=x>", "a\nb", "", "b"]
    assert choices[-1].label == "b, several columns of this name"
    assert "\n" not in choices[2].label


@given(st.text(max_size=20) | st.integers() | st.booleans() | st.none())
def test_values_in_code_are_read_back_as_they_were(value):
    assert eval(as_python(value)) == value
    assert eval(as_python({"key": value})) == {"key": value}
