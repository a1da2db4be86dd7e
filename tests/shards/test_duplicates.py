from __future__ import annotations

from typing import Any

from vtok.shards.duplicates import Duplicates, find_duplicates, summary


def row(source: str, sha256: str, split: str, medium: str | None = None, item: str | None = None) -> dict[str, Any]:
    return {"source": source, "source_sha256": sha256, "split": split, "medium": medium, "item": item}


def test_copies_and_leaks() -> None:
    rows = [
        row("a/1.avi", "x", "train"),
        row("a/1.avi", "x", "train"),  # a second clip of the same file
        row("b/9.avi", "x", "train"),
        row("c.avi", "y", "train"),
        row("d.avi", "z", "train"),
        row("e.avi", "z", "test"),
        row("f.avi", "z", "train"),
    ]
    groups = find_duplicates(rows)
    assert groups == [
        Duplicates("z", ["d.avi", "e.avi", "f.avi"], ["test", "train"]),
        Duplicates("x", ["a/1.avi", "b/9.avi"], ["train"]),
    ]
    assert summary(groups) == {"groups": 2, "copies": 3, "across_splits": 1}
    assert find_duplicates(rows[:4:2]) == find_duplicates(rows[2::-2]), "whatever the order of the rows"
    assert summary(find_duplicates(rows[3:5])) == {"groups": 0, "copies": 0, "across_splits": 0}


def test_parts_of_one_file_are_no_copies() -> None:
    parts = [row(f"film.mkv#{i}", "x", "train", None, str(i)) for i in range(3)]
    assert find_duplicates(parts) == []
    assert find_duplicates([*parts, row("copy.mkv#0", "x", "test", None, "0")])[0].sources == ["copy.mkv", "film.mkv"]
    members = [row(f"all.tar#{name}", "x", "train", "tar", name) for name in ("a.mp4@0", "b.mp4@512")]
    assert find_duplicates(members)[0].sources == ["all.tar#a.mp4@0", "all.tar#b.mp4@512"]
