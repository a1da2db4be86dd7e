"""Tokenize: every clip goes through the tokenizer once, into the Parquet token store.

One shard (or what would be one, if the videos themselves are encoded) becomes one part for each view. A part carries a
fingerprint of everything that decides its bytes: the clips, the view, the tokenizer, the settings. When clips or views
change, the parts whose fingerprint is still the planned one are kept, and the store becomes what a new one would be.
When settings change, no part could be kept, and the store is left as it is.
"""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipelines.runtime import Job, Proof, Unit, run_job
from pipelines.token_inputs import Inputs, clip_inputs, shard_inputs
from pipelines.tokenize_update import kept_parts
from pipelines.tokenize_worker import TokenizeWorker, TokenPart
from schemas.card import CARD_NAME, MADE_WITH, PLAN_NAME, Card, Plan
from schemas.config import Recipe
from schemas.config.base import fingerprint
from schemas.config.tokens import TokensConfig, ViewConfig
from schemas.errors import UsageError
from schemas.paths import as_path
from schemas.version import SCHEMA_VERSIONS
from vtok import artefacts, console
from vtok.audio.clips import check_shards
from vtok.audio.tokenizer import AudioTokenizer, load_audio_tokenizer
from vtok.parquet import recover_made_to
from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokenizers.chunked import encoder_halo
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.sealing import contents_fingerprint, store_facts
from vtok.tokens.views import view_shape

_STORED, _ROW_BYTES = 1.05, 60
"""Estimated size of a token row: this many times log2(codebook size) bits a code, and its other columns."""

Shape = tuple[int, int, int]


def tokenize(recipe: Recipe) -> Card:
    """Makes `tokens/` of the run from its `tokenizer/` and its `shards/` (or `clips/` and the videos).

    Raises:
        UsageError: one of them is missing or unfinished, the clips do not fit the tokenizer, or the folder holds
            tokens that were made with another tokenizer or other settings.
    """
    job = tokenize_job(recipe)
    if recipe.tokens.source == "clips" and _complete(job.folder, job.plan):
        console.note(
            "complete. The clips know their videos by name and size: a video that was replaced by another one of equal "
            f"size is found by `vtok tokens check {job.folder} --reencode 1% --videos {recipe.data.root}`, or by 100%"
        )
    return run_job(job, recipe.cluster)


