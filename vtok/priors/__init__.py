"""Priors: transformers that model the codes of a clip."""
