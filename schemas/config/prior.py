"""The prior over tokens: architecture, training, sampling."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from schemas.config.base import Config
from schemas.config.train import OptimConfig, TrainConfig


class GptConfig(Config):
    """TATS's GPT (https://arxiv.org/abs/2204.03638): a decoder-only transformer over codes in raster order."""

    kind: Literal["gpt"] = "gpt"
    n_layer: int = Field(24, ge=1, description="Transformer blocks.")
    n_head: int = Field(16, ge=1, description="Attention heads.")
    n_embd: int = Field(1024, ge=1, description="Width of the residual stream.")
    condition: Literal["none", "label", "text", "audio"] = Field(
        "none", description="Unconditional, or on the class label, the caption, or the codes of the sound."
    )
    condition_length: int | None = Field(
        None, ge=1, description="Condition tokens a clip; null: 1, and 256 for text. Audio needs it."
    )
    condition_vocabulary: int | None = Field(
        None,
        ge=1,
        description="Different condition tokens. Text: the largest vocabulary that is trained (null: 49,408, CLIP's). "
        "Audio: the codebook size of the sound's tokenizer, which it needs.",
    )
    text_tokenizer: str | None = Field(
        None,
        description="Condition text: a `tokenizer.json`, or CLIP's `bpe_simple_vocab_16e6.txt.gz`; null: a byte-pair "
        "encoding is trained on the captions of the training clips. A copy lies beside the prior.",
    )
    interpolation: Literal["none", "prefix", "tats"] = Field(
        "none",
        description="Learn the latent frames between the first and the last: `prefix` (both ends come first, the loss "
        "is on what lies between) or `tats` (the original's mask and positions, for its checkpoints).",
    )
    latent_stride: int = Field(1, ge=1, description="Use every n-th latent frame only (key frames of a hierarchy).")
    boxes: bool = Field(
        False,
        description="Learn where in the whole grid a crop of codes lies, by a table of its places (vtokens_pos).",
    )
    box_grid: tuple[int, int, int] | None = Field(
        None, description="With `boxes`: codes (t, h, w) of the whole grid; null: the grid of the token store."
    )
    positions: Literal["learned", "rope"] = Field(
        "learned",
        description="A table of positions, or rotary positions along time, height and width, which have no longest "
        "clip. Of `kind: gpt` only: videogpt and mebt have their papers' tables.",
    )
    qk_norm: bool = Field(
        False,
        description="Normalise queries and keys (root mean square) in every head. Of `kind: gpt` only.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of embeddings and of every layer's output.")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of attention probabilities.")
    condition_drop: float = Field(
        0.0, ge=0, lt=1, description="Share of training clips without their condition, for sample.guidance."
    )
    parity: bool = Field(
        False,
        description="As the original, for its checkpoints: an unconditional clip starts from code 0, condition tokens "
        "are in the softmax, and `interpolation: tats` has a loss on frames that are seen.",
    )

    @model_validator(mode="after")
    def _fits(self) -> GptConfig:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        width = self.n_embd // self.n_head
        if self.positions == "rope" and (width % 2 or width < 6):
            raise ValueError(f"rope needs heads of an even width of at least 6, not {width}")
        if self.condition == "audio" and (self.condition_length is None or self.condition_vocabulary is None):
            raise ValueError("condition audio needs condition_length and condition_vocabulary")
        if self.condition in ("none", "label") and (self.condition_length or 1) != 1:
            raise ValueError(f"condition {self.condition} is one token, not {self.condition_length}")
        if self.condition_drop and (self.condition == "none" or self.parity):
            raise ValueError("condition_drop needs a condition, and parity: false")
        if self.interpolation != "none" and self.tokens_before > 1:
            raise ValueError(f"interpolation works behind one condition token, not {self.tokens_before}")
        if self.boxes and (self.interpolation != "none" or self.tokens_before > 1 or self.latent_stride > 1):
            raise ValueError("boxes work with one condition token, every latent frame and no interpolation")
        if self.positions == "rope" and self.interpolation == "tats":
            raise ValueError("interpolation: tats has a table of positions; use prefix with rope")
        return self

    @property
    def tokens_before(self) -> int:
        """Condition tokens before the codes."""
        if self.condition_length is not None:
            return self.condition_length
        return 256 if self.condition == "text" else 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the token store that it needs besides the codes."""
        return {"none": (), "label": ("label",), "text": ("caption",), "audio": ("audio_codes",)}[self.condition]


class VideoGptConfig(Config):
    """VideoGPT's prior (https://arxiv.org/abs/2104.10157): a transformer over codebook embeddings in raster order. It
    has its paper's table of positions for each axis: rotary positions and normalised queries are options of TATS's GPT
    alone."""

    kind: Literal["videogpt"] = "videogpt"
    n_layer: int = Field(8, ge=1, description="Transformer blocks.")
    n_head: int = Field(4, ge=1, description="Attention heads.")
    n_embd: int = Field(576, ge=3, description="Width of the residual stream; a multiple of 3, one part an axis.")
    condition: Literal["none", "label"] = Field("none", description="Unconditional, or on the class label.")
    condition_drop: float = Field(
        0.0, ge=0, lt=1, description="Share of training clips without their class, for sample.guidance (an extra)."
    )
    attention: Literal["full", "sparse"] = Field(
        "full", description="`full`, or `sparse`: strided, in blocks of 32 codes with 4 local blocks."
    )
    cond_frames: int = Field(0, ge=0, description="First frames of a clip that are given, as pixels.")
    frame_width: int = Field(240, ge=3, description="Channels of the features of the given frames; a multiple of 3.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout after attention and feed-forward layers.")
    attention_dropout: float = Field(
        0.3, ge=0, lt=1, description="Dropout of attention probabilities; sparse attention has none, as the original's."
    )

    @model_validator(mode="before")
    @classmethod
    def _sparse_without_dropout(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and tree.get("attention") == "sparse":
            return {"attention_dropout": 0.0, **tree}
        return tree

    @model_validator(mode="after")
    def _widths(self) -> VideoGptConfig:
        if self.attention == "sparse" and self.attention_dropout:
            raise ValueError(
                f"attention_dropout {self.attention_dropout} does not go with attention: sparse, which has no dropout; "
                "leave attention_dropout out"
            )
        if self.n_embd % self.n_head or self.n_embd % 3:
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head} and by 3")
        if self.frame_width % self.n_head or self.frame_width % 3:
            raise ValueError(f"frame_width {self.frame_width} is not divisible by n_head {self.n_head} and by 3")
        if self.condition_drop and self.condition == "none":
            raise ValueError("condition_drop needs condition: label")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the token store that it needs besides the codes."""
        label = ("label",) if self.condition == "label" else ()
        return (*label, "cond_frames") if self.cond_frames else label


