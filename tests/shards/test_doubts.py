"""Clips that an older revision of the decoding path may have spoilt are named, and no others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from schemas.card import MADE_WITH, Kind, Plan
from schemas.errors import EXIT_DONE, EXIT_FAILED
from tests import tiny_run
from vtok import artefacts
from vtok.cli import main
from vtok.shards.check import check
from vtok.tokens.check import check_store
from vtok.video.faults import FAULTS, Decoding, doubts
from vtok.video.revision import DECODING_REVISION

PLAIN = {
    "clip_id": "a",
    "source": "a.mp4",
    "medium": None,
    "item": None,
    "codec": "h264",
    "height": 240,
    "width": 320,
    "rotation": 0,
    "frame_rate": None,
}
OLD = Decoding(1, 1, "pyav", "reference")


@pytest.mark.parametrize(
    ("row", "decoding", "word"),
    [
        ({"width": 100}, OLD, "columns"),
        ({"width": 180, "medium": "tar", "source": "a.tar#b.webm", "item": "b.webm"}, OLD, "columns"),
        ({"height": 404, "rotation": 90}, OLD, "columns"),  # 404 pixels wide before it is turned
        ({"width": 100}, OLD._replace(policy=""), "columns"),  # not known
        ({"source": "b/a.M2TS", "frame_rate": 25.0}, OLD, "repeated"),
        ({"source": "a.ts", "frame_rate": 8.0}, Decoding(DECODING_REVISION, 1, "pyav", "fast"), "repeated"),
        ({"source": "a.ts", "frame_rate": 8.0}, Decoding(None, 1, "", ""), "repeated"),  # of clips
        ({"rotation": 180}, OLD, "upside down"),
        ({"medium": "frames", "codec": "png", "source": "a"}, OLD, "16 bits"),
        ({"source": "a.avi"}, OLD._replace(decoder="ffmpeg"), "one before"),
        ({"source": "a.mpg", "codec": "mpeg1video"}, OLD._replace(decoder="ffmpeg"), "one after"),
    ],
)
def test_what_a_fault_may_have_met(row: dict[str, Any], decoding: Decoding, word: str) -> None:
    changed = {**PLAIN, **row}
    found = doubts([{**PLAIN, "clip_id": "sound"}, changed], decoding)
    assert [word in doubt.what for doubt in found if doubt.clips == ["a"]].count(True) == 1
    assert all("sound" not in doubt.clips for doubt in found)
    assert doubts([changed], Decoding(DECODING_REVISION, DECODING_REVISION, *decoding[2:])) == []


@pytest.mark.parametrize(
    ("row", "decoding"),
    [
        ({"width": 101}, OLD),  # 101 % 16 = 5
        ({"width": 96}, OLD),
        ({"width": 404, "height": 720, "rotation": 90}, OLD._replace(policy="fast")),
        ({"width": 100}, OLD._replace(decoder="ffmpeg")),
        ({"width": 100, "codec": "gif", "source": "a.gif"}, OLD),
        ({"width": 100, "medium": "hdf5", "codec": "hdf5", "source": "a.h5#1"}, OLD),
        ({"width": 100}, Decoding(None, 1, "", "")),  # clips have no pixels yet
        ({"source": "a.ts"}, OLD),  # by stride
        ({"source": "a.avi"}, OLD),
    ],
)
def test_what_none_can_have_met(row: dict[str, Any], decoding: Decoding) -> None:
    assert [doubt for doubt in doubts([{**PLAIN, **row}], decoding) if "mirror" not in doubt.what] == []


def test_every_fault_is_mended_by_now() -> None:
    assert all(1 < fault.mended <= DECODING_REVISION for fault in FAULTS)
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose plans say nothing of revisions; four of its videos are 100 columns wide."""
    rows = tiny_run._rows

    def some_narrow() -> list[dict[str, object]]:
        return [{**row, "codec": "h264", "width": 100 if "/test" in str(row["source"]) else 320} for row in rows()]

    folder = tmp_path_factory.mktemp("old") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_run, "_rows", some_narrow)
        tiny_run.make_run(folder, ("clips", "shards", "tokenizer", "tokens"))
    return folder


NARROW = [f"class{label}/test{number}_0" for label in (0, 1) for number in range(3)]


def test_older_shards_are_not_called_sound(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check(old / "shards")
    assert found.problems == []
    assert [(doubt.clips, "columns" in doubt.what) for doubt in found.doubts] == [(NARROW, True)]
    assert check(old / "shards", fast=True).doubts == found.doubts
    assert main(["data", "check", str(old / "shards")]) == EXIT_FAILED
    said = capsys.readouterr().out
    assert "doubtful" in said and NARROW[0] in said and "sound:" not in said
    assert main(["data", "check", "--json", str(old / "shards")]) == EXIT_FAILED
    (plain,) = json.loads(capsys.readouterr().out)
    assert plain["sound"] is False and plain["doubts"][0]["clips"] == NARROW
    assert main(["data", "check", str(old / "clips")]) == EXIT_DONE, "clips have no pixels"


def test_older_tokens_are_not_called_sound(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check_store(old / "tokens")
    assert found.damages == [] and [doubt.clips for doubt in found.doubts] == [NARROW]
    assert main(["tokens", "check", str(old / "tokens")]) == EXIT_FAILED
    said = capsys.readouterr().out
    assert "doubtful" in said and NARROW[0] in said


def test_without_the_shards_it_is_said_that_nothing_can_be_told(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old / "tokens", tmp_path / "tokens")
    found = check_store(tmp_path / "tokens")
    assert found.doubts == []
    assert any("decoded by an older vtok (revision 1" in note for note in found.notes)


def test_of_this_revision_they_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows; the plan says that they are of today."""
    make, rows = artefacts.make_plan, tiny_run._rows

    def of_today(kind: Kind, config: dict[str, Any], inputs: dict[str, str], units: list[str]) -> Plan:
        today = {"decoding_revision": DECODING_REVISION, "planning_revision": DECODING_REVISION}
        return make(kind, {**config, MADE_WITH: today} if kind in ("clips", "shards") else config, inputs, units)

    monkeypatch.setattr(artefacts, "make_plan", of_today)
    monkeypatch.setattr(tiny_run, "_rows", lambda: [{**row, "codec": "h264", "width": 100} for row in rows()])
    tiny_run.make_run(tmp_path / "run", ("clips", "shards", "tokenizer", "tokens"))
    for stage in ("clips", "shards"):
        assert check(tmp_path / "run" / stage).doubts == []
    found = check_store(tmp_path / "run" / "tokens")
    assert found.doubts == [] and found.notes == []
