"""How fast clips are decoded, per second of CPU time, beside bare loops over the same frames.

    python -m tests.bench.decode --videos ../shared/videos [--rounds 7] [--json out.json]

Dense: every frame of a video, resized and cropped to 128, 16 frames a clip. `bare` loops decode, resize and crop, and
do nothing else: no isolation, no hash, no checks, no clips. `ours` is a warm `DecodeChild`, both processes counted,
everything included. Sparse: 16 clips of a 60 s video, by the CPU time and by the packets decoded.
Methods take turns within a round; medians over the rounds; the ratio is to the fastest bare loop of the same round.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from vtok.video import decode, frames_pyav
from vtok.video.child import DecodeChild
from vtok.video.clips import ClipSpan
from vtok.video.decode import decode_clips
from vtok.video.errors import VideoError
from vtok.video.ffmpeg import ffmpeg_binary
from vtok.video.probe import StreamFacts, probe
from vtok.video.transforms import target_size

RESOLUTION, LENGTH, SPARSE_CLIPS = 128, 16, 16
Method = Callable[[], int]  # decodes and returns the number of frames


def main() -> None:
    """Runs the benchmark; prints a table, writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--videos", type=Path, help="folder with kinetics_arm_wrestling.mp4; without it that row is out"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--quick", action="store_true", help="tiny videos, one round: does it run at all?")
    options = parser.parse_args()
    rounds, scale, least = (1, 0.05, 0.001) if options.quick else (options.rounds, 1.0, 1.0)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in dense_videos(Path(folder), options.videos, scale).items():
            figures += measure(name, dense_methods(path, 0 if options.quick else 3), rounds, least)
        for gop in (60, 250):
            path = make_video(Path(folder) / f"long{gop}.mp4", 1280, 720, round(1500 * scale), "libx264", gop)
            figures += measure(f"60 s of 720p, GOP {gop}, {SPARSE_CLIPS} clips", sparse_methods(path), rounds, least)
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds, "cpu": cpu_name(), "rows": figures}, indent=1) + "\n")


def dense_videos(folder: Path, videos: Path | None, scale: float) -> dict[str, Path]:
    """Three shapes of videos, by name."""
    found = {}
    if videos is not None:
        found["kinetics_arm_wrestling.mp4 340x256 h264"] = videos / "kinetics_arm_wrestling.mp4"
    found["made 320x240 Xvid avi"] = make_video(
        folder / "ucf.avi", 320, 240, max(32, round(175 * scale)), "libxvid", 12
    )
    found["made 1280x720 h264"] = make_video(folder / "hd.mp4", 1280, 720, max(32, round(300 * scale)), "libx264", 60)
    return found


def make_video(path: Path, width: int, height: int, frames: int, codec: str, gop: int) -> Path:
    """Moving shapes with a little noise, so that there is something to decode."""
    picture = f"testsrc2=size={width}x{height}:rate=25,noise=alls=8:allf=t"
    quality = {"libxvid": ["-q:v", "4"], "libx264": ["-preset", "veryfast", "-crf", "24", "-sc_threshold", "0"]}[codec]
    command = [ffmpeg_binary(), "-nostdin", "-loglevel", "error", "-y", "-f", "lavfi", "-i", picture]
    command += ["-frames:v", str(max(frames, 2 * LENGTH)), "-pix_fmt", "yuv420p", "-c:v", codec, *quality]
    subprocess.run([*command, "-g", str(gop), str(path)], check=True)
    return path


def dense_methods(path: Path, warm: int) -> dict[str, Method]:
    """Every way to decode all whole clips of a video."""
    facts = probe(path)
    spans = [span_at(start, facts) for start in range(0, facts.frames - LENGTH + 1, LENGTH)]
    frames = len(spans) * LENGTH
    child = DecodeChild()
    methods: dict[str, Method] = {
        "bare PyAV, frame.reformat": lambda: bare_pyav(path, facts, frames, shared=False),
        "bare PyAV, one VideoReformatter": lambda: bare_pyav(path, facts, frames, shared=True),
        "bare ffmpeg pipe": lambda: bare_ffmpeg(path, facts, frames),
        "ours, fast": lambda: through_child(child, path, facts, spans, policy="fast"),
        "ours, reference": lambda: through_child(child, path, facts, spans, policy="reference"),
        "ours, fast, decoder ffmpeg": lambda: through_child(child, path, facts, spans, policy="fast", decoder="ffmpeg"),
        "ours, fast, no child": lambda: in_process(path, facts, spans, "fast"),
    }
    if importlib.util.find_spec("torchcodec") is not None:
        methods["torchcodec"] = lambda: bare_torchcodec(path, facts, frames)
    for _ in range(warm):  # a child that has just started pays for its imports
        methods["ours, fast"]()
    return methods


