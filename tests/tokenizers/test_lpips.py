from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from schemas.errors import VtokError
from vtok.tokenizers.lpips import LPIPS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in LPIPS().state_dict().items():
        if name.startswith("scaling_layer."):
            continue
        fan_in = max(1, value[0].numel())
        state[name] = (
            torch.randn(value.shape, generator=generator).abs_() / fan_in
            if "lin" in name
            else (torch.randn(value.shape, generator=generator) / fan_in**0.5)
        )
    path = tmp_path_factory.mktemp("lpips") / "weights.safetensors"
    save_file(state, path)
    return path


def _image(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) - 0.5


def test_scale_frozen_and_no_dropout(weights: Path) -> None:
    model, quirk = LPIPS.load(weights).train(), LPIPS.load(weights, input_scale=1.0)
    a, b = _image(0), _image(1)
    distance = model(a, b)
    assert distance.shape == (2, 1, 1, 1)
    assert (distance > 0).all()
    assert torch.equal(distance, model(a, b))
    assert torch.equal(model(a, a), torch.zeros(2, 1, 1, 1))
    torch.testing.assert_close(distance, quirk(2 * a, 2 * b))
    assert not any(p.requires_grad for p in model.parameters())


def test_gradients_are_finite_even_where_features_vanish(weights: Path) -> None:
    model = LPIPS.load(weights)
    with torch.no_grad():
        model.net.slice1[0].bias.fill_(-100.0)
    b = _image(1).requires_grad_()
    model(_image(0), b).sum().backward()
    assert b.grad.isfinite().all()


def test_problems_with_the_file_are_told(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(VtokError, match="cannot read") as missing:
        LPIPS.load(tmp_path / "nothing.safetensors")
    assert "nothing.safetensors" in str(missing.value)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a safetensors file")
    with pytest.raises(VtokError, match="cannot read"):
        LPIPS.load(broken)
    state = {name: value for name, value in LPIPS.load(weights).state_dict().items() if name != "lin0.model.1.weight"}
    save_file(state, tmp_path / "few.safetensors")
    with pytest.raises(VtokError, match=r"lin0\.model\.1\.weight is missing"):
        LPIPS.load(tmp_path / "few.safetensors")
