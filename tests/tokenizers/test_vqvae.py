from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from schemas.config.tokenizer import VqvaeConfig
from vtok.tokenizers.axial import AxialBlock, Positions, draw_attention
from vtok.tokenizers.base import Tokenizer, fingerprint_of
from vtok.tokenizers.vqvae import VQVAE

SMALL = VqvaeConfig(embedding_dim=4, n_codes=16, n_hiddens=8, n_res_layers=1, downsample=(2, 4, 4))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _video(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=_generator()) - 0.5


def test_is_a_tokenizer() -> None:
    model = VQVAE(SMALL).eval()
    assert isinstance(model, Tokenizer)
    video = _video(2, 3, 4, 8, 16)
    codes = model.encode(video)
    assert codes.dtype == torch.int64
    assert codes.shape == (2, *model.grid(4, 8, 16)) == (2, 2, 2, 4)
    assert model.decode(codes).shape == video.shape
    assert (model.codebook_size, model.downsample) == (16, (2, 4, 4))


@pytest.mark.parametrize("downsample", [(4, 4, 4), (2, 4, 4), (4, 2, 2)])
def test_size_and_names_of_the_released_models(downsample: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        model = VQVAE(VqvaeConfig(downsample=downsample))
    assert sum(p.numel() for p in model.parameters()) == 21_141_619
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    del shapes["codebook.initialized"]
    assert len(shapes) == 283
    for name, shape in {
        "encoder.convs.0.conv.weight": (240, 3, 4, 4, 4),
        "encoder.convs.1.conv.bias": (240,),
        "encoder.conv_last.conv.weight": (240, 240, 3, 3, 3),
        "encoder.res_stack.3.block.2.conv.weight": (120, 240, 3, 3, 3),
        "encoder.res_stack.3.block.3.running_var": (120,),
        "encoder.res_stack.3.block.5.conv.weight": (240, 120, 1, 1, 1),
        "decoder.res_stack.0.block.8.attn_h.w_ks.weight": (240, 240),
        "decoder.res_stack.0.block.8.attn_t.fc.bias": (240,),
        "decoder.res_stack.4.num_batches_tracked": (),
        "decoder.convts.0.convt.weight": (240, 240, 4, 4, 4),
        "decoder.convts.1.convt.weight": (240, 3, 4, 4, 4),
        "pre_vq_conv.conv.weight": (256, 240, 1, 1, 1),
        "post_vq_conv.conv.weight": (240, 256, 1, 1, 1),
        "codebook.embeddings": (2048, 256),
        "codebook.N": (2048,),
    }.items():
        assert shapes[name] == shape, name
    assert not [name for name in shapes if re.search(r"block\.[25]\.conv\.bias|w_[qkv]s\.bias", name)]


def test_the_originals_state_dict_loads() -> None:
    """It has no flag: a codebook that was worth saving is not initialised again."""
    model = VQVAE(SMALL, _generator(1))
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "codebook.initialized"}
    loaded = VQVAE(SMALL, _generator(2))
    assert loaded.fingerprint != model.fingerprint
    loaded.load_state_dict(state)
    assert loaded.fingerprint == model.fingerprint
    assert loaded.codebook.initialized


@pytest.mark.parametrize("downsample", [(2, 2, 2), (1, 2, 2), (1, 4, 2), (8, 2, 1)])
def test_every_downsampling_works(downsample: tuple[int, int, int]) -> None:
    model = VQVAE(SMALL.model_copy(update={"downsample": downsample})).eval()
    video = _video(1, 3, 8, 8, 8)
    codes = model.encode(video)
    assert codes.shape[1:] == model.grid(8, 8, 8)
    assert model.decode(codes).shape == video.shape


def test_channels_are_split_between_two_heads_and_a_level_is_needed() -> None:
    with pytest.raises(ValueError, match="multiple of 2"):
        VqvaeConfig(n_hiddens=7)
    with pytest.raises(ValueError, match="at least one factor"):
        VqvaeConfig(downsample=(1, 1, 1))


def test_axial_attention_by_loops() -> None:
    """Every line of the volume by itself, each head by itself, with torch's own attention."""
    channels, heads = 6, 2
    block = AxialBlock(channels, heads)
    draw_attention(block, _generator())
    x = torch.randn(2, channels, 2, 3, 4, generator=_generator(1))
    wanted = torch.zeros_like(x)
    for dim, layer in ((2, block.attn_t), (3, block.attn_h), (4, block.attn_w)):
        others = [i for i in (0, 2, 3, 4) if i != dim]
        rows = x.permute(*others, dim, 1)
        mixed = torch.empty_like(rows)
        for index in torch.cartesian_prod(*[torch.arange(n) for n in rows.shape[:3]]).tolist():
            line = rows[tuple(index)]
            q, k, v = line @ layer.w_qs.weight.T, line @ layer.w_ks.weight.T, line @ layer.w_vs.weight.T
            parts = [
                F.scaled_dot_product_attention(q[None, :, s], k[None, :, s], v[None, :, s])[0]
                for s in (slice(0, 3), slice(3, 6))
            ]
            mixed[tuple(index)] = torch.cat(parts, -1) @ layer.fc.weight.T + layer.fc.bias
        order = [*others, dim, 1]
        wanted += mixed.permute([order.index(i) for i in range(5)])
    torch.testing.assert_close(block(x), wanted)


