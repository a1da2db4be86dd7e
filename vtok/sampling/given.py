"""What samples are conditioned on: class labels in turn, or clips of a token store."""

from __future__ import annotations

import bisect
import itertools
from typing import Any

import pyarrow as pa
import torch

from schemas.config.prior import SampleConfig
from schemas.errors import UsageError
from vtok.priors.base import Batch, Prior, Shape
from vtok.priors.collate import Collate, columns_of
from vtok.sampling.clips import needs_codes
from vtok.tokens.store import TokenStore


class GivenClips:
    """Clips of a split, by number; beyond the last one they begin anew.

    Args:
        store: the token store.
        split: which clips.
        columns: what to read of them.

    Raises:
        UsageError: the split has no clips.
    """

    def __init__(self, store: TokenStore, split: str, columns: list[str]) -> None:
        self.store = store
        self.columns = list(dict.fromkeys(["clip_id", *columns]))
        self.groups = store.row_groups(split)
        self._ends = list(itertools.accumulate(group.rows for group in self.groups))
        if not self._ends:
            raise UsageError(
                f"the token store has no clips of split {split!r} to be given",
                at=str(store.folder),
                hint="set sample.given=train",
            )

    def rows(self, numbers: list[int]) -> list[dict[str, Any]]:
        """The clips of these numbers."""
        tables: dict[int, pa.Table] = {}
        out = []
        for number in numbers:
            place = number % self._ends[-1]
            group = bisect.bisect_right(self._ends, place)
            if group not in tables:
                tables[group] = self.store.read(self.groups[group], self.columns)
            table, inside = tables[group], place - (self._ends[group] - self.groups[group].rows)
            out.append(table.slice(inside, 1).to_pylist()[0])
        return out


def wants_clips(prior: Prior, config: SampleConfig) -> bool:
    """Whether samples need clips of a token store, rather than nothing or a label."""
    return needs_codes(prior, config) or bool(set(prior.config.columns) - {"label"})


def given_labels(labels: list[int] | None, num: int, device: str | torch.device) -> Batch:
    """A batch of labels alone, or of nothing."""
    codes = torch.zeros(num, 0, 0, 0, dtype=torch.long, device=device)
    return Batch(codes, None if labels is None else torch.tensor(labels, device=device))


def given_clips(
    clips: GivenClips, numbers: list[int], collate: Collate, crop: Shape | None = None
) -> tuple[Batch, list[dict[str, Any]]]:
    """Clips of the store as a batch, and their rows.

    Raises:
        UsageError: a clip lacks what the prior is conditioned on.
    """
    rows = clips.rows(numbers)
    return collate.of_rows(rows, str(clips.store.folder), crop), rows


def columns_for(prior: Prior) -> list[str]:
    """Columns of the store that are read for `given_clips`."""
    return columns_of(prior.config)
