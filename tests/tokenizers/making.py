"""Tokenizers as after some training, and clips with something in them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from schemas.config.tokenizer import VqganConfig, VqvaeConfig
from vtok.datasets.shapes import CLASSES, draw_video
from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokenizers.codebook import Codebook
from vtok.tokenizers.load import build_tokenizer
from vtok.video.ranges import to_model_range


def clips(count: int, *, size: int, num_frames: int) -> Tensor:
    """Moving shapes, (b, 3, t, h, w) in [-0.5, 0.5]."""
    names = [list(CLASSES)[i % len(CLASSES)] for i in range(count)]
    videos = [draw_video(name, i, size=size, num_frames=num_frames, seed=0) for i, name in enumerate(names)]
    return torch.from_numpy(to_model_range(np.stack(videos)))


def seasoned(config: VqganConfig | VqvaeConfig, video_bcthw: Tensor) -> VideoAutoencoder:
    """A tokenizer in eval mode whose batch statistics fit the clips, and whose codes are some of their latents."""
    draws = torch.Generator().manual_seed(2)
    model = build_tokenizer(config, torch.Generator().manual_seed(1)).train()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm3d):
                layer.momentum = 1.0
        model(video_bcthw, draws)
        rows_nc = model.eval().latents(video_bcthw).movedim(1, -1).flatten(0, -2)
        if isinstance(model.codebook, Codebook):
            chosen_kc = rows_nc[torch.randperm(len(rows_nc), generator=draws)[: config.n_codes]]
            model.codebook.embeddings[: len(chosen_kc)] = chosen_kc
    return model.requires_grad_(False)
