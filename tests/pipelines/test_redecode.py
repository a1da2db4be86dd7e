"""A sample of the clips is decoded again: equal bytes where nothing changed, and clips by name where something did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.ingest import ingest
from pipelines.shard import shard
from schemas.config.data import ShardsConfig
from schemas.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from schemas.shards import MANIFEST_NAME
from tests.pipelines import here
from tests.pipelines.making import recipe
from tests.shards.test_check import write_again
from vtok import artefacts
from vtok.cli import main
from vtok.files import read_table
from vtok.shards.codec import decode_clip, encode_clip
from vtok.shards.redecode import in_sample


@pytest.fixture(scope="module", params=["raw", "jpeg", pytest.param("h264", marks=pytest.mark.soak)])
def made(request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = recipe(corpus, tmp_path_factory.mktemp("redecode") / "run", shards__encoding=request.param)
    with pytest.MonkeyPatch.context() as patch:
        here.use(patch)
        ingest(settings)
        shard(settings)
    return settings.folder("shards")


def check(*arguments: str | Path) -> int:
    return main(["data", "check", "--json", *map(str, arguments)])


def test_nothing_has_changed(made: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = artefacts.load(made).counts["clips"]
    assert check(made, "--redecode", "100%", "--videos", corpus) == EXIT_DONE
    (found,) = json.loads(capsys.readouterr().out)
    assert found["redecode"] == {
        "share": 1.0,
        "clips": clips,
        "equal": clips,
        "differing": [],
        "skipped": {},
        "notes": [],
    }
    assert check(made, "--redecode", "1e-9", "--videos", corpus) == EXIT_DONE, "at least one is taken"
    assert json.loads(capsys.readouterr().out)[0]["redecode"]["equal"] == 1


def brighter(sample: dict[str, Any]) -> dict[str, Any]:
    """What another machine might have made of the clips of one video."""
    if json.loads(sample["json"])["source"] != "Slide/1.avi":
        return sample
    config = ShardsConfig(encoding="raw" if "npy.zst" in sample else "jpeg" if "000.jpg" in sample else "h264")
    frames = (decode_clip(sample).astype(np.int16) + 3).clip(0, 255).astype(np.uint8)
    kept = {name: data for name, data in sample.items() if name.startswith("__") or name == "json"}
    return {**kept, **encode_clip(frames, config, 8.0)}


def test_clips_of_another_machine_are_named(
    made: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "shards"))
    for row in artefacts.load_index(folder).to_pylist():
        write_again(folder, row["path"], brighter)
    assert main(["data", "check", str(folder), "--redecode", "100%", "--videos", str(corpus)]) == EXIT_FAILED
    said = capsys.readouterr().out
    sources = {row["clip_id"]: row["source"] for row in read_table(folder / MANIFEST_NAME).to_pylist()}
    spoilt = {clip for clip, source in sources.items() if source == "Slide/1.avi"}
    assert "3 with others" in said and all(clip in said for clip in spoilt)
    assert "processors of another kind" in said
    assert check(folder, "--redecode", "100%", "--videos", corpus) == EXIT_FAILED
    (found,) = json.loads(capsys.readouterr().out)
    differing = found["redecode"]["differing"]
    assert len(differing) == 3 and {each["clip_id"] for each in differing} == spoilt
    assert all(0.2 < each["pixels"] <= 1 and each["largest"] >= 3 for each in differing)


def test_what_is_gone_or_another_file_is_not_compared(
    made: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = Path(shutil.copytree(corpus, tmp_path / "videos"))
    (videos / "Ball/0.avi").unlink()
    other = bytearray((videos / "Ball/1.avi").read_bytes())
    other[-1] ^= 1  # in the index, which nothing needs
    (videos / "Ball/1.avi").write_bytes(other)
    assert check(made, "--redecode", "100%", "--videos", videos) == EXIT_DONE
    found = json.loads(capsys.readouterr().out)[0]["redecode"]
    assert found["skipped"] == {"vanished: no such file": 3, "its source is another file now": 3}
    assert found["equal"] == found["clips"] - 6
    shutil.rmtree(videos)
    assert check(made, "--redecode", "100%", "--videos", videos) == EXIT_FAILED, "nothing was compared"


def test_the_folder_of_the_videos_is_needed(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(made, "--redecode", "1%") == EXIT_USAGE
    assert "--videos" in capsys.readouterr().err
    assert check(made, "--redecode", "0", "--videos", made) == EXIT_USAGE


def test_the_sample_is_a_function_of_ids_and_seed() -> None:
    ids = [f"clip{number}" for number in range(10_000)]
    chosen = {clip for clip in ids if in_sample(clip, 0.1, 0)}
    assert 850 < len(chosen) < 1150
    assert chosen == {clip for clip in ids if in_sample(clip, 0.1, 0)}
    assert chosen != {clip for clip in ids if in_sample(clip, 0.1, 1)}
    assert chosen < {clip for clip in ids if in_sample(clip, 0.2, 0)}