def test_attention_reaches_the_whole_clip_and_padding_is_zero() -> None:
    """So codes depend on the length of the clip, unlike the VQGAN's."""
    model = VQVAE(SMALL).eval()
    video = _video(1, 3, 16, 8, 8).requires_grad_()
    model.latents(video)[:, :, 0].square().sum().backward()
    assert (video.grad.abs().amax((0, 1, 3, 4)) > 0).all()
    still = model.latents(video[:, :, :1].expand(-1, -1, 16, -1, -1))
    assert float((still - still[:, :, :1]).detach().abs().max()) > 1e-3


def test_weights_are_drawn_from_the_generator_with_the_originals_spread() -> None:
    state = torch.get_rng_state()
    config = VqvaeConfig(embedding_dim=4, n_codes=16, n_hiddens=64, n_res_layers=1)
    a, b, c = VQVAE(config, _generator(1)), VQVAE(config, _generator(1)), VQVAE(config, _generator(2))
    assert torch.equal(state, torch.get_rng_state())
    assert a.fingerprint == b.fingerprint != c.fingerprint
    for name, value in a.named_parameters():
        if re.search(r"attn_.\.(w_.s|fc)\.weight", name):
            assert float(value.detach().std()) == pytest.approx(64**-0.5, rel=0.1), name
        elif name.endswith("fc.bias"):
            assert 0.9 * 64**-0.5 < float(value.detach().abs().max()) <= 64**-0.5


def test_training_forward_learns_and_reaches_every_parameter() -> None:
    model = VQVAE(SMALL).train()
    video = _video(2, 3, 4, 16, 16)
    output = model(video, _generator(1))
    (output.recon_bcthw.square().mean() + output.commitment_loss).backward()
    assert output.recon_bcthw.shape == video.shape
    assert model.codebook.initialized
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(RuntimeError, match="eval"):
        model.encode(video)


def test_still_clips_have_finite_gradients() -> None:
    model = VQVAE(SMALL).train()
    video = torch.zeros(2, 3, 4, 16, 16)
    output = model(video, _generator(1))
    (output.recon_bcthw.square().mean() + output.commitment_loss).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_fingerprint_sees_the_architecture_and_not_parity() -> None:
    same = VQVAE(SMALL.model_copy(update={"parity": True}), _generator())
    assert same.fingerprint == VQVAE(SMALL, _generator()).fingerprint
    assert {type(m).__name__ for m in same.modules() if "BatchNorm" in type(m).__name__} == {"BatchNorm3d"}


PAPER = {"residual_width": 5, "position_grid": (2, 2, 4), "post_kernel": 3, "n_hiddens": 12}


def test_the_paper_s_variant() -> None:
    config = VqvaeConfig.model_validate({**SMALL.plain(), **PAPER})
    assert config.grid(4, 8, 16) == (2, 2, 4)
    with pytest.raises(ValueError, match=re.escape("a grid of [2, 2, 2], but positions for [2, 2, 4] are learnt")):
        config.grid(4, 8, 8)
    with pytest.raises(ValueError, match="n_hiddens that are a multiple of 3"):
        VqvaeConfig.model_validate({**SMALL.plain(), **PAPER, "n_hiddens": 8})
    model = VQVAE(config).eval()
    state = model.state_dict()
    assert [name for name in state if "positions" in name] == [f"encoder.positions.{axis}" for axis in "thw"]
    assert state["encoder.res_stack.0.block.2.conv.weight"].shape == (5, 12, 3, 3, 3)
    assert state["post_vq_conv.conv.weight"].shape == (12, 4, 3, 3, 3)
    assert 0.002 < float(state["encoder.positions.w"].std()) < 0.05
    video, codes = _video(1, 3, 4, 8, 16), torch.arange(16).view(1, 2, 2, 4)
    before = model.latents(video), model.decode(codes)
    with torch.no_grad():
        model.encoder.positions.h[1] += 1
    after = model.latents(video), model.decode(codes)
    assert all(a.shape == b.shape and not torch.allclose(a, b) for a, b in zip(before, after, strict=True))
    after[1].sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in model.encoder.positions.parameters())
    copy = VQVAE(config).eval()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.decode(codes), after[1]) and copy.fingerprint == model.fingerprint


def test_positions_of_every_place() -> None:
    positions = Positions((2, 3, 4), 6)
    with torch.no_grad():
        for side, start in ((positions.t, 0), (positions.h, 100), (positions.w, 200)):
            side.copy_(start + torch.arange(len(side) * 2).view(-1, 2))
    assert positions().shape == (2, 3, 4, 6)
    assert positions()[1, 2, 3].tolist() == [2, 3, 104, 105, 206, 207]


def test_options_of_the_paper_leave_other_fingerprints_alone() -> None:
    """A store that was made before there were these options keeps its tokenizer."""
    plain = {name: value for name, value in SMALL.plain().items() if name not in PAPER or name == "n_hiddens"}
    facts = {"input_range": (-0.5, 0.5), "policy": "p"}
    older = fingerprint_of(SimpleNamespace(plain=lambda: plain), {}, **facts)
    assert fingerprint_of(SMALL, {}, **facts) == older
    wider = VqvaeConfig.model_validate({**plain, "residual_width": 5})
    assert fingerprint_of(wider, {}, **facts) != older
