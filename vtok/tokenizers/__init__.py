"""Video tokenizers: a clip becomes a grid of integer codes, and a grid of codes becomes a clip."""
