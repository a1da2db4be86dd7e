"""Checkpoints and settings of VideoGPT, TATS, MeBT and vqgan-gpt-video, made into vtok's artefacts and recipes.

A checkpoint is read in a process of its own (`child`, `archive`, `unpickle`), which hands over tensors and plain
values. `videogpt`, `tats` and `mebt` make models of them, `write` the folders, `convert` is the way through.
"""
