"""Decodes a sample of the clips again and compares what would be stored: does this machine decode as the one did that
made the shards?

libswscale has other kernels for other processors, and programs of other versions round otherwise. Which clips are taken
is a pure function of their ids, the share and the seed. They are decoded and encoded as the shards were made, and the
bytes of every member but the metadata are compared. The revision of the decoding path is this vtok's: a clip that an
older one has spoilt differs, too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from schemas.card import MADE_WITH
from schemas.config.data import ShardsConfig
from vtok import artefacts
from vtok.shards.codec import encode_clip, encode_extras
from vtok.shards.reader import decode_sample, read_samples
from vtok.video.child_wire import DecodedClip
from vtok.video.errors import VideoError
from vtok.video.revision import made_with

Decode = Callable[[list[dict[str, Any]]], Iterable[tuple[dict[str, Any], DecodedClip | VideoError]]]
"""Gives each of some rows of the manifest, with its source's sha256 of now, and its clip or why there is none."""


class Differing(NamedTuple):
    """A clip that comes out differently.

    Attributes:
        clip_id: the clip.
        part: its shard.
        pixels: share of the values of its frames that differ, 0 to 1.
        largest: the largest difference of a value, 0 to 255.
    """

    clip_id: str
    part: str
    pixels: float
    largest: int


class Redecoded(NamedTuple):
    """What came out.

    Attributes:
        share: of the clips that was asked for.
        clips: in the sample.
        equal: with the very same bytes.
        differing: those with others.
        skipped: those that could not be compared, by reason.
        notes: how versions differ, and what else is worth knowing.
    """

    share: float
    clips: int
    equal: int
    differing: list[Differing]
    skipped: dict[str, int]
    notes: list[str]


def redecode(
    folder: Path, decode: Decode, share: float, *, seed: int = 0, advance: Callable[[int], None] = lambda clips: None
) -> Redecoded:
    """Compares a sample of the clips of finished shards with another decoding.

    Args:
        folder: the shards.
        decode: decodes clips as the shards' card says.
        share: of the clips, 0 to 1; at least one is taken.
        seed: other seeds take other clips.
        advance: called with the number of clips that were compared or skipped.

    Raises:
        IntegrityError: a shard is damaged.
        VtokError: the ffmpeg program is needed and not there.
    """
    card = artefacts.load(folder, "shards")
    config = ShardsConfig.model_validate(card.config["shards"])
    counted: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    differing: list[Differing] = []
    for part, samples in _sampled(folder, share, seed):
        rows = {name: decode_sample(sample, part).meta for name, sample in samples.items()}
        counted["clips"] += len(rows)
        for row, result in decode(sorted(rows.values(), key=lambda row: row["source"])):
            sample = samples[row["clip_id"]]
            if isinstance(result, VideoError):
                skipped[f"{result.reason}: {result.detail}"] += 1
            elif row["source_sha256"] != rows[row["clip_id"]]["source_sha256"]:
                skipped["its source is another file now"] += 1
            else:
                fps = float(row["frame_rate"] or row["fps"] / row["frame_stride"])
                members = {**encode_clip(result.frames_thwc, config, fps), **encode_extras(result.extras, config)}
                stored = {name: bytes(data) for name, data in sample.items() if not name.startswith("__")}
                stored.pop("json")
                if stored == members:
                    counted["equal"] += 1
                else:
                    there = decode_sample({**sample, **members}, part).video_thwc  # as lossy as what is stored
                    differing.append(_differing(row["clip_id"], part, decode_sample(sample, part).video_thwc, there))
            advance(1)
    made, here = card.config.get(MADE_WITH, {}), made_with(decoder=config.decoder, encoding=config.encoding)
    others = [(name, made.get(name, "unknown"), value) for name, value in here.items() if made.get(name) != value]
    notes = [f"{name}: {there} there, {value} here" for name, there, value in others]
    return Redecoded(share, counted["clips"], counted["equal"], differing, dict(skipped), notes)


def in_sample(clip_id: str, share: float, seed: int) -> bool:
    """Whether a clip belongs to the sample."""
    digest = hashlib.blake2b(f"{seed}\0{clip_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2.0**64


def _sampled(folder: Path, share: float, seed: int) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
    """The samples to compare, by shard; where there would be none, the first one."""
    index = artefacts.load_index(folder).to_pylist()
    taken = 0
    for last in (False, True):
        for row in index:
            path = artefacts.verify_part(folder, row["path"], row["sha256"])
            chosen = {}
            for sample in read_samples(path):
                if last or in_sample(sample["__key__"], share, seed):
                    chosen[sample["__key__"]] = dict(sample)
                    if last:
                        break
            taken += len(chosen)
            if chosen:
                yield path, chosen
            if last and taken:
                return
        if taken:
            return


def _differing(clip_id: str, part: Path, stored: np.ndarray, again: np.ndarray) -> Differing:
    if stored.shape != again.shape:
        return Differing(clip_id, part.name, 1.0, 255)
    apart = np.abs(stored.astype(np.int16) - again)
    return Differing(clip_id, part.name, float((apart > 0).mean()), int(apart.max()))
