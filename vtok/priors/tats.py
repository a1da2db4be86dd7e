"""The prior of TATS (https://arxiv.org/abs/2204.03638): a GPT over the codes of a clip in raster order (t, h, w), after
one condition token.

Vocabulary as in TATS: class labels come first and codes are shifted past them; an unconditional prior starts from token
0, which is code 0 as well.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from schemas.config.prior import GptConfig
from schemas.errors import VtokError
from vtok.priors.gpt import GPT


class PriorOutput(NamedTuple):
    """What training on a batch measures.

    Attributes:
        loss: mean cross-entropy of the codes over the whole vocabulary, nats a code, with a graph.
        acc1: how often the code was the most likely token, percent.
        acc5: how often it was among the five most likely, percent.
    """

    loss: Float[Tensor, ""]
    acc1: Float[Tensor, ""]
    acc5: Float[Tensor, ""]


def measure(logits_bnv: Float[Tensor, "b n v"], targets_bn: Int[Tensor, "b n"]) -> PriorOutput:
    """Loss and accuracies of logits against the tokens that should have come."""
    logits_nv, targets_n = logits_bnv.flatten(0, 1).float(), targets_bn.flatten()
    return PriorOutput(F.cross_entropy(logits_nv, targets_n), *hits(logits_bnv, targets_bn))


@torch.no_grad()
def hits(
    logits_bnv: Float[Tensor, "b n v"], targets_bn: Int[Tensor, "b n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """How often the target was the most likely token, and one of the five most likely, percent."""
    best_bn5 = logits_bnv.topk(min(5, logits_bnv.shape[-1]), dim=-1).indices
    hit_bn5 = best_bn5 == targets_bn.unsqueeze(-1)
    acc1, acc5 = (100 * hit_bn5[..., :k].any(-1).float().mean() for k in (1, 5))
    return acc1, acc5


class GptPrior(nn.Module):
    """TATS's prior on one grid of codes.

    Args:
        config: the transformer.
        n_codes: size of the tokenizer's codebook.
        grid: codes (t, h, w) of a clip.
        n_classes: number of class labels, for `condition: label`.
        block_size: length of the position table; None: what the grid needs. Longer ones are for original checkpoints.
        generator: draws the initial weights; None: a generator with seed 0.

    Raises:
        VtokError: a label-conditional prior without classes, or a block that is too short.
    """

    def __init__(
        self,
        config: GptConfig,
        n_codes: int,
        grid: tuple[int, int, int],
        n_classes: int = 0,
        block_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if config.condition == "label" and n_classes < 1:
            raise VtokError(
                "a label-conditional prior needs clips with labels",
                at="prior.model.condition",
                hint="set condition: none, or tokenize a dataset with classes",
            )
        needed = math.prod(grid)
        if block_size is not None and block_size < needed:
            raise VtokError(f"a grid of {needed} codes does not fit in {block_size} positions")
        self.config = config
        self.n_codes = n_codes
        self.grid = grid
        self.offset = n_classes if config.condition == "label" else 0
        self.transformer = GPT(
            self.offset + n_codes,
            block_size or needed,
            config.n_layer,
            config.n_head,
            config.n_embd,
            generator=generator,
        )

    def condition(self, batch: int, labels_b: Int[Tensor, " b"] | None) -> Int[Tensor, "b 1"]:
        """The condition token of each clip: its label, or 0 for an unconditional prior.

        Raises:
            ValueError: labels are missing, or not wanted.
        """
        if self.config.condition == "label":
            if labels_b is None:
                raise ValueError("a label-conditional prior needs labels")
            return labels_b.long().unsqueeze(1)
        if labels_b is not None:
            raise ValueError("an unconditional prior takes no labels")
        return torch.zeros(batch, 1, dtype=torch.long, device=self.transformer.head.weight.device)

    def inputs(
        self, codes_bthw: Int[Tensor, "b t h w"], labels_b: Int[Tensor, " b"] | None = None
    ) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        """Input tokens and the tokens that should follow them; n = t * h * w."""
        targets_bn = codes_bthw.flatten(1).long() + self.offset
        tokens_bn = torch.cat([self.condition(codes_bthw.shape[0], labels_b), targets_bn[:, :-1]], dim=1)
        return tokens_bn, targets_bn

    def logits(
        self, codes_bthw: Int[Tensor, "b t h w"], labels_b: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b n v"]:
        """Logits of every code given those before it; column `offset + code` belongs to a code."""
        return self.transformer(self.inputs(codes_bthw, labels_b)[0])

    def forward(self, codes_bthw: Int[Tensor, "b t h w"], labels_b: Int[Tensor, " b"] | None = None) -> PriorOutput:
        """Loss and accuracies of a batch of codes in 0..n_codes-1, with labels in 0..n_classes-1."""
        tokens_bn, targets_bn = self.inputs(codes_bthw, labels_b)
        return measure(self.transformer(tokens_bn), targets_bn)

    def loss(self, codes_bthw: Int[Tensor, "b t h w"], labels_b: Int[Tensor, " b"] | None = None) -> PriorOutput:
        """The same as calling the prior."""
        return self(codes_bthw, labels_b)

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser; see `GPT.optim_groups`."""
        return self.transformer.optim_groups(weight_decay)
