"""Options in words, for forms: a label, a line of help, and whether the option is one of the few shown first.

The configs name their options for those who read formulas (`n_latent: dimensions of z`); this table names them for
those who fill in a form. A test sees to it that every option of every model stands here.
"""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """What a form says about an option."""

    label: str
    hint: str = ""
    main: bool = False  # shown at once; the others stand under "Advanced"


OPTIONS = {
    # data
    "layer": Words("Counts", "The matrix with the raw counts.", main=True),
    "batch_key": Words("Batch", "Column of obs that tells experiments or samples apart.", main=True),
    "labels_key": Words("Labels", "Column of obs with cell types.", main=True),
    "unlabeled_category": Words("Not labelled", "The label that stands for cells without one.", main=True),
    "protein_key": Words("Proteins", "Table in obsm with the counts of antibodies; none: the only one.", main=True),
    "gene_sets": Words(
        "Gene sets", "A GMT file, or 'reactome' if it was fetched; empty: those noted in varm['I'].", main=True
    ),
    "size_factor_key": Words("Size factor", "Column of obs with a positive number per cell; none: its total count."),
    # networks
    "n_latent": Words("Latent dimensions", "Numbers by which a cell is described.", main=True),
    "n_layers": Words("Hidden layers", "Of the encoder and of the decoder.", main=True),
    "n_hidden": Words("Units per hidden layer"),
    "dropout_rate": Words("Dropout", "Share of the encoder's units that sit out each step."),
    "gene_likelihood": Words("Distribution of counts", main=True),
    "dispersion": Words("Dispersion", "How counts scatter about their mean."),
    "encode_covariates": Words(
        "Encoder sees batches", "Needed if this is a reference that queries will be mapped onto.", main=True
    ),
    "deeply_inject_covariates": Words("Batches enter every layer", "Otherwise the first one only."),
    "use_observed_lib_size": Words("Total count is the library size", "Otherwise it is inferred."),
    "use_batch_norm": Words("Batch normalisation", "Over the cells of a minibatch."),
    "use_layer_norm": Words("Layer normalisation", "Within a cell; published for references."),
    "hidden_layer_sizes": Words("Hidden layers", "Units of each, from the genes to the latent."),
    "shared_hidden": Words("Hidden layers, joint", "Units of each, between modalities and latent."),
    "gene_hidden": Words("Hidden layers, RNA", "Units of each, from the genes on."),
    "use_mmd": Words("Draw batches together", "By a penalty on the discrepancy between batches.", main=True),
    "mmd_on": Words("Draw together", "Where the discrepancy is measured."),
    "mmd_boundary": Words("First batches", "Compare only so many first batches with the others; empty: all pairs."),
    "mmd_weight": Words("Discrepancy weight", "Of the penalty, against the counts."),
    "embedding_max_norm": Words("Longest condition vector", "Greatest length of a learned condition."),
    "soft_mask": Words("Genes may join programs", "That they are not annotated with, at a price.", main=True),
    "n_layers_encoder": Words("Hidden layers of the encoder"),
    "n_layers_decoder": Words("Hidden layers of the decoders"),
    "dropout_rate_decoder": Words("Dropout of the decoders", "Share of their units that sit out each step."),
    "protein_dispersion": Words("Dispersion of proteins", "How their counts scatter about their mean."),
    "empirical_protein_background_prior": Words("Background from cells", "Start from their lower counts."),
    "background_scale": Words("Spread of the background", "How it is kept positive."),
    "linear_classifier": Words("Linear classifier", "Otherwise it has hidden layers, as the encoder has."),
    # several modalities
    "modality_key": Words("Modalities", "Column of var that says whose a feature is; none: 'modality'.", main=True),
    "condition_dim": Words("Condition dimensions", "Numbers by which a batch or covariate is described."),
    "mix": Words("Modalities together", "How what each says of a cell is joined.", main=True),
    "modality_dropout": Words("Seen by one", "Share of cells encoded by one of their modalities.", main=True),
    "kl_coef": Words("KL coefficient", "Of the KL weight, in this model."),
    "integrate_on": Words("Groups to draw together", "Column of obs: the batch, or a covariate; empty: none."),
    "mmd": Words("Draw together in", "Which latents of the groups."),
    # receptors
    "combine": Words("RNA and receptor", "How what each says of a cell is joined.", main=True),
    "sequence_encoder": Words("Receptors are read by", main=True),
    "activation": Words("Activation", "Of the layers between modalities and latent."),
    "rna_activation": Words("Activation, RNA", "Of the layers that see the genes."),
    "rna_dropout_rate": Words("Dropout, RNA", "Share of those layers' units that sit out each step."),
    "rna_batch_norm": Words("Batch normalisation, RNA", "Over the cells of a minibatch."),
    "n_embedding": Words("Residue dimensions", "Numbers by which a residue is described."),
    "n_heads": Words("Heads of attention", "They must divide the residue's dimensions."),
    "forward_expansion": Words("Widening", "Of attention's inner layers."),
    "sequence_dropout_rate": Words("Dropout, receptor", "Share of those layers' units that sit out each step."),
    "max_tcr_length": Words("Longest CDR3", "In residues."),
    "n_tokens": Words("Tokens", "Amino acids and padding; more for mvtcr's own alphabet."),
    "n_condition": Words("Batch dimensions", "Numbers by which a batch is described."),
    "supervised": Words("Learn labels", "By a classifier, beside RNA and receptor.", main=True),
    "balanced_sampling": Words("Balance", "Column of obs whose large groups are drawn less often; empty: none."),
    "normalize": Words("Normalise", "Whether the values are raw counts; automatic: looked at."),
    # places in tissue
    "classifier": Words("Classifier", "What sees the genes before regions are told apart.", main=True),
    "partitions": Words("Regions by", "How the tissue is cut into the regions that are told apart.", main=True),
    "n_top_genes": Words("Spatial genes", "Those that vary most over the tissue, by Moran's I.", main=True),
    "n_components": Words("Spatial components", "Directions in which neighbourhoods vary most."),
    "n_neighbors": Words("Neighbours in space", "Of each cell, to tell what varies over the tissue."),
    "gene_network_alpha": Words("Gene network's penalty", "The larger, the fewer edges; empty: chosen by the data."),
    "standardize": Words("Standardise by", "Whose means and scales a query's genes are compared by."),
    "sharpness": Words("Sharpness of places", "Below 1, a place is a mean over more of the tissue."),
    "section_key": Words("Sections", "Column of obs that tells sections of one tissue apart.", main=True),
    "spatial_key": Words("Coordinates", "Table in obsm with each cell's place.", main=True),
    # training
    "schedule": Words("Schedule", "How the learning rate changes.", main=True),
    "max_epochs": Words("Epochs", "Passes over all cells, at most.", main=True),
    "early_stopping": Words("Early stopping", "End when held-out cells gain no more; keep the best epoch.", main=True),
    "device": Words("Device", main=True),
    "batch_size": Words("Minibatch", "Cells per step."),
    "shuffle_block": Words("Shuffle in blocks of", "Neighbours in a file that stay together; empty: none."),
    "lr": Words("Learning rate", "The highest of the run."),
    "weight_decay": Words("Weight decay"),
    "train_size": Words("Training share", "Of the cells; the others are held out."),
    "kl_weight": Words("KL weight", "After its warm-up."),
    "kl_warmup_epochs": Words("KL warm-up", "Epochs in which the weight rises."),
    "kl_warmup_steps": Words("KL warm-up in steps", "In place of epochs."),
    "protein_weight": Words("Protein weight", "Of the proteins' counts, against the genes'."),
    "rna_weight": Words("RNA weight", "Of the expression."),
    "tcr_weight": Words("Receptor weight", "Of the residues, against the genes."),
    "adversarial_classifier": Words("Confuse batches", "By a classifier; automatic: where some lack proteins."),
    "classification_weight": Words("Classification weight", "Of the labels, against the counts."),
    "n_samples_per_label": Words("Cells per label", "Labelled cells of each label per epoch, at most; empty: all."),
    "group_lasso_weight": Words("Programs' price", "The higher, the more of them are switched off.", main=True),
    "hsic_weight": Words("Independence weight", "Of what keeps new free programs apart from the others."),
    "free_l1_weight": Words("Free programs' price", "Of the loadings of new free programs."),
    "free_l1_warmup_epochs": Words("Free programs' warm-up", "Epochs in which it rises; empty: none."),
    "l1_weight": Words("Joining genes' price", "Of loadings outside a soft mask."),
    "l1_warmup_epochs": Words("Joining price's warm-up", "Epochs in which it rises; empty: none."),
    "prototype_weight": Words("Prototype weight", "Of the pull towards labels' prototypes, against the counts."),
    "pretraining_epochs": Words("Epochs without prototypes", "At first; empty: the schedule's share."),
    "unlabeled_prototype_training": Words("Cluster unlabelled cells", "In the end, for labels yet to be named."),
    "clustering": Words("Clusters by"),
    "clustering_resolution": Words("Resolution of clusters", "Of Leiden; the larger, the more."),
    "n_clusters": Words("Number of clusters", "Of k-means."),
    "seed": Words("Seed", "The same seed gives the same model."),
    "threads": Words("CPU threads", "Small models are fastest with one."),
    "processes": Words("Processes", "That train together on this machine, each with its own memory."),
    # early stopping
    "metric": Words("Watched loss"),
    "mode": Words("Better is"),
    "threshold": Words("Least gain", "By which an epoch must be better."),
    "patience": Words("Patience", "Epochs without gain before the run ends."),
    "warmup_epochs": Words("Grace", "First epochs, which do not count."),
    "reduce_lr": Words("Reduce learning rate", "When there is no gain."),
    "lr_patience": Words("Reduction patience", "Epochs without gain before each reduction."),
    "lr_factor": Words("Reduction factor"),
}

