"""Expression as classifiers of places take it: of one depth, logarithmic, standardised within each section.

    x_ig = log(1 + target_sum · counts_ig / Σ_g counts_ig)        of a matrix of counts; another one is taken as it is
    z_ig = (x_ig − mean_sg) / sd_sg, at most ±4                   s: the section of cell i

What differs between sections in the mean and in the scale of a gene is thereby left out, also between technologies: a
mapping needs the query's cells to cover about the same tissue as the reference's. A gene that the cells lack, or that
is the same in all of them, has z = 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from .matrix import matrix_of
from .minibatches import Cells
from .schema import DataSchema, as_text

FEWEST_CELLS = 25  # of a section whose own means and scales are taken
LIMIT = 4.0  # of z
CELLS_AT_ONCE = 1024


class SectionedExpression:
    """The cells of an AnnData in the genes of a model.

    Parameters
    ----------
    adata
        Not modified.
    genes, layer
        Names of the model's genes, in its order, and the layer to read (None: X).
    section_key
        Column of `obs`; None, or one that is not there: all cells are one section.
    gene_map, min_gene_overlap
        As in `DataSchema.align`, which see for the errors.
    target_sum
        Depth to which counts are scaled; None: the median of these cells.

    Attributes
    ----------
    sections
        Code of each cell's section, int (cells,).
    report
        How the genes compare.
    target_sum
        Depth to which counts are scaled; None for what are no counts.
    """

    def __init__(
        self,
        adata,
        genes: tuple[str, ...],
        layer: str | None = None,
        section_key: str | None = None,
        gene_map: str | Mapping[str, str] | None = None,
        min_gene_overlap: float = 0.0,
        target_sum: float | None = None,
    ):
        schema = DataSchema(genes, layer=layer)
        columns, self.report = schema.align(adata, gene_map, min_gene_overlap)
        self.holds_counts = _holds_counts(adata, layer)
        self.genes, self.n_cells, self.names = genes, adata.n_obs, adata.obs_names
        self._cells = Cells(adata, schema, columns, are_counts=self.holds_counts)
        self._is_present = np.ones(len(genes), bool)
        if columns is not None:
            self._is_present[:] = False
            self._is_present[columns[columns >= 0]] = True
        self.sections = np.zeros(adata.n_obs, dtype=np.int64)
        if section_key is not None and section_key in adata.obs:
            names = as_text(adata.obs[section_key]).astype(str)
            self.sections = np.unique(names, return_inverse=True)[1]
        self.target_sum = target_sum
        if self.holds_counts and target_sum is None:
            depths = [cells.library_size.numpy() for cells in self._cells.in_order(CELLS_AT_ONCE)]
            self.target_sum = float(np.median(np.concatenate(depths)))

    def logged(self, genes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """x above: rows of some cells, and their values in the genes at these positions, float32 (cells, genes)."""
        for cells in self._cells.in_order(CELLS_AT_ONCE):
            values = cells.counts.numpy()[:, genes]
            if self.holds_counts:
                values = np.log1p(values * (np.float32(self.target_sum) / cells.library_size.numpy()))
            yield cells.rows, values

    def moments(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations in each section, float64 (sections, genes)."""
        n_sections = self.sections.max() + 1
        sums, squares = np.zeros((2, n_sections, len(genes)))
        for rows, values in self.logged(genes):
            values = values.astype(np.float64)
            for section in np.unique(self.sections[rows]):
                of_section = values[self.sections[rows] == section]
                sums[section] += of_section.sum(0)
                squares[section] += (of_section**2).sum(0)
        n_cells = np.bincount(self.sections)[:, None]
        means = sums / n_cells
        return means, np.sqrt(np.maximum(squares / n_cells - means**2, 0))

    def standardized(
        self, genes: np.ndarray, fallback: tuple[np.ndarray, np.ndarray] | None = None, always: bool = False
    ) -> Iterator[np.ndarray]:
        """z above, some cells after the other, float32 (cells, genes).

        Parameters
        ----------
        genes
            Positions.
        fallback
            Means and standard deviations, each (genes,), for sections of less than 25 cells; None: always their own.
        always
            Whether to take the fallback's for all sections.
        """
        means, scales = self.moments(genes)
        if fallback is not None:
            too_small = (np.bincount(self.sections) < FEWEST_CELLS) | always
            means[too_small], scales[too_small] = fallback
        scales = np.where((scales > 1e-6) & self._is_present[genes], scales, np.inf)
        for rows, values in self.logged(genes):
            section = self.sections[rows]
            yield np.clip((values - means[section]) / scales[section], -LIMIT, LIMIT).astype(np.float32)

    @property
    def n_in_small_sections(self) -> int:
        """Cells whose section is too small for means and scales of its own."""
        n_cells = np.bincount(self.sections)
        return int(n_cells[n_cells < FEWEST_CELLS].sum())


def _holds_counts(adata, layer: str | None) -> bool:
    """Whether every value is a whole number ≥ 0, and one is above 1 (a matrix of 0 and 1 has no depth)."""
    highest = 0.0
    for values in (block.values for block in matrix_of(adata, layer).blocks() if block.values.size):
        highest = max(highest, float(values.max()))
        if values.min() < 0 or not (values == np.rint(values)).all():
            return False
    return highest > 1
