"""What decoded the clips of an artefact besides the recipe: the revision of our decoding path, and the programs.

The same recipe over the same files gives other pixels where one of them differs, so plans and cards record them, jobs
compare them before they go on with what others have begun, and checks name clips that an older revision may have spoilt
(`vtok.video.faults`).
"""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Mapping
from typing import Any

from schemas.card import MADE_WITH
from schemas.errors import VtokError
from vtok.video.ffmpeg import ffmpeg_version

DECODING_REVISION = 2
"""Which frames of a file become a clip, and which pixels a frame has.

1: everything up to November 2026; artefacts that say nothing are of it.
2: no unwritten columns, time stamps below zero, whole display matrices, gaps, fields, gray of limited range.
"""


_PLANNING = "planning_revision"


def made_with(*, decoder: str = "pyav", encoding: str = "", planned: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The revision and the versions of what takes part.

    Args:
        decoder: `pyav` or `ffmpeg`. PyAV always takes part: it reads headers and time stamps.
        encoding: of shards; "": nothing is encoded.
        planned: config of the card of the clips that are decoded; None: they are planned now.

    Raises:
        VtokError: the ffmpeg program takes part and is not there.
    """
    import av

    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    found: dict[str, Any] = {"decoding_revision": DECODING_REVISION, "pyav": f"{av.__version__}, libavcodec {codec}"}
    if planned is not None:
        found[_PLANNING] = revision_of(planned)
    if decoder == "ffmpeg" or encoding == "h264":
        found["ffmpeg"] = ffmpeg_version()
    if encoding == "jpeg":
        found["pillow"] = importlib.metadata.version("pillow")
    return found


def revision_of(config: Mapping[str, Any]) -> int:
    """The decoding revision that a plan's or card's config records; 1 where it records none."""
    return int(config.get(MADE_WITH, {}).get("decoding_revision", 1))


def planning_revision_of(config: Mapping[str, Any]) -> int:
    """The revision that planned the clips of shards or tokens; 1 where their plan records none."""
    return int(config.get(MADE_WITH, {}).get(_PLANNING, 1))


def must_be_same(planned: Mapping[str, Any], *, decoder: str = "pyav", encoding: str = "") -> None:
    """Holds what this process would decode with against the plan: nodes of a cluster may differ.

    Args:
        planned: what `made_with` gave where the job was planned.
        decoder, encoding: as there.

    Raises:
        VtokError: they differ.
    """
    here = made_with(decoder=decoder, encoding=encoding)
    differing = [
        f"{name} {value} here, {planned.get(name)} planned"
        for name, value in here.items()
        if planned.get(name) != value
    ]
    if differing:
        raise VtokError(
            f"a worker has other versions than the job was planned with: {'; '.join(differing)}",
            at=socket.gethostname(),
            hint="install the same versions on every node (`pip install -c constraints.txt`); for the ffmpeg program, "
            "IMAGEIO_FFMPEG_EXE must name the same one everywhere, or nothing",
        )
