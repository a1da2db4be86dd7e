"""What a prior is conditioned on belongs to the very rows of its codes; rows that only fill up count for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.config.prior import GptConfig, MebtConfig, VideoGptConfig
from schemas.errors import UsageError
from tests.tokens.making import TOKENIZER, token_row
from tests.tokens.test_versions import sealed
from trainers.prior import check_sound_of_crops
from vtok.priors.base import Batch, Draws
from vtok.priors.build import Facts, build_prior
from vtok.priors.collate import Collate, columns_of
from vtok.priors.text import train_text_tokenizer
from vtok.tokens.loader import Crop, TokenLoader
from vtok.tokens.store import TokenStore

GRID = (4, 4, 6)
ROWS = 21
SMALL: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 12, "dropout": 0.0, "attention_dropout": 0.0}
WITH: dict[str, GptConfig | VideoGptConfig] = {
    "label": GptConfig(**SMALL, condition="label", boxes=True),
    "text": GptConfig(**SMALL, condition="text", condition_length=12, condition_vocabulary=400),
    "audio": GptConfig(**SMALL, condition="audio", condition_length=3, condition_vocabulary=64),
    "frames": VideoGptConfig(**SMALL, condition="label", cond_frames=2, frame_width=12),
}


def row_of(number: int, base: int) -> dict[str, Any]:
    """All of it says which row it is; a `left` view of a clip is followed by its `right` one."""
    number += base
    return {
        **token_row(number, "train", 64, GRID),
        "clip_id": f"clip-{number // 2}",
        "view_id": ("left", "right")[number % 2],
        "codes": np.full(np.prod(GRID), number),
        "label": number,
        "caption": f"number {number}",
        "audio_codes": np.array([number, 63 - number, number]),
        "cond_frames": np.full((2, 16, 16, 3), 4 * number, np.uint8).tobytes(),
        "height": 16,
        "width": 16,
    }


def store_of(folder: Path, rows: int, base: int = 0) -> TokenStore:
    made = [row_of(number, base) for number in range(rows)]
    return TokenStore(sealed(folder, made, GRID, audio_codebook_size=64))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[TokenStore]:
    folder = tmp_path_factory.mktemp("stores")
    return [store_of(folder / "one", ROWS), store_of(folder / "two", 9, base=ROWS)]


def check(batch: Batch, name: str, collate: Collate) -> list[int]:
    """Compares the conditions of a batch with the rows that its codes are of, and says which these are."""
    rows = [int(codes.max()) for codes in batch.codes_bthw]
    assert all(set(codes.unique().tolist()) <= {row, -1} for codes, row in zip(batch.codes_bthw, rows, strict=True))
    real = [place for place, row in enumerate(rows) if row >= 0]
    for place in real:
        row = rows[place]
        if name in ("label", "frames"):
            assert batch.labels_b is not None and int(batch.labels_b[place]) == row
        if name == "frames":
            assert batch.frames_bcthw is not None and batch.frames_bcthw.shape[1:] == (3, 2, 16, 16)
            assert torch.allclose(batch.frames_bcthw[place], torch.tensor(4 * row / 255 - 0.5), atol=1e-6)
        if name == "audio":
            assert batch.audio_bn is not None and batch.audio_bn[place].tolist() == [row, 63 - row, row]
        if name == "text":
            assert collate.text is not None and batch.text_bn is not None
            assert batch.text_bn[place].tolist() == collate.text.encode([f"number {row}"], 12)[0].tolist()
    return [rows[place] for place in real]


LOADING: dict[str, dict[str, Any]] = {
    "pad": {"last": "pad"},
    "view": {"last": "pad", "views": ["right"]},
    "crop": {"last": "pad", "crop": Crop(4, 2, 3)},
    "mix": {"weights": [1.0, 2.0]},
    "parts": {"last": "pad", "order": "parts"},
}


@pytest.mark.parametrize(
    ("name", "how"), [(n, h) for n in WITH for h in LOADING if (n, h) != ("frames", "crop")]
)  # conditioning frames are those of whole clips
def test_conditions_belong_to_the_rows_of_the_codes(stores: list[TokenStore], name: str, how: str) -> None:
    config, options = WITH[name], LOADING[how]
    text = train_text_tokenizer([f"number {row}" for row in range(ROWS + 9)], 400) if name == "text" else None
    collate = Collate(config, "cpu", text)
    needs = {"cond_frames": "cond_frames" in config.columns, "audio": "audio_codes" in config.columns}
    for rank in range(2):
        source = stores if how == "mix" else stores[0]
        workers = int(name == "text" and how == "pad")
        loader = TokenLoader(source, "train", 4, seed=0, rank=rank, world=2, workers=workers, **needs, **options)
        seen = []
        for tokens in loader:
            batch = collate.of_tokens(tokens, "")
            rows = check(batch, name, collate)
            assert tokens.rows_b is not None
            numbers = tokens.rows_b[tokens.valid_b]
            assert rows == (2 * numbers + 1 if how == "view" else numbers).tolist()
            assert (batch.codes_bthw.flatten(1) >= 0).all(1).tolist() == tokens.valid_b.tolist()
            seen += rows
        loader.close()
        assert len(seen) > 3 and (how == "mix" or len(set(seen)) == len(seen))
    if name == "label":  # validation reads the store itself
        held = list(stores[0].rows("train", columns_of(config)))
        assert check(collate.of_rows(held, "", (2, 2, 3)), name, collate) == list(range(ROWS))


@pytest.mark.parametrize(
    "config",
    [
        GptConfig(**SMALL, condition="label"),
        GptConfig(**SMALL, interpolation="prefix"),
        VideoGptConfig(**SMALL, condition="label"),
        pytest.param(WITH["frames"], marks=pytest.mark.soak),  # its ResNet has many weights
        MebtConfig(**SMALL, latents=4, condition="label"),
    ],
    ids=["gpt", "gpt-prefix", "videogpt", "videogpt-frames", "mebt"],
)
def test_rows_that_fill_up_count_for_nothing(config: Any) -> None:
    """Loss, accuracies and gradients are those of the other rows alone."""
    draws = torch.Generator().manual_seed(0)
    facts = Facts(64, GRID, 8, 16, lambda: torch.randn(64, 8, generator=draws))
    prior: Any = build_prior(config, facts, torch.Generator().manual_seed(1)).eval()
    for parameter in prior.parameters():  # some begin at zero, and would hide what is wrong
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draws)
    codes = torch.randint(0, 64, (4, *GRID), generator=draws)
    codes[2:] = -1
    whole = Batch(codes, torch.arange(4), frames_bcthw=torch.rand(4, 3, 2, 16, 16, generator=draws) - 0.5)
    alone = Batch(*(None if field is None else field[:2] for field in whole))
    results = []
    for batch in (whole, alone):
        prior.zero_grad()
        output = prior(*prior.prepare(batch, Draws(0, 0)))
        output.loss.backward()
        gradients = {
            name: parameter.grad.clone() for name, parameter in prior.named_parameters() if parameter.grad is not None
        }
        results.append((output, gradients))
    (filled, with_them), (few, without) = results
    assert float(filled.loss.detach()) == pytest.approx(float(few.loss.detach()), rel=1e-5)
    assert float(filled.acc5) == pytest.approx(float(few.acc5), abs=1e-4)
    assert with_them.keys() == without.keys() and len(without) > 5
    for name, gradient in without.items():
        assert torch.allclose(with_them[name], gradient, rtol=1e-3, atol=1e-6), name


def test_the_sound_of_a_whole_clip_does_not_go_with_a_part_of_it(stores: list[TokenStore], tmp_path: Path) -> None:
    check_sound_of_crops(stores[0], (4, 2, 3))
    with pytest.raises(UsageError, match="crops in time do not go with the sound"):
        check_sound_of_crops(stores[0], (2, 4, 6))
    ragged = TokenStore(sealed(tmp_path / "tokens", [row_of(0, 0)], None, audio_codebook_size=64))
    assert ragged.tokenizer == TOKENIZER
    with pytest.raises(UsageError, match="crops in time do not go with the sound"):
        check_sound_of_crops(ragged, (4, 2, 3))
