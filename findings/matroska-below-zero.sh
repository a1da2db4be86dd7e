#!/usr/bin/env bash
# Matroska packets whose time lies below zero come without any time.
#
# Versions:  av 18.1.0; imageio-ffmpeg 0.8.1 (its ffmpeg n9.0.2 makes the files).
# Behaviour: a Matroska block may lie before time 0 (its time is signed, relative to its cluster). Such packets are
#            handed over with neither pts nor dts, although the file says both when and how far apart; frames decoded
#            from them have no pts. From time 0 on everything is there, and start_time says 0.
# Seen:      stored in the file, in ms: [-2000, -1900, ..., -100, 0, 100, ..., 1900] (40 blocks)
#            packets: 20 with neither pts nor dts, then (0, 0) (100, 100) ... (1900, 1900)
#            frames: 20 without pts, then 0, 100, ..., 1900; start_time 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet av==18.1.0 imageio-ffmpeg==0.8.1
ffmpeg=$("$work/venv/bin/python" -c 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())')
cd "$work"
"$ffmpeg" -v error -f lavfi -i testsrc=size=64x48:rate=10:duration=4 \
    -c:v libx264 -threads 1 -bf 0 -pix_fmt yuv420p a.mp4
"$ffmpeg" -v error -i a.mp4 -c copy -output_ts_offset -2 -avoid_negative_ts disabled a.mkv
cat > show.py <<'PY'
import sys
from pathlib import Path

import av


def number(data: bytes, at: int, keep_marker: bool) -> tuple[int, int]:
    """An EBML number and where it ends."""
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    return (value if keep_marker else value & ((1 << 7 * length) - 1)), at + length


def stored_times(data: bytes) -> list[int]:
    """The times of the simple blocks of a file's only cluster, which starts at 0."""
    cluster = bytes.fromhex("1f43b675")
    assert data.count(cluster) == 1
    size, at = number(data, data.index(cluster) + 4, False)
    end, times = at + size, []
    while at < end:
        name, at = number(data, at, True)
        size, at = number(data, at, False)
        if name == 0xE7:
            assert not any(data[at : at + size]), "the cluster starts at 0"
        if name == 0xA3:
            times.append(int.from_bytes(data[at + 1 : at + 3], "big", signed=True))
        at += size
    return times


stored = stored_times(Path("a.mkv").read_bytes())
with av.open("a.mkv") as container:
    start = container.streams.video[0].start_time
    packets = [(p.pts, p.dts) for p in container.demux(video=0) if p.size]
with av.open("a.mkv") as container:
    frames = [frame.pts for frame in container.decode(video=0)]
times = list(range(0, 2000, 100))
print(f"stored in the file, in ms: {stored} ({len(stored)} blocks)")
print(f"packets: {packets.count((None, None))} with neither pts nor dts, then", *packets[20:])
print(f"frames: {frames.count(None)} without pts, then {frames[20:]}; start_time {start}")
if (
    stored != list(range(-2000, 2000, 100))
    or packets != [(None, None)] * 20 + [(t, t) for t in times]
    or frames != [None] * 20 + times
    or start != 0
):
    sys.exit("this has changed")
PY
venv/bin/python show.py
