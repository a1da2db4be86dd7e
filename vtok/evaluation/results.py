"""The metrics artefact as people read it: what each measure is called, its unit, and how its interval is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.metrics import METRICS
from vtok import artefacts
from vtok.files import read_table
from vtok.sealed import sealed_path

METRICS_TABLE = "metrics.parquet"
CONFUSION_NAME = "confusion.json"
CLIPS_TABLE = "clips.parquet"

PER_CLIP = pa.schema(
    [
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),  # clip_id or sample_id
        pa.field("measure", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""One row a clip and measure: what the means in metrics.parquet are the means of."""


class Measure(NamedTuple):
    """How a metric is shown.

    Attributes:
        title: what it is, in words.
        unit: `dB`, `%`, `nats/code`, `codes` or nothing.
        scale: factor from the stored value to the unit.
        digits: after the point.
        reading: what to compare it with.
    """

    title: str
    unit: str
    scale: float
    digits: int
    reading: str


MEASURES: dict[str, Measure] = {
    "psnr": Measure("PSNR of reconstructions", "dB", 1, 2, "higher is closer to the clip"),
    "psnr_still": Measure("PSNR of the best still picture", "dB", 1, 2, "what a picture without motion reaches"),
    "psnr_gain": Measure("gain over the best still picture", "dB", 1, 2, "above 0: the tokenizer has learnt motion"),
    "codebook_perplexity": Measure("codebook perplexity", "codes", 1, 1, "codes in effective use"),
    "codebook_share": Measure("share of the codebook in use", "%", 100, 1, "perplexity / codebook size"),
    "loss": Measure("prior's loss on held-out clips", "nats/code", 1, 3, "lower is better"),
    "position_entropy": Measure("position-wise entropy", "nats/code", 1, 3, "what a model of positions alone reaches"),
    "loss_ratio": Measure("loss / position-wise entropy", "", 1, 3, "below 1: the prior knows more than positions"),
    "accuracy_real": Measure("real held-out clips recognised", "%", 100, 1, "the judge's ceiling"),
    "accuracy_reconstructed": Measure("the same clips, reconstructed", "%", 100, 1, "the tokenizer's ceiling"),
    "accuracy_samples": Measure("samples recognised as their class", "%", 100, 1, "to read beside the two above"),
}
"""Every metric that `vtok evaluate` writes, in reading order."""


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished metrics folder, as dicts.

    Raises:
        UsageError: there is no finished metrics folder.
        IntegrityError: the table is not the one that the card seals.
    """
    card = artefacts.load(folder, "metrics")
    return read_table(sealed_path(folder, card, METRICS_TABLE), schema=METRICS).to_pylist()


def shown(row: dict[str, Any]) -> tuple[str, str, str]:
    """Title, value with unit, and interval (empty where there is none) of a metric, for people."""
    measure = MEASURES.get(row["name"], Measure(row["name"], "", 1, 3, ""))
    space = "" if measure.unit in ("", "%") else " "
    value = f"{row['value'] * measure.scale:.{measure.digits}f}{space}{measure.unit}"
    if row["low"] is None or row["high"] is None:
        return measure.title, value, ""
    low, high = (f"{row[key] * measure.scale:.{measure.digits}f}" for key in ("low", "high"))
    return measure.title, value, f"{low} to {high}"
