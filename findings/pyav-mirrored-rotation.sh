#!/usr/bin/env bash
# frame.rotation does not tell a mirrored video from a turned one, or from a plain one.
#
# Versions:  av 18.1.0; imageio-ffmpeg 0.8.1 (its ffmpeg n9.0.2 makes the files).
# Behaviour: a file with a mirroring display matrix reports -180 (mirrored left to right) or 0 (upside down), the same
#            as one turned by 180 degrees and as a plain one. Only the side data DISPLAYMATRIX tells: there the sign of
#            the determinant a*d - b*c says whether the picture is mirrored.
# Seen:      plain: rotation 0, no matrix
#            display_hflip: rotation -180, a b c d = -1 0 0 1, mirrored
#            display_vflip: rotation 0, a b c d = 1 0 0 -1, mirrored
#            both: rotation -180, a b c d = -1 0 0 -1, not mirrored
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet av==18.1.0 imageio-ffmpeg==0.8.1
ffmpeg=$("$work/venv/bin/python" -c 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())')
cd "$work"
"$ffmpeg" -v error -f lavfi -i testsrc=size=64x48:rate=10:duration=1 -c:v libx264 -threads 1 -pix_fmt yuv420p plain.mp4
"$ffmpeg" -v error -display_hflip -i plain.mp4 -c copy display_hflip.mp4
"$ffmpeg" -v error -display_vflip -i plain.mp4 -c copy display_vflip.mp4
"$ffmpeg" -v error -display_hflip -display_vflip -i plain.mp4 -c copy both.mp4
cat > show.py <<'PY'
import struct
import sys

import av

EXPECTED = {
    "plain": (0, None),
    "display_hflip": (-180, (-1, 0, 0, 1)),
    "display_vflip": (0, (1, 0, 0, -1)),
    "both": (-180, (-1, 0, 0, -1)),
}
changed = []
for name, expected in EXPECTED.items():
    with av.open(f"{name}.mp4") as container:
        frame = next(container.decode(video=0))
    stored, turn = frame.side_data.get("DISPLAYMATRIX"), None
    told = "no matrix"
    if stored is not None:
        a, b, _, c, d, *_ = (value // 65536 for value in struct.unpack("<9i", bytes(stored)))
        turn = (a, b, c, d)
        told = f"a b c d = {a} {b} {c} {d}, " + ("mirrored" if a * d - b * c < 0 else "not mirrored")
    print(f"{name}: rotation {frame.rotation}, {told}")
    if (frame.rotation, turn) != expected:
        changed.append(name)
if changed:
    sys.exit(f"this has changed: {changed}")
PY
venv/bin/python show.py
