"""Colours and static pictures of cells and curves, always light: for the report, and for widgets in saved notebooks."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np

# Okabe & Ito's colours, which colour-blind people can tell apart, then lighter and darker steps between them
COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999",
    "#004B76", "#8F6200", "#00563F", "#8A3F69", "#A9D8F5", "#F3A26B", "#B8AE00", "#444444",
)  # fmt: skip
# for more groups: each as far as possible from those before it, also to a colour-blind eye (OKLab, Machado's matrices)
FURTHER_COLOURS = (
    "#6010FF", "#9070FF", "#10E0B0", "#7010B0", "#D010C0", "#A01010", "#FF5060", "#707080",
    "#FF80D0", "#5060E0", "#B05050", "#A080D0", "#C0D010", "#605090", "#70C0A0", "#4020D0",
    "#509020", "#7090F0", "#B08050", "#90C0FF", "#505010", "#A070A0", "#E0C090", "#2080E0",
)  # fmt: skip
NO_VALUE = "#A6A6AE"  # cells that have none
MOST_CELLS_DRAWN = 20_000
MOST_NAMES = 20  # in a static legend
FADED = 0.15  # opacity of cells beside a selection


def palette(n: int) -> list[str]:
    """Colours for `n` groups; beyond 40 they come again."""
    every = COLOURS + FURTHER_COLOURS
    return [every[i % len(every)] for i in range(n)]


def figure(size: tuple[float, float], n: int = 1, columns: int | None = None, dpi: int = 90):
    """A figure outside pyplot's state, which belongs to the user, and its `n` axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = columns or n
    drawn = Figure(size, layout="constrained", dpi=dpi)
    drawn.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(drawn)
    axes = np.atleast_1d(drawn.subplots((n + columns - 1) // columns, columns)).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def picture_bytes(drawn, format: str = "png", most_colours: int | None = None, whole: bool = False) -> bytes:
    """A figure as "png" or "svg"; a cloud of points with few colours is a PNG of a quarter of the size.

    With `whole`, also what lies outside of its frame, as the names of squidpy's matrices do.
    """
    buffer = io.BytesIO()
    drawn.savefig(buffer, format=format, bbox_inches="tight" if whole else None)
    if format == "png" and most_colours:
        from PIL import Image

        image = Image.open(buffer).convert("RGB").quantize(most_colours, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def curves(lines: Sequence[dict], format: str, label: str = "loss per cell (nats)", log: bool = False) -> bytes:
    """Losses by epoch: of each line its `values` (a Series by epoch), `part`, `colour` and `label`."""
    drawn, (axis,) = figure((7, 3))
    axis.set(xlabel="epoch", ylabel=label, yscale="log" if log else "linear")
    for one in lines:
        style = "-" if one["part"] == "train" else "--"
        axis.plot(one["values"], style, color=one["colour"], label=_literal(one["label"]))
        told = one["values"].notna()
        alone = told & ~told.shift(1, fill_value=False) & ~told.shift(-1, fill_value=False)  # which no line shows
        axis.plot(one["values"][alone], "o", color=one["colour"], mfc=None if one["part"] == "train" else "none")
    if lines:
        axis.legend(frameon=False)
    else:
        axis.text(0.5, 0.5, "no epoch has ended yet", ha="center", transform=axis.transAxes)
    return picture_bytes(drawn, format)


def draw_groups(
    axis,
    position: np.ndarray,
    codes: np.ndarray,
    names: Sequence[str],
    colours: Sequence[str],
    selected: np.ndarray | None = None,
) -> None:
    """Cells at `position` (cells, 2) in their groups' colours, `colours[codes]`, and a legend of the groups that occur.

    With `selected` (a mask), the other cells are faint.
    """
    from matplotlib.colors import to_rgba_array

    rows = to_rgba_array(list(colours))
    order = _draw_cells(axis, position, selected, lambda cells: rows[codes[cells]])
    occurring = np.unique(codes[order])
    for code in occurring[:MOST_NAMES]:
        axis.scatter([], [], s=25, color=colours[code], label=_literal(names[code]))
    if len(occurring) > MOST_NAMES:
        axis.scatter([], [], s=0, label=f"and {len(occurring) - MOST_NAMES} more")
    if len(occurring):
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_numbers(
    axis, position: np.ndarray, values: np.ndarray, label: str, selected: np.ndarray | None = None
) -> None:
    """Cells coloured by a number, with a colour bar; grey where it is NaN."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    finite = values[np.isfinite(values)]
    scale = Normalize(*((finite.min(), finite.max()) if len(finite) else (0, 1)))
    map_ = colormaps["cividis"].with_extremes(bad=NO_VALUE)
    _draw_cells(axis, position, selected, lambda cells: map_(scale(np.ma.masked_invalid(values[cells]))))
    axis.figure.colorbar(ScalarMappable(scale, map_), ax=axis, label=_literal(label), shrink=0.8)


def _draw_cells(
    axis, position: np.ndarray, selected: np.ndarray | None, colours: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Points in random order, so that no group hides another, in `colours` of those drawn, (n, 4); which were drawn."""
    order = np.random.default_rng(0).permutation(len(position))[:MOST_CELLS_DRAWN]
    alpha = 1.0
    if selected is not None and selected.any():
        order = order[np.argsort(selected[order], kind="stable")]  # on top of the others
        alpha = np.where(selected[order], 1.0, FADED)
    # as one image also in an SVG, which would weigh megabytes with every point in it
    axis.scatter(*position[order].T, s=4, c=colours(order), alpha=alpha, linewidths=0, rasterized=True)
    axis.set(xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)
    return order


def _literal(name: object) -> str:
    """A name as text: matplotlib reads dollars as mathematics, and hides labels that begin with an underscore."""
    text = str(name).replace("$", r"\$")
    text = text if len(text) <= 40 else text[:39] + "…"
    return "\u200b" + text if text.startswith("_") else text
