"""The prior of VideoGPT (https://arxiv.org/abs/2104.10157): a transformer over the codebook embeddings of a clip.

Codes enter as the tokenizer's embeddings, shifted by one place in raster order behind a learned start vector. Each axis
has its own position table. A class scales and shifts every normalisation; conditioning frames are read by a 3-D ResNet
and attended to in every block. Attention is full or strided (`vtok.priors.sparse`). Parameter names are the original's.

Deviations on purpose: fused attention; a normalisation that gives 0 for a constant row, where the original gives NaN; a
strided pattern that runs on any device, through FlexAttention on CUDA where attention has no dropout, else as a mask.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from schemas.config.prior import VideoGptConfig
from schemas.errors import VtokError
from vtok.priors.attention import Linear
from vtok.priors.base import Batch, Draws, dropped
from vtok.priors.chunked_loss import IGNORED, Head, PriorOutput
from vtok.priors.flex import kernel_mask
from vtok.priors.frame_condition import FrameEncoder
from vtok.priors.sparse import BLOCK, block_layout, mask_of
from vtok.priors.videogpt_block import Block, Context, Mask, MultiHeadAttention, Norm, Past

Shape = tuple[int, int, int]


class PositionTables(nn.Module):
    """One table of width e / 3 an axis; an element's position is the three entries side by side."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.emb = nn.ParameterDict(
            {f"d_{axis}": nn.Parameter(torch.zeros(size, width // 3)) for axis, size in enumerate(shape)}
        )

    def forward(self) -> Float[Tensor, "n e"]:
        tables = [self.emb[f"d_{axis}"] for axis in range(3)]
        shape = [len(table) for table in tables]
        along = []
        for axis, table in enumerate(tables):
            sizes = [n if a == axis else 1 for a, n in enumerate(shape)]
            along.append(table.view(*sizes, -1).expand(*shape, -1))
        return torch.cat(along, dim=-1).flatten(0, 2)


class _Shift(nn.Module):
    """The learned vector that stands before the first code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sos = nn.Parameter(torch.zeros(width))


class AttentionStack(nn.Module):
    """The blocks, with what comes before them."""

    def __init__(self, config: VideoGptConfig, grid: Shape, n_classes: int, frame_width: int) -> None:
        super().__init__()
        self.right_shift = _Shift(config.n_embd)
        self.pos_embd = PositionTables(grid, config.n_embd)
        self.attn_nets = nn.ModuleList(Block(config, n_classes, frame_width) for _ in range(config.n_layer))


class VideoGptPrior(nn.Module):
    """VideoGPT's prior on one grid of codes.

    Args:
        config: the transformer.
        codebook_kc: the tokenizer's embeddings (n_codes, c); kept with the prior, never trained.
        grid: codes (t, h, w) of a clip.
        n_classes: number of class labels, for `condition: label`.
        resolution: height and width of the conditioning frames, pixels; with `cond_frames` > 0.
        generator: draws the initial weights; None: a generator with seed 0.

    Raises:
        VtokError: a label-conditional prior without classes, or a grid that the sparse pattern does not tile.
    """

    codebook_kc: Tensor
    layout_rc: Tensor | None

    def __init__(
        self,
        config: VideoGptConfig,
        codebook_kc: Float[Tensor, "k c"],
        grid: Shape,
        n_classes: int = 0,
        resolution: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        labelled = config.condition == "label"
        if labelled and n_classes < 1:
            raise VtokError(
                "a label-conditional prior needs clips with labels",
                at="prior.model.condition",
                hint="set condition: none, or tokenize a dataset with classes",
            )
        self.config, self.grid, self.n_codes = config, grid, len(codebook_kc)
        self.register_buffer("codebook_kc", codebook_kc.clone())
        classes = n_classes + bool(config.condition_drop) if labelled else 0
        self._no_class = n_classes
        frame_width = config.frame_width if config.cond_frames else 0
        self.fc_in = Linear(codebook_kc.shape[1], config.n_embd, bias=False)
        self.attn_stack = AttentionStack(config, grid, classes, frame_width)
        self.norm = Norm(config.n_embd, classes)
        self.fc_out = Head(config.n_embd, self.n_codes)
        if config.cond_frames:
            self.resnet = FrameEncoder(frame_width)
            side = self.resnet.side(resolution)
            self.cond_pos_embd = PositionTables((config.cond_frames, side, side), frame_width)
        self.register_buffer("layout_rc", self._layout(), persistent=False)
        self._masks: dict[torch.device, Mask] = {}
        self._draw_weights(torch.Generator().manual_seed(0) if generator is None else generator)

    def _layout(self) -> Bool[Tensor, "r c"] | None:
        if self.config.attention == "full":
            return None
        try:
            return block_layout(self.grid)
        except ValueError as error:
            raise VtokError(str(error), at="prior.model.attention", hint="use attention: full for this grid") from None

    def mask(self) -> Mask:
        """The mask of a whole pass: of a kernel on CUDA, else one by codes."""
        layout_rc = self.layout_rc
        if layout_rc is None:
            return None
        device = layout_rc.device
        if device not in self._masks:
            self._masks[device] = kernel_mask(layout_rc) if layout_rc.is_cuda else mask_of(layout_rc)
        return self._masks[device]

    @torch.no_grad()
    def _draw_weights(self, generator: torch.Generator) -> None:
        """The original's initial weights: the loss starts at exactly ln(n_codes)."""
        if self.fc_in.weight.is_meta:
            return

        def normal(tensor: Tensor, std: float) -> None:
            tensor.copy_(torch.empty(tensor.shape).normal_(0, std, generator=generator))

        def uniform(linear: nn.Linear) -> None:
            bound = 1 / math.sqrt(linear.in_features)
            for tensor in (linear.weight, linear.bias):
                if tensor is not None:
                    tensor.copy_(torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator))

        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                normal(module.w_qs.weight, module.w_qs.in_features**-0.5)
                normal(module.w_ks.weight, module.w_ks.in_features**-0.5)
                normal(module.w_vs.weight, module.w_vs.in_features**-0.5)
                uniform(module.fc)
                normal(module.fc.weight, (module.fc.out_features * self.config.n_layer) ** -0.5)
            elif isinstance(module, FrameEncoder):
                module.draw_weights(generator)
            elif isinstance(module, Norm) and module.n_classes:
                module.w.weight.fill_(module.n_classes**-0.5)
                uniform(module.wb)
            elif isinstance(module, PositionTables):
                for table in module.emb.values():
                    normal(table, 0.01)
            elif isinstance(module, Block):
                for layer in (module.fc_block[0], module.fc_block[2]):
                    assert isinstance(layer, nn.Linear)
                    uniform(layer)
        normal(self.attn_stack.right_shift.sos, 0.02)
        normal(self.fc_in.weight, 0.02)
        self.fc_out.weight.zero_()

    def prepare(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Codes, classes and conditioning frames; see `vtok.priors.base.Prior`."""
        count = self.config.cond_frames
        frames = None
        if count and batch.frames_bcthw is not None:
            if batch.frames_bcthw.shape[2] < count:
                raise ValueError(f"this prior needs {count} conditioning frames, not {batch.frames_bcthw.shape[2]}")
            frames = batch.frames_bcthw[:, :, :count]
        labels_b = batch.labels_b if self.config.condition == "label" else None
        if labels_b is not None:
            without_b = dropped(self.config.condition_drop, len(labels_b), draws, labels_b.device)
            if without_b is not None:
                labels_b = labels_b.masked_fill(without_b, self.no_class)
        return batch.codes_bthw, labels_b, frames

    @property
    def no_class(self) -> int:
        """The class of clips without one, for guidance.

        Raises:
            ValueError: the prior was never trained without its class.
        """
        if not self.config.condition_drop:
            raise ValueError("guidance needs a prior that was trained with condition_drop")
        return self._no_class

    def context(
        self,
        labels_b: Int[Tensor, " b"] | None = None,
        frames_bcthw: Float[Tensor, "b 3 f r r"] | None = None,
    ) -> Context:
        """What a batch is conditioned on.

        Args:
            labels_b: a class a clip, 0..n_classes-1.
            frames_bcthw: the first `cond_frames` frames of each clip, pixels in [-0.5, 0.5].

        Raises:
            ValueError: something is missing, or not wanted.
        """
        wanted = {"labels": self.config.condition == "label", "frames": self.config.cond_frames > 0}
        given = {"labels": labels_b is not None, "frames": frames_bcthw is not None}
        for name in wanted:
            if wanted[name] != given[name]:
                raise ValueError(f"this prior {'needs' if wanted[name] else 'takes no'} {name}")
        frames = None
        if frames_bcthw is not None:
            features = self.resnet(frames_bcthw).movedim(1, -1)
            frames = features.flatten(1, 3) + self.cond_pos_embd()
        return Context(None if labels_b is None else labels_b.long(), frames)

    def logits(self, codes_bthw: Int[Tensor, "b t h w"], context: Context) -> Float[Tensor, "b n k"]:
        """Logits of every code in raster order, given those before it."""
        return self.logits_of_embeddings(self.codebook_kc[codes_bthw.long()], context)

    def logits_of_embeddings(
        self, embeddings_bthwc: Float[Tensor, "b t h w c"], context: Context
    ) -> Float[Tensor, "b n k"]:
        """`logits`, for codes given by their embeddings."""
        return self.fc_out(self._features(embeddings_bthwc, context))

    def _features(self, embeddings_bthwc: Float[Tensor, "b t h w c"], context: Context) -> Float[Tensor, "b n e"]:
        x_bne = self.fc_in(embeddings_bthwc.flatten(1, 3))
        sos = self.attn_stack.right_shift.sos.to(x_bne.dtype).expand(x_bne.shape[0], 1, -1)
        x_bne = torch.cat([sos, x_bne[:, :-1]], dim=1) + self.attn_stack.pos_embd()
        mask = self.mask()
        for block in self.attn_stack.attn_nets:
            x_bne = block(x_bne, context, mask, None)
        return self.norm(x_bne, context.labels_b)

    def new_cache(self, batch: int) -> Float[Tensor, "l 2 b h n d"]:
        """Empty keys and values of all blocks, in the dtype and on the device of the weights."""
        config = self.config
        shape = (config.n_layer, 2, batch, config.n_head, math.prod(self.grid), config.n_embd // config.n_head)
        return self.fc_in.weight.new_zeros(shape)

    def step(
        self, code_b: Int[Tensor, " b"] | None, position: int, cache: Float[Tensor, "l 2 b h n d"], context: Context
    ) -> Float[Tensor, "b k"]:
        """Logits of the code at `position`, given the one before it and, in `cache`, which is extended, the rest.

        Args:
            code_b: the code at `position - 1`; None at position 0.
            position: place in raster order.
            cache: of `new_cache`.
            context: of `context`.
        """
        if code_b is None:
            x_bne = self.attn_stack.right_shift.sos.expand(cache.shape[2], 1, -1)
        else:
            x_bne = self.fc_in(self.codebook_kc[code_b.long()]).unsqueeze(1)
        x_bne = x_bne + self.attn_stack.pos_embd()[position]
        seen = None
        if self.layout_rc is not None:
            seen = self.layout_rc[position // BLOCK].repeat_interleave(BLOCK)[None, : position + 1]
        for layer, block in enumerate(self.attn_stack.attn_nets):
            x_bne = block(x_bne, context, seen, Past(cache[layer, 0], cache[layer, 1], position))
        return self.fc_out(self.norm(x_bne, context.labels_b))[:, 0]

    def forward(
        self,
        codes_bthw: Int[Tensor, "b t h w"],
        labels_b: Int[Tensor, " b"] | None = None,
        frames_bcthw: Float[Tensor, "b 3 f r r"] | None = None,
    ) -> PriorOutput:
        """Loss and accuracies of a batch of codes in 0..n_codes-1 (those of conditioning frames count, too; a code
        below 0 counts for nothing)."""
        codes_bn = codes_bthw.flatten(1).long()
        embeddings_bthwc = self.codebook_kc[codes_bthw.long().clamp_min(0)]
        features_bne = self._features(embeddings_bthwc, self.context(labels_b, frames_bcthw))
        return self.fc_out(features_bne, codes_bn.masked_fill(codes_bn < 0, IGNORED)).mean()

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Two parameter groups: weights of linear layers, which decay, and all others, which do not."""
        decayed = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear)}
        named = sorted(self.named_parameters())
        return [
            {"params": [p for _, p in named if id(p) in decayed], "weight_decay": weight_decay},
            {"params": [p for _, p in named if id(p) not in decayed], "weight_decay": 0.0},
        ]
