"""A tissue as it is drawn: places, sections, sizes, image, neighbours, outlines of regions."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..data.coordinates import places_of
from ..data.findings import counted
from ..data.names import listed
from ..data.schema import as_text
from ..data.sections import SectionedExpression
from ..mapping.layers import outlines, spacing
from ..nn.tissue import neighbour_graph

if TYPE_CHECKING:
    from anndata import AnnData

PLANES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}
MOST_PIXELS = 1200  # of an image's longer side on its way to the page
MOST_LINES = 150_000  # of a graph, or of outlines
MOST_CELLS = 200_000  # of which a graph is made, or outlines
N_NEIGHBORS = 6
PLANE_GENES, PLANE_CELLS = 1000, 5000  # from which two principal components are taken
DEPTH = 1e4


def spatial_keys(adata: AnnData) -> list[str]:
    """Keys of obsm that could hold coordinates: those of two or three columns."""
    shapes = {key: getattr(values, "shape", ()) for key, values in adata.obsm.items()}
    return [key for key, shape in shapes.items() if len(shape) == 2 and shape[1] in (2, 3)]


class Tissue:
    """Cells with coordinates.

    Parameters
    ----------
    adata, spatial_key, section_key
        As `SageNet` takes them.
    libraries
        Images by section, as `uns["spatial"]` of the AnnData would hold them; None: those that it holds.
    without_image
        Why other sections have none.

    Raises
    ------
    DataError
        The coordinates or the column do not exist, or are not what they must be.
    """

    def __init__(
        self,
        adata: AnnData,
        spatial_key: str,
        section_key: str | None = None,
        *,
        libraries: Mapping[str, Any] | None = None,
        without_image: Sequence[str] = (),
    ):
        self.adata = adata
        self.libraries = adata.uns.get("spatial") if libraries is None else libraries
        self._without_image = without_image
        self.places = places_of(adata, spatial_key)  # (cells, 2 or 3)
        self.codes, self.sections = np.zeros(adata.n_obs, dtype=int), []
        self._spacings: dict[int, float] = {}  # of cells, by their section's code
        if section_key is not None:
            self.codes, names = pd.factorize(as_text(adata.obs[section_key]), sort=True)
            self.sections = [str(name) for name in names]

    @property
    def planes(self) -> list[str]:
        return [plane for plane, axes in PLANES.items() if max(axes) < self.places.shape[1]]

    def in_plane(self, plane: str) -> np.ndarray:
        """Two coordinates of each cell, float64 (cells, 2)."""
        return self.places[:, PLANES[plane]]

    def is_in(self, section: str | None) -> np.ndarray:
        """Which cells lie in a section, or in any, bool (cells,)."""
        if section is None:
            return np.ones(len(self.codes), dtype=bool)
        return self.codes == self.sections.index(section)

    def diameter(self, section: str | None = None) -> float:
        """Of a spot, as the libraries say; else of cells that nearly touch, in the units of the coordinates."""
        factors = (self._library(section) or {}).get("scalefactors", {})
        if "spot_diameter_fullres" in factors:
            return float(factors["spot_diameter_fullres"])
        code = int(self.codes[np.argmax(self.is_in(section))])  # of one section: those of others may lie on top
        if code not in self._spacings:
            self._spacings[code] = spacing(self.places[self.codes == code])
        return self._spacings[code]

    def _library(self, section: str | None) -> dict[str, Any] | None:
        """What is known about a section's picture, or about the only one there is."""
        libraries = self.libraries
        if not isinstance(libraries, dict | pd.Series) or not len(libraries):
            return None
        if section in libraries:
            return libraries[section]
        return next(iter(libraries.values())) if len(libraries) == 1 else None

    def image(self, section: str | None) -> dict[str, Any]:
        """The tissue's picture as a message: a JPEG and where it lies; or `why` there is none."""
        if self._without_image and (section is None or section not in self.libraries):
            return {"why": f"There is an image that is not drawn: {'; '.join(self._without_image)}."}
        if not self.libraries:
            return {"why": 'The reference has no tissue image (uns["spatial"], or the images of SpatialData).'}
        library = self._library(section)
        if library is None:
            return {"why": f"Choose a section: there are images of {listed(self.libraries, 5)}."}
        images, factors = library.get("images", {}), library.get("scalefactors", {})
        for kind in ("hires", "lowres"):
            scale = factors.get(f"tissue_{kind}_scalef")
            if kind in images and scale:
                height, width = np.shape(images[kind])[:2]
                size = {"width": width / scale, "height": height / scale}
                return {"jpeg": _as_jpeg(np.asarray(images[kind])), **size}
        return {"why": "uns['spatial'] holds neither a hires nor a lowres image with its scale factor."}

    def graph(self, plane: str, section: str | None) -> dict[str, Any]:
        """Lines between neighbours as a message: the AnnData's own graph, or the six nearest neighbours."""
        own = self.adata.obsp.get("spatial_connectivities")
        if own is None and (why := self._too_many(section)):
            return {"why": why}
        inside = np.flatnonzero(self.is_in(section))
        if own is None:
            graph = neighbour_graph(self.places[inside], N_NEIGHBORS, self.codes[inside])
        else:
            graph = own[inside][:, inside]
        rows, columns = (inside[ends] for ends in graph.nonzero())
        kept = rows < columns
        if (n := int(kept.sum())) > MOST_LINES:
            return {"why": f"The graph has {n:,} edges, more than the {MOST_LINES:,} that are drawn. Choose a section."}
        places = self.in_plane(plane)
        source = f"the {N_NEIGHBORS} nearest" if own is None else "obsp['spatial_connectivities']"
        return {"lines": _lines(places[rows[kept]], places[columns[kept]]), "note": f"{counted(n, 'edge')}, {source}"}

    def outlines(self, plane: str, section: str | None, codes: np.ndarray, n_regions: int) -> dict[str, Any]:
        """Outlines of regions as a message: where triangles of neighbours in one region end, and each line's region."""
        if why := self._too_many(section):
            return {"why": why}
        rings = self.rings(plane, section, codes, n_regions)
        if not rings:
            return {"why": "No three neighbours lie in one region, so there is nothing to outline."}
        starts = np.concatenate([corners for _, corners in rings])
        if len(starts) > MOST_LINES:
            return {"why": f"The outlines have {len(starts):,} lines, more than the {MOST_LINES:,} that are drawn."}
        ends = np.concatenate([np.roll(corners, -1, axis=0) for _, corners in rings])
        regions = np.repeat([code for code, _ in rings], [len(corners) for _, corners in rings])
        return {"lines": _lines(starts, ends), "regions": regions.astype("<u2").tobytes()}

    def rings(self, plane: str, section: str | None, codes: np.ndarray, n_regions: int) -> list[tuple[int, np.ndarray]]:
        """Closed lines round regions, each with its region's code; see `mapping.layers.outlines`."""
        places = self.in_plane(plane)
        codes = np.where(codes < n_regions, codes, -1)
        rings = []
        for part in np.unique(self.codes[self.is_in(section)]):
            of_part = self.codes == part
            rings += outlines(places[of_part], codes[of_part])
        return rings

    def _too_many(self, section: str | None) -> str:
        """Why no lines are drawn between the cells in sight; empty if they are few enough."""
        n = int(self.is_in(section).sum())
        if n <= MOST_CELLS:
            return ""
        return f"{n:,} cells are in sight, more than the {MOST_CELLS:,} that lines are drawn between. Choose a section."


