from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from schemas.errors import UsageError
from tests.datasets.reading import listed, make, rejects
from tests.datasets.test_tgif import write_gif
from tests.video.making import numbers, write_video
from vtok.datasets.base import SourceVideo


def write_tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _by_name(videos: dict[str, SourceVideo]) -> dict[str, SourceVideo]:
    """Without the offset, which the tests do not count."""
    return {source.rpartition("@")[0] or source: video for source, video in videos.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One small video of each kind, 6 frames."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind, codec in (("mp4", "libx264"), ("mkv", "libx264"), ("mov", "mpeg4"), ("avi", "mpeg4"), ("webm", "libvpx")):
        write_video(folder / f"a.{kind}", 6, codec=codec, size=(48, 48))
    write_gif(folder / "a.gif", 6)
    return {path.suffix[1:]: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_kind_of_video(form: int, data: dict[str, bytes], tmp_path: Path) -> None:
    long = "folder/" + "n" * 90 if form == tarfile.USTAR_FORMAT else "folder/" + "n" * 150 + "\u00fc"
    members = [(f"{long}.mp4", data["mp4"]), *((f"{kind}.{kind}", data[kind]) for kind in data), ("x.wav", b"no video")]
    write_tar(tmp_path / "train-000.tar", members, form)
    made = make(tmp_path, "tars")
    assert made.rejects == [] and len(made.clips) == 7
    for (clip,) in made.clips.values():
        assert numbers(clip.frames_thwc) == [0, 1, 2, 3]
        assert clip.row["medium"] == "tar" and clip.row["source_bytes"] in {len(block) for block in data.values()}
    assert len({clip.row["source_sha256"] for (clip,) in made.clips.values()}) == 6  # one of the seven is there twice


def test_captions_and_labels_of_a_sample(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a-train-0.tar",
        [
            ("x/1.cls", b"12\n"),
            ("x/1.mp4", b"."),
            ("x/1.txt", " ein H\u00fcgel \n".encode()),
            ("x/2.json", b'{"caption": "from json", "other": 1}'),
            ("x/2.mp4", b"."),
            ("x/2.cls", b"3"),
            ("3.mp4", b"."),
            ("3.json", b"[1]"),
            ("1.mp4", b"."),
            ("4.webm", b"."),
            ("4.json", b"{"),
            ("5.mp4", b"."),
            ("5.txt", b"\xff"),
        ],
    )
    found = _by_name(listed(tmp_path, "tars"))
    facts = {name.partition("#")[2]: (video.caption, video.label) for name, video in found.items()}
    assert facts == {
        "x/1.mp4": ("ein H\u00fcgel", 12),
        "x/2.mp4": ("from json", 3),
        "3.mp4": (None, None),
        "1.mp4": (None, None),
        "4.webm": (None, None),
        "5.mp4": (None, None),
    }
    assert rejects(found) == {"a-train-0.tar#4.webm": "corrupt", "a-train-0.tar#5.mp4": "corrupt"}


def test_classes_by_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("1.mp4", b"."), ("1.cls", b"zumba"), ("2.mp4", b"."), ("2.cls", b"abseiling")])
    found = listed(tmp_path, "tars").values()
    assert [(video.class_name, video.label) for video in found] == [("zumba", 1), ("abseiling", 0)]


def test_splits(tmp_path: Path) -> None:
    for name in ("train/a.tar", "x/val-000.tar", "ucf_test_1.tar", "other.tar"):
        write_tar(tmp_path / name, [("1.mp4", b".")])
    assert {name.partition("#")[0]: video.split for name, video in listed(tmp_path, "tars").items()} == {
        "train/a.tar": "train",
        "x/val-000.tar": "val",
        "ucf_test_1.tar": "test",
        "other.tar": "train",
    }


def test_splits_by_hash_where_no_name_says_any(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [(f"{number}.mp4", b".") for number in range(40)])
    found = listed(tmp_path, "tars", test_fraction=0.25)
    assert 4 <= sum(video.split == "test" for video in found.values()) <= 16
    write_tar(tmp_path / "1.tar", [("x.mp4", b".")])
    again = listed(tmp_path, "tars", test_fraction=0.25)
    assert {name: again[name].split for name in found} == {name: video.split for name, video in found.items()}


