"""A path in an object store behaves like a path, and never like a local one."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from schemas.errors import UsageError
from schemas.paths import ObjectPath, as_path, local_only


def test_local_paths_are_plain_paths(tmp_path: Path) -> None:
    assert type(as_path(str(tmp_path))) is type(as_path(tmp_path)) is type(tmp_path)
    assert as_path("runs/s3:/x") == Path("runs/s3:/x")
    assert local_only(tmp_path, "x", "y") is tmp_path


@pytest.mark.parametrize("text", ["s3://bucket/run", Path("s3://bucket/run"), "s3://bucket//run/", "s3:/bucket/run"])
def test_names_of_objects(text: str | Path) -> None:
    path = as_path(text)
    assert isinstance(path, ObjectPath)
    assert str(path) == "s3://bucket/run"
    assert path.key == "bucket/run"
    assert as_path(path) is path
    deeper = path / "shards" / "a.tar"
    assert str(deeper) == "s3://bucket/run/shards/a.tar" == str(as_path(str(deeper)))
    assert (deeper.name, deeper.stem, deeper.suffix) == ("a.tar", "a", ".tar")
    assert str(deeper.parent.parent) == "s3://bucket/run" and deeper.parent.parent == path
    assert str(deeper.with_name("b")) == "s3://bucket/run/shards/b"
    assert deeper.relative_to(path) == Path("shards/a.tar")
    again = pickle.loads(pickle.dumps(deeper))  # noqa: S301
    assert again == deeper and type(again) is ObjectPath and hash(again) == hash(deeper)
    assert str(as_path("gs://bucket/run")) == "gs://bucket/run"


def test_what_needs_a_local_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = as_path("s3://bucket/a")
    for local in (lambda: open(path), lambda: path.rename(path), path.touch, lambda: path.open("wb")):  # noqa: PTH123, SIM115
        with pytest.raises(UsageError) as caught:
            local()
        assert "s3://bucket/a" in caught.value.at
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="training needs a local folder"):
        local_only(path, "training", "")


@pytest.mark.parametrize("text", ["s3://", "s3:///", "gs://"])
def test_a_store_without_a_bucket(text: str) -> None:
    with pytest.raises(UsageError, match="no bucket"):
        as_path(text)
