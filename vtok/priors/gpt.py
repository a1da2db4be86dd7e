"""The decoder-only transformer of TATS (https://arxiv.org/abs/2204.03638), which is minGPT
(https://github.com/karpathy/minGPT, https://d4mucfpksywv.cloudfront.net/better-language-models/language-models.pdf).

Parameter names are the original's. Deviations on purpose: fused attention, a cache that does not grow, initial weights
from a generator. Options that it has not: dropout, a last layer for a part of the vocabulary, rotary positions
(`vtok.priors.rope`), normalised queries and keys.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vtok.priors.attention import KVCache, Linear, SelfAttention, visible
from vtok.priors.chunked_loss import Head, Summed
from vtok.priors.rope import Turns, turns_of

_INIT_STD = 0.02


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(
        self, n_embd: int, n_head: int, dropout: float = 0.0, attention_dropout: float = 0.0, qk_norm: bool = False
    ) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(n_embd)
        self.ln2 = nn.LayerNorm(n_embd)
        self.attn = SelfAttention(n_embd, n_head, attention_dropout, qk_norm)
        self.mlp = nn.Sequential(Linear(n_embd, 4 * n_embd), nn.GELU(), Linear(4 * n_embd, n_embd))
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x_bne: Float[Tensor, "b n e"],
        mask_nn: Tensor | None,
        cache: KVCache | None,
        layer: int,
        position: int,
        turns: Turns | None = None,
    ) -> Float[Tensor, "b n e"]:
        x_bne = x_bne + self.drop(self.attn(self.ln1(x_bne), mask_nn, cache, layer, position, turns))
        return x_bne + self.drop(self.mlp(self.ln2(x_bne)))


class GPT(nn.Module):
    """Tokens to logits of the next token.

    Args:
        vocab_size: tokens, 0..vocab_size-1.
        block_size: the longest input.
        n_layer: blocks.
        n_head: attention heads.
        n_embd: width of the residual stream.
        n_unmasked: codes of the first and of the last frame that every position sees (TATS's interpolation); 0: causal.
        box_grid: codes (t, h, w) of the largest clip that boxes are cut out of; None: no boxes.
        first_output: the last layer is for tokens from this one on; the others can only be inputs.
        dropout, attention_dropout: in training.
        rope: condition tokens, height and width of a latent frame, for rotary positions instead of a table; then
            `block_size` bounds nothing.
        qk_norm: see `SelfAttention`.
        generator: draws the initial weights; None: a generator with seed 0.
    """

    mask_nn: Tensor | None

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        n_unmasked: int = 0,
        box_grid: tuple[int, int, int] | None = None,
        generator: torch.Generator | None = None,
        *,
        first_output: int = 0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        rope: tuple[int, int, int] | None = None,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.block_size = block_size
        self.n_head = n_head
        self.first_output, self.rope = first_output, rope
        self.tok_emb = nn.Embedding(vocab_size, n_embd, _weight=torch.empty(vocab_size, n_embd))
        if rope is None:
            self.pos_emb = nn.Parameter(torch.zeros(1, block_size, n_embd))
        if box_grid is not None:
            self.vtokens_pos_emb = nn.Parameter(torch.zeros(1, *box_grid, n_embd))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(n_embd, n_head, dropout, attention_dropout, qk_norm) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        self.head = Head(n_embd, vocab_size - first_output)
        mask_nn = visible(block_size, n_unmasked) if n_unmasked > 0 else None
        self.register_buffer("mask_nn", mask_nn, persistent=False)
        self._draw_weights(torch.Generator().manual_seed(0) if generator is None else generator)

    @torch.no_grad()
    def _draw_weights(self, generator: torch.Generator) -> None:
        """Weights of linear layers and of the token table from N(0, 0.02), biases and positions 0."""
        for module in self.modules():
            if not isinstance(module, (Linear, nn.Embedding)) or module.weight.is_meta:
                continue
            weight = module.weight
            weight.copy_(torch.empty(weight.shape, device=generator.device).normal_(0, _INIT_STD, generator=generator))
            if isinstance(module, Linear) and module.bias is not None:
                module.bias.zero_()

    @property
    def vocab_size(self) -> int:
        return self.tok_emb.num_embeddings

    def forward(
        self,
        tokens_bn: Int[Tensor, "b n"],
        *,
        positions_n: Int[Tensor, " n"] | None = None,
        boxes_bne: Float[Tensor, "b n e"] | None = None,
        mask_nn: Bool[Tensor, "n n"] | None = None,
    ) -> Float[Tensor, "b n v"]:
        """Logits of the token after each one; column v is of token `first_output` + v.

        Args:
            tokens_bn: the input.
            positions_n: entry of the position table for each token; None: 0, 1, 2, ...
            boxes_bne: of `box_positions`, added to the positions.
            mask_nn: True where a token (first axis) sees another; None: the model's own.

        Raises:
            ValueError: more tokens than `block_size`, with a table of positions.
        """
        return self.head(self._run(tokens_bn, None, 0, positions_n, boxes_bne, mask_nn))

    def losses(
        self,
        tokens_bn: Int[Tensor, "b n"],
        targets_bm: Int[Tensor, "b m"],
        *,
        positions_n: Int[Tensor, " n"] | None = None,
        boxes_bne: Float[Tensor, "b n e"] | None = None,
        mask_nn: Bool[Tensor, "n n"] | None = None,
    ) -> Summed:
        """The loss of what should follow the last m inputs, without holding all logits; otherwise as `forward`.

        Args:
            targets_bm: columns of the logits; see `vtok.priors.chunked_loss`.
        """
        features_bne = self._run(tokens_bn, None, 0, positions_n, boxes_bne, mask_nn)
        return self.head(features_bne[:, -targets_bm.shape[1] :], targets_bm)

    def following(
        self, tokens_bn: Int[Tensor, "b n"], *, boxes_bne: Float[Tensor, "b n e"] | None = None
    ) -> Float[Tensor, "b v"]:
        """The last of the logits that `forward` gives, and no others."""
        return self.head(self._run(tokens_bn, None, 0, None, boxes_bne, None)[:, -1])

    def box_positions(
        self, boxes_b4: Int[Tensor, "b 4"], frames_b2: Int[Tensor, "b 2"] | None = None
    ) -> Float[Tensor, "b n e"]:
        """What boxes cut out of the table of places: entry i marks the code that input i predicts, in raster order.

        Args:
            boxes_b4: top, bottom, left, right a clip, or one for all.
            frames_b2: first and end latent frame a clip; None: all.
        """
        parts = []
        for number, (top, bottom, left, right) in enumerate(boxes_b4.tolist()):
            first, end = (None, None) if frames_b2 is None else frames_b2[number].tolist()
            parts.append(self.vtokens_pos_emb[0, first:end, top:bottom, left:right].flatten(0, 2))
        return torch.stack(parts)

    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for `length` positions, in the dtype and on the device of the weights."""
        weight = self.head.weight
        shape = (len(self.blocks), batch, self.n_head, length, weight.shape[1] // self.n_head)
        return KVCache(weight.new_zeros(shape), weight.new_zeros(shape))

    def prefill(
        self,
        tokens_bn: Int[Tensor, "b n"],
        cache: KVCache,
        *,
        positions_n: Int[Tensor, " n"] | None = None,
        boxes_bne: Float[Tensor, "b n e"] | None = None,
        mask_nn: Bool[Tensor, "n n"] | None = None,
    ) -> Float[Tensor, "b n v"]:
        """As `forward`, and remember keys and values in places 0..n-1 of `cache`."""
        return self.head(self._run(tokens_bn, cache, 0, positions_n, boxes_bne, mask_nn))

    def step(
        self,
        token_b: Int[Tensor, " b"],
        place: int,
        cache: KVCache,
        *,
        position: int | None = None,
        box_be: Float[Tensor, "b e"] | None = None,
    ) -> Float[Tensor, "b v"]:
        """Logits of the token after the one at `place`, given those before it in `cache`, which is extended.

        Args:
            position: its entry of the position table; None: `place`.
            box_be: its entry of `box_positions`.
        """
        positions_n = None if position is None else torch.tensor([position], device=token_b.device)
        box = None if box_be is None else box_be.unsqueeze(1)
        return self.head(self._run(token_b.unsqueeze(1), cache, place, positions_n, box, None)[:, 0])

    def _run(
        self,
        tokens_bn: Tensor,
        cache: KVCache | None,
        place: int,
        positions_n: Tensor | None,
        boxes_bne: Tensor | None,
        mask_nn: Tensor | None,
    ) -> Tensor:
        end = place + tokens_bn.shape[1]
        x_bne = self.tok_emb(tokens_bn)
        turns = None
        if self.rope is not None:
            numbers_n = torch.arange(place, end, device=tokens_bn.device) if positions_n is None else positions_n
            turns = turns_of(numbers_n, *self.rope, x_bne.shape[2] // self.n_head)
        else:
            if positions_n is None and end > self.block_size:
                raise ValueError(f"{end} positions exceed the block size {self.block_size}")
            x_bne = x_bne + (self.pos_emb[:, place:end] if positions_n is None else self.pos_emb[:, positions_n])
        if boxes_bne is not None:
            x_bne = x_bne + boxes_bne
        x_bne = self.drop(x_bne)
        if mask_nn is None and self.mask_nn is not None:
            mask_nn = self.mask_nn[:end, :end]
        for layer, block in enumerate(self.blocks):
            x_bne = block(x_bne, mask_nn, cache, layer, place, turns)
        return self.ln_f(x_bne)

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Two parameter groups: weights of linear layers, which decay, and all others, which do not."""
        decayed = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear)}
        named = sorted(self.named_parameters())
        return [
            {"params": [p for _, p in named if id(p) in decayed], "weight_decay": weight_decay},
            {"params": [p for _, p in named if id(p) not in decayed], "weight_decay": 0.0},
        ]
