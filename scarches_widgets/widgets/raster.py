"""Many cells as one picture: the pixel that each lies in, what is seen of them there, and which a line surrounds.

For views of more cells than a page is sent (`cell_view.MOST_CELLS`). Counted with numpy alone, in 0.2 s of a CPU
for a million cells: datashader's first picture waits for its import and for numba to compile besides, on a busy
machine 64 s where this one took 4.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..data.names import DataError
from ..mapping.pictures import FADED

MOST_PIXELS = 400_000  # of a picture: the page enlarges it to more
MOST_CORNERS = 20_000  # of a line around cells
GRID = 256  # columns and rows of the squares in which cells are counted as surrounded together
SMALLEST, LARGEST = 1, 48  # diameter of a cell in pixels
LEVELS = 8  # of opacity, so that a picture's file is small
LEAST_OPACITY = 0.45  # of a pixel with one cell, where others have many
OVERLAP = 4  # cells in a pixel that are many


@dataclass(frozen=True)
class Sight:
    """The part of the plane that a chart shows: both ranges, ascending, and its size in pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int
    height: int

    @classmethod
    def from_page(cls, content: dict[str, Any]) -> Sight:
        """What a page asks for, at most `MOST_PIXELS` of it.

        Raises
        ------
        TypeError, ValueError
            It is no part of a plane.
        """
        x, y = (tuple(sorted(map(float, content[axis]))) for axis in "xy")
        width, height = (float(content[side]) for side in ("width", "height"))
        lengths = [len(x), len(y), x[-1] - x[0], y[-1] - y[0], width, height]
        if lengths[:2] != [2, 2] or not np.isfinite(lengths).all() or min(lengths) <= 0:
            raise ValueError("This is no part of the plane.")
        share = min(1.0, (MOST_PIXELS / (width * height)) ** 0.5)
        width, height = (min(MOST_PIXELS, max(1, int(side * share))) for side in (width, height))
        return cls(x, y, width, height)

    def wider(self, pixels: int) -> Sight:
        """With so many pixels more on each side."""
        sides = []
        for (start, end), n in ((self.x, self.width), (self.y, self.height)):
            step = pixels * (end - start) / n
            sides.append((start - step, end + step))
        return Sight(*sides, self.width + 2 * pixels, self.height + 2 * pixels)


@dataclass(frozen=True)
class Dots:
    """Cells to be drawn, each as a disc.

    Attributes
    ----------
    positions
        Float (cells, 2); NaN for a cell that is not drawn.
    values
        A code of each cell, or with `scale` (the lowest and the highest) a number, of which a pixel shows the mean.
    colours
        uint8 (colours, 3): of the codes; or of the scale from low to high, and last of cells without a number.
    selected
        Bool (cells,): the others are faint. None, or none of them: all are alike.
    opacity
        0 to 1.
    diameter
        In the units of the positions; None: as suits the number of cells in sight.
    """

    positions: np.ndarray
    values: np.ndarray
    colours: np.ndarray
    scale: tuple[float, float] | None = None
    selected: np.ndarray | None = None
    opacity: float = 1.0
    diameter: float | None = None


def pixels_of(positions: np.ndarray, sight: Sight) -> np.ndarray:
    """The pixel of each cell, row × width + column, rows from the lowest y upwards; -1 out of sight. int64 (cells,)."""
    places = []
    for i, ((start, end), n) in enumerate(((sight.x, sight.width), (sight.y, sight.height))):
        place = (positions[:, i] - np.float64(start)) * (n / (end - start))
        places.append((place, (place >= 0) & (place < n)))
    (columns, in_x), (rows, in_y) = places
    pixels = np.full(len(positions), -1, dtype=np.int64)
    inside = np.flatnonzero(in_x & in_y)
    pixels[inside] = rows[inside].astype(np.int64) * sight.width + columns[inside].astype(np.int64)
    return pixels


