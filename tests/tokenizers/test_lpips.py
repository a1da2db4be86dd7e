from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from schemas.errors import VtokError
from vtok.files import sha256_of
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


def test_the_originals_dropout(weights: Path) -> None:
    """Half of the differences, doubled: the same on average, and drawn for every image from its generator alone."""
    model = LPIPS.load(weights)
    a, b = _image(0), _image(1)
    seeds = [(2 * i, 2 * i + 1) for i in range(40)]
    draws = [model(a, b, [torch.Generator().manual_seed(seed) for seed in pair]) for pair in (*seeds, seeds[0])]
    assert torch.equal(draws[0], draws[-1])
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(torch.stack(draws).mean(0), model(a, b), rtol=0.1, atol=0)
    alone = model(a[1:], b[1:], [torch.Generator().manual_seed(1)])
    torch.testing.assert_close(alone, draws[0][1:], rtol=1e-4, atol=0)


def test_one_channel_counts_as_three(weights: Path) -> None:
    model = LPIPS.load(weights)
    a, b = _image(0)[:, :1], _image(1)[:, :1]
    torch.testing.assert_close(model(a, b), model(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)))


def test_vgg_by_torchvisions_names_with_the_heads_of_torchmetrics(weights: Path, tmp_path: Path) -> None:
    state = {}
    for name, value in LPIPS.load(weights).state_dict().items():
        if name.startswith("net.slice"):
            state["features." + name.split(".", 2)[2]] = value
    whole = {**state, "classifier.0.weight": torch.zeros(1)}
    save_file(whole, tmp_path / "vgg16.safetensors")
    model = LPIPS.load(tmp_path / "vgg16.safetensors")
    for name, value in LPIPS.load(weights).net.state_dict().items():
        assert torch.equal(value, model.net.state_dict()[name])
    assert all((model.get_submodule(f"lin{i}.model.1").weight >= 0).all() for i in range(5)), "published heads"

    torch.save(whole, tmp_path / "vgg16-397923af.pth")
    with pytest.raises(VtokError, match="not 397923af"):
        LPIPS.load(tmp_path / "vgg16-397923af.pth")
    digest = sha256_of(tmp_path / "vgg16-397923af.pth")
    same = LPIPS.load(tmp_path / "vgg16-397923af.pth", sha256=digest)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(VtokError, match="not 0000"):
        LPIPS.load(tmp_path / "vgg16.safetensors", sha256="0" * 64)


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
