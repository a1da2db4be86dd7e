"""Tokens per second from a token store into shuffled batches of 16 x 1,024 codes: vtok with its checks on, beside
litdata, mosaicml-streaming, datatrove, Hugging Face datasets, Grain, webdataset and a bare memmap.

    python -m tests.bench.token_reading --out token_reading.json [--peers-python venv/bin/python]

Everyone reads the same uniform codes (14 bits) on one core. Ours come with names, labels and boxes; the others hold the
codes alone, as it is fastest for them (`token_peers.py`). A measurement is a process of its own: the time to the first
batch counts from its start, imports included; an epoch that is not timed comes first, of which the codes' sum is
compared (vtok lays its cache out in it); then batches of further epochs for a second or two, then the time to go on at
90 % of an epoch. Rounds are interleaved; medians.

`--ratio` measures vtok against the bare memmap alone, batches of both by turns in one process: a ratio that a busy
machine changes little. Peers live in an environment of their own (`--peers-python`; with pydantic, jaxtyping, PyYAML,
h5py and google-crc32c, so that vtok can export to litdata there); what is missing there is left out with a line.
`--scale` measures a store of 10,000 parts and 10,000,000 short rows instead: opening, first batch, resuming, memory.
"""

from __future__ import annotations

import time

START = time.perf_counter()

import argparse  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from tests.bench.token_peers import (  # noqa: E402
    BATCH,
    BUILT_BY_PEERS,
    CODEBOOK,
    GRID,
    LENGTH,
    PEERS,
    Epoch,
    build,
    open_peer,
)

ROOT = Path(__file__).resolve().parents[2]
BESIDE_TORCH = "vtok, in a process that has torch"
OURS = ("vtok", "vtok, parts shuffled", "vtok, no checks")
CONTENDERS = (*OURS, BESIDE_TORCH, "memmap", "webdataset", *PEERS)


