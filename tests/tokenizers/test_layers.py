from __future__ import annotations

import itertools

import pytest
import torch

from schemas.config.tokenizer import VqganConfig
from schemas.errors import UsageError, VtokError
from vtok.tokenizers.layers import SamePadConv3d, SamePadConvTranspose3d, draw_weights, same_padding
from vtok.tokenizers.norm import SyncBatchNorm2d, SyncBatchNorm3d, normalise
from vtok.tokenizers.vqgan import VQGAN


@pytest.mark.parametrize(("kernel", "stride", "pads"), [(4, 2, (1, 1)), (4, 1, (2, 1)), (3, 1, (1, 1)), (1, 1, (0, 0))])
def test_padding_rule(kernel: int, stride: int, pads: tuple[int, int]) -> None:
    assert same_padding(kernel, (stride,) * 3) == pads * 3


def test_padding_lists_the_last_axis_first() -> None:
    assert same_padding(4, (1, 2, 2)) == (1, 1, 1, 1, 2, 1)


@pytest.mark.parametrize("stride", list(itertools.product((1, 2), repeat=3)))
def test_lengths(stride: tuple[int, int, int]) -> None:
    x = torch.zeros(1, 2, 4, 6, 8)
    down, up = SamePadConv3d(2, 3, 4, stride), SamePadConvTranspose3d(2, 3, 4, stride)
    for layer in (down, up):
        draw_weights(layer, torch.Generator().manual_seed(0))
    assert down(x).shape[2:] == tuple(n // s for n, s in zip((4, 6, 8), stride, strict=True))
    assert up(x).shape[2:] == tuple(n * s for n, s in zip((4, 6, 8), stride, strict=True))
    odd = torch.zeros(1, 2, 5, 7, 9)
    assert down(odd).shape[2:] == tuple(n // s for n, s in zip((5, 7, 9), stride, strict=True))


@pytest.mark.parametrize("gradients", [True, False])
def test_convolutions_are_called_as_modules(gradients: bool) -> None:
    """ZeRO stage 3 keeps weights in parts, and puts them together in a hook before every module's forward pass."""
    model = VQGAN(VqganConfig(embedding_dim=4, n_codes=16, n_hiddens=2, downsample=(2, 2, 2))).eval()
    video = torch.rand(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.set_grad_enabled(gradients):
        expected = model(video).recon_bcthw
    weights: dict[torch.nn.Module, torch.Tensor] = {}
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            weights[layer] = layer.weight.data
            layer.weight.data = torch.empty(0)
            layer.register_forward_pre_hook(lambda layer, _: setattr(layer.weight, "data", weights[layer]))
    with torch.set_grad_enabled(gradients):
        assert torch.equal(model(video).recon_bcthw, expected)


def test_weights_come_from_the_generator_with_the_distribution_of_torch() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    layer = SamePadConv3d(32, 64, 3)
    draw_weights(layer, torch.Generator().manual_seed(5))
    first = layer.conv.weight.detach().clone()
    draw_weights(layer, torch.Generator().manual_seed(5))
    assert torch.equal(first, layer.conv.weight)
    draw_weights(layer, torch.Generator().manual_seed(6))
    assert not torch.equal(first, layer.conv.weight)
    assert torch.equal(state, torch.get_rng_state())
    torchs = torch.nn.Conv3d(32, 64, 3)
    wanted = torchs.weight.detach()
    assert float(first.abs().max()) == pytest.approx(float(wanted.abs().max()), rel=1e-3)
    assert float(first.std()) == pytest.approx(float(wanted.std()), rel=0.02)


def test_group_norm_names_the_channels_that_do_not_fit() -> None:
    with pytest.raises(VtokError, match="48 channels") as caught:
        normalise("group", 48)
    assert "n_hiddens" in str(caught.value)
    assert normalise("group", 64).eps == 1e-6


@pytest.mark.parametrize(
    ("ours", "torchs", "shape"),
    [
        (SyncBatchNorm2d, torch.nn.BatchNorm2d, (3, 4, 5, 6)),
        (SyncBatchNorm3d, torch.nn.BatchNorm3d, (3, 4, 2, 5, 6)),
    ],
)
def test_batch_norm_is_torchs_on_one_process(ours: type, torchs: type, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    a, b = ours(4), torchs(4)
    b.load_state_dict(a.state_dict())
    for _ in range(2):
        assert torch.equal(a(x), b(x))
    for name, value in b.state_dict().items():
        assert torch.equal(a.state_dict()[name], value), name
    assert torch.equal(a.eval()(x), b.eval()(x))


@pytest.mark.parametrize(("mode", "least"), [("reflect", 12), ("circular", 8)])
def test_padding_that_finds_too_little_says_so(mode: str, least: int) -> None:
    """The config's bound is the layers' own: what it allows runs, and what it refuses raises a clear error."""
    config = VqganConfig(embedding_dim=4, n_codes=16, n_hiddens=2, downsample=(4, 8, 8), padding=mode)
    model = VQGAN(config).eval()
    assert config.least_size(4) == least
    assert model.grid(least, 16, 16) == (least // 4, 2, 2)
    assert model.encode(torch.zeros(1, 3, least, 16, 16)).shape == (1, least // 4, 2, 2)
    with pytest.raises(ValueError, match=f"num_frames {least - 4} is too small for {mode} padding"):
        model.grid(least - 4, 16, 16)
    with pytest.raises(UsageError, match=f"num_frames {least - 4} is too small for {mode} padding"):
        model.encode(torch.zeros(1, 3, least - 4, 16, 16))
    with pytest.raises(UsageError, match=f"too small for {mode} padding: a layer finds .* along t"):
        model.latents(torch.zeros(1, 3, least - 4, 16, 16))