def _lines(starts: np.ndarray, ends: np.ndarray) -> bytes:
    """float32: all x0, y0, x1, y1."""
    return np.concatenate([starts.T, ends.T]).astype("<f4").tobytes()


def _as_jpeg(pixels: np.ndarray) -> bytes:
    from PIL import Image

    if pixels.dtype.kind == "f":
        pixels = (pixels.clip(0, 1) if np.nanmax(pixels) <= 1 else pixels.clip(0, 255) / 255) * 255
    picture = Image.fromarray(np.nan_to_num(pixels).astype(np.uint8).squeeze()).convert("RGB")
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def expression_plane(adata: AnnData, layer: str | None = None) -> np.ndarray:
    """Two principal components of log counts per 10,000 of the 1,000 genes that vary most, float32 (cells, 2).

    Their directions are those of 5,000 cells at most.
    """
    genes = tuple(map(str, adata.var_names))
    cells = SectionedExpression(adata, genes, layer, target_sum=DEPTH)
    chosen = np.arange(len(genes))
    if len(chosen) > PLANE_GENES:
        variance = (cells.moments(chosen)[1] ** 2).mean(0)
        chosen = np.sort(np.argsort(-variance, kind="stable")[:PLANE_GENES])
    every = -(-adata.n_obs // PLANE_CELLS)
    sample = np.concatenate([values[rows % every == 0] for rows, values in cells.logged(chosen)])
    mean, directions = _two_directions(sample)
    return np.concatenate([(values - mean) @ directions for _, values in cells.logged(chosen)]).astype(np.float32)


def latent_plane(z: np.ndarray) -> np.ndarray:
    """Two principal components of latents, float32 (cells, 2)."""
    mean, directions = _two_directions(z)
    return ((z - mean) @ directions).astype(np.float32)


def _two_directions(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and the two directions of the largest variance, (columns, 2)."""
    mean = values.mean(0)
    centred = values - mean
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    signs = np.where(directions.max(0) >= -directions.min(0), 1, -1)  # the same on each machine
    return mean, np.pad(directions * signs, ((0, 0), (0, 2 - directions.shape[1])))
