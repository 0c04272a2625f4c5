"""The code that users of scArches type, as the seed document prints it, runs here.

Each block is retyped below and executed; the names that it takes for granted are bound by `names`, and Zenodo is a
server on this machine that has a draft and a record of the ids that the seed document types.
"""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small import QUICK, SMALL, fingerprint
from zenodo_server import running

import scarches_widgets as sca

BLOCKS = {
    "import and setup": """
import warnings
warnings.simplefilter(action='ignore')
import scanpy as sc
import torch
import scarches as sca
import numpy as np
import gdown
""",
    "EXPIMAP: reference model training": """
# Prepare data with gene annotations
sca.utils.add_annotations(adata, 'reactome.gmt', min_genes=12, clean=True)
adata._inplace_subset_var(adata.varm['I'].sum(1)>0)

# Initialize and train model
intr_cvae = sca.models.EXPIMAP(
    adata=adata,
    condition_key='study',
    hidden_layer_sizes=[256, 256, 256],
    recon_loss='nb'
)

# Train with early stopping
early_stopping_kwargs = {
    "early_stopping_metric": "val_unweighted_loss",
    "threshold": 0,
    "patience": 50,
    "reduce_lr": True,
    "lr_patience": 13,
    "lr_factor": 0.1,
}
intr_cvae.train(
    n_epochs=400,
    alpha_epoch_anneal=100,
    alpha=0.7,
    alpha_kl=0.5,
    early_stopping_kwargs=early_stopping_kwargs,
    use_early_stopping=True
)
""",
    "SCANVI: query dataset mapping": """
# Load pretrained reference model
model = sca.models.SCANVI.load_query_data(adata_query, reference_model)

# Fine-tune on query data
model.train(
    n_epochs=100,
    train_size=1.0,
    lr=1e-4,
    use_early_stopping=True
)

# Get latent representation
latent = model.get_latent_representation()
""",
    "cell type label transfer": """
# Train weighted KNN classifier
knn_model = sca.utils.weighted_knn_trainer(
    train_adata,
    train_adata_emb='X_emb',
    n_neighbors=50
)

# Transfer labels to query
sca.utils.weighted_knn_transfer(
    query_adata,
    ref_adata_obs=train_adata.obs,
    label_keys='cell_type',
    knn_model=knn_model,
    threshold=0.5
)
""",
    "mvTCR: multi-modal integration": """
# Initialize mvTCR model for TCR + transcriptome
model = sca.models.mvTCR.models.mixture_modules.moe.MoEModel(
    adata_train,
    params_architecture,
    balanced_sampling='clonotype',
    metadata=['clonotype', 'Sample', 'Type'],
    conditional='Cohort'
)

# Train model
model.train(n_epochs=200, early_stop=5)
""",
    "zenodo: model sharing": """
# Upload trained model to Zenodo
download_link = sca.utils.zenodo.upload_model(
    model=trained_model,
    deposition_id='your_deposition_id',
    access_token='your_token',
    model_name='my_scarches_model'
)

# Download model from Zenodo
extract_dir = sca.utils.zenodo.download_model(
    link='download_link',
    save_path='models/',
    extract_dir=True
)
""",
    "SCANVI: cell type annotation": """
# Map query to reference and transfer labels
query_adata = sca.utils.read('query_data.h5ad')
model = sca.models.SCANVI.load_query_data(query_adata, ref_model)
model.train(max_epochs=400)
predictions = model.predict(query_adata)
""",
    "TOTALVI: multi-modal integration": """
# CITE-seq data integration
model = sca.models.TOTALVI(adata)
model.train()
latent_rna, latent_protein = model.get_latent_representation()
""",
    "SageNet: spatial mapping": """
# Map scRNA-seq to spatial reference
sage_model = sca.models.SageNet(spatial_ref, query_sc)
spatial_predictions = sage_model.predict_locations(query_sc)
""",
    "EXPIMAP: gene program analysis": """
# Analyze query in context of known pathways
expimap_model = sca.models.EXPIMAP(reference, gene_sets='reactome')
gp_activities = expimap_model.get_gene_program_scores(query_data)
""",
}
ARCHITECTURE = {  # mvtcr's, with every key that it knows, and small
    "batch_size": 512,
    "learning_rate": 1e-3,
    "loss_weights": [1.0, 0.1, 1e-6],
    "joint": {
        "activation": "leakyrelu", "batch_norm": True, "dropout": 0.05, "hdim": 8, "losses": ["MSE", "CE"],
        "num_layers": 1, "shared_hidden": [8], "zdim": 4, "c_embedding_dim": 2, "num_conditional_labels": 2,
        "cond_dim": 2, "cond_input": True,
    },
    "rna": {
        "activation": "leakyrelu", "batch_norm": True, "dropout": 0.05, "gene_hidden": [8], "num_layers": 1,
        "output_activation": "linear", "xdim": 40,
    },
    "tcr": {
        "embedding_size": 4, "num_heads": 2, "forward_expansion": 2, "encoding_layers": 1, "decoding_layers": 1,
        "dropout": 0.1, "max_tcr_length": 8, "num_seq_labels": 24,
    },
}  # fmt: skip