VALUES = {  # of those options whose values do not speak for themselves
    "gene_likelihood": {
        "zinb": "zinb: neg. binomial, more zeros",
        "nb": "nb: negative binomial",
        "poisson": "poisson",
        "normal": "normal: for values that are no counts",
        "mse": "mse: squared error of log-normalised values",
    },
    "clustering": {"leiden": "leiden: communities of neighbours", "kmeans": "kmeans: k-means"},
    "mix": {"product": "product of experts", "mixture": "mixture of experts"},
    "mmd": {"latent": "the joint latent", "marginal": "each modality's own", "both": "both"},
    "combine": {
        "moe": "mixture of experts",
        "poe": "product of experts",
        "concat": "one encoder sees both",
    },
    "sequence_encoder": {"transformer": "transformer", "cnn": "convolutions", "gru": "recurrent units"},
    "mmd_on": {"z": "z: the latent", "y": "y: the decoder's first layer"},
    "protein_dispersion": {"protein": "per protein", "protein-batch": "per protein and batch"},
    "background_scale": {"softplus": "softplus", "exp": "exp: as scvi-tools before 1.2"},
    "dispersion": {"gene": "per gene", "gene-batch": "per gene and batch", "gene-label": "per gene and label"},
    "query_labels": {"use": "use: learn from them", "ignore": "ignore: as if there were none"},
    "new_labels": {
        "ignore": "ignore: their cells are unlabelled",
        "hold out": "hold out: unlabelled, and reported",
        "extend": "extend: the classifier learns them",
    },
    "schedule": {"auto": "auto: one cycle, few epochs", "published": "published: constant rate"},
    "device": {"auto": "auto: a GPU if there is one"},
    "mode": {"min": "lower", "max": "higher"},
    "metric": {
        "val_unweighted_loss": "all terms, held out",
        "val_loss": "all terms weighted, held out",
        "val_reconstruction": "reconstruction, held out",
        "val_kl_latent": "KL of latents, held out",
        "train_unweighted_loss": "all terms, training",
        "train_loss": "all terms weighted, training",
        "train_reconstruction": "reconstruction, training",
    },
}

OF_GENES = ("gene_map", "min_gene_overlap")  # options of `MAPPING` that speak of genes
MAPPING = {
    "labels_key": Words("Labels to transfer", "Column of the reference's obs; none: only the embedding.", main=True),
    "n_neighbors": Words("Neighbours", "Reference cells that vote on a cell's label.", main=True),
    "threshold": Words("Unknown above", "Cells of a larger uncertainty are labelled Unknown; 1: none is.", main=True),
    "max_epochs": Words("Epochs", "Passes over the query, at most.", main=True),
    "query_labels": Words("Labels of the query", "Whether training may learn from those that the query has."),
    "new_labels": Words("New labels", "Labels of the query that the reference does not know."),
    "gene_map": Words("Match genes by", "How the query's gene names become the reference's."),
    "min_gene_overlap": Words("Least gene overlap", "Share of the reference's genes that the query must have."),
}


def words_of_mapping(noun: str) -> dict[str, Words]:
    """`MAPPING` for a reference of genes or, where it measures modalities, of features."""
    if noun == "gene":
        return MAPPING
    spoken = {name: [text.replace("gene", noun) for text in MAPPING[name][:2]] for name in OF_GENES}
    return MAPPING | {name: Words(*texts) for name, texts in spoken.items()}
