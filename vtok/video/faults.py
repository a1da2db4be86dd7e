"""Which clips an older revision of the decoding path may have spoilt, as far as rows of the manifest can tell.

A row does not say how a file's pixels are stored or whether its display matrix holds a mirror, so these are
suspicions: clips that a fault may have met. What no row shows is found by decoding again (`data check --redecode`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from vtok.video.revision import planning_revision_of, revision_of

Row = Mapping[str, Any]

_TRANSPORT = (".ts", ".m2ts", ".mts")
_WITH_MATRIX = (".mp4", ".mov", ".m4v", ".3gp", ".3g2", ".qt", ".mkv", ".webm")
_WITHOUT_STAMPS = (".mpg", ".mpeg", ".m1v", ".m2v", ".mpv")
_LATE = (".avi", ".asf", ".wmv")
_RGB = frozenset({"gif", "png", "rawvideo", "qtrle", "ffv1", "hdf5"})
"""Codecs of what is mostly no 4:2:0 or 4:2:2; ffv1 of any kind was found whole."""


class Decoding(NamedTuple):
    """How clips were planned and decoded.

    Attributes:
        revision: of the decoding path that decoded them; None: they are not decoded yet.
        planned: revision of the one that planned them.
        decoder: `pyav` or `ffmpeg`.
        policy: `reference` or `fast`; "": not known.
    """

    revision: int | None
    planned: int
    decoder: str
    policy: str


class Fault(NamedTuple):
    """A fault that a revision has mended.

    Attributes:
        what: what a clip that it met looks like.
        mended: the first revision without it.
        planning: whether it lies in the choice of a clip's times, not in its pixels.
        may_hold: whether a clip may have met it, by its row and how it was decoded.
    """

    what: str
    mended: int
    planning: bool
    may_hold: Callable[[Row, Decoding], bool]


class Doubt(NamedTuple):
    """Clips that a fault may have spoilt.

    Attributes:
        what: see `Fault`.
        clips: their ids, in the order of the manifest.
    """

    what: str
    clips: list[str]


def decoding_of(kind: str, config: Mapping[str, Any]) -> Decoding:
    """How the clips of an artefact were decoded.

    Args:
        kind: clips, shards or tokens.
        config: of its card or plan.
    """
    planned = planning_revision_of(config)
    if kind == "clips":
        return Decoding(None, revision_of(config), "", "")
    settings = config.get("shards" if kind == "shards" else "decoding", {})
    return Decoding(revision_of(config), planned, settings.get("decoder", "pyav"), settings.get("policy", ""))


def doubts(rows: Iterable[Row], decoding: Decoding) -> list[Doubt]:
    """The clips that may be spoilt, by fault; faults that met none are left out.

    Args:
        rows: of the manifest (`schemas.clips.CLIPS`).
        decoding: how they were decoded.
    """
    concerning = [fault for fault in FAULTS if _concerns(fault, decoding)]
    found: dict[str, list[str]] = {fault.what: [] for fault in concerning}
    if concerning:
        for row in rows:
            for fault in concerning:
                if fault.may_hold(row, decoding):
                    found[fault.what].append(row["clip_id"])
    return [Doubt(what, clips) for what, clips in found.items() if clips]


def _concerns(fault: Fault, decoding: Decoding) -> bool:
    if fault.planning:
        return decoding.planned < fault.mended
    return decoding.revision is not None and decoding.revision < fault.mended


def _is_file(row: Row, suffixes: tuple[str, ...]) -> bool:
    """Whether it is a video file (a lone one, or in a tar) with one of these suffixes."""
    name = row["item"] if row["medium"] == "tar" and row["item"] else row["source"]
    return row["medium"] in (None, "tar") and PurePosixPath(str(name).lower()).suffix in suffixes


def _unwritten_columns(row: Row, decoding: Decoding) -> bool:
    width = row["height"] if row["rotation"] in (90, 270) else row["width"]
    subsampled = row["medium"] in (None, "tar") and row["codec"] not in _RGB
    return decoding.decoder == "pyav" and decoding.policy != "fast" and subsampled and width % 16 in (1, 2, 3, 4)


def _negative_stamps(row: Row, decoding: Decoding) -> bool:
    return row["frame_rate"] is not None and _is_file(row, _TRANSPORT)


def _mirrored(row: Row, decoding: Decoding) -> bool:
    return row["rotation"] != 0 and _is_file(row, _WITH_MATRIX)


def _sixteen_bits(row: Row, decoding: Decoding) -> bool:
    return row["medium"] == "frames" and row["codec"] in ("png", "tif", "tiff")


def _one_late(row: Row, decoding: Decoding) -> bool:
    return decoding.decoder == "ffmpeg" and row["codec"] == "h264" and _is_file(row, _LATE)


def _counted_wrong(row: Row, decoding: Decoding) -> bool:
    elementary = row["codec"] in ("mpeg1video", "mpeg2video") and _is_file(row, _WITHOUT_STAMPS)
    return decoding.decoder == "ffmpeg" and elementary


FAULTS = (
    Fault(
        "the last 1 to 4 columns may be noise (width % 16 is 1 to 4, decoder pyav, policy reference)",
        2,
        False,
        _unwritten_columns,
    ),
    Fault(
        "one frame may be repeated and times be too long (a transport stream, sampled by rate, that begins within a "
        "minute before its clock starts again)",
        2,
        True,
        _negative_stamps,
    ),
    Fault("it may be upside down or mirrored (a display matrix with a mirror)", 2, False, _mirrored),
    Fault("it may be white (images of 16 bits)", 2, False, _sixteen_bits),
    Fault("every frame may be the one before (H.264 in AVI or ASF, decoder ffmpeg)", 2, False, _one_late),
    Fault("every frame may be the one after (an MPEG elementary stream, decoder ffmpeg)", 2, False, _counted_wrong),
)
"""What is known of older revisions and can be told from a row."""
