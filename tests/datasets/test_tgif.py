from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import UsageError
from tests.datasets.reading import listed, make, rejects
from tests.video.making import numbered_frame, numbers
from vtok.datasets.captions import Captions

SITE = "https://38.media.tumblr.com"
TSV = (
    f"{SITE}/9f65/tumblr_a_400.gif\ta man is glaring, and a girl smiles.\n"
    f"{SITE}/48f7/tumblr_b_250.gif\ta cat tries to catch a mouse.\n"
    f"{SITE}/48f7/tumblr_b_250.gif\ta cat plays.\n"
    f"{SITE}/77ab/tumblr_c_500.gif\t\u201equoted\u201c text\twith a tab\n"
)


def write_gif(path: Path, count: int, hundredths: int | list[int] = 4, size: int = 48) -> Path:
    """Numbered frames, each shown for so many hundredths of a second."""
    frames = [Image.fromarray(numbered_frame(number, size, size)) for number in range(count)]
    delays = [10 * delay for delay in ([hundredths] * count if isinstance(hundredths, int) else hundredths)]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=delays, loop=0)
    return path


def _write(root: Path) -> Path:
    (root / "data" / "splits").mkdir(parents=True)
    (root / "data" / "tgif-v1.0.tsv").write_text(TSV)
    for split, name in (("train", "9f65/tumblr_a_400"), ("test", "48f7/tumblr_b_250"), ("val", "77ab/tumblr_c_500")):
        (root / "data" / "splits" / f"{split}.txt").write_text(f"{SITE}/{name}.gif\n")
    return root


def test_splits_and_captions(tmp_path: Path) -> None:
    root = _write(tmp_path)
    write_gif(root / "gifs" / "tumblr_a_400.gif", 9)
    write_gif(root / "tumblr_b_250.gif", 4)
    write_gif(root / "tumblr_z_250.gif", 4)
    made = make(root, "tgif")
    assert {name: [numbers(clip.frames_thwc) for clip in clips] for name, clips in made.clips.items()} == {
        "gifs/tumblr_a_400.gif": [[0, 1, 2, 3], [4, 5, 6, 7]],
        "tumblr_b_250.gif": [[0, 1, 2, 3]],
    }
    rows = {name: clips[0].row for name, clips in made.clips.items()}
    assert [(row["split"], row["caption"], row["fps"]) for row in rows.values()] == [
        ("train", "a man is glaring, and a girl smiles.", 25.0),
        ("test", "a cat tries to catch a mouse.", 25.0),
    ]
    assert sorted(made.rejects) == [("tumblr_c_500.gif", "missing"), ("tumblr_z_250.gif", "not_in_split")]
    assert listed(root, "tgif")["tumblr_c_500.gif"].caption == "\u201equoted\u201c text\twith a tab"


def test_gifs_that_were_made_to_videos(tmp_path: Path) -> None:
    root = _write(tmp_path)
    (root / "tumblr_b_250.mp4").write_bytes(b"x")
    assert listed(root, "tgif")["tumblr_b_250.mp4"].split == "test"


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "tumblr_a_400.gif").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"tgif-v1\.0\.tsv"):
        listed(tmp_path, "tgif")
    (_write(tmp_path) / "data" / "splits" / "val.txt").unlink()
    with pytest.raises(UsageError, match="lists of splits"):
        listed(tmp_path, "tgif")


def test_gifs_with_uneven_delays_by_time(tmp_path: Path) -> None:
    """Frames are shown for 0.1, 0.3, 0.1, 0.5 and 0.2 s; at 10 a second a clip repeats what stays on the screen."""
    write_gif(tmp_path / "a.gif", 5, [10, 30, 10, 50, 20])
    made = make(tmp_path, "folder", frame_rate=10.0, num_frames=12, test_fraction=0.0)
    assert made.rejects == []
    (clip,) = made.clips["a.gif"]
    assert numbers(clip.frames_thwc) == [0, 1, 1, 1, 2, 3, 3, 3, 3, 3, 4, 4]
    (clip,) = make(tmp_path, "folder", num_frames=5, test_fraction=0.0).clips["a.gif"]
    assert numbers(clip.frames_thwc) == list(range(5))


