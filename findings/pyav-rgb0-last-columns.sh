#!/usr/bin/env bash
# Frames converted to rgb0 (and rgba, bgr0) may come back with their last columns never written.
#
# Versions:  av 18.1.0 (its FFmpeg 8.1, libswscale 9.5.102), x86-64 with AVX2, glibc.
# Behaviour: frame.reformat(format="rgb0") of a yuv420p frame 100 wide leaves its last four columns as the allocator
#            handed them over: no error, other bytes on every run. The same was seen at 82, 84, 98, 114, 116 and 130,
#            that is 2 or 4 more than a multiple of 16, and at no other even width from 80 to 130. rgb24 is whole.
#            glibc's MALLOC_PERTURB_ fills fresh memory with a byte of our choice and so makes it visible.
# Seen:      fill 5a: rgb0 columns 96-99 hold 5a5a5a5a 5a5a5a5a 5a5a5a5a 5a5a5a5a; rgb24 columns not white: []
#            fill a5: rgb0 columns 96-99 hold a5a5a5a5 a5a5a5a5 a5a5a5a5 a5a5a5a5; rgb24 columns not white: []
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet av==18.1.0
cat > "$work/show.py" <<'PY'
"""Converts a white frame, 100 wide, and shows the last four columns of its first row."""

import sys

import av

WIDTH, HEIGHT = 100, 4
white = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
for plane, value in zip(white.planes, (235, 128, 128), strict=True):
    plane.update(bytes([value]) * plane.buffer_size)


def rows(layout: str, bytes_per_pixel: int) -> list[list[bytes]]:
    """The pixels of every row, three bytes each."""
    plane = white.reformat(format=layout).planes[0]
    data, step, size = bytes(plane), plane.line_size, bytes_per_pixel
    return [[data[y * step + x * size :][:size] for x in range(WIDTH)] for y in range(HEIGHT)]


def not_white(pixels: list[list[bytes]]) -> list[int]:
    return [x for x in range(WIDTH) if any(row[x][:3] != b"\xff\xff\xff" for row in pixels)]


fill = sys.argv[1]
padded, packed = rows("rgb0", 4), rows("rgb24", 3)
shown = " ".join(pixel.hex() for pixel in padded[0][96:])
print(f"fill {fill}: rgb0 columns 96-99 hold {shown}; rgb24 columns not white: {not_white(packed)}")
if not_white(padded) != [96, 97, 98, 99] or shown != " ".join([fill * 4] * 4) or not_white(packed):
    sys.exit(f"this has changed: rgb0 columns not white: {not_white(padded)}")
PY
MALLOC_PERTURB_=165 "$work/venv/bin/python" "$work/show.py" 5a
MALLOC_PERTURB_=90 "$work/venv/bin/python" "$work/show.py" a5
