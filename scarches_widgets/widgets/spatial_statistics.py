"""squidpy's views of a tissue (`mapping.tissue`), asked for by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..data.names import DataError, listed, shown

if TYPE_CHECKING:
    from anndata import AnnData

    from ..mapping.tissue import TissueView

NAMES = {
    "nhood_enrichment": "Neighbourhood enrichment",
    "co_occurrence": "Co-occurrence",
    "ripley": "Ripley's L",
    "centrality_scores": "Centrality",
    "spatial_autocorr": "Genes by Moran's I",
    "spatial_neighbors": "Spatial graph",
}
OF_GENES = "spatial_autocorr"
BY_LIBRARY = ("nhood_enrichment", "centrality_scores", "spatial_autocorr", "spatial_neighbors")


def tissue_view(what: str, adata: AnnData, column: str | None, spatial_key: str, section_key: str | None) -> TissueView:
    """A view of `mapping.tissue`: of a column's groups, or of genes."""
    from ..mapping import tissue

    if what not in NAMES:
        raise DataError(f"There is no view '{shown(what)}'. There are: {listed(NAMES, 10)}.")
    options: dict[str, Any] = {"spatial_key": spatial_key}
    if section_key is not None and section_key in adata.obs and what in BY_LIBRARY:
        options["library_key"] = section_key
    if what == OF_GENES:
        return tissue.spatial_autocorr(adata, **options)
    if column is None:
        raise DataError("This view is of groups of cells. Choose a column.")
    if what == "spatial_neighbors":
        return tissue.spatial_neighbors(adata, color=column, **options)
    return getattr(tissue, what)(adata, column, **options)
