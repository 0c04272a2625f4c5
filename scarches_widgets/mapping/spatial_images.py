"""Images of SpatialData, in the form in which squidpy keeps those of an AnnData, `uns["spatial"]`.

An image and the cells lie in a common coordinate system, to which a transformation of its own brings each. The cells'
coordinates, `obsm["spatial"]` of the table, are those of the shapes that the table is about, before this transformation
or after it: the shapes tell which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.names import listed

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

WANTED = 1200  # pixels of the longer side: of the images and resolutions that have so many, the smallest is read
MOST_COMPARED = 100  # cells whose places are compared with their shapes
BRIGHTEST = 99.5  # percentile that is drawn as white, where values are not of 8 bits


def images_of(
    data: SpatialData, table: AnnData, spatial_key: str = "spatial"
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """An image for each region that a table is about, and why some have none.

    Parameters
    ----------
    data
        With images, and the shapes or labels that the table is about.
    table
        One of its tables.
    spatial_key
        Key of `obsm` with the cells' coordinates.

    Returns
    -------
    libraries
        By region: `images`, of which "hires" is uint8 (pixels, pixels, 3), and `scalefactors`: pixels per unit of the
        coordinates, and in these units the diameter of a spot, if the shapes are circles.
    reasons
        One for each region without an image.
    """
    attrs = table.uns.get("spatialdata_attrs")
    if attrs is None or spatial_key not in table.obsm or not len(data.images):
        return {}, []
    regions = [attrs["region"]] if isinstance(attrs["region"], str) else list(attrs["region"])
    of_cells, ids = table.obs[attrs["region_key"]].astype(str).to_numpy(), table.obs[attrs["instance_key"]].to_numpy()
    libraries, reasons = {}, []
    for region in regions:
        chosen = of_cells == region
        places = np.asarray(table.obsm[spatial_key], dtype=float)[chosen, :2]
        found = _library(data, region, ids[chosen], places) if region in data else f"there is no element '{region}'"
        if isinstance(found, str):
            reasons.append(found)
        else:
            libraries[region] = found
    return libraries, reasons


def _library(data: SpatialData, region: str, ids: np.ndarray, places: np.ndarray) -> dict[str, Any] | str:
    """The entry of a region, or why there is none."""
    from spatialdata.transformations import get_transformation

    element, usable, reasons = data[region], [], []
    systems = set(get_transformation(element, get_all=True))
    for name, image in data.images.items():
        shared = systems & set(get_transformation(image, get_all=True))
        if not shared:
            reasons.append(f"'{name}' shares no coordinate system with '{region}'")
            continue
        system = "global" if "global" in shared else min(shared)
        of_element = _affine(element, system)
        to_places = _to_places(element, ids, places, of_element)
        if to_places is None:
            return f"the cells' coordinates are not those of '{region}'"
        from_pixels = to_places @ np.linalg.inv(of_element) @ _affine(image, system)
        scale = float(from_pixels[0, 0])
        is_only_scaled = np.allclose(from_pixels[:2, :2], scale * np.eye(2), rtol=1e-3, atol=1e-6)
        if scale <= 0 or not is_only_scaled or np.abs(from_pixels[:2, 2]).max() > scale:
            reasons.append(f"'{name}' is turned, shifted or stretched against the coordinates of '{region}'")
            continue
        usable += [(max(one.shape[-2:]), name, one, scale * zoom) for one, zoom in _resolutions(image)]
    if not usable:
        return listed(reasons, 5)
    enough = [one for one in usable if one[0] >= WANTED]
    _, _, image, scale = (min if enough else max)(enough or usable, key=lambda one: one[:2])
    factors = {"tissue_hires_scalef": 1 / scale}
    if "radius" in element:  # circles
        unit = np.sqrt(abs(np.linalg.det(to_places[:2, :2])))
        factors["spot_diameter_fullres"] = float(2 * np.median(element["radius"]) * unit)
    return {"images": {"hires": _as_rgb(image)}, "scalefactors": factors}


def _affine(element, system: str) -> np.ndarray:
    """From an element's own x and y to those of a coordinate system, (3, 3)."""
    from spatialdata.transformations import get_transformation

    return get_transformation(element, system).to_affine_matrix(("x", "y"), ("x", "y"))


def _to_places(element, ids: np.ndarray, places: np.ndarray, of_element: np.ndarray) -> np.ndarray | None:
    """From the element's x and y to the cells' coordinates, (3, 3): nothing, or its transformation. None: neither."""
    if not hasattr(element, "geometry"):
        return np.eye(3)  # labels, whose pixels are the unit of the coordinates
    some = np.isin(ids, element.index).nonzero()[0][:MOST_COMPARED]
    if not len(some):
        return None
    centres = element.geometry.loc[ids[some]].centroid
    own = np.stack([centres.x, centres.y, np.ones(len(some))])
    near = 0.05 * np.ptp(places, axis=0).max() + 1e-6
    for matrix in (np.eye(3), of_element):
        if np.abs((matrix @ own)[:2].T - places[some]).max() <= near:
            return matrix
    return None


def _resolutions(image) -> list[tuple[Any, float]]:
    """The arrays of an image, (channels, y, x), and how many pixels of the largest one of theirs is wide."""
    if not hasattr(image, "children"):
        return [(image, 1.0)]
    arrays = [next(iter(scale.values())) for scale in image.children.values()]
    widest = max(array.sizes["x"] for array in arrays)
    return [(array, widest / array.sizes["x"]) for array in arrays]


def _as_rgb(image) -> np.ndarray:
    """uint8 (y, x, 3): red, green and blue where there are three channels or four, else the first one in grey."""
    n_channels = image.sizes["c"]
    values = image.transpose("y", "x", "c")[:, :, : 3 if n_channels in (3, 4) else 1].to_numpy()
    if values.dtype != np.uint8:
        values = values.astype(np.float32)
        white = np.percentile(values, BRIGHTEST)
        values = (255 * (values / white if white > 0 else values).clip(0, 1)).astype(np.uint8)
    return np.broadcast_to(values, (*values.shape[:2], 3))
