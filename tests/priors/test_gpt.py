from __future__ import annotations

import math

import pytest
import torch

from schemas.config.prior import GptConfig
from schemas.errors import VtokError
from vtok.priors.attention import visible
from vtok.priors.gpt import GPT
from vtok.priors.tats import GptPrior

GRID = (2, 2, 3)
SMALL = GptConfig(n_layer=2, n_head=2, n_embd=16)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _gpt(**options: int) -> GPT:
    model = GPT(20, 12, 2, 2, 16, generator=_generator(), **options).eval()
    with torch.no_grad():
        model.pos_emb.normal_(generator=_generator(1))
        for p in model.parameters():
            p.mul_(3)
    return model


def _tokens(batch: int = 3, length: int = 12) -> torch.Tensor:
    return torch.randint(20, (batch, length), generator=_generator(2))


@pytest.mark.parametrize("prefix", [1, 5, 12])
@torch.no_grad()
def test_cached_decoding_equals_a_full_pass(prefix: int) -> None:
    model, tokens = _gpt(), _tokens()
    cache = model.new_cache(3, 12)
    where = [t.data_ptr() for t in cache]
    parts = [model.prefill(tokens[:, :prefix], cache)]
    parts += [model.step(tokens[:, i], i, cache)[:, None] for i in range(prefix, 12)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-5, atol=1e-5)
    assert [t.data_ptr() for t in cache] == where
    assert cache.keys_lbhnd.shape == (2, 3, 2, 12, 8)


@torch.no_grad()
def test_the_future_is_not_seen() -> None:
    model, tokens = _gpt(), _tokens()
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 20
    a, b = model(tokens), model(changed)
    assert torch.equal(a[:, :7], b[:, :7])
    assert not torch.allclose(a[:, 7:], b[:, 7:])


def test_interpolation_mask() -> None:
    mask = visible(12, 3)
    assert mask[:, :4].all()
    assert mask[:, -2:].all()
    assert not mask[-2:, 4:-2].any()
    middle = mask[4:10, 4:10]
    assert torch.equal(middle, torch.ones(6, 6, dtype=torch.bool).tril())
    with torch.no_grad():
        model, tokens = _gpt(n_unmasked=3), _tokens()
        changed = tokens.clone()
        changed[:, -1] = (changed[:, -1] + 1) % 20
        assert not torch.allclose(model(tokens)[:, 0], model(changed)[:, 0])
        assert "mask_nn" not in model.state_dict()


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="block size 12"):
        _gpt()(_tokens(length=13))


def test_initial_weights() -> None:
    state = torch.get_rng_state()
    a, b, c = (GPT(500, 8, 1, 2, 64, generator=_generator(s)) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, c.head.weight)
    for weight in (a.tok_emb.weight, a.head.weight, a.blocks[0].mlp[0].weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not a.pos_emb.any()
    assert not a.blocks[0].attn.key.bias.any()


def test_masks_of_original_state_dicts_are_ignored() -> None:
    model = _gpt()
    state = model.state_dict()
    state["blocks.0.attn.mask"] = torch.ones(1, 1, 12, 12)
    model.load_state_dict(state)
    state["blocks.0.attn.other"] = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"attn\.other"):
        model.load_state_dict(state)


def test_size_of_the_paper() -> None:
    config = GptConfig(n_layer=24, n_head=16, n_embd=1024, parity=True)
    labelled = config.model_copy(update={"condition": "label"})
    with torch.device("meta"):
        plain = GptPrior(config, 16384, (4, 16, 16))
        classes = GptPrior(labelled, 16384, (4, 16, 16), n_classes=101)
    assert plain.transformer.block_size == 1024
    assert sum(p.numel() for p in plain.parameters()) == pytest.approx(336.9e6, rel=2e-4)
    assert sum(p.numel() for p in classes.parameters()) == pytest.approx(337.1e6, rel=2e-4)


def test_every_parameter_is_in_one_group() -> None:
    prior = GptPrior(SMALL, 10, GRID)
    decayed, plain = prior.optim_groups(0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim == 2 for p in decayed["params"])
    together = [id(p) for p in decayed["params"] + plain["params"]]
    assert sorted(together) == sorted(id(p) for p in prior.parameters())
    assert id(prior.transformer.tok_emb.weight) in {id(p) for p in plain["params"]}


def test_inputs_are_shifted_past_the_labels() -> None:
    prior = GptPrior(SMALL.model_copy(update={"condition": "label"}), 10, GRID, n_classes=4)
    codes = torch.arange(12).reshape(1, *GRID) % 10
    tokens, targets = prior.inputs(codes, torch.tensor([3]))
    shifted = [c + 4 for c in codes.flatten().tolist()]
    assert targets[0].tolist() == codes.flatten().tolist(), "condition tokens are not in the softmax"
    assert tokens[0].tolist() == [3, *shifted[:-1]]
    original = GptPrior(SMALL.model_copy(update={"condition": "label", "parity": True}), 10, GRID, n_classes=4)
    assert original.inputs(codes, torch.tensor([3]))[1][0].tolist() == shifted
    assert original.logits(codes, torch.tensor([3])).shape == (1, 12, 14)
    with pytest.raises(ValueError, match="needs labels"):
        prior.inputs(codes)
    plain, original = GptPrior(SMALL, 10, GRID), GptPrior(SMALL.model_copy(update={"parity": True}), 10, GRID)
    assert plain.inputs(codes)[0][0].tolist() == [0, *(c + 1 for c in codes.flatten().tolist()[:-1])]
    assert original.inputs(codes)[0][0].tolist() == [0, *codes.flatten().tolist()[:-1]]
    with pytest.raises(ValueError, match="no labels"):
        plain.inputs(codes, torch.tensor([3]))
    with pytest.raises(VtokError, match="labels"):
        GptPrior(SMALL.model_copy(update={"condition": "label"}), 10, GRID)
    with pytest.raises(VtokError, match="12 codes"):
        GptPrior(SMALL, 10, GRID, block_size=11)


def test_loss_and_accuracies() -> None:
    prior = GptPrior(SMALL, 10, GRID)
    codes = torch.randint(10, (4, *GRID), generator=_generator())
    output = prior.loss(codes)
    assert output.loss.item() == pytest.approx(math.log(10), abs=0.1)
    logits = prior.logits(codes).flatten(0, 1)
    order = logits.argsort(1, descending=True)
    rank = (order == codes.reshape(-1, 1)).int().argmax(1)
    assert float(output.acc1) == pytest.approx(100 * float((rank < 1).float().mean()))
    assert float(output.acc5) == pytest.approx(100 * float((rank < 5).float().mean()))
    output.loss.backward()
    assert all(p.grad is not None for p in prior.parameters())
