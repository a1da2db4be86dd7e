#!/usr/bin/env bash
# Where two transport streams are joined, a packet that is whole is flagged as corrupt.
#
# Versions:  av 18.1.0; imageio-ffmpeg 0.8.1 (its ffmpeg n9.0.2 makes the files).
# Behaviour: two .ts files joined with cat lose nothing, but the continuity counter of the video (4 bits, one more every
#            transport packet) starts again. The flag that follows is on a packet BEFORE the seam: number 18, the last
#            but one of the first file's 20. Every packet of the joined file has the bytes that it has in its own file,
#            all frames decode and none of them is flagged. Packet.is_corrupt alone is thus no sign of damage.
# Seen:      first.ts: 20 packets, corrupt []; last counter of the video 0
#            second.ts: 20 packets, corrupt []; first counter of the video 0
#            joined.ts: 40 packets, corrupt [18]; the seam lies before packet 20
#            same bytes as in the two files: True; 40 frames, corrupt []
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet av==18.1.0 imageio-ffmpeg==0.8.1
ffmpeg=$("$work/venv/bin/python" -c 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())')
cd "$work"
"$ffmpeg" -v error -f lavfi -i testsrc=size=64x48:rate=10:duration=2 \
    -c:v libx264 -threads 1 -bf 2 -pix_fmt yuv420p first.ts
"$ffmpeg" -v error -f lavfi -i testsrc2=size=64x48:rate=10:duration=2 \
    -c:v libx264 -threads 1 -bf 2 -pix_fmt yuv420p second.ts
cat first.ts second.ts > joined.ts
cat > show.py <<'PY'
import sys
from pathlib import Path

import av


def packets(name: str) -> list[tuple[bytes, bool]]:
    """(bytes, whether it is flagged as corrupt) of every video packet."""
    with av.open(name) as container:
        return [(bytes(p), p.is_corrupt) for p in container.demux(video=0) if p.size]


def counters(name: str) -> list[int]:
    """The continuity counter of every transport packet of the video (0x100 is where ffmpeg puts it)."""
    data = Path(name).read_bytes()
    cells = [data[at : at + 188] for at in range(0, len(data), 188)]
    return [cell[3] & 15 for cell in cells if (cell[1] & 31) << 8 | cell[2] == 0x100]


def flagged(of: list[tuple[bytes, bool]]) -> list[int]:
    return [number for number, (_, corrupt) in enumerate(of) if corrupt]


first, second, joined = (packets(f"{name}.ts") for name in ("first", "second", "joined"))
before, after = counters("first.ts")[-1], counters("second.ts")[0]
same = [data for data, _ in joined] == [data for data, _ in first + second]
with av.open("joined.ts") as container:
    frames = [frame.is_corrupt for frame in container.decode(video=0)]
drawn = [number for number, corrupt in enumerate(frames) if corrupt]
print(f"first.ts: {len(first)} packets, corrupt {flagged(first)}; last counter of the video {before}")
print(f"second.ts: {len(second)} packets, corrupt {flagged(second)}; first counter of the video {after}")
print(f"joined.ts: {len(joined)} packets, corrupt {flagged(joined)}; the seam lies before packet {len(first)}")
print(f"same bytes as in the two files: {same}; {len(frames)} frames, corrupt {drawn}")
quiet = not flagged(first) and not flagged(second) and not drawn
if not (quiet and same and flagged(joined) == [18] and len(first) == 20 and len(frames) == 40):
    sys.exit("this has changed")
PY
venv/bin/python show.py
