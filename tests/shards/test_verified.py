"""A changed byte never reaches a batch: before the verification, after it, and in spite of a stamp."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import IntegrityError, UsageError, VtokError
from schemas.shards import FOOTER_MEMBER
from tests.shards.making import clip_name, make_shards
from tests.waiting import wait_until
from vtok.shards import verified
from vtok.shards.loader import ClipBatches, ClipLoader
from vtok.shards.reader import Clip, ShardReader
from vtok.shards.verified import ShardFile, Verify, cache_folder

NAME = "train-00001.tar"
SILENT = {"header", "json", "jpeg", "padding", "footer header", "footer", "last header", "end"}
"""Places where a flipped bit goes unnoticed by whoever does not verify."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "s", {"train": [3, 3]}, "jpeg")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(made, tmp_path / "s"))
    newest = max(path.stat().st_ctime_ns for path in folder.iterdir())
    wait_until(lambda: _now(tmp_path) > newest)  # a change from here on has another time: file systems' clocks tick
    return folder


def _now(folder: Path) -> int:
    (folder / "clock").write_text("")
    return (folder / "clock").stat().st_ctime_ns


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTOK_CACHE", str(tmp_path / "cache"))


def _places(path: Path) -> dict[str, int]:
    """The offset of a byte of each kind; all are in or behind the second sample."""
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
    meta, frame, footer = (members[n] for n in (f"{clip_name(4)}.json", f"{clip_name(4)}.001.jpg", FOOTER_MEMBER[:-1]))
    data = path.read_bytes()
    return {
        "header": frame.offset + 105,  # its mode
        "name": frame.offset + 3,
        "size": frame.offset + 130,
        "magic": frame.offset + 258,
        "json": data.index(b'"label":1', meta.offset_data) + 8,
        "jpeg": frame.offset_data + frame.size - 20,
        "padding": frame.offset_data + frame.size + 1,
        "footer header": footer.offset + 105,
        "footer": footer.offset + 512 + 25,
        "last header": footer.offset_data - 512 + 105,
        "end": len(data) - 1,
    }


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def _delivered(folder: Path, verify: Verify, workers: int = 0) -> Iterator[str]:
    """The names of an epoch's clips as they reach the training loop, batch by batch."""
    batches = ClipBatches(ShardReader(folder, "train", shuffle=False, verify=verify), 1)
    for batch in ClipLoader(batches, workers=workers):
        yield from batch.clip_ids


def _assert_caught(folder: Path, verify: Verify, workers: int = 0) -> None:
    got: list[str] = []
    with pytest.raises(IntegrityError) as caught:
        got.extend(_delivered(folder, verify, workers))
    assert got in ([], [clip_name(n) for n in range(3)][: len(got)])  # nothing of the damaged shard
    assert NAME in caught.value.at
    assert caught.value.hint


@pytest.mark.parametrize("verify", ["node", "always"])
@pytest.mark.parametrize(
    "place",
    ["header", "name", "size", "magic", "json", "jpeg", "padding", "footer header", "footer", "last header", "end"],
)
def test_a_flipped_bit_never_reaches_a_batch(place: str, verify: Verify, folder: Path) -> None:
    _flip(folder / NAME, _places(folder / NAME)[place])
    _assert_caught(folder, verify)


@pytest.mark.parametrize("place", sorted(SILENT))
def test_without_verification_most_flipped_bits_do(place: str, folder: Path) -> None:
    """So it is the verification that catches them above, and not luck."""
    before: list[Clip] = list(ShardReader(folder, "train", shuffle=False).clips(0))
    _flip(folder / NAME, _places(folder / NAME)[place])
    after = list(ShardReader(folder, "train", shuffle=False, verify="off").clips(0))
    assert len(list(_delivered(folder, "off"))) == len(after) == 6
    if place == "json":
        assert [clip.label for clip in after] != [clip.label for clip in before]
    if place == "jpeg":
        assert not np.array_equal(after[4].video_thwc, before[4].video_thwc)


