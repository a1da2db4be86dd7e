"""A batch of whole rows of one grid, out of their bytes in the cache, by a few calls of numpy for all of them.

The bytes are copies that were compared with their checksums (vtok/tokens/cache.py), so what is used is what was
verified, whatever becomes of the file meanwhile. Texts are decoded when somebody looks at them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Int64

from vtok.tokens.flat import ROW_HEAD

_ALIGNED = 8
"""Bytes that every record's length is a multiple of."""
_HEAD = ROW_HEAD.itemsize
_GRID = ROW_HEAD.fields["grid"][1]  # type: ignore[index]  # where a record says its grid


class Texts(Sequence[Any]):
    """One of the texts of some rows: a list of strings (none where a row has none) that is made at the first look.

    It compares with lists, and another process is sent a list.

    Args:
        records: the bytes of all rows.
        starts: where in them each row's values after its codes begin.
        lengths: (rows, 6): of audio codes, clip_id, view_id, caption, windowed_from and frames there; -1: none.
        column: which length is that of the text.
    """

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __init__(self, records: bytes, starts: Sequence[int], lengths: np.ndarray, column: int) -> None:
        self._records, self._starts, self._lengths, self._column = records, starts, lengths, column
        self._made: list[str | None] | None = None

    def _list(self) -> list[str | None]:
        if self._made is None:
            starts = np.maximum(self._lengths[:, : self._column], 0).sum(axis=1) + self._starts
            lengths = self._lengths[:, self._column].tolist()
            self._made = [
                None if length < 0 else self._records[start : start + length].decode()
                for start, length in zip(starts.tolist(), lengths, strict=True)
            ]
            self._records = b""
        return self._made

    def __len__(self) -> int:
        return len(self._lengths)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self._list()[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._list())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return self._list() == other._list()
        return self._list() == other if isinstance(other, list) else NotImplemented

    def __repr__(self) -> str:
        return repr(self._list())

    def __reduce__(self) -> tuple[Callable[..., list[Any]], tuple[list[Any]]]:
        return list, (self._list(),)


class Gathered(NamedTuple):
    """Some rows.

    Attributes:
        codes_bn: their codes in raster order.
        labels_b: -1 where a row has none.
        clip_ids, view_ids, captions, windowed_from: their texts.
    """

    codes_bn: Int64[np.ndarray, "b n"]
    labels_b: Int64[np.ndarray, " b"]
    clip_ids: Texts
    view_ids: Texts
    captions: Texts
    windowed_from: Texts


def gather(records: Sequence[bytes], grid: tuple[int, int, int], code: np.dtype[Any]) -> Gathered | None:
    """The rows in some records; None: not all of them have this grid.

    Args:
        records: bytes of rows, as `vtok.tokens.cache.FlatCache.records` gives them; at least one.
        grid: (t, h, w).
        code: type of a code in a record.
    """
    rows, size = len(records), math.prod(grid)
    after = _HEAD + size * code.itemsize
    joined = b"".join(records)
    same = np.array(grid, "<i4").tobytes() * rows
    starts: Sequence[int]
    if max(map(len, records)) * rows == len(joined):  # as a rule: the texts have one length, or are padded to one
        apart = len(joined) // rows
        if np.ndarray(rows, "V12", joined, _GRID, apart).tobytes() != same:
            return None
        heads_b = np.ndarray(rows, ROW_HEAD, joined, 0, apart)
        codes_bn = np.ndarray((rows, size), code, joined, _HEAD, (apart, code.itemsize))
        starts = range(after, len(joined) + after, apart)
    else:  # a window at every place where a record could begin: a view, of which only the rows' own are read
        begins = np.array(list(itertools.accumulate(map(len, records[:-1]), initial=0))) // _ALIGNED
        heads_b = np.ndarray((len(joined) - _HEAD) // _ALIGNED + 1, ROW_HEAD, joined, 0, _ALIGNED)[begins]
        if heads_b["grid"].tobytes() != same:
            return None
        windows = (len(joined) - after) // _ALIGNED + 1
        codes_bn = np.ndarray((windows, size), code, joined, _HEAD, (_ALIGNED, code.itemsize))[begins]
        starts = (begins * _ALIGNED + after).tolist()
    lengths = heads_b["lengths"]
    texts = [Texts(joined, starts, lengths, column) for column in (1, 2, 3, 4)]
    return Gathered(codes_bn.astype(np.int64), heads_b["label"].astype(np.int64), *texts)
