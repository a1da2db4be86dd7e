"""Trains a prior (TATS's GPT, VideoGPT's, MeBT's), streaming codes from a token store.

What a kind takes from a batch, and what it draws for it, is its own business (`vtok.priors.base.Prior`).
"""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemas.card import CARD_NAME, Card, Plan
from schemas.config import Recipe
from schemas.config.prior import GptConfig
from schemas.errors import UsageError
from schemas.paths import NEEDS_LOCAL, local_only
from trainers import loop
from trainers.alone import alone
from trainers.engine import Engine, EngineName, barrier, make_engine, rank, world_size
from trainers.optim import learning_rate
from trainers.ranks import gather, ranks_here
from trainers.task import Task, micro_batches
from vtok import artefacts, console
from vtok.audio.stores import audio_of_store, check_audio
from vtok.files import write_bytes
from vtok.hardware import cpu_count
from vtok.priors.base import Batch, Draws
from vtok.priors.build import Facts, build_prior, describe
from vtok.priors.collate import Collate, check_columns, columns_of
from vtok.priors.flops import codes_trained_on, flops_per_token
from vtok.priors.tats import CLIP_VOCABULARY
from vtok.priors.videogpt import VideoGptPrior
from vtok.seeds import generator
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens import unigram
from vtok.tokens.loader import Crop, TokenLoader
from vtok.tokens.store import TokenStore
from vtok.tokens.unigram import Entropy
from vtok.weights import write_weights

RUN_ONLY = loop.CADENCE | {"accumulate", "cache_gb", "workers"}
"""Options of `PriorTrainConfig` that leave the weights as they are, but for rounding."""


def train_prior(recipe: Recipe, *, resume: str = "auto") -> Card:
    """Makes `prior/` of the run from its `tokens/`.

    Raises:
        UsageError: the store is missing or too small, was made by another tokenizer than the run's, or lacks what the
            prior is conditioned on; or another training of this run is at work.
        VtokError: the loss is not finite, or the disk is full.
    """
    store = TokenStore(recipe.folder("tokens"))
    check_tokenizer(store, recipe.folder("tokenizer"))
    folder, config = local_only(recipe.folder("prior"), "training", NEEDS_LOCAL), recipe.prior
    sound: dict[str, str] = {}
    if isinstance(config.model, GptConfig) and config.model.condition == "audio":
        named = None if recipe.tokens.audio is None else recipe.tokens.audio.tokenizer
        check_audio(store, config.model.tokens_before, config.model.condition_vocabulary or 0, named)
        sound = {"audio_tokenizer": audio_of_store(store).get("fingerprint", "")}
    check_columns(config.model, store)
    settings = config.model_dump(mode="json", exclude={"train": RUN_ONLY})
    if config.train.order == "rows":  # plans from before there was a choice have no such key
        del settings["train"]["order"]
    inputs = {"tokens": store.card.fingerprint, "tokenizer": store.tokenizer, **sound}
    if isinstance(config.model, GptConfig) and config.model.text_tokenizer is not None:
        from vtok.priors.text import read_text_tokenizer

        inputs["text_tokenizer"] = read_text_tokenizer(config.model.text_tokenizer).sha256
    plan = artefacts.make_plan("prior", {**settings, "seed": recipe.seed}, inputs, [])
    with alone(folder, plan, config.train.engine) as card:
        if card is not None:
            return card
        task = PriorTask(recipe, store, folder)
        loop.run(task, config.train, plan, folder, resume=resume)
        if rank() == 0:
            _seal(task, plan, sound)
        barrier()
        return artefacts.load(folder, "prior")


def _seal(task: PriorTask, plan: Plan, sound: dict[str, str]) -> None:
    """Writes the weights, and the card last. `sound`: facts about the audio."""
    store, folder = task.store, task.folder
    text = None if task.collate.text is None else task.collate.text.sha256
    description = describe(task.model, task.facts, task.classes, store.tokenizer, text)
    digest = write_weights(folder, "prior", task.prior.state_dict(), description)
    counts = {
        "steps": task.config.train.steps,
        "parameters": sum(p.numel() for p in task.prior.parameters()),
        "bytes": (folder / "prior.safetensors").stat().st_size,
    }
    facts = {
        "tokenizer": store.tokenizer,
        "grid": list(task.grid),
        "cropped": task.crop is not None,
        "classes": task.classes,
        "position_entropy": task.position_entropy.nats,
        "position_entropy_clips": task.position_entropy.clips,
        "kind": task.model.kind,
        "text_tokenizer_sha256": text,
        **sound,
    }
    artefacts.seal_card(folder, plan, index_sha256=digest, counts=counts, facts=facts)