def build_store(folder: Path, rows: int) -> None:
    """A finished token store of uniform codes, 512 rows a part."""
    from vtok import artefacts
    from vtok.tokens.store import write_tokens

    names = [f"train-{i:05d}.parquet" for i in range(-(-rows // 512))]
    plan = artefacts.make_plan("tokens", {"mode": "exact"}, {}, names)
    artefacts.begin(folder, plan)
    random = np.random.default_rng(0)
    parts = []
    for i, name in enumerate(names):
        numbers = range(512 * i, min(rows, 512 * (i + 1)))
        codes = random.integers(0, CODEBOOK, (len(numbers), LENGTH), dtype=np.uint16)
        made = [token_row(number, row, GRID) for number, row in zip(numbers, codes, strict=True)]
        parts.append(write_tokens(folder / name, made, plan=plan.fingerprint, **part_facts(GRID)))
    seal(folder, plan, parts, GRID)


def token_row(number: int, codes: np.ndarray, grid: tuple[int, int, int]) -> dict[str, Any]:
    t, h, w = grid
    return {
        "clip_id": f"clip-{number:08d}",
        "view_id": "whole",
        "flip": False,
        "height": 8 * h,
        "width": 8 * w,
        "decoder": "",
        "codes": codes,
        "grid_t": t,
        "grid_h": h,
        "grid_w": w,
        "num_frames": 4 * t,
        "fps": 25.0,
        "start_time": 0.0,
        "end_time": 0.64,
        "split": "train",
        "label": number % 101,
        "class_name": f"class {number % 101}",
        "source": f"{number // 8}.avi",
        "source_sha256": f"{number // 8:064x}",
        "shard": f"train-{number // 512:05d}.tar",
    }


def part_facts(grid: tuple[int, int, int]) -> dict[str, Any]:
    common: dict[str, Any] = {"tokenizer": "a" * 64, "codebook_size": CODEBOOK, "grid": grid, "split": "train"}
    return {**common, "rejects": [], "row_group_rows": 256, "point": ""}


def seal(folder: Path, plan: Any, parts: list[Any], grid: tuple[int, int, int]) -> None:
    from vtok import artefacts

    facts = {"tokenizer": "a" * 64, "codebook_size": CODEBOOK, "grid": list(grid), "mode": "exact", "classes": []}
    clips = sum(part.rows for part in parts)
    counts = {"clips": clips, "tokens": clips * math.prod(grid), "parts": len(parts)}
    artefacts.seal(folder, plan, parts, counts=counts, facts=facts)


def open_epochs(name: str, data: Path) -> tuple[Epoch, Any]:
    """A function that starts an epoch at a batch, and what resumes it."""
    if name in (*OURS, BESIDE_TORCH):
        from vtok.tokens.loader import TokenLoader
        from vtok.tokens.store import TokenStore

        order: Any = "parts" if "parts" in name else "rows"
        verify = "no checks" not in name
        loader = TokenLoader(TokenStore(data / "store"), "train", BATCH, seed=0, order=order, verify=verify)

        def ours(start: int) -> Iterator[Any]:
            epoch = loader.epoch if loader.step % loader.batches_per_epoch == 0 else loader.epoch + 1
            loader.load_state_dict({**loader.state_dict(), "step": epoch * loader.batches_per_epoch + start})
            return (batch.codes_bthw for batch in loader)

        return ours, loader
    if name == "memmap":
        codes = np.load(data / "codes.npy", mmap_mode="r")

        def memmap(start: int) -> Iterator[Any]:
            order = np.random.default_rng(0).permutation(len(codes))
            for at in range(start * BATCH, len(codes) - BATCH + 1, BATCH):
                yield codes[order[at : at + BATCH]].astype(np.int64)

        return memmap, None
    return open_peer(name, data)


def endless(epoch: Epoch) -> Iterator[Any]:
    """The batches of epoch after epoch."""
    while True:
        yield from epoch(0)


def measure(name: str, data: Path, seconds: float) -> dict[str, Any]:
    """Time to the first batch, tokens/s of later epochs, time to resume, the sum of an epoch's codes."""
    own: dict[str, float] = {}
    if name == BESIDE_TORCH:
        import torch  # noqa: F401

        own["import_torch_s"] = time.perf_counter() - START
    epoch, loader = open_epochs(name, data)
    stream = epoch(0)
    head = next(stream)
    first = time.perf_counter() - START
    began = time.perf_counter()
    total, batches = 0, 0
    for batch in itertools.chain([head], stream):
        total += int(np.asarray(batch, dtype=np.int64).sum())
        batches += 1
    laid_out = time.perf_counter() - began
    stream = endless(epoch)
    tokens, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        for batch in itertools.islice(stream, 64):
            tokens += int(np.prod(np.asarray(batch).shape))
    rate = tokens / spent
    began = time.perf_counter()
    next(epoch(int(0.9 * batches)))
    resumed = time.perf_counter() - began
    if name in OURS:
        places = np.random.default_rng(0).integers(loader.clips, size=1000).tolist()
        began = time.perf_counter()
        for place in places:
            loader.source.row(place)
        own["random_row_ms"] = time.perf_counter() - began  # of a thousand: seconds are milliseconds a row
    return {
        **own,
        "first_batch_s": first,
        "first_epoch_s": laid_out,
        "mtok_s": rate / 1e6,
        "resume_s": resumed,
        "sum": total,
        "rows": batches * BATCH,
    }


def ratio(rows: int, rounds: int = 200) -> None:
    """vtok and the memmap by turns in one process, eight batches each; neither its first epoch."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VTOK_CACHE"] = f"{folder}/cache"
        data = Path(folder)
        build_store(data / "store", rows)
        build("memmap", data)
        for name in OURS:
            streams = {}
            for each in (name, "memmap"):
                epoch, _ = open_epochs(each, data)
                for _ in epoch(0):
                    pass
                streams[each] = endless(epoch)
            times: dict[str, list[float]] = {each: [] for each in streams}
            for _ in range(rounds):
                for each, stream in streams.items():
                    began = time.perf_counter()
                    for _ in itertools.islice(stream, 8):
                        pass
                    times[each].append(time.perf_counter() - began)
            ours, bare = (8 * BATCH * LENGTH / statistics.median(times[each]) / 1e6 for each in (name, "memmap"))
            print(f"{name}: {ours:.0f} million codes/s, memmap {bare:.0f}: {ours / bare:.2f} of it", flush=True)


def scale(parts: int, rows: int) -> None:
    """A store of many parts (a few different ones under many names) and short rows."""
    from vtok import artefacts
    from vtok.tokens.loader import TokenLoader
    from vtok.tokens.store import TokenStore, write_tokens

    grid, different = (1, 4, 4), 50
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VTOK_CACHE"] = f"{folder}/cache"
        path = Path(folder) / "store"
        names = [f"train-{i:05d}.parquet" for i in range(parts)]
        plan = artefacts.make_plan("tokens", {"mode": "exact"}, {}, names)
        artefacts.begin(path, plan)
        random, made = np.random.default_rng(0), []
        for i in range(different):
            codes = random.integers(0, CODEBOOK, (rows // parts, 16), dtype=np.uint16)
            clips = [token_row(i * len(codes) + n, row, grid) for n, row in enumerate(codes)]
            made.append(write_tokens(path / names[i], clips, plan=plan.fingerprint, **part_facts(grid)))
        for i in range(different, parts):
            os.link(path / made[i % different].path, path / names[i])
        seal(path, plan, [replace(made[i % different], path=name) for i, name in enumerate(names)], grid)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        clock = [time.perf_counter()]
        loader = TokenLoader(TokenStore(path), "train", BATCH, seed=0)
        clock.append(time.perf_counter())
        next(iter(loader))
        clock.append(time.perf_counter())
        state = {**loader.state_dict(), "step": int(0.9 * loader.batches_per_epoch)}
        loader.load_state_dict(state)
        next(iter(loader))
        clock.append(time.perf_counter())
        opened, first, resumed = np.diff(clock)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{parts:,} parts, {loader.clips:,} rows: open {opened:.2f} s, first batch {first:.3f} s,", end=" ")
        print(f"resume at 90 % {resumed:.3f} s, state {len(json.dumps(state))} bytes, memory +{grown:.0f} MiB")


def _call(python: str, *arguments: str, cache: Path) -> dict[str, Any] | str:
    """What a process of its own measured, or the last line of why it could not."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VTOK_CACHE": str(cache)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "HF_DATASETS_CACHE": str(cache)}
    command = [python, "-m", "tests.bench.token_reading", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Builds what is needed, measures round after round, prints the table."""
    build_store(data / "store", options.rows)
    size = sum(path.stat().st_size for path in (data / "store").glob("*.parquet"))
    bits = 8 * size / (options.rows * LENGTH)
    print(
        f"{options.rows:,} rows of {LENGTH:,} uniform codes of 14 bits: {bits:.2f} bits a code in the store", flush=True
    )
    python = {name: options.peers_python or sys.executable if name in PEERS else sys.executable for name in CONTENDERS}
    names = []
    for name in options.only or CONTENDERS:
        writer = python[name] if name in BUILT_BY_PEERS else sys.executable
        built = {} if name in (*OURS, BESIDE_TORCH) else _call(writer, "--build", name, "--data", str(data), cache=data)
        if isinstance(built, str):
            print(f"{name} is left out: {built}")
        else:
            names.append(name)
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with tempfile.TemporaryDirectory() as cache:
                arguments = ["--run", name, "--data", str(data), "--seconds", str(options.seconds)]
                result = _call(python[name], *arguments, cache=Path(cache))
            if isinstance(result, str):
                print(f"{name} failed: {result}")
                continue
            found.setdefault(name, []).append(result)
    if len({result["sum"] for results in found.values() for result in results if result["rows"] == options.rows}) > 1:
        raise SystemExit("the contenders did not read the same codes")
    ours = statistics.median(result["mtok_s"] for result in found.get("vtok", next(iter(found.values()))))
    columns = ("reader", "Mtok/s", "min to max", "vtok / this", "first batch", "first epoch", "resume at 90 %")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    rows = []
    for name, results in found.items():
        middle = {key: statistics.median(result[key] for result in results) for key in results[0] if key != "sum"}
        rates = [result["mtok_s"] for result in results]
        rows.append(
            {"reader": name, **middle, "spread": [min(rates), max(rates)], "vtok_ratio": ours / middle["mtok_s"]}
        )
        print(
            f"| {name} | {middle['mtok_s']:.1f} | {min(rates):.1f} to {max(rates):.1f} | {ours / middle['mtok_s']:.2f} "
            f"| {middle['first_batch_s']:.2f} s | {middle['first_epoch_s']:.2f} s | {middle['resume_s']:.3f} s |"
        )
    for row in rows:
        if "random_row_ms" in row:
            print(f"{row['reader']}: a random row of the cache takes {row['random_row_ms']:.4f} ms")
        elif "import_torch_s" in row:
            print(f"{row['reader']}: {row['import_torch_s']:.2f} s of its first batch is `import torch`")
    return {"options": {**vars(options), "out": None}, "bits_per_code": bits, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192, help="a multiple of 16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="at least so long is a rate measured")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS)
    parser.add_argument("--peers-python", help="python of the environment that has the peers")
    parser.add_argument("--ratio", action="store_true")
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--parts", type=int, default=10_000, help="of --scale")
    parser.add_argument("--scale-rows", type=int, default=10_000_000, help="of --scale")
    parser.add_argument("--out", type=Path, help="JSON with all figures")
    for hidden in ("--run", "--build"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scale:
        scale(options.parts, options.scale_rows)
    elif options.ratio:
        ratio(options.rows)
    elif options.build:
        build(options.build, options.data)
        print("{}")
    elif options.run:
        print(json.dumps(measure(options.run, options.data, options.seconds)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = compare(options, Path(folder))
        if options.out:
            options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
