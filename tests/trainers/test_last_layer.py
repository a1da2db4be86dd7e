from __future__ import annotations

import pytest
import torch

from schemas.config.tokenizer import VqganConfig, VqvaeConfig
from trainers.last_layer import LastLayer
from vtok.tokenizers.load import build_tokenizer

SIZE = {"embedding_dim": 4, "n_codes": 16, "downsample": (2, 4, 4)}


@pytest.mark.parametrize("config", [VqganConfig(n_hiddens=2, **SIZE), VqvaeConfig(n_hiddens=6, n_res_layers=1, **SIZE)])
def test_the_gradient_is_autograd_s_and_no_hook_of_the_output_runs(config: VqganConfig | VqvaeConfig) -> None:
    draws = torch.Generator().manual_seed(0)
    model = build_tokenizer(config, draws).train()
    last = LastLayer(model)
    video = torch.rand(2, 3, 4, 8, 8, generator=draws) - 0.5
    output = model(video, draws)
    seen: list[torch.Tensor] = []
    output.recon_bcthw.register_hook(seen.append)
    copy = output.recon_bcthw.clone()
    last.watch(copy)
    loss = (copy - video).abs().mean()
    found = last(loss)
    assert not seen
    (weight,) = [p for p in last._layer.parameters() if p.ndim > 1]
    (wanted,) = torch.autograd.grad(loss, weight, retain_graph=True)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    assert float(found.abs().max()) > 0 and weight.grad is None
    loss.backward()
    torch.testing.assert_close(weight.grad, found, rtol=1e-4, atol=1e-7)
    assert all(p.grad is not None for p in model.encoder.parameters())
