"""Which rows of a store's parts are of some views.

A store that `vtok tokenize` made has one view a part, an imported one any. So the column is read, out of bytes whose
sha256 is that of the index: a part is read once, when the loader is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Int32

from schemas.errors import IntegrityError
from schemas.tokens import WHOLE
from vtok.tokens.flat import PartFile
from vtok.tokens.parts import HINT, open_verified


def rows_of_views(part: PartFile, views: Sequence[str], *, verify: bool) -> Int32[np.ndarray, " n"]:
    """The numbers of the rows of a part that are of one of some views, ascending.

    Args:
        part: which.
        views: names; a part of version 1 has but `whole`.
        verify: off: nothing is compared.

    Raises:
        IntegrityError: the part is damaged.
    """
    file = open_verified(part.path, part.sha256 if verify else None, unchecked=part.unchecked)
    if "view_id" not in file.schema_arrow.names:
        return np.arange(part.rows if WHOLE in views else 0, dtype=np.int32)
    try:
        column = file.read(columns=["view_id"])["view_id"]
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError("the column of the views cannot be read", at=str(part.path), hint=HINT) from error
    wanted = set(views)
    return np.array([number for number, view in enumerate(column.to_pylist()) if view in wanted], np.int32)


def select(
    parts: Iterable[PartFile], views: Sequence[str], *, verify: bool
) -> tuple[list[PartFile], list[Int32[np.ndarray, " n"]]]:
    """The parts that have rows of some views, and the numbers of these rows in each."""
    found = [(part, rows_of_views(part, views, verify=verify)) for part in parts]
    kept = [(part, rows) for part, rows in found if len(rows)]
    return [part for part, _ in kept], [rows for _, rows in kept]
