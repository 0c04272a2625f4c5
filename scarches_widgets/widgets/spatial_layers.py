"""The figure in which the layers of a tissue are drawn, and their names in words."""

from __future__ import annotations

from .embedding_view import add_picture, cells_figure

LABELS = {
    "image": "Tissue image",
    "graph": "Neighbour graph",
    "regions": "Region outlines",
    "cells": "Reference cells",
    "predicted": "Query, predicted",
}


def tissue_figure(n: int, many: bool = False):
    """`cells_figure` with cells of true size or a picture of many, and empty layers below them that the page fills."""
    from bokeh.models import ColumnDataSource, LinearColorMapper

    from ..mapping.pictures import FADED

    chart = cells_figure(n)
    [points] = chart.renderers
    [hover] = [tool for tool in chart.tools if tool.name is None]
    chart.renderers.remove(points)
    lines = {name: [] for name in ("x0", "y0", "x1", "y1")}
    sources = {
        "image": ColumnDataSource({name: [] for name in ("url", "x", "y", "w", "h")}, name="layer_image"),
        "graph": ColumnDataSource(lines, name="layer_graph"),
        "regions": ColumnDataSource({**lines, "colour": []}, name="layer_regions"),
        "cells": ColumnDataSource({"x": [], "y": [], "value": []}, name="layer_cells"),
    }
    ends = {name: name for name in lines}
    places = {name: name for name in ("x", "y", "w", "h")}
    chart.image_url("url", **places, anchor="center", source=sources["image"], name="drawn_image")
    chart.segment(**ends, source=sources["graph"], color="#7f7f8a", line_width=0.7, name="drawn_graph")
    mapper = LinearColorMapper(palette=["#888888"], low=-0.5, high=0.5, nan_color="#888888", name="layer_cells_colours")
    common = {"radius": 1.0, "line_color": None}
    chart.circle(
        "x",
        "y",
        source=sources["cells"],
        fill_color={"field": "value", "transform": mapper},
        name="drawn_cells",
        **common,
    )
    source, colours = points.data_source, points.glyph.fill_color
    own = chart.circle(
        "x",
        "y",
        source=source,
        fill_color=colours,
        fill_alpha=1.0,
        nonselection_fill_alpha=FADED,
        selection_fill_alpha=1.0,
        name="points",
        **common,
    )
    if many:
        add_picture(chart)
    chart.segment(**ends, source=sources["regions"], line_color="colour", line_width=2.2, name="drawn_regions")
    hover.renderers = [own]
    for name in ("lasso", "box"):
        [tool] = [one for one in chart.tools if one.name == name]
        tool.renderers = [own]
    return chart
