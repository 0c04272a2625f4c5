"""Views: watch and steer training, map a query, look at cells."""

from importlib import import_module

_HOMES = {
    "LossMonitor": "loss_monitor",
    "TrainingPanel": "training_panel",
    "MappingPanel": "mapping_panel",
    "LabelReview": "label_review",
    "EmbeddingView": "embedding_view",
    "GenePrograms": "gene_programs",
    "TreeEditor": "tree_editor",
    "SpatialMapper": "spatial_mapper",
    "ModelHub": "model_hub",
    "Suite": "suite",
    "Exercise": "exercise",
    "Session": "session",
}
__all__ = [*_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
