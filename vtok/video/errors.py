"""Why a video, or a clip of it, could not be had."""

from __future__ import annotations

from typing import Literal

from schemas.errors import VtokError

Reason = Literal[
    "unreadable",
    "empty",
    "no_video",
    "no_frames",
    "too_short",
    "implausible",
    "too_large",
    "too_long",
    "over_budget",
    "unsafe_path",
    "corrupt",
    "missing_frames",
    "timeout",
    "crashed",
    "memory",
    "vanished",
    "changed",
    "still",
    "black",
    "no_sound",
    "not_in_split",
    "missing",
    "internal",
]
"""The keys of `schemas.clips.REASONS`, repeated because that module imports pyarrow and decoding children must not."""


class VideoError(VtokError):
    """A video that cannot be used; pipelines turn it into a reject row.

    Args:
        reason: one of `schemas.clips.REASONS`.
        detail: one line with what was found, without clocks, host names or absolute paths.
    """

    def __init__(self, reason: Reason, detail: str, *, at: str = "") -> None:
        super().__init__(f"the video cannot be used: {detail} ({reason})", at=at)
        self.reason = reason
        self.detail = detail
