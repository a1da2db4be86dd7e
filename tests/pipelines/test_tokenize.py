"""Tokens are the tokenizer's codes of the clips, whatever the workers and the neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipelines.tokenize_clips import tokenize
from schemas.config import Recipe
from schemas.errors import IntegrityError, UsageError
from tests.pipelines.making import digests, flip
from vtok import artefacts
from vtok.shards.reader import ShardReader
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.store import TokenStore
from vtok.video.ranges import to_model_range

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_running")]
Copy = Callable[..., Recipe]


def test_every_clip_has_a_row(made: Recipe) -> None:
    store = TokenStore(made.folder("tokens"))
    shards = artefacts.load(made.folder("shards"), "shards")
    assert store.card.counts["clips"] == shards.counts["clips"] == store.check()
    assert store.splits() == shards.facts["splits"]
    assert store.card.inputs["shards"] == shards.fingerprint
    assert store.tokenizer == artefacts.load(made.folder("tokenizer")).facts["fingerprint"]
    assert store.classes == ["Ball", "Slide"]
    assert store.grid == (2, 4, 4)


def test_tokens_equal_direct_encoding(made: Recipe) -> None:
    tokenizer = load_tokenizer(made.folder("tokenizer"))
    store = TokenStore(made.folder("tokens"))
    different = set()
    for split in ("train", "test"):
        rows = {row["clip_id"]: row for row in store.rows(split)}
        for clip in ShardReader(made.folder("shards"), split, shuffle=False).clips(0):
            batch = np.repeat(clip.video_thwc[None], made.tokens.batch_size, axis=0)
            with torch.inference_mode():
                codes = tokenizer.encode(torch.from_numpy(to_model_range(batch)))[0]
            row = rows[clip.clip_id]
            assert np.array_equal(row["codes"], codes.reshape(-1).numpy())
            assert (row["label"], row["class_name"]) == (clip.label, clip.class_name)
            assert (row["source"], row["source_sha256"]) == (clip.meta["source"], clip.meta["source_sha256"])
            assert (row["fps"], row["start_time"], row["num_frames"]) == (8.0, clip.meta["start_time"], 4)
            different.add(codes.numpy().tobytes())
    assert len(different) > 5, "a tokenizer that gives one answer proves nothing"


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_makes_the_same_bytes(made: Recipe, copy_of: Copy, workers: int) -> None:
    settings = copy_of("clips", "shards", "tokenizer", cluster__workers=workers)
    tokenize(settings)
    assert digests(settings.folder("tokens")) == digests(made.folder("tokens"))


def test_a_rerun_changes_nothing_and_a_damaged_part_is_made_again(copy_of: Copy) -> None:
    settings = copy_of("clips", "shards", "tokenizer", "tokens")
    folder = settings.folder("tokens")
    before = digests(folder)
    tokenize(settings)
    assert digests(folder) == before
    (folder / "_vtok.json").unlink()
    flip(folder / "train-00000.parquet", 0.2)
    tokenize(settings)
    assert digests(folder) == before


def test_a_damaged_shard_is_named(copy_of: Copy) -> None:
    settings = copy_of("clips", "shards", "tokenizer")
    flip(settings.folder("shards") / "train-00001.tar", 0.4)
    with pytest.raises(IntegrityError, match="sha256 differs from the index") as caught:
        tokenize(settings)
    assert caught.value.at.endswith("train-00001.tar")
    assert not (settings.folder("tokens") / "_vtok.json").exists()


def test_damaged_weights_are_named(copy_of: Copy) -> None:
    settings = copy_of("clips", "shards", "tokenizer")
    flip(settings.folder("tokenizer") / "tokenizer.safetensors")
    with pytest.raises(IntegrityError, match="weights are not those"):
        tokenize(settings)


def test_inputs_must_be_there_and_fit(copy_of: Copy) -> None:
    with pytest.raises(UsageError, match="no such folder") as caught:
        tokenize(copy_of("clips", "shards"))
    assert "vtok train tokenizer" in caught.value.hint


def test_clips_must_fit_the_tokenizer(made: Recipe, copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    from vtok.tokenizers.vqgan import VQGAN

    def refuse(self: VQGAN, t: int, h: int, w: int) -> tuple[int, int, int]:
        raise ValueError(f"height {h} is not divisible by the downsampling factor 5")

    monkeypatch.setattr(VQGAN, "grid", refuse)
    settings = copy_of("clips", "shards", "tokenizer")
    with pytest.raises(UsageError, match="not divisible by the downsampling factor 5") as caught:
        tokenize(settings)
    assert caught.value.at == str(settings.folder("shards"))
