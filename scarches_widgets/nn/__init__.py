"""Shared maths on plain tensors: layers, likelihoods, divergences, and the loss with named terms."""
