"""What readers of others make of a shard, with their default settings: exactly its clips.

Ray Data's is tried in tests/pipelines/test_ray_data.py. By hand, as they are not installed here: the tar loader of
torchdata 0.9, and `energon prepare` of megatron-energon 7.4.
"""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.shards.making import clip_name, frames_of, make_shards, samples
from vtok.shards.codec import RAW
from vtok.shards.writer import write_shard

SIZES = {"train": [6, 2], "test": [3]}
CLIPS = {"train-00000.tar": range(6), "train-00001.tar": range(6, 8), "test-00000.tar": range(8, 11)}
MEMBERS = {"jpeg": ["000.jpg", "001.jpg", "002.jpg", "003.jpg"], "raw": [RAW], "h264": ["mp4"]}
ENCODINGS = pytest.mark.parametrize("encoding", sorted(MEMBERS))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each encoding."""
    folder = tmp_path_factory.mktemp("foreign")
    return {encoding: make_shards(folder / encoding, SIZES, encoding) for encoding in MEMBERS}


@ENCODINGS
def test_a_tar_has_no_other_files(shards: dict[str, Path], encoding: str) -> None:
    for name, numbers in CLIPS.items():
        with tarfile.open(shards[encoding] / name, "r|") as tar:
            found = [member.name for member in tar if member.isfile()]
        assert found == [f"{clip_name(n)}.{kind}" for n in numbers for kind in ("json", *MEMBERS[encoding])]


@ENCODINGS
def test_webdataset(shards: dict[str, Path], encoding: str) -> None:
    import webdataset

    for name, numbers in CLIPS.items():
        plain = webdataset.WebDataset(str(shards[encoding] / name), shardshuffle=False)
        for dataset in (plain, plain.decode(), plain.decode("rgb8")):
            found = list(dataset)
            assert [sample["__key__"] for sample in found] == [clip_name(n) for n in numbers]
            assert {key for sample in found for key in sample if key[0] != "_"} == {"json", *MEMBERS[encoding]}


@ENCODINGS
def test_energons_index(shards: dict[str, Path], encoding: str) -> None:
    """A row a sample: from its first member to the next one's, or to where the last entry of the tar ends.

    The rule of `energon prepare`, and of how it reads: WebdatasetPreparator._preprocess_tar and
    ITarReader._get_item_by_sample_pointer (https://github.com/NVIDIA/Megatron-Energon).
    """
    for name, numbers in CLIPS.items():
        starts: list[tuple[str, int]] = []
        with tarfile.open(shards[encoding] / name, "r:*") as tar:
            for member in tar:
                match = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", member.name)
                if not member.isreg() or re.match(r"__[^/]*__($|/)", member.name) or match is None:
                    continue
                if not starts or starts[-1][0] != match[1]:
                    starts.append((match[1], member.offset))
            ends = [*(offset for _, offset in starts[1:]), tar.offset]
        assert [key for key, _ in starts] == [clip_name(n) for n in numbers]
        for (key, start), end in zip(starts, ends, strict=True):
            with tarfile.open(shards[encoding] / name, "r:*") as tar:
                tar.next()  # a new file hands out its first member, wherever it stands
                tar.offset, found = start, list[str]()
                tar.fileobj.seek(start)  # type: ignore[union-attr]
                while tar.offset < end:
                    entry = tar.next()
                    assert entry is not None
                    found += [entry.name] if entry.isfile() else []
            assert found == [f"{key}.{kind}" for kind in ("json", *MEMBERS[encoding])]


@ENCODINGS
@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets(shards: dict[str, Path], encoding: str, streaming: bool, tmp_path: Path) -> None:
    """One shard, also of fewer clips than the five that datasets look at; and the folder, by its name alone."""
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets are not installed")
    options = {"streaming": streaming, **({} if streaming else {"cache_dir": str(tmp_path)})}
    whole = datasets.load_dataset(str(shards[encoding]), **options)
    assert set(whole) == {"train", "test"}
    for split, found in whole.items():
        found = found if encoding != "h264" else found.cast_column("mp4", datasets.Video(decode=False))
        numbers = [n for name, clips in CLIPS.items() if name.startswith(split) for n in clips]
        rows = list(found)
        assert [row["__key__"] for row in rows] == [clip_name(n) for n in numbers]
        assert [row["json"]["number"] for row in rows] == numbers
        if encoding == "raw":
            assert all(np.array_equal(row[RAW], frames_of(n)) for row, n in zip(rows, numbers, strict=True))
    path = str(shards[encoding] / "test-00000.tar")
    few = datasets.load_dataset("webdataset", data_files=path, split="train", **options)
    few = few if encoding != "h264" else few.cast_column("mp4", datasets.Video(decode=False))
    assert [row["__key__"] for row in few] == [clip_name(n) for n in CLIPS["test-00000.tar"]]


def test_raw_clips_are_plain_zstd(shards: dict[str, Path]) -> None:
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
    with tarfile.open(shards["raw"] / "test-00000.tar") as tar:
        member = tar.extractfile(f"{clip_name(9)}.{RAW}")
        assert member is not None
        data = zstandard.ZstdDecompressor().decompress(member.read())
    assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), frames_of(9))


def test_a_shard_without_clips_ends_a_stream(tmp_path: Path) -> None:
    """All of its clips were rejected: it is a tar without files."""
    import webdataset

    from schemas.config.data import ShardsConfig

    write_shard(tmp_path / "a.tar", [], {"rows": 0}, point="")
    write_shard(tmp_path / "b.tar", samples(range(2), ShardsConfig(encoding="raw")), {"rows": 2}, point="")
    found = webdataset.WebDataset([str(tmp_path / name) for name in ("a.tar", "b.tar")], shardshuffle=False)
    assert [sample["__key__"] for sample in found] == [clip_name(0), clip_name(1)]
