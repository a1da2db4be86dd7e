"""How fast the shard job is beside a bare loop over the same videos, and how much memory its workers take.

    python -m tests.bench.shard_job [--clips 2000] [--workers 2] [--policy fast] [--long [--minutes 120]]

Generated 320x240 h264 videos of 160 frames become jpeg clips of 16x128x128. `bare`: processes that decode with PyAV,
resize with libswscale, encode and write with webdataset's ShardWriter, without isolation, hashes, checks or resuming.
`without Ray`: the shard job's own worker in bare processes. `vtok`: the whole job after ray.init, its workers' start,
the manifest and the seal included. One after the other, each once: run it several times on a quiet machine.
`--long`: one video of two hours, and the peak memory of the worker and of its decoding process.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

from schemas.config import Recipe
from vtok.shards.codec import encode_clip
from vtok.video.ffmpeg import ffmpeg_binary

FRAMES, LENGTH, RESOLUTION = 160, 16, 128
_MARK = "VTOK_BENCH"


def main() -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--policy", choices=["fast", "reference"], default="fast")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--minutes", type=int, default=120)
    options = parser.parse_args()
    os.environ[_MARK] = secrets.token_hex(8)
    with tempfile.TemporaryDirectory() as folder:
        if options.long:
            long_video(Path(folder), options.minutes, options.policy)
        else:
            compare(Path(folder), options.clips, options.workers, options.policy)


def compare(folder: Path, clips: int, workers: int, policy: str) -> None:
    """Prints seconds and ratios of the three ways."""
    videos = write_videos(folder / "videos", max(1, clips * LENGTH // FRAMES))
    clips = len(videos) * FRAMES // LENGTH
    settings = recipe(folder, workers, policy)
    bare = timed(lambda: bare_loop(videos, folder / "bare", workers))  # before Ray is imported: it forks

    from pipelines.ingest import ingest
    from pipelines.runtime import ray_session, run_job
    from pipelines.shard import shard_job

    with ray_session(settings.cluster):
        ingest(settings)
    planned = shard_job(settings)
    (folder / "alone").mkdir()
    alone = timed(lambda: without_ray(planned, folder / "alone", workers))
    with ray_session(settings.cluster), watched() as peaks:
        ours = timed(lambda: run_job(planned, settings.cluster))
    print(f"{clips} clips of {len(videos)} videos, {workers} workers, policy {policy}")
    for name, seconds in (("bare", bare), ("without Ray", alone), ("vtok", ours)):
        print(f"  {name:12} {seconds:7.1f} s  {clips / seconds:7.1f} clips/s  {bare / seconds:5.2f} of bare")
    print(f"  Ray overhead {ours / alone - 1:+.1%}")
    show(peaks)


def long_video(folder: Path, minutes: int, policy: str) -> None:
    """Prints the peak memory of a worker that cuts up one very long video."""
    encode(folder / "videos" / "long.mp4", "160x120", 25, minutes * 60)
    settings = recipe(folder, 1, policy)
    from pipelines.ingest import ingest
    from pipelines.runtime import ray_session
    from pipelines.shard import shard

    with ray_session(settings.cluster), watched() as peaks:
        ingest(settings)
        card = shard(settings)
    print(f"{minutes} minutes, {card.counts['clips']} clips")
    show(peaks)


def recipe(folder: Path, workers: int, policy: str) -> Recipe:
    return Recipe.model_validate(
        {
            "out": str(folder / "run"),
            "data": {"root": str(folder / "videos"), "resolution": RESOLUTION, "num_frames": LENGTH},
            "shards": {"policy": policy, "clips_per_shard": 100},
            "cluster": {"workers": workers},
        }
    )


def write_videos(folder: Path, count: int) -> list[Path]:
    """Copies of one video, each with a box of its own at the end, so that no two have the same bytes."""
    first = folder / "00000.mp4"
    encode(first, "320x240", 25, FRAMES / 25)
    data = first.read_bytes()
    paths = [folder / f"{number:05d}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(data + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big"))
    return paths


def encode(path: Path, size: str, rate: int, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = f"testsrc2=size={size}:rate={rate}:duration={seconds}"
    options = ["-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-y"]
    subprocess.run([ffmpeg_binary(), "-nostdin", "-loglevel", "error", *options, str(path)], check=True)


def bare_loop(videos: list[Path], out: Path, workers: int) -> None:
    out.mkdir()
    jobs = [(videos[number::workers], str(out / f"{number}-%05d.tar")) for number in range(workers)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.starmap(_bare_worker, jobs)


def _bare_worker(videos: list[Path], pattern: str) -> None:
    import webdataset

    settings = recipe(Path("unused"), 1, "fast").shards
    with webdataset.ShardWriter(pattern, maxcount=100, verbose=0) as sink:
        for path in videos:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                stream.thread_type = "NONE"
                frames = []
                for frame in container.decode(stream):
                    small = frame.reformat(width=171, height=RESOLUTION, format="rgb24").to_ndarray()
                    frames.append(small[:, 21 : 21 + RESOLUTION])
            for start in range(0, len(frames) - LENGTH + 1, LENGTH):
                members = encode_clip(np.stack(frames[start : start + LENGTH]), settings, 25.0)
                sink.write({"__key__": f"{path.stem}-{start:06d}", "json": {"start": start}, **members})


def without_ray(job: Any, out: Path, workers: int) -> None:
    init = (str(out), *job.init[1:])
    shares = [[(unit.name, unit.payload) for unit in job.units[number::workers]] for number in range(workers)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.starmap(_lone_worker, [(job.worker, init, share) for share in shares])


def _lone_worker(worker: type, init: tuple[Any, ...], units: list[tuple[str, Any]]) -> None:
    made = worker(*init)
    for name, payload in units:
        made.make(name, payload)


def timed(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Peak resident bytes of workers and decoding processes, by kind and process, sampled ten times a second."""
    peaks: dict[str, int] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            for process in Path("/proc").iterdir():
                with contextlib.suppress(OSError, StopIteration, ValueError):
                    if (
                        not process.name.isdecimal()
                        or os.environ[_MARK].encode() not in (process / "environ").read_bytes()
                    ):
                        continue
                    line = (process / "cmdline").read_text()
                    kind = "worker" if "_Actor" in line else "decoder" if "vtok.video.child" in line else ""
                    status = (process / "status").read_text().splitlines()
                    peak = next(int(text.split()[1]) << 10 for text in status if text.startswith("VmHWM"))
                    if kind:
                        peaks[f"{kind} {process.name}"] = peak

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


def show(peaks: dict[str, int]) -> None:
    for name, peak in sorted(peaks.items()):
        print(f"  peak of {name:16} {peak >> 20} MiB")


if __name__ == "__main__":
    main()
