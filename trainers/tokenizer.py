"""Trains a video tokenizer on shards: the VQGAN of TATS (https://arxiv.org/abs/2204.03638) or the VQ-VAE of VideoGPT
(https://arxiv.org/abs/2104.10157), whose losses need no discriminators.

One forward pass a batch serves both phases: the generator's step, then, from `loss.discriminator_start` on, the
discriminators'. (TATS runs the generator twice a batch and so updates its codebook twice.) Each phase has an engine of
its own; in the generator's phase the discriminators need no gradients of their own.
"""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schemas.card import Card
from schemas.config import Recipe
from schemas.errors import UsageError
from schemas.paths import NEEDS_LOCAL, local_only
from trainers import loop
from trainers.engine import Engine, EngineName, barrier, make_engine, rank, world_size
from trainers.optim import learning_rate
from trainers.task import Task
from vtok import artefacts
from vtok.evaluation.reconstruction import psnr, psnr_of_best_constant_frame
from vtok.hardware import cpu_count
from vtok.seeds import generator
from vtok.shards.loader import ClipBatches, ClipLoader
from vtok.shards.reader import ShardReader
from vtok.tokenizers.discriminators import Discriminators
from vtok.tokenizers.load import build_tokenizer
from vtok.tokenizers.losses import (
    discriminator_factor,
    discriminator_loss,
    generator_loss,
    l1,
    uses_discriminators,
)
from vtok.tokenizers.lpips import LPIPS
from vtok.tokens.stats import health, usage
from vtok.video.encode import write_gif
from vtok.video.preview import side_by_side
from vtok.video.ranges import to_model_range, to_pixels
from vtok.weights import write_weights

RUN_ONLY = loop.CADENCE | {"preview_clips", "workers"}
"""Training options that do not change the weights, and so do not belong to a plan."""


def train_tokenizer(recipe: Recipe, *, resume: str = "auto") -> Card:
    """Makes `tokenizer/` of the run from its `shards/`.

    Raises:
        UsageError: the shards are missing, or hold fewer clips than a batch.
        VtokError: the loss is not finite, or the disk is full.
    """
    shards = artefacts.load(recipe.folder("shards"), "shards")
    folder, config = local_only(recipe.folder("tokenizer"), "training", NEEDS_LOCAL), recipe.tokenizer
    settings = config.model_dump(mode="json", exclude={"train": RUN_ONLY})
    plan = artefacts.make_plan("tokenizer", {**settings, "seed": recipe.seed}, {"shards": shards.fingerprint}, [])
    card = artefacts.begin(folder, plan)
    if card is not None:
        return card
    task = TokenizerTask(recipe, folder)
    loop.run(task, config.train, plan, folder, resume=resume)
    if rank() == 0:
        description = {"model": config.model.plain()}
        digest = write_weights(folder, "tokenizer", task.model.state_dict(), description)
        grid = task.model.grid(shards.config["num_frames"], *[shards.config["resolution"]] * 2)
        facts = {
            "fingerprint": task.model.eval().fingerprint,
            "codebook_size": config.model.n_codes,
            "downsample": list(config.model.downsample),
            "grid": list(grid),
        }
        counts = {
            "steps": config.train.steps,
            "parameters": sum(p.numel() for p in task.model.parameters()),
            "bytes": (folder / "tokenizer.safetensors").stat().st_size,
        }
        artefacts.seal_card(folder, plan, index_sha256=digest, counts=counts, facts=facts)
    barrier()
    return artefacts.load(folder, "tokenizer")


