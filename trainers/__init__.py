"""Training loops: artefacts in, weights out."""