def check_tokenizer(store: TokenStore, tokenizer: Path) -> None:
    """Refuses a store that another tokenizer made, where the run has a tokenizer.

    Raises:
        UsageError: the fingerprints differ.
    """
    if not (tokenizer / CARD_NAME).exists():
        return
    there = artefacts.load(tokenizer, "tokenizer").facts["fingerprint"]
    if there != store.tokenizer:
        raise UsageError(
            f"the token store was made by tokenizer {store.tokenizer}, the run has {there}",
            at=str(store.folder),
            hint="tokenize the shards again with this tokenizer, or put the tokenizer that made the store in place",
        )


def check_sound_of_crops(store: TokenStore, crop: tuple[int, int, int]) -> None:
    """Refuses crops in time of clips with sound: the codes of a sound are those of a whole clip.

    Raises:
        UsageError: crops do not have all latent frames of every clip.
    """
    if store.ragged or crop[0] != store.grid[0]:
        raise UsageError(
            "crops in time do not go with the sound, which is that of the whole clip",
            at="prior.train.crop",
            hint="crop height and width only, or tokenize windows (tokens.views)",
        )


class PriorTask(Task):
    """Model, data and loss of a prior (`trainers.task.Task`)."""

    name = "prior"
    unit = "tok"

    def __init__(self, recipe: Recipe, store: TokenStore, folder: Path) -> None:
        self.store, self.seed, self.config, self.folder = store, recipe.seed, recipe.prior, folder
        self.model = self.config.model
        self.tokenizer = recipe.folder("tokenizer")
        self.batch_size = self.config.train.batch_size
        self.crop, self.views = self.config.train.crop, self.config.train.views
        self.classes = store.classes if self.model.condition == "label" else []
        if self.crop is not None and "audio_codes" in self.model.columns:
            check_sound_of_crops(store, self.crop)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.loader = TokenLoader(
            store,
            "train",
            self.batch_size,
            seed=self.seed,
            rank=rank(),
            world=world_size(),
            crop=None if self.crop is None else Crop(*self.crop),
            cond_frames="cond_frames" in self.model.columns,
            audio="audio_codes" in self.model.columns,
            views=self.views,
            order=self.config.train.order,
            cache_bytes=int(self.config.train.cache_gb * 2**30),
            workers=self._workers(),
            pin=self.device.type == "cuda",
        )
        self.grid = self.loader.source.shape
        self.units_per_batch = self.batch_size * int(np.prod(self.grid))
        splits = store.splits()
        self.held_out = "test" if splits.get("test") else "train"

    def _workers(self) -> int:
        """Reading processes of this rank: a few do, and the first steps wait for parts to be laid out."""
        if self.config.train.workers != "auto":
            return self.config.train.workers
        return min(2, cpu_count() // ranks_here()) if self.device.type == "cuda" else 0

    @functools.cached_property
    def position_entropy(self) -> Entropy:
        """What validations are compared with; worked out at the first of them, by the rank that writes the logs."""
        if self.crop is None and self.views is None:
            found = unigram.positional(self.store)
        else:  # codes have no place of their own, or are some of the store's: the entropy of all
            found = unigram.overall(self.store)
        console.say(f"{self.name}: position entropy {found}")
        return found

    def build(self, engine: EngineName) -> Mapping[str, Engine]:
        self.collate = Collate(self.model, self.device)
        if isinstance(self.model, GptConfig) and self.model.condition == "text":
            self._make_text_tokenizer(self.model)
        if isinstance(self.model, GptConfig) and self.model.boxes and self.model.box_grid is None:
            self.model = self.model.model_copy(update={"box_grid": self.store.grid_of(self.views)})
        self.facts = self._facts()
        self.prior = build_prior(self.model, self.facts, generator(self.seed, "prior")).to(self.device)
        optim = self.config.train.optim
        groups = self.prior.optim_groups(optim.weight_decay)
        self.engine = make_engine(engine, self.prior, groups, optim, self.config.train)
        return {"prior": self.engine}

    def _make_text_tokenizer(self, model: GptConfig) -> None:
        """Puts `tokenizer.json` beside the prior, a copy or a new one, and learns the size of its vocabulary."""
        from vtok.priors.text import FILE_NAME, read_text_tokenizer, train_text_tokenizer

        path = self.folder / FILE_NAME
        if rank() == 0 and not path.exists():
            if model.text_tokenizer is not None:
                made = read_text_tokenizer(model.text_tokenizer)
            else:
                captions = [row["caption"] for row in self.store.rows("train", ["caption"]) if row["caption"]]
                made = train_text_tokenizer(captions, model.condition_vocabulary or CLIP_VOCABULARY)
            write_bytes(path, made.data)
        barrier()
        text = read_text_tokenizer(path)
        self.model = model.model_copy(update={"condition_vocabulary": text.vocabulary})
        self.collate = Collate(self.model, self.device, text)

    def _facts(self) -> Facts:
        store, codebook, resolution = self.store, None, 0
        if (self.tokenizer / CARD_NAME).exists():
            factor = artefacts.load(self.tokenizer, "tokenizer").facts["downsample"][1]
            resolution = self.grid[1] * factor

            def codebook() -> Tensor:
                return load_tokenizer(self.tokenizer).codebook.embeddings

        return Facts(store.codebook_size, self.grid, len(self.classes), resolution, codebook)

    def batches(self, start_step: int) -> Iterator[Batch]:
        for tokens in self.loader.batches(start_step):
            yield self.collate.of_tokens(tokens, str(self.store.folder))

    def receipt(self, step: int) -> tuple[str, dict[str, Any]] | None:
        if step % self.loader.batches_per_epoch or self.loader.finished is None:
            return None
        found = self.loader.receipt(gather(self.loader.finished))
        return str(found), found.row()

    def state(self) -> dict[str, Any]:
        return {"loader": self.loader.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        if "loader" in state:
            self.loader.load_state_dict(state["loader"])

    def _arguments(self, batch: Batch, step: int, part: int = 0) -> tuple[Any, ...]:
        """What the prior takes of a part of this rank's share; draws are keyed by a clip's place in the whole batch."""
        share = self.batch_size // (world_size() * self.config.train.accumulate)
        first = (rank() * self.config.train.accumulate + part) * share
        return self.prior.prepare(batch, Draws(self.seed, step, first))

    def timing_step(self, batch: Batch) -> None:
        copy.deepcopy(self.prior)(*self._arguments(batch, 0)).loss.backward()

    def train_step(self, batch: Batch, step: int) -> dict[str, float]:
        train = self.config.train
        loss = acc1 = 0.0
        for number, part in enumerate(micro_batches(batch, train.accumulate)):
            output = self.engine(*self._arguments(part, step, number))
            self.engine.backward(output.loss)
            loss += float(output.loss.detach()) / train.accumulate
            acc1 += float(output.acc1) / train.accumulate
        lr = learning_rate(train.optim, step, train.steps, batch_size=self.batch_size)
        norm = self.engine.step(lr)
        return {"loss": loss, "acc1": acc1, "lr": lr, "gnorm": norm}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        start = time.perf_counter()
        self.prior.eval()
        rows = itertools.islice(self._held_out_rows(), self.config.train.validate_clips)
        total = clips = 0.0
        while chunk := list(itertools.islice(rows, self.batch_size)):
            batch = self.collate.of_rows(chunk, str(self.store.folder), self.crop)
            draws = Draws(self.seed, step, int(clips), "val")
            total += float(self.prior(*self.prior.prepare(batch, draws)).loss) * len(chunk)
            clips += len(chunk)
        self.prior.train()
        mark = {"position_entropy": self.position_entropy.nats} if rank() == 0 else {}
        return {"val": total / clips, **mark, "seconds": time.perf_counter() - start}

    def _held_out_rows(self) -> Iterator[dict[str, Any]]:
        rows = self.store.rows(self.held_out, [*columns_of(self.model), "view_id"])
        return rows if self.views is None else (row for row in rows if row["view_id"] in self.views)

    def units_at(self, step: int) -> float:
        """Codes of a batch that a step is trained on."""
        return self.batch_size * codes_trained_on(self.model, self.grid, step)

    def flops_per_unit(self, step: int) -> float:
        """Floating-point operations of a training step a code."""
        return flops_per_token(
            self.model,
            self.store.codebook_size,
            self.grid,
            embedding_dim=self.prior.codebook_kc.shape[1] if isinstance(self.prior, VideoGptPrior) else 0,
            resolution=self.facts.resolution,
            step=step,
        )
