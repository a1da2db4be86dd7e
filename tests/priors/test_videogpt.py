"""VideoGPT's prior: sizes, conditions, caching; its numbers are in tests/golden."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention.flex_attention import BlockMask

from schemas.config.prior import VideoGptConfig
from schemas.errors import VtokError
from vtok.priors.videogpt import VideoGptPrior

GRID = (2, 4, 4)


def small(**changes: Any) -> VideoGptPrior:
    options = {"n_layer": 2, "n_head": 2, "n_embd": 24, "frame_width": 12, "dropout": 0.0, "attention_dropout": 0.0}
    config = VideoGptConfig(**{**options, **changes})  # type: ignore[arg-type]
    codebook = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    return VideoGptPrior(config, codebook, changes.pop("grid", GRID), n_classes=3, resolution=16).eval()


def codes(batch: int = 2) -> torch.Tensor:
    return torch.randint(16, (batch, *GRID), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("options", "classes", "millions"),
    [({}, 0, 33.24), ({"condition": "label"}, 101, 35.2), ({"cond_frames": 1}, 0, 72.5)],
)
def test_published_sizes(options: dict[str, Any], classes: int, millions: float) -> None:
    config = VideoGptConfig(**options)
    with torch.device("meta"):
        prior = VideoGptPrior(config, torch.empty(2048, 256), (4, 32, 32), classes, resolution=128)
    count = sum(p.numel() for p in prior.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.06)


def test_the_first_loss_is_that_of_a_guess() -> None:
    prior = small()
    assert prior(codes()).loss.item() == pytest.approx(math.log(16), abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"condition": "label"}, {"cond_frames": 1}, {"attention": "sparse"}])
def test_one_by_one_equals_all_at_once(options: dict[str, Any]) -> None:
    prior = small(**options)
    torch.nn.init.normal_(prior.fc_out.weight, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 2]) if options.get("condition") else None
    frames = torch.rand(2, 3, 1, 16, 16) - 0.5 if options.get("cond_frames") else None
    with torch.no_grad():
        context = prior.context(labels, frames)
        whole = prior.logits(codes(), context)
        cache, flat = prior.new_cache(2), codes().flatten(1)
        steps = [prior.step(flat[:, i - 1] if i else None, i, cache, context) for i in range(flat.shape[1])]
    torch.testing.assert_close(torch.stack(steps, dim=1), whole, rtol=0, atol=2e-5 * float(whole.abs().max()))


def test_no_code_sees_itself_or_what_follows() -> None:
    prior = small()
    torch.nn.init.normal_(prior.fc_out.weight, generator=torch.Generator().manual_seed(3))
    changed = codes().clone()
    changed.view(2, -1)[:, 10] = (changed.view(2, -1)[:, 10] + 1) % 16
    with torch.no_grad():
        before, after = prior.logits(codes(), prior.context()), prior.logits(changed, prior.context())
    assert torch.equal(before[:, :11], after[:, :11])
    assert not torch.equal(before[:, 11:], after[:, 11:])


def test_a_constant_row_is_no_nan() -> None:
    prior = small()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.zero_()
        assert prior.logits(codes(), prior.context()).isfinite().all()


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="needs labels"):
        small(condition="label").context()
    with pytest.raises(ValueError, match="takes no frames"):
        small().context(frames_bcthw=torch.zeros(1, 3, 1, 16, 16))
    with pytest.raises(VtokError, match="do not tile"):
        VideoGptPrior(VideoGptConfig(attention="sparse", n_embd=12), torch.zeros(4, 2), (2, 5, 5))
    with pytest.raises(VtokError, match="needs clips with labels"):
        VideoGptPrior(VideoGptConfig(condition="label", n_embd=12), torch.zeros(4, 2), GRID)


class _OnCuda(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    is_cuda = True  # type: ignore[assignment]


def test_sparse_attention_has_no_dropout_and_trains_in_the_kernel() -> None:
    config = VideoGptConfig(n_layer=1, n_head=2, n_embd=24, attention="sparse")
    assert config.attention_dropout == 0.0
    assert VideoGptConfig(n_layer=1, n_head=2, n_embd=24).attention_dropout == 0.3
    assert VideoGptConfig.model_validate(config.plain()) == config
    with pytest.raises(ValidationError, match=r"attention_dropout 0\.3 does not go with attention: sparse"):
        VideoGptConfig(attention="sparse", attention_dropout=0.3)
    prior = VideoGptPrior(config, torch.zeros(16, 5), GRID).train()
    assert isinstance(prior.mask(), torch.Tensor)
    assert prior.layout_rc is not None
    prior.layout_rc = prior.layout_rc.as_subclass(_OnCuda)
    prior._masks.clear()
    assert isinstance(prior.mask(), BlockMask)
