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
from vtok.priors.attention import prefix_visible
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
        area = grid[1] * grid[2]
        if config.interpolation != "none" and grid[0] < 3:
            raise VtokError(
                f"there is nothing between the first and the last of {grid[0]} latent frames",
                at="prior.model.interpolation",
                hint="tokenize longer clips, or set interpolation: none",
            )
        if config.interpolation == "prefix":
            needed += 1  # the last code is an input, too
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
            n_unmasked=area if config.interpolation == "tats" else 0,
            generator=generator,
        )
        self.given = 2 * area if config.interpolation == "prefix" else 0

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
        """Input tokens and the tokens that should follow them; n = t * h * w.

        To interpolate (`prefix`), the inputs are condition, last frame, first frame and what lies between, the targets
        what lies between.
        """
        targets_bn = codes_bthw.flatten(1).long() + self.offset
        start_b1 = self.condition(codes_bthw.shape[0], labels_b)
        if self.given:
            area = self.given // 2
            first, between, last = targets_bn[:, :area], targets_bn[:, area:-area], targets_bn[:, -area:]
            return torch.cat([start_b1, last, first, between[:, :-1]], dim=1), between
        return torch.cat([start_b1, targets_bn[:, :-1]], dim=1), targets_bn

    def _logits_of(self, tokens_bn: Int[Tensor, "b n"]) -> Float[Tensor, "b m v"]:
        if not self.given:
            return self.transformer(tokens_bn)
        area, count = self.given // 2, tokens_bn.shape[1]
        places = torch.arange(math.prod(self.grid) + 1, device=tokens_bn.device)
        positions_n = torch.cat([places[:1], places[-area:], places[1:-area]])[:count]
        mask_nn = prefix_visible(count, 1 + self.given).to(tokens_bn.device)
        return self.transformer(tokens_bn, positions_n=positions_n, mask_nn=mask_nn)[:, self.given :]

    def logits(
        self, codes_bthw: Int[Tensor, "b t h w"], labels_b: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b n v"]:
        """Logits of every code given those before it, of those between the ends if the prior interpolates (`prefix`).

        Column `offset + code` belongs to a code.
        """
        return self._logits_of(self.inputs(codes_bthw, labels_b)[0])

    def forward(self, codes_bthw: Int[Tensor, "b t h w"], labels_b: Int[Tensor, " b"] | None = None) -> PriorOutput:
        """Loss and accuracies of a batch of codes in 0..n_codes-1, with labels in 0..n_classes-1."""
        tokens_bn, targets_bn = self.inputs(codes_bthw, labels_b)
        return measure(self._logits_of(tokens_bn), targets_bn)

    def loss(self, codes_bthw: Int[Tensor, "b t h w"], labels_b: Int[Tensor, " b"] | None = None) -> PriorOutput:
        """The same as calling the prior."""
        return self(codes_bthw, labels_b)

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser; see `GPT.optim_groups`."""
        return self.transformer.optim_groups(weight_decay)
