"""The measuring protocols: each takes finished artefacts and returns rows of `schemas.metrics.METRICS`.

A protocol's seed and sizes are part of the protocol, not of the run, so that two runs are judged alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from schemas.card import CARD_NAME
from schemas.errors import UsageError
from vtok import artefacts
from vtok.evaluation.classifier import (
    TRAIN_STEPS,
    classifier_fingerprint,
    classify,
    confusion,
    shrink,
    train_classifier,
)
from vtok.evaluation.intervals import Interval, bootstrap_mean, wilson
from vtok.evaluation.reconstruction import psnr, psnr_of_best_constant_frame
from vtok.priors.base import Draws
from vtok.priors.collate import Collate, columns_of, text_tokenizer_of
from vtok.priors.load import load_prior
from vtok.sampling.drawn import sample_rows, sample_video
from vtok.shards.reader import Clip, ShardReader
from vtok.tokenizers.base import Tokenizer
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens import unigram
from vtok.tokens.stats import health
from vtok.tokens.store import TokenStore
from vtok.video.ranges import to_model_range

SEED = 0
MAX_HELD_OUT = 512
MAX_TRAIN = 1024
PSNR_CAP = 60.0
_BATCH = 8

SETTINGS: dict[str, dict[str, Any]] = {
    "reconstruction": {"seed": SEED, "max_clips": MAX_HELD_OUT, "psnr_cap": PSNR_CAP},
    "prior": {"seed": SEED, "max_clips": MAX_HELD_OUT},
    "class-accuracy": {"seed": SEED, "max_clips": MAX_HELD_OUT, "max_train": MAX_TRAIN, "steps": TRAIN_STEPS},
}
"""What determines a protocol's result besides its inputs: part of the metrics' plan."""


class Measured(NamedTuple):
    """What a protocol found.

    Attributes:
        rows: of `schemas.metrics.METRICS`.
        clips: of `vtok.evaluation.results.PER_CLIP`.
        tables: named JSON-compatible tables (confusion counts).
    """

    rows: list[dict[str, Any]]
    clips: list[dict[str, Any]]
    tables: dict[str, Any]


class Protocol(NamedTuple):
    """One way of measuring.

    Attributes:
        needs: artefact folders of the run that it cannot do without.
        uses: those that it also looks at where they are finished.
        measure: called with the run's folder.
    """

    needs: tuple[str, ...]
    uses: tuple[str, ...]
    measure: Callable[[Path], Measured]


def reconstruction(run: Path) -> Measured:
    """PSNR of held-out clips and of the best still picture for each; codebook usage over the token store.

    Intervals resample videos. A clip's PSNR is capped at `PSNR_CAP` dB: without motion the best still picture has no
    error at all.
    """
    tokenizer = load_tokenizer(run / "tokenizer", _device())
    ids, sources, values, stills = [], [], [], []
    for clips in _batches(held_out(run / "shards")):
        video = _stack(clips)
        values.append(psnr(_reconstruct(tokenizer, video), video).clamp(max=PSNR_CAP))
        stills.append(psnr_of_best_constant_frame(video).clamp(max=PSNR_CAP))
        ids += [clip.clip_id for clip in clips]
        sources += [clip.meta["source"] for clip in clips]
    if not ids:
        raise UsageError("the shards hold no clips", at=str(run / "shards"), hint="ingest videos that can be decoded")
    whole, still = (torch.cat(parts).double().numpy() for parts in (values, stills))
    measures = {"psnr": whole, "psnr_still": still, "psnr_gain": whole - still}
    rows = [
        _row("reconstruction", name, bootstrap_mean(column, sources, seed=SEED), len(ids))
        for name, column in measures.items()
    ]
    per_clip = [
        {"protocol": "reconstruction", "item": item, "measure": name, "value": float(column[i])}
        for name, column in measures.items()
        for i, item in enumerate(ids)
    ]
    if (run / "tokens" / CARD_NAME).exists():
        rows += _codebook(run, tokenizer.fingerprint)
    return Measured(rows, per_clip, {})


def _codebook(run: Path, tokenizer: str) -> list[dict[str, Any]]:
    store = TokenStore(run / "tokens")
    if store.tokenizer != tokenizer:
        raise UsageError(
            f"the token store was made by tokenizer {store.tokenizer}, the run has {tokenizer}",
            at=str(store.folder),
            hint="tokenize the shards again with this tokenizer",
        )
    facts, clips = health(store.usage()), store.card.counts["clips"]
    share = facts.perplexity / store.codebook_size
    return [
        _row("reconstruction", "codebook_perplexity", Interval(facts.perplexity, None, None), clips),
        _row("reconstruction", "codebook_share", Interval(share, None, None), clips),
    ]


@torch.no_grad()
def prior(run: Path) -> Measured:
    """The prior's cross-entropy on held-out clips against the position-wise entropy of its training codes.

    That entropy is taken over the very clips that were trained on (a sample of them, where they are many: its number is
    told), so it is a hard mark to beat.
    """
    model, store = load_prior(run / "prior", _device()), TokenStore(run / "tokens")
    card = artefacts.load(run / "prior", "prior")
    facts, views = card.facts, card.config.get("train", {}).get("views")
    entropy = facts.get("position_entropy")
    counted = facts.get("position_entropy_clips", store.splits().get("train", 0))
    if entropy is None:  # an imported prior: its card knows nothing of this store
        entropy, counted, _ = unigram.positional(store)
    split = "test" if store.splits().get("test") else "train"
    ids, sources, losses = [], [], []
    collate = Collate(model.config, _device(), text_tokenizer_of(run / "prior", model.config))
    columns = ["clip_id", "source", "view_id", *columns_of(model.config)]
    crop: tuple[int, int, int] | None = facts["grid"] if facts.get("cropped") else None
    trained_on = (row for row in store.rows(split, columns) if views is None or row["view_id"] in views)
    for number, row in enumerate(itertools.islice(trained_on, MAX_HELD_OUT)):
        batch = collate.of_rows([row], str(store.folder), crop)
        losses.append(float(model(*model.prepare(batch, Draws(0, 0, number, "val"))).loss))
        ids.append(row["clip_id"])
        sources.append(row["source"])
    if not ids:
        raise UsageError("the token store holds no clips", at=str(store.folder), hint="ingest videos, shard, tokenize")
    loss = bootstrap_mean(np.array(losses), sources, seed=SEED)
    ratio = Interval(*(None if bound is None else bound / entropy for bound in loss)) if entropy > 0 else None  # type: ignore[arg-type]
    rows = [
        _row("prior", "loss", loss, len(ids)),
        _row("prior", "position_entropy", Interval(entropy, None, None), counted),
    ]
    if ratio is not None:
        rows.append(_row("prior", "loss_ratio", ratio, len(ids)))
    per_clip = [
        {"protocol": "prior", "item": item, "measure": "loss", "value": value}
        for item, value in zip(ids, losses, strict=True)
    ]
    return Measured(rows, per_clip, {})


def class_accuracy(run: Path) -> Measured:
    """How many label-conditional samples a judge, trained on the run's real train clips, names as their class.

    Beside it stand the judge's accuracy on real held-out clips and on their reconstructions: a sample can hardly be
    recognised more often than those. Wilson intervals.
    """
    reader = ShardReader(run / "shards", "train", seed=SEED)
    classes = reader.card.facts["classes"]
    drawn = _samples(run / "samples", classes)  # read first: a damaged file is noticed before the judge is trained
    videos, labels, _ = _labelled(itertools.islice(reader.clips(0), MAX_TRAIN))
    judge = train_classifier(videos, labels, len(classes), SEED)
    features = classifier_fingerprint(judge)
    real = list(held_out(run / "shards"))
    tried = {"real": _labelled(iter(real))}
    if (run / "tokenizer" / CARD_NAME).exists():
        tokenizer = load_tokenizer(run / "tokenizer", _device())
        recon = [shrink(_reconstruct(tokenizer, _stack(batch))) for batch in _batches(iter(real))]
        tried["reconstructed"] = (torch.cat(recon), *tried["real"][1:])
    tried["samples"] = drawn
    rows, per_clip, tables = [], [], {}
    for name, (clips, true, ids) in tried.items():
        predicted = classify(judge, clips)
        hits = int((predicted == true).sum())
        rows.append(_row("class-accuracy", f"accuracy_{name}", wilson(hits, len(true)), len(true), features))
        tables[name] = confusion(true, predicted, len(classes)).tolist()
        per_clip += [
            {"protocol": "class-accuracy", "item": item, "measure": f"predicted_{name}", "value": float(label)}
            for item, label in zip(ids, predicted.tolist(), strict=True)
        ]
    return Measured(rows, per_clip, {"classes": classes, **tables})


PROTOCOLS: dict[str, Protocol] = {
    "reconstruction": Protocol(("shards", "tokenizer"), ("tokens",), reconstruction),
    "prior": Protocol(("tokens", "prior"), (), prior),
    "class-accuracy": Protocol(("shards", "samples"), ("tokenizer",), class_accuracy),
}
"""Every protocol by its name, in the order of the stages."""


def not_possible(run: Path, name: str) -> str:
    """Why a protocol cannot be run, or nothing if it can."""
    missing = [stage for stage in PROTOCOLS[name].needs if not (run / stage / CARD_NAME).exists()]
    if missing:
        return f"no finished {' and no finished '.join(missing)} in the run"
    if name == "class-accuracy":
        if len(artefacts.load(run / "shards", "shards").facts["classes"]) < 2:
            return "the clips have no classes"
        if not artefacts.load(run / "samples", "samples").facts["classes"]:
            return "the samples have no labels: the prior is unconditional"
    return ""


def held_out(shards: Path) -> Iterator[Clip]:
    """The first clips of the test split (of train, where there is no test), in store order."""
    for split in ("test", "train"):
        reader = ShardReader(shards, split, seed=SEED, shuffle=False)
        if len(reader):
            return itertools.islice(reader.clips(0), MAX_HELD_OUT)
    return iter(())


def _samples(folder: Path, classes: list[str]) -> tuple[Tensor, Tensor, list[str]]:
    """The drawn clips that have a label, small enough for the judge; every file is compared with its sha256."""
    if artefacts.load(folder, "samples").facts["classes"] != classes:
        raise UsageError(
            "the samples' classes are not those of the shards",
            at=str(folder),
            hint="draw samples from this run's prior",
        )
    videos, labels, ids = [], [], []
    for row in sample_rows(folder):
        videos.append(shrink(torch.from_numpy(to_model_range(sample_video(folder, row)[None]))))
        labels.append(row["label"])
        ids.append(row["sample_id"])
    return torch.cat(videos), torch.tensor(labels), ids


def _labelled(clips: Iterator[Clip]) -> tuple[Float[Tensor, "n 3 t h w"], Int[Tensor, " n"], list[str]]:
    """Clips that have a label, small enough for the judge."""
    kept = [(shrink(_stack([clip])), clip.label, clip.clip_id) for clip in clips if clip.label is not None]
    if not kept:
        raise UsageError("a split has no clips with a label", hint="leave class-accuracy out")
    videos, labels, ids = zip(*kept, strict=True)
    return torch.cat(videos), torch.tensor(labels), list(ids)


def _batches(clips: Iterator[Clip]) -> Iterator[list[Clip]]:
    while batch := list(itertools.islice(clips, _BATCH)):
        yield batch


def _stack(clips: list[Clip]) -> Float[Tensor, "b 3 t h w"]:
    return torch.from_numpy(to_model_range(np.stack([clip.video_thwc for clip in clips])))


@torch.no_grad()
def _reconstruct(tokenizer: Tokenizer, video_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
    """What is left of clips after encoding and decoding, in [-0.5, 0.5], on the CPU."""
    return tokenizer.decode(tokenizer.encode(video_bcthw.to(_device()))).clamp(-0.5, 0.5).cpu()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _row(protocol: str, name: str, found: Interval, samples: int, features: str | None = None) -> dict[str, Any]:
    return {"name": name, **found._asdict(), "protocol": protocol, "samples": samples, "features": features}