def painted(layers: Sequence[Dots], sight: Sight) -> np.ndarray:
    """The picture, uint8 (height, width, 4), first row at the lowest y; the first layer lies lowest."""
    picture = np.zeros((sight.height * sight.width, 4), dtype=np.uint8)
    for dots in layers:
        at, index, opacity = _drawn(dots, sight)
        if not len(at):
            continue
        below = picture[at].astype(np.float32)
        share, share_below = opacity[:, None], below[:, 3:] / 255 * (1 - opacity[:, None])
        total = share + share_below
        mixed = (dots.colours[index] * share + below[:, :3] * share_below) / np.maximum(total, 1e-6)
        picture[at] = np.rint(np.concatenate([mixed, total * 255], axis=1)).astype(np.uint8)
    return picture.reshape(sight.height, sight.width, 4)


def as_png(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _drawn(dots: Dots, sight: Sight) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels that are not empty, the colour of each, and its opacity."""
    diameter = _diameter(dots, sight)
    margin = diameter // 2 + 1  # cells just out of sight reach into it
    wide = sight.wider(margin)
    pixels = pixels_of(dots.positions, wide)
    order = _order(len(pixels))
    order = order[pixels[order] >= 0]
    at = pixels[order]
    n_pixels = wide.width * wide.height
    counts = np.bincount(at, minlength=n_pixels)
    index = _colour_index(dots, order, at, n_pixels)
    level = _levels(counts)
    is_selected = np.zeros(n_pixels, dtype=bool)
    chosen = dots.selected is not None and dots.selected.any()
    if chosen:
        kept = dots.selected[order]
        is_selected[at[kept]] = True
        index = np.where(is_selected, _colour_index(dots, order[kept], at[kept], n_pixels), index)
    marks = (index * LEVELS + level) * 2 + is_selected
    occupied = np.flatnonzero(counts)
    occupied = occupied[np.argsort(is_selected[occupied], kind="stable")]  # selected ones on top
    stamped = _stamped(occupied, marks[occupied], wide, diameter)
    stamped = stamped.reshape(wide.height, wide.width)[margin:-margin, margin:-margin].ravel()
    full = np.flatnonzero(stamped >= 0)
    marks, chosen_here = np.divmod(stamped[full], 2)
    index, level = np.divmod(marks, LEVELS)
    opacity = LEAST_OPACITY + (1 - LEAST_OPACITY) * level / (LEVELS - 1)
    if chosen:
        opacity = np.where(chosen_here, 1.0, FADED * opacity)
    return full, index, (opacity * dots.opacity).astype(np.float32)


def _diameter(dots: Dots, sight: Sight) -> int:
    """In pixels."""
    if dots.diameter is not None:
        wanted = dots.diameter * sight.width / (sight.x[1] - sight.x[0])
        return int(np.clip(round(wanted), SMALLEST, LARGEST))
    from .embedding_view import point_size

    return max(2, round(point_size(int((pixels_of(dots.positions, sight) >= 0).sum()))))


@lru_cache(maxsize=2)
def _order(n: int) -> np.ndarray:
    """The order in which cells are drawn: at random, so that no group hides another, and the same each time."""
    return np.random.default_rng(0).permutation(n)


def _colour_index(dots: Dots, cells: np.ndarray, at: np.ndarray, n_pixels: int) -> np.ndarray:
    """Each pixel's colour, int64 (pixels,): of its uppermost cell, or of the mean of its cells' numbers."""
    index = np.zeros(n_pixels, dtype=np.int64)
    values = dots.values[cells]
    if dots.scale is None:
        index[at] = values
        return index
    finite = np.isfinite(values)
    n_finite = np.bincount(at[finite], minlength=n_pixels)
    mean = np.bincount(at[finite], weights=values[finite], minlength=n_pixels) / np.maximum(n_finite, 1)
    low, high = dots.scale
    n_colours = len(dots.colours) - 1
    index = np.clip(((mean - low) * (n_colours / max(high - low, 1e-300))).astype(np.int64), 0, n_colours - 1)
    index[n_finite == 0] = n_colours
    return index


def _levels(counts: np.ndarray) -> np.ndarray:
    """How full each pixel is, by the logarithm of its number of cells, 0 to LEVELS - 1; all are full if few overlap."""
    occurring = counts[counts > 0]
    many = np.quantile(occurring, 0.98) if len(occurring) else 0
    if many < OVERLAP:
        return np.full(len(counts), LEVELS - 1)
    level = np.log(np.maximum(counts, 1)) * ((LEVELS - 1) / np.log(many))
    return np.minimum(np.rint(level), LEVELS - 1).astype(np.int64)


def _stamped(pixels: np.ndarray, marks: np.ndarray, sight: Sight, diameter: int) -> np.ndarray:
    """A disc of each mark, int64 (pixels of the sight,), -1 where there is none; a disc's middle hides others' rims."""
    reach = diameter // 2 + 1
    width = sight.width + 2 * reach
    grid = np.full((sight.height + 2 * reach) * width, -1, dtype=np.int64)
    rows, columns = np.divmod(pixels, sight.width)
    base = (rows + reach) * width + columns + reach
    steps = np.arange(diameter) - (diameter - 1) // 2
    down, across = np.meshgrid(steps, steps, indexing="ij")
    middle = 0.5 if diameter % 2 == 0 else 0.0
    distance = np.hypot(down - middle, across - middle).ravel()
    by_distance = np.argsort(-distance, kind="stable")
    for i in by_distance[distance[by_distance] <= diameter / 2]:
        grid[base + down.flat[i] * width + across.flat[i]] = marks
    return grid.reshape(-1, width)[reach:-reach, reach:-reach].ravel()


def within(positions: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Which cells a closed line surrounds, bool (cells,), as matplotlib's `Path.contains_points` says.

    Cells in a square that the line does not cross are all in or all out, so few are tested one by one.

    Raises
    ------
    DataError
        The line has fewer than 3 corners or too many, or one that is not finite.
    """
    from matplotlib.path import Path

    if not 3 <= len(corners) <= MOST_CORNERS or not np.isfinite(corners).all():
        raise DataError(f"A line around cells has 3 to {MOST_CORNERS:,} corners. Draw it again.")
    path = Path(corners)
    low, high = corners.min(0), corners.max(0)
    surrounded = np.zeros(len(positions), dtype=bool)
    if (high <= low).any():
        return surrounded
    squares = Sight(*((low[i], np.nextafter(high[i], np.inf)) for i in (0, 1)), GRID, GRID)
    square_of = pixels_of(positions, squares)
    near = np.flatnonzero(square_of >= 0)
    step = (high - low) / GRID
    middles = np.stack(np.meshgrid(*(low[i] + (np.arange(GRID) + 0.5) * step[i] for i in (0, 1))), axis=-1)
    is_in = path.contains_points(middles.reshape(-1, 2))
    crossed = _crossed((corners - low) / step)
    surrounded[near] = is_in[square_of[near]]
    doubtful = near[crossed[square_of[near]]]
    surrounded[doubtful] = path.contains_points(positions[doubtful])
    return surrounded


def within_all(positions: np.ndarray, rings: Sequence[np.ndarray]) -> np.ndarray:
    """Which cells lie in a region of several closed lines, of which some go round its holes, bool (cells,)."""
    inside = np.zeros(len(positions), dtype=bool)
    for corners in rings:
        inside ^= within(positions, corners)
    return inside


def _crossed(corners: np.ndarray) -> np.ndarray:
    """Squares that a closed line crosses, or may cross, bool (GRID × GRID,); corners in squares' widths."""
    from scipy.ndimage import binary_dilation

    ends = np.roll(corners, -1, axis=0)
    n_steps = np.ceil(2 * np.abs(ends - corners).max(1)).astype(int) + 1  # half a square at most
    edge = np.repeat(np.arange(len(corners)), n_steps)
    nth = np.arange(len(edge)) - np.repeat(np.cumsum(n_steps) - n_steps, n_steps)
    share = (nth / n_steps[edge])[:, None]
    on_line = np.clip((corners[edge] * (1 - share) + ends[edge] * share).astype(int), 0, GRID - 1)
    crossed = np.zeros((GRID, GRID), dtype=bool)
    crossed[on_line[:, 1], on_line[:, 0]] = True
    return binary_dilation(crossed, np.ones((3, 3), dtype=bool)).ravel()
