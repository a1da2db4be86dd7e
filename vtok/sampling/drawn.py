"""What a finished `samples/` holds, read back: every part is compared with the index, every clip with its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from schemas.samples import SAMPLES
from vtok import artefacts
from vtok.files import read_table
from vtok.video.decode import read_video


def sample_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all parts (`schemas.samples.SAMPLES`), in their order.

    Raises:
        UsageError: there are no finished samples.
        IntegrityError: a part is not the one that the index names.
    """
    artefacts.load(folder, "samples")
    rows: list[dict[str, Any]] = []
    for part in artefacts.load_index(folder).to_pylist():
        rows += read_table(artefacts.verify_part(folder, part["path"], part["sha256"]), schema=SAMPLES).to_pylist()
    return rows


def sample_video(folder: Path, row: dict[str, Any]) -> UInt8[np.ndarray, "t h w 3"]:
    """The clip of a row, RGB, 0..255.

    Raises:
        IntegrityError: the file is not the one that was drawn.
        VideoError: it cannot be read.
    """
    return read_video(artefacts.verify_part(folder, row["path"], row["sha256"]))
