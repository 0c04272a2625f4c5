import pytest
from small import QUICK, SMALL

import scarches_widgets as sca


@pytest.fixture(scope="session")
def trained(atlas):
    """A small scVI. Tests do not change it."""
    model = sca.models.SCVI(atlas[atlas.obs["batch"] != "batch2"].copy(), batch_key="batch", **SMALL)
    model.train(**QUICK)
    return model
