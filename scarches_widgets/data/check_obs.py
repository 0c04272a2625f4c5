"""Checks of cells and genes: their numbers and names, and the columns of obs that a model reads."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .findings import Finding, counted, error, note, some, warning
from .names import did_you_mean, listed, shown

if TYPE_CHECKING:
    from .validate import Request

MANY_CATEGORIES = 1000
BYTES_PER_CATEGORY = 2 * 128 * 4 * 4  # encoder and decoder; n_hidden; float32; weight, gradient and Adam's two moments


def check_shape(asked: Request) -> Iterator[Finding]:
    n_cells, n_genes = asked.adata.shape
    for code, number, noun in (("no-cells", n_cells, "cells"), ("no-genes", n_genes, "genes")):
        if not number:
            what = f"adata has no {noun} ({n_cells:,} cells × {n_genes:,} genes)."
            why = "A selection before this one has probably kept nothing."
            yield error(code, "shape")(what, why, "Look at the filter that made it.")
    if n_cells == 1:
        what = f"adata has a single cell ('{shown(asked.adata.obs_names[0])}')."
        if asked.for_training:
            yield error("one-cell", "shape")(what, "Training needs 2 at least.", "Pass all cells to learn from.")
        else:
            yield warning("one-cell", "shape")(what, "It can be mapped, but not compared with cells of its kind.")


def check_gene_names(asked: Request) -> Iterator[Finding]:
    names = asked.adata.var_names
    is_text, is_bytes = (np.array([isinstance(name, kind) for name in names], dtype=bool) for kind in (str, bytes))
    is_missing = names.isna() | np.array([not str(name).strip() for name in names], dtype=bool)
    positions, encoded, other = np.flatnonzero(is_missing), names[is_bytes], names[~(is_text | is_bytes | is_missing)]
    if len(positions):
        yield error("unnamed-genes", "var_names", **some(positions))(
            f"adata.var_names leaves {counted(len(positions), 'gene')} without a name (position {listed(positions)}).",
            "Genes are matched by name, never by position.",
            "Name them, or remove them: adata = adata[:, [isinstance(name, str) and name.strip() != '' for name in "
            "adata.var_names]].",
        )
    if len(encoded):
        yield error("binary-names", "var_names", **some(encoded))(
            f"adata.var_names has {counted(len(encoded), 'name')} in bytes, not text ({listed(encoded)}).",
            "To Python b'CD3D' and 'CD3D' are different names.",
            "Decode them: adata.var_names = [name.decode() if isinstance(name, bytes) else name for name in "
            "adata.var_names].",
        )
    if len(other):
        of_type = f"{counted(len(other), 'name')} of type {_type_name(other[0])}"
        yield warning("names-not-text", "var_names", **some(other))(
            f"adata.var_names has {of_type}, not text ({listed(other)}).",
            "They are read as text, and must be spelt so in a query.",
            "Say so yourself: adata.var_names = adata.var_names.astype(str).",
        )
    twice = names[~is_missing & names.duplicated()].unique()
    if len(twice):
        yield error("duplicated-genes", "var_names", **some(twice))(
            f"adata.var_names uses {counted(len(twice), 'name')} more than once ({listed(twice)}).",
            "Genes are matched by name, and it would be chance which of them is taken.",
            "Sum or drop the doubles, or number them with adata.var_names_make_unique().",
        )


def check_cell_names(asked: Request) -> Iterator[Finding]:
    names = asked.adata.obs_names
    twice = names[names.duplicated()].unique()
    if len(twice):
        yield warning("duplicated-cells", "obs_names", **some(twice))(
            f"adata.obs_names uses {counted(len(twice), 'name')} more than once ({listed(twice)}).",
            "Results keep the order of the cells, but cannot be joined by name.",
            "Number them with adata.obs_names_make_unique().",
        )


def check_keys(asked: Request) -> Iterator[Finding]:
    columns = list(asked.adata.obs.columns)
    for argument, key in dict.fromkeys(asked.keys):
        number = columns.count(key)
        if not number:
            yield error("missing-key", _obs(key))(
                f"adata.obs has no column '{shown(key)}' ({argument}).{did_you_mean(key, columns)}",
                f"Its columns: {listed(columns, limit=10)}." if columns else "It has no columns at all.",
                "Pass one of them." if columns else f"Add it, or leave out {argument}.",
            )
        elif number > 1:
            yield error("ambiguous-key", _obs(key), count=number)(
                f"adata.obs has {number} columns called '{shown(key)}' ({argument}).",
                "It would be chance which of them is taken.",
                "Rename or drop all but one.",
            )
    for key, number in Counter(key for _, key in asked.keys).items():
        if number > 1:
            arguments = " and ".join(argument for argument, named in asked.keys if named == key)
            yield warning("repeated-key", _obs(key), count=number)(
                f"'{shown(key)}' is given {number} times, as {arguments}.",
                "What a model removes as a difference between batches it cannot learn as anything else.",
                "Name each column once.",
            )


def _obs(key: object) -> str:
    return f"obs['{shown(key)}']"


def _type_name(value: object) -> str:
    """`str`, `int`, `float` or `bool` for NumPy's scalars, too."""
    kinds = {"bool": bool | np.bool_, "int": int | np.integer, "float": float | np.floating, "str": str}
    return next((name for name, kind in kinds.items() if isinstance(value, kind)), type(value).__name__)


