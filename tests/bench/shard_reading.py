"""Clips per second from shards into torch batches: vtok with its checks on, beside webdataset, litdata and
mosaicml-streaming.

    python tests/bench/shard_reading.py --out shard_reading.json [--peers-python venv/bin/python]

Everyone reads the same 16x128x128 JPEG clips, shuffled, decodes them with the same function in `--workers` processes
and hands out the same uint8 tensors. A measurement is a process of its own that reads two epochs: the first one
includes imports, the start of the workers and, for vtok, the sha256 of every file; the second one is what training sees
from then on (the others end an epoch with empty queues, vtok's workers go on into the next). Rounds are interleaved.
The sums over an epoch's pixels are compared, so nobody is fast by reading something else.

litdata and mosaicml-streaming live in an environment of their own with the same torch (`--peers-python`); what is
missing there is left out with a line.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FRAMES, SIZE = 16, 128
GRAIN = 1.5
"""Standard deviation of the noise: clips of 137 KiB, as real ones."""
PEERS = ("litdata", "mds")
CONTENDERS = ("vtok", "vtok, no checks", "webdataset", *PEERS)
ROOT = Path(__file__).resolve().parents[2]


def decode(sample: dict[str, Any]) -> np.ndarray:
    """The frames of a sample's JPEG members; the one decoder of all contenders."""
    names = sorted(name for name in sample if name.endswith(".jpg"))
    return np.stack([np.asarray(Image.open(io.BytesIO(sample[name])).convert("RGB")) for name in names])


def _jpegs(number: int) -> dict[str, bytes]:
    """Frames with as many bytes as real ones: a moving smooth picture with a little grain."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((SIZE + FRAMES, SIZE), Image.Resampling.BICUBIC), np.int16)
    out = {}
    for t in range(FRAMES):
        grain = random.normal(0, GRAIN, (SIZE, SIZE, 1))
        frame = (picture[:, t : t + SIZE] + grain).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling=0)
        out[f"{t:03d}.jpg"] = buffer.getvalue()
    return out


def build_shards(folder: Path, clips: int, clips_per_shard: int) -> None:
    """A finished shards artefact, which webdataset reads as it is."""
    from vtok import artefacts
    from vtok.artefacts import Part
    from vtok.shards.writer import write_shard

    names = [f"train-{i:05d}.tar" for i in range(-(-clips // clips_per_shard))]
    plan = artefacts.make_plan("shards", {"resolution": SIZE, "num_frames": FRAMES}, {}, names)
    artefacts.begin(folder, plan)
    parts = []
    for shard, name in enumerate(names):
        numbers = range(shard * clips_per_shard, min(clips, (shard + 1) * clips_per_shard))
        meta = {"label": None, "class_name": None}
        samples = ((f"clip{n:06d}", {"json": json.dumps(meta).encode(), **_jpegs(n)}) for n in numbers)
        footer = {"plan": plan.fingerprint, "split": "train", "rows": len(numbers), "rejects": []}
        size, digest = write_shard(folder / name, samples, footer, point="")
        parts.append(Part(name, "train", len(numbers), size, digest))
    artefacts.seal(folder, plan, parts, counts={"clips": clips}, facts={"classes": []})


def _samples(path: str) -> Iterator[dict[str, bytes]]:
    """The JPEG members of a tar, sample by sample."""
    sample: dict[str, bytes] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            if stream is None or not member.name.endswith(".jpg"):
                continue
            if member.name.endswith("000.jpg") and sample:
                yield sample
                sample = {}
            sample[member.name.split(".", 1)[1]] = stream.read()
    if sample:
        yield sample


def build_peer(name: str, data: Path) -> None:
    """The same clips in a peer's own format, in chunks of about the size of the shards."""
    tars = sorted(str(path) for path in (data / "shards").glob("*.tar"))
    if name == "litdata":
        import litdata

        litdata.optimize(_samples, tars, str(data / name), num_workers=1, chunk_bytes=Path(tars[0]).stat().st_size)
    if name == "mds":
        _register_torchvision_operators()
        from streaming import MDSWriter

        columns = {f"{t:03d}.jpg": "bytes" for t in range(FRAMES)}
        with MDSWriter(out=str(data / name), columns=columns, size_limit=Path(tars[0]).stat().st_size) as writer:
            for tar in tars:
                for sample in _samples(tar):
                    writer.write(sample)


