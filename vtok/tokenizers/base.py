"""What a tokenizer is, and the fingerprint that ties codes to the weights which made them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from schemas.config.base import Config, canonical

# Fields that steer training only: two tokenizers that differ in them alone give the same codes and videos.
_TRAINING_FIELDS = frozenset(
    {
        "random_restart",
        "restart_threshold",
        "ema_decay",
        "commitment_weight",
        "parity",
        "entropy_weight",
        "diversity_weight",
        "entropy_temperature",
    }
)
_QUANTIZER_FIELDS = frozenset({"quantizer", "levels", "bits"})
_UNLESS_DEFAULT = {"residual_width": None, "position_grid": None, "post_kernel": 1}
_DECIDING = ("encoder.", "decoder.", "pre_vq_conv.", "post_vq_conv.", "codebook.embeddings")


Mode = Literal["exact", "fast"]
"""Arithmetic of `encode`: float32, or an encoder in a small type, whose codes are not all the same."""


@runtime_checkable
class Tokenizer(Protocol):
    """Turns clips into codes and back. Call `eval()` first: codes must not depend on the batch."""

    @property
    def codebook_size(self) -> int:
        """Number of codes; codes are 0..codebook_size-1."""
        ...

    @property
    def downsample(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels behind one code."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that decides codes and decoding, weights included."""
        ...

    def grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Codes (t, h, w) of a clip of that many frames and pixels."""
        ...

    def encode(self, video_bcthw: Float[Tensor, "b c t h w"], mode: Mode = "exact") -> Int[Tensor, "b t2 h2 w2"]:
        """int64 codes of a video in [-0.5, 0.5]; one whose size `grid` refuses, or of other channels, is refused."""
        ...

    def decode(self, codes_bthw: Int[Tensor, "b t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """The video of codes, around [-0.5, 0.5], not clamped."""
        ...


def fingerprint_of(
    config: Config, tensors: Mapping[str, Tensor], *, input_range: tuple[float, float], policy: str
) -> str:
    """sha256 (hex, 64 characters) over what decides codes and decoding.

    Args:
        config: the tokenizer's architecture; fields that steer training only are left out.
        tensors: its state dict. Used are encoder, decoder, the two convolutions around the codebook and the codebook's
            vectors (name, dtype, shape, bytes), not discriminators, moving averages or counters.
        input_range: the range of pixel values that it expects.
        policy: how a frame is brought to its resolution.
    """
    architecture = {name: value for name, value in config.plain().items() if name not in _TRAINING_FIELDS}
    if architecture.get("quantizer") == "codebook":  # as before there were others: stores keep their fingerprints
        architecture = {name: value for name, value in architecture.items() if name not in _QUANTIZER_FIELDS}
    architecture = {name: value for name, value in architecture.items() if _UNLESS_DEFAULT.get(name, ...) != value}
    facts = {"architecture": architecture, "input_range": list(input_range), "resize": policy}
    digest = hashlib.sha256(canonical(facts))
    for name in sorted(tensors):
        if not name.startswith(_DECIDING) or name.endswith("num_batches_tracked"):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(canonical([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