MebtMode = Literal["latent_enc", "latent_self", "latent_dec", "lt2l", "maskgit"]


class MebtConfig(Config):
    """MeBT's prior (https://arxiv.org/abs/2303.11251): masked codes are predicted through a few latent tokens. It has
    its paper's table of positions: rotary positions and normalised queries are options of TATS's GPT alone."""

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
    beta_prior: tuple[float, float] | None = Field(
        None, description="Draw times from a Beta distribution with these parameters, which go to (1, 1); null: evenly."
    )
    beta_steps: int = Field(100_000, ge=1, description="Steps in which the Beta distribution becomes even.")
    condition: Literal["none", "label"] = Field(
        "none", description="Unconditional, or on the class label (an extra: MeBT has none)."
    )
    condition_drop: float = Field(
        0.0, ge=0, lt=1, description="Share of training clips without their class, for sample.guidance."
    )
    parity: bool = Field(
        False, description="As the original: where no code is masked, all are predicted, instead of one."
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

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the token store that it needs besides the codes."""
        return ("label",) if self.condition == "label" else ()

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


PriorKind = Literal["gpt", "videogpt", "mebt"]


def _kind(model: Any) -> Any:
    return model.get("kind", "gpt") if isinstance(model, dict) else getattr(model, "kind", None)


PriorModelConfig = Annotated[
    Annotated[GptConfig, Tag("gpt")] | Annotated[VideoGptConfig, Tag("videogpt")] | Annotated[MebtConfig, Tag("mebt")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="`kind` is gpt, videogpt or mebt"),
]
"""An architecture, told apart by `kind` (without it: gpt)."""


class PriorTrainConfig(TrainConfig):
    """Training of the prior."""

    optim: OptimConfig = Field(
        OptimConfig(lr=1.08e-4, betas=(0.9, 0.95), weight_decay=0.01), description="Optimiser of the prior."
    )
    crop: tuple[int, int, int] | None = Field(
        None,
        description="Train on random crops of this many codes (t, h, w) instead of whole clips; null: whole clips. "
        "Clips of different sizes need it, and prior.model.boxes tells the prior where a crop lies.",
    )
    views: list[str] | None = Field(
        None,
        description="Train on the rows of these views (`view_id`) of the token store only; null: on all of them.",
    )
    order: Literal["rows", "parts"] = Field(
        "rows",
        description="What is shuffled: `rows`, all of them, or `parts` and then the rows of a few of them, for a store "
        "whose codes do not fit into `cache_gb`: it mixes less, and needs few parts at a time.",
    )
    cache_gb: float = Field(
        64,
        gt=0,
        description="GiB of disk that the node's cache of codes (VTOK_CACHE) may hold. Never changes a result.",
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Processes that read codes for each training process; 0: it reads itself; `auto`: 0 on the CPU and "
        "up to 2 beside a GPU. Never changes a result.",
    )


_OPTIM: dict[str, dict[str, Any]] = {
    "videogpt": {
        "optimizer": "adam",
        "lr": 3e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
        "schedule": "cosine",
    },
    "mebt": {"lr": 3e-5, "weight_decay": 1e-4},
}
"""What the papers' code trains with."""


class PriorConfig(Config):
    """Section `prior`. What is not set follows the paper of the model's kind."""

    model: PriorModelConfig = Field(
        default_factory=GptConfig,
        description="Architecture: `kind: gpt` (TATS), `kind: videogpt` or `kind: mebt`.",
    )
    train: PriorTrainConfig = Field(default_factory=PriorTrainConfig)

    @model_validator(mode="after")
    def _crops(self) -> PriorConfig:
        if self.train.crop is not None and isinstance(self.model, GptConfig) and self.model.latent_stride > 1:
            raise ValueError("prior.train.crop and prior.model.latent_stride do not go together")
        if self.train.crop is not None and "cond_frames" in self.model.columns:
            raise ValueError("conditioning frames are those of whole clips: leave out prior.train.crop")
        return self

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, tree: Any) -> Any:
        kind = _kind(tree.get("model", {})) if isinstance(tree, dict) else None
        if kind not in ("videogpt", "mebt"):
            return tree
        train = tree.get("train", {})
        if isinstance(train, dict) and isinstance(train.get("optim", {}), dict):
            train = {**train, "optim": _OPTIM[kind] | train.get("optim", {})}
        return {**tree, "train": train}


