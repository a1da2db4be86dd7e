"""VideoGPT's VQ-VAE (https://arxiv.org/abs/2104.10157): strided convolutions and residual blocks with axial attention.

Parameter names are the original's. It reproduces the released code (the paper's own differs: 1024 codes, wider blocks,
synchronised batch norm), with these deviations on purpose: the codebook's (see `codebook.py`); a largest factor of 2
works (the original builds a convolution for 3 channels there and stops with an error); batch norm sees the batch of
all ranks, unless `parity` is set.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from schemas.config.tokenizer import VqvaeConfig
from vtok.tokenizers.autoencoder import VideoAutoencoder, strides
from vtok.tokenizers.axial import AttentionResidualBlock
from vtok.tokenizers.layers import SamePadConv3d, SamePadConvTranspose3d
from vtok.tokenizers.norm import Norm, normalise


def _res_stack(config: VqvaeConfig) -> nn.Sequential:
    """Residual blocks, then batch norm and ReLU."""
    norm: Norm = "local" if config.parity else "batch"
    blocks = [AttentionResidualBlock(config.n_hiddens, norm) for _ in range(config.n_res_layers)]
    return nn.Sequential(*blocks, normalise(norm, config.n_hiddens), nn.ReLU())


class Encoder(nn.Module):
    """Video to features: n_hiddens channels on the latent grid."""

    def __init__(self, config: VqvaeConfig) -> None:
        super().__init__()
        width = config.n_hiddens
        self.convs = nn.ModuleList()
        for level, stride in enumerate(strides(config.downsample)):
            channels = width if level else config.image_channels
            self.convs.append(SamePadConv3d(channels, width, 4, stride, padding="constant"))
        self.conv_last = SamePadConv3d(width, width, 3, padding="constant")
        self.res_stack = _res_stack(config)

    def forward(self, video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t2 h2 w2"]:
        x = video_bcthw
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.res_stack(self.conv_last(x))


class Decoder(nn.Module):
    """Features to video. Axes are upsampled in the encoder's order, not mirrored."""

    def __init__(self, config: VqvaeConfig) -> None:
        super().__init__()
        width, steps = config.n_hiddens, strides(config.downsample)
        self.res_stack = _res_stack(config)
        self.convts = nn.ModuleList()
        for level, stride in enumerate(steps):
            channels = width if level < len(steps) - 1 else config.image_channels
            self.convts.append(SamePadConvTranspose3d(width, channels, 4, stride, padding="constant"))

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t2 h2 w2"]:
        x = self.res_stack(x)
        for level, conv in enumerate(self.convts):
            x = conv(F.relu(x) if level else x)
        return x


class VQVAE(VideoAutoencoder):
    """VideoGPT's encoder and decoder around the codebook.

    Args:
        config: the architecture.
        generator: draws the initial weights; None: a generator with seed 0.
    """

    def __init__(self, config: VqvaeConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(
            config,
            encoder=Encoder(config),
            decoder=Decoder(config),
            pre_vq_conv=SamePadConv3d(config.n_hiddens, config.embedding_dim, 1),
            post_vq_conv=SamePadConv3d(config.embedding_dim, config.n_hiddens, 1),
            generator=generator,
        )
