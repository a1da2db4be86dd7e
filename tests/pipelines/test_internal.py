"""A fault of ours is no video's: all else is made, nothing is sealed, and the next run tries again. Without Ray."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from pipelines import decode_clips, ingest
from pipelines.shard import shard
from schemas.card import CARD_NAME
from schemas.errors import VtokError
from tests.pipelines import here
from tests.pipelines.here import PoolHere
from tests.pipelines.making import digests, recipe
from vtok import artefacts
from vtok.rejects import find_rejects
from vtok.video.child import DecodeChild


@pytest.fixture
def videos(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The corpus with one sound video more, on which `tests.video.misbehaving` raises an AttributeError."""
    here.use(monkeypatch)
    root = tmp_path / "videos"
    shutil.copytree(corpus, root)
    shutil.copy(root / "Ball" / "0.avi", root / "Ball" / "raise.avi")
    return root


def test_ingest(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = recipe(videos, tmp_path / "wanted")
    ingest.ingest(wanted)
    run = recipe(videos, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "FILES_PER_UNIT", 4)
        patch.setattr(ingest, "DecodeChild", partial(DecodeChild, module="tests.video.misbehaving"))
        with pytest.raises(VtokError, match="a fault of vtok cost 1 reject of 1 file") as caught:
            ingest.ingest(run)
        assert caught.value.at == "Ball/raise.avi" and caught.value.hint
        assert "AttributeError: 'DataStream' object has no attribute 'width' (vtok/video/" in caught.value.what
        folder = run.folder("clips")
        assert not (folder / CARD_NAME).exists()
        units = artefacts.load_plan(folder).units
        assert PoolHere.made[-len(units) :] == units, "all else is made"
        assert [row["source"] for row in find_rejects(folder) if row["reason"] == "internal"] == ["Ball/raise.avi"]
        PoolHere.made.clear()
        with pytest.raises(VtokError, match="a fault of vtok"):
            ingest.ingest(run)
        assert len(PoolHere.made) == 1, "only the part that lacks clips is made again"
    shutil.rmtree(folder)
    ingest.ingest(run)
    assert digests(folder) == digests(wanted.folder("clips"))


def test_shards(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = recipe(videos, tmp_path / "run")
    ingest.ingest(run)
    with monkeypatch.context() as patch:
        patch.setattr(decode_clips, "DecodeChild", partial(DecodeChild, module="tests.video.misbehaving"))
        with pytest.raises(VtokError, match="a fault of vtok cost 3 rejects of 1 file"):
            shard(run)
    assert not (run.folder("shards") / CARD_NAME).exists()
    PoolHere.made.clear()
    shard(run)
    again = list(PoolHere.made)
    folder, whole = run.folder("shards"), digests(run.folder("shards"))
    assert 0 < len(again) < len(artefacts.load_plan(folder).units)
    shutil.rmtree(folder)
    shard(run)
    assert digests(folder) == whole
