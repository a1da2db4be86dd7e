"""VideoGPT's VQ-VAE (https://arxiv.org/abs/2104.10157): strided convolutions and residual blocks with axial attention.

Parameter names are the original's. It reproduces the released code, with these deviations on purpose: the codebook's
(see `codebook.py`); a largest factor of 2 works (the original builds a convolution for 3 channels there and stops with
an error); batch norm sees the batch of all ranks, unless `parity` is set. The code that the paper's numbers came from
(https://github.com/wilson1yan/VideoGPT-Paper) differs from the released one, and is made by the options
`residual_width`, `position_grid` and `post_kernel`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from schemas.config.tokenizer import VqvaeConfig
from vtok.tokenizers.autoencoder import VideoAutoencoder, strides
from vtok.tokenizers.axial import AttentionResidualBlock, Positions
from vtok.tokenizers.layers import SamePadConv3d, SamePadConvTranspose3d
from vtok.tokenizers.norm import Norm, normalise


def _res_stack(config: VqvaeConfig, positions: Positions | None) -> nn.Sequential:
    """Residual blocks, then batch norm and ReLU."""
    norm: Norm = "local" if config.parity else "batch"
    options = (config.n_hiddens, norm, config.residual_width, positions)
    blocks = [AttentionResidualBlock(*options) for _ in range(config.n_res_layers)]
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
        self.positions = Positions(config.position_grid, width) if config.position_grid else None
        self.res_stack = _res_stack(config, self.positions)

    def forward(self, video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t2 h2 w2"]:
        x = video_bcthw
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.res_stack(self.conv_last(x))


class Decoder(nn.Module):
    """Features to video. Axes are upsampled in the encoder's order, not mirrored. Positions are the encoder's."""

    def __init__(self, config: VqvaeConfig, positions: Positions | None) -> None:
        super().__init__()
        width, steps = config.n_hiddens, strides(config.downsample)
        self.res_stack = _res_stack(config, positions)
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
        encoder = Encoder(config)
        super().__init__(
            config,
            encoder=encoder,
            decoder=Decoder(config, encoder.positions),
            pre_vq_conv=SamePadConv3d(config.n_hiddens, config.embedding_dim, 1),
            post_vq_conv=SamePadConv3d(config.embedding_dim, config.n_hiddens, config.post_kernel, padding="constant"),
            generator=generator,
        )
