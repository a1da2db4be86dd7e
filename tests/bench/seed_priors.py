"""Plain implementations of how TATS (https://arxiv.org/abs/2204.03638), MeBT (https://arxiv.org/abs/2303.11251) and
VideoGPT (https://arxiv.org/abs/2104.10157) train their priors, to compare with.

Written from the papers and the facts of their releases around the weights of our priors, without our attention and
loss: all attention probabilities, all logits, torch's own AdamW. Blocks are modules of their own, so that
`torch.compile` treats them as it treats ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok.priors.masking import Division
from vtok.priors.mebt import MebtPrior
from vtok.priors.tats import GptPrior


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """(b, h, n, d), by the matrix of all probabilities; False in the mask: not seen."""
    scores = (query @ key.transpose(-2, -1)) * (1.0 / math.sqrt(key.shape[-1]))
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -torch.inf)
    return F.softmax(scores, dim=-1) @ value


def _attend(layers: Any, query: Tensor, read: Tensor, mask: Tensor | None) -> Tensor:
    heads = layers.n_head

    def split(x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)

    out = attention(split(layers.query(query)), split(layers.key(read)), split(layers.value(read)), mask)
    return layers.proj(out.transpose(1, 2).contiguous().view(query.shape))


class SeedBlock(nn.Module):
    """minGPT's block around one of ours, with its buffer of which input sees which."""

    mask: Tensor

    def __init__(self, block: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.block = block
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.block.ln1(x)
        x = x + _attend(self.block.attn, normal, normal, self.mask[: x.shape[1], : x.shape[1]])
        return x + self.block.mlp(self.block.ln2(x))


class SeedGpt:
    """TATS's training step; `parity` priors only.

    Args:
        prior: trained in place.
        lr: of AdamW.
    """

    def __init__(self, prior: GptPrior, lr: float = 1e-4) -> None:
        self.prior, gpt = prior, prior.transformer
        mask = torch.ones(gpt.block_size, gpt.block_size, device=gpt.head.weight.device).tril()
        self.blocks = [SeedBlock(block, mask) for block in gpt.blocks]
        self.adam = torch.optim.AdamW(prior.optim_groups(0.01), lr=lr, betas=(0.9, 0.95))

    def loss(self, codes_bthw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and accuracies."""
        gpt = self.prior.transformer
        tokens, targets = self.prior.inputs(codes_bthw)
        x = gpt.tok_emb(tokens) + gpt.pos_emb[:, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(gpt.ln_f(x), gpt.head.weight)
        return _measured(logits.flatten(0, 1), targets.flatten())

    def step(self, codes_bthw: Tensor) -> float:
        """Trains on a batch; returns the loss."""
        return descend(self.loss(codes_bthw)[0], self.adam)


class SeedReading(nn.Module):
    """MeBT's block around one of ours."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, query: Tensor, read: Tensor) -> Tensor:
        query, read = self.block.ln1(query), self.block.ln1(read)
        x = query + _attend(self.block.attn, query, read, None)
        return x + self.block.mlp(self.block.ln2(x))


class SeedMebt:
    """MeBT's training step.

    Args:
        prior: trained in place; without dropout.
        lr: of AdamW.
    """

    def __init__(self, prior: MebtPrior, lr: float = 3e-5) -> None:
        self.prior = prior
        self.blocks = [SeedReading(block) for block in prior.transformer.blocks]
        self.adam = torch.optim.AdamW(prior.optim_groups(1e-4), lr=lr, betas=(0.9, 0.95))

    def loss(self, codes_bthw: Tensor, division: Division) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (a mean over the masked codes) and accuracies."""
        prior, codes = self.prior, codes_bthw.flatten(1)
        batch = len(codes)
        rows = torch.arange(batch, device=codes.device).unsqueeze(1)
        places = prior.pos_emb.repeat(batch, 1, 1)
        contexts = prior.tok_emb(codes[rows, division.contexts_bn]) + places[rows, division.contexts_bn]
        targets = prior.mask_emb + places[rows, division.targets_bn]
        latents = prior.sos_emb.repeat(batch, 1, 1)
        for mode, block in zip(prior.modes, self.blocks, strict=True):
            if mode == "latent_enc":
                latents = block(latents, contexts)
            elif mode == "latent_self":
                latents = block(latents, latents)
            elif mode == "latent_dec":
                targets = block(targets, latents)
            elif mode == "lt2l":
                latents = block(latents, torch.cat([latents, targets], dim=1))
            else:
                raise ValueError("maskgit layers are not MeBT's own order")
        logits = F.linear(prior.transformer.ln_f(targets), prior.transformer.head.weight)
        return _measured(logits.flatten(0, 1), codes[rows, division.targets_bn].flatten())

    def step(self, codes_bthw: Tensor, division: Division) -> float:
        """Trains on a batch; returns the loss."""
        return descend(self.loss(codes_bthw, division)[0], self.adam)


def naive_cross_entropy(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The mean over all targets, through all logits."""
    return _measured(F.linear(features, weight), targets)[0]


def compiled(blocks: Iterable[nn.Module]) -> None:
    """torch.compile on each block, in place."""
    for block in blocks:
        block.compile()


def _measured(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    loss = F.cross_entropy(logits, targets)
    hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets.unsqueeze(1)
    return loss, 100 * hits[:, 0].float().mean(), 100 * hits.any(1).float().mean()


def descend(loss: Tensor, adam: torch.optim.Optimizer) -> float:
    """A step; returns the loss."""
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()
    return float(loss.detach())
