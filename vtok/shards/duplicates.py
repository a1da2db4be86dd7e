"""Exact copies among the source files, found by content hash, and whether they leak from one split into another.

The hash of a file is known only after the pass that decodes it (ingest reads headers). Which copy would have to go is
therefore not known when clips are planned, and nothing may be dropped later: shards are planned before decoding. So
copies are kept and reported, by the shard job in its card and by `vtok data check` with their names. To be rid of them,
delete the files named, or list splits that keep copies together, and run ingest again.

Only equal bytes count. A video that was encoded again, trimmed or rescaled is no duplicate here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vtok.datasets.base import source_path


class Duplicates(NamedTuple):
    """Sources with the same content.

    Attributes:
        sha256: of their content, hex.
        sources: where they lie: paths below the root, sorted.
        splits: that they are in, sorted; more than one is leakage.
    """

    sha256: str
    sources: list[str]
    splits: list[str]


def find_duplicates(rows: Iterable[Mapping[str, Any]]) -> list[Duplicates]:
    """Groups of two and more sources with equal content, the leaking ones first, then by name.

    Args:
        rows: of a completed manifest: `source medium item source_sha256 split`. Parts of one video file are one source.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        # A video file's item names a part of it, and its hash is the file's; other media hash the item alone.
        name = row["source"] if row["medium"] is not None else source_path(row["source"], row["item"])
        found.setdefault(row["source_sha256"], {}).setdefault(name, set()).add(row["split"])
    groups = [
        Duplicates(sha256, sorted(sources), sorted(set().union(*sources.values())))
        for sha256, sources in found.items()
        if len(sources) > 1
    ]
    return sorted(groups, key=lambda group: (len(group.splits) == 1, group.sources))


def summary(groups: list[Duplicates]) -> dict[str, int]:
    """For the card: `groups` of equal sources, `copies` beyond the first of each, groups that lie `across_splits`."""
    return {
        "groups": len(groups),
        "copies": sum(len(group.sources) - 1 for group in groups),
        "across_splits": sum(len(group.splits) > 1 for group in groups),
    }
