"""Every mistake gets error, place, hint and the right exit code, and never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.card import with_checksum
from schemas.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from tests import tiny_run
from tests.pipelines.making import REPOSITORY, write_recipe
from tests.trainers.making import prepare
from vtok.cli import main

Complaint = Callable[..., str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything, made without Ray or training."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    tiny_run.make_run(folder)
    return folder


@pytest.fixture
def complaint(capfd: pytest.CaptureFixture[str]) -> Complaint:
    """Runs a command that must fail with this code, and returns what it printed to standard error."""

    def run(code: int, *arguments: str | Path) -> str:
        capfd.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        text = capfd.readouterr().err
        assert "Traceback" not in text and "a bug in vtok" not in text
        return text

    return run


def lines(text: str) -> dict[str, str]:
    """The three lines of an error."""
    found = {}
    for line in text.splitlines():
        key, colon, rest = line.partition(":")
        if colon and key in ("error", "at", "hint"):
            found[key] = rest.strip()
    return found


def test_no_such_folder_of_videos(complaint: Complaint, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path / "nowhere", tmp_path / "run")
    assert lines(complaint(EXIT_USAGE, "data", "ingest", recipe)) == {
        "error": "no such folder of videos",
        "at": str(tmp_path / "nowhere"),
        "hint": "set data.root to the folder that holds them",
    }
    assert not (tmp_path / "run").exists(), "nothing was started"


def test_no_videos_in_the_folder(complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.txt").write_text("x")
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path / "videos", tmp_path / "run")
    said = lines(complaint(EXIT_USAGE, "data", "ingest", recipe))
    assert said["error"] == "no videos in this folder" and said["at"] == str(tmp_path / "videos")
    assert ".mp4" in said["hint"]


def test_unknown_key(complaint: Complaint, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run")
    text = complaint(EXIT_USAGE, "data", "ingest", recipe, "data.num_frmes=8", "sedd=1")
    assert "data.num_frmes: unknown key" in text and "did you mean num_frames?" in text
    assert "did you mean seed?" in text, "all problems at once"
    assert str(recipe) in lines(text)["at"]


def test_wrong_type(complaint: Complaint, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run")
    text = complaint(EXIT_USAGE, "data", "ingest", recipe, "data.num_frames=many")
    assert "data.num_frames: " in text and "'many'" in text


def test_resolution_that_does_not_divide(complaint: Complaint, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run")
    text = complaint(EXIT_USAGE, "data", "ingest", recipe, "data.resolution=18")
    assert "data.resolution 18 is not divisible by the downsampling factor 4" in text


def test_no_such_recipe(complaint: Complaint, tmp_path: Path) -> None:
    said = lines(complaint(EXIT_USAGE, "data", "ingest", tmp_path / "none.yaml"))
    assert "cannot read the recipe" in said["error"] and "vtok recipes" in said["hint"]


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_clip_longer_than_every_video(complaint: Complaint, corpus: Path, tmp_path: Path, ray_running: None) -> None:
    root = shutil.copytree(corpus / "Ball", tmp_path / "videos" / "Ball").parent
    for name in ("empty", "text"):
        (root / "Ball" / f"{name}.avi").unlink()
    recipe = write_recipe(tmp_path / "r.yaml", root, tmp_path / "run", data__num_frames=16)
    said = lines(complaint(EXIT_USAGE, "data", "ingest", recipe))
    assert said["error"].startswith("a clip of 16 frames is longer than every video")
    assert said["at"] == str(root) and "data.num_frames" in said["hint"]


@pytest.mark.parametrize(
    ("command", "missing", "made_by"),
    [
        (("data", "shard"), "clips", "vtok data ingest"),
        (("train", "tokenizer"), "shards", "vtok data shard"),
        (("tokenize",), "shards", "vtok data shard"),
        (("train", "prior"), "tokens", "vtok tokenize"),
        (("sample",), "prior", "vtok train prior"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_stage_before_its_input(
    complaint: Complaint, tmp_path: Path, command: tuple[str, ...], missing: str, made_by: str
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run")
    said = lines(complaint(EXIT_USAGE, *command, recipe))
    assert said["error"] == "no such folder"
    assert said["at"] == str(tmp_path / "run" / missing)
    assert made_by in said["hint"]


def test_a_store_of_another_tokenizer(complaint: Complaint, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = prepare(finished, out, "prior")
    path = recipe.folder("tokenizer") / "_vtok.json"
    card = json.loads(path.read_text())
    right, card["facts"]["fingerprint"] = card["facts"]["fingerprint"], "f" * 64
    path.write_text(json.dumps(with_checksum(card)))
    said = lines(complaint(EXIT_USAGE, "train", "prior", out / "recipe.yaml"))
    assert right in said["error"] and "f" * 64 in said["error"]
    assert said["at"] == str(out / "tokens") and "tokenize" in said["hint"]


def test_a_checkpoint_of_another_kind(complaint: Complaint, finished: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "run", tmp_path / "step-00000004"
    prepare(finished, out, "prior")
    path.mkdir()
    (path / "state.json").write_text(json.dumps({"kind": "tokenizer", "plan": "x", "step": 4, "files": {}}))
    said = lines(complaint(EXIT_USAGE, "train", "prior", out / "recipe.yaml", "--resume", path))
    assert said["error"] == "a checkpoint of a tokenizer, not of a prior" and said["at"] == str(path)
    said = lines(complaint(EXIT_USAGE, "train", "prior", out / "recipe.yaml", "--resume", tmp_path / "none"))
    assert "no such folder" in said["error"]


def test_the_out_folder_holds_something_else(complaint: Complaint, corpus: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", corpus, tmp_path / "run")
    (tmp_path / "run" / "clips").mkdir(parents=True)
    (tmp_path / "run" / "clips" / "thesis.tex").write_text("x")
    said = lines(complaint(EXIT_USAGE, "data", "ingest", recipe))
    assert "holds no vtok artefact" in said["error"] and said["at"] == str(tmp_path / "run" / "clips")
    assert [p.name for p in (tmp_path / "run" / "clips").iterdir()] == ["thesis.tex"]


def test_the_out_folder_holds_another_run(complaint: Complaint, finished: Path, corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "clips", tmp_path / "run" / "clips")
    recipe = write_recipe(tmp_path / "r.yaml", corpus, tmp_path / "run")
    said = lines(complaint(EXIT_USAGE, "data", "ingest", recipe))
    assert "made from something else" in said["error"] and " there, " in said["error"]


def test_damage_is_named(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(finished / "tokens", tmp_path / "tokens"))
    part = next(folder.glob("train-*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    assert main(["tokens", "check", str(folder)]) == EXIT_FAILED
    said = capsys.readouterr().out
    assert part.name in said and "sha256 differs" in said and "makes this part anew" in said


def test_a_file_instead_of_a_folder_of_videos(complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("x")
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path / "a.mp4", tmp_path / "run")
    assert lines(complaint(EXIT_USAGE, "data", "ingest", recipe))["error"] == "a file, not a folder of videos"


def test_a_word_that_is_none_of_the_choices(complaint: Complaint, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run")
    text = complaint(EXIT_USAGE, "data", "shard", recipe, "data.layout=ucf", "shards.encoding=jpg")
    assert "did you mean ucf101?" in text and "did you mean jpeg?" in text


def test_captions_that_are_not_there(complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").write_text("x")
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path / "videos", tmp_path / "run")
    said = lines(complaint(EXIT_USAGE, "data", "ingest", recipe, "data.captions=none.txt"))
    assert said["error"] == "the captions cannot be read: No such file or directory"
    assert said["at"] == str(tmp_path / "videos/none.txt") and said["hint"]


def test_a_run_inside_of_a_file(complaint: Complaint, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    recipe = write_recipe(tmp_path / "r.yaml", corpus, tmp_path / "file")
    said = lines(complaint(EXIT_FAILED, "data", "ingest", recipe))
    assert "Not a directory" in said["error"] and "`out`" in said["hint"]


def test_a_recipe_with_tabs(complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\n\tout: y\n")
    said = lines(complaint(EXIT_USAGE, "data", "ingest", tmp_path / "r.yaml"))
    assert said["at"] == f"{tmp_path / 'r.yaml'}:2" and "indent with spaces" in said["hint"]


def test_a_damaged_archive(complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "bair_robot_pushing_dataset_v0.tar").write_bytes(b"no tar" * 1000)
    said = complaint(EXIT_FAILED, "data", "unpack", "bair", tmp_path)
    assert [line.partition(":")[0] for line in said.splitlines()[-3:]] == ["error", "at", "hint"], "one line each"


def test_trying_a_folder_of_videos_again(complaint: Complaint, corpus: Path) -> None:
    said = lines(complaint(EXIT_USAGE, "data", "rejects", "retry", corpus))
    assert said["error"] == "no artefact is here", "and no advice to delete it"


def test_an_interrupt_says_that_nothing_is_lost(
    complaint: Complaint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vtok.inspect_folder.describe", interrupt)
    assert "interrupted: what is finished is kept" in complaint(EXIT_INTERRUPTED, "data", "info", tmp_path)


@pytest.mark.parametrize("path", ["nowhere", "empty"])
@pytest.mark.parametrize("command", [("status",), ("data", "info"), ("report",), ("tokens", "info")])
def test_looking_at_nothing(complaint: Complaint, tmp_path: Path, command: tuple[str, ...], path: str) -> None:
    (tmp_path / "empty").mkdir()
    said = lines(complaint(EXIT_USAGE, *command, tmp_path / path))
    assert said["error"] and str(tmp_path / path) in said["at"]


@pytest.mark.parametrize("arguments", [("trian",), ("data", "ingets"), ("status",), ("status", "x", "--jsn")])
def test_unknown_words(complaint: Complaint, arguments: tuple[str, ...]) -> None:
    text = complaint(EXIT_USAGE, *arguments)
    assert "No such" in text or "Missing argument" in text
    if arguments[0] == "trian":
        assert "train" in text, "did you mean"


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_no_ffmpeg_anywhere(corpus: Path, tmp_path: Path) -> None:
    """An empty PATH and IMAGEIO_FFMPEG_EXE pointing nowhere: h264 shards need the program, ingest does not."""
    recipe = write_recipe(tmp_path / "r.yaml", corpus, tmp_path / "run", shards__encoding="h264")
    (tmp_path / "bin").mkdir()
    nothing = {"PATH": str(tmp_path / "bin"), "IMAGEIO_FFMPEG_EXE": str(tmp_path / "bin" / "ffmpeg")}
    code = (
        "import sys\nfrom pipelines.session import ray_session\nfrom schemas.config.run import ClusterConfig\n"
        "from vtok.cli import main\nwith ray_session(ClusterConfig()):\n"
        "    codes = [main(['data', stage, sys.argv[1]]) for stage in ('ingest', 'shard')]\nprint(codes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(recipe)],
        cwd=REPOSITORY,
        env={**os.environ, **nothing},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == [f"[3, {EXIT_FAILED}]"], done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    said = lines(done.stderr)
    assert "IMAGEIO_FFMPEG_EXE names no program" in said["error"]
    assert said["at"] == nothing["IMAGEIO_FFMPEG_EXE"] and said["hint"]
