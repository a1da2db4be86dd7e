"""The prior over tokens: architecture, training, sampling."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.config.base import Config
from schemas.config.train import OptimConfig, TrainConfig


class GptConfig(Config):
    """TATS's GPT (https://arxiv.org/abs/2204.03638): a decoder-only transformer over codes in raster order."""

    kind: Literal["gpt"] = "gpt"
    n_layer: int = Field(24, ge=1, description="Transformer blocks.")
    n_head: int = Field(16, ge=1, description="Attention heads.")
    n_embd: int = Field(1024, ge=1, description="Width of the residual stream.")
    condition: Literal["none", "label"] = Field("none", description="Unconditional, or on the class label.")
    interpolation: Literal["none", "prefix", "tats"] = Field(
        "none",
        description="Learn the latent frames between the first and the last: `prefix` (both ends come first, the loss "
        "is on what lies between) or `tats` (the original's mask and positions, for its checkpoints).",
    )

    @model_validator(mode="after")
    def _heads(self) -> GptConfig:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        return self


class VideoGptConfig(Config):
    """VideoGPT's prior (https://arxiv.org/abs/2104.10157): a transformer over codebook embeddings in raster order."""

    kind: Literal["videogpt"] = "videogpt"
    n_layer: int = Field(8, ge=1, description="Transformer blocks.")
    n_head: int = Field(4, ge=1, description="Attention heads.")
    n_embd: int = Field(576, ge=3, description="Width of the residual stream; a multiple of 3, one part an axis.")
    condition: Literal["none", "label"] = Field("none", description="Unconditional, or on the class label.")
    attention: Literal["full", "sparse"] = Field(
        "full", description="`full`, or `sparse`: strided, in blocks of 32 codes with 4 local blocks."
    )
    cond_frames: int = Field(0, ge=0, description="First frames of a clip that are given, as pixels.")
    frame_width: int = Field(240, ge=3, description="Channels of the features of the given frames; a multiple of 3.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout after attention and feed-forward layers.")
    attention_dropout: float = Field(0.3, ge=0, lt=1, description="Dropout of attention probabilities.")

    @model_validator(mode="after")
    def _widths(self) -> VideoGptConfig:
        if self.n_embd % self.n_head or self.n_embd % 3:
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head} and by 3")
        if self.frame_width % self.n_head or self.frame_width % 3:
            raise ValueError(f"frame_width {self.frame_width} is not divisible by n_head {self.n_head} and by 3")
        return self


MebtMode = Literal["latent_enc", "latent_self", "latent_dec", "lt2l", "maskgit"]


class MebtConfig(Config):
    """MeBT's prior (https://arxiv.org/abs/2303.11251): masked codes are predicted through a few latent tokens."""

    kind: Literal["mebt"] = "mebt"
    n_layer: int = Field(24, ge=1, description="Transformer blocks.")
    n_head: int = Field(16, ge=1, description="Attention heads.")
    n_embd: int = Field(1024, ge=1, description="Width of the residual stream.")
    latents: int = Field(256, ge=0, description="Latent tokens.")
    mode: tuple[MebtMode, ...] | None = Field(
        None,
        description="What each layer does, `maskgit` for those that are not named; null: MeBT's own order, "
        "(enc, self) x n, enc, (dec, lt2l) x m, dec.",
    )
    schedule: Literal["linear", "cosine", "cosine_plus", "quadratic", "convex", "square", "cube", "sqrt"] = Field(
        "linear", description="Share of masked codes over time, in training."
    )
    t_range: tuple[float, float] = Field((0.0, 1.0), description="Times that are drawn in training.")
    budget: int | None = Field(None, ge=1, description="Masked codes predicted in a step and clip; null: all.")
    t_prior: Literal["longest", "uniform", "gaussian2", "gaussian100000_2"] = Field(
        "longest", description="How many latent frames are trained on, step by step."
    )
    avg_loss: float = Field(1.0, ge=0, description="1: mean over masked codes; 0: over all codes.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Of the targets in training.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of embeddings and of every layer's output.")
    attention_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of attention probabilities.")

    @model_validator(mode="after")
    def _sizes(self) -> MebtConfig:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        if self.mode is not None and len(self.mode) > self.n_layer:
            raise ValueError(f"mode names {len(self.mode)} layers, n_layer is {self.n_layer}")
        return self

    def modes(self) -> list[MebtMode]:
        """What each of the `n_layer` layers does."""
        if self.mode is not None:
            rest: list[MebtMode] = ["maskgit"] * (self.n_layer - len(self.mode))
            return [*self.mode, *rest]
        if self.n_layer == 1:
            return ["maskgit"]
        head: list[MebtMode] = ["latent_enc", "latent_self"] * (self.n_layer // 4)
        head += ["latent_enc", "latent_self"] if self.n_layer % 2 else ["latent_enc"]
        tail: list[MebtMode] = ["latent_dec", "lt2l"] * self.n_layer
        return [*head, *tail][: self.n_layer]


class PriorTrainConfig(TrainConfig):
    """Training of the prior."""

    optim: OptimConfig = Field(
        OptimConfig(lr=1.08e-4, betas=(0.9, 0.95), weight_decay=0.01), description="AdamW of the prior."
    )


class PriorConfig(Config):
    """Section `prior`."""

    model: GptConfig = Field(default_factory=GptConfig)
    train: PriorTrainConfig = Field(default_factory=PriorTrainConfig)


class SampleConfig(Config):
    """Section `sample`: drawing clips from the prior."""

    num: int = Field(16, ge=1, description="Clips to draw. With a label-conditional prior, classes take turns.")
    batch_size: int = Field(16, ge=1, description="Clips drawn at once.")
    temperature: float = Field(1.0, gt=0, description="Divides the logits.")
    top_k: int | None = Field(None, ge=1, description="Keep the k most likely codes; null: all.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Keep the most likely codes that together reach this probability; null: all."
    )
    label: int | None = Field(None, ge=0, description="Draw this class only (label-conditional priors).")
    threads: int = Field(1, ge=1, description="torch threads; single-token steps are fastest on one.")
    fps: float = Field(8.0, gt=0, description="Frame rate of the written mp4 and GIF, frames per second.")