def test_gifs_whose_frames_change_only_a_part(tmp_path: Path) -> None:
    """A transparent second frame leaves the first one standing where nothing is drawn."""
    base = Image.new("P", (48, 48), 0)
    base.putpalette([200, 30, 30, 30, 200, 30, 0, 0, 0])
    over = Image.new("P", (48, 48), 2)
    over.putpalette(base.getpalette() or [])
    over.paste(1, (0, 0, 24, 48))
    base.save(
        tmp_path / "a.gif", save_all=True, append_images=[over], duration=40, transparency=2, disposal=1, optimize=False
    )
    (clip,) = make(tmp_path, "folder", num_frames=2, test_fraction=0.0).clips["a.gif"]
    red, green = np.array([200, 30, 30]), np.array([30, 200, 30])
    np.testing.assert_array_equal(clip.frames_thwc[0], np.broadcast_to(red, (48, 48, 3)))
    np.testing.assert_array_equal(clip.frames_thwc[1][:, :24], np.broadcast_to(green, (48, 24, 3)))
    np.testing.assert_array_equal(clip.frames_thwc[1][:, 24:], np.broadcast_to(red, (48, 24, 3)))


def test_gifs_with_a_transparent_background_are_on_black(tmp_path: Path) -> None:
    frames = []
    for number in range(2):
        frame = Image.new("RGBA", (48, 48), (0, 0, 0, 0))
        frame.paste((30, 30, 200, 255), (0, 24 * number, 48, 24 * number + 24))
        frames.append(frame)
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40, disposal=2)
    (clip,) = make(tmp_path, "folder", num_frames=2, test_fraction=0.0).clips["a.gif"]
    for number, frame in enumerate(clip.frames_thwc):
        drawn = slice(24 * number, 24 * number + 24)
        np.testing.assert_array_equal(frame[drawn], np.broadcast_to([30, 30, 200], (24, 48, 3)))
        np.testing.assert_array_equal(np.delete(frame, np.r_[drawn], axis=0), 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.tsv", "train/run/a.gif\tone runs\nb.gif\ttwo run\nb.gif\tboth\n"),
        ("captions.txt", f"a\tone runs\r\n{SITE}/x/b.gif\ttwo run\r\n"),
        ("captions.csv", 'id,source,caption\n1,./train/run/a.gif,"one runs"\n2,b.gif,two run\n'),
        ("captions.jsonl", '{"source": "a.gif", "caption": "one runs"}\n\n{"source": "b", "caption": "two run"}\n'),
    ],
)
def test_captions_of_a_folder(name: str, text: str, tmp_path: Path) -> None:
    for file in ("train/run/a.gif", "test/run/b.gif", "test/run/c.gif"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    (tmp_path / name).write_text(text)
    found = listed(tmp_path, "folder", captions=name)
    assert {source: (video.split, video.class_name, video.caption) for source, video in found.items()} == {
        "train/run/a.gif": ("train", "run", "one runs"),
        "test/run/b.gif": ("test", "run", "two run"),
        "test/run/c.gif": ("test", "run", None),
    }
    assert rejects(found) == {}


def test_several_captions_of_a_video(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text(TSV)
    assert Captions(tmp_path / "c.tsv").of("x/tumblr_b_250.gif") == ["a cat tries to catch a mouse.", "a cat plays."]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.tsv", "no tab\n", "line 1 is no caption"),
        ("c.jsonl", '{"source": "a"}\n', "line 1 is no caption"),
        ("c.jsonl", "{\n", "line 1 is no caption"),
        ("c.csv", "name,text\na,b\n", "no column source"),
        ("c.tsv", "other.gif\ttext\n", "none of these captions"),
        ("c.tsv", None, "cannot be read"),
    ],
)
def test_captions_that_are_none(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"x")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        listed(tmp_path, "folder", captions=name)
