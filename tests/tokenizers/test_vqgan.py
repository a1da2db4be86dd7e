from __future__ import annotations

import pytest
import torch

from schemas.config.tokenizer import VqganConfig
from schemas.errors import VtokError
from vtok.tokenizers.autoencoder import strides
from vtok.tokenizers.base import Tokenizer, fingerprint_of
from vtok.tokenizers.vqgan import VQGAN

SMALL = VqganConfig(embedding_dim=4, n_codes=16, n_hiddens=2, downsample=(2, 4, 4))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_is_a_tokenizer() -> None:
    model = VQGAN(SMALL).eval()
    assert isinstance(model, Tokenizer)
    video = torch.rand(2, 3, 4, 8, 16, generator=_generator()) - 0.5
    codes = model.encode(video)
    assert codes.dtype == torch.int64
    assert codes.shape == (2, *model.grid(4, 8, 16)) == (2, 2, 2, 4)
    assert model.decode(codes).shape == video.shape
    assert (model.codebook_size, model.downsample) == (16, (2, 4, 4))
    with pytest.raises(ValueError, match="not divisible"):
        model.grid(4, 9, 16)


def test_strides() -> None:
    assert strides((4, 8, 8)) == [(2, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert strides((2, 16, 16)) == [(2, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2)]
    assert strides((1, 1, 1)) == []


def test_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        model = VQGAN(VqganConfig())
        large = VQGAN(VqganConfig(downsample=(4, 16, 16)))
    assert _parameters(model.encoder) == pytest.approx(7.40e6, rel=2e-3)
    assert _parameters(model.decoder) == pytest.approx(16.12e6, rel=2e-3)
    assert _parameters(model.encoder) + _parameters(model.decoder) == pytest.approx(23.5e6, rel=2e-3)
    assert _parameters(large.encoder) + _parameters(large.decoder) == pytest.approx(95.4e6, rel=2e-3)
    shapes = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    assert shapes["encoder.conv_first.conv.weight"] == (32, 3, 3, 3, 3)
    assert shapes["decoder.conv_blocks.2.up.convt.weight"] == (128, 64, 4, 4, 4)
    assert shapes["pre_vq_conv.conv.weight"] == (256, 256, 1, 1, 1)
    assert shapes["codebook.z_avg"] == (16384, 256)


def _spread_over_time(padding: str) -> float:
    model = VQGAN(SMALL.model_copy(update={"padding": padding})).eval()
    frame = torch.rand(1, 3, 1, 16, 16, generator=_generator()) - 0.5
    with torch.no_grad():
        z = model.latents(frame.expand(-1, -1, 12, -1, -1))
    return float((z - z[:, :, :1]).abs().max() / z.abs().max())


def test_a_still_video_has_the_same_latents_at_every_time() -> None:
    assert _spread_over_time("replicate") < 1e-5
    assert _spread_over_time("constant") > 1e-3


def test_group_norm_needs_channels_in_groups() -> None:
    with pytest.raises(VtokError, match="32 groups"):
        VQGAN(SMALL.model_copy(update={"norm": "group", "n_hiddens": 8}))


def test_training_forward_learns_and_reaches_every_parameter() -> None:
    model = VQGAN(SMALL).train()
    video = torch.rand(2, 3, 4, 16, 16, generator=_generator()) - 0.5
    output = model(video, _generator(1))
    (output.recon_bcthw.square().mean() + output.commitment_loss).backward()
    assert output.recon_bcthw.shape == video.shape
    assert model.codebook.initialized
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(RuntimeError, match="eval"):
        model.encode(video)


def test_weights_depend_on_the_generator_alone() -> None:
    state = torch.get_rng_state()
    a, b, c = VQGAN(SMALL, _generator(1)), VQGAN(SMALL, _generator(1)), VQGAN(SMALL, _generator(2))
    assert torch.equal(state, torch.get_rng_state())
    assert a.fingerprint == b.fingerprint != c.fingerprint


def test_fingerprint_covers_what_decides_codes_and_nothing_else() -> None:
    model = VQGAN(SMALL)
    before = model.fingerprint
    assert len(before) == 64
    with torch.no_grad():
        model.codebook.N.add_(1)
        model.codebook.z_avg.add_(1)
        model.codebook.initialized.fill_(True)
        for name, buffer in model.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.add_(1)
    assert model.fingerprint == before
    for name in (
        "encoder.conv_first.conv.weight",
        "encoder.final_block.0.running_var",
        "decoder.conv_last.conv.bias",
        "pre_vq_conv.conv.bias",
        "post_vq_conv.conv.weight",
        "codebook.embeddings",
    ):
        tensor = model.state_dict()[name].view(-1)
        kept = tensor[0].item()
        tensor[0] = kept + 1e-6
        assert model.fingerprint != before, name
        tensor[0] = kept
        assert model.fingerprint == before

    state = model.state_dict()
    facts = {"input_range": (-0.5, 0.5), "policy": "p"}
    same = fingerprint_of(SMALL, state, **facts)
    for field, value in {
        "random_restart": False,
        "restart_threshold": 2.0,
        "ema_decay": 0.9,
        "commitment_weight": 1.0,
    }.items():
        assert fingerprint_of(SMALL.model_copy(update={field: value}), state, **facts) == same, field
    assert fingerprint_of(SMALL.model_copy(update={"padding": "reflect"}), state, **facts) != same
    assert fingerprint_of(SMALL, state, input_range=(-1.0, 1.0), policy="p") != same
    assert fingerprint_of(SMALL, state, input_range=(-0.5, 0.5), policy="q") != same
    assert fingerprint_of(SMALL, {**state, "image_discriminator.x": torch.ones(1)}, **facts) == same
    assert (
        fingerprint_of(SMALL, {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}, **facts)
        != same
    )
