"""The prior of TATS (https://arxiv.org/abs/2204.03638): a GPT over the codes of a clip in raster order (t, h, w), after
its condition: one token, or those of a caption or a sound.

Vocabulary as in TATS: condition tokens come first and codes are shifted past them. Deviations on purpose: an
unconditional clip starts from a token of its own, the softmax is over codes alone, and frames that are seen have no
loss. `parity` is as TATS is: the start is code 0, condition tokens are in the softmax, and so on.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from schemas.config.prior import GptConfig
from schemas.errors import VtokError
from vtok.priors.attention import prefix_visible
from vtok.priors.base import Batch, Draws, dropped
from vtok.priors.chunked_loss import IGNORED, PriorOutput
from vtok.priors.gpt import GPT

CLIP_VOCABULARY = 49_408


class GptPrior(nn.Module):
    """TATS's prior on one grid of codes.

    Args:
        config: the transformer.
        n_codes: size of the tokenizer's codebook.
        grid: codes (t, h, w) of a clip of the token store, before `latent_stride`.
        n_classes: number of class labels, for `condition: label`.
        block_size: length of the position table; None: what the grid needs. Longer ones are for original checkpoints.
        generator: draws the initial weights; None: a generator with seed 0.

    Attributes:
        grid: codes (t, h, w) of what is learnt.
        offset: token of code 0; smaller ones are condition tokens, the last of them the one of no condition.

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
        grid = (math.ceil(grid[0] / config.latent_stride), *grid[1:])
        area = grid[1] * grid[2]
        needed = config.tokens_before - 1 + math.prod(grid)
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
        self.offset = _condition_tokens(config, n_classes)
        self.transformer = GPT(
            self.offset + n_codes,
            block_size or needed,
            config.n_layer,
            config.n_head,
            config.n_embd,
            n_unmasked=area if config.interpolation == "tats" else 0,
            box_grid=(config.box_grid or grid) if config.boxes else None,
            generator=generator,
            first_output=0 if config.parity else self.offset,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            rope=(config.tokens_before, *grid[1:]) if config.positions == "rope" else None,
            qk_norm=config.qk_norm,
        )
        self.given = 2 * area if config.interpolation == "prefix" else 0
        self._prefixes: dict[tuple[int, torch.device], dict[str, Tensor]] = {}

    def prepare(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Codes, condition tokens and boxes; see `vtok.priors.base.Prior`."""
        given = {"label": batch.labels_b, "text": batch.text_bn, "audio": batch.audio_bn, "none": None}
        condition = given[self.config.condition]
        if self.config.condition != "none":
            condition = self.condition(len(batch.codes_bthw), condition)
            without_b = dropped(self.config.condition_drop, len(condition), draws, condition.device)
            if without_b is not None:
                condition = torch.where(without_b.unsqueeze(1), self.offset - 1, condition)
        if self.config.boxes and batch.boxes_b6 is None:
            raise ValueError("a prior with boxes needs the place of every crop")
        codes_bthw = batch.codes_bthw[:, :: self.config.latent_stride]
        return codes_bthw, condition, batch.boxes_b6 if self.config.boxes else None

    def condition(self, batch: int, given: Int[Tensor, " b"] | Int[Tensor, "b c"] | None) -> Int[Tensor, "b c"]:
        """The condition tokens of each clip: its label, caption or sound; the start token, if unconditional.

        Raises:
            ValueError: they are missing, not wanted, or of another number.
        """
        if self.config.condition == "none":
            if given is not None:
                raise ValueError("an unconditional prior takes no labels")
            return torch.zeros(batch, 1, dtype=torch.long, device=self.transformer.head.weight.device)
        if given is None:
            what = {"label": "labels", "text": "captions", "audio": "sounds"}[self.config.condition]
            raise ValueError(f"a {self.config.condition}-conditional prior needs {what}")
        tokens_bc = given.long().reshape(len(given), -1)
        if tokens_bc.shape[1] != self.config.tokens_before:
            raise ValueError(f"{tokens_bc.shape[1]} condition tokens a clip instead of {self.config.tokens_before}")
        return tokens_bc

    def no_condition(self, batch: int) -> Int[Tensor, "b c"]:
        """The condition tokens of clips without a condition, for guidance.

        Raises:
            ValueError: the prior was never trained without its condition.
        """
        if not self.config.condition_drop:
            raise ValueError("guidance needs a prior that was trained with condition_drop")
        device = self.transformer.head.weight.device
        return torch.full((batch, self.config.tokens_before), self.offset - 1, device=device)

    def inputs(
        self, codes_bthw: Int[Tensor, "b t h w"], given: Tensor | None = None
    ) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b m"]]:
        """Input tokens, and columns of the logits of the last m inputs that should be highest; m = t * h * w.

        To interpolate (`prefix`), the inputs are condition, last frame, first frame and what lies between, the targets
        what lies between. A negative code counts for nothing.
        """
        codes_bn = codes_bthw.flatten(1).long()
        tokens_bn = codes_bn.clamp_min(0) + self.offset
        targets_bn = (tokens_bn - self.transformer.first_output).masked_fill(codes_bn < 0, IGNORED)
        start_bc = self.condition(codes_bthw.shape[0], given)
        area = self.grid[1] * self.grid[2]
        if self.given:
            first, between, last = tokens_bn[:, :area], tokens_bn[:, area:-area], tokens_bn[:, -area:]
            return torch.cat([start_bc, last, first, between[:, :-1]], dim=1), targets_bn[:, area:-area]
        if self.config.interpolation == "tats" and not self.config.parity:
            targets_bn = targets_bn.clone()
            targets_bn[:, :area] = targets_bn[:, -area:] = IGNORED
        return torch.cat([start_bc, tokens_bn[:, :-1]], dim=1), targets_bn

    def _options(self, tokens_bn: Tensor, boxes_b6: Tensor | None) -> dict[str, Any]:
        """Positions, mask and boxes of the inputs."""
        if boxes_b6 is not None:
            return {"boxes_bne": self.transformer.box_positions(boxes_b6[:, 2:], boxes_b6[:, :2])}
        if not self.given:
            return {}
        area, count, device = self.given // 2, tokens_bn.shape[1], tokens_bn.device
        if (count, device) not in self._prefixes:  # the same at every step
            places = torch.arange(math.prod(self.grid) + 1, device=device)
            positions_n = torch.cat([places[:1], places[-area:], places[1:-area]])[:count]
            mask_nn = prefix_visible(count, 1 + self.given, device)
            self._prefixes[count, device] = {"positions_n": positions_n, "mask_nn": mask_nn}
        return self._prefixes[count, device]

    def logits(
        self,
        codes_bthw: Int[Tensor, "b t h w"],
        given: Tensor | None = None,
        boxes_b6: Int[Tensor, "b 6"] | None = None,
    ) -> Float[Tensor, "b n v"]:
        """Logits of every code given those before it, of those between the ends if the prior interpolates (`prefix`).

        Column v is of code v; with `parity`, column `offset + code` is of a code.
        """
        tokens_bn, targets_bn = self.inputs(codes_bthw, given)
        return self.transformer(tokens_bn, **self._options(tokens_bn, boxes_b6))[:, -targets_bn.shape[1] :]

    def forward(
        self,
        codes_bthw: Int[Tensor, "b t h w"],
        given: Tensor | None = None,
        boxes_b6: Int[Tensor, "b 6"] | None = None,
    ) -> PriorOutput:
        """Loss and accuracies of a batch.

        Args:
            codes_bthw: 0..n_codes-1; below 0 where a code counts for nothing.
            given: a class a clip, or its condition tokens; None if unconditional.
            boxes_b6: where the codes were cut out (t0, t1, h0, h1, w0, w1), for a prior with boxes.
        """
        tokens_bn, targets_bn = self.inputs(codes_bthw, given)
        return self.transformer.losses(tokens_bn, targets_bn, **self._options(tokens_bn, boxes_b6)).mean()

    def loss(self, codes_bthw: Int[Tensor, "b t h w"], given: Tensor | None = None) -> PriorOutput:
        """The same as calling the prior."""
        return self(codes_bthw, given)

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser; see `GPT.optim_groups`."""
        return self.transformer.optim_groups(weight_decay)


def _condition_tokens(config: GptConfig, n_classes: int) -> int:
    """How many tokens come before the codes' in the vocabulary."""
    if config.condition == "none":
        return 0 if config.parity else 1
    if config.condition == "label":
        return n_classes + bool(config.condition_drop)
    return (config.condition_vocabulary or CLIP_VOCABULARY) + bool(config.condition_drop)