def test_damage_in_a_worker_is_told_as_in_this_process(folder: Path) -> None:
    _flip(folder / NAME, _places(folder / NAME)["jpeg"])
    _assert_caught(folder, "node", workers=1)


@pytest.mark.parametrize("verify", ["node", "always"])
def test_a_cut_off_file_never_reaches_a_batch(verify: Verify, folder: Path) -> None:
    path = folder / NAME
    data, places = path.read_bytes(), _places(path)
    sample = places["header"] - 105  # a member begins here
    for keep in (0, 100, 512, sample, sample + 512, places["jpeg"], len(data) - 10_240, len(data) - 512, len(data) - 1):
        path.write_bytes(data[:keep])
        _assert_caught(folder, verify)
    path.write_bytes(data + b"\0" * 512)
    _assert_caught(folder, verify)


def test_without_verification_a_file_cut_at_the_end_of_a_sample_is_still_too_short(folder: Path) -> None:
    path = folder / NAME
    file = ShardFile(path, "", 3, verify="off")
    path.write_bytes(path.read_bytes()[: int(file.proof.bounds[2])])
    with pytest.raises(IntegrityError, match="2 samples where the index has 3"):
        list(_delivered(folder, "off"))


def test_a_bit_that_flips_after_the_verification_is_caught(folder: Path) -> None:
    reader = ShardReader(folder, "train", shuffle=False)
    assert reader.clip(0, 3).clip_id == clip_name(3)
    _flip(folder / NAME, _places(folder / NAME)["jpeg"])
    assert reader.clip(0, 5).clip_id == clip_name(5)  # a sample that is still right may be used
    with pytest.raises(IntegrityError, match="altered after it had been verified"):
        reader.clip(0, 4)
    _assert_caught(folder, "node")  # the stamp is none for this file


