"""Trains a video tokenizer on shards: the VQGAN of TATS (https://arxiv.org/abs/2204.03638) or the VQ-VAE of VideoGPT
(https://arxiv.org/abs/2104.10157), whose losses need no discriminators.

One forward pass a batch serves both phases: the generator's step, then, from `loss.discriminator_start` on, the
discriminators'. Each phase has an engine of its own. TATS makes a second pass, with the stepped weights, for the
discriminators (and so updates its codebook and norms twice a batch), shows each discriminator the clips and their
reconstruction in both phases, and runs them from the first batch on: `tokenizer.parity: true` does the same.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from schemas.card import Card, Plan
from schemas.config import Recipe
from schemas.config.tokenizer import TokenizerConfig
from schemas.errors import UsageError
from schemas.paths import NEEDS_LOCAL, local_only
from trainers import loop
from trainers.alone import alone
from trainers.engine import Engine, EngineName, barrier, make_engine, rank, world_size
from trainers.last_layer import LastLayer
from trainers.optim import learning_rate
from trainers.precision import use_precision
from trainers.ranks import ranks_here
from trainers.task import Task, micro_batches
from trainers.tokenizer_validation import HeldOut, warn
from vtok import artefacts
from vtok.audio.clips import check_shards, sound_batch
from vtok.hardware import cpu_count
from vtok.seeds import generator
from vtok.shards.loader import ClipBatch, ClipBatches, ClipLoader
from vtok.shards.reader import ShardReader
from vtok.tokenizers.autoencoder import Reconstruction
from vtok.tokenizers.discriminators import Discriminators
from vtok.tokenizers.load import build_tokenizer
from vtok.tokenizers.losses import (
    Verdicts,
    adversarial_factor,
    discriminator_factor,
    discriminator_loss,
    generator_loss,
    judge_once,
    l1,
    uses_discriminators,
)
from vtok.tokenizers.lpips import LPIPS
from vtok.video.ranges import to_model_range
from vtok.weights import write_weights

_WARNINGS = {"warn_usage_below", "warn_dead_above", "warn_restarts_above", "warn_after"}
RUN_ONLY = loop.CADENCE | _WARNINGS | {"preview_clips", "workers"}
"""Training options that do not change the weights, and so do not belong to a plan."""


def train_tokenizer(recipe: Recipe, *, resume: str = "auto") -> Card:
    """Makes `tokenizer/` of the run from its `shards/`.

    Raises:
        UsageError: the shards are missing, hold fewer clips than a batch, or have other channels than the tokenizer; or
            another training of this run is at work.
        VtokError: the loss is not finite, or the disk is full.
    """
    check_channels(recipe.tokenizer)
    shards = artefacts.load(recipe.folder("shards"), "shards")
    folder, config = local_only(recipe.folder("tokenizer"), "training", NEEDS_LOCAL), recipe.tokenizer
    audio_rate = None
    if config.spectrum is not None:
        audio_rate = check_shards(shards.config, config.spectrum, str(recipe.folder("shards")))
    settings = config.model_dump(mode="json", exclude={"train": RUN_ONLY})
    if config.spectrum is None:  # as before there were sounds: runs can be resumed
        del settings["spectrum"]
    plan = artefacts.make_plan("tokenizer", {**settings, "seed": recipe.seed}, {"shards": shards.fingerprint}, [])
    with alone(folder, plan, config.train.engine) as card:
        if card is not None:
            return card
        task = TokenizerTask(recipe, folder)
        loop.run(task, config.train, plan, folder, resume=resume)
        if rank() == 0:
            _seal(task, plan, shards, audio_rate)
        barrier()
        return artefacts.load(folder, "tokenizer")


def _seal(task: TokenizerTask, plan: Plan, shards: Card, audio_rate: int | None) -> None:
    """Writes the weights, and the card last."""
    config, folder = task.config, task.folder
    digest = write_weights(folder, "tokenizer", task.model.state_dict(), {"model": config.model.plain()})
    grid = task.model.grid(shards.config["num_frames"], *config.frame_size(shards.config["resolution"]))
    facts = {
        "fingerprint": task.model.eval().fingerprint,
        "codebook_size": config.model.n_codes,
        "downsample": list(config.model.downsample),
        "grid": list(grid),
    }
    if config.spectrum is not None:
        facts |= {"spectrum": config.spectrum.plain(), "audio_rate": audio_rate}
    counts = {
        "steps": config.train.steps,
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "bytes": (folder / "tokenizer.safetensors").stat().st_size,
    }
    artefacts.seal_card(folder, plan, index_sha256=digest, counts=counts, facts=facts)


def check_channels(config: TokenizerConfig) -> None:
    """Refuses a tokenizer of channels that the clips of shards do not have (the config checks those of sounds).

    Raises:
        UsageError: frames have 3 channels.
    """
    channels = config.model.image_channels
    if config.spectrum is None and channels != 3:
        raise UsageError(
            f"the tokenizer would see {channels} channels, and frames have 3",
            at="tokenizer.model.image_channels",
            hint="set it to 3; pictures of sound, which have 1, need tokenizer.spectrum; videos of other channels, "
            f"such as semantic maps, are tokenized from Python: VQGAN(VqganConfig(image_channels={channels}))",
        )


class TrainBatch(NamedTuple):
    """This rank's share of a batch.

    Attributes:
        video_bcthw: float32 in [-0.5, 0.5] (pictures of sounds: in [-1, 1]), on the device.
        clip_ids: names, to be told where something goes wrong.
    """

    video_bcthw: Tensor
    clip_ids: list[str]


class TokenizerTask(Task):
    """Models, data and losses of a tokenizer (`trainers.task.Task`)."""

    name = "tokenizer"
    unit = "clips"

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        check_channels(recipe.tokenizer)
        self.recipe, self.folder, self.seed, self.config = recipe, folder, recipe.seed, recipe.tokenizer
        self.shards = recipe.folder("shards")
        self.batch_size = self.config.train.batch_size
        self.units_per_batch = self.batch_size
        self.loader_state: dict[str, Any] | None = None
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.lpips = self._load_lpips()

    def _load_lpips(self) -> LPIPS | None:
        losses = self.config.loss
        if losses.lpips_weights is None:
            if losses.perceptual_weight > 0:
                raise UsageError(
                    "perceptual_weight is above 0 and there are no LPIPS weights",
                    at="tokenizer.loss.lpips_weights",
                    hint="give torchvision's vgg16-397923af.pth or a safetensors file with VGG16, or set "
                    "perceptual_weight to 0",
                )
            return None
        # pictures of sounds have the range that LPIPS was made for, as TATS trains on them
        scale = 1.0 if losses.lpips_half_contrast or self.config.spectrum is not None else 2.0
        return LPIPS.load(losses.lpips_weights, scale, losses.lpips_sha256).to(self.device)

    def build(self, engine: EngineName) -> Mapping[str, Engine]:
        train, losses = self.config.train, self.config.loss
        if losses.gan_balance == "adaptive" and train.zero_stage > 2:
            raise UsageError(
                "an adaptive GAN weight needs the whole last layer, which ZeRO stage 3 scatters",
                at="tokenizer.train.zero_stage",
                hint="take stage 0, 1 or 2, or set tokenizer.loss.gan_balance to fixed",
            )
        weights = generator(self.seed, self.config.model.kind)
        self.model = build_tokenizer(self.config.model, weights).to(self.device).train()
        self.last_layer = LastLayer(self.model) if losses.gan_balance == "adaptive" else None
        self.engine = make_engine(engine, self.model, _one_group(self.model), train.generator, train)
        self.discriminators: Discriminators | None = None
        if not uses_discriminators(losses):
            return {"generator": self.engine}
        self.discriminators = Discriminators(
            self.config.discriminators, self.config.model.image_channels, generator(self.seed, "discriminators")
        ).to(self.device)
        for part in self.discriminators.children():  # each is called by itself
            use_precision(part, train.precision)
        groups = _one_group(self.discriminators)
        self.d_engine = make_engine(engine, self.discriminators, groups, train.discriminator, train, average=False)
        # Not under ZeRO stage 3: it gathers the weights for each way back, and two through one pass were not tried.
        whole = engine == "plain" or train.zero_stage < 3
        self.shared_passes = whole and train.forwards == 1 and not train.idle_discriminators
        return {"generator": self.engine, "discriminators": self.d_engine}

    def batches(self, start_step: int) -> Iterator[TrainBatch]:
        reader = ShardReader(self.shards, "train", seed=self.seed, rank=rank(), world=world_size())
        batches = ClipBatches(reader, self.batch_size, augment=self.config.train.augment)
        self.loader = ClipLoader(batches, workers=self._workers())
        if self.loader_state is not None:
            self.loader.load_state_dict(self.loader_state)
        self.loader.seek(start_step)
        for batch in self.loader.forever():
            yield TrainBatch(torch.from_numpy(self._seen(batch)).to(self.device), batch.clip_ids)

    def _seen(self, batch: ClipBatch) -> np.ndarray:
        """What the tokenizer sees of clips: their frames, or the pictures of their sound."""
        if self.config.spectrum is None:
            return to_model_range(batch.video_bthwc)
        return sound_batch(batch.extras, batch.metas, self.config.spectrum)

    def state(self) -> dict[str, Any]:
        return {"loader": self.loader.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.loader_state = state.get("loader")

    def _workers(self) -> int:
        """Decoding processes of this rank: a CPU that trains has no time left for them."""
        if self.config.train.workers != "auto":
            return self.config.train.workers
        return min(8, cpu_count() // ranks_here()) if self.device.type == "cuda" else 0

    def timing_step(self, batch: TrainBatch) -> None:
        twin = copy.deepcopy(self.model)
        output = twin(batch.video_bcthw, generator(self.seed, "timing"))
        (l1(output.recon_bcthw, batch.video_bcthw) + output.commitment_loss).backward()  # type: ignore[no-untyped-call]

    def train_step(self, batch: TrainBatch, step: int) -> dict[str, float]:
        train = self.config.train
        parts: list[TrainBatch] = micro_batches(batch, train.accumulate)
        frames = self._frame_index(batch.video_bcthw, step).chunk(train.accumulate)
        frames_again = self._frame_index(batch.video_bcthw, step, "again").chunk(train.accumulate)
        values: dict[str, float] = {}
        for number, (video, _) in enumerate(parts):
            last = number == train.accumulate - 1
            keys = (step, number) if number else (step,)
            output = self.engine(video, generator(self.seed, "codebook", *keys))
            found, judges = self._generator_phase(video, output, frames[number], step, number)
            if last:
                found |= self._step_generator(step)
            shown = frames[number]
            if train.forwards == 2:
                with torch.no_grad():
                    output = self.engine(video, generator(self.seed, "codebook", *keys, "again"))
                shown = frames_again[number]
            found |= self._discriminator_phase(video, output, shown, judges, step, last=last)
            for name, value in found.items():
                share = 1.0 if name in ("lr", "gnorm", "d_gnorm") else 1 / train.accumulate
                values[name] = values.get(name, 0.0) + share * value
        return values

    def _generator_phase(
        self, video: Tensor, output: Reconstruction, frames: Tensor, step: int, number: int
    ) -> tuple[dict[str, float], Discriminators | Verdicts | None]:
        """Adds the gradients of part `number` to the generator's; what the discriminators' loss comes from is returned.

        The losses are derived for a copy of the reconstruction, and from there on the generator's gradients: so the
        discriminators' passes can serve their own loss, too.
        """
        losses = self.config.loss
        factor = adversarial_factor(losses, step)
        recon_bcthw = output.recon_bcthw.float()
        seen_bcthw = recon_bcthw.detach().requires_grad_()
        if self.last_layer is not None:
            self.last_layer.watch(seen_bcthw)
        judges: Discriminators | Verdicts | None = self.discriminators
        if self.discriminators is not None:
            shared = self.shared_passes and factor > 0
            self.discriminators.requires_grad_(shared)
            if shared:
                judges = judge_once(video, seen_bcthw, frames, self.discriminators, losses)
        loss, scalars = generator_loss(
            video,
            output._replace(recon_bcthw=seen_bcthw),
            frames,
            judges,
            losses,
            factor=factor,
            lpips=self.lpips,
            always_run=self.config.train.idle_discriminators,
            last_layer=self.last_layer,
            dropout=self._dropout(step, number, len(video)),
        )
        scale = self.engine.scale.value  # fp16 needs it in the discriminators, too
        (at_recon,) = torch.autograd.grad(scale * loss, seen_bcthw, retain_graph=isinstance(judges, Verdicts))
        self.engine.backward(output.commitment_loss + (recon_bcthw * (at_recon / scale)).sum())
        names = {
            "loss": "total_loss",
            "recon": "recon_loss",
            "commit": "commitment_loss",
            "perplexity": "perplexity",
            **({"perceptual": "perceptual_loss"} if losses.perceptual_weight > 0 else {}),
        }
        if self.discriminators is not None and factor > 0:
            names |= {"adversarial": "aeloss", "features": "gan_feat_loss"}
            names |= {"gan_lambda": "gan_lambda"} if losses.gan_balance == "adaptive" else {}
        # One transfer for all: on a GPU each of its own would wait for the device.
        values = torch.stack([scalars[key].float() for key in names.values()]).tolist()
        return dict(zip(names, values, strict=True)), judges

    def _step_generator(self, step: int) -> dict[str, float]:
        train = self.config.train
        lr = learning_rate(train.generator, step, train.steps, batch_size=self.batch_size)
        return {"lr": lr, "gnorm": self.engine.step(lr)}

    def _discriminator_phase(
        self,
        video: Tensor,
        output: Reconstruction,
        frames: Tensor,
        judges: Discriminators | Verdicts | None,
        step: int,
        *,
        last: bool,
    ) -> dict[str, float]:
        """Adds a part's gradients to the discriminators', and steps them after the `last` part."""
        train, losses = self.config.train, self.config.loss
        factor, idle = discriminator_factor(losses, step), train.idle_discriminators
        if self.discriminators is None or judges is None or not (idle or factor > 0):
            return {}
        self.discriminators.requires_grad_(True)
        recon_bcthw = output.recon_bcthw.float()
        found: dict[str, float] = {}
        loss, scalars = discriminator_loss(video, recon_bcthw, frames, judges, losses, factor=factor, always_run=idle)
        if loss.requires_grad:
            self.d_engine.backward(loss)
            if last:
                since, steps = step - losses.discriminator_start, train.steps - losses.discriminator_start
                rule = {"batch_size": self.batch_size}
                lr = learning_rate(train.discriminator, max(0, since), max(1, steps), **rule)
                found["d_gnorm"] = self.d_engine.step(lr)
        return {"d_loss": float(scalars["discloss"]), **found}

    def _frame_index(self, video: Tensor, step: int, *keys: str) -> Tensor:
        """One random frame a clip, drawn for the global batch so that it does not depend on the number of ranks."""
        share = video.shape[0]
        draws = generator(self.seed, "frame", step, *keys)
        index = torch.randint(0, video.shape[2], (share * world_size(),), generator=draws)
        return index[rank() * share : (rank() + 1) * share].to(self.device)

    def _dropout(self, step: int, number: int, count: int) -> list[torch.Generator] | None:
        """What draws LPIPS's dropout for the clips of a part: keyed by their places in the global batch, so that it
        does not depend on the number of ranks or parts, and no rank draws the large masks of others."""
        if not self.config.loss.lpips_dropout:
            return None
        first = (rank() * self.config.train.accumulate + number) * count
        return [generator(self.seed, "lpips", step, place) for place in range(first, first + count)]

    def counts(self) -> dict[str, Int64[np.ndarray, " k"]]:
        return {"val_usage": self.held_out.usage_k}

    def score(self, validated: dict[str, Any]) -> float | None:
        return -validated["val_psnr"] if validated else None

    @functools.cached_property
    def held_out(self) -> HeldOut:
        """The clips that are validated on, read when they are first needed."""
        return HeldOut(self.recipe, self.folder, max(1, self.batch_size // world_size()))

    def validate(self, step: int) -> dict[str, Any]:
        start = time.perf_counter()
        values, recon_bcthw, counts = self.held_out.measure(self.model, self.lpips)
        warnings = self.held_out.warnings(self.model, values, step, counts)
        if rank() == 0:
            self.held_out.show(recon_bcthw, counts, step)
            warn(self.name, step, warnings)
        found = {"warnings": warnings} if warnings else {}
        return {**values, **found, "seconds": time.perf_counter() - start}


def _one_group(module: torch.nn.Module) -> list[dict[str, object]]:
    return [{"params": [p for p in module.parameters() if p.requires_grad]}]
