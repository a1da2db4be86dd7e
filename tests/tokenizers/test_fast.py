from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from schemas.config.tokenizer import VqganConfig, VqvaeConfig
from schemas.errors import UsageError
from tests.tokenizers.making import clips, seasoned
from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokenizers.fast import FastCodes, encode_fast, fast_latents, latent_error, search
from vtok.tokenizers.load import build_tokenizer

SMALL = VqganConfig(n_hiddens=8, embedding_dim=16, n_codes=64)


@functools.cache
def _case() -> tuple[VideoAutoencoder, Tensor]:
    video = clips(6, size=32, num_frames=8)
    return seasoned(SMALL, video), video


def _rows(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def _planes(z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """In float64 and over all codes: the nearest code, and the distance to the nearest plane between it and another."""
    distances = torch.cdist(z.double(), e.double()).square()
    codes = distances.argmin(1)
    own = distances.gather(1, codes[:, None])
    planes = (distances - own) / (2 * (e.double()[None] - e.double()[codes][:, None]).norm(dim=2))
    return codes, planes.scatter(1, codes[:, None], torch.inf).amin(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_search_in_a_small_type_loses_nothing(dtype: torch.dtype, scale: float) -> None:
    z, e = _rows(500, 8, 0) * scale, _rows(300, 8, 1) * scale
    radius = 0.05 * scale
    codes, margins = search(z, e, radius, dtype)
    expected, planes = _planes(z, e)
    assert torch.equal(codes, expected)
    below = planes <= radius
    assert 0.05 < float(below.float().mean()) < 0.95
    torch.testing.assert_close(margins[below].double(), planes[below], rtol=1e-3, atol=1e-5 * scale)
    assert (margins[~below] > radius * (1 - 1e-5)).all()
    assert (margins.double() >= planes - 1e-4 * scale).all()  # never less than there is, up to rounding


def test_the_nearest_code_of_the_small_type_alone_would_be_wrong() -> None:
    z, e = _rows(500, 8, 0), _rows(300, 8, 1)
    rough = (e.square().sum(1) - 2 * (z.bfloat16() @ e.bfloat16().T).float()).argmin(1)
    assert (rough != _planes(z, e)[0]).any()


def test_too_many_possible_codes_and_overflow_fall_back_to_all() -> None:
    close = _rows(1, 8, 0) + 1e-6 * _rows(300, 8, 1)
    z = _rows(20, 8, 2)
    codes, margins = search(z, close, 0.0, torch.bfloat16)
    assert torch.equal(codes, torch.addmm(close.square().sum(1), z, close.T, alpha=-2).argmin(1))
    assert (margins.double() <= _planes(z, close)[1] + 1e-5).all()
    z, e = 300 * _rows(50, 8, 0), 300 * _rows(40, 8, 1)
    assert torch.equal(search(z, e, 0.0, torch.float16)[0], _planes(z, e)[0])


def test_equal_codes_give_the_lowest() -> None:
    e = torch.tensor([[5.0, 5.0], [1.0, 1.0], [1.0, 1.0]])
    codes, margins = search(torch.zeros(1, 2), e, 0.1, torch.bfloat16)
    assert codes.item() == 1
    assert margins.item() > 0


def test_certified_codes_are_those_of_exact_mode() -> None:
    model, video = _case()
    exact = model.encode(video)
    error = latent_error(model, video[:3])
    assert error > 0
    found = encode_fast(model, video, error)
    assert isinstance(found, FastCodes)
    assert 0.05 < found.share < 1
    assert torch.equal(found.codes_bthw[found.certified_bthw], exact[found.certified_bthw])
    assert (found.codes_bthw == exact).float().mean() > 0.9
    assert torch.equal(model.encode(video, mode="fast"), found.codes_bthw)
    assert encode_fast(model, video).share == 0


def test_a_larger_error_certifies_less_and_recomputing_certifies_all() -> None:
    model, video = _case()
    error = latent_error(model, video)
    shares = [encode_fast(model, video, error, safety=safety).share for safety in (0.1, 1.0, 10.0)]
    assert shares[0] > shares[1] > shares[2]
    again = encode_fast(model, video, error, recompute=True)
    assert again.share == 1
    assert torch.equal(again.codes_bthw, model.encode(video))


def test_the_error_bounds_what_it_was_measured_on() -> None:
    model, video = _case()
    with torch.no_grad():
        off = (fast_latents(model.latents, video) - model.latents(video)).norm(dim=1)
    assert latent_error(model, video) == pytest.approx(float(off.max()), rel=1e-3)


def test_attention_too() -> None:
    config = VqvaeConfig(n_hiddens=16, embedding_dim=8, n_codes=32, n_res_layers=1)
    video = clips(2, size=16, num_frames=8)
    model = seasoned(config, video)
    found = encode_fast(model, video, latent_error(model, video))
    assert torch.equal(found.codes_bthw[found.certified_bthw], model.encode(video)[found.certified_bthw])


def test_mistakes() -> None:
    signs = build_tokenizer(VqganConfig.model_validate({"n_hiddens": 4, "quantizer": "lfq", "bits": 4})).eval()
    video = clips(1, size=16, num_frames=4)
    with pytest.raises(UsageError, match="needs a codebook"):
        signs.encode(video, mode="fast")
    with pytest.raises(RuntimeError, match="eval"):
        encode_fast(_case()[0].train(), video)
    _case()[0].eval()
