"""The versions of other packages with which vtok is known to work; pyproject.toml and constraints.txt say the same."""

from __future__ import annotations

import importlib.metadata
import re
from typing import NamedTuple


class Range(NamedTuple):
    """Versions of a package.

    Attributes:
        least: the oldest one that does.
        below: the first one that is known not to, or whose kind (a new major) has broken us before; "": none is known.
        newest: the newest one that the tests have passed with.
    """

    least: str
    below: str
    newest: str


RANGES: dict[str, Range] = {
    "av": Range("14.2", "20", "19.0.2"),  # before 14.2 no flags of the scaler; every major has removed something
    "deepspeed": Range("0.19", "", "0.19.8"),
    "einops": Range("0.8", "", "0.8.2"),
    "ffmpeg-python": Range("0.2", "", "0.2.0"),
    "google-crc32c": Range("1.6", "", "1.9.0"),
    "h5py": Range("3.12", "", "3.16.0"),
    "imageio-ffmpeg": Range("0.6", "", "0.8.1"),
    "jaxtyping": Range("0.3", "", "0.3.11"),
    "numpy": Range("2", "3", "2.4.6"),
    "pillow": Range("11", "", "13.0.0"),
    "pyarrow": Range("20", "", "26.0.1"),
    "pydantic": Range("2.10", "3", "2.14.3"),
    "pyyaml": Range("6", "", "6.0.3"),
    "ray": Range("2.56", "3", "2.60.0"),  # before 2.56 it runs pickled code out of Parquet schemas and members of tars
    "safetensors": Range("0.5", "", "0.8.0"),
    "tokenizers": Range("0.20", "", "0.23.3"),
    "torch": Range("2.6", "", "2.13.0"),
    "torchmetrics": Range("1.6", "", "1.9.0"),
    "typer": Range("0.15", "", "0.29.2"),
    "webdataset": Range("1.0", "", "1.0.2"),
}

SAFE_CERTIFI = "2026.10.23"
"""Earlier bundles of certificates trust an authority that was compromised. Nothing of ours needs certifi itself."""

PYTHON = Range("3.11", "3.14", "3.13")
FFMPEG = Range("5.1", "", "9.0.2")
"""The ffmpeg program: Debian 12's is the oldest that is tested, the one that pip brings the newest."""


def parsed(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparisons: `2.13.0+cpu` is (2, 13, 0), `n9.0.2-1-g0` is (9, 0, 2)."""
    found = re.match(r"\D*(\d+(?:\.\d+)*)", version)
    return tuple(int(number) for number in found[1].split(".")) if found else ()


class Judged(NamedTuple):
    """A version held against its range: `usable`, `tested` (of those: not newer than the tests know), and words."""

    usable: bool
    tested: bool
    words: str


def judge(version: str, known: Range) -> Judged:
    """Holds a version against its range."""
    numbers = parsed(version)
    old, new = numbers < parsed(known.least), bool(known.below) and numbers >= parsed(known.below)
    newer = numbers[:2] > parsed(known.newest)[:2]  # a patch release is no news
    words = f"{version} (tested: {known.least} to {known.newest})"
    return Judged(not old and not new, not newer, words)


def installed(package: str) -> str:
    """Its version; "" if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
