"""Gradients of single losses at a decoder's last layer, for VQGAN's adaptive weight, beside the backward pass.

DeepSpeed hangs hooks on what its forward pass returns, and they allow one backward pass, its own: with ZeRO stage 0
another one is an error, with other stages it would start the exchange of gradients. So nothing here goes back through
those outputs: a loss is derived for a copy of the reconstruction, and from there on through the last layer alone, which
is computed once more from the input that it had.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokenizers.layers import SamePadConv3d, SamePadConvTranspose3d


class LastLayer:
    """The convolution that makes the reconstruction, and what went into it at its latest call."""

    def __init__(self, model: VideoAutoencoder) -> None:
        kinds = (SamePadConv3d, SamePadConvTranspose3d)
        self._layer = [layer for layer in model.decoder.modules() if isinstance(layer, kinds)][-1]
        self._input: Tensor | None = None
        self._recon: Tensor | None = None
        self._layer.register_forward_pre_hook(self._remember)

    def _remember(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._input = inputs[0].detach()

    def watch(self, recon_bcthw: Tensor) -> None:
        """The copy of the layer's latest output that losses are computed of."""
        self._recon = recon_bcthw

    def __call__(self, loss: Tensor) -> Tensor:
        """Gradient, float32, of a loss for the layer's weight. The loss keeps its graph."""
        assert self._recon is not None and self._input is not None
        (at_recon,) = torch.autograd.grad(loss, self._recon, retain_graph=True)
        with torch.enable_grad(), torch.autocast(self._input.device.type, enabled=False):
            again = self._layer(self._input.float())
        weight = next(p for p in self._layer.parameters() if p.ndim > 1)
        (gradient,) = torch.autograd.grad(again, weight, at_recon.float())
        return gradient