class MaskedSampleConfig(Config):
    """How a masked prior (`kind: mebt`) fills in codes."""

    method: Literal["maskgit", "draft"] = Field(
        "maskgit", description="First draft: `maskgit` keeps the surest draws, `draft` goes by random groups."
    )
    steps: int = Field(32, ge=1, description="Steps of the first draft.")
    schedule: Literal["linear", "cosine", "cosine_plus", "quadratic", "convex", "square", "cube", "sqrt"] = Field(
        "cosine", description="maskgit: share of masked codes over its steps."
    )
    context_temperature: float = Field(1.0, ge=0, description="maskgit: randomness of what is kept; 0: the surest.")
    decay: Literal["linear", "constant", "cosine"] = Field("linear", description="How that randomness falls.")
    bootstrap: int = Field(0, ge=0, description="Codes that are drawn one by one, in random order, before the draft.")
    revise_passes: int = Field(0, ge=0, description="Times that all codes are drawn again from the others.")
    revise_steps: int = Field(2, ge=1, description="Groups in which a pass draws them.")
    revise_temperature: float = Field(0.7, gt=0, description="Temperature of a pass.")


class SampleConfig(Config):
    """Section `sample`: drawing clips from the prior."""

    num: int = Field(16, ge=1, description="Clips to draw. With a label-conditional prior, classes take turns.")
    given: Literal["test", "train"] = Field(
        "test", description="Split of the token store whose captions, sounds, frames or codes are given, in its order."
    )
    given_frames: int = Field(0, ge=0, description="Latent frames that are given; gpt and mebt draw what follows.")
    batch_size: int = Field(16, ge=1, description="Clips drawn at once.")
    temperature: float = Field(1.0, gt=0, description="Divides the logits.")
    top_k: int | None = Field(None, ge=1, description="Keep the k most likely codes; null: all.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Keep the most likely codes that together reach this probability; null: all."
    )
    label: int | None = Field(None, ge=0, description="Draw this class only (label-conditional priors).")
    guidance: float = Field(
        1.0, ge=0, description="Classifier-free guidance: 1 is none; more follows the condition more closely."
    )
    latent_frames: int | None = Field(
        None, ge=1, description="Latent frames to draw, also more than trained on; null: as trained on."
    )
    context_frames: int = Field(
        1,
        ge=1,
        description="Latent frames that a window shows, where a clip is longer than trained on; before a code, where a "
        "prior of crops draws the whole picture.",
    )
    fill: str | None = Field(
        None,
        description="Folder of a prior that interpolates: it fills in the frames between those that were drawn.",
    )
    masked: MaskedSampleConfig = Field(default_factory=MaskedSampleConfig)
    threads: int = Field(1, ge=1, description="torch threads; single-token steps are fastest on one.")
    fps: float = Field(8.0, gt=0, description="Frame rate of the written mp4 and GIF, frames per second.")
