"""What a store was made from, without its shards; and the store under Ray Data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.config import Recipe
from tests.tokens.stores import some_rows, store_of
from tests.tokens.test_snippets import SNIPPETS
from vtok.tokens.origin import GONE, Origin
from vtok.tokens.reencode import reencode, store_tokenizer
from vtok.tokens.store import TokenStore

pytestmark = pytest.mark.ray


def test_codes_come_out_again_from_the_videos(copy_of: Callable[..., Recipe], tmp_path: Path) -> None:
    """The shards are gone but for their card: the videos are decoded and compressed as they were."""
    settings = copy_of("clips", "shards", "tokenizer", "tokens")
    for shard in settings.folder("shards").glob("*.tar"):
        shard.unlink()
    store = TokenStore(settings.folder("tokens"))
    rows = sum(store.splits().values())
    found = reencode(store, Origin(store), store_tokenizer(store), 1.0)
    assert (found.equal, found.rows, found.mismatches, found.skipped) == (rows, rows, [], {})
    moved = reencode(store, Origin(store, videos=tmp_path), store_tokenizer(store), 1.0)
    assert moved.skipped == {GONE: rows}
    videos = Path(shutil.copytree(settings.data.root, tmp_path / "videos"))
    source = next(store.rows("train"))["source"]
    (videos / source).write_bytes((videos / source).read_bytes() + b"more")
    other = reencode(store, Origin(store, videos=videos), store_tokenizer(store), 1.0)
    assert other.equal < rows and list(other.skipped) == ["its source is another file now"]


@pytest.mark.usefixtures("ray_running")
def test_ray_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    store_of(tmp_path / "runs" / "demo" / "tokens", some_rows())
    monkeypatch.chdir(tmp_path)
    (code,) = [code for name, code in SNIPPETS.items() if name.endswith("-Ray Data")]
    exec(compile(code, "Ray Data", "exec"), {"__name__": "snippet"})
    assert "180 codes" in capsys.readouterr().out
