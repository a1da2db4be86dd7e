from __future__ import annotations

from typing import Any

import pytest
import torch

from schemas.config.prior import GptConfig
from schemas.config.tokenizer import VqganConfig
from vtok.priors.tats import GptPrior
from vtok.sampling.autoregressive import sample, sample_codes, sample_tokens
from vtok.tokenizers.vqgan import VQGAN

GRID = (2, 2, 2)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _prior(condition: str = "none", n_classes: int = 0, **options: Any) -> GptPrior:
    config = GptConfig(n_layer=2, n_head=2, n_embd=16, condition=condition, **options)  # type: ignore[arg-type]
    prior = GptPrior(config, 10, GRID, n_classes=n_classes, generator=_generator()).eval()
    with torch.no_grad():
        for p in prior.parameters():
            p.mul_(5)
    return prior


def test_samples_depend_on_the_generator_alone() -> None:
    prior = _prior()
    state = torch.get_rng_state()
    first, again, other = (sample_codes(prior, num=3, generator=_generator(s)) for s in (1, 1, 2))
    assert first.shape == (3, *GRID)
    assert first.dtype == torch.int64
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_a_clip_with_its_own_generator_does_not_depend_on_its_neighbours() -> None:
    prior = _prior()
    together = sample_codes(prior, num=4, generator=[_generator(s) for s in range(4)])
    alone = sample_codes(prior, num=1, generator=[_generator(2)])
    assert torch.equal(together[2], alone[0])


def test_greedy_equals_full_passes() -> None:
    prior = _prior()
    codes = sample_codes(prior, num=2, greedy=True)
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(8):
            tokens = torch.cat([tokens, 1 + prior.transformer(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(codes.flatten(1), tokens[:, 1:] - 1)


def test_condition_tokens_are_drawn_only_for_parity() -> None:
    prior = _prior("label", n_classes=5, parity=True)
    with torch.no_grad():
        # Every position now prefers token 2, a label.
        prior.transformer.ln_f.weight.zero_()
        prior.transformer.ln_f.bias.fill_(1.0)
        prior.transformer.head.weight.zero_()
        prior.transformer.head.weight[2] = 1.0
        prior.transformer.head.weight[9] = 0.5
    labels = torch.tensor([0, 4])
    assert (sample_codes(prior, num=2, labels_b=labels, greedy=True) == 9 - 5).all()
    assert (sample_codes(prior, num=2, labels_b=labels, greedy=True, parity=True) == 0).all()
    drawn = sample_codes(prior, num=2, labels_b=labels, top_k=1, generator=_generator())
    assert (drawn == 4).all()


def test_a_label_matters() -> None:
    prior = _prior("label", n_classes=5)
    a = sample_codes(prior, num=1, labels_b=torch.tensor([0]), generator=_generator())
    b = sample_codes(prior, num=1, labels_b=torch.tensor([3]), generator=_generator())
    assert not torch.equal(a, b)
    with pytest.raises(ValueError, match="needs labels"):
        sample_codes(prior, num=1, generator=_generator())


def test_a_prefix_is_continued() -> None:
    gpt = _prior().transformer
    whole = sample_tokens(gpt, torch.zeros(1, 1, dtype=torch.int64), 8, most_likely=True)
    prefix = torch.cat([torch.zeros(1, 1, dtype=torch.int64), whole[:, :3]], 1)
    assert torch.equal(sample_tokens(gpt, prefix, 5, most_likely=True), whole[:, 3:])
    with pytest.raises(ValueError, match="generator"):
        sample_tokens(gpt, prefix, 5)
    with pytest.raises(ValueError, match="block size 8"):
        sample_tokens(gpt, prefix, 6, most_likely=True)


def test_sample_gives_videos() -> None:
    tokenizer = VQGAN(VqganConfig(embedding_dim=4, n_codes=10, n_hiddens=2, downsample=(2, 4, 4))).eval()
    video = sample(_prior(), tokenizer, num=2, generator=_generator())
    assert video.shape == (2, 3, 4, 8, 8)
    assert 0 <= float(video.min()) <= float(video.max()) <= 1