def check_continuous(asked: Request) -> Iterator[Finding]:
    for column in asked.columns("continuous_covariate_keys"):
        where = _obs(column.name)
        faults = list(_check_numbers(asked, column, -np.inf, "covariate-not-finite", "NaN or infinite", "A number"))
        yield from faults
        if not faults and len(column) > 1 and column.nunique() == 1:
            yield warning("constant-covariate", where)(
                f"adata.{where} is {float(column.iloc[0]):.6g} in every cell.",
                "It explains no difference between them.",
                "Leave it out, or check that this is the right column.",
            )


def check_size_factors(asked: Request) -> Iterator[Finding]:
    for column in asked.columns("size_factor_key"):
        yield from _check_numbers(asked, column, 0, "bad-size-factors", "not above zero", "A positive number")


def _check_numbers(
    asked: Request, column: pd.Series, lowest: float, code: str, fault: str, needed: str
) -> Iterator[Finding]:
    """Whether a column holds finite numbers above `lowest`."""
    where = _obs(column.name)
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        examples = tuple(dict.fromkeys(map(shown, column.dropna())))[:3]
        yield error("not-numeric", where, examples=examples)(
            f"adata.{where} holds {column.dtype} values ({listed(examples)}), not numbers.",
            "The model computes with it.",
            f"Convert it: adata.{where} = adata.{where}.astype(float); or pass it as a categorical covariate.",
        )
        return
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    is_bad = ~(np.isfinite(numbers) & (numbers > lowest))
    if is_bad.any():
        cells, first = asked.adata.obs_names[is_bad], column[is_bad].iloc[0]
        of_all = f"{len(cells):,} of {counted(len(column), 'cell')} ({first} for '{shown(cells[0])}')"
        what, why = f"adata.{where} is {fault} for {of_all}.", f"{needed} is needed for every cell."
        yield error(code, where, **some(cells))(what, why, "Mend the values, or leave out these cells.")


class Categories:
    """A categorical column of obs as its checks see it."""

    def __init__(self, column: pd.Series, noun: str, unlabeled_category: str | None):
        self.column = column
        self.noun = noun  # "batch", "label" or "category" (of another covariate)
        self.plural = {"batch": "batches", "label": "labels", "category": "categories"}[noun]
        self.where = _obs(column.name)
        self.unlabeled = unlabeled_category if noun == "label" else None
        sizes = column.value_counts(sort=False)
        is_unlabeled = np.array([str(name) == self.unlabeled for name in sizes.index], dtype=bool)
        self.sizes = sizes[(sizes > 0) & ~is_unlabeled]  # cells per category
        self.n_unlabeled = int(sizes[is_unlabeled].sum())

    def __str__(self) -> str:
        return f"adata.{self.where}"