def test_hostile_members(data: dict[str, bytes], tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(data["mp4"])
    path = tmp_path / "root" / "train.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name in ("../up.mp4", "/etc/passwd.mp4", "a/../../b.mp4", "good.mp4"):
            member = tarfile.TarInfo(name)
            member.size = len(data["mp4"])
            tar.addfile(member, io.BytesIO(data["mp4"]))
        for name, kind, target in (
            ("sym.mp4", tarfile.SYMTYPE, str(secret)),
            ("hard.mp4", tarfile.LNKTYPE, "good.mp4"),
            ("device.mp4", tarfile.CHRTYPE, ""),
            ("sym.txt", tarfile.SYMTYPE, str(secret)),
            ("good.txt", tarfile.LNKTYPE, "good.mp4"),
            ("up.mp4", tarfile.LNKTYPE, "../up.mp4"),
            ("lost.mp4", tarfile.LNKTYPE, "nowhere.mp4"),
            ("again.mp4", tarfile.LNKTYPE, "sym.mp4"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
        member = tarfile.TarInfo(b"caf\xe9.mp4".decode("utf-8", "surrogateescape"))
        tar.addfile(member)
    made = make(path.parent, "tars")
    found = {source.partition("#")[2].rpartition("@")[0]: reason for source, reason in made.rejects}
    assert found == {
        "../up.mp4": "unsafe_path",
        "/etc/passwd.mp4": "unsafe_path",
        "a/../../b.mp4": "unsafe_path",
        "sym.mp4": "unsafe_path",
        "up.mp4": "unsafe_path",
        "lost.mp4": "corrupt",
        "again.mp4": "corrupt",
        "device.mp4": "unsafe_path",
        "caf\\xe9.mp4": "unreadable",
    }
    assert [source.partition("@")[0] for source in made.clips] == ["train.tar#good.mp4", "train.tar#hard.mp4"]
    assert made.clips[next(iter(made.clips))][0].row["caption"] is None


@pytest.mark.parametrize("cut", ["within", "between", "end"])
def test_a_tar_that_is_cut_off(cut: str, data: dict[str, bytes], tmp_path: Path) -> None:
    """What lies before the cut is kept; what it hits, and that more may be lacking, is said."""
    path = write_tar(tmp_path / "train.tar", [(f"{name}.mp4", data["mp4"]) for name in "abc"])
    with tarfile.open(path) as tar:
        third = tar.getmember("c.mp4")
    size = {"within": third.offset_data + 600, "between": third.offset, "end": third.offset_data + third.size}[cut]
    path.write_bytes(path.read_bytes()[:size])
    made = make(tmp_path, "tars")
    wanted = {"within": "ab", "between": "ab", "end": "abc"}[cut]
    assert [source.partition("@")[0] for source in made.clips] == [f"train.tar#{name}.mp4" for name in wanted]
    reasons = {source.partition("@")[0]: reason for source, reason in made.rejects}
    assert reasons.pop("train.tar") == "corrupt"
    assert reasons == ({"train.tar#c.mp4": "missing_frames"} if cut == "within" else {})


def test_a_tar_that_is_damaged_in_the_middle(data: dict[str, bytes], tmp_path: Path) -> None:
    path = write_tar(tmp_path / "train.tar", [(f"{name}.mp4", data["mp4"]) for name in "abc"])
    with tarfile.open(path) as tar:
        second = tar.getmember("b.mp4")
    block = bytearray(path.read_bytes())
    block[second.offset : second.offset + 512] = b"\x5a" * 512
    path.write_bytes(block)
    found = _by_name(listed(tmp_path, "tars"))
    assert list(found) == ["train.tar", "train.tar#a.mp4"] and rejects(found) == {"train.tar": "corrupt"}


@pytest.mark.parametrize("block", [b"", b"no tar at all" * 100, b"\x1f\x8b" + bytes(2000)])
def test_files_that_are_no_tars(block: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(block)
    write_tar(tmp_path / "b.tar", [("1.mp4", b".")])
    found = _by_name(listed(tmp_path, "tars"))
    assert rejects(found) == {"a.tar": "unreadable"} and len(found) == 2


def test_links_that_leave_the_root_and_folders_without_tars(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(UsageError, match="no tars"):
        listed(root, "tars")
    with pytest.raises(UsageError, match="no such folder"):
        listed(root / "nowhere", "tars")
    (root / "a.tar").symlink_to(write_tar(tmp_path / "outside.tar", [("1.mp4", b".")]))
    assert rejects(listed(root, "tars")) == {"a.tar": "unsafe_path"}


def _numbered(root: Path, *classes: str) -> dict[str, SourceVideo]:
    members = [m for i, name in enumerate(classes) for m in ((f"{i}.mp4", b"."), (f"{i}.cls", name.encode()))]
    write_tar(root / "0.tar", members)
    return {name.partition("#")[2]: video for name, video in _by_name(listed(root, "tars")).items()}


def test_classes_by_number_stay_and_those_below_0_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _numbered(tmp_path, "0", "1", "2", "10", "-1", "11", " 007 ", "3.0", "")
    assert [(video.label, video.class_name) for video in found.values()] == [
        (0, "0"),
        (1, "1"),
        (2, "2"),
        (10, "10"),
        (None, None),
        (11, "11"),
        (7, "7"),
        (3, "3"),
        (None, None),
    ]
    assert "1 video with a class below 0" in capsys.readouterr().err


def test_a_class_that_is_no_number_among_numbers_is_a_reject(tmp_path: Path) -> None:
    found = _numbered(tmp_path, "5", "6", "cat", "99999999999")
    assert [(video.label, video.reject and video.reject[0]) for video in found.values()] == [
        (5, None),
        (6, None),
        (None, "corrupt"),
        (None, "corrupt"),
    ]
    assert [video.label for video in _numbered(tmp_path, "dog", "cat", "2001").values()] == [2, 1, 0]


def test_a_key_that_is_there_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As tar -r and WebDataset's writers leave it: every video keeps the texts beside it."""
    write_tar(
        tmp_path / "a.tar",
        [
            ("1.mp4", b"."),
            ("1.txt", b"first"),
            ("1.cls", b"4"),
            ("2.mp4", b"."),
            ("1.mp4", b"."),
            ("1.txt", b"second"),
            ("1.txt", b"third"),
            ("1.mp4", b"."),
        ],
    )
    videos = list(listed(tmp_path, "tars").values())
    assert [(video.caption, video.label) for video in videos if "#1.mp4" in video.source] == [
        ("first", 4),
        ("second", None),
        ("third", None),
    ]
    assert [video.caption for video in videos if "#2.mp4" in video.source] == [None]
    assert "1 key more than once in a tar" in capsys.readouterr().err
    write_tar(tmp_path / "a.tar", [("1.mp4", b"."), ("1.mp4", b"."), ("2.mp4", b"."), ("1.txt", b"whose?")])
    videos = list(listed(tmp_path, "tars").values())
    assert [video.reject and video.reject[0] for video in videos] == ["corrupt", "corrupt", None]


def test_texts_of_a_sample_need_not_lie_beside_its_video(tmp_path: Path) -> None:
    names = ["1.mp4", "2.mp4", "1.txt", "2.txt", "3.txt"]
    write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    assert [video.caption for video in listed(tmp_path, "tars").values()] == ["1.txt", "2.txt"]


@pytest.mark.parametrize(
    ("texts", "caption"),
    [
        ({"json": b'{"caption": null, "text": "from text"}'}, "from text"),
        ({"json": b'{"caption": ["one", "two"]}'}, "one"),
        ({"json": b'{"caption": null}'}, None),
        ({"json": b'\xef\xbb\xbf{"caption": "marked"}'}, "marked"),
        ({"txt": b"\xef\xbb\xbfmarked"}, "marked"),
        ({"txt": "wide \u00fc".encode("utf-16")}, "wide \u00fc"),
    ],
)
def test_captions_that_are_null_lists_or_marked(texts: dict[str, bytes], caption: str | None, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("1.mp4", b"."), *((f"1.{kind}", text) for kind, text in texts.items())])
    (video,) = listed(tmp_path, "tars").values()
    assert video.caption == caption and video.reject is None


def test_texts_of_videos_with_a_dot_in_their_names(tmp_path: Path) -> None:
    names = ["clip.01.mp4", "clip.01.txt", "clip.02.mp4", "clip.02.txt"]
    write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    assert [video.caption for video in listed(tmp_path, "tars").values()] == ["clip.01.txt", "clip.02.txt"]


def test_hard_links_are_the_video_that_they_mean(data: dict[str, bytes], tmp_path: Path) -> None:
    """tar writes the second name of a file as a link to the first."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(data["mp4"])
    (tmp_path / "in" / "b.mp4").hardlink_to(tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "c.mp4").hardlink_to(tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "b.txt").write_text("of b")
    (tmp_path / "root").mkdir()
    names = ["a.mp4", "b.mp4", "b.txt", "c.mp4"]
    subprocess.run(["tar", "-cf", tmp_path / "root" / "train.tar", "-C", tmp_path / "in", *names], check=True)
    made = make(tmp_path / "root", "tars")
    assert made.rejects == [] and len(made.clips) == 3
    for (clip,) in made.clips.values():
        assert numbers(clip.frames_thwc) == [0, 1, 2, 3] and clip.row["source_bytes"] == len(data["mp4"])
    assert [clip.row["caption"] for (clip,) in made.clips.values()] == [None, "of b", None]
    assert len({clip.row["source_sha256"] for (clip,) in made.clips.values()}) == 1


def test_a_sparse_member_is_read_with_its_holes(data: dict[str, bytes], tmp_path: Path) -> None:
    """tar -S leaves out what was never written: here the space between the two halves of an MP4's free box."""
    (tmp_path / "in").mkdir()
    hole = 1 << 20
    with (tmp_path / "in" / "a.mp4").open("wb") as stream:
        stream.write(data["mp4"] + (8 + hole).to_bytes(4, "big") + b"free")
        stream.truncate(len(data["mp4"]) + 8 + hole)
    (tmp_path / "root").mkdir()
    for form in ("gnu", "posix"):
        to = tmp_path / "root" / f"{form}.tar"
        subprocess.run(["tar", f"--format={form}", "-S", "-cf", to, "-C", tmp_path / "in", "a.mp4"], check=True)
        assert to.stat().st_size < hole
    made = make(tmp_path / "root", "tars", test_fraction=0.0)
    assert made.rejects == [] and len(made.clips) == 2
    for (clip,) in made.clips.values():
        assert numbers(clip.frames_thwc) == [0, 1, 2, 3]
        assert clip.row["source_bytes"] == len(data["mp4"]) + 8 + hole


def test_a_compressed_tar_says_so(data: dict[str, bytes], tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "in" / "a.tar", [("1.mp4", data["mp4"])]).read_bytes()
    root = tmp_path / "root"
    write_tar(root / "good.tar", [("1.mp4", data["mp4"])])
    (root / "zipped.tar").write_bytes(gzip.compress(plain))
    (root / "b.tar.gz").write_bytes(gzip.compress(plain))
    (root / "lfs.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    found = listed(root, "tars")
    details = {name: video.reject[1] for name, video in found.items() if video.reject}
    assert set(rejects(found).values()) == {"unreadable"}
    assert "compressed by gzip" in details["zipped.tar"] and "gunzip" in details["zipped.tar"]
    assert "unpack it to a .tar" in details["b.tar.gz"]
    assert "git lfs pull" in details["lfs.tar"]


def test_what_is_no_video_in_a_tar_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["1.mp4", "1.wav", "2.wav", "3.npy", "4.txt"]
    write_tar(tmp_path / "a.tar", [(name, b".") for name in names])
    assert len(listed(tmp_path, "tars")) == 1
    said = capsys.readouterr().err
    assert "3 members of tars that are no videos: 2 .wav, 1 .npy" in said
    assert "1 key with texts but no video: a.tar#4" in said
