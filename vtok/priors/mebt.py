"""The prior of MeBT (https://arxiv.org/abs/2303.11251): a bidirectional transformer whose cost is linear in the codes.

A few latent tokens read the codes that are seen (contexts) and are read by those to be predicted (targets). What a
layer does is its mode: `latent_enc` latents read contexts, `latent_self` latents read themselves, `latent_dec` targets
read latents, `lt2l` latents read latents and targets, `maskgit` contexts and targets read each other. Parameter names
are the original's, and so is its block, whose residual carries the normalised query.

An extra: the original never finished classes. Here a class adds a learnt vector to every latent token.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from schemas.config.prior import MebtConfig
from schemas.errors import VtokError
from vtok.priors.attention import Linear
from vtok.priors.base import Batch, Draws, dropped
from vtok.priors.chunked_loss import IGNORED, Head, PriorOutput
from vtok.priors.masking import Division, divide, draw_part, draw_time

_INIT_STD = 0.02


class _Attention(nn.Module):
    """One sequence reads another, or nothing: then its values are 0."""

    def __init__(self, config: MebtConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.n_head, self.dropout = config.n_head, config.attention_dropout
        self.key, self.query, self.value, self.proj = (Linear(width, width) for _ in range(4))

    def forward(self, query_bne: Tensor, read_bme: Tensor) -> Tensor:
        if read_bme.shape[1] == 0:
            # Gradients of 0 rather than none: plain torch passes parameters without a gradient over, ZeRO does not.
            parts = ((self.query, query_bne[:, :0]), (self.key, read_bme), (self.value, read_bme))
            nothing = torch.stack([layer(x).sum() for layer, x in parts]).sum()
            return self.proj(torch.zeros_like(query_bne) + nothing)
        query, key, value = (
            layer(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for layer, x in ((self.query, query_bne), (self.key, read_bme), (self.value, read_bme))
        )
        out = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """q = norm(query); x = q + attention(q, norm(read)); x + mlp(norm(x))."""

    def __init__(self, config: MebtConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = _Attention(config)
        self.mlp = nn.Sequential(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, query_bne: Tensor, read_bme: Tensor) -> Tensor:
        query_bne = self.ln1(query_bne)
        x_bne = query_bne + self.drop(self.attn(query_bne, self.ln1(read_bme)))
        return x_bne + self.drop(self.mlp(self.ln2(x_bne)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state_dict.pop(prefix + "attn.mask", None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class _Transformer(nn.Module):
    def __init__(self, config: MebtConfig, n_codes: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = Head(config.n_embd, n_codes)


class MebtPrior(nn.Module):
    """MeBT's prior on one grid of codes.

    Args:
        config: the transformer and its masks.
        n_codes: size of the tokenizer's codebook.
        grid: codes (t, h, w) of a clip.
        generator: draws the initial weights; None: a generator with seed 0.
        n_classes: number of class labels, for `condition: label`.

    Raises:
        VtokError: a label-conditional prior without classes, or without latent tokens to tell them.
    """

    def __init__(
        self,
        config: MebtConfig,
        n_codes: int,
        grid: tuple[int, int, int],
        generator: torch.Generator | None = None,
        n_classes: int = 0,
    ) -> None:
        super().__init__()
        if config.condition == "label" and (n_classes < 1 or config.latents < 1):
            raise VtokError(
                "a label-conditional prior needs clips with labels, and latent tokens",
                at="prior.model.condition",
                hint="set condition: none, or tokenize a dataset with classes",
            )
        self.config, self.n_codes, self.grid = config, n_codes, grid
        self.modes = config.modes()
        width = config.n_embd
        self.tok_emb = nn.Embedding(n_codes, width, _weight=torch.empty(n_codes, width))
        self.mask_emb = nn.Parameter(torch.empty(1, 1, width))
        self.sos_emb = nn.Parameter(torch.empty(1, config.latents, width))
        self.pos_emb = nn.Parameter(torch.empty(1, math.prod(grid), width))
        self.class_emb = nn.Parameter(torch.zeros(n_classes + 1, width)) if config.condition == "label" else None
        self.drop = nn.Dropout(config.dropout)
        self.transformer = _Transformer(config, n_codes)
        self._draw_weights(torch.Generator().manual_seed(0) if generator is None else generator)

    @torch.no_grad()
    def _draw_weights(self, generator: torch.Generator) -> None:
        """All weights from N(0, 0.02), biases and classes 0."""
        if self.pos_emb.is_meta:
            return
        linear = [module for module in self.modules() if isinstance(module, Linear)]
        tables = [self.tok_emb.weight, self.mask_emb, self.sos_emb, self.pos_emb]
        for tensor in [*tables, *(module.weight for module in linear)]:
            tensor.copy_(torch.empty(tensor.shape).normal_(0, _INIT_STD, generator=generator))
        for module in linear:
            if module.bias is not None:
                module.bias.zero_()

    def prepare(self, batch: Batch, draws: Draws) -> tuple[Tensor, Division, Tensor | None]:
        """Codes, which of them are seen and predicted, and classes; see `vtok.priors.base.Prior`.

        Time and part of the clip are drawn once a step, for all clips; every clip has an order of its own. Validation
        looks at whole clips, at evenly drawn times and without a budget.
        """
        config, codes_bthw = self.config, batch.codes_bthw
        places, training = math.prod(self.grid), draws.purpose == "train"
        generators = [draws.of_clip("order", i) for i in range(len(codes_bthw))]
        orders = [torch.randperm(places, generator=generator) for generator in generators]
        step = draws.of_step("mask")
        low, high = config.t_range if training else (0.0, 1.0)
        beta = config.beta_prior if training else None
        t = low + draw_time(beta, draws.step, config.beta_steps, step) * (high - low)
        first, frames = 0, self.grid[0]
        if training:
            first, frames = draw_part(config.t_prior, self.grid[0], draws.step, step)
        division = divide(
            torch.stack(orders).to(codes_bthw.device),
            self.grid,
            schedule=config.schedule,
            t=t,
            first_frame=first,
            frames=frames,
            budget=config.budget if training else None,
            parity=config.parity,
        )
        labels_b = None
        if self.class_emb is not None:
            if batch.labels_b is None:
                raise ValueError("a label-conditional prior needs labels")
            labels_b = batch.labels_b
            without_b = dropped(config.condition_drop, len(labels_b), draws, labels_b.device)
            if without_b is not None:
                labels_b = labels_b.masked_fill(without_b, self.no_class)
        return codes_bthw, division, labels_b

    @property
    def no_class(self) -> int:
        """The class of clips without one.

        Raises:
            ValueError: the prior has no classes.
        """
        if self.class_emb is None:
            raise ValueError("an unconditional prior has no classes")
        return len(self.class_emb) - 1

    def logits(
        self,
        codes_bn: Int[Tensor, "b n"],
        contexts_bc: Int[Tensor, "b c"],
        targets_bm: Int[Tensor, "b m"],
        labels_b: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b m k"]:
        """Logits of the codes at the target places, given those at the context places.

        Args:
            codes_bn: all codes in raster order; those that are no contexts are not looked at.
            contexts_bc: places 0..n-1; may be none.
            targets_bm: places to predict.
            labels_b: a class a clip, for a label-conditional prior.

        Raises:
            ValueError: classes are missing, or not wanted.
        """
        return self.transformer.head(self._features(codes_bn, contexts_bc, targets_bm, labels_b))

    def _features(
        self, codes_bn: Tensor, contexts_bc: Tensor, targets_bm: Tensor, labels_b: Tensor | None
    ) -> Float[Tensor, "b m e"]:
        if (labels_b is None) != (self.class_emb is None):
            raise ValueError(f"this prior {'takes no' if self.class_emb is None else 'needs'} labels")
        batch, width = len(codes_bn), self.pos_emb.shape[2]
        places = self.pos_emb.expand(batch, -1, -1)

        def at(index_bm: Tensor) -> Tensor:
            return places.gather(1, index_bm.unsqueeze(-1).expand(-1, -1, width))

        contexts = self.drop(self.tok_emb(codes_bn.gather(1, contexts_bc).long()) + at(contexts_bc))
        targets = self.drop(self.mask_emb + at(targets_bm))
        latents = self.sos_emb.expand(batch, -1, -1)
        if self.class_emb is not None:
            latents = latents + self.class_emb[labels_b].unsqueeze(1)
        latents = self.drop(latents)
        for mode, block in zip(self.modes, self.transformer.blocks, strict=True):
            if mode == "latent_enc":
                latents = block(latents, contexts)
            elif mode == "latent_self":
                latents = block(latents, latents)
            elif mode == "latent_dec":
                targets = block(targets, latents)
            elif mode == "lt2l":
                latents = block(latents, torch.cat([latents, targets], dim=1))
            else:
                both = torch.cat([contexts, targets], dim=1)
                contexts, targets = block(both, both).split([contexts.shape[1], targets.shape[1]], dim=1)
        return self.transformer.ln_f(targets)

    def forward(
        self, codes_bthw: Int[Tensor, "b t h w"], division: Division, labels_b: Int[Tensor, " b"] | None = None
    ) -> PriorOutput:
        """Loss and accuracies of the division's targets; codes below 0 count for nothing.

        The loss is the sum of the cross-entropies over (clips x codes x ratio ** avg_loss), ratio being the share of
        codes that are masked: with avg_loss 1 a mean over masked codes, with 0 one over all codes.
        """
        codes_bn = codes_bthw.flatten(1).long()
        targets_bm = codes_bn.gather(1, division.targets_bn)
        features_bme = self._features(codes_bn.clamp_min(0), division.contexts_bn, division.targets_bn, labels_b)
        smoothing = self.config.label_smoothing if self.training else 0.0
        targets_bm = targets_bm.masked_fill(targets_bm < 0, IGNORED)
        summed = self.transformer.head(features_bme, targets_bm, label_smoothing=smoothing)
        ratio = (division.length - division.contexts_bn.shape[1]) / division.length
        clips = summed.targets.clamp_min(1) / targets_bm.shape[1]
        loss = summed.loss / (clips * division.length * ratio**self.config.avg_loss)
        return summed.mean()._replace(loss=loss)

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Four parameter groups: weights of linear layers, which decay; token tables; the rest; positions."""
        linear = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear)}
        tables = {id(table) for table in (self.tok_emb.weight, self.mask_emb, self.sos_emb, self.class_emb)}
        groups: list[list[nn.Parameter]] = [[], [], [], []]
        for _, parameter in sorted(self.named_parameters()):
            which = 0 if id(parameter) in linear else 1 if id(parameter) in tables else 2
            groups[3 if parameter is self.pos_emb else which].append(parameter)
        return [{"params": g, "weight_decay": weight_decay if i == 0 else 0.0} for i, g in enumerate(groups)]