def sparse_methods(path: Path) -> dict[str, Method]:
    """Few clips of a long video."""
    facts = probe(path)
    starts = [i * (facts.frames - LENGTH) // SPARSE_CLIPS for i in range(SPARSE_CLIPS)]
    spans = [span_at(start, facts) for start in starts]

    def seek() -> int:
        return sum(in_process(path, facts, [span], "fast", jumps=True) for span in spans)

    return {
        "bare: seek for every clip": seek,
        "bare: one pass": lambda: in_process(path, facts, spans, "fast", jumps=False),
        "ours": lambda: in_process(path, facts, spans, "fast"),
    }


def span_at(start: int, facts: StreamFacts) -> ClipSpan:
    return ClipSpan(start, 1, start / facts.fps, (start + LENGTH) / facts.fps, None, LENGTH)


def bare_pyav(path: Path, facts: StreamFacts, frames: int, *, shared: bool) -> int:
    """The loop that everyone writes; with `shared`, the one that keeps libswscale's tables between frames."""
    height, width = target_size(facts.height, facts.width, RESOLUTION)
    top, left = (height - RESOLUTION) // 2, (width - RESOLUTION) // 2
    reformatter, count = VideoReformatter(), 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            if shared:
                scaled = reformatter.reformat(frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR)
            else:
                scaled = frame.reformat(width, height, "rgb24", interpolation=Interpolation.BILINEAR)
            np.ascontiguousarray(scaled.to_ndarray()[top : top + RESOLUTION, left : left + RESOLUTION])
            count += 1
            if count == frames:
                break
    return count


def bare_ffmpeg(path: Path, facts: StreamFacts, frames: int) -> int:
    height, width = target_size(facts.height, facts.width, RESOLUTION)
    command = [ffmpeg_binary(), "-nostdin", "-loglevel", "error", "-threads", "1", "-i", str(path), "-vf"]
    command += [f"scale={width}:{height}:flags=bilinear,crop={RESOLUTION}:{RESOLUTION}", "-filter_threads", "1"]
    command += ["-frames:v", str(frames), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    size, count = RESOLUTION * RESOLUTION * 3, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while len(process.stdout.read(size)) == size:
            count += 1
    return count


def bare_torchcodec(path: Path, facts: StreamFacts, frames: int) -> int:
    """Full size from torchcodec, resized by torch: its fastest way on a CPU."""
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1)
    height, width = target_size(facts.height, facts.width, RESOLUTION)
    count = 0
    for start in range(0, frames, LENGTH):
        clip = decoder.get_frames_in_range(start, start + LENGTH).data.float()
        torch.nn.functional.interpolate(clip, (height, width), mode="bilinear").round().byte()
        count += len(clip)
    return count


def in_process(path: Path, facts: StreamFacts, spans: list[ClipSpan], policy: Any, *, jumps: bool | None = None) -> int:
    """`decode_clips` here; `jumps`: always or never, None: as it sees fit."""
    before = decode._is_useful, frames_pyav._MIN_JUMP
    if jumps is not None:
        decode._is_useful, frames_pyav._MIN_JUMP = lambda _: jumps, 1
    try:
        return count_frames(decode_clips(path, facts, spans, resolution=RESOLUTION, policy=policy))
    finally:
        decode._is_useful, frames_pyav._MIN_JUMP = before


def through_child(
    child: DecodeChild, path: Path, facts: StreamFacts, spans: list[ClipSpan], *, policy: Any, decoder: str = "pyav"
) -> int:
    common = {"source_bytes": path.stat().st_size, **facts._asdict(), "medium": None, "item": None, "bbox": None}
    rows = [{**common, **span._asdict()} for span in spans]
    settings = {"resolution": RESOLUTION, "max_pixels": 1 << 26, "cpu_seconds": 600.0}
    results = child.decode(str(path), rows, policy=policy, decoder=decoder, **settings)
    return count_frames((i, r if isinstance(r, VideoError) else r.frames_thwc) for i, r in results)


def count_frames(results: Any) -> int:
    count = 0
    for _, clip in results:
        if isinstance(clip, VideoError):
            raise clip
        count += len(clip)
    return count


def cpu_seconds() -> float:
    """CPU time of this process, of its ended children and of the running ones."""
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    total = sum(usage.ru_utime + usage.ru_stime for usage in (own, ended))
    for process in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own, and its ended children's
    return total


def measure(video: str, methods: dict[str, Method], rounds: int, least: float) -> list[dict[str, Any]]:
    """Frames per CPU second of every method, and its ratio to the best bare one of the same round; prints them, too.

    Each measurement goes on for `least` CPU seconds, because the clock of other processes ticks every 10 ms.
    """
    rates: dict[str, list[float]] = {name: [] for name in methods}
    frames: dict[str, int] = {}
    for _ in range(rounds):
        for name, method in methods.items():
            before, count, used = cpu_seconds(), 0, 0.0
            while used < least:
                frames[name] = method()
                count += frames[name]
                used = max(cpu_seconds() - before, 1e-2)
            rates[name].append(count / used)
    if len(set(frames.values())) > 1:
        print(f"{video}: the methods give different numbers of frames: {frames}", file=sys.stderr)
    bare = [max(rates[name][i] for name in methods if name.startswith("bare")) for i in range(rounds)]
    rows = [
        {
            "video": video,
            "method": name,
            "frames": frames[name],
            "frames_per_cpu_second": round(statistics.median(found), 1),
            "ratio_to_best_bare": round(statistics.median(r / b for r, b in zip(found, bare, strict=True)), 3),
            "ratio_to_first_bare": round(
                statistics.median(r / b for r, b in zip(found, next(iter(rates.values())), strict=True)), 3
            ),
        }
        for name, found in rates.items()
    ]
    print_table(rows)
    return rows


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"\n{rows[0]['video']}\n{'':36}{'frames/CPU-s':>14}{'/ best bare':>14}{'/ first bare':>14}")
    for row in rows:
        print(
            f"{row['method']:36}{row['frames_per_cpu_second']:14.1f}{row['ratio_to_best_bare']:14.3f}"
            f"{row['ratio_to_first_bare']:14.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
