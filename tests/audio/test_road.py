"""The whole road of a sound: video, shards, tokenizer of sound, token store, loader, prior, sample; without Ray."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipelines.generate import GenerateWorker
from pipelines.ingest import ingest
from pipelines.runtime import Job
from pipelines.shard import shard
from pipelines.tokenize_clips import tokenize, tokenize_job
from schemas.card import with_checksum
from schemas.config import Recipe
from schemas.config.audio import SpectrumConfig
from schemas.errors import UsageError
from tests.audio.making import FRAMES, RATE, SILENT, VIDEOS, drum_and_tone, film_recipe, sound_recipe, write_videos
from tests.pipelines import here
from tests.pipelines.making import CLIPS_PER_VIDEO, digests, make_tokenizer
from tests.video.making import write_video
from trainers.prior import train_prior
from trainers.tokenizer import train_tokenizer
from vtok import artefacts
from vtok.audio.clips import sound_picture
from vtok.audio.tokenizer import load_audio_tokenizer
from vtok.cli import app
from vtok.evaluation.reconstruction import psnr
from vtok.shards.reader import Clip, ShardReader
from vtok.tokens.check import check_store
from vtok.tokens.loader import TokenLoader
from vtok.tokens.origin import Origin
from vtok.tokens.reencode import reencode, store_audio_tokenizer, store_tokenizer
from vtok.tokens.store import TokenStore
from vtok.video.media.audio import wav_sound

pytestmark = pytest.mark.timeout(1800)
STEPS = 8


class Road(NamedTuple):
    """Recipes of a finished run with `tokens/` (clips without sound rejected), and of its tokenizer of sound."""

    films: Recipe
    sounds: Recipe


def travel(films: Recipe, sounds: Recipe) -> None:
    """Every stage from the videos to the token store."""
    ingest(films)
    shard(films)
    train_tokenizer(sounds)
    make_tokenizer(films)
    tokenize(films)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    folder = tmp_path_factory.mktemp("road")
    root = write_videos(folder / "videos")
    films = film_recipe(root, folder / "run")
    sounds = sound_recipe(root, folder / "run", steps=STEPS)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        here.use(patch)
        travel(films, sounds)
        yield Road(films, sounds)
    torch.set_num_threads(threads)


def clips_of(recipe: Recipe) -> dict[str, Clip]:
    """All clips of the shards."""
    readers = [ShardReader(recipe.folder("shards"), split, shuffle=False) for split in ("train", "test")]
    return {clip.clip_id: clip for reader in readers if len(reader) for clip in reader.clips(0)}


def run_backwards(job: Job) -> None:
    """A job by two workers in this process, which take turns; the units backwards."""
    artefacts.begin(job.folder, job.plan)
    workers = itertools.cycle([job.worker(*job.init), job.worker(*job.init)])
    made = {unit.name: next(workers).make(unit.name, unit.payload) for unit in job.units[::-1]}
    parts = [made[unit.name] for unit in job.units]
    counts, facts = job.finish(parts)
    artefacts.seal(job.folder, job.plan, parts, counts=counts, facts=facts)


def copy(road: Road, run: Path, *stages: str, **changes: object) -> Recipe:
    """Stages of the finished run in a run of their own, which uses the same tokenizer of sound."""
    recipe = film_recipe(Path(road.films.data.root), run, **{"tokens__audio": audio_of(road), **changes})
    for stage in stages:
        shutil.copytree(road.films.folder(stage), recipe.folder(stage))
    return recipe


def audio_of(road: Road, **changes: object) -> dict[str, object]:
    assert road.films.tokens.audio is not None
    return {**road.films.tokens.audio.plain(), **changes}


def test_the_tokenizer_says_what_it_hears(road: Road) -> None:
    audio = load_audio_tokenizer(road.sounds.out)
    card = artefacts.load(road.sounds.folder("tokenizer"), "tokenizer")
    assert card.facts["spectrum"] == audio.facts.spectrum.plain() and card.facts["audio_rate"] == RATE
    assert card.facts["grid"] == [2, 4, 2]
    shown = road.sounds.folder("tokenizer") / "previews" / f"step-{STEPS:08d}.gif"
    assert shown.stat().st_size > 100


def test_rows_hold_the_codes_of_their_own_span(road: Road) -> None:
    store, audio, clips = (
        TokenStore(road.films.folder("tokens")),
        load_audio_tokenizer(road.sounds.out),
        clips_of(road.films),
    )
    rows = [row for split in ("train", "test") for row in store.rows(split)]
    assert len(rows) == VIDEOS * CLIPS_PER_VIDEO
    different = set()
    for row in rows:
        clip = clips[row["clip_id"]]
        samples, rate = wav_sound(clip.extras["audio.wav"])
        assert (rate, len(samples)) == (RATE, round((row["end_time"] - row["start_time"]) * RATE))
        found = sound_picture(clip.extras, audio.facts.spectrum, 4)
        assert found is not None
        codes = audio.network.encode(torch.from_numpy(found)[None])
        assert np.array_equal(row["audio_codes"], codes.reshape(-1).numpy())
        different.add(row["audio_codes"].tobytes())
    assert len(different) > VIDEOS, "one answer to every sound proves nothing"


def test_card_and_footers_say_what_made_them(road: Road) -> None:
    store, facts = TokenStore(road.films.folder("tokens")), load_audio_tokenizer(road.sounds.out).facts
    said = store.card.facts["audio"]
    assert said == {**facts.plain(), "grid": [2, 4, 2]}
    assert store.card.facts["audio_codebook_size"] == facts.codebook_size == 32
    rejects = artefacts.load_rejects(store.folder).to_pylist()
    assert [row["reason"] for row in rejects] == ["no_sound"] * CLIPS_PER_VIDEO
    assert {row["source"] for row in rejects} == {SILENT}
    assert store.card.counts["silent"] == 0
    assert not check_store(store.folder).damages


def test_silent_clips_are_null_and_counted_in_the_same_bytes_by_any_worker(road: Road, tmp_path: Path) -> None:
    views = [{"name": "whole"}, {"name": "half", "num_frames": 2, "resolution": 8, "flip": True}]
    changes = {"tokens__audio": audio_of(road, silent="null"), "tokens__views": views}
    one = copy(road, tmp_path / "one", "shards", "tokenizer", **changes)
    two = copy(road, tmp_path / "two", "shards", "tokenizer", **changes)
    tokenize(one)
    run_backwards(tokenize_job(two))
    assert digests(one.folder("tokens")) == digests(two.folder("tokens"))
    store = TokenStore(one.folder("tokens"))
    rows = [row for split in ("train", "test") for row in store.rows(split)]
    silent = [row for row in rows if row["audio_codes"] is None]
    assert len(rows) == 2 * (VIDEOS + 1) * CLIPS_PER_VIDEO
    assert len(silent) == store.card.counts["silent"] == 2 * CLIPS_PER_VIDEO
    assert {row["source"] for row in silent} == {SILENT}
    assert {(row["view_id"], len(row["audio_codes"])) for row in rows if row["audio_codes"] is not None} == {
        ("whole", 16),
        ("half", 8),
    }
    assert store.card.facts["audio"]["grid"] is None
    wanted = {row["clip_id"]: row for row in TokenStore(road.films.folder("tokens")).rows("train")}
    for row in rows:
        if row["view_id"] == "whole" and row["clip_id"] in wanted:
            assert np.array_equal(row["audio_codes"], wanted[row["clip_id"]]["audio_codes"])


def test_without_the_option_nothing_changes(road: Road, tmp_path: Path) -> None:
    recipe = copy(road, tmp_path / "run", "shards", "tokenizer", tokens__audio=None)
    job = tokenize_job(recipe)
    assert "audio" not in job.plan.config and "audio_grid" not in job.plan.config["views"][0]


def test_a_prior_learns_from_sounds_and_samples_follow_a_row(road: Road, tmp_path: Path) -> None:
    recipe = copy(road, tmp_path / "run", "tokenizer", "tokens")
    store = TokenStore(recipe.folder("tokens"))
    batch = next(iter(TokenLoader(store, "train", 4, seed=0, audio=True).batches(0)))
    assert batch.audio_codes_bn is not None and batch.audio_codes_bn.shape == (4, 16)
    rows = {row["clip_id"]: row["audio_codes"] for row in store.rows("train")}
    for clip_id, codes in zip(batch.clip_ids, batch.audio_codes_bn, strict=True):
        assert np.array_equal(rows[clip_id], codes)
    card = train_prior(recipe)
    assert card.facts["audio_tokenizer"] == store.card.facts["audio"]["fingerprint"]
    losses = [json.loads(line) for line in (recipe.folder("prior") / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in losses if "loss" in row)
    folders = [str(recipe.folder(stage)) for stage in ("samples", "prior", "tokenizer")]
    init = (folders[0], "0" * 64, *folders[1:], {**recipe.sample.plain(), "given": "train"}, 0, [])
    recipe.folder("samples").mkdir()
    worker = GenerateWorker(*init, str(store.folder))
    given = worker.clips
    assert given is not None
    assert all(np.array_equal(rows[row["clip_id"]], row["audio_codes"]) for row in given.rows([0, 1]))
    part = worker.make("part-00000.parquet", [0, 1])
    assert part.rows == 2
    path = store.folder / "_vtok.json"
    other = json.loads(path.read_text())
    other["facts"]["audio"]["fingerprint"] = "f" * 64
    path.write_text(json.dumps(with_checksum(other)))
    with pytest.raises(UsageError, match="another tokenizer than the prior's"):
        GenerateWorker(*init, str(store.folder))


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (
            {"fingerprint": "f" * 64},
            "encoded by tokenizer f{64}, the run has [0-9a-f]{64}",
            "tokenize the shards again",
        ),
        ({"grid": [2, 4, 4]}, "a sound has 32 codes .2 x 4 x 4., the prior takes 16", "condition_length=32"),
        ({"size": 64}, "have 64 codes, the prior knows 32", "condition_vocabulary=64"),
        ({"silent": 3}, "3 of 24 rows have no codes of sound", "silent=reject"),
    ],
)
def test_codes_that_do_not_fit_are_refused(
    road: Road, tmp_path: Path, change: dict[str, object], message: str, hint: str
) -> None:
    recipe = copy(road, tmp_path / "run", "tokenizer", "tokens")
    path = recipe.folder("tokens") / "_vtok.json"
    card = json.loads(path.read_text())
    if "size" in change:
        card["facts"]["audio_codebook_size"] = change["size"]
    elif "silent" in change:
        card["counts"] |= {**change, "clips": 24}
    else:
        card["facts"]["audio"] |= change
    path.write_text(json.dumps(with_checksum(card)))
    with pytest.raises(UsageError, match=message) as caught:
        train_prior(recipe)
    assert hint in caught.value.hint
    assert not recipe.folder("prior").exists()


def test_the_job_refuses_what_does_not_fit(road: Road, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pictures = audio_of(road, tokenizer=str(road.films.folder("tokenizer")))
    recipe = copy(road, run, "shards", "tokenizer", tokens__audio=pictures)
    with pytest.raises(UsageError, match="3 channels, no sound"):
        tokenize_job(recipe)
    card = run / "shards" / "_vtok.json"
    tree = json.loads(card.read_text())
    for rate, message in ((2 * RATE, "8000 samples a second, the tokenizer of sound knows 4000"), (None, "no sound")):
        tree["config"]["shards"]["audio_rate"] = rate
        card.write_text(json.dumps(with_checksum(tree)))
        with pytest.raises(UsageError, match=message):
            tokenize_job(film_recipe(Path(recipe.data.root), run, tokens__audio=audio_of(road)))
    shutil.rmtree(run / "tokenizer")
    shutil.copytree(road.sounds.folder("tokenizer"), run / "tokenizer")
    with pytest.raises(UsageError, match="1 channels, frames have 3") as caught:
        tokenize_job(copy(road, tmp_path / "other", "shards", tokens__audio=audio_of(road), models=str(run)))
    assert "tokens.audio.tokenizer" in caught.value.hint


def test_other_sounds_do_not_replace_a_store(road: Road, tmp_path: Path) -> None:
    recipe = copy(road, tmp_path / "run", "shards", "tokenizer", "tokens")
    other = tmp_path / "other-sound"
    shutil.copytree(Path(road.sounds.out), other)
    card = other / "tokenizer" / "_vtok.json"
    tree = json.loads(card.read_text())
    tree["facts"]["spectrum"]["decibels"] = 40.0
    card.write_text(json.dumps(with_checksum(tree)))
    changed = audio_of(road, tokenizer=str(other))
    before = digests(recipe.folder("tokens"))
    with pytest.raises(UsageError):
        tokenize(film_recipe(Path(recipe.data.root), tmp_path / "run", tokens__audio=changed))
    assert digests(recipe.folder("tokens")) == before


def test_spans_of_the_videos_are_those_of_the_sounds(road: Road) -> None:
    """Clips of a video are cut one after the other: their sounds together are the video's."""
    clips = [clip for clip in clips_of(road.films).values() if clip.meta["source"].endswith("/2.avi")]
    clips.sort(key=lambda clip: clip.meta["start_time"])
    heard = np.concatenate([wav_sound(clip.extras["audio.wav"])[0] for clip in clips])
    wanted = drum_and_tone(2)
    assert len(heard) == len(wanted) == FRAMES * RATE // 8
    assert np.abs(heard.astype(int) - wanted).max() <= 2


