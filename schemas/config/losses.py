"""What a video tokenizer is trained to minimise: the discriminators, and the weights of the losses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.config.base import Config


class DiscriminatorConfig(Config):
    """PatchGAN discriminators on one random frame (2-D) and on the clip (3-D)."""

    channels: int = Field(64, ge=1, description="Channels of the first layer.")
    layers: int = Field(3, ge=1, le=6, description="Strided layers.")
    loss: Literal["hinge", "vanilla"] = Field("hinge", description="Discriminator loss.")


class LossConfig(Config):
    """Weights of the losses, and when and how the discriminators join."""

    l1_weight: float = Field(4.0, ge=0, description="L1 between clip and reconstruction.")
    l2_weight: float = Field(
        0.0, ge=0, description="Mean squared error between clip and reconstruction; TATS has none, VideoGPT 1/0.06."
    )
    image_gan_weight: float = Field(1.0, ge=0, description="Adversarial loss of the image discriminator.")
    video_gan_weight: float = Field(1.0, ge=0, description="Adversarial loss of the video discriminator.")
    gan_balance: Literal["fixed", "adaptive"] = Field(
        "fixed",
        description="`fixed`: the adversarial weights are what they say (TATS). `adaptive`: the adversarial loss of a "
        "batch is scaled to the gradient that the reconstruction losses have at the decoder's last layer (VQGAN).",
    )
    gan_feature_weight: float = Field(4.0, ge=0, description="Feature matching on both discriminators' maps.")
    perceptual_weight: float = Field(0.0, ge=0, description="LPIPS on one random frame a clip; needs `lpips_weights`.")
    lpips_weights: str | None = Field(
        None,
        description="File with VGG16: torchvision's vgg16-397923af.pth, or safetensors (LPIPS heads may be in it, else "
        "torchmetrics' are taken). Needed when perceptual_weight > 0; alone, validation measures LPIPS.",
    )
    lpips_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="sha256 that `lpips_weights` must have; null: only torchvision's file is checked, by its name.",
    )
    lpips_half_contrast: bool = Field(
        False, description="Feed LPIPS images in [-0.5, 0.5] instead of the [-1, 1] that it was made for, as TATS does."
    )
    lpips_dropout: bool = Field(
        False, description="Drop half of LPIPS's feature differences in training, as TATS does by oversight."
    )
    discriminator_start: int = Field(10_000, ge=0, description="Batches before the discriminators join.")
    discriminator_warmup: int = Field(
        0,
        ge=0,
        description="Batches from then on over which the adversarial and feature losses grow to their weights; the "
        "discriminators learn at full weight meanwhile.",
    )
