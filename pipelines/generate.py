"""Generate: clips drawn from the prior, decoded by the tokenizer, written as mp4 with an index of how each was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.runtime import Job, Unit, run_job
from schemas.card import Card
from schemas.config import Recipe
from schemas.config.prior import SampleConfig
from schemas.errors import UsageError
from schemas.paths import as_path
from schemas.samples import SAMPLES
from vtok import artefacts
from vtok.artefacts import Part
from vtok.files import local_copy, read_table, sha256_of
from vtok.parquet import recover_part, write_part
from vtok.priors.load import load_prior
from vtok.sampling.autoregressive import sample_codes
from vtok.seeds import derive
from vtok.stopwatch import Stopwatch
from vtok.tokenizers.load import load_tokenizer
from vtok.video.decode import read_video
from vtok.video.encode import write_gif, write_mp4
from vtok.video.ffmpeg import ffmpeg_binary
from vtok.video.preview import grid_frames
from vtok.video.ranges import to_pixels

GRID_NAME = "grid.gif"
_GRID_CLIPS = 64


def generate(recipe: Recipe) -> Card:
    """Makes `samples/` of the run from its `prior/` and `tokenizer/`.

    Raises:
        UsageError: one of them is missing, they do not belong together, or the label is not one of the prior's.
        VtokError: the ffmpeg program is not there.
    """
    ffmpeg_binary()  # fails now rather than in a worker
    prior = artefacts.load(recipe.folder("prior"), "prior")
    tokenizer = artefacts.load(recipe.folder("tokenizer"), "tokenizer")
    if prior.facts["tokenizer"] != tokenizer.facts["fingerprint"]:
        raise UsageError(
            f"the prior was trained on codes of tokenizer {prior.facts['tokenizer']}, "
            f"this one is {tokenizer.facts['fingerprint']}",
            at=str(recipe.folder("tokenizer")),
            hint="put the tokenizer of the prior's token store in place",
        )
    config, classes = recipe.sample, prior.facts["classes"]
    if config.label is not None and config.label >= len(classes):
        have = f"labels 0 to {len(classes) - 1}" if classes else "no labels: it is unconditional"
        raise UsageError(f"no class {config.label}", at="sample.label", hint=f"the prior has {have}")
    numbers = range(config.num)
    units = []
    for number, start in enumerate(range(0, config.num, config.batch_size)):
        chunk = list(numbers[start : start + config.batch_size])
        units.append(Unit(f"part-{number:05d}.parquet", len(chunk), chunk))
    settings = config.model_dump(mode="json", exclude={"threads"})
    inputs = {"prior": prior.fingerprint, "tokenizer": tokenizer.facts["fingerprint"]}
    plan = artefacts.make_plan("samples", {**settings, "seed": recipe.seed}, inputs, [unit.name for unit in units])
    folder = recipe.folder("samples")

    def finish(parts: list[Part]) -> tuple[dict[str, int], dict[str, Any]]:
        _write_grid(folder, [part.path for part in parts], config.fps)
        return {"samples": sum(part.rows for part in parts)}, {"classes": classes}

    job = Job(
        folder,
        plan,
        units,
        worker=GenerateWorker,
        init=(
            str(folder),
            plan.fingerprint,
            str(recipe.folder("prior")),
            str(recipe.folder("tokenizer")),
            config.plain(),
            recipe.seed,
            classes,
        ),
        recover=recover_part,
        finish=finish,
        title="sample",
        item="clips",
        seconds=lambda: float(config.num),
        splits={},
    )
    return run_job(job, recipe.cluster)


def _write_grid(folder: Path, parts: list[str], fps: float) -> None:
    """The first samples, tiled into one GIF."""
    rows = [row for part in parts for row in read_table(folder / part, schema=SAMPLES).to_pylist()][:_GRID_CLIPS]
    clips = []
    for row in rows:
        with local_copy(folder / row["path"]) as local:
            clips.append(read_video(local))
    columns = int(np.ceil(np.sqrt(len(clips))))
    write_gif(folder / GRID_NAME, grid_frames(clips, columns), fps)


class GenerateWorker:
    """Holds prior and tokenizer and draws batches of clips."""

    def __init__(
        self,
        folder: str,
        plan: str,
        prior: str,
        tokenizer: str,
        config: dict[str, Any],
        seed: int,
        classes: list[str],
    ) -> None:
        self.folder, self.plan, self.seed, self.classes = as_path(folder), plan, seed, classes
        self.config = SampleConfig.model_validate(config)
        torch.set_num_threads(self.config.threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.prior = load_prior(prior, self.device)
        self.tokenizer = load_tokenizer(tokenizer, self.device)
        self.clock = Stopwatch()
        self.prior_fingerprint = artefacts.load(as_path(prior), "prior").fingerprint

    def make(self, name: str, payload: list[int]) -> Part:
        """Draws one batch; every clip has a generator of its own, so it does not depend on the others."""
        config = self.config
        labels = [self._label(number) for number in payload] if self.classes else None
        seeds = [derive(self.seed, "sample", number) for number in payload]
        codes_bthw = sample_codes(
            self.prior,
            num=len(payload),
            labels_b=torch.tensor(labels, device=self.device) if labels else None,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            generator=[torch.Generator(self.device).manual_seed(seed) for seed in seeds],
        )
        with self.clock.phase("decode"), torch.inference_mode():
            videos = [self.tokenizer.decode(codes.unsqueeze(0)) for codes in codes_bthw]
        rows = []
        for index, number in enumerate(payload):
            path = self.folder / f"sample-{number:05d}.mp4"
            write_mp4(path, to_pixels(videos[index].cpu().numpy())[0], config.fps)
            label = labels[index] if labels else None
            rows.append(
                {
                    "sample_id": path.stem,
                    "path": path.name,
                    "sha256": sha256_of(path),
                    "codes": codes_bthw[index].reshape(-1).tolist(),
                    "seed": seeds[index],
                    "label": label,
                    "class_name": self.classes[label] if label is not None else None,
                    "prior": self.prior_fingerprint,
                    "tokenizer": self.tokenizer.fingerprint,
                    "temperature": config.temperature,
                    "top_k": config.top_k,
                    "top_p": config.top_p,
                }
            )
        metadata = {"plan": self.plan, "split": "all", "rejects": []}
        return write_part(
            self.folder / name, pa.Table.from_pylist(rows, schema=SAMPLES), metadata, point=f"samples:{name}"
        )

    def _label(self, number: int) -> int:
        return self.config.label if self.config.label is not None else number % len(self.classes)
