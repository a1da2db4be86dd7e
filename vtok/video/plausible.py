"""Holds what a file says of its frames, their rate and its length against each other, so that nonsense plans no clips.

One flipped bit in a header gives a frame a display time of hours. The limits are wide: a slide show with one frame a
minute passes, if the header's length agrees; so does a header that is short, if the frames come at a usual rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vtok.video.errors import VideoError

_LONGER, _SECONDS = 1.5, 1.0  # frames may be displayed so many times the declared duration, and so many seconds more
_SLOWEST = 1.0  # seconds a frame, on average, at which a duration that nothing declares is still believed
_STILL = 60.0  # seconds a frame, on average, that no header is believed that also says 1 frame per second or more
_FASTEST = 1000.0  # frames per second that are believed without a codec that says so
_SAME, _FAR = 4.0, 8.0  # factors to which the codec's rate holds for a length that nothing declares, and for AVI
_USUAL = (1.0, 300.0)  # frames per second; another rate of a codec is some clock's


class Declared(NamedTuple):
    """What headers say.

    Attributes:
        durations: seconds; one that is not positive says nothing.
        rate: frames per second by the container; 0: it does not say.
        codec_rate: frames per second by the codec's own header; 0: it does not say.
        steady: whether the container has one rate for all frames (AVI).
    """

    durations: Sequence[float]
    rate: float
    codec_rate: float
    steady: bool


def must_be_plausible(frames: int, seconds: float, declared: Declared, file_bytes: int) -> None:
    """Raises `VideoError` implausible, with the numbers, if they cannot all be true.

    Args:
        frames: counted, or from the container's index.
        seconds: for which they are displayed together.
        declared: what headers say.
        file_bytes: size of the file.
    """
    if frames > file_bytes:
        raise VideoError("implausible", f"{frames} frames in a file of {file_bytes} bytes")
    said = f"{frames} frames are displayed for {seconds:.3f} s"
    shortest = min((length for length in declared.durations if length > 0), default=seconds)
    rate = declared.codec_rate
    usual = _USUAL[0] <= rate <= _USUAL[1]
    if seconds > _LONGER * shortest + _SECONDS and seconds > min(_SLOWEST, _SAME / rate if usual else 1.0) * frames:
        raise VideoError("implausible", f"{said}, the header says {shortest:.3f} s")
    if declared.steady and usual and not rate / _FAR <= frames / seconds <= rate * _FAR:
        raise VideoError("implausible", f"{said}, the codec says {rate:.3f} frames per second")
    if seconds > _STILL * frames and (usual or declared.rate >= _USUAL[0]):
        raise VideoError("implausible", f"{said}, the header says {max(declared.rate, rate):.3f} frames per second")
    if frames > 1 and frames > max(_FASTEST, _SAME * rate) * seconds:
        raise VideoError("implausible", f"{said}: more than {max(_FASTEST, _SAME * rate):.0f} frames per second")
