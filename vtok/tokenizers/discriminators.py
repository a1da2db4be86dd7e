"""PatchGAN discriminators (https://arxiv.org/abs/1611.07004; multi-layer features: https://arxiv.org/abs/1711.11585) on
single frames and on clips, as TATS (https://arxiv.org/abs/2204.03638) uses them. Parameter names are the original's."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from schemas.config.tokenizer import DiscriminatorConfig
from vtok.tokenizers.layers import CONVOLUTIONS, default_generator, draw_weights
from vtok.tokenizers.norm import SyncBatchNorm2d, SyncBatchNorm3d

_NORMS = {2: SyncBatchNorm2d, 3: SyncBatchNorm3d}
_MAX_CHANNELS = 512


class NLayerDiscriminator(nn.Module):
    """`layers` strided 4-wide convolutions and two more with stride 1; the last gives one logit a patch.

    Args:
        dims: 2 for images, 3 for clips.
        in_channels: channels of the input.
        channels: channels of the first layer; doubled at each further one, up to 512.
        layers: strided layers.
    """

    def __init__(self, dims: Literal[2, 3], in_channels: int, channels: int, layers: int) -> None:
        super().__init__()
        conv, norm = CONVOLUTIONS[dims], _NORMS[dims]
        self.count = layers + 2
        self.model0 = nn.Sequential(conv(in_channels, channels, 4, stride=2, padding=2), nn.LeakyReLU(0.2))
        for i in range(1, layers + 1):
            wider = min(2 * channels, _MAX_CHANNELS)
            stride = 2 if i < layers else 1
            block = [conv(channels, wider, 4, stride=stride, padding=2), norm(wider), nn.LeakyReLU(0.2)]
            self.add_module(f"model{i}", nn.Sequential(*block))
            channels = wider
        self.add_module(f"model{layers + 1}", nn.Sequential(conv(channels, 1, 4, stride=1, padding=2)))

    def forward(self, x: Float[Tensor, "b c *size"]) -> tuple[Tensor, list[Tensor]]:
        """Logits (one channel, unbounded) and the output of every layer; the last of these is the logits."""
        features: list[Tensor] = []
        for i in range(self.count):
            x = self.get_submodule(f"model{i}")(x)
            features.append(x)
        return x, features


class Discriminators(nn.Module):
    """Both discriminators of the tokenizer.

    Args:
        config: their size.
        image_channels: channels of the video.
        generator: draws the initial weights; None: a generator with seed 0.
    """

    def __init__(
        self, config: DiscriminatorConfig, image_channels: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.image_discriminator = NLayerDiscriminator(2, image_channels, config.channels, config.layers)
        self.video_discriminator = NLayerDiscriminator(3, image_channels, config.channels, config.layers)
        draw_weights(self, default_generator(generator))
