"""From AnnData to tensors: what a model expects, whether the data are fit, and minibatches of cells."""