def tokenize_job(recipe: Recipe) -> Job:
    """Plans the job; writes nothing. Raises what `tokenize` raises."""
    config, tokenizer_folder, folder = recipe.tokens, recipe.folder("tokenizer"), recipe.folder("tokens")
    inputs = shard_inputs(recipe) if config.source == "shards" else clip_inputs(recipe)
    tokenizer_card = artefacts.load(tokenizer_folder, "tokenizer")
    tokenizer = load_tokenizer(tokenizer_folder)
    shapes = [view_shape(view, inputs.num_frames, inputs.resolution) for view in config.views]
    grids = [_grid(*pair, config, tokenizer, recipe) for pair in zip(config.views, shapes, strict=True)]
    audio = _audio_tokenizer(recipe, inputs)
    audio_grids = [None if audio is None else _audio_grid(frames, audio) for frames, _, _ in shapes]
    remote = recipe.cluster.address is not None
    device = _device(config, folder, remote=remote)
    settings = {
        "tokenizer": tokenizer.fingerprint,
        "codebook_size": tokenizer.codebook_size,
        "mode": config.mode,
        "device": device,
        "chunk_frames": config.chunk_frames,
        "cond_frames": config.cond_frames,
        "batch_size": config.batch_size if device == "cuda" else 1,
        "row_group_rows": config.row_group_rows,
        "source": config.source,
        "decoding": inputs.decoding,
    }
    if config.source == "clips":  # of shards, what they hold decides: a part stays as long as that does
        settings[MADE_WITH] = inputs.programs
    if audio is not None and config.audio is not None:  # else as it was before there was sound: stores keep their parts
        settings["audio"] = {**audio.facts.plain(), "silent": config.audio.silent}
    units = _units(inputs, config, settings, shapes, grids, audio_grids)
    contents = {unit.name: unit.payload.content for unit in units}
    plan = artefacts.make_plan(
        "tokens",
        {
            **settings,
            **({MADE_WITH: inputs.programs} if inputs.programs else {}),
            "views": [_planned_view(*each) for each in zip(config.views, grids, audio_grids, strict=True)],
            "classes": inputs.card.facts["classes"],
            "contents": contents_fingerprint(contents),
        },
        {inputs.card.kind: inputs.card.fingerprint, "tokenizer": tokenizer_card.fingerprint},
        [unit.name for unit in units],
    )
    if device == "cuda" and not remote and not torch.cuda.is_available() and not _complete(folder, plan):
        raise UsageError(
            "this store is made on a GPU, and this machine has none that torch can use",
            at=str(folder),
            hint="run the same command where a GPU is; on a CPU, with another `out`: there codes may differ",
        )

    def measure() -> float:
        where = "cuda" if device == "cuda" and torch.cuda.is_available() else "cpu"
        tokenizer.to(where)
        torch.set_num_threads(config.threads)
        seconds = 0.0
        for frames, height, width in shapes:
            batch = torch.zeros(1, 3, min(frames, config.chunk_frames or frames), height, width, device=where)
            started = time.monotonic()
            tokenizer.encode(batch, mode=config.mode)
            seconds += (time.monotonic() - started) * frames / batch.shape[2]
        return seconds * sum(part.clips for part in inputs.parts)

    splits: dict[str, int] = {}
    for part in inputs.parts:
        splits[part.split] = splits.get(part.split, 0) + part.clips * len(config.views)
    root = as_path(recipe.data.root) if config.source == "clips" else None
    return Job(
        folder,
        plan,
        units,
        worker=TokenizeWorker,
        init=(str(folder), str(tokenizer_folder), config.plain(), device, inputs.make),
        recover=lambda path, _: recover_made_to(path, contents[path.name]),
        finish=partial(store_facts, folder, plan),
        title="tokenize",
        item="clips" if len(config.views) == 1 else "rows",
        seconds=measure,
        splits=splits,
        keeps=partial(kept_parts, folder, plan, contents, root),
        proof=None if inputs.prover is None else Proof(*inputs.prover, partial(_shards_of, units)),
        gpus=1 / config.actors_per_gpu if device == "cuda" else 0.0,
        device=device,
    )


def _units(
    inputs: Inputs,
    config: TokensConfig,
    settings: dict[str, Any],
    shapes: list[Shape],
    grids: list[Shape],
    audio_grids: list[Shape | None],
) -> list[Unit]:
    """One unit a view and part of the input; the view `whole` has the plain names."""
    units = []
    for part in inputs.parts:
        shard = part.payload["path"] if config.source == "shards" else ""
        for number, (view, shape, grid, sound) in enumerate(zip(config.views, shapes, grids, audio_grids, strict=True)):
            content = fingerprint(
                {
                    "version": SCHEMA_VERSIONS["tokens"],
                    "clips": part.digest,
                    "split": part.split,
                    "shard": shard,
                    "view": view.plain(),
                    **settings,
                }
            )
            codes = part.clips * math.prod(grid)
            row_bytes = _ROW_BYTES + 3 * config.cond_frames * shape[1] * shape[2]
            bits = math.prod(grid) * math.log2(settings["codebook_size"])
            if sound is not None:
                bits += math.prod(sound) * math.log2(settings["audio"]["codebook_size"])
            units.append(
                Unit(
                    f"{part.stem}.parquet" if view.name == "whole" else f"{part.stem}.{view.name}.parquet",
                    part.clips,
                    TokenPart(number, part.split, shard, part.payload, grid, sound, content),
                    cost=float(part.clips * math.prod(shape)),
                    frames=part.frames,
                    bytes=round(part.clips * (bits / 8 * _STORED + row_bytes)),
                    tokens=codes,
                )
            )
    return units


def _shards_of(units: list[Unit], kept: set[str]) -> list[Unit]:
    """The shards of the parts that do not stay, each once."""
    shards = {unit.payload.shard: unit for unit in units if unit.name not in kept}
    return [
        Unit(name, unit.items, unit.payload.clips, cost=float(unit.payload.clips["bytes"]))
        for name, unit in shards.items()
    ]