def test_codes_of_sound_come_out_again(road: Road, tmp_path: Path) -> None:
    """From the shards, and from the videos; another tokenizer's do not."""
    store, root = TokenStore(road.films.folder("tokens")), Path(road.films.data.root)
    audio = store_audio_tokenizer(store, road.sounds.out)
    frames, rows = store_tokenizer(store), VIDEOS * CLIPS_PER_VIDEO
    moved = copy(road, tmp_path / "run", "shards", "tokens")
    for tar in moved.folder("shards").glob("*.tar"):
        tar.unlink()
    for one, origin in ((store, Origin(store)), (TokenStore(moved.folder("tokens")), None)):
        found = reencode(one, origin or Origin(one, videos=root), frames, 1.0, audio=audio)
        assert (found.equal, found.rows, found.mismatches, found.skipped, found.notes) == (rows, rows, [], {}, [])
        assert (found.audio_codes, found.changed_audio_codes) == (16 * rows, 0)
    deaf = deepcopy(audio.network)
    with torch.no_grad():
        deaf.codebook.embeddings.copy_(deaf.codebook.embeddings.flip(0))
    other = reencode(store, Origin(store), frames, 1.0, audio=audio._replace(network=deaf))
    assert other.equal < rows and other.changed_codes == 0 < other.changed_audio_codes
    assert {each.changed_codes for each in other.mismatches} == {0}
    unheard = reencode(store, Origin(store), frames, 1.0)
    assert unheard.equal == rows and unheard.audio_codes == 0 and "--audio-tokenizer" in unheard.notes[0]
    with pytest.raises(UsageError, match="3 channels, no sound"):
        store_audio_tokenizer(store, str(road.films.folder("tokenizer")))


