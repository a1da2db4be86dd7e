from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import IntegrityError, UsageError
from tests import tiny_run
from tests.pipelines.making import flip
from vtok.shards.preview import write_preview


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    tiny_run.make_run(folder, ("clips", "shards"))
    return folder


def test_html(finished: Path) -> None:
    path, clips = write_preview(finished, None, 4, None)
    assert (path, clips) == (finished / "preview.html", 4)
    page = path.read_text()
    assert page.count("data:image/png;base64,") == 4
    for name in ("class0/train0_0", "class0/train3_0", "class1/train0_0", "class1/train4_0"):
        assert f"<code>{name}</code>" in page, "from the first clip of the split to the last"
    assert "Drift &amp; &lt;b&gt;Roll&lt;/b&gt;" in page and "<b>Roll" not in page
    assert "4 of 11 clips" in page and "class1/train4.avi, 0.00 to 0.50 s" in page
    before = path.read_bytes()
    write_preview(finished / "shards", path, 4, "train")
    assert path.read_bytes() == before, "equal clips give equal bytes"


def test_png(finished: Path, tmp_path: Path) -> None:
    path, clips = write_preview(finished, tmp_path / "sheet.png", 100, "test")
    assert clips == 6
    with Image.open(path) as image:
        assert image.size == (4 * 16, 6 * (16 + 14))
        assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_one_clip(finished: Path, tmp_path: Path) -> None:
    assert write_preview(finished, tmp_path / "a.html", 1, None).clips == 1


def test_mistakes(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no clips in the split 'val'") as caught:
        write_preview(finished, None, 3, "val")
    assert caught.value.hint == "there are: test, train"
    with pytest.raises(UsageError, match=r"\.html or \.png"):
        write_preview(finished, tmp_path / "a.gif", 3, None)
    with pytest.raises(UsageError, match="this is a clips folder"):
        write_preview(finished / "clips", None, 3, None)
    damaged = Path(shutil.copytree(finished / "shards", tmp_path / "shards"))
    flip(damaged / "train-00000.tar")
    with pytest.raises(IntegrityError):
        write_preview(damaged, None, 3, None)
    assert not (tmp_path / "preview.html").exists()
