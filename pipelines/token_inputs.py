"""What `vtok tokenize` encodes: the clips of finished shards, or those of the manifest, decoded on the spot.

Either way clips come in the parts that `pipelines.plan_shards` planned, and each part has a digest of what it holds, by
which a later run knows whether its tokens are still those of these clips.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipelines.decode_clips import ClipDecoder
from pipelines.manifest import Manifest, ManifestPart
from pipelines.plan_shards import plan_shards
from schemas.card import MADE_WITH, Card
from schemas.clips import reject_row
from schemas.config import Recipe
from schemas.config.base import fingerprint
from schemas.config.data import DataConfig, ShardsConfig
from schemas.errors import IntegrityError
from schemas.paths import as_path
from vtok import artefacts
from vtok.artefacts import Part
from vtok.shards.codec import encode_extras
from vtok.shards.reader import Clip, read_shard
from vtok.shards.writer import samples_digest
from vtok.stopwatch import Stopwatch
from vtok.video.errors import VideoError
from vtok.video.ffmpeg import decoder_version
from vtok.video.revision import made_with, must_be_same

_FOOTERS_AT_ONCE = 16


class InputPart(NamedTuple):
    """The clips that become one part for each view.

    Attributes:
        stem: name of the part, without a suffix.
        split: of its clips.
        clips: how many are planned.
        payload: where they are, for the worker's `ClipSource`.
        digest: of what they are; other clips or other labels have another one.
        frames: source frames to decode; 0: none.
    """

    stem: str
    split: str
    clips: int
    payload: Any
    digest: str
    frames: int


class ClipSource(Protocol):
    """Gives a worker its clips."""

    @property
    def decoder(self) -> str:
        """What decoded them, with its version if that is known."""
        ...

    @property
    def programs(self) -> dict[str, Any]:
        """What this process decodes them with; {}: it decodes no videos."""
        ...

    def clips(self, payload: Any, rejects: list[dict[str, Any]]) -> Generator[Clip, None, None]:
        """The clips of one part, in order; adds to `rejects` those that cannot be had."""
        ...


class Inputs(NamedTuple):
    """Everything that the job has to know.

    Attributes:
        card: of the shards or of the clips.
        parts: in order of their names.
        num_frames, resolution: of every clip.
        decoding: what decides the frames of a clip.
        programs: what decoded them, or will (`vtok.video.revision.made_with`); {}: an older vtok.
        make: makes a worker's source of clips.
        prover: class of the worker that reads what a payload names and raises IntegrityError if it is damaged, and its
            arguments; none: that cannot be told before decoding.
    """

    card: Card
    parts: list[InputPart]
    num_frames: int
    resolution: int
    decoding: dict[str, Any]
    programs: dict[str, Any]
    make: Callable[[], ClipSource]
    prover: tuple[type, tuple[Any, ...]] | None


def shard_inputs(recipe: Recipe) -> Inputs:
    """The run's shards.

    Raises:
        UsageError: there are none, or they are not finished.
    """
    folder = recipe.folder("shards")
    card = artefacts.load(folder, "shards")
    index = artefacts.load_index(folder).to_pylist()
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        digests = list(pool.map(partial(_digest_of_shard, folder), index))
    parts = [
        InputPart(Path(row["path"]).stem, row["split"], row["rows"], row, digest, 0)
        for row, digest in zip(index, digests, strict=True)
    ]
    decoder = card.config.get("shards", {}).get("decoder", "")
    make = partial(ShardSource, str(folder), decoder)
    shape = card.config["num_frames"], card.config["resolution"]
    return Inputs(
        card, parts, *shape, {"decoder": decoder}, card.config.get(MADE_WITH, {}), make, (ShardProof, (str(folder),))
    )


def _digest_of_shard(folder: Path, row: dict[str, Any]) -> str:
    try:
        return samples_digest(folder / row["path"])
    except IntegrityError:  # of an older vtok, or damaged: its worker will say so
        return str(row["sha256"])


class ShardProof:
    """A `pipelines.pool.Worker` that makes nothing: it reads all bytes of shards whose tokens are to replace others."""

    def __init__(self, folder: str) -> None:
        self.folder, self.clock = as_path(folder), Stopwatch()

    def make(self, name: str, payload: dict[str, Any]) -> Part:
        """The description of the shard `name`, whose row of the index is `payload`."""
        artefacts.verify_part(self.folder, name, payload["sha256"])
        return Part(name, payload["split"], payload["rows"], payload["bytes"], payload["sha256"])


class ShardSource:
    """Clips of shards, whose bytes are verified first."""

    def __init__(self, folder: str, decoder: str) -> None:
        self.folder, self.decoder = as_path(folder), decoder
        self.programs: dict[str, Any] = {}

    def clips(self, payload: dict[str, Any], rejects: list[dict[str, Any]]) -> Generator[Clip, None, None]:
        """See `ClipSource`; what could not be decoded is the shards' reject, not the tokens'."""
        yield from read_shard(artefacts.verify_part(self.folder, payload["path"], payload["sha256"]))


def clip_inputs(recipe: Recipe) -> Inputs:
    """The videos that the run's clip manifest names, planned as the shard job plans them.

    Raises:
        UsageError: there is no manifest, or it is not finished.
        VtokError: the ffmpeg program is needed and not there.
    """
    folder = recipe.folder("clips")
    card = artefacts.load(folder, "clips")
    programs = made_with(decoder=recipe.shards.decoder, planned=card.config)
    manifest = Manifest.load(folder)
    digests = _digests_of_rows(manifest)
    parts = []
    for unit in plan_shards(manifest.columns(), recipe.data, recipe.shards, recipe.seed):
        digest = fingerprint(digests[unit.payload].tobytes().hex())
        stem = Path(unit.name).stem
        parts.append(InputPart(stem, stem.rpartition("-")[0], unit.items, unit.payload, digest, unit.frames))
    shards = recipe.shards.plain()
    decoding = {name: shards[name] for name in ("decoder", "policy", "hwaccel", "max_pixels", "max_frames")}
    make = partial(VideoSource, str(folder), manifest.parts, recipe.data.plain(), shards, programs)
    return Inputs(card, parts, recipe.data.num_frames, recipe.data.resolution, decoding, programs, make, None)


def _digests_of_rows(manifest: Manifest) -> np.ndarray:
    """sha256 of every row of the manifest: uint8 (n, 32)."""
    digests = np.zeros((len(manifest), 32), np.uint8)
    for number in range(len(manifest.parts)):
        rows = [bytes.fromhex(fingerprint(row)) for row in manifest.part(number).to_pylist()]
        digests[manifest.starts[number] : manifest.starts[number + 1]] = np.frombuffer(
            b"".join(rows), np.uint8
        ).reshape(-1, 32)
    return digests


class VideoSource:
    """Clips of the manifest, decoded in a child process."""

    def __init__(
        self,
        folder: str,
        parts: list[ManifestPart],
        data: dict[str, Any],
        shards: dict[str, Any],
        programs: dict[str, Any],
    ) -> None:
        self.manifest = Manifest(as_path(folder), parts)
        self.config = ShardsConfig.model_validate(shards)
        must_be_same(programs, decoder=self.config.decoder)
        self.programs = programs
        self.decoder = decoder_version(self.config.decoder)
        self._clips = ClipDecoder(DataConfig.model_validate(data), self.config, Stopwatch())

    def clips(self, payload: np.ndarray, rejects: list[dict[str, Any]]) -> Generator[Clip, None, None]:
        """See `ClipSource`; `payload` is row numbers of the manifest."""
        for row, result in self._clips.clips(self.manifest.take(payload)):
            if isinstance(result, VideoError):
                rejects.append(reject_row("tokens", row["source"], row["clip_id"], result.reason, result.detail))
            else:
                extras = encode_extras(result.extras, self.config)
                yield Clip(row["clip_id"], result.frames_thwc, row["label"], row["class_name"], row, extras)
