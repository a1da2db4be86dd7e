"""The video tokenizer: architecture and training; its losses are in `schemas.config.losses`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from schemas.config.audio import SpectrumConfig
from schemas.config.base import Config
from schemas.config.losses import DiscriminatorConfig, LossConfig
from schemas.config.train import OptimConfig, TrainConfig


class _ModelConfig(Config):
    """What the architectures share: an encoder that downsamples by powers of 2, and an EMA codebook."""

    embedding_dim: int = Field(256, ge=1, description="Channels of a codebook vector.")
    n_codes: int = Field(ge=2, description="Vectors in the codebook.")
    downsample: tuple[int, int, int] = Field(description="Downsampling of time, height, width: powers of 2.")
    image_channels: int = Field(3, ge=1, description="Channels of the video.")
    random_restart: bool = Field(True, description="Give unused codes the vectors of the current batch.")
    restart_threshold: float = Field(1.0, ge=0, description="A code with an EMA count below this is unused.")
    ema_decay: float = Field(0.99, gt=0, lt=1, description="Decay of the codebook's moving averages.")
    commitment_weight: float = Field(0.25, ge=0, description="Weight of the commitment loss.")
    parity: bool = Field(
        False,
        description="Train on several ranks as the original: codes start and restart from rank 0's clips, perplexity "
        "and (VideoGPT) batch norm see a rank's own clips. Default: a batch trains alike on any number of ranks.",
    )

    quantizer: Literal["codebook", "fsq", "lfq", "bsq"] = Field(
        "codebook",
        description="What makes codes of vectors: a learnt codebook; or, without one, rounding (FSQ, needs `levels`), "
        "signs (LFQ, needs `bits`), signs on the unit sphere (BSQ, needs `bits`).",
    )
    levels: tuple[Annotated[int, Field(ge=3, le=256)], ...] = Field(
        (), description="Levels of every channel of FSQ; n_codes is their product, embedding_dim their number."
    )
    bits: int | None = Field(
        None, ge=1, le=20, description="Bits of a code of LFQ or BSQ; n_codes is 2^bits, embedding_dim is bits."
    )
    entropy_weight: float = Field(0.1, ge=0, description="Weight of the entropy loss of LFQ and BSQ.")
    diversity_weight: float = Field(
        1.0, ge=0, description="Weight of the codes' variety in the entropy loss, against certainty."
    )
    entropy_temperature: float = Field(
        0.02, gt=0, description="Temperature of the entropy loss; BSQ's tau of 100 is 0.02."
    )

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_the_quantizer(cls, tree: Any) -> Any:
        """`n_codes` and `embedding_dim` follow from levels or bits."""
        if not isinstance(tree, dict) or tree.get("quantizer", "codebook") == "codebook":
            return tree
        levels, bits = tree.get("levels"), tree.get("bits")
        if tree["quantizer"] != "fsq" and isinstance(bits, int) and 1 <= bits <= 20:
            levels = [2] * bits
        if isinstance(levels, (list, tuple)) and levels and all(isinstance(level, int) for level in levels):
            return {"n_codes": math.prod(levels), "embedding_dim": len(levels), **tree}
        return tree

    @model_validator(mode="after")
    def _one_quantizer(self) -> Self:
        wanted = {"fsq": "levels", "lfq": "bits", "bsq": "bits"}.get(self.quantizer)
        for name in ("levels", "bits"):
            if bool(getattr(self, name)) != (name == wanted):
                raise ValueError(f"quantizer: {self.quantizer} {'needs' if name == wanted else 'has no'} `{name}`")
        if wanted:
            digits = self.levels or (2,) * (self.bits or 0)
            if (self.n_codes, self.embedding_dim) != (math.prod(digits), len(digits)):
                raise ValueError(
                    f"these {wanted} make n_codes {math.prod(digits)} and embedding_dim {len(digits)}: "
                    f"leave both out, instead of {self.n_codes} and {self.embedding_dim}"
                )
            if math.prod(digits) > 1 << 20:
                raise ValueError(f"{math.prod(digits)} codes are too many: at most {1 << 20}")
        return self

    @field_validator("downsample")
    @classmethod
    def _powers_of_two(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if any(v < 1 or v & (v - 1) for v in value):
            raise ValueError(f"every factor must be a power of 2, not {list(value)}")
        return value

    @property
    def depth(self) -> int:
        """Number of strided convolutions: log2 of the largest factor."""
        return max(v.bit_length() - 1 for v in self.downsample)

    def grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of a clip of that size.

        Raises:
            ValueError: a side is not divisible by its downsampling factor, or too small for the padding.
        """
        sizes = {"num_frames": num_frames, "height": height, "width": width}
        for (name, size), factor in zip(sizes.items(), self.downsample, strict=True):
            if size % factor:
                raise ValueError(f"{name} {size} is not divisible by the downsampling factor {factor}")
        t, h, w = (s // f for s, f in zip(sizes.values(), self.downsample, strict=True))
        return t, h, w


class VqganConfig(_ModelConfig):
    """TATS's 3-D VQGAN (https://arxiv.org/abs/2204.03638). Fields that fix the codes go into its fingerprint."""

    kind: Literal["vqgan"] = "vqgan"
    n_codes: int = Field(16384, ge=2, description="Vectors in the codebook.")
    n_hiddens: int = Field(32, ge=1, description="Channels after the first convolution; doubled at each level.")
    downsample: tuple[int, int, int] = Field((4, 8, 8), description="Downsampling of time, height, width: powers of 2.")
    norm: Literal["group", "batch"] = Field("batch", description="Group norm (32 groups) or batch norm.")
    padding: Literal["replicate", "constant", "reflect", "circular"] = Field(
        "replicate", description="Padding of the encoder's first and strided convolutions (all others: replicate)."
    )

    def grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of a clip of that size.

        Raises:
            ValueError: a side is not divisible by its downsampling factor, or too small for the padding.
        """
        sizes = {"num_frames": num_frames, "height": height, "width": width}
        for (name, size), factor in zip(sizes.items(), self.downsample, strict=True):
            least = self.least_size(factor)
            if size < least:
                raise ValueError(f"{name} {size} is too small for {self.padding} padding, which needs {least}")
        return super().grid(num_frames, height, width)

    def least_size(self, factor: int) -> int:
        """Smallest side along an axis of that downsampling factor: padding cannot copy what is not there.

        Reflection copies values besides the border's, a circle all that there are; the two others need one value.
        """
        room = {"reflect": 1, "circular": 0}.get(self.padding)
        if room is None:
            return 1
        least, scale = 1 + room, 1
        for level in range(self.depth):
            strided = factor >> level > 1
            least = max(least, scale * ((1 if strided else 2) + room))
            scale *= 2 if strided else 1
        return least


class VqvaeConfig(_ModelConfig):
    """VideoGPT's VQ-VAE (https://arxiv.org/abs/2104.10157). Fields that fix the codes go into its fingerprint."""

    kind: Literal["vqvae"] = "vqvae"
    n_codes: int = Field(2048, ge=2, description="Vectors in the codebook.")
    n_hiddens: int = Field(240, ge=2, multiple_of=2, description="Channels of every layer.")
    n_res_layers: int = Field(4, ge=0, description="Residual blocks with axial attention, in encoder and decoder each.")
    downsample: tuple[int, int, int] = Field((4, 4, 4), description="Downsampling of time, height, width: powers of 2.")

    residual_width: int | None = Field(
        None,
        ge=1,
        description="Channels between the two convolutions of a residual block; null: half of n_hiddens, as VideoGPT's "
        "released code. Its paper's own code: 128.",
    )
    position_grid: tuple[int, int, int] | None = Field(
        None,
        description="Latent grid (t, h, w) for which positions are learnt, that every attention adds (VideoGPT's "
        "paper's own code); all clips must then have it. Null: no positions.",
    )
    post_kernel: Literal[1, 3] = Field(
        1, description="Side of the convolution after the codes; VideoGPT's paper's own code: 3."
    )

    def grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of a clip of that size.

        Raises:
            ValueError: a side is not divisible by its downsampling factor, or the grid is not `position_grid`.
        """
        found = super().grid(num_frames, height, width)
        if self.position_grid is not None and self.position_grid != found:
            raise ValueError(f"a grid of {list(found)}, but positions for {list(self.position_grid)} are learnt")
        return found

    @model_validator(mode="after")
    def _positions_fit(self) -> Self:
        if self.position_grid is not None and (self.n_hiddens % 3 or min(self.position_grid) < 1):
            raise ValueError("position_grid needs sides of 1 or more, and n_hiddens that are a multiple of 3")
        return self

    @field_validator("downsample")
    @classmethod
    def _some_level(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if max(value) < 2:
            raise ValueError("at least one factor must be 2 or more: the decoder is made of strided convolutions")
        return value


def _kind(model: Any) -> Any:
    return model.get("kind", "vqgan") if isinstance(model, dict) else getattr(model, "kind", None)


TokenizerModelConfig = Annotated[
    Annotated[VqganConfig, Tag("vqgan")] | Annotated[VqvaeConfig, Tag("vqvae")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="`kind` is vqgan or vqvae"),
]
"""An architecture, told apart by `kind` (without it: vqgan)."""


class AugmentConfig(Config):
    """Random changes of training clips, the same for all frames of a clip. Held-out clips are never changed."""

    crop: int | None = Field(
        None,
        ge=8,
        le=4096,
        description="Side of a random square that is cut out of every stored clip, pixels; null: the whole clip.",
    )
    flip: bool = Field(False, description="Mirror every second clip, drawn at random, left to right.")


class TokenizerTrainConfig(TrainConfig):
    """Training of the tokenizer."""

    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Processes that decode clips for each training process; 0: it decodes itself; `auto`: 0 on the CPU "
        "and up to 8 beside a GPU. Never changes a result.",
    )

    generator: OptimConfig = Field(
        OptimConfig(lr=3e-5, betas=(0.5, 0.9), weight_decay=0.0, optimizer="adam"), description="Adam of the generator."
    )
    discriminator: OptimConfig = Field(
        OptimConfig(lr=3e-5, betas=(0.5, 0.9), weight_decay=0.0, optimizer="adam"),
        description="Adam of both discriminators.",
    )
    forwards: Literal[1, 2] = Field(
        1,
        description="Passes of the tokenizer for a batch. 1 serves both phases. 2, as TATS: the discriminators' phase "
        "makes its own after the generator's step, so codebook and norms are updated twice and other frames drawn.",
    )
    idle_discriminators: bool = Field(
        False,
        description="Run and step the discriminators with weight 0 before they join, as TATS does: only their running "
        "statistics and Adam's count of steps change.",
    )
    preview_clips: int = Field(4, ge=1, le=32, description="Held-out clips shown in every preview.")
    warn_usage_below: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Warn of a collapse when the perplexity of the held-out clips is below this share of the codes "
        "that could occur in them.",
    )
    warn_dead_above: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Warn when more than this share of the codes that could occur in the held-out clips never does.",
    )
    warn_restarts_above: float = Field(
        0.5, ge=0, le=1, description="Warn when more than this share of the codes is restarted in every batch."
    )
    warn_after: int = Field(500, ge=0, description="Batches before the first such warning.")


_VIDEOGPT: dict[str, dict[str, Any]] = {
    "loss": {
        "l1_weight": 0.0,
        "l2_weight": 1 / 0.06,
        "image_gan_weight": 0.0,
        "video_gan_weight": 0.0,
        "gan_feature_weight": 0.0,
        "perceptual_weight": 0.0,
    },
    "generator": {
        "optimizer": "adam",
        "lr": 3e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
        "clip_grad_norm": None,
    },
}
"""Defaults of `kind: vqvae`: what VideoGPT trains with."""

_PARITY: dict[str, dict[str, dict[str, Any]]] = {
    "vqgan": {
        "model": {"parity": True},
        "loss": {"lpips_half_contrast": True, "lpips_dropout": True},
        "train": {"forwards": 2, "idle_discriminators": True},
    },
    "vqvae": {"model": {"parity": True}},
}
"""Defaults under `parity`. Not among them, because they are mere faults: the originals draw a new codebook when they
resume, and count every batch twice under newer versions of their framework."""


class TokenizerConfig(Config):
    """Section `tokenizer`. What is not set follows the paper of the model's kind."""

    parity: bool = Field(
        False,
        description="Train with the original's quirks: model.parity, and for vqgan train.forwards 2, "
        "train.idle_discriminators, loss.lpips_half_contrast and loss.lpips_dropout, where they are not set.",
    )

    spectrum: SpectrumConfig | None = Field(
        None,
        description="Learn the clips' sound as a video of one channel, a spectrum a frame; null: learn their frames. "
        "Needs model.image_channels 1.",
    )
    model: TokenizerModelConfig = Field(
        default_factory=VqganConfig, description="Architecture: `kind: vqgan` (TATS) or `kind: vqvae` (VideoGPT)."
    )
    discriminators: DiscriminatorConfig = Field(default_factory=DiscriminatorConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    train: TokenizerTrainConfig = Field(default_factory=TokenizerTrainConfig)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        kind = _kind(tree.get("model", {}))
        if kind == "vqvae":
            tree = _with_defaults(tree, {"loss": _VIDEOGPT["loss"]})
            train = tree.get("train", {})
            if isinstance(train, dict):
                tree = {**tree, "train": _with_defaults(train, {"generator": _VIDEOGPT["generator"]})}
        if tree.get("parity") is True and kind in _PARITY:
            tree = _with_defaults(tree, _PARITY[kind])
        return tree

    def frame_size(self, resolution: int) -> tuple[int, int]:
        """Height and width of what the tokenizer sees of clips of that resolution."""
        return (resolution, resolution) if self.spectrum is None else (self.spectrum.height, self.spectrum.width)

    @model_validator(mode="after")
    def _spectra_are_whole(self) -> TokenizerConfig:
        if self.spectrum is None:
            return self
        if self.model.image_channels != 1:
            raise ValueError(f"a spectrum has 1 channel, not {self.model.image_channels}: set model.image_channels 1")
        if self.train.augment != AugmentConfig():
            raise ValueError("a spectrum is neither cropped nor mirrored: leave out train.augment")
        return self

    @model_validator(mode="after")
    def _losses_fit_the_model(self) -> TokenizerConfig:
        if self.loss.perceptual_weight > 0 and self.model.image_channels not in (1, 3):
            raise ValueError(
                f"LPIPS sees images of 1 or 3 channels, not {self.model.image_channels}: set loss.perceptual_weight 0"
            )
        return self


def _with_defaults(tree: dict[str, Any], defaults: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`tree` with what its sections leave unset; a section that is no mapping is left for the validation to refuse."""
    sections = {name: tree.get(name, {}) for name in defaults}
    filled = {name: defaults[name] | given for name, given in sections.items() if isinstance(given, dict)}
    return tree | filled
