"""A tiny finished run: real artefact functions, models and workers, but no Ray and no training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import yaml

from pipelines.generate import GenerateWorker
from pipelines.tokenize_clips import tokenize_job
from schemas.clips import CLIPS, reject_row
from schemas.config import Recipe
from schemas.config.data import ShardsConfig
from trainers.metrics import MetricsLog
from vtok import artefacts
from vtok.artefacts import Part
from vtok.files import write_bytes, write_json, write_table
from vtok.parquet import write_part
from vtok.priors.tats import GptPrior
from vtok.seeds import generator
from vtok.shards.codec import encode_clip
from vtok.shards.writer import write_shard
from vtok.tokenizers.vqgan import VQGAN
from vtok.video.encode import write_gif
from vtok.weights import write_weights

CLASSES = ["Blink", "Drift & <b>Roll</b>"]
"""The second name is there to be escaped."""
NASTY = "bad <script>alert(1)</script> & co.avi"
STAGES = ("clips", "shards", "tokenizer", "tokens", "prior", "samples")
_PER_CLASS = {"train": 6, "test": 3}


def recipe(folder: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny <run>",
            "out": str(folder),
            "data": {"root": "videos", "resolution": 16, "num_frames": 4},
            "shards": {"encoding": "raw", "clips_per_shard": 100},
            "tokenizer": {
                "model": {"embedding_dim": 4, "n_codes": 16, "n_hiddens": 4, "downsample": [2, 4, 4], "norm": "batch"}
            },
            "tokens": {"batch_size": 4},
            "prior": {"model": {"n_layer": 1, "n_head": 1, "n_embd": 8, "condition": "label"}},
            "sample": {"num": 6, "batch_size": 6},
        }
    )


def make_run(folder: Path, stages: tuple[str, ...] = STAGES) -> Recipe:
    """Makes the first stages of a run, as many as are named."""
    settings = recipe(folder)
    for stage in stages:
        _MAKERS[stage](settings)
    return settings


def _rows() -> list[dict[str, object]]:
    rows = []
    for split, count in _PER_CLASS.items():
        for label, name in enumerate(CLASSES):
            for number in range(count):
                source = f"class{label}/{split}{number}.avi"
                rows.append(
                    {
                        "clip_id": f"{source.removesuffix('.avi')}_0",
                        "source": source,
                        "source_bytes": 1,
                        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
                        "stream": 0,
                        "codec": "mpeg4",
                        "fps": 8.0,
                        "height": 16,
                        "width": 16,
                        "frames": 4,
                        "frames_exact": True,
                        "duration": 0.5,
                        "rotation": 0,
                        "has_audio": False,
                        "start_frame": 0,
                        "frame_stride": 1,
                        "start_time": 0.0,
                        "end_time": 0.5,
                        "frame_rate": None,
                        "num_frames": 4,
                        "split": split,
                        "label": label,
                        "class_name": name,
                        "caption": None,
                        "bbox": None,
                    }
                )
    return rows


def _video(label: int, random: np.random.Generator) -> np.ndarray:
    """Class 0 blinks, class 1 has a bright column that drifts."""
    video = random.integers(0, 80, (4, 16, 16, 3), dtype=np.uint8)
    for t in range(4):
        if label == 0:
            video[t] += np.uint8(120 * (t % 2))
        else:
            video[t, :, 4 * t : 4 * t + 3] = 230
    return video


def _clips(settings: Recipe) -> None:
    folder = settings.folder("clips")
    plan = artefacts.make_plan("clips", settings.data.plain(), {"files": "f" * 64}, ["part-00000.parquet"])
    artefacts.begin(folder, plan)
    rejects = [
        reject_row("clips", NASTY, None, "unreadable", "no <moov> atom"),
        reject_row("clips", "e.avi", None, "empty", ""),
    ]
    metadata = {"plan": plan.fingerprint, "split": "all", "rejects": rejects}
    rows = _rows()
    part = write_part(folder / plan.units[0], pa.Table.from_pylist(rows, schema=CLIPS), metadata, point="")
    counts = {"files": len(rows) + 2, "files_with_clips": len(rows), "rejected_files": 2, "clips": len(rows)}
    artefacts.seal(folder, plan, [part], counts=counts, facts={"splits": {}, "classes": CLASSES})


def _shards(settings: Recipe) -> None:
    folder, random = settings.folder("shards"), np.random.default_rng(0)
    config = {"shards": settings.shards.plain(), "resolution": 16, "num_frames": 4, "seed": 0}
    inputs = {"clips": artefacts.load(settings.folder("clips"), "clips").fingerprint}
    plan = artefacts.make_plan("shards", config, inputs, ["test-00000.tar", "train-00000.tar"])
    artefacts.begin(folder, plan)
    parts, kept = [], []
    for name in plan.units:
        split = name.split("-")[0]
        mine = [row for row in _rows() if row["split"] == split]
        rejects = []
        if split == "train":
            lost = mine.pop()
            rejects.append(reject_row("shards", str(lost["source"]), str(lost["clip_id"]), "corrupt", "bad block"))
        samples = []
        for row in mine:
            meta = json.dumps(row, sort_keys=True).encode()
            frames = _video(int(str(row["label"])), random)
            samples.append(
                (str(row["clip_id"]), {"json": meta, **encode_clip(frames, ShardsConfig(encoding="raw"), 8.0)})
            )
        sources = {row["source"]: row["source_sha256"] for row in mine}
        footer = {"plan": plan.fingerprint, "split": split, "rows": len(mine), "sources": sources, "rejects": rejects}
        size, digest = write_shard(folder / name, samples, footer, point="")
        parts.append(Part(name, split, len(mine), size, digest, rejects))
        kept += mine
    write_table(folder / "_clips.table", pa.Table.from_pylist(kept, schema=CLIPS))
    splits = {part.split: part.rows for part in parts}
    counts = {"clips": len(kept), "planned": len(_rows()), "shards": 2}
    artefacts.seal(folder, plan, parts, counts=counts, facts={"splits": splits, "classes": CLASSES})


def _tokenizer(settings: Recipe) -> None:
    folder, model = settings.folder("tokenizer"), settings.tokenizer.model
    inputs = {"shards": artefacts.load(settings.folder("shards"), "shards").fingerprint}
    plan = artefacts.make_plan("tokenizer", {"model": model.plain()}, inputs, [])
    artefacts.begin(folder, plan)
    vqgan = VQGAN(model, generator(0, "vqgan"))
    draws = generator(0, "video")
    vqgan.train()(torch.rand(4, 3, 4, 16, 16, generator=draws) - 0.5, draws)
    log = MetricsLog(folder, 0)
    for step in (1, 2):
        values = {"loss": 2.0 / step, "recon": 1.0 / step, "perplexity": 4.0 * step, "val_psnr": 10.0 + step}
        log.write({"step": step, "steps": 2, **values, "val_psnr_still": 11.5, "val_perplexity": float("nan")})
        frames = np.full((4, 34, 34, 3), 90 * step, dtype=np.uint8)
        write_gif(folder / "previews" / f"step-{step:08d}.gif", frames, 8.0)
    digest = write_weights(folder, "tokenizer", vqgan.eval().state_dict(), {"model": model.plain()})
    facts = {"fingerprint": vqgan.fingerprint, "codebook_size": 16, "downsample": [2, 4, 4], "grid": [2, 4, 4]}
    counts = {"steps": 2, "parameters": sum(p.numel() for p in vqgan.parameters()), "bytes": 1}
    artefacts.seal_card(folder, plan, index_sha256=digest, counts=counts, facts=facts)


def _tokens(settings: Recipe) -> None:
    job = tokenize_job(settings)
    artefacts.begin(job.folder, job.plan)
    threads = torch.get_num_threads()
    worker = job.worker(*job.init)
    parts = [worker.make(unit.name, unit.payload) for unit in job.units]
    torch.set_num_threads(threads)
    counts, facts = job.finish(parts)
    artefacts.seal(job.folder, job.plan, parts, counts=counts, facts=facts)


def _prior(settings: Recipe) -> None:
    folder, tokens, model = settings.folder("prior"), settings.folder("tokens"), settings.prior.model
    tokenizer = artefacts.load(settings.folder("tokenizer"), "tokenizer").facts["fingerprint"]
    inputs = {"tokens": artefacts.load(tokens, "tokens").fingerprint, "tokenizer": tokenizer}
    plan = artefacts.make_plan("prior", {"model": model.plain()}, inputs, [])
    artefacts.begin(folder, plan)
    prior = GptPrior(model, 16, (2, 4, 4), 2, generator=generator(0, "prior"))
    facts = {"tokenizer": tokenizer, "grid": [2, 4, 4], "classes": CLASSES, "position_entropy": 1.5}
    description = {
        "model": model.plain(),
        "n_codes": 16,
        **{key: facts[key] for key in ("grid", "classes", "tokenizer")},
    }
    log = MetricsLog(folder, 0)
    for step in (1, 2):
        log.write(
            {"step": step, "steps": 2, "loss": 3.0 - step, "val": 3.1 - step, "position_entropy": 1.5, "acc1": 5.0}
        )
    digest = write_weights(folder, "prior", prior.state_dict(), description)
    counts = {"steps": 2, "parameters": sum(p.numel() for p in prior.parameters()), "bytes": 1}
    artefacts.seal_card(folder, plan, index_sha256=digest, counts=counts, facts=facts)


def _samples(settings: Recipe) -> None:
    folder, prior, tokenizer = (settings.folder(name) for name in ("samples", "prior", "tokenizer"))
    config = settings.sample
    inputs = {
        "prior": artefacts.load(prior, "prior").fingerprint,
        "tokenizer": artefacts.load(tokenizer, "tokenizer").facts["fingerprint"],
    }
    plan = artefacts.make_plan("samples", {**config.plain(), "seed": 0}, inputs, ["part-00000.parquet"])
    artefacts.begin(folder, plan)
    threads = torch.get_num_threads()
    worker = GenerateWorker(str(folder), plan.fingerprint, str(prior), str(tokenizer), config.plain(), 0, CLASSES)
    part = worker.make(plan.units[0], list(range(config.num)))
    torch.set_num_threads(threads)
    artefacts.seal(folder, plan, [part], counts={"samples": config.num}, facts={"classes": CLASSES})


def finish_run(settings: Recipe) -> None:
    """What `vtok demo` leaves beside the stages."""
    write_bytes(Path(settings.out) / "recipe.yaml", yaml.safe_dump(settings.plain(), sort_keys=False).encode())
    write_json(Path(settings.out) / "timings.json", {"stages": [{"name": "vtok data ingest", "seconds": 1.5}]})


_MAKERS = {
    "clips": _clips,
    "shards": _shards,
    "tokenizer": _tokenizer,
    "tokens": _tokens,
    "prior": _prior,
    "samples": _samples,
}
