"""Labels as points in latent space. De Donno et al. 2023, doi:10.1038/s41592-023-02035-2."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .classifier import QUANTILES, share_below

MOST_CLUSTERS = 256  # of unlabelled cells, for which a model has room
LEAST_VARIANCE = 1e-6
DEGREES_OF_FREEDOM = 4


class Prototypes(nn.Module):
    """A point per label: the mean of its cells. A label without cells has none yet.

    The probability of a label is that of equally frequent, equally wide Student distributions about the points, so the
    nearest point is the likeliest, and a cell that is far from all is less sure of it: of normal distributions, it
    would be surer the farther it is. Four degrees of freedom, as is usual where outliers are expected (Lange et al.
    1989, doi:10.2307/2290063).

    Parameters
    ----------
    n_labels, n_latent
        How many labels there are, and the width of z.

    Attributes
    ----------
    means
        (labels, n_latent).
    n_cells
        From how many cells each was taken, int64 (labels,); 0 = there is none.
    is_fixed
        Which ones `locate` leaves as they are: a reference's, in a query.
    variance
        Mean squared distance of labelled cells from their prototype, per dimension.
    distance_quantiles
        Of labelled reference cells' distances from the nearest prototype.
    """

    def __init__(self, n_labels: int, n_latent: int):
        super().__init__()
        self.register_buffer("means", torch.zeros(n_labels, n_latent))
        self.register_buffer("n_cells", torch.zeros(n_labels, dtype=torch.int64))
        self.register_buffer("is_fixed", torch.zeros(n_labels, dtype=torch.bool))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("distance_quantiles", torch.zeros(QUANTILES))

    def append(self, n_new: int) -> None:
        """Make room for `n_new` labels, of which nothing is known yet."""
        for name in ("means", "n_cells", "is_fixed"):
            buffer = getattr(self, name)
            setattr(self, name, torch.cat([buffer, buffer.new_zeros(n_new, *buffer.shape[1:])]))

    @property
    def there(self) -> Tensor:
        """Which labels have a prototype, bool (labels,)."""
        return self.n_cells > 0

    def fix(self) -> None:
        """Keep the prototypes that there are."""
        self.is_fixed.copy_(self.there)

    def clear(self) -> None:
        """Forget all prototypes."""
        self.n_cells.zero_()

    @torch.no_grad()
    def locate(self, z: Tensor, labels: Tensor) -> None:
        """Put each label that is not fixed at the mean of its cells; one without cells stays where it is.

        Parameters
        ----------
        z, labels
            (cells, n_latent) and codes, int64 (cells,), −1 = unlabelled.
        """
        z, labels = z[labels >= 0].double(), labels[labels >= 0]
        n_cells = torch.bincount(labels, minlength=len(self.means))
        sums = torch.zeros(self.means.shape, dtype=z.dtype, device=z.device).index_add_(0, labels, z)
        moved = (n_cells > 0) & ~self.is_fixed
        self.means[moved] = (sums[moved] / n_cells[moved, None]).to(self.means.dtype)
        self.n_cells[moved] = n_cells[moved]

    @torch.no_grad()
    def measure(self, z: Tensor, labels: Tensor) -> None:
        """Learn from labelled cells how far from the prototypes they lie."""
        z, labels = z[labels >= 0], labels[labels >= 0]
        squared = (z - self.means[labels]).square().mean()
        self.variance.copy_(squared.clamp_min(LEAST_VARIANCE))
        nearest = self.distances(z).amin(1).double().cpu().numpy()
        quantiles = np.quantile(nearest, np.linspace(0, 1, QUANTILES))
        self.distance_quantiles.copy_(torch.from_numpy(quantiles))

    def distances(self, z: Tensor) -> Tensor:
        """Euclidean distance to each prototype, (cells, labels); infinite where there is none."""
        distances = torch.cdist(z, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.masked_fill(~self.there, torch.inf)

    def share_nearer(self, distances: np.ndarray) -> np.ndarray:
        """Share of the labelled reference cells that are nearer to their nearest prototype, 0 to below 1."""
        return share_below(distances, self.distance_quantiles)

    def forward(self, z: Tensor, noise: object = None) -> Tensor:
        """Logits of the labels, (cells, labels)."""
        squared = self.distances(z).square() / (DEGREES_OF_FREEDOM * self.variance)
        return -(DEGREES_OF_FREEDOM + z.shape[1]) / 2 * squared.log1p()

    def pull(self, z: Tensor, labels: Tensor) -> Tensor:
        """How far cells lie from their label's prototype: the sum over labels of the mean distance of their cells.

        Parameters
        ----------
        z, labels
            (cells, n_latent) and codes, int64 (cells,), −1 = unlabelled. Labels without a prototype do not count.
        """
        counts = torch.cat([self.there, self.there.new_zeros(1)])[labels]  # −1 is the last one
        z, labels = z[counts], labels[counts]
        n_cells = torch.bincount(labels, minlength=len(self.means))
        return (torch.linalg.vector_norm(z - self.means[labels], dim=-1) / n_cells[labels]).sum()
