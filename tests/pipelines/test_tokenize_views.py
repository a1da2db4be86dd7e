"""What a view's rows hold, whatever the batch, the neighbours and the threads; without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.tokenize_clips import tokenize, tokenize_job
from pipelines.tokenize_worker import TokenizeWorker
from schemas.config import Recipe
from schemas.config.run import load_recipe
from schemas.errors import ConfigError, UsageError
from tests import tiny_run
from tests.pipelines import here
from tests.pipelines.making import make_tokenizer, write_recipe
from vtok.parquet import read_metadata
from vtok.shards.reader import ShardReader
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.store import TokenStore
from vtok.tokens.views import cut_view
from vtok.video.ranges import to_model_range

VIEWS = [
    {"name": "whole"},
    {"name": "mirrored", "flip": True},
    {"name": "end", "first_frame": 2, "num_frames": 2},
    {"name": "large", "resolution": 24, "fit": "resize"},
    {"name": "centre", "resolution": 8, "latent_stride": 2},
]
GRIDS = {"whole": (2, 4, 4), "mirrored": (2, 4, 4), "end": (1, 4, 4), "large": (2, 6, 6), "centre": (1, 2, 2)}


def changed(run: Recipe, **tokens: Any) -> Recipe:
    return Recipe.model_validate({**run.plain(), "tokens": {**run.tokens.plain(), **tokens}})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    here.use(monkeypatch)
    settings = tiny_run.make_run(tmp_path / "run", ("clips", "shards"))
    make_tokenizer(settings)
    return settings


def test_every_view_is_encoded_as_it_is(run: Recipe) -> None:
    settings = changed(run, views=VIEWS, cond_frames=1)
    tokenize(settings)
    store, tokenizer = TokenStore(settings.folder("tokens")), load_tokenizer(settings.folder("tokenizer"))
    assert store.ragged and store.check() == 5 * 17
    assert [part["path"] for part in store.parts][-5:] == [
        "train-00000.parquet",
        *(f"train-00000.{name}.parquet" for name in ("mirrored", "end", "large", "centre")),
    ]
    rows = {(row["clip_id"], row["view_id"]): row for row in store.rows("train")}
    for clip in ShardReader(settings.folder("shards"), "train", shuffle=False).clips(0):
        for view in settings.tokens.views:
            frames, row = cut_view(clip.video_thwc, view), rows[clip.clip_id, view.name]
            codes = tokenizer.encode(torch.from_numpy(to_model_range(frames[None])))[0, :: view.latent_stride].numpy()
            assert codes.shape == GRIDS[view.name] == (row["grid_t"], row["grid_h"], row["grid_w"])
            assert np.array_equal(codes.reshape(-1), row["codes"])
            assert row["cond_frames"] == frames[:1].tobytes()
            assert (row["height"], row["width"], row["flip"]) == (*frames.shape[1:3], view.flip)
            assert row["num_frames"] == len(frames) and row["shard"] == "train-00000.tar"
    made_by = read_metadata(settings.folder("tokens") / "train-00000.centre.parquet")["made_by"]
    assert made_by["view"]["latent_stride"] == 2 and made_by["device"] == "cpu"
    assert (
        store.card.counts["tokens"]
        == 17 * sum(int(np.prod(grid)) for grid in GRIDS.values())
        == len(np.concatenate([row["codes"] for split in ("train", "test") for row in store.rows(split)]))
    )


def test_codes_do_not_depend_on_neighbours_places_or_threads(run: Recipe) -> None:
    worker = TokenizeWorker(*tokenize_job(run).init)
    clips = [c.video_thwc for c in ShardReader(run.folder("shards"), "train", shuffle=False).clips(0)][::4]
    alone = [worker.encoder.frames([clip])[0] for clip in clips]
    assert len({codes.tobytes() for codes in alone}) > 1, "a tokenizer that gives one answer proves nothing"
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for place in range(4):
            for number, clip in enumerate(clips):
                batch = [clips[(number + other + 1) % len(clips)] for other in range(4)]
                batch[place] = clip
                assert np.array_equal(worker.encoder.frames(batch)[place], alone[number])
                videos = torch.from_numpy(to_model_range(np.stack(batch)))
                assert np.array_equal(worker.tokenizer.encode(videos)[place].numpy(), alone[number])
    torch.set_num_threads(1)


def test_fast_mode_says_so(run: Recipe) -> None:
    settings = changed(run, mode="fast")
    tokenize(settings)
    store, tokenizer = TokenStore(settings.folder("tokens")), load_tokenizer(settings.folder("tokenizer"))
    assert (
        store.card.facts["mode"] == "fast" == read_metadata(settings.folder("tokens") / "train-00000.parquet")["mode"]
    )
    first = next(ShardReader(settings.folder("shards"), "train", shuffle=False).clips(0)).video_thwc
    codes = tokenizer.encode(torch.from_numpy(to_model_range(first[None])), mode="fast")
    assert np.array_equal(store.codes("train")[0], codes.reshape(-1).numpy())


def test_long_views_are_encoded_in_chunks(run: Recipe) -> None:
    tokenize(run)
    whole = TokenStore(run.folder("tokens")).codes("train")
    chunked = changed(run, chunk_frames=2)
    worker = TokenizeWorker(*tokenize_job(chunked).init)
    clips = [c.video_thwc for c in ShardReader(run.folder("shards"), "train", shuffle=False).clips(0)]
    assert worker.encoder.is_long(clips[0])
    assert np.array_equal([codes.reshape(-1) for codes in worker.encoder.frames(clips[:3])], whole[:3])
    with pytest.raises(UsageError, match="not divisible by the downsampling factor 2"):
        tokenize_job(changed(run, chunk_frames=3))


def test_chunks_are_refused_where_codes_depend_on_the_whole_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tiny_run.recipe(tmp_path / "run").plain()
    tree["tokenizer"]["model"] |= {"norm": "group", "n_hiddens": 32}
    settings = Recipe.model_validate({**tree, "tokens": {"chunk_frames": 2}})
    for stage in ("clips", "shards", "tokenizer"):
        tiny_run._MAKERS[stage](settings)
    with pytest.raises(UsageError, match="cannot work in temporal chunks: group norm"):
        tokenize_job(settings)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"device": "cuda"}, "no GPU"),
        ({"cond_frames": 5}, "has no 5 first ones"),
        ({"views": [{"first_frame": 1, "num_frames": 4}]}, "clips of 4 frames have no 4 frames from 1 on"),
        ({"mode": "fast", "chunk_frames": 2}, "exact mode only"),
        ({"views": [{"num_frames": 3}]}, "not divisible by the downsampling factor"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    run: Recipe, tokens: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=message):
        tokenize(changed(run, **tokens))
    assert not run.folder("tokens").exists()


def test_a_wrong_key_in_a_view_is_named(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["tokens.views=[{name: a}, {name: b, flipp: true}]"])
    assert "tokens.views.1.flipp" in str(caught.value) and "did you mean flip?" in str(caught.value)