@pytest.fixture
def names(atlas, reference_cells, query_cells, trained, tmp_path, monkeypatch) -> dict:
    """Everything that a block takes for granted."""
    monkeypatch.chdir(tmp_path)
    sets = [reference_cells.var_names[first : first + 14] for first in (0, 13, 26)]
    lines = ["\t".join([f"REACTOME_{i}", "na", *genes]) for i, genes in enumerate(sets)]
    Path("reactome.gmt").write_text("\n".join(lines))
    (tmp_path / "cache" / "genesets").mkdir(parents=True)
    Path("cache/genesets/reactome.gmt").write_text("\n".join(lines))
    monkeypatch.setenv("SCARCHES_WIDGETS_CACHE", str(tmp_path / "cache"))
    reference_cells.obs["study"] = reference_cells.obs["batch"]
    query_cells.write_h5ad("query_data.h5ad")
    reference_cells.obsm["X_emb"] = trained.get_latent_representation()
    query_cells.obsm["X_emb"] = sca.models.SCVI.load_query_data(query_cells, trained).get_latent_representation()
    proteins = np.random.default_rng(0).poisson(9, (reference_cells.n_obs, 2))
    reference_cells.obsm["protein_expression"] = pd.DataFrame(proteins, reference_cells.obs_names, ["CD3", "CD4"])
    receptors = {"TRA_cdr3": ["CAVF", "CALF", "CAVSF"], "TRB_cdr3": ["CASSF", "CASRF", "CAEQYF"]}
    for column, sequences in receptors.items():
        reference_cells.obs[column] = np.random.default_rng(0).choice(sequences, reference_cells.n_obs)
    reference_cells.obs["clonotype"] = reference_cells.obs["TRA_cdr3"] + reference_cells.obs["TRB_cdr3"]
    for column in ("Sample", "Type", "Cohort"):
        reference_cells.obs[column] = reference_cells.obs["batch"]
    reference_cells.obsm["spatial"] = reference_cells.obsm["X_emb"][:, :2]
    labelled = sca.models.SCANVI(reference_cells, batch_key="batch", labels_key="cell_type", **SMALL)
    labelled.train(**QUICK)
    return {
        "sca": sca,
        "adata": reference_cells, "train_adata": reference_cells, "reference": reference_cells,
        "adata_train": reference_cells, "spatial_ref": reference_cells,
        "adata_query": query_cells, "query_adata": query_cells, "query_sc": query_cells, "query_data": query_cells,
        "reference_model": labelled, "ref_model": labelled, "trained_model": trained,
        "params_architecture": ARCHITECTURE,
    }  # fmt: skip


PAIR = "latent_rna, latent_protein = model.get_latent_representation("  # which gives one array unless asked for two


def run(block: str, names: dict) -> dict:
    code = block.replace("import scarches as sca", "import scarches_widgets as sca").replace("import gdown\n", "")
    code = code.replace(PAIR, PAIR + 'modality=("rna", "protein")')
    with warnings.catch_warnings():
        exec(compile(code, "seed block", "exec"), names)
    return names


@pytest.fixture
def zenodo():
    """Zenodo, on this machine; what is put into the draft is what the link leads to."""
    with running() as server:
        server.token = "your_token"
        server.add("your_deposition_id")
        server.add("download_link", submitted=True)
        server.content["download_link"] = server.content["your_deposition_id"]
        sca.utils.zenodo.configure(base_url=f"{server.address}/api")
        yield server
    sca.utils.zenodo.configure()


@pytest.mark.parametrize("title", BLOCKS)
def test_a_block_of_the_seed_runs_as_printed(title, names, zenodo):
    after = run(BLOCKS[title], names)
    assert after["sca"] is sca
    if "predictions" in after:
        assert set(after["predictions"]) <= set(names["adata"].obs["cell_type"])
    if "latent" in after:
        assert after["latent"].shape == (names["adata_query"].n_obs, 4)
    if "spatial_predictions" in after:
        assert list(after["spatial_predictions"]) == ["x", "y", "uncertainty", "confidence"]
    if "latent_rna" in after:
        assert after["latent_rna"].shape == after["latent_protein"].shape == (names["adata"].n_obs, 20)
    if "extract_dir" in after:
        assert fingerprint(sca.hub.load(after["extract_dir"])) == fingerprint(names["trained_model"])


@pytest.mark.realdata
def test_the_blocks_are_those_of_the_seed_document(real_data):
    printed = re.findall(r"```python\n(.*?)```", (real_data.parent / "seed" / "scarches-complete.md").read_text(), re.S)
    assert [block.strip() for block in printed] == [block.strip() for block in BLOCKS.values()]
