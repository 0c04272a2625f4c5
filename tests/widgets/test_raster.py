"""Pictures of many cells: what each pixel holds, how it looks, and which cells a line surrounds."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.path import Path
from PIL import Image

from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.pictures import FADED
from scarches_widgets.widgets.raster import (
    LEAST_OPACITY,
    MOST_PIXELS,
    Dots,
    Sight,
    as_png,
    painted,
    pixels_of,
    within,
)

RGB = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]], dtype=np.uint8)
SIGHT = Sight((-2.0, 2.0), (-1.0, 3.0), 60, 40)


@pytest.fixture(scope="module")
def cloud():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20_000, 2)).astype(np.float32), rng.integers(0, 3, 20_000).astype(np.uint8)


def histogram(positions, weights=None):
    """numpy's own, rows from the lowest y upwards."""
    bins, ranges = [SIGHT.height, SIGHT.width], [SIGHT.y, SIGHT.x]
    return np.histogram2d(*positions.T[::-1].astype(float), bins, ranges, weights=weights)[0]


def test_each_pixel_holds_the_cells_of_numpys_histogram(cloud):
    positions, _ = cloud
    positions = np.concatenate([positions, [[np.nan, 0], [0, np.nan], [1e30, 0], [-2.1, 0]]]).astype(np.float32)
    pixels = pixels_of(positions, SIGHT)
    counts = np.bincount(pixels[pixels >= 0], minlength=60 * 40).reshape(40, 60)
    np.testing.assert_array_equal(counts, histogram(positions[:-4]))
    assert (pixels[-4:] == -1).all()


def test_a_pixel_has_a_colour_of_its_own_cells_and_is_more_opaque_the_more_there_are(cloud):
    positions, codes = cloud
    picture = painted([Dots(positions, codes, RGB, diameter=0)], SIGHT)
    by_code = np.stack([histogram(positions[codes == code]) for code in range(3)], axis=-1)
    counts = by_code.sum(-1)
    np.testing.assert_array_equal(picture[..., 3] > 0, counts > 0)
    seen = (picture[..., :3] == 255).argmax(-1)
    assert (np.take_along_axis(by_code, seen[..., None], -1)[..., 0][counts > 0] > 0).all()
    opacity = [picture[..., 3][counts == n].mean() for n in (1, 4, 12)]
    assert opacity == sorted(opacity) and opacity[0] == pytest.approx(255 * LEAST_OPACITY, abs=1)


def test_a_pixel_on_a_scale_shows_the_mean_of_its_cells_and_grey_without_a_number(cloud):
    positions, _ = cloud
    values = positions[:, 0].copy()
    values[positions[:, 1] > 1.5] = np.nan
    scale = np.repeat(np.arange(255, dtype=np.uint8)[:, None], 3, axis=1)
    colours = np.concatenate([scale, [[9, 99, 199]]]).astype(np.uint8)
    picture = painted([Dots(positions, values, colours, scale=(-2.0, 2.0), diameter=0)], SIGHT)
    finite = np.isfinite(values)
    number = histogram(positions[finite])
    mean = histogram(positions[finite], values[finite].astype(float)) / np.maximum(number, 1)
    expected = np.clip((mean + 2) / 4 * 255, 0, 254)
    at = number > 0
    assert np.abs(picture[..., 0][at] - expected[at]).max() <= 1
    only_missing = (number == 0) & (histogram(positions) > 0)
    assert only_missing.any() and (picture[only_missing][:, :3] == [9, 99, 199]).all()


def test_selected_cells_lie_on_top_at_full_opacity_and_the_others_are_faint(cloud):
    positions, codes = cloud
    selected = codes == 1
    picture = painted([Dots(positions, codes, RGB, selected=selected, diameter=0)], SIGHT)
    here = histogram(positions[selected]) > 0
    assert (picture[here] == [0, 255, 0, 255]).all()
    others = ~here & (histogram(positions) > 0)
    assert picture[others][:, 3].min() > 0 and picture[others][:, 3].max() <= np.ceil(255 * FADED)
    none = painted([Dots(positions, codes, RGB, selected=np.zeros(len(codes), dtype=bool))], SIGHT)
    np.testing.assert_array_equal(none, painted([Dots(positions, codes, RGB)], SIGHT))


@pytest.mark.parametrize("diameter", [1, 2, 3, 7, 20])
def test_a_cell_is_a_disc_of_its_size_also_at_the_edge_of_the_sight(diameter):
    sight = Sight((0.0, 100.0), (0.0, 100.0), 100, 100)
    alone = painted([Dots(np.array([[50.5, 50.5]]), np.array([0]), RGB, diameter=diameter)], sight)[..., 3] > 0
    assert alone.any(0).sum() == alone.any(1).sum() == diameter
    assert alone.sum() == pytest.approx(np.pi / 4 * diameter**2, rel=0.35, abs=1.5)
    beside = painted([Dots(np.array([[-0.5, 50.5]]), np.array([0]), RGB, diameter=diameter)], sight)[..., 3] > 0
    assert beside.any() == (diameter > 1)


def test_an_upper_layer_covers_the_lower_as_far_as_it_is_opaque():
    sight = Sight((0.0, 1.0), (0.0, 1.0), 1, 1)
    at, first = np.array([[0.5, 0.5]]), np.array([0])
    below, above = Dots(at, first, RGB[:1], diameter=0), Dots(at, first, RGB[2:3], opacity=0.25, diameter=0)
    assert painted([below, above], sight)[0, 0].tolist() == [191, 0, 64, 255]
    assert painted([above], sight)[0, 0].tolist() == [0, 0, 255, 64]
    assert not painted([], sight).any()


def test_a_picture_becomes_a_png_that_is_small_and_the_same_pixels(cloud):
    positions, codes = cloud
    picture = painted([Dots(positions, codes, RGB)], SIGHT)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(as_png(picture)))), picture)


@pytest.mark.parametrize("seed", range(4))
def test_a_line_surrounds_the_cells_that_matplotlibs_path_contains(seed):
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-4, 4, (4000, 2)).astype(np.float32)
    positions[:3] = np.nan
    angle = np.sort(rng.uniform(0, 2 * np.pi, 60))
    star = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(1, 5, (60, 1)) + [0.3, 0]
    for corners in (star, star[rng.permutation(60)], star[:3], np.round(star)):
        expected = Path(corners).contains_points(positions)
        np.testing.assert_array_equal(within(positions, corners), expected)
    assert not within(positions, np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])).any()
    for wrong in (star[:2], np.array([[0.0, 0.0], [1.0, np.inf], [2.0, 0.0]])):
        with pytest.raises(DataError, match="corners"):
            within(positions, wrong)


def test_a_page_asks_for_a_part_of_the_plane_and_never_for_too_many_pixels():
    asked = {"x": [1, 5], "y": [4, -4], "width": 300, "height": 200}
    assert Sight.from_page(asked) == Sight((1.0, 5.0), (-4.0, 4.0), 300, 200)
    huge = Sight.from_page({**asked, "width": 1e6, "height": 1e4})
    assert huge.width * huge.height <= MOST_PIXELS and huge.width == pytest.approx(100 * huge.height, rel=0.05)
    for wrong in ({"x": [1, 1]}, {"y": [0, float("nan")]}, {"width": 0}, {"height": "tall"}, {"x": [1]}, {"y": None}):
        with pytest.raises((ValueError, TypeError)):
            Sight.from_page({**asked, **wrong})