def check_categorical(asked: Request) -> Iterator[Finding]:
    nouns = {"batch_key": "batch", "labels_key": "label", "categorical_covariate_keys": "category"}
    for argument, noun in nouns.items():
        for column in asked.columns(argument):
            uncountable = list(check_one_type(column))
            yield from uncountable
            if not uncountable:
                categories = Categories(column, noun, asked.unlabeled_category)
                for check in CATEGORY_CHECKS:
                    yield from check(asked, categories)


def check_one_type(column: pd.Series) -> Iterator[Finding]:
    """1, "1" and 1.0 must not become three batches; and a list is no category at all."""
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column.dropna()
    if values.dtype != object or pd.api.types.infer_dtype(values) == "string":
        return
    where = _obs(column.name)
    one_of_each = {_type_name(value): value for value in values}
    examples = [f"{value!r} ({name})" for name, value in one_of_each.items()]
    if len(one_of_each) > 1:
        yield error("mixed-types", where, **some(examples))(
            f"adata.{where} mixes types: {listed(examples)}.",
            "Whether 1, '1' and 1.0 are one category or three would depend on who reads them.",
            f"Spell them in one way, for example adata.{where} = adata.{where}.map(str, na_action='ignore').",
        )
    elif not all(isinstance(value, Hashable) for value in one_of_each.values()):
        yield error("not-categories", where, **some(examples))(
            f"adata.{where} holds values such as {listed(examples)}.",
            "A category is a single name.",
            "Name another column, or join the parts to one text.",
        )


def check_missing_values(asked: Request, categories: Categories) -> Iterator[Finding]:
    column, noun = categories.column, categories.noun
    cells = asked.adata.obs_names[column.isna()]
    what = f"{categories} has no {noun} for {len(cells):,} of {counted(len(column), 'cell')} ({listed(cells)})."
    if len(cells) and noun == "label":
        name = f", as '{shown(categories.unlabeled)}'" if categories.unlabeled is not None else ""
        yield note("missing-labels", categories.where, **some(cells))(what, f"They are taken as unlabelled{name}.")
    elif len(cells):
        yield error("missing-values", categories.where, **some(cells))(
            what,
            f"A cell whose {noun} is unknown cannot be corrected for it.",
            f"Fill the gaps, drop these cells (adata[{categories}.notna()]), or give them a {noun} of "
            f"their own: {categories} = {categories}.astype(object).fillna('unknown').",
        )


def check_sizes(asked: Request, categories: Categories) -> Iterator[Finding]:
    """One category per cell, one for all cells, batches of one or two cells, labels of one."""
    sizes, names, noun, plural = categories.sizes, categories.sizes.index, categories.noun, categories.plural
    limit, size = (1, "a single cell") if noun == "label" else (2, "one or two cells")
    small = names[sizes <= limit]
    if len(names) == len(categories.column) > 2:
        found = error if asked.for_training else warning
        yield found("one-category-per-cell", categories.where, **some(names))(
            f"{categories} has {len(names):,} {plural} for {len(names):,} cells ({listed(names)}).",
            f"This looks like barcodes. With every cell its own {noun}, nothing is shared between cells.",
            "Name the column that tells groups of cells, such as samples, apart.",
        )
    if asked.for_training and noun != "label" and len(names) == 1:
        yield warning("one-category", categories.where, **some(names))(
            f"{categories} has the same {noun} for all cells, '{shown(names[0])}'.",
            "There is no difference to learn and remove.",
            "That is fine for a single sample; otherwise name the column that tells samples apart.",
        )
    if asked.for_training and len(small) and len(names) < len(categories.column):
        yield warning("small-categories", categories.where, **some(small))(
            f"{categories} has {size} in {len(small):,} of {len(names):,} {plural} ({listed(small)}).",
            "What is learnt about them rests on next to nothing.",
            "Merge them with others of their kind, or leave out their cells.",
        )