def test_a_bit_that_flips_unseen_by_the_file_system_is_caught(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a failing disk: the file's times and size are those of the stamp."""
    list(_delivered(folder, "node"))
    identities = {}
    for path in folder.glob("*.tar"):
        with path.open("rb") as stream:
            identities[path.stat().st_ino] = verified._identity(stream)
    _flip(folder / NAME, _places(folder / NAME)["jpeg"])
    monkeypatch.setattr(verified, "_identity", lambda stream: identities[os.fstat(stream.fileno()).st_ino])
    monkeypatch.setattr(verified, "_read_through", None)  # the stamp is taken
    got: list[str] = []
    with pytest.raises(IntegrityError, match="altered after it had been verified"):
        got.extend(_delivered(folder, "node"))
    assert got == [clip_name(n) for n in range(4)]


def test_setting_the_clock_of_a_changed_file_back_does_not_help(folder: Path) -> None:
    path = folder / NAME
    list(_delivered(folder, "node"))
    before = path.stat()
    _flip(path, _places(path)["footer"])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    _assert_caught(folder, "node")


def _count(folder: Path, log: Path, verify: Verify, start: Any) -> None:
    start.wait()
    true = verified._read_through

    def counted(stream: Any, path: Path, sha256: str | None) -> Any:
        with log.open("a") as lines:
            lines.write(f"{path.name}\n")
        return true(stream, path, sha256)

    verified._read_through = counted
    assert len(list(_delivered(folder, verify))) == 6


@pytest.mark.parametrize(("verify", "times"), [("node", 1), ("always", 3)])
def test_how_often_a_node_reads_a_file_through(verify: Verify, times: int, folder: Path, tmp_path: Path) -> None:
    """Three processes at the same time, then this one."""
    fork, log = multiprocessing.get_context("fork"), tmp_path / "log"
    start = fork.Barrier(3)
    processes = [fork.Process(target=_count, args=(folder, log, verify, start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert sorted(log.read_text().split()) == sorted(["train-00000.tar", NAME] * times)
    assert len(list(cache_folder().glob("*.json")) if cache_folder().exists() else []) == (2 if times == 1 else 0)


def test_a_stamp_is_only_good_for_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(_delivered(folder, "node"))
    read: list[str] = []
    true = verified._read_through
    monkeypatch.setattr(verified, "_read_through", lambda s, path, d: (read.append(path.name), true(s, path, d))[1])

    def reads() -> list[str]:
        read.clear()
        assert len(list(_delivered(folder, "node"))) == 6
        return sorted(read)

    assert reads() == []
    stamps = sorted(cache_folder().glob("*.json"))
    for stamp in stamps:  # damaged
        stamp.write_bytes(stamp.read_bytes().replace(b'"bounds":[0,', b'"bounds":[1,'))
    assert reads() == ["train-00000.tar", NAME]
    for stamp in stamps:
        stamp.write_text("{}" if stamp == stamps[0] else "[")
    assert reads() == ["train-00000.tar", NAME]
    stamps[0].write_bytes(stamps[1].read_bytes())  # swapped
    assert len(reads()) == 1
    os.utime(folder / NAME)  # touched
    assert reads() == [NAME]
    (folder / NAME).rename(folder / "x")
    shutil.copy2(folder / "x", folder / NAME)  # another file of the same name, times and bytes
    assert reads() == [NAME]
    monkeypatch.setattr(verified, "_boot", lambda: "another")
    assert reads() == ["train-00000.tar", NAME]
    assert reads() == []
    assert sorted(cache_folder().glob("*.json")) == stamps  # one a file, however often it was made anew


def test_a_stamp_does_not_vouch_for_another_sha256(folder: Path) -> None:
    rows = ShardReader(folder, "train").shards
    ShardFile(folder / NAME, rows[1]["sha256"], 3, verify="node").close()
    with pytest.raises(IntegrityError, match="sha256 differs"):
        ShardFile(folder / NAME, rows[0]["sha256"], 3, verify="node")


def test_where_no_stamp_can_be_kept_every_process_verifies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VTOK_CACHE", str(tmp_path / "file"))
    assert len(list(_delivered(folder, "node"))) == 6
    _flip(folder / NAME, _places(folder / NAME)["end"])
    _assert_caught(folder, "node")


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VTOK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/vtok/verified")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/vtok/verified")


def test_wrong_ways_to_ask(folder: Path) -> None:
    with pytest.raises(UsageError, match="verify is one of node, always, off, not 'never'"):
        next(ShardReader(folder, "train", verify="never").clips(0))  # type: ignore[arg-type]
    (folder / NAME).unlink()
    with pytest.raises(VtokError, match="a part is missing") as caught:
        list(_delivered(folder, "off"))
    assert NAME in caught.value.at
    reader = ShardReader(folder, "train")
    shutil.rmtree(folder)
    with pytest.raises(VtokError, match="the folder of the shards is gone") as caught:
        next(reader.clips(0))
    assert caught.value.at == str(folder)


def test_stamps_are_small(folder: Path) -> None:
    list(_delivered(folder, "node"))
    for stamp in cache_folder().glob("*.json"):
        assert stamp.stat().st_size < 600 + 3 * 30
        assert set(json.loads(stamp.read_text())) == {
            "version", "boot", "sha256", "identity", "bounds", "crcs", "seal"
        }  # fmt: skip


def test_stamps_that_nobody_uses_go_away(folder: Path) -> None:
    list(_delivered(folder, "node"))
    used, other = sorted(cache_folder().glob("*.json"))
    long_ago = time.time() - 40 * 86400
    for path in (used, cache_folder() / ".vtok-tmp-left", cache_folder() / "gone.json"):
        path.touch()
        os.utime(path, (long_ago, long_ago))
    (cache_folder() / "new.json").touch()
    list(_delivered(folder, "node"))
    assert used.stat().st_mtime > long_ago + 86400, "a stamp that is used counts as new"
    assert (cache_folder() / "gone.json").exists(), "looking is done once a process, when a stamp is made"
    verified._prune.cache_clear()
    other.unlink()
    list(_delivered(folder, "node"))
    assert {path.name for path in cache_folder().iterdir()} == {"new.json", used.name, other.name}
