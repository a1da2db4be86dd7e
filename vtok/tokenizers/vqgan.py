"""The time-agnostic 3-D VQGAN of TATS (https://arxiv.org/abs/2204.03638), which MeBT (https://arxiv.org/abs/2303.11251)
uses too: a clip becomes a grid of codes.

Replicate padding makes the code of a still clip the same at every time, so longer sequences than the trained ones can
be decoded. Parameter names are the original's. It reproduces TATS, with these deviations on purpose: the codebook's
(see `codebook.py`), and one forward pass a batch serves both training phases (TATS runs two, and so updates codebook
and batch norms twice).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from schemas.config.tokenizer import VqganConfig
from vtok.tokenizers.autoencoder import VideoAutoencoder, strides
from vtok.tokenizers.layers import Padding, ResBlock, SamePadConv3d, SamePadConvTranspose3d
from vtok.tokenizers.norm import Norm, normalise


class DownBlock(nn.Module):
    """A strided 4x4x4 convolution that doubles the channels, then a residual block."""

    def __init__(self, channels: int, stride: tuple[int, int, int], norm: Norm, padding: Padding) -> None:
        super().__init__()
        self.down = SamePadConv3d(channels, 2 * channels, 4, stride, padding)
        self.res = ResBlock(2 * channels, norm)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t2 h2 w2"]:
        return self.res(self.down(x))


class UpBlock(nn.Module):
    """A strided 4x4x4 transposed convolution, then two residual blocks."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int], norm: Norm) -> None:
        super().__init__()
        self.up = SamePadConvTranspose3d(in_channels, out_channels, 4, stride)
        self.res1 = ResBlock(out_channels, norm)
        self.res2 = ResBlock(out_channels, norm)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t2 h2 w2"]:
        return self.res2(self.res1(self.up(x)))


class Encoder(nn.Module):
    """Video to features: n_hiddens * 2^levels channels on the latent grid."""

    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        channels = config.n_hiddens
        self.conv_first = SamePadConv3d(config.image_channels, channels, 3, padding=config.padding)
        self.conv_blocks = nn.ModuleList()
        for stride in strides(config.downsample):
            self.conv_blocks.append(DownBlock(channels, stride, config.norm, config.padding))
            channels *= 2
        self.final_block = nn.Sequential(normalise(config.norm, channels), nn.SiLU())
        self.out_channels = channels

    def forward(self, video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t2 h2 w2"]:
        x = self.conv_first(video_bcthw)
        for block in self.conv_blocks:
            x = block(x)
        return self.final_block(x)


class Decoder(nn.Module):
    """Features to video. `final_block` comes first: the name is the original's."""

    def __init__(self, config: VqganConfig, in_channels: int) -> None:
        super().__init__()
        self.final_block = nn.Sequential(normalise(config.norm, in_channels), nn.SiLU())
        self.conv_blocks = nn.ModuleList()
        channels = in_channels
        for level, stride in enumerate(strides(config.downsample)):
            out_channels = in_channels >> level
            self.conv_blocks.append(UpBlock(channels, out_channels, stride, config.norm))
            channels = out_channels
        self.conv_last = SamePadConv3d(channels, config.image_channels, 3)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t2 h2 w2"]:
        x = self.final_block(x)
        for block in self.conv_blocks:
            x = block(x)
        return self.conv_last(x)


class VQGAN(VideoAutoencoder):
    """TATS's encoder and decoder around the codebook. Its discriminators live apart, in `discriminators.py`.

    Args:
        config: the architecture.
        generator: draws the initial weights; None: a generator with seed 0.

    Raises:
        VtokError: group norm, and n_hiddens is not a multiple of 16.
    """

    def __init__(self, config: VqganConfig, generator: torch.Generator | None = None) -> None:
        encoder = Encoder(config)
        channels = encoder.out_channels
        super().__init__(
            config,
            encoder=encoder,
            decoder=Decoder(config, channels),
            pre_vq_conv=SamePadConv3d(channels, config.embedding_dim, 1),
            post_vq_conv=SamePadConv3d(config.embedding_dim, channels, 1),
            generator=generator,
        )
