#!/usr/bin/env bash
# The time stamps of H.264 with B-frames in AVI say the order of decoding, not of display.
#
# Versions:  av 18.1.0; imageio-ffmpeg 0.8.1 (its ffmpeg n9.0.2 makes the files).
# Behaviour: AVI stores no presentation times. Its packets come with pts that rise strictly in the order of decoding:
#            dts plus one frame (the last one's less), so a B-frame's pts is wrong. The decoder hands the frames out in
#            the right order all the same; who sorts them by pts, or looks one up by its time, gets other frames.
# Seen:      mp4 packets (pts, dts), frames of 0.1 s: (0, -2) (3, -1) (1, 0) (2, 1) (6, 2) (4, 3) (5, 4) ...
#            avi packets (pts, dts), frames of 0.1 s: (1, 0) (2, 1) (3, 2) (4, 3) (5, 4) (6, 5) (7, 6) ...
#            avi frames in the order of decode(), as places in the mp4: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..., 19]
#            avi frames sorted by pts, as places in the mp4: [0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, ..., 19]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet av==18.1.0 imageio-ffmpeg==0.8.1
ffmpeg=$("$work/venv/bin/python" -c 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())')
cd "$work"
"$ffmpeg" -v error -f lavfi -i testsrc=size=64x48:rate=10:duration=2 \
    -c:v libx264 -threads 1 -bf 2 -pix_fmt yuv420p a.mp4
"$ffmpeg" -v error -i a.mp4 -c copy a.avi
cat > show.py <<'PY'
import sys

import av


def packets(path: str) -> list[tuple[float, float]]:
    """(pts, dts) of every packet in the order of the file, counted in frames of 0.1 s."""
    with av.open(path) as container:
        return [
            (float(p.pts * p.time_base * 10), float(p.dts * p.time_base * 10))
            for p in container.demux(video=0)
            if p.size
        ]


def frames(path: str) -> list[tuple[int, bytes]]:
    """(pts, pixels) of every frame in the order of the decoder."""
    with av.open(path) as container:
        return [(f.pts, b"".join(bytes(plane) for plane in f.planes)) for f in container.decode(video=0)]


stamps = {kind: packets(f"a.{kind}") for kind in ("mp4", "avi")}
for kind, pairs in stamps.items():
    print(f"{kind} packets (pts, dts), frames of 0.1 s:", *(f"({p:g}, {d:g})" for p, d in pairs[:7]), "...")
truth = [pixels for _, pixels in frames("a.mp4")]
assert len(set(truth)) == len(truth) == 20, "every frame is another one"
avi = frames("a.avi")
decoded = [truth.index(pixels) for _, pixels in avi]
by_time = [truth.index(pixels) for _, pixels in sorted(avi)]
print("avi frames in the order of decode(), as places in the mp4:", decoded)
print("avi frames sorted by pts, as places in the mp4:", by_time)
rising = [pts for pts, _ in stamps["avi"]]
if rising != sorted(set(rising)) or decoded != list(range(20)) or by_time == decoded:
    sys.exit("this has changed")
PY
venv/bin/python show.py
