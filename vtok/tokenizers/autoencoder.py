"""What all tokenizers of clips are made of: encoder, codebook, decoder, and a 1x1x1 convolution before and after codes.

An architecture (`vqgan.py`, `vqvae.py`) only makes the modules; what is done with them is here. The names of the five
sub-modules are those of VideoGPT (https://arxiv.org/abs/2104.10157) and TATS (https://arxiv.org/abs/2204.03638), so
their state dicts load by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from schemas.config.tokenizer import VqganConfig, VqvaeConfig
from schemas.errors import UsageError
from vtok.tokenizers.axial import draw_attention
from vtok.tokenizers.base import Mode, fingerprint_of
from vtok.tokenizers.codebook import Codebook, CodebookOutput, GeneratorDraws
from vtok.tokenizers.layers import SamePadConv3d, default_generator, draw_weights
from vtok.tokenizers.precision import full_precision
from vtok.tokenizers.quantizers import FSQ, BinaryQuantizer
from vtok.video.transforms import PIXEL_RANGE, RESIZE_POLICY


class Reconstruction(NamedTuple):
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


def clips_of(video_bcthw: Tensor) -> Sequence[Tensor]:
    """What goes through an encoder at once: on a CPU one clip, whose result must not depend on others; else all."""
    return video_bcthw.split(1) if video_bcthw.device.type == "cpu" else (video_bcthw,)


def _quantizer(config: VqganConfig | VqvaeConfig, generator: torch.Generator) -> Codebook | FSQ | BinaryQuantizer:
    """What makes codes; the name of the sub-module is `codebook`, whatever it is."""
    if config.quantizer == "fsq":
        return FSQ(config.levels)
    if config.quantizer != "codebook":
        return BinaryQuantizer(
            config.embedding_dim,
            config.quantizer,
            commitment_weight=config.commitment_weight,
            entropy_weight=config.entropy_weight,
            diversity_weight=config.diversity_weight,
            temperature=config.entropy_temperature,
        )
    return Codebook(
        config.n_codes,
        config.embedding_dim,
        decay=config.ema_decay,
        commitment_weight=config.commitment_weight,
        random_restart=config.random_restart,
        restart_threshold=config.restart_threshold,
        parity=config.parity,
        generator=generator,
    )


class VideoAutoencoder(nn.Module):
    """Encoder, codebook and decoder; a `Tokenizer`.

    Args:
        config: the architecture.
        encoder: video to features on the latent grid.
        decoder: features to video.
        pre_vq_conv: features to the vectors that are quantised.
        post_vq_conv: codes' vectors to features.
        generator: draws the initial weights; None: a generator with seed 0.
    """

    def __init__(
        self,
        config: VqganConfig | VqvaeConfig,
        *,
        encoder: nn.Module,
        decoder: nn.Module,
        pre_vq_conv: SamePadConv3d,
        post_vq_conv: SamePadConv3d,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        generator = default_generator(generator)
        self.config = config
        self.encoder = encoder
        self.decoder = decoder
        self.pre_vq_conv = pre_vq_conv
        self.post_vq_conv = post_vq_conv
        draw_weights(self, generator)
        draw_attention(self, generator)
        self.codebook = _quantizer(config, generator)

    @property
    def codebook_size(self) -> int:
        return self.config.n_codes

    @property
    def downsample(self) -> tuple[int, int, int]:
        return self.config.downsample

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.pre_vq_conv.conv.weight.device

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

    def check_video(self, video_bcthw: Float[Tensor, "b c t h w"]) -> None:
        """Refuses a video that has no codes, or of which some frames or pixels would have none.

        Raises:
            UsageError: it has other channels than the tokenizer, or a size that `grid` refuses.
        """
        channels = video_bcthw.shape[1]
        if channels != self.config.image_channels:
            raise UsageError(
                f"the video has {channels} channels, and the tokenizer {self.config.image_channels}",
                at=f"video_bcthw of shape {list(video_bcthw.shape)}",
                hint="give (batch, channels, frames, height, width)",
            )
        num_frames, height, width = video_bcthw.shape[2:]
        try:
            self.grid(num_frames, height, width)
        except ValueError as error:
            raise UsageError(
                str(error),
                at=f"video_bcthw of shape {list(video_bcthw.shape)}",
                hint="cut or resize the video; this tokenizer's downsampling of (frames, height, width) is "
                f"{self.config.downsample}",
            ) from None

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
    def encode(self, video_bcthw: Float[Tensor, "b c t h w"], mode: Mode = "exact") -> Int[Tensor, "b t2 h2 w2"]:
        """int64 codes of a video in [-0.5, 0.5].

        Args:
            mode: `exact` computes in float32; `fast` has the encoder in bfloat16, and some codes are others (see
                `fast.encode_fast`, which also tells which ones are surely the same).

        On a CPU, clips go through one by one, so that a clip's codes do not depend on its batch: kernels round
        differently for other shapes. On a GPU they go together, and batches of one shape give a clip the same codes in
        every slot; pad the last batch.

        Raises:
            UsageError: the video's channels or size do not fit (`check_video`).
            RuntimeError: in training mode, where batch norm would make the codes depend on the batch.
        """
        if mode == "fast":
            from vtok.tokenizers.fast import encode_fast  # which needs this class

            return encode_fast(self, video_bcthw).codes_bthw
        if self.training:
            raise RuntimeError("encode() needs eval mode: call tokenizer.eval() first")
        self.check_video(video_bcthw)
        with full_precision(video_bcthw.device):
            z_bcthw = torch.cat([self.latents(clips_bcthw).float() for clips_bcthw in clips_of(video_bcthw)])
            codes_bn = self.codebook.nearest(z_bcthw.flatten(2).transpose(1, 2))
        return codes_bn.unflatten(1, z_bcthw.shape[2:])

    def decode(self, codes_bthw: Int[Tensor, "b t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """The video of codes in 0..codebook_size-1: around [-0.5, 0.5], not clamped."""
        return self.decoder(self.post_vq_conv(self.codebook.lookup(codes_bthw)))

    def forward(
        self, video_bcthw: Float[Tensor, "b c t h w"], generator: torch.Generator | None = None
    ) -> Reconstruction:
        """Reconstruct a video in [-0.5, 0.5].

        Args:
            generator: needed in training mode by the codebook (first batch, restarts).
        """
        quantized = self.quantize(video_bcthw, generator)
        recon_bcthw = self.decoder(self.post_vq_conv(quantized.embeddings_bcthw))
        return Reconstruction(recon_bcthw, quantized.commitment_loss, quantized.perplexity, quantized.codes_bthw)