def _register_torchvision_operators() -> None:
    """streaming imports torchvision, whose wheel does not load beside a torch for the CPU unless these are declared."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)


_KEPT: list[Any] = []


def open_loader(name: str, data: Path, workers: int, batch_size: int) -> Iterable[Any]:
    """An iterable that gives an epoch of uint8 batches (b, t, h, w, 3) every time it is iterated."""
    if name.startswith("vtok"):
        from vtok.shards import reader as module
        from vtok.shards.loader import ClipBatches, ClipLoader

        module.decode_clip = decode
        reader = module.ShardReader(data / "shards", "train", verify="node" if name == "vtok" else "off")
        return _Videos(ClipLoader(ClipBatches(reader, batch_size), workers=workers))
    import torch

    def to_tensor(sample: dict[str, Any]) -> torch.Tensor:
        return torch.from_numpy(decode(sample))

    if name == "webdataset":
        import webdataset

        urls = sorted(str(path) for path in (data / "shards").glob("*.tar"))
        pipeline = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(256).map(to_tensor)
        batched = pipeline.batched(batch_size, collation_fn=torch.stack)
        return webdataset.WebLoader(batched, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    if name == "litdata":
        import litdata

        class Lit(litdata.StreamingDataset):
            def __getitem__(self, index: Any) -> torch.Tensor:
                return to_tensor(super().__getitem__(index))

        dataset = Lit(str(data / name), shuffle=True, drop_last=True)
        return litdata.StreamingDataLoader(
            dataset, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0
        )
    _register_torchvision_operators()
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Mds(StreamingDataset):
        def __getitem__(self, index: Any) -> torch.Tensor:
            return to_tensor(super().__getitem__(index))

    clean_stale_shared_memory()
    dataset = Mds(local=str(data / name), shuffle=True, batch_size=batch_size, num_canonical_nodes=1)
    return StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0)


class _Videos:
    """The videos of vtok's batches, as tensors."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        import torch

        return (torch.from_numpy(batch.video_bthwc) for batch in self.loader)


def measure(name: str, data: Path, workers: int, batch_size: int) -> dict[str, Any]:
    """Two epochs: clips/s of each, and the sum of the clips' checksums over an epoch that is not timed."""
    start = time.perf_counter()
    loader = open_loader(name, data, workers, batch_size)
    rates, first_batch = [], 0.0
    for _ in range(2):
        clips = 0
        for batch in loader:
            if not first_batch:
                first_batch = time.perf_counter() - start
            clips += len(batch)
        rates.append(clips / (time.perf_counter() - start))
        start = time.perf_counter()
    checksum = sum(zlib.crc32(video.numpy().tobytes()) for batch in loader for video in batch)
    return {"first_epoch": rates[0], "clips_s": rates[1], "first_batch": first_batch, "clips": clips, "sum": checksum}


def _call(python: str, *arguments: str, cache: Path) -> dict[str, Any] | str:
    """What a process of its own measured, or the last line of why it could not."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VTOK_CACHE": str(cache)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([python, __file__, *arguments], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Builds what is needed, measures round after round, prints the table."""
    build_shards(data / "shards", options.clips, options.clips_per_shard)
    size = sum(path.stat().st_size for path in (data / "shards").glob("*.tar"))
    kib = size / options.clips / 1024
    print(f"{options.clips} clips of {kib:.0f} KiB, batches of {options.batch_size}", flush=True)
    python = {name: options.peers_python or sys.executable if name in PEERS else sys.executable for name in CONTENDERS}
    names = []
    for name in options.only or CONTENDERS:
        built = _call(python[name], "--build", name, "--data", str(data), cache=data) if name in PEERS else {}
        if isinstance(built, str):
            print(f"{name} is left out: {built}")
        else:
            names.append(name)
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for round_number in range(options.rounds):
        for workers in options.workers:
            for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
                with tempfile.TemporaryDirectory() as cache:  # so that vtok's first epoch verifies
                    arguments = ["--run", name, "--data", str(data), "--batch-size", str(options.batch_size)]
                    result = _call(python[name], *arguments, "--workers", str(workers), cache=Path(cache))
                if isinstance(result, str):
                    raise SystemExit(f"{name} with {workers} workers: {result}")
                found.setdefault((name, workers), []).append(result)
    whole = {result["sum"] for results in found.values() for result in results if result["clips"] == options.clips}
    if len(whole) > 1:
        raise SystemExit("the contenders did not read the same pixels")
    rows = []
    for (name, workers), results in sorted(found.items(), key=lambda item: item[0][1]):
        rates = [result["clips_s"] for result in results]
        ours = statistics.median(result["clips_s"] for result in found.get(("vtok", workers), results))
        rows.append(
            {
                "reader": name,
                "workers": workers,
                "clips_s": statistics.median(rates),
                "spread": [min(rates), max(rates)],
                "vtok_ratio": ours / statistics.median(rates),
                "first_epoch_clips_s": statistics.median(result["first_epoch"] for result in results),
                "first_batch_s": statistics.median(result["first_batch"] for result in results),
                "clips": results[0]["clips"],
                "same_pixels_proven": results[0]["clips"] == options.clips,
            }
        )
    columns = ("reader", "workers", "clips/s", "min to max", "vtok / this", "first epoch", "first batch", "clips")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        low, high = row["spread"]
        print(
            f"| {row['reader']} | {row['workers']} | {row['clips_s']:.1f} | {low:.1f} to {high:.1f} "
            f"| {row['vtok_ratio']:.2f} | {row['first_epoch_clips_s']:.1f} | {row['first_batch_s']:.2f} s "
            f"| {row['clips']} |"
        )
    return {"options": {**vars(options), "out": None}, "bytes": size, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1024, help="clips in the corpus; a multiple of the batch size")
    parser.add_argument("--clips-per-shard", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS)
    parser.add_argument("--peers-python", help="python of the environment that has litdata and mosaicml-streaming")
    parser.add_argument("--out", type=Path, help="JSON with all figures")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--build", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build_peer(options.build, options.data)
        print("{}")
    elif options.run:
        print(json.dumps(measure(options.run, options.data, options.workers[0], options.batch_size)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = compare(options, Path(folder))
        if options.out:
            options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
