"""What decodes and encodes belongs to the result: plans record its versions, and jobs compare them. Without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import pytest

from pipelines.ingest import ingest, ingest_job
from pipelines.shard import ShardWorker, shard, shard_job
from pipelines.tokenize_clips import tokenize, tokenize_job
from schemas.card import CARD_NAME, MADE_WITH
from schemas.config import Recipe
from schemas.errors import UsageError, VtokError
from tests.pipelines import here
from tests.pipelines.here import PoolHere
from tests.pipelines.making import digests, make_tokenizer, recipe
from vtok import artefacts
from vtok.parquet import read_metadata
from vtok.video.ffmpeg import ffmpeg_binary, ffmpeg_version
from vtok.video.revision import DECODING_REVISION


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Clips and H.264 shards; read-only."""
    settings = recipe(corpus, tmp_path_factory.mktemp("made-with"), shards__encoding="h264", tokens__source="clips")
    with pytest.MonkeyPatch.context() as patch:
        here.use(patch)
        ingest(settings)
        shard(settings)
    return settings


@pytest.fixture
def run(finished: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    here.use(monkeypatch)
    copy = finished.model_copy(update={"out": str(tmp_path / "run")})
    for stage in ("clips", "shards"):
        shutil.copytree(finished.folder(stage), copy.folder(stage))
    return copy


@pytest.fixture
def other_ffmpeg(tmp_path: Path) -> str:
    """The same program, that says it is another one."""
    program = tmp_path / "other-ffmpeg"
    said = "ffmpeg version 5.1.9-0+deb12u1 Copyright (c) 2000-2026 the FFmpeg developers"
    program.write_text(f'#!/bin/sh\n[ "$1" = -version ] && echo "{said}" && exit\nexec {ffmpeg_binary()} "$@"\n')
    program.chmod(0o755)
    return str(program)


def cut_short(run: Recipe, stage: str) -> dict[str, str]:
    """Takes the seal and the first part away, as a kill leaves a folder; what is left."""
    folder = run.folder(stage)
    (folder / CARD_NAME).unlink()
    (folder / artefacts.load_plan(folder).units[0]).unlink()
    return digests(folder)


def test_plans_and_cards_record_revision_and_versions(run: Recipe) -> None:
    pyav = f"{av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    common = {"decoding_revision": DECODING_REVISION, "pyav": pyav}
    assert artefacts.load(run.folder("clips")).config[MADE_WITH] == common
    decoded = {**common, "planning_revision": DECODING_REVISION}
    assert artefacts.load(run.folder("shards")).config[MADE_WITH] == {**decoded, "ffmpeg": ffmpeg_version()}
    raw = run.model_copy(update={"shards": run.shards.model_copy(update={"encoding": "raw"})})
    assert shard_job(raw).plan.config[MADE_WITH] == decoded, "without the program its version is nothing to record"
    other = run.model_copy(update={"shards": run.shards.model_copy(update={"encoding": "raw", "decoder": "ffmpeg"})})
    assert shard_job(other).plan.config[MADE_WITH] == {**decoded, "ffmpeg": ffmpeg_version()}


def test_another_ffmpeg_does_not_go_on_with_shards(
    run: Recipe, other_ffmpeg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, left = digests(run.folder("shards")), cut_short(run, "shards")
    version = ffmpeg_version()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", other_ffmpeg)
    with pytest.raises(UsageError, match="begun by other versions") as caught:
        shard(run)
    assert f'ffmpeg: "{version}" there, "5.1.9-0+deb12u1" now' in caught.value.what
    assert "IMAGEIO_FFMPEG_EXE" in caught.value.hint
    assert digests(run.folder("shards")) == left and PoolHere.made == []
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    shard(run)
    assert digests(run.folder("shards")) == whole


def test_finished_shards_of_another_ffmpeg_stay_and_it_is_said(
    run: Recipe, other_ffmpeg: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = digests(run.folder("shards"))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", other_ffmpeg)
    shard(run)
    assert digests(run.folder("shards")) == whole and PoolHere.made == []
    said = capsys.readouterr().err
    assert "made by other versions" in said and "5.1.9-0+deb12u1" in said


@pytest.mark.parametrize("stage", ["clips", "shards"])
def test_another_pyav_does_not_go_on(run: Recipe, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left = cut_short(run, stage)
    monkeypatch.setattr(av, "__version__", "14.0.0")
    with pytest.raises(UsageError, match=r'pyav: .*18.* there, "14\.0\.0, libavcodec'):
        (ingest if stage == "clips" else shard)(run)
    assert digests(run.folder(stage)) == left


def test_tokens_of_videos_record_and_compare_it_too(
    run: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tokenizer(run)
    tokenize(run)
    folder = run.folder("tokens")
    programs = artefacts.load(folder).config[MADE_WITH]
    assert programs["decoding_revision"] == DECODING_REVISION
    unit = artefacts.load_plan(folder).units[0]
    assert read_metadata(folder / unit)["made_by"][MADE_WITH] == programs
    whole = digests(folder)
    monkeypatch.setattr(av, "__version__", "14.0.0")
    tokenize(run)
    assert digests(folder) == whole and "made by other versions" in capsys.readouterr().err
    left = cut_short(run, "tokens")
    with pytest.raises(UsageError, match="begun by other versions"):
        tokenize(run)
    assert digests(folder) == left


def test_tokens_of_shards_carry_what_made_the_shards(run: Recipe) -> None:
    make_tokenizer(run)
    settings = run.model_copy(update={"tokens": run.tokens.model_copy(update={"source": "shards"})})
    made = artefacts.load(run.folder("shards")).config[MADE_WITH]
    assert tokenize_job(settings).plan.config[MADE_WITH] == made


def test_a_worker_with_other_versions_than_planned_does_nothing(run: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = ingest_job(run), shard_job(run)
    monkeypatch.setattr(av, "__version__", "14.0.0")
    for job in jobs:
        with pytest.raises(VtokError, match=r"pyav 14\.0\.0.* here, .* planned") as caught:
            job.worker(*job.init)
        assert caught.value.hint
    monkeypatch.undo()
    assert isinstance(jobs[1].worker(*jobs[1].init), ShardWorker)


def test_shards_of_before_revisions_are_not_gone_on_with(run: Recipe) -> None:
    folder = run.folder("shards")
    plan = artefacts.load_plan(folder)
    old = {key: value for key, value in plan.config.items() if key != MADE_WITH}
    artefacts.write_plan(folder, plan.model_copy(update={"config": old}))
    (folder / CARD_NAME).unlink()
    left = digests(folder)
    with pytest.raises(UsageError, match="decoding_revision: nothing there, 2 now"):
        shard(run)
    assert digests(folder) == left
