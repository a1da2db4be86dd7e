"""What changed is encoded again, and only that; the store is then the one that a new run makes. Without Ray."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.dry_run import preview
from pipelines.ingest import ingest
from pipelines.pool import Made, Unit
from pipelines.shard import shard
from pipelines.tokenize_clips import tokenize, tokenize_job
from pipelines.tokenize_worker import TokenizeWorker
from schemas.config import Recipe
from schemas.errors import IntegrityError, UsageError
from tests import tiny_run
from tests.pipelines import here
from tests.pipelines.here import PoolHere
from tests.pipelines.making import digests, flip, make_tokenizer, recipe
from tests.pipelines.test_tokenize_views import changed
from vtok import artefacts
from vtok.tokens.exchange.exporting import export_store
from vtok.tokens.exchange.importing import Origin as ImportOrigin
from vtok.tokens.exchange.importing import import_store
from vtok.tokens.store import TokenStore

Copy = Callable[[str], Recipe]
STAGES = ("clips", "shards", "tokenizer")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    here.use(monkeypatch)
    settings = tiny_run.make_run(tmp_path / "run", ("clips", "shards"))
    make_tokenizer(settings)
    tokenize(settings)
    PoolHere.made.clear()
    return settings


def anew(run: Recipe, folder: Path) -> dict[str, str]:
    """What a new store of the same inputs holds."""
    fresh = run.model_copy(update={"out": str(folder)})
    for stage in STAGES:
        shutil.copytree(run.folder(stage), fresh.folder(stage))
    tokenize(fresh)
    PoolHere.made.clear()
    return digests(fresh.folder("tokens"))


def other_shards(run: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the shards: one clip of `train` gets other pixels, `test` the same ones under another plan."""
    calls = []
    draw = tiny_run._video

    def video(label: int, random: np.random.Generator) -> np.ndarray:
        calls.append(label)
        return 255 - draw(label, random) if len(calls) == 9 else draw(label, random)  # `test`, with 6 clips, is first

    shutil.rmtree(run.folder("shards"))
    monkeypatch.setattr(tiny_run, "_video", video)
    seed = run.model_copy(update={"shards": run.shards.model_copy(update={"jpeg_quality": 94})})
    tiny_run._MAKERS["shards"](seed)