class TokenizerTask(Task):
    """Models, data and losses of a tokenizer (`trainers.task.Task`)."""

    name = "tokenizer"
    unit = "clips"

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.folder, self.seed, self.config = folder, recipe.seed, recipe.tokenizer
        self.shards = recipe.folder("shards")
        self.batch_size = self.config.train.batch_size
        self.units_per_batch = self.batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.lpips: LPIPS | None = None
        if self.config.loss.perceptual_weight > 0:
            if self.config.loss.lpips_weights is None:
                raise UsageError(
                    "perceptual_weight is above 0 and there are no LPIPS weights",
                    at="tokenizer.loss.lpips_weights",
                    hint="give a safetensors file with VGG16 and the LPIPS heads, or set perceptual_weight to 0",
                )
            self.lpips = LPIPS.load(self.config.loss.lpips_weights).to(self.device)

    def build(self, engine: EngineName) -> Mapping[str, Engine]:
        channels = self.config.model.image_channels
        weights = generator(self.seed, self.config.model.kind)
        self.model = build_tokenizer(self.config.model, weights).to(self.device).train()
        train = self.config.train
        self.engine = make_engine(engine, self.model, _one_group(self.model), train.generator, train)
        self._held_out = self._load_held_out()
        self.discriminators: Discriminators | None = None
        if not uses_discriminators(self.config.loss):
            return {"generator": self.engine}
        self.discriminators = Discriminators(
            self.config.discriminators, channels, generator(self.seed, "discriminators")
        ).to(self.device)
        groups = _one_group(self.discriminators)
        self.d_engine = make_engine(engine, self.discriminators, groups, train.discriminator, train, average=False)
        return {"generator": self.engine, "discriminators": self.d_engine}

    def batches(self, start_step: int) -> Iterator[Tensor]:
        reader = ShardReader(self.shards, "train", seed=self.seed, rank=rank(), world=world_size())
        batches = ClipBatches(reader, self.batch_size, augment=self.config.train.augment)
        loader = ClipLoader(batches, workers=self._workers())
        loader.seek(start_step)
        for batch in loader.forever():
            yield torch.from_numpy(to_model_range(batch.video_bthwc)).to(self.device)

    def _workers(self) -> int:
        """Decoding processes of this rank: a CPU that trains has no time left for them."""
        if self.config.train.workers != "auto":
            return self.config.train.workers
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return min(8, cpu_count() // ranks_here) if self.device.type == "cuda" else 0

    def timing_step(self, batch: Tensor) -> None:
        twin = copy.deepcopy(self.model)
        output = twin(batch, generator(self.seed, "timing"))
        (l1(output.recon_bcthw, batch) + output.commitment_loss).backward()  # type: ignore[no-untyped-call]

    def train_step(self, batch: Tensor, step: int) -> dict[str, float]:
        train, losses = self.config.train, self.config.loss
        factor = discriminator_factor(losses, step)
        frames = self._frame_index(batch, step)
        output = self.engine(batch, generator(self.seed, "codebook", step))
        if self.discriminators is not None:
            self.discriminators.requires_grad_(False)
        loss, scalars = generator_loss(
            batch, output, frames, self.discriminators, losses, factor=factor, lpips=self.lpips
        )
        self.engine.backward(loss)
        lr = learning_rate(train.generator, step, train.steps, batch_size=self.batch_size)
        norm = self.engine.step(lr)
        values = {
            "loss": scalars["total_loss"],
            "recon": scalars["recon_loss"],
            "commit": scalars["commitment_loss"],
            "perplexity": scalars["perplexity"],
        }
        if self.discriminators is not None and factor > 0:
            self.discriminators.requires_grad_(True)
            d_loss, d_scalars = discriminator_loss(
                batch, output.recon_bcthw, frames, self.discriminators, losses, factor=factor
            )
            if d_loss.requires_grad:
                self.d_engine.backward(d_loss)
                d_lr = learning_rate(train.discriminator, step, train.steps, batch_size=self.batch_size)
                self.d_engine.step(d_lr)
            values |= {"adversarial": scalars["aeloss"], "features": scalars["gan_feat_loss"]}
            values |= {"d_loss": d_scalars["discloss"]}
        return {**{name: float(value) for name, value in values.items()}, "lr": lr, "gnorm": norm}

    def _frame_index(self, batch: Tensor, step: int) -> Tensor:
        """One random frame a clip, drawn for the global batch so that it does not depend on the number of ranks."""
        share = batch.shape[0]
        draw = torch.randint(0, batch.shape[2], (share * world_size(),), generator=generator(self.seed, "frame", step))
        return draw[rank() * share : (rank() + 1) * share].to(self.device)

    def _load_held_out(self) -> Tensor:
        """The first clips of the test split (of train, where there is no test) in store order."""
        count = self.config.train.validate_clips
        for split in ("test", "train"):
            reader = ShardReader(self.shards, split, seed=self.seed, shuffle=False)
            if len(reader):
                clips = list(itertools.islice(reader.clips(0), count))
                return torch.from_numpy(to_model_range(np.stack([clip.video_thwc for clip in clips])))
        raise UsageError("the shards hold no clips", at=str(self.shards), hint="ingest videos that can be decoded")

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        start = time.perf_counter()
        self.model.eval()
        recon, codes = [], []
        for video in self._held_out.split(max(1, self.batch_size // world_size())):
            output = self.model(video.to(self.device))
            recon.append(output.recon_bcthw.cpu())
            codes.append(output.codes_bthw.cpu())
        self.model.train()
        recon_bcthw = torch.cat(recon)
        facts = health(usage(torch.cat(codes).numpy(), self.config.model.n_codes))
        if rank() == 0:
            self._preview(recon_bcthw, step)
        return {
            "val_psnr": float(psnr(recon_bcthw, self._held_out).mean()),
            "val_psnr_still": float(psnr_of_best_constant_frame(self._held_out).mean()),
            "val_perplexity": facts.perplexity,
            "val_dead": float(facts.dead),
            "seconds": time.perf_counter() - start,
        }

    def score(self, validated: dict[str, float]) -> float | None:
        return -validated["val_psnr"]

    def _preview(self, recon_bcthw: Tensor, step: int) -> None:
        """Originals beside reconstructions, as a GIF and as its middle frame."""
        count = self.config.train.preview_clips
        originals = to_pixels(self._held_out[:count].numpy())
        frames = side_by_side(list(originals), list(to_pixels(recon_bcthw[:count].numpy())))
        write_gif(self.folder / "previews" / f"step-{step:08d}.gif", frames, 8.0)


def _one_group(module: torch.nn.Module) -> list[dict[str, object]]:
    return [{"params": [p for p in module.parameters() if p.requires_grad]}]
