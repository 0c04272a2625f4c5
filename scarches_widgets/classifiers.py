"""The path by which scArches' users know the trees: `classifiers.scHPL` is `hierarchy`."""

from .mapping import hierarchy as scHPL

__all__ = ["scHPL"]