def test_a_store_with_sounds_is_checked_and_shown(road: Road, tmp_path: Path) -> None:
    tokens, sheet = str(road.films.folder("tokens")), tmp_path / "preview.png"
    runner = CliRunner()
    done = runner.invoke(app, ["tokens", "check", tokens, "--reencode", "100%", "--audio-tokenizer", road.sounds.out])
    assert done.exit_code == 0 and f"0 of {16 * VIDEOS * CLIPS_PER_VIDEO} of sound" in done.output.replace(",", "")
    done = runner.invoke(app, ["tokens", "preview", tokens, "--num", "2", "--out", str(sheet)])
    assert done.exit_code == 0 and sheet.stat().st_size > 1000, done.output


def test_spectra_beside_the_videos_give_the_same_codes_without_shards(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, name in enumerate(("train/a", "train/b", "test/c")):
        for path in (root / f"video/{name}.mp4", root / f"stft/{name}.pickle"):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_video(root / f"video/{name}.mp4", 16, size=(48, 48))
        spectra = np.random.default_rng(number).random((16, 20, 9))
        (root / f"stft/{name}.pickle").write_bytes(pickle.dumps(spectra))
    changes = {"data__layout": "tats_stft", "shards__audio_rate": None}
    films = film_recipe(root, tmp_path / "run", **changes)
    sounds = sound_recipe(root, tmp_path / "run", steps=2)
    stft = SpectrumConfig(source="stft", height=16, width=8)
    sounds = sounds.model_copy(update={"tokenizer": sounds.tokenizer.model_copy(update={"spectrum": stft})})
    with pytest.MonkeyPatch.context() as patch:
        here.use(patch)
        travel(films, sounds)
        same = {"models": films.out, "tokens__audio": audio_of(Road(films, sounds)), "tokens__source": "clips"}
        direct = film_recipe(root, tmp_path / "direct", **changes, **same)
        ingest(direct)
        tokenize(direct)
    stores = [TokenStore(each.folder("tokens")) for each in (films, direct)]
    by_clip = [{row["clip_id"]: row["audio_codes"] for row in store.rows("train")} for store in stores]
    assert by_clip[0].keys() == by_clip[1].keys() and len(by_clip[0]) > 2
    assert all(np.array_equal(codes, by_clip[1][clip]) for clip, codes in by_clip[0].items())
    assert len({codes.tobytes() for codes in by_clip[0].values()}) > 1


@pytest.mark.soak
def test_a_trained_tokenizer_of_sound_beats_the_mean_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here.use(monkeypatch)
    root = write_videos(tmp_path / "videos", 16)
    films, recipe = film_recipe(root, tmp_path / "run"), sound_recipe(root, tmp_path / "run", steps=120)
    ingest(films)
    shard(films)
    train_tokenizer(recipe)
    audio = load_audio_tokenizer(recipe.out)
    pictures: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for clip in clips_of(films).values():
        found = sound_picture(clip.extras, audio.facts.spectrum, len(clip.video_thwc))
        if found is not None:
            pictures[clip.meta["split"]].append(found)
    train, test = (torch.from_numpy(np.stack(each)) for each in pictures.values())
    with torch.no_grad():
        recon = audio.network.decode(audio.network.encode(test))
    mean = train.mean(dim=(0, 2), keepdim=True).expand_as(test)
    reached, baseline = (float(psnr(each / 2, test / 2).mean()) for each in (recon, mean))
    print(f"PSNR of held-out sounds: {reached:.2f} dB, of the mean picture: {baseline:.2f} dB")
    assert reached > baseline + 1, f"{reached:.2f} dB, the mean picture has {baseline:.2f} dB"
