"""What lists name: there or `missing`, under another extension, in another form of Unicode, after a byte order mark."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.errors import UsageError
from tests.datasets.reading import listed, rejects
from tests.datasets.test_frames import save
from vtok.datasets.captions import Captions

Maker = Callable[[Path, list[str]], None]


def _text(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Windows' editors save it


def _ucf101(root: Path, names: list[str]) -> None:
    _text(root, "ucfTrainTestlist/classInd.txt", "1 Archery\n")
    _text(root, "ucfTrainTestlist/trainlist01.txt", "".join(f"Archery/{name}.avi 1\n" for name in names))
    _text(root, "ucfTrainTestlist/testlist01.txt", "")


def _kinetics(root: Path, names: list[str]) -> None:
    rows = "".join(f"zumba,{name},1,11,train\n" for name in names)
    _text(root, "all.csv", f"label,youtube_id,time_start,time_end,split\n{rows}")


def _mugen(root: Path, names: list[str]) -> None:
    entries = [{"video": {"video_file": f"videos/{name}.avi", "json_file": f"{name}.json"}} for name in names]
    _text(root, "train.json", json.dumps({"data": entries}))


def _taichi(root: Path, names: list[str]) -> None:
    rows = "".join(f"{name},0,8,1-2-30-40,25,64,64,train\n" for name in names)
    _text(root, "taichi-metadata.csv", f"video_id,start,end,bbox,fps,width,height,partition\n{rows}")


def _tgif(root: Path, names: list[str]) -> None:
    _text(root, "tgif-v1.0.tsv", "".join(f"https://x.org/{name}.gif\ta text\n" for name in names))
    for split in ("train", "val", "test"):
        _text(root, f"splits/{split}.txt", "".join(f"https://x.org/{name}.gif\n" for name in names if split == "train"))


def _captions(root: Path, names: list[str]) -> None:
    _text(root, "captions.tsv", "".join(f"some/{name}.avi\ta text\n" for name in names))


LISTS: list[tuple[str, Maker]] = [
    ("ucf101", _ucf101),
    ("kinetics", _kinetics),
    ("mugen", _mugen),
    ("taichi", _taichi),
    ("tgif", _tgif),
    ("folder", _captions),
]
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "caf\u00e9_\u0130") for form in ("NFC", "NFD"))


def _put(root: Path, layout: str, name: str, ending: str) -> str:
    """An empty file where the layout looks for it; its source."""
    source = f"some/{name}{ending}"
    (root / source).parent.mkdir(parents=True, exist_ok=True)
    (root / source).write_bytes(b"x")
    return source


def _options(layout: str) -> dict[str, str]:
    return {"captions": "captions.tsv"} if layout == "folder" else {}


@pytest.mark.parametrize(("layout", "write"), LISTS)
@pytest.mark.parametrize("ending", [".avi", ".mp4", ".webm"])
def test_listed_and_absent_and_converted(
    layout: str, write: Maker, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lists say .avi (.gif); the files are that, or were converted. One is not there, one is in no list."""
    write(tmp_path, ["here_1", "gone_2"])
    there, other = _put(tmp_path, layout, "here_1", ending), _put(tmp_path, layout, "other_3", ending)
    found = listed(tmp_path, layout, **_options(layout))
    used = [name for name, video in found.items() if video.reject is None]
    reasons = {("gone_2" in name, name.startswith(other)): reason for name, reason in rejects(found).items()}
    if layout == "folder":  # captions are no list of what belongs to the dataset
        assert sorted(used) == [there, other] and found[there].caption == "a text" and found[other].caption is None
        assert reasons == {(True, False): "missing"}
    else:
        assert len(used) == 1 and used[0].startswith(there)
        assert reasons == {(True, False): "missing", (False, True): "not_in_split"}
    said = "another extension than in the list" in capsys.readouterr().err
    assert said == (layout not in ("kinetics", "taichi") and (ending != ".avi" or layout == "tgif"))


@pytest.mark.parametrize(("layout", "write"), LISTS)
@pytest.mark.parametrize(("on_disk", "in_list"), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_names_in_another_form_of_unicode(
    layout: str, write: Maker, on_disk: str, in_list: str, tmp_path: Path
) -> None:
    assert on_disk != in_list
    write(tmp_path, [in_list])
    there = _put(tmp_path, layout, on_disk, ".avi")
    found = listed(tmp_path, layout, **_options(layout))
    assert rejects(found) == {} and len(found) == 1
    assert next(iter(found)).startswith(there), "the file keeps its own name"


@pytest.mark.parametrize(("layout", "write"), LISTS)
def test_nothing_of_what_is_listed_is_there(layout: str, write: Maker, tmp_path: Path) -> None:
    write(tmp_path, ["gone_1"])
    _put(tmp_path, layout, "other_3", ".avi")
    with pytest.raises(UsageError, match="none of th") as caught:
        listed(tmp_path, layout, **_options(layout))
    assert caught.value.hint


def test_of_two_files_the_one_with_the_listed_extension(tmp_path: Path) -> None:
    _ucf101(tmp_path, ["a_1"])
    for ending in (".mp4", ".avi"):
        _put(tmp_path, "ucf101", "a_1", ending)
    found = listed(tmp_path, "ucf101")
    assert found["some/a_1.avi"].reject is None and rejects(found) == {"some/a_1.mp4": "not_in_split"}


def test_a_video_in_both_lists_of_ucf101(tmp_path: Path) -> None:
    _ucf101(tmp_path, ["a_1", "b_2"])
    _text(tmp_path, "ucfTrainTestlist/testlist01.txt", "Archery/a_1.avi\n")
    for name in ("a_1", "b_2"):
        _put(tmp_path, "ucf101", name, ".avi")
    assert rejects(listed(tmp_path, "ucf101")) == {"some/a_1.avi": "not_in_split"}


def test_frames_that_lists_name_and_that_are_not_there(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path / f"here_{number}.png", 0)
    _text(tmp_path, "train.txt", "here_1.png\nhere_2.png\n")
    _text(tmp_path, "test.txt", "gone_1.png\ngone_2.png\n")
    assert rejects(listed(tmp_path, "frame_lists")) == {".#gone_1.png..gone_2.png": "missing"}
    _text(tmp_path, "train.txt", "gone_3.png\n")
    with pytest.raises(UsageError, match="none of the 2 videos"):
        listed(tmp_path, "frame_lists")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('{"source": "a.mp4", "caption": null, "text": "from text"}', ["from text"]),
        ('{"source": "a.mp4", "caption": "", "text": "from text"}', ["from text"]),
        ('{"source": "a.mp4", "caption": ["one", "two"]}', ["one", "two"]),
        ('{"source": "a.mp4", "caption": null}', []),
        ('{"source": "a.mp4", "text": " padded "}', ["padded"]),
    ],
)
def test_captions_that_are_null_or_lists(line: str, wanted: list[str], tmp_path: Path) -> None:
    _text(tmp_path, "c.jsonl", line + "\n")
    assert Captions(tmp_path / "c.jsonl").of("x/a.mp4") == wanted


def test_a_dot_in_a_name_is_no_extension(tmp_path: Path) -> None:
    _text(tmp_path, "c.tsv", "v1.5\tfirst\nv1.6\tsecond\n")
    captions = Captions(tmp_path / "c.tsv")
    assert (
        captions.of("v1.5.mp4") == ["first"] and captions.of("v1.6.mp4") == ["second"] and captions.of("v1.mp4") == []
    )
