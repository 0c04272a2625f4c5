"""Placing a query in a tissue: the options, what came out, and how it does on held-out cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field as Limits
from pydantic.dataclasses import dataclass as typed_dataclass

from ..data.genes import RULES
from ..data.names import shown
from ..mapping.spatial import HeldOut, knn_locations, knn_regions
from ..mapping.transfer import UNKNOWN
from ..models.base import LEAST_OVERLAP
from ..models.places import DIMENSIONS
from ..models.sagenet import SageNet, SageNetConfig
from .form import Choice, Form, as_arguments, as_python, columns_of, fields_of, key_field
from .spatial_tissue import spatial_keys
from .words import MAPPING, OPTIONS, Words

if TYPE_CHECKING:
    from anndata import AnnData

SECTION = "Mapping"
KEYS = ("spatial_key", "section_key")
MODEL = tuple(field.name for field in fields_of(SageNetConfig, SECTION) if field.name not in KEYS)
PREFIXES = {"SageNet": "sagenet", "neighbours": "knn"}  # of what is written
BARS = 20  # of the histogram of confidences
THRESHOLDS = np.arange(101) / 100  # of which it is known how many cells are below: the slider's
WORDS = {
    **OPTIONS,
    **MAPPING,
    "method": Words("Method", "SageNet learns the tissue's regions; neighbours are taken as they are.", main=True),
    "region_key": Words("Regions to predict", "Column of the reference's obs; none: places alone.", main=True),
    "n_folds": Words("Held-out parts", "Of the reference, to test the model on; 0: no test.", main=True),
    "n_neighbors": Words("Neighbours in space", "Of each cell, to tell what varies over the tissue."),
    "max_epochs": Words("Epochs", "Passes over the reference, at most."),
}


@typed_dataclass(frozen=True)
class PlacingOptions:
    """Options of a mapping into a tissue beside the keys and the model's; the same class draws the form."""

    method: Literal["SageNet", "neighbours"] = "SageNet"
    n_folds: Annotated[int, Limits(ge=0, le=20)] = 4
    max_epochs: Annotated[int, Limits(ge=1, le=100_000)] | None = None
    min_gene_overlap: Annotated[float, Limits(ge=0, le=1)] = LEAST_OVERLAP


def placing_form(reference: AnnData, query: AnnData | None, with_model: bool) -> Form:
    """The form; of a model that was given, only what it leaves open is asked."""
    columns = columns_of(reference.obs)
    fields = [key_field("region_key", SECTION, columns, WORDS), *fields_of(PlacingOptions, SECTION, WORDS)]
    if query is not None:
        names = [choice.value for choice in columns_of(query.var) if choice.value is not None and not choice.group]
        choices = [Choice(None, "name"), *(Choice(rule, f"name, {words}") for rule, (words, _) in RULES.items())]
        choices += [Choice(name, f"column {shown(name)}", "Columns of the query's var") for name in names]
        fields.append(key_field("gene_map", SECTION, choices, WORDS))
    if not with_model:
        places = [Choice(None, "none"), *(Choice(key, f"obsm['{shown(key)}']") for key in spatial_keys(reference))]
        keys = [key_field("spatial_key", SECTION, places, WORDS), key_field("section_key", SECTION, columns, WORDS)]
        fields = [*keys, *fields, *(one for one in fields_of(SageNetConfig, SECTION, WORDS) if one.name in MODEL)]
    return Form(fields)


@dataclass(frozen=True)
class Placed:
    """Where the cells of a query lie.

    Attributes
    ----------
    method
        "SageNet" or "neighbours".
    locations
        One row per cell: `x`, `y` and in 3-D `z`, `uncertainty` (in their units) and `confidence`, 0 to 1.
    regions
        Each cell's region, with the reference's categories; None if there was no column to predict.
    """

    method: str
    locations: pd.DataFrame
    regions: pd.Series | None

    @property
    def places(self) -> np.ndarray:
        """Coordinates, float64 (cells, 2 or 3)."""
        return self.locations[[name for name in DIMENSIONS if name in self.locations]].to_numpy()

    @property
    def key(self) -> str:
        """Of obsm, under which the places are written."""
        return f"X_{PREFIXES[self.method]}"

    @property
    def confidence(self) -> np.ndarray:
        return self.locations["confidence"].to_numpy()

    def columns(self) -> pd.DataFrame:
        """What can be written to obs, all cells assigned."""
        prefix = PREFIXES[self.method]
        columns = {} if self.regions is None else {f"predicted_{self.regions.name}": self.regions}
        columns |= {f"{prefix}_{name}": self.locations[name] for name in ("confidence", "uncertainty")}
        return pd.DataFrame(columns, index=self.locations.index)

    def for_query(self, threshold: float) -> dict[tuple[str, str], Any]:
        """What is written, by part and name; cells below the threshold are of region Unknown."""
        columns = self.columns()
        if self.regions is not None:
            names = [*self.regions.cat.categories, *([] if UNKNOWN in self.regions.cat.categories else [UNKNOWN])]
            assigned = self.regions.astype(object).where(self.confidence >= threshold, UNKNOWN)
            columns[f"predicted_{self.regions.name}"] = pd.Categorical(assigned, categories=names)
        written = {("obsm", self.key): self.places}
        return written | {("obs", name): columns[name].array for name in columns}


