"""FSQ, LFQ and BSQ against their papers' formulas, written out anew over all codes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from schemas.config.tokenizer import VqganConfig
from vtok.tokenizers.base import Tokenizer
from vtok.tokenizers.codebook import Codebook
from vtok.tokenizers.load import build_tokenizer
from vtok.tokenizers.quantizers import FSQ, BinaryQuantizer, Quantizer

LEVELS = [(8, 5, 5), (3, 4), (6, 7, 3)]


def _z(channels: int, rows: int = 300, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(2, channels, 1, 1, rows, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_rounds_the_squashed_channels(levels: tuple[int, ...]) -> None:
    """In numpy, float64: round(bound(z)) of the paper, section 3, and its numbering."""
    z = _z(len(levels), rows=5000, scale=2.0)
    output = FSQ(levels)(z)
    rows = z.double().numpy()
    number, weight, values = np.zeros_like(rows[:, 0]), 1, []
    for channel, count in enumerate(levels):
        half, offset = (count - 1) * (1 - 1e-3) / 2, 0.0 if count % 2 else 0.5
        bounded = half * np.tanh(rows[:, channel] + np.arctanh(offset / half)) - offset
        rounded = np.round(bounded)
        values.append(rounded / (count // 2))
        number = number + (rounded + count // 2) * weight
        weight *= count
    assert np.array_equal(number, output.codes_bthw.numpy())
    np.testing.assert_allclose(output.embeddings_bcthw.numpy(), np.stack(values, 1), atol=1e-6)
    assert output.commitment_loss == 0
    assert len(output.codes_bthw.unique()) == math.prod(levels)


@pytest.mark.parametrize(
    "quantizer", [FSQ((4, 3, 5)), BinaryQuantizer(6, "lfq"), BinaryQuantizer(6, "bsq"), Codebook(60, 3)]
)
def test_the_protocol(quantizer: FSQ | BinaryQuantizer | Codebook) -> None:
    assert isinstance(quantizer, Quantizer)
    quantizer.eval()
    vectors = quantizer.embeddings
    channels = vectors.shape[1]
    z = _z(channels).requires_grad_()
    output = quantizer(z)
    assert 0 <= int(output.codes_bthw.min()) <= int(output.codes_bthw.max()) < quantizer.n_codes == len(vectors)
    assert torch.equal(quantizer.nearest(z.flatten(2).transpose(1, 2)), output.codes_bthw.flatten(1))
    torch.testing.assert_close(quantizer.lookup(output.codes_bthw), output.embeddings_bcthw)
    every = torch.arange(quantizer.n_codes)
    assert torch.equal(quantizer.lookup(every.view(1, 1, 1, -1))[0, :, 0, 0].T, vectors)
    assert 1 < float(output.perplexity.detach()) <= quantizer.n_codes
    output.embeddings_bcthw.sum().backward()
    assert z.grad is not None
    assert (z.grad != 0).float().mean() > 0.9


def _all_codes(bits: int, value: float) -> Tensor:
    """Bit i of number k, lowest first."""
    rows = [tuple(reversed(row)) for row in itertools.product([-value, value], repeat=bits)]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("bits", [1, 3, 6])
@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_the_losses_of_signs(bits: int, kind: str) -> None:
    """Over all 2^bits codes, by softmax in float64."""
    temperature, scale = 0.7, 0.4
    quantizer = BinaryQuantizer(bits, kind, 0.3, entropy_weight=0.2, diversity_weight=0.6, temperature=temperature)
    z = _z(bits, scale=scale)
    output = quantizer(z)
    rows = z.double().flatten(2).transpose(1, 2).flatten(0, 1)
    if kind == "bsq":
        rows = rows / rows.norm(dim=1, keepdim=True)
    codes = _all_codes(bits, 1.0 if kind == "lfq" else bits**-0.5)
    nearest = torch.cdist(rows, codes).argmin(1)
    assert torch.equal(output.codes_bthw.flatten(), nearest)
    probabilities = torch.softmax(-torch.cdist(rows, codes).square() / temperature, 1)
    sure = -(probabilities * probabilities.log()).sum(1).mean()
    mean = probabilities.mean(0)
    varied = -(mean * mean.log()).sum()
    if kind == "bsq":  # the sum of the bits' entropies, which is at least that
        ones = (probabilities @ (codes > 0).double()).mean(0)
        bound = -(ones * ones.log() + (1 - ones) * (1 - ones).log()).sum()
        assert bound >= varied - 1e-12
        varied = bound
    loss = 0.3 * (rows - codes[nearest]).square().mean() + 0.2 * (sure - 0.6 * varied)
    assert float(output.commitment_loss) == pytest.approx(float(loss), rel=1e-4, abs=1e-6)


def test_bsq_of_the_paper_has_tau_100() -> None:
    """softmax(tau q.z) is softmax(-|z - q|^2 / temperature) with temperature 2 / tau: lengths are equal."""
    codes, row = _all_codes(3, 3**-0.5), torch.tensor([[0.6, -0.8, 0.0]], dtype=torch.float64)
    ours = torch.softmax(-torch.cdist(row, codes).square() / VqganConfig().entropy_temperature, 1)
    torch.testing.assert_close(ours, torch.softmax(100 * row @ codes.T, 1))


def test_entropy_spreads_the_codes_and_makes_them_sure() -> None:
    quantizer = BinaryQuantizer(4, "lfq", entropy_weight=1.0, temperature=1.0)
    z = (0.3 + 0.1 * _z(4)).requires_grad_()  # all on one side
    before = quantizer(z)
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        quantizer(z).commitment_loss.backward()
        optimizer.step()
    after = quantizer(z)
    assert float(after.perplexity) > 3 * float(before.perplexity)
    assert float(z.detach().abs().mean()) > 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"quantizer": "fsq", "levels": [4, 3, 5]},
        {"quantizer": "lfq", "bits": 6},
        {"quantizer": "bsq", "bits": 6},
    ],
)
def test_a_tokenizer_with_it_trains_and_is_fingerprinted(options: dict[str, object]) -> None:
    config = VqganConfig.model_validate({"n_hiddens": 2, "downsample": [2, 4, 4], **options})
    model = build_tokenizer(config).train()
    video = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.5
    output = model(video, torch.Generator())
    (output.recon_bcthw.square().mean() + output.commitment_loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval().requires_grad_(False)
    assert isinstance(model, Tokenizer)
    codes = model.encode(video)
    assert codes.shape == (2, *model.grid(4, 16, 16))
    assert int(codes.max()) < model.codebook_size == config.n_codes
    assert model.decode(codes).shape == video.shape
    again = build_tokenizer(config)
    again.load_state_dict(model.state_dict())
    assert again.fingerprint == model.fingerprint
    assert again.fingerprint != build_tokenizer(config.model_copy(update={"levels": (5, 3, 4)})).fingerprint


def test_the_kind_is_in_the_fingerprint() -> None:
    prints = {
        build_tokenizer(VqganConfig.model_validate({"n_hiddens": 2, "quantizer": kind, "bits": 4})).fingerprint
        for kind in ("lfq", "bsq")
    }
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantizer": "fsq"}, "needs `levels`"),
        ({"quantizer": "lfq", "levels": [4, 4]}, "has no `levels`"),
        ({"levels": [8, 8]}, "has no `levels`"),
        ({"quantizer": "fsq", "levels": [8, 8], "n_codes": 65}, "make n_codes 64"),
        ({"quantizer": "fsq", "levels": [8, 2]}, "greater than or equal to 3"),
        ({"quantizer": "bsq", "bits": 40}, "less than or equal to 20"),
    ],
)
def test_mistakes_in_the_config(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VqganConfig.model_validate(options)
