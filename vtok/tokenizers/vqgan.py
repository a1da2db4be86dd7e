"""The time-agnostic 3-D VQGAN of TATS (https://arxiv.org/abs/2204.03638), which MeBT (https://arxiv.org/abs/2303.11251)
uses too: a clip becomes a grid of codes.

Replicate padding makes the code of a still clip the same at every time, so longer sequences than the trained ones can
be decoded. Parameter names are the original's. It reproduces TATS, with these deviations on purpose: the codebook's
flag is saved (see `codebook.py`), and one forward pass a batch serves both training phases (TATS runs two, and
so updates codebook and batch norms twice).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from schemas.config.tokenizer import VqganConfig
from vtok.tokenizers.base import fingerprint_of
from vtok.tokenizers.codebook import Codebook, CodebookOutput, GeneratorDraws
from vtok.tokenizers.layers import (
    Padding,
    ResBlock,
    SamePadConv3d,
    SamePadConvTranspose3d,
    default_generator,
    draw_weights,
)
from vtok.tokenizers.norm import normalise
from vtok.video.transforms import PIXEL_RANGE, RESIZE_POLICY

Norm = Literal["group", "batch"]


class VqganOutput(NamedTuple):
    """One forward pass.

    Attributes:
        recon_bcthw: the reconstruction, not clamped.
        commitment_loss: scalar, weighted.
        perplexity: scalar, 1..n_codes.
        codes_bthw: int64.
    """

    recon_bcthw: Float[Tensor, "b c t h w"]
    commitment_loss: Float[Tensor, ""]
    perplexity: Float[Tensor, ""]
    codes_bthw: Int[Tensor, "b t2 h2 w2"]


def strides(downsample: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """The stride of every level: each axis is halved in the first levels, until its factor is reached.

    (4, 8, 8) gives (2, 2, 2), (2, 2, 2), (1, 2, 2), in the encoder and, not mirrored, in the decoder.
    """
    halvings = [factor.bit_length() - 1 for factor in downsample]
    levels = []
    for level in range(max(halvings)):
        t, h, w = (2 if count > level else 1 for count in halvings)
        levels.append((t, h, w))
    return levels


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


class VQGAN(nn.Module):
    """Encoder, codebook and decoder; a `Tokenizer`. Its discriminators live apart, in `discriminators.py`.

    Args:
        config: the architecture.
        generator: draws the initial weights; None: a generator with seed 0.

    Raises:
        VtokError: group norm, and n_hiddens is not a multiple of 16.
    """

    def __init__(self, config: VqganConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = default_generator(generator)
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, self.encoder.out_channels)
        self.pre_vq_conv = SamePadConv3d(self.encoder.out_channels, config.embedding_dim, 1, padding=config.padding)
        self.post_vq_conv = SamePadConv3d(config.embedding_dim, self.encoder.out_channels, 1)
        draw_weights(self, generator)
        self.codebook = Codebook(
            config.n_codes,
            config.embedding_dim,
            decay=config.ema_decay,
            commitment_weight=config.commitment_weight,
            random_restart=config.random_restart,
            restart_threshold=config.restart_threshold,
            generator=generator,
        )

    @property
    def codebook_size(self) -> int:
        return self.config.n_codes

    @property
    def downsample(self) -> tuple[int, int, int]:
        return self.config.downsample

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the architecture and the present weights; see `base.fingerprint_of`."""
        return fingerprint_of(self.config, self.state_dict(), input_range=PIXEL_RANGE, policy=RESIZE_POLICY)

    def grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Codes (t, h, w) of a clip of that many frames and pixels.

        Raises:
            ValueError: a side is not divisible by its downsampling factor.
        """
        return self.config.grid(num_frames, height, width)

    def latents(self, video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        """The vectors that the codebook quantises."""
        return self.pre_vq_conv(self.encoder(video_bcthw.contiguous(memory_format=torch.channels_last_3d)))

    def quantize(
        self, video_bcthw: Float[Tensor, "b c t h w"], generator: torch.Generator | None = None
    ) -> CodebookOutput:
        """Codes, their vectors, commitment loss and perplexity; in training mode the codebook learns."""
        draws = None if generator is None else GeneratorDraws(generator)
        return self.codebook(self.latents(video_bcthw), draws)

    @torch.no_grad()
    def encode(self, video_bcthw: Float[Tensor, "b c t h w"]) -> Int[Tensor, "b t2 h2 w2"]:
        """int64 codes of a video in [-0.5, 0.5].

        Raises:
            RuntimeError: in training mode, where batch norm would make the codes depend on the batch.
        """
        if self.training:
            raise RuntimeError("encode() needs eval mode: call tokenizer.eval() first")
        return self.quantize(video_bcthw).codes_bthw

    def decode(self, codes_bthw: Int[Tensor, "b t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """The video of codes in 0..codebook_size-1: around [-0.5, 0.5], not clamped."""
        return self.decoder(self.post_vq_conv(self.codebook.lookup(codes_bthw)))

    def forward(self, video_bcthw: Float[Tensor, "b c t h w"], generator: torch.Generator | None = None) -> VqganOutput:
        """Reconstruct a video in [-0.5, 0.5].

        Args:
            generator: needed in training mode by the codebook (first batch, restarts).
        """
        quantized = self.quantize(video_bcthw, generator)
        recon_bcthw = self.decoder(self.post_vq_conv(quantized.embeddings_bcthw))
        return VqganOutput(recon_bcthw, quantized.commitment_loss, quantized.perplexity, quantized.codes_bthw)