def test_only_parts_with_other_clips_are_made_again(
    run: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = digests(run.folder("tokens"))
    other_shards(run, monkeypatch)
    expected = anew(run, tmp_path / "new")
    assert "1 of 2 parts, of an earlier version" in "\n".join(preview(tokenize_job(run), run.cluster))
    assert digests(run.folder("tokens")) == before, "a preview writes nothing"
    tokenize(run)
    assert PoolHere.made == ["train-00000.parquet"]
    assert PoolHere.verified == ["train-00000.tar"], "before the old seal goes, and no other shard"
    assert digests(run.folder("tokens")) == expected
    assert expected["test-00000.parquet"] == before["test-00000.parquet"]
    assert expected["train-00000.parquet"] != before["train-00000.parquet"]
    assert "1 of 2 parts fit and stay" in capfd.readouterr().err
    tokenize(run)
    assert PoolHere.made == ["train-00000.parquet"], "a third run has nothing to do"


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_update_that_is_cut_short_goes_on(
    run: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Ended when the seal and the first `after` of the outdated parts are gone, and before the new plan is there."""
    other_shards(run, monkeypatch)
    settings = changed(run, views=[{"name": "whole", "flip": True}])  # no part stays
    expected = anew(settings, tmp_path / "new")
    with monkeypatch.context() as patch:
        unlinked = []
        unlink = Path.unlink

        def stops(self: Path, missing_ok: bool = False) -> None:
            if self.name.endswith("00000.parquet"):
                if len(unlinked) == after:
                    raise KeyboardInterrupt
                unlinked.append(self)
            unlink(self, missing_ok)

        def writes_nothing(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(Path, "unlink", stops)
        patch.setattr(artefacts, "write_json", writes_nothing)
        with pytest.raises(KeyboardInterrupt):
            tokenize(settings)
    with pytest.raises(UsageError, match="not finished"):
        TokenStore(settings.folder("tokens"))
    tokenize(settings)
    assert digests(settings.folder("tokens")) == expected


def test_a_new_view_leaves_the_others_alone(run: Recipe, tmp_path: Path) -> None:
    settings = changed(run, views=[{"name": "whole"}, {"name": "small", "resolution": 8}])
    expected = anew(settings, tmp_path / "new")
    assert (tokenize_job(settings).item, tokenize_job(run).item) == ("rows", "clips"), "two rows a clip"
    tokenize(settings)
    assert PoolHere.made == ["test-00000.small.parquet", "train-00000.small.parquet"]
    assert PoolHere.verified == [], "nothing gives way to them"
    assert digests(settings.folder("tokens")) == expected
    PoolHere.made.clear()
    tokenize(run)
    assert PoolHere.made == [] and "small" not in "".join(digests(run.folder("tokens")))


def test_a_damaged_part_does_not_stay(run: Recipe, tmp_path: Path) -> None:
    settings = changed(run, views=[{"name": "whole"}, {"name": "small", "resolution": 8}])
    expected = anew(settings, tmp_path / "new")
    flip(run.folder("tokens") / "test-00000.parquet", 0.3)
    tokenize(settings)
    assert "test-00000.parquet" in PoolHere.made and "train-00000.parquet" not in PoolHere.made
    assert digests(settings.folder("tokens")) == expected


def test_damage_to_a_shard_costs_no_tokens(run: Recipe) -> None:
    before = digests(run.folder("tokens"))
    path = run.folder("shards") / "train-00000.tar"
    data = path.read_bytes()
    at = data.rindex(b'"samples_sha256":"') + 20
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(IntegrityError, match="sha256 differs from the index"):
        tokenize(run)
    assert digests(run.folder("tokens")) == before


def test_another_tokenizer_is_refused(run: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(run.folder("tokens"))
    shutil.rmtree(run.folder("tokenizer"))
    tree = run.plain()
    tree["tokenizer"]["model"]["n_codes"] = 32
    other = Recipe.model_validate(tree)
    make_tokenizer(other)
    with pytest.raises(UsageError, match="made from something else") as caught:
        tokenize(other)
    assert "codebook_size: 16 there, 32 now" in caught.value.what
    assert digests(run.folder("tokens")) == before


def refused(settings: Recipe, folder: Path) -> UsageError:
    """The refusal of a run and of its preview; every file of the folder is what it was."""
    before = digests(folder)
    for attempt in (lambda: preview(tokenize_job(settings), settings.cluster), lambda: tokenize(settings)):
        with pytest.raises(UsageError) as caught:
            attempt()
        assert digests(folder) == before
    assert before, "an empty folder proves nothing"
    return caught.value


OTHER_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"row_group_rows": 128}, "row_group_rows: 256 there, 128 now"),
    ({"mode": "fast"}, 'mode: "exact" there, "fast" now'),
    ({"chunk_frames": 2}, "chunk_frames: null there, 2 now"),
    ({"cond_frames": 1}, "cond_frames: 0 there, 1 now"),
    ({"mode": "fast", "views": [{"name": "whole"}, {"name": "half", "num_frames": 2}]}, 'mode: "exact" there'),
]


def test_other_settings_cost_no_part(run: Recipe) -> None:
    folder = run.folder("tokens")
    for remaining in ([], ["test-00000.parquet"]):  # a complete store, and one that was cut short
        for tokens, difference in OTHER_SETTINGS:
            error = refused(changed(run, **tokens), folder)
            assert difference in error.what and "contents" not in error.what
            assert "choose another `out`, or delete this folder" in error.hint
        tokenize(run)
        assert PoolHere.made == remaining, "the store goes on with its own settings"
        for name in ("_vtok.json", "_index.table", "test-00000.parquet"):
            (folder / name).unlink()


def test_a_plan_without_parts_gives_way(run: Recipe, tmp_path: Path) -> None:
    for path in run.folder("tokens").glob("*"):
        if path.name != "_plan.json":
            path.unlink()
    settings = changed(run, cond_frames=1)
    tokenize(settings)
    assert digests(run.folder("tokens")) == anew(settings, tmp_path / "new")


def on_a_gpu(run: Recipe, monkeypatch: pytest.MonkeyPatch, *, of: int = 2) -> None:
    """Makes the store again as a machine with a GPU plans it (the CPU computes), `of` parts of it."""
    folder = run.folder("tokens")
    shutil.rmtree(folder)
    make = PoolHere.run

    def some(self: PoolHere, units: list[Unit]) -> Iterator[Made]:
        yield from make(self, units[:of])
        if of < 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(TokenizeWorker, "__init__", worker_on_cpu)
        patch.setattr(PoolHere, "run", some)
        with contextlib.nullcontext() if of == 2 else pytest.raises(KeyboardInterrupt):
            tokenize(run)
    assert artefacts.load_plan(folder).config["device"] == "cuda"
    PoolHere.made.clear()


def worker_on_cpu(self: TokenizeWorker, *init: Any) -> None:
    folder, tokenizer, config, _, source = init
    made_on_cpu(self, folder, tokenizer, config, "cpu", source)


made_on_cpu = TokenizeWorker.__init__


def test_a_machine_without_a_gpu_leaves_a_gpus_store_alone(run: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_a_gpu(run, monkeypatch, of=1)
    folder = run.folder("tokens")
    assert len(list(folder.glob("*-00000.parquet"))) == 1
    error = refused(run, folder)
    assert "made on a GPU, and this machine has none" in error.what and "where a GPU is" in error.hint
    assert 'device: "cuda" there, "cpu" now' in refused(changed(run, device="cpu"), folder).what
    on_a_gpu(run, monkeypatch)
    before = digests(folder)
    tokenize(run)
    assert PoolHere.made == [] and digests(folder) == before, "a complete one is complete anywhere"
    wider = changed(run, views=[{"name": "whole"}, {"name": "half", "num_frames": 2}])
    assert "made on a GPU" in refused(wider, folder).what


def test_auto_goes_on_where_the_store_was_begun(run: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(run.folder("tokens"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    tokenize(run)
    assert PoolHere.made == [] and digests(run.folder("tokens")) == before
    assert 'device: "cpu" there, "cuda" now' in refused(changed(run, device="cuda"), run.folder("tokens")).what
    assert "batch_size" in refused(changed(run, device="cuda"), run.folder("tokens")).what


def test_an_import_is_no_store_to_take_over(run: Recipe) -> None:
    folder = run.folder("tokens")
    exported, tokenizer = folder.parent / "exported", TokenStore(folder).tokenizer
    export_store(TokenStore(folder), exported, "hf")
    shutil.rmtree(folder)
    import_store(exported, folder, "hf", ImportOrigin())
    assert TokenStore(folder).tokenizer == tokenizer
    assert 'imported: "hf" there, nothing now' in refused(run, folder).what


@pytest.fixture
def videos(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A run with clips, shards (encoding raw) and a tokenizer, of a corpus of its own."""
    here.use(monkeypatch)
    shutil.copytree(corpus, tmp_path / "videos")
    settings = recipe(tmp_path / "videos", tmp_path / "run")
    ingest(settings)
    shard(settings)
    make_tokenizer(settings)
    return settings


def test_videos_give_the_codes_of_their_raw_shards(
    videos: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokenize(videos)
    direct = changed(videos, source="clips", cond_frames=1).model_copy(update={"out": str(tmp_path / "direct")})
    for stage in ("clips", "tokenizer"):
        shutil.copytree(videos.folder(stage), direct.folder(stage))
    tokenize(direct)
    assert not direct.folder("shards").exists()
    stores = [TokenStore(settings.folder("tokens")) for settings in (videos, direct)]
    assert [part["path"] for part in stores[0].parts] == [part["path"] for part in stores[1].parts]
    for split in ("train", "test"):
        for ours, theirs in zip(stores[0].rows(split), stores[1].rows(split), strict=True):
            assert ours.pop("codes").tobytes() == theirs.pop("codes").tobytes()
            assert ours.pop("shard").startswith(f"{ours['split']}-") and theirs.pop("shard") == ""
            assert theirs.pop("cond_frames") and ours.pop("cond_frames") is None
            assert theirs.pop("decoder").startswith("pyav ") and ours.pop("decoder") == "pyav"
            assert ours == theirs
    rejects = [
        artefacts.load_rejects(settings.folder(kind)) for settings, kind in ((videos, "shards"), (direct, "tokens"))
    ]
    assert rejects[0].drop_columns("stage") == rejects[1].drop_columns("stage") and rejects[0].num_rows == 2
    assert stores[1].card.counts["rejects"] == 2 and stores[1].card.counts["clips"] == 25

    larger = {**direct.shards.plain(), "clips_per_shard": 9}
    error = refused(Recipe.model_validate({**direct.plain(), "shards": larger}), direct.folder("tokens"))
    assert "the same clips in other parts" in error.what and "section `shards`" in error.hint

    source = Path(videos.data.root) / "Ball/1.avi"  # as long as before, other frames: only its hash tells
    data = bytearray(source.read_bytes())
    start = data.index(b"movi")
    data[start + 200 : start + 260] = bytes(60)
    source.write_bytes(data)
    before = digests(direct.folder("tokens"))
    capfd.readouterr()
    tokenize(direct)  # of equal size: nobody looks into the videos of a finished store, and that is said
    assert digests(direct.folder("tokens")) == before
    assert "--reencode 1% --videos" in " ".join(capfd.readouterr().err.split())
    wider = changed(direct, views=[{"name": "whole"}, {"name": "mirrored", "flip": True}])
    PoolHere.made.clear()
    tokenize(wider)
    again = {name for name in PoolHere.made if "mirrored" not in name}
    holding = {
        path.name
        for path in (direct.folder("tokens")).glob("*-?????.parquet")
        if "Ball/1.avi" in artefacts.read_table(path, columns=["source"])["source"].to_pylist()
    }
    with_rejects = {row["path"] for row in stores[1].parts if row["rejects"]}
    assert again == holding | with_rejects and len(again) < len(stores[1].parts)
