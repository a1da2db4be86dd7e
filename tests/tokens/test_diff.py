"""Two stores compared row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tokens.making import TOKENIZER
from tests.tokens.stores import row_of, some_rows, store_of
from vtok.cli import main
from vtok.tokens import diff
from vtok.tokens.diff import Group, diff_stores
from vtok.tokens.store import TokenStore

TEST, FIRST, SECOND = "test-00000.parquet", "train-00000.parquet", "train-00001.parquet"


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(store_of(tmp_path_factory.mktemp("stores") / "tokens", some_rows()))


def test_a_store_and_its_copy(a: TokenStore, tmp_path: Path) -> None:
    again = TokenStore(store_of(tmp_path / "tokens", some_rows()))
    read: list[int] = []
    found = diff_stores(a, again, advance=read.append)
    assert found.total == Group(equal=18, codes=216) and found.total.same
    assert (found.reasons, found.rows.num_rows, found.more) == ([], 0, 0)
    assert sum(read) == 36


def test_the_order_of_rows_and_parts_does_not_matter(
    a: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff, "_HELD_GROUPS", 1)
    rows = some_rows()
    moved = {TEST: rows[TEST], FIRST: rows[SECOND][::-1], SECOND: rows[FIRST][::-1]}
    assert diff_stores(a, TokenStore(store_of(tmp_path / "tokens", moved, row_group_rows=2))).total.same


def test_what_differs(a: TokenStore, tmp_path: Path) -> None:
    rows = some_rows()
    changed = rows[FIRST][2]  # clip-0005, class c2
    changed["codes"][:3] = (changed["codes"][:3] + 1) % 64
    rows[FIRST][3]["caption"] = "other words"  # clip-0006, class c0
    rows[SECOND][0] = row_of(12, "train", (1, 2, 2))
    del rows[TEST][1]
    rows[SECOND].append(row_of(40, "train"))
    rows[SECOND].append({**row_of(13, "train"), "view_id": "flipped"})
    b = TokenStore(store_of(tmp_path / "tokens", rows))
    found = diff_stores(a, b)
    assert found.total == Group(15, 1, 1, 1, 2, 2, 16 * 12, 3)
    assert found.splits["test"] == Group(equal=2, only_a=1, codes=24)
    assert found.classes["c2"].changed_codes == 3 and found.classes["c0"].changed == 0
    listed = {(row["clip_id"], row["view_id"]): row for row in found.rows.to_pylist()}
    assert {key: row["state"] for key, row in listed.items()} == {
        ("clip-0001", "whole"): "only_a",
        ("clip-0005", "whole"): "changed",
        ("clip-0006", "whole"): "equal",
        ("clip-0012", "whole"): "other_grid",
        ("clip-0040", "whole"): "only_b",
        ("clip-0013", "flipped"): "only_b",
    }
    assert listed["clip-0006", "whole"]["changed_facts"] == ["caption"]
    assert (listed["clip-0005", "whole"]["codes"], listed["clip-0005", "whole"]["changed_codes"]) == (12, 3)
    assert any("grids differ (2 x 2 x 3 and of several sizes)" in reason for reason in found.reasons)
    few = diff_stores(a, b, most=2)
    assert (few.total, few.rows.num_rows, few.more) == (found.total, 2, 4)
    back = diff_stores(b, a)
    assert (back.total.only_a, back.total.only_b, back.total.changed_codes) == (2, 1, 3)


def test_other_tokenizers_are_explained(a: TokenStore, tmp_path: Path) -> None:
    b = TokenStore(store_of(tmp_path / "tokens", some_rows(), tokenizer="b" * 64, codebook_size=128))
    reasons = diff_stores(a, b).reasons
    assert f"the tokenizers differ ({TOKENIZER[:12]} and bbbbbbbbbbbb)" in reasons[0]
    assert reasons[1] == "the codebooks have 64 and 128 codes"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("audio_codes", np.array([1, 2, 4])),
        ("audio_codes", None),
        ("cond_frames", bytes(16 * 24 * 3)),
        ("cond_frames", None),
        ("flip", True),
        ("fps", 7.5),
        ("decoder", "ffmpeg 6.1"),
        ("height", 17),
        ("width", 25),
        ("windowed_from", "long-clip"),
        ("label", 2),
        ("caption", "words"),
        ("start_time", 0.25),
    ],
)
def test_every_column_is_compared(heard: TokenStore, tmp_path: Path, column: str, value: Any) -> None:
    rows = {FIRST: heard_rows()}
    for number in (1, 3):
        rows[FIRST][number][column] = value
        if column in ("height", "width"):
            rows[FIRST][number]["cond_frames"] = None
    b = TokenStore(store_of(tmp_path / "tokens", rows, audio_codebook_size=10))
    found = diff_stores(heard, b)
    assert not found.same and found.total == Group(equal=4, facts_changed=2, codes=48)
    assert found.facts[column] == 2 and found.facts.keys() <= {column, "cond_frames"}
    assert [column in row["changed_facts"] for row in found.rows.to_pylist()] == [True, True]


def heard_rows() -> list[dict[str, Any]]:
    """Four rows with sound and a frame, without a caption."""
    frame = bytes(range(128)) * 9
    return [{**row_of(n, "train"), "audio_codes": np.array([1, 2, 3]), "cond_frames": frame} for n in range(4)]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("heard") / "tokens"
    return TokenStore(store_of(folder, {FIRST: heard_rows()}, audio_codebook_size=10))


def test_what_differs_is_said_and_how_often(
    heard: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {FIRST: heard_rows()}
    rows[FIRST][2]["fps"] = 7.5
    other = store_of(tmp_path / "other", rows, audio_codebook_size=10)
    assert main(["tokens", "diff", str(heard.folder), str(other)]) == 1
    assert "fps differs in 1 row" in capsys.readouterr().out
    assert main(["tokens", "diff", str(heard.folder), str(other), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["facts"] == {"fps": 1}
    again = store_of(tmp_path / "again", {FIRST: heard_rows()}, audio_codebook_size=10)
    assert main(["tokens", "diff", str(heard.folder), str(again)]) == 0
    assert "the same: 4 rows, 48 codes" in capsys.readouterr().out


def test_equal_codes_of_other_tokenizers_are_not_the_same(
    heard: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = {"audio": {"fingerprint": "c" * 64}}
    for name, options, said in (
        ("sound", {"facts": sound}, "the tokenizers of sound differ (none and cccccccccccc)"),
        ("frames", {"tokenizer": "b" * 64}, "the tokenizers differ (aaaaaaaaaaaa and bbbbbbbbbbbb)"),
    ):
        other = store_of(tmp_path / name, {FIRST: heard_rows()}, audio_codebook_size=10, **options)  # type: ignore[arg-type]
        assert diff_stores(heard, TokenStore(other)).total.same
        assert main(["tokens", "diff", str(heard.folder), str(other)]) == 1
        out = capsys.readouterr().out
        assert said in out and "equal codes of different tokenizers: 4 rows" in out and "the same" not in out


def test_ids_with_the_same_hash_are_told_apart(a: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "row_hashes", lambda table: np.zeros(table.num_rows, np.uint64))
    rows = some_rows()
    del rows[TEST][0]
    found = diff_stores(a, TokenStore(store_of(tmp_path / "tokens", rows)))
    assert found.total == Group(equal=17, only_a=1, codes=17 * 12)