def _planned_view(view: ViewConfig, grid: Shape, audio_grid: Shape | None) -> dict[str, Any]:
    """A view's entry in the plan."""
    sound = {} if audio_grid is None else {"audio_grid": list(audio_grid)}
    return {**view.plain(), "grid": list(grid), **sound}


def _audio_tokenizer(recipe: Recipe, inputs: Inputs) -> AudioTokenizer | None:
    """What encodes the clips' sound; none: it is not wanted.

    Raises:
        UsageError: there is none, or the clips have no sound that it knows.
    """
    config = recipe.tokens.audio
    if config is None:
        return None
    audio = load_audio_tokenizer(config.tokenizer)
    spectrum, source = audio.facts.spectrum, recipe.tokens.source
    kept = inputs.card.config if source == "shards" else {"shards": recipe.shards.plain()}
    rate = check_shards(kept, spectrum, str(recipe.folder(source)))
    if rate != audio.facts.audio_rate:
        raise UsageError(
            f"the clips' sound has {rate} samples a second, the tokenizer of sound knows {audio.facts.audio_rate}",
            at=config.tokenizer,
            hint="set shards.audio_rate to what it was trained on, and make the shards again",
        )
    return audio


def _audio_grid(num_frames: int, audio: AudioTokenizer) -> Shape:
    """Codes (t, h, w) of the sound of a view."""
    try:
        return audio.grid(num_frames)
    except ValueError as error:
        raise UsageError(str(error), at="tokens.audio", hint="make clips or views that fit the tokenizer") from None


def _grid(view: ViewConfig, shape: Shape, config: TokensConfig, tokenizer: VideoAutoencoder, recipe: Recipe) -> Shape:
    """Stored codes (t, h, w) of a view of that many frames, rows and columns of pixels."""
    at = f"tokens.views: {view.name}" if len(config.views) > 1 else str(recipe.folder(config.source))
    if tokenizer.config.image_channels != 3:
        raise UsageError(
            f"this tokenizer sees {tokenizer.config.image_channels} channels, frames have 3",
            at=str(recipe.folder("tokenizer")),
            hint="a tokenizer of sound belongs into tokens.audio.tokenizer",
        )
    try:
        t, h, w = tokenizer.grid(*shape)
    except ValueError as error:
        raise UsageError(str(error), at=at, hint=f"make {config.source} (or views) that fit the tokenizer") from None
    if config.cond_frames > shape[0]:
        raise UsageError(
            f"a view of {shape[0]} frames has no {config.cond_frames} first ones",
            at="tokens.cond_frames",
            hint="lower it",
        )
    if config.chunk_frames is not None and shape[0] > config.chunk_frames:
        if config.mode == "fast":
            raise UsageError("chunks are encoded in exact mode only", at="tokens.mode", hint="set it to exact")
        encoder_halo(tokenizer.config)  # refuses tokenizers whose codes depend on the whole clip
        step = tokenizer.downsample[0]
        if config.chunk_frames % step:
            raise UsageError(
                f"chunks of {config.chunk_frames} frames are not divisible by the downsampling factor {step}",
                at="tokens.chunk_frames",
                hint=f"take a multiple of {step}",
            )
    return -(-t // view.latent_stride), h, w


def _device(config: TokensConfig, folder: Path, *, remote: bool) -> str:
    """Where the tokenizer runs.

    `auto` goes on where the store in the folder was begun, as its parts say so. A new one: with a cluster elsewhere,
    only an explicit `cuda` asks for its GPUs.
    """
    here = torch.cuda.is_available()
    if config.device == "cuda" and not here and not remote:
        raise UsageError("this machine has no GPU that torch can use", at="tokens.device", hint="set it to cpu or auto")
    if config.device != "auto":
        return config.device
    if (folder / PLAN_NAME).exists():
        there = artefacts.load_plan(folder)
        begun = there.config.get("device") if there.kind == "tokens" else None
        if begun in ("cpu", "cuda"):
            return str(begun)
    return "cuda" if here else "cpu"


def _complete(folder: Path, plan: Plan) -> bool:
    """Whether the folder holds what the plan makes, and there is nothing to do."""
    return (folder / CARD_NAME).exists() and artefacts.load_plan(folder).fingerprint == plan.fingerprint
