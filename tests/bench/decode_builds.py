"""Decoding by this build beside another checkout of it: the same files, in turns, as a ratio of CPU time.

    git worktree add /tmp/older COMMIT
    python -m tests.bench.decode_builds --other /tmp/older --videos ../shared/videos [--rounds 9]

Every round starts one process a build, the order alternating. A process decodes each file once unmeasured, then
`--repeats` times: every frame, resized and cropped to 128, in clips of 16, with both decoders and policies. The figure
is the median over rounds of (this build's CPU time) / (the other's); below 1 this build is the faster.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parents[2]
_VARIANTS = [(decoder, policy) for decoder in ("pyav", "ffmpeg") for policy in ("reference", "fast")]


def main() -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="root of the other checkout")
    parser.add_argument("--videos", type=Path, help="folder with kinetics_arm_wrestling.mp4")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(_measure(options.worker, options.repeats)))
        return
    if options.other is None or not (options.other / "vtok").is_dir():
        parser.error("--other names no checkout of vtok")
    from tests.bench.decode import dense_videos

    with tempfile.TemporaryDirectory() as folder:
        videos = dense_videos(Path(folder), options.videos, 1.0)
        ratios: dict[str, list[float]] = {}
        for number in range(options.rounds):
            builds = [_HERE, options.other.resolve()]
            found = {}
            for build in builds if number % 2 == 0 else reversed(builds):
                found[build] = _run(build, [str(path) for path in videos.values()], options.repeats)
            for key, seconds in found[builds[0]].items():
                ratios.setdefault(key, []).append(seconds / found[builds[1]][key])
    names = {str(path): name for name, path in videos.items()}
    for key, values in ratios.items():
        path, decoder, policy = key.split("|")
        print(f"{names[path]:45} {decoder:7} {policy:10} {statistics.median(values):.3f}  ({_spread(values)})")


def _spread(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}, {len(values)} rounds"


def _run(build: Path, paths: list[str], repeats: int) -> dict[str, float]:
    """CPU seconds a file, decoder and policy, by a checkout's own code."""
    command = [sys.executable, __file__, "--repeats", str(repeats), "--worker", *paths]
    environment = {**os.environ, "PYTHONPATH": str(build)}
    done = subprocess.run(command, env=environment, cwd=build, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure(paths: list[str], repeats: int) -> dict[str, float]:
    """What a build's process does; imports whatever vtok its PYTHONPATH names."""
    from vtok.video.clips import ClipSpan
    from vtok.video.decode import decode_clips
    from vtok.video.probe import StreamFacts, probe

    def decode(path: str, facts: StreamFacts, decoder: str, policy: str) -> None:
        count = facts.frames // 16
        spans = [ClipSpan(i * 16, 1, i * 16 / facts.fps, (i + 1) * 16 / facts.fps, None, 16) for i in range(count)]
        clips = list(decode_clips(path, facts, spans, resolution=128, policy=policy, decoder=decoder))
        if len(clips) != count or any(isinstance(clip, Exception) for _, clip in clips):
            raise SystemExit(f"{path} is not decoded whole")

    found = {}
    for path in paths:
        facts = probe(path)  # ingest does it, once
        for decoder, policy in _VARIANTS:
            decode(path, facts, decoder, policy)
            begun = _cpu()
            for _ in range(repeats):
                decode(path, facts, decoder, policy)
            found[f"{path}|{decoder}|{policy}"] = _cpu() - begun
    return found


def _cpu() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    main()
