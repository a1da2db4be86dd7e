"""Jobs whose videos and artefacts lie in an object store: the bytes of a local run, whatever fails on the way."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from pipelines.generate import generate
from pipelines.ingest import ingest
from pipelines.shard import shard
from pipelines.tokenize_clips import tokenize
from schemas.config import Recipe
from schemas.errors import UsageError, VtokError
from schemas.paths import as_path
from tests.pipelines.making import digests, vtok, write_recipe
from tests.s3_server import BUCKET, Server, is_put
from trainers.prior import train_prior
from trainers.tokenizer import train_tokenizer
from vtok.files import write_bytes
from vtok.inspect_folder import describe_run
from vtok.shards.reader import ShardReader
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.store import TokenStore

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def remote(made: Recipe, s3: Server) -> Recipe:
    """`made` again, with videos and run in the bucket; the tokenizer is the one of `made`. Read-only."""
    root = Path(made.data.root)
    for path in root.rglob("*"):
        if path.is_file():
            write_bytes(as_path(f"s3://{BUCKET}/videos") / path.relative_to(root).as_posix(), path.read_bytes())
    settings = in_bucket(made, "run").model_copy(
        update={"data": made.data.model_copy(update={"root": f"s3://{BUCKET}/videos"})}
    )
    ingest(settings)
    shard(settings)
    tokenize(settings)
    return settings


def in_bucket(made: Recipe, name: str) -> Recipe:
    """The recipe of `made` with the run in the bucket."""
    cluster = made.cluster.model_copy(update={"workers": 1})
    return made.model_copy(update={"out": f"s3://{BUCKET}/{name}", "models": made.out, "cluster": cluster})


def copy_in_bucket(remote: Recipe, s3: Server, name: str, *stages: str) -> Recipe:
    """A run of its own in the bucket with some stages of `remote`."""
    settings = remote.model_copy(update={"out": f"s3://{BUCKET}/{name}"})
    for stage in stages:
        for file, data in s3.objects(f"run/{stage}").items():
            write_bytes(settings.folder(stage) / file, data)
    return settings


@pytest.mark.parametrize("stage", ["clips", "shards", "tokens"])
def test_a_run_in_the_bucket_has_the_bytes_of_a_local_one(made: Recipe, remote: Recipe, s3: Server, stage: str) -> None:
    assert s3.digests(remote.folder(stage)) == digests(made.folder(stage))


def test_readers_find_the_same_in_the_bucket(made: Recipe, remote: Recipe) -> None:
    here, there = (ShardReader(run.folder("shards"), "train", seed=1) for run in (made, remote))
    clips = list(zip(here.clips(0), there.clips(0), strict=True))
    assert len(clips) == len(here)
    assert all(a.clip_id == b.clip_id and np.array_equal(a.video_thwc, b.video_thwc) for a, b in clips)
    tokens = [TokenStore(run.folder("tokens")) for run in (made, remote)]
    assert np.array_equal(*(store.codes("train") for store in tokens))
    assert tokens[0].summary() == tokens[1].summary()
    assert tokens[1].check() == len(tokens[0].codes("train")) + len(tokens[0].codes("test"))


def test_commands_look_into_the_bucket(made: Recipe, remote: Recipe) -> None:
    stages = [item["kind"] for item in describe_run(Path(remote.out)) if item["state"] == "complete"]
    assert stages[:3] == ["clips", "shards", "tokens"]
    done = vtok("data", "info", str(remote.folder("shards")))
    assert done.returncode == 0, done.stderr
    local = vtok("data", "info", str(made.folder("shards")))
    assert done.stdout.splitlines()[1:] == local.stdout.splitlines()[1:]
    assert done.stdout.startswith(f"shards in s3://{BUCKET}/run/shards: complete")


def test_a_rerun_makes_only_what_is_missing_or_damaged(made: Recipe, remote: Recipe, s3: Server) -> None:
    settings = copy_in_bucket(remote, s3, "damaged", "clips", "shards")
    folder = settings.folder("shards")
    (folder / "_vtok.json").unlink()
    write_bytes(folder / "train-00001.tar", (folder / "train-00001.tar").read_bytes()[:5000])
    (folder / "train-00002.tar").unlink()
    s3.requests.clear()
    shard(settings)
    put = {path.rsplit("/", 1)[1] for method, path, _ in s3.requests if method == "PUT" and path.endswith(".tar")}
    assert put == {"train-00001.tar", "train-00002.tar"}
    assert s3.digests(folder) == digests(made.folder("shards"))


def test_a_job_that_the_store_refused_finishes_on_rerun(made: Recipe, remote: Recipe, s3: Server) -> None:
    settings = copy_in_bucket(remote, s3, "refused", "clips")
    with (
        s3.failing(lambda method, path, query: is_put(method, path, query) and "train-00001" in path),
        pytest.raises(VtokError, match="SLOW_DOWN") as caught,
    ):
        shard(settings)
    assert caught.value.at == str(settings.folder("shards") / "train-00001.tar")
    assert "train-00001.tar" not in s3.digests(settings.folder("shards"))
    with s3.failing(is_put, times=1):
        shard(settings)
    assert s3.digests(settings.folder("shards")) == digests(made.folder("shards"))


def test_a_killed_driver_and_a_rerun_give_the_same_bytes(
    made: Recipe, remote: Recipe, s3: Server, tmp_path: Path
) -> None:
    settings = copy_in_bucket(remote, s3, "killed", "clips")
    file = write_recipe(tmp_path / "r.yaml", Path(made.data.root), as_path(settings.out))
    mark = tmp_path / "mark"
    first = vtok("data", "shard", file, VTOK_CRASH_AT="shards:_index.table:before_rename", VTOK_CRASH_MARK=str(mark))
    assert first.returncode == -signal.SIGKILL and mark.exists(), first.stderr
    half, whole = s3.digests(settings.folder("shards")), digests(made.folder("shards"))
    assert half.items() < whole.items() and "_index.table" not in half and "train-00001.tar" in half
    shard(settings)
    assert s3.digests(settings.folder("shards")) == whole


def test_training_reads_the_bucket_and_writes_to_a_local_folder(made: Recipe, remote: Recipe, tmp_path: Path) -> None:
    for train in (train_tokenizer, train_prior):
        with pytest.raises(UsageError, match="training needs a local folder") as caught:
            train(remote.model_copy(update={"models": None}))
        assert "models" in caught.value.hint
        here, there = (
            train(short(run, tmp_path / f"{train.__name__}-{name}")) for run, name in ((made, "a"), (remote, "b"))
        )
        assert here == there, "the cards hold the sha256 of the weights"


def short(run: Recipe, models: Path) -> Recipe:
    """A training of two steps into a folder of its own."""
    few = {"steps": 2, "batch_size": 4, "engine": "plain", "threads": 1, "validate_clips": 4}
    tokenizer = run.tokenizer.model_copy(
        update={
            "train": run.tokenizer.train.model_copy(update=few),
            "loss": run.tokenizer.loss.model_copy(update={"perceptual_weight": 0.0}),
        }
    )
    prior = run.prior.model_copy(update={"train": run.prior.train.model_copy(update=few)})
    return run.model_copy(update={"models": str(models), "tokenizer": tokenizer, "prior": prior})


def test_a_tokenizer_in_the_bucket(made: Recipe, s3: Server) -> None:
    folder = as_path(f"s3://{BUCKET}/models/tokenizer")
    for path in made.folder("tokenizer").iterdir():
        write_bytes(folder / path.name, path.read_bytes())
    assert load_tokenizer(folder).fingerprint == load_tokenizer(made.folder("tokenizer")).fingerprint


@pytest.mark.soak
def test_samples_in_the_bucket(made: Recipe, remote: Recipe, s3: Server, tmp_path: Path) -> None:
    settings = made.model_copy(update={"out": str(tmp_path), "models": made.out})
    generate(settings)
    generate(remote)
    assert s3.digests(remote.folder("samples")) == digests(settings.folder("samples"))
