"""Generate: clips drawn from a prior of any kind, decoded by the tokenizer, written as mp4 with an index of how each
was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.runtime import Job, Unit, run_job
from schemas.card import MADE_WITH, Card
from schemas.config import Recipe
from schemas.config.prior import SampleConfig
from schemas.errors import UsageError
from schemas.paths import as_path
from schemas.samples import SAMPLES
from vtok import artefacts
from vtok.artefacts import Part
from vtok.audio.stores import audio_of_store
from vtok.files import local_copy, read_table, sha256_of
from vtok.parquet import recover_part, write_part
from vtok.priors.collate import Collate, text_tokenizer_of
from vtok.priors.load import load_prior
from vtok.priors.tats import GptPrior
from vtok.sampling.clips import draw_clips
from vtok.sampling.given import GivenClips, columns_for, given_clips, given_labels, wants_clips
from vtok.seeds import derive
from vtok.stopwatch import Stopwatch
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.store import TokenStore
from vtok.video.decode import read_video
from vtok.video.encode import write_gif, write_mp4
from vtok.video.ffmpeg import ffmpeg_version
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
    if config.fill is not None:
        filling = artefacts.load(as_path(config.fill), "prior")
        if filling.facts["tokenizer"] != tokenizer.facts["fingerprint"]:
            raise UsageError(
                "the prior that is to fill in frames was trained on codes of another tokenizer",
                at="sample.fill",
                hint=f"train it on {recipe.folder('tokens')}",
            )
        inputs["fill"] = filling.fingerprint
    settings |= {"seed": recipe.seed, MADE_WITH: {"ffmpeg": ffmpeg_version()}}
    plan = artefacts.make_plan("samples", settings, inputs, [unit.name for unit in units])
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
            str(recipe.folder("tokens")),
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
        tokens: str | None = None,
    ) -> None:
        self.folder, self.plan, self.seed, self.classes = as_path(folder), plan, seed, classes
        self.config = SampleConfig.model_validate(config)
        torch.set_num_threads(self.config.threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.prior = load_prior(prior, self.device)
        self.fill = None if self.config.fill is None else self._filling(self.config.fill)
        self.tokenizer = load_tokenizer(tokenizer, self.device)
        self.collate = Collate(self.prior.config, self.device, text_tokenizer_of(as_path(prior), self.prior.config))
        self.clips = None
        if wants_clips(self.prior, self.config):
            store = TokenStore(as_path(tokens or ""))
            if store.tokenizer != self.tokenizer.fingerprint:
                raise UsageError("the token store was made by another tokenizer than the prior's", at=str(store.folder))
            heard = artefacts.load(as_path(prior), "prior").facts.get("audio_tokenizer")
            if heard and heard != audio_of_store(store).get("fingerprint"):
                raise UsageError(
                    "the token store's sounds were encoded by another tokenizer than the prior's", at=str(store.folder)
                )
            self.clips = GivenClips(store, self.config.given, columns_for(self.prior))
        self.clock = Stopwatch()
        card = artefacts.load(as_path(prior), "prior")
        self.prior_fingerprint = card.fingerprint
        whole = isinstance(self.prior, GptPrior) and self.prior.config.boxes
        self.crop: tuple[int, int, int] | None = None
        if card.facts.get("cropped") and not whole:  # with the places of its crops a prior draws whole clips
            self.crop = card.facts["grid"]

    def make(self, name: str, payload: list[int]) -> Part:
        """Draws one batch; every clip has a generator of its own, so it does not depend on the others."""
        config = self.config
        seeds = [derive(self.seed, "sample", number) for number in payload]
        labels = [self._label(number) for number in payload] if self.classes else None
        given, clip_ids = given_labels(labels, len(payload), self.device), []
        if self.clips is not None:
            given, clips = given_clips(self.clips, payload, self.collate, self.crop)
            clip_ids = [row["clip_id"] for row in clips]
            if given.labels_b is not None and config.label is None:
                labels = given.labels_b.tolist()
            elif labels is not None:
                given = given._replace(labels_b=torch.tensor(labels, device=self.device))
        generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]
        codes_bthw = draw_clips(self.prior, given, config, generators, self.fill)
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
        metadata = {"plan": self.plan, "split": "all", "rejects": [], "given": clip_ids}
        return write_part(
            self.folder / name, pa.Table.from_pylist(rows, schema=SAMPLES), metadata, point=f"samples:{name}"
        )

    def _filling(self, folder: str) -> GptPrior:
        fill = load_prior(folder, self.device)
        if not isinstance(fill, GptPrior):
            raise UsageError("only a prior of kind gpt fills in frames", at="sample.fill")
        return fill

    def _label(self, number: int) -> int:
        return self.config.label if self.config.label is not None else number % len(self.classes)