def placed_by_model(model: SageNet, reference: AnnData, query: AnnData, region_key: str | None) -> Placed:
    name = name_of(model, reference)
    locations = model.predict_locations(query, reference=name)
    regions = None
    if region_key is not None:
        regions = model.predict_regions(query, of=region_key, reference=name)["region"]
    return Placed("SageNet", locations, _categorical(regions, reference, region_key))


def placed_by_neighbours(
    reference: AnnData, query: AnnData, places: np.ndarray, region_key: str | None, **options: Any
) -> Placed:
    """The baseline. Its confidence is 1 − uncertainty / root mean squared distance of the reference's cells from their
    mean: 0 where the neighbours lie as far apart as any cells."""
    locations = knn_locations(reference, query, **options)
    spread = np.sqrt(((places - places.mean(0)) ** 2).sum(1).mean())
    locations["confidence"] = (1 - locations["uncertainty"] / spread).clip(0, 1)
    regions = None
    if region_key is not None:
        kept = {name: value for name, value in options.items() if name != "spatial_key"}
        regions = knn_regions(reference, query, region_key, **kept)["region"]
    return Placed("neighbours", locations, _categorical(regions, reference, region_key))


def _categorical(regions: pd.Series | None, reference: AnnData, key: str | None) -> pd.Series | None:
    """Regions with the reference's categories, so that both have the same colours."""
    if regions is None:
        return None
    column = reference.obs[key]
    names = column.cat.categories.astype(str) if isinstance(column.dtype, pd.CategoricalDtype) else sorted(set(regions))
    return pd.Series(pd.Categorical(regions.astype(str), categories=names), regions.index, name=key)


def name_of(model: SageNet, reference: AnnData) -> str:
    """What the model calls this reference."""
    for name, adata in model.references.items():
        if adata is reference:
            return name
    names = [layout.name for layout in model.config.references]
    if len(names) > 1:
        raise ValueError(
            f"The model has {len(names)} references ({', '.join(names)}), and none of them is this AnnData. Give one "
            "of model.references."
        )
    return names[0]


def summed_up(placed: Placed, n_bimodal: int) -> dict[str, Any]:
    """What came out, for the page."""
    bars, _ = np.histogram(placed.confidence, bins=BARS, range=(0, 1))
    return {
        "method": placed.method,
        "n_cells": len(placed.locations),
        "n_bimodal": n_bimodal,
        "mean": float(placed.confidence.mean()),
        "histogram": bars.tolist(),
        "below": np.searchsorted(np.sort(placed.confidence), THRESHOLDS).tolist(),
        "columns": list(placed.columns()),
    }


def verdict_of(found: HeldOut) -> dict[str, Any]:
    """How the model does on held-out cells, for the page."""
    rows = [
        {"method": method, "correlation": float(row["distance_correlation"]), "error": float(row["median_error"])}
        for method, row in found.table.iterrows()
    ]
    return {
        "better": bool(found.is_better),
        "text": str(found).partition(" Take the neighbours")[0],
        "rows": rows,
        "coverage": found.coverage,
    }


def code_of_model(form: Form, values: dict[str, Any], has_query: bool) -> list[str]:
    chosen = form.chosen(values, ("section_key", "gene_map", "min_gene_overlap", *MODEL))
    if values["spatial_key"] not in (None, "spatial"):
        chosen = {"spatial_key": values["spatial_key"]} | chosen
    arguments = ", ".join(["reference", *(["query"] if has_query else [])])
    options = as_arguments(chosen)
    training = as_arguments(form.chosen(values, ("max_epochs",)))
    return [
        f"model = sca.models.SageNet({arguments}{', ' + options if options else ''})",
        f"model.train({training})",
    ]


def code_of_writing(form: Form, values: dict[str, Any], threshold: float) -> list[str]:
    """Lines by which a mapper places the query, with the model that it is given, and writes the places."""
    chosen = form.chosen(values, ("method",)) | ({"n_folds": 0} if "n_folds" in form else {})
    lines = [f"mapper.set({as_arguments(chosen)})"] if chosen else []
    lines += ["mapper.map()", "mapper.wait()"]
    if threshold:
        lines.append(f"mapper.threshold = {threshold!r}")
    return [*lines, "mapper.write()"]


def code_of_test(form: Form, values: dict[str, Any]) -> str:
    """The line that measures the model on held-out cells; empty if it is not wanted."""
    if values["method"] != "SageNet" or not values["n_folds"]:
        return ""
    chosen = form.chosen(values, ("section_key", *MODEL, "n_folds"))
    if values["spatial_key"] != "spatial":
        chosen = {"spatial_key": values["spatial_key"]} | chosen
    if training := form.chosen(values, ("max_epochs",)):
        chosen["train"] = training
    options = as_arguments(chosen)
    return f"print(sca.mapping.spatial.held_out(reference{', ' + options if options else ''}))"


def code_of_placing(values: dict[str, Any], keys: dict[str, str], name: str | None) -> list[str]:
    """Lines that place the query by the model, or by neighbours."""
    region = values["region_key"]
    named = "" if name is None else f", reference={as_python(name)}"
    if values["method"] == "SageNet":
        lines = [f"places = model.predict_locations(query{named})"]
        if region is not None:
            lines.append(f"regions = model.predict_regions(query, of={as_python(region)}{named})")
        return lines
    at = "" if keys["spatial_key"] == "spatial" else f", spatial_key={as_python(keys['spatial_key'])}"
    lines = [f"places = sca.mapping.spatial.knn_locations(reference, query{at})"]
    if region is not None:
        lines.append(f"regions = sca.mapping.spatial.knn_regions(reference, query, {as_python(region)})")
    return lines
