"""What the three priors have in common: what they are given, how they draw in training, how they are trained.

The trainer and the sampler know nothing else of a prior. What differs between the kinds is in `vtok.priors.build` (how
one is made) and `vtok.sampling.clips` (how clips are drawn from it).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from schemas.config.prior import GptConfig, MebtConfig, VideoGptConfig
from vtok.priors.chunked_loss import PriorOutput
from vtok.seeds import generator

Shape = tuple[int, int, int]
ModelConfig = GptConfig | VideoGptConfig | MebtConfig


class Batch(NamedTuple):
    """Clips of the token store as tensors, with all that a prior may be conditioned on; what is missing is None.

    Attributes:
        codes_bthw: codes; below 0 in clips that count for nothing (they fill up a batch).
        labels_b: classes.
        text_bn: tokens of the captions.
        audio_bn: codes of the sounds.
        frames_bcthw: the first pixel frames, in [-0.5, 0.5].
        boxes_b6: where the codes were cut out of their grid: t0, t1, h0, h1, w0, w1.
    """

    codes_bthw: Int[Tensor, "b t h w"]
    labels_b: Int[Tensor, " b"] | None = None
    text_bn: Int[Tensor, "b n"] | None = None
    audio_bn: Int[Tensor, "b n"] | None = None
    frames_bcthw: Float[Tensor, "b 3 t h w"] | None = None
    boxes_b6: Int[Tensor, "b 6"] | None = None


class Draws(NamedTuple):
    """Keys of the random draws of a step: the same for any number of ranks.

    Attributes:
        seed: of the run.
        step: optimiser step; for the length curriculum, too.
        first: number of this rank's first clip in the whole batch.
        purpose: `train`, or `val` for draws that are the same at every validation.
    """

    seed: int
    step: int
    first: int = 0
    purpose: str = "train"

    def of_step(self, what: str) -> torch.Generator:
        """A generator that all clips of the step share (of the batch, when validating)."""
        if self.purpose != "train":  # every batch of a validation draws for itself
            return generator(self.seed, "prior", self.purpose, what, self.first)
        return generator(self.seed, "prior", self.purpose, what, self.step)

    def of_clip(self, what: str, number: int) -> torch.Generator:
        """A generator of the rank's clip of that number."""
        step = self.step if self.purpose == "train" else 0
        return generator(self.seed, "prior", self.purpose, what, step, self.first + number)


class Prior(Protocol):
    """An `nn.Module` over the codes of clips."""

    config: Any
    n_codes: int
    grid: Shape

    def prepare(self, batch: Batch, draws: Draws) -> tuple[Any, ...]:
        """The arguments of the forward pass: what this prior takes from a batch, and what it draws for it.

        Raises:
            ValueError: the batch lacks something that the prior is conditioned on.
        """

    def __call__(self, *arguments: Any) -> PriorOutput:
        """Loss and accuracies."""

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser, each with its own `weight_decay`."""


def dropped(share: float, batch: int, draws: Draws, device: torch.device) -> Tensor | None:
    """Which clips are trained without their condition, for classifier-free guidance (https://arxiv.org/abs/2207.12598);
    None if none ever are, or when validating."""
    if not share or draws.purpose != "train":
        return None
    chances = [float(torch.rand((), generator=draws.of_clip("condition", i))) for i in range(batch)]
    return torch.tensor([chance < share for chance in chances], device=device)
