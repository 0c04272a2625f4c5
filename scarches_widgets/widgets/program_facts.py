"""What a view says of one gene program: how much of its set was measured, its loadings, and programs like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data.gene_sets import Source, labels_of, read_gene_sets

if TYPE_CHECKING:
    from anndata import AnnData

    from ..models.base import Model

GENES_SHOWN = 200
SIMILAR_SHOWN = 5
TOP_GENES = 50  # by which a program without a set is compared to others
UNCLEAR = 0.2  # confidence in a direction below which a larger latent hardly says whether genes go up or down


class ProgramFacts:
    """What a model says of its programs without looking at any cell.

    Attributes
    ----------
    mask
        Term -> genes that it is annotated with.
    sets
        The same, but none for a program that may take any gene: it has no set.
    is_on
        Which programs the group lasso has left active, bool (terms,).
    """

    def __init__(self, model: Model):
        self._model = model
        self.mask = model.mask_genes()
        n_all = len(model.schema.genes)
        self.sets = {term: [] if len(genes) == n_all else genes for term, genes in self.mask.items()}
        self.is_on = model.nonzero_terms()
        self._directions = model.latent_directions()
        self._terms = tuple(self.mask)

    def row(self, i: int, of: str) -> dict[str, Any]:
        """What a table says of a program besides its activity, read `of` "genes" or "latents"."""
        term = self._terms[i]
        is_read_by_latent = of == "latents" or not self.sets[term]
        unclear = is_read_by_latent and self.is_on[i] and self._directions["confidence"].iloc[i] < UNCLEAR
        facts = {"n": len(self.mask[term]), "set": bool(self.sets[term]), "on": bool(self.is_on[i])}
        return {**facts, "unclear": bool(unclear)}

    def opened(self, i: int, adata: AnnData, of: str) -> dict[str, Any]:
        """All that is said of one program; loadings are turned so that positive ones are the larger part."""
        term, model = self._terms[i], self._model
        table, annotated = model.term_genes(term), self.sets[term]
        _, report = model.schema.align(adata, model.gene_map)
        missing, colourable = set(report.missing), set(adata.var_names)
        weights = table["weights"].to_numpy() * (self._directions["direction"].iloc[i] or 1)
        genes = [
            {"gene": gene, "weight": float(weight), "in_mask": bool(kept), "here": gene in colourable}
            for gene, weight, kept in zip(table["genes"], weights, table["in_mask"])
        ]
        return {
            **self.row(i, of),
            "i": i,
            "confidence": float(self._directions["confidence"].iloc[i]),
            "n_annotated": len(annotated),
            "n_here": sum(gene not in missing for gene in annotated),
            "n_loaded": len(table),
            "n_up": int((weights > 0).sum()),
            "n_joined": int((~table["in_mask"]).sum()) if annotated else 0,
            "similar": self._similar(i, annotated or table["genes"].head(TOP_GENES).tolist()),
            "genes": genes[:GENES_SHOWN],
        }

    def _similar(self, i: int, genes: Sequence[str]) -> list[dict[str, int]]:
        """Programs that share genes with these, the largest share of all genes of both first."""
        mine, found = set(genes), []
        for other, theirs in enumerate(self.sets.values()):
            if other != i and self.is_on[other] and (n := len(mine.intersection(theirs))):
                found.append((n / len(mine.union(theirs)), other, n))
        return [{"i": other, "n": n} for _, other, n in sorted(found, reverse=True)[:SIMILAR_SHOWN]]


def set_sizes(source: Source, annotated: Mapping[str, Sequence[str]]) -> dict[int, int]:
    """How many genes the set of each program has: of those whose set is found by its name and has its genes."""
    sets = read_gene_sets(source)
    by_name = dict(zip(labels_of(sets), sets.values())) | sets
    sizes = {}
    for i, (term, genes) in enumerate(annotated.items()):
        members = {gene.upper() for gene in by_name.get(term, ())}
        if genes and {gene.upper() for gene in genes} <= members:
            sizes[i] = len(members)
    return sizes
