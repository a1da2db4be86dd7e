"""How many frames of a file may be decoded: pixels against bytes.

A file of a few kilobytes can hold thousands of frames of 64 megapixels, in which nothing changes, and occupy a worker
for minutes. Real videos are far below the default of 100,000 pixels a byte: one still picture over and over, which is
about the least that an encoder can be given, is 2,000 to 9,000 in H.264, H.265 and AV1 (testsrc2 in 1080p and 4K, 250
and 500 frames, ffmpeg 9.0.2).
"""

from __future__ import annotations

from vtok.video.probe import StreamFacts

ALWAYS = 4_000_000_000
"""Pixels that any file may decode to, whatever its size: more than a minute of 1080p, some seconds of CPU time."""


def affordable_frames(facts: StreamFacts, size: int, pixels_per_byte: int) -> int:
    """Frames, from the first one on, that may be decoded of a file.

    Args:
        facts: of the video.
        size: of the file, bytes.
        pixels_per_byte: `data.max_pixels_per_byte`.
    """
    return max(ALWAYS, size * pixels_per_byte) // max(1, facts.height * facts.width)
