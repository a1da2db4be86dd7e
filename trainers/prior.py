"""Trains the GPT prior (TATS, https://arxiv.org/abs/2204.03638), streaming codes from a token store."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schemas.card import CARD_NAME, Card
from schemas.config import Recipe
from schemas.errors import UsageError
from schemas.paths import NEEDS_LOCAL, local_only
from trainers import loop
from trainers.engine import Engine, EngineName, barrier, make_engine, rank, world_size
from trainers.optim import learning_rate
from trainers.task import Task, micro_batches
from vtok import artefacts
from vtok.priors.tats import GptPrior
from vtok.seeds import generator
from vtok.tokens.loader import TokenLoader
from vtok.tokens.stats import position_entropy
from vtok.tokens.store import TokenStore
from vtok.weights import write_weights


def train_prior(recipe: Recipe, *, resume: str = "auto") -> Card:
    """Makes `prior/` of the run from its `tokens/`.

    Raises:
        UsageError: the store is missing or too small, was made by another tokenizer than the run's, or has no labels
            for a label-conditional prior.
        VtokError: the loss is not finite, or the disk is full.
    """
    store = TokenStore(recipe.folder("tokens"))
    check_tokenizer(store, recipe.folder("tokenizer"))
    folder, config = local_only(recipe.folder("prior"), "training", NEEDS_LOCAL), recipe.prior
    if config.model.condition == "label" and not store.classes:
        raise UsageError(
            "prior.model.condition is label and the token store has no labels",
            at=str(store.folder),
            hint="set prior.model.condition=none, or give the videos class folders and ingest again",
        )
    settings = config.model_dump(mode="json", exclude={"train": loop.CADENCE | {"accumulate"}})
    inputs = {"tokens": store.card.fingerprint, "tokenizer": store.tokenizer}
    plan = artefacts.make_plan("prior", {**settings, "seed": recipe.seed}, inputs, [])
    card = artefacts.begin(folder, plan)
    if card is not None:
        return card
    task = PriorTask(recipe, store, folder)
    loop.run(task, config.train, plan, folder, resume=resume)
    if rank() == 0:
        description = {
            "model": config.model.plain(),
            "n_codes": store.codebook_size,
            "grid": list(store.grid),
            "classes": task.classes,
            "tokenizer": store.tokenizer,
        }
        digest = write_weights(folder, "prior", task.prior.state_dict(), description)
        counts = {
            "steps": config.train.steps,
            "parameters": sum(p.numel() for p in task.prior.parameters()),
            "bytes": (folder / "prior.safetensors").stat().st_size,
        }
        facts = {
            "tokenizer": store.tokenizer,
            "grid": list(store.grid),
            "classes": task.classes,
            "position_entropy": task.position_entropy,
        }
        artefacts.seal_card(folder, plan, index_sha256=digest, counts=counts, facts=facts)
    barrier()
    return artefacts.load(folder, "prior")


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


class PriorTask(Task):
    """Model, data and loss of the GPT (`trainers.task.Task`)."""

    name = "prior"
    unit = "tok"

    def __init__(self, recipe: Recipe, store: TokenStore, folder: Path) -> None:
        self.store, self.seed, self.config, self.folder = store, recipe.seed, recipe.prior, folder
        self.batch_size = self.config.train.batch_size
        self.units_per_batch = self.batch_size * int(np.prod(store.grid))
        self.conditional = self.config.model.condition == "label"
        self.classes = store.classes if self.conditional else []
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.loader = TokenLoader(store, "train", self.batch_size, seed=self.seed, rank=rank(), world=world_size())
        splits = store.splits()
        self.held_out = "test" if splits.get("test") else "train"
        entropy = position_entropy(store.codes("train"), store.codebook_size)
        self.position_entropy = float(entropy.mean())

    def build(self, engine: EngineName) -> Mapping[str, Engine]:
        self.prior = GptPrior(
            self.config.model,
            self.store.codebook_size,
            self.store.grid,
            len(self.classes),
            generator=generator(self.seed, "prior"),
        ).to(self.device)
        optim = self.config.train.optim
        groups = self.prior.optim_groups(optim.weight_decay)
        self.engine = make_engine(engine, self.prior, groups, optim, self.config.train)
        return {"prior": self.engine}

    def batches(self, start_step: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        for batch in self.loader.batches(start_step):
            yield self._to_device(batch.codes_bthw, batch.labels_b)

    def _to_device(self, codes_bthw: np.ndarray, labels_b: np.ndarray) -> tuple[Tensor, Tensor | None]:
        codes = torch.from_numpy(codes_bthw).to(self.device)
        if not self.conditional:
            return codes, None
        if (labels_b < 0).any():
            raise UsageError("a clip of the token store has no label", at=str(self.store.folder))
        return codes, torch.from_numpy(labels_b).to(self.device)

    def timing_step(self, batch: tuple[Tensor, Tensor | None]) -> None:
        copy.deepcopy(self.prior)(*batch).loss.backward()

    def train_step(self, batch: tuple[Tensor, Tensor | None], step: int) -> dict[str, float]:
        train = self.config.train
        loss = acc1 = 0.0
        for part in micro_batches(batch, train.accumulate):
            output = self.engine(*part)
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
        rows = itertools.islice(self.store.rows(self.held_out, ["codes", "label"]), self.config.train.validate_clips)
        total = clips = 0.0
        while chunk := list(itertools.islice(rows, self.batch_size)):
            codes = np.stack([row["codes"] for row in chunk]).astype(np.int64)
            labels = np.array([-1 if row["label"] is None else row["label"] for row in chunk])
            batch = self._to_device(codes.reshape(len(chunk), *self.store.grid), labels)
            total += float(self.prior(*batch).loss) * len(chunk)
            clips += len(chunk)
        self.prior.train()
        return {
            "val": total / clips,
            "position_entropy": self.position_entropy,
            "seconds": time.perf_counter() - start,
        }