def check_unused(asked: Request, categories: Categories) -> Iterator[Finding]:
    if isinstance(categories.column.dtype, pd.CategoricalDtype):
        names = categories.column.cat.categories
        if len(unused := names[~names.isin(categories.column.dropna().unique())]):
            number = counted(len(unused), "category", "categories")
            what = f"{categories} has {number} without cells ({listed(unused)})."
            yield note("unused-categories", categories.where, **some(unused))(what, "The model leaves them out.")


def check_alike(asked: Request, categories: Categories) -> Iterator[Finding]:
    """Names that differ only by blanks or case, from the unlabelled category's as well."""
    sizes = {str(name): int(size) for name, size in categories.sizes.sort_values(ascending=False).items()}
    if categories.unlabeled is not None:
        sizes = {categories.unlabeled: categories.n_unlabeled, **sizes}
    spellings = defaultdict(list)
    for name in sizes:
        spellings["".join(name.split()).casefold()].append(name)
    for names in spellings.values():
        if len(names) > 1:
            with_sizes = [f"'{shown(name)}' ({counted(sizes[name], 'cell')})" for name in names]
            yield warning("look-alike-categories", categories.where, **some(names))(
                f"{' and '.join(with_sizes)} in {categories} differ only by blanks or case.",
                f"They are different {categories.plural} to a model. Did you mean one?",
                f"Then {categories} = {categories}.astype(object).replace({names[1:]}, {names[0]!r}).",
            )


def check_read_as_text(asked: Request, categories: Categories) -> Iterator[Finding]:
    names = categories.sizes.index
    if len(names) and not isinstance(names[0], str):
        yield note("read-as-text", categories.where, **some(names))(
            f"The {categories.plural} in {categories} are {_type_name(names[0])} values ({listed(names)}).",
            f"They are read as text, '{shown(names[0])}' for the first, and a query must spell them so.",
        )


def check_many(asked: Request, categories: Categories) -> Iterator[Finding]:
    number = len(categories.sizes)
    if number > MANY_CATEGORIES:
        yield warning("many-categories", categories.where, count=number)(
            f"{categories} has {number:,} {categories.plural}.",
            f"They take about {number * BYTES_PER_CATEGORY / 1e6:,.0f} MB in training (encoder and decoder of 128 "
            "units, with Adam), and each is learnt from few cells.",
            "Name a column with fewer, or merge them into groups.",
        )


def check_unlabeled(asked: Request, categories: Categories) -> Iterator[Finding]:
    n_cells, number, name = len(categories.column), categories.n_unlabeled, shown(categories.unlabeled)
    if categories.noun == "label" and categories.sizes.empty and n_cells and asked.for_training:
        called = f" other than '{name}'" if number else ""
        yield error("nothing-labelled", categories.where, count=n_cells)(
            f"None of the {n_cells:,} cells has a label{called} in {categories}.",
            "A classifier learns from labelled cells.",
            "Name another labels_key, or leave it out to train a model that needs no labels.",
        )
    elif number:
        yield note("unlabelled-cells", categories.where, count=number)(
            f"{categories} is '{name}' for {number:,} of {counted(n_cells, 'cell')}.",
            "They are taken as unlabelled: no cell type of that name is learnt.",
        )


CATEGORY_CHECKS: tuple[Callable[[Request, Categories], Iterator[Finding]], ...] = (
    check_missing_values,
    check_sizes,
    check_unused,
    check_alike,
    check_read_as_text,
    check_many,
    check_unlabeled,
)
