"""The frames and sounds that a store's rows were encoded from: out of the shards beside it, else decoded from the
videos."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, UInt8
from numpy import ndarray

from schemas.card import CARD_NAME, Card, Kind
from schemas.clips import CLIPS
from schemas.config.audio import SpectrumConfig
from schemas.config.data import ShardsConfig
from schemas.config.run import STAGE_FOLDERS
from schemas.config.tokens import ViewConfig
from schemas.errors import VtokError
from schemas.paths import as_path
from schemas.shards import MANIFEST_NAME
from schemas.tokens import WHOLE
from vtok import artefacts
from vtok.audio.clips import sound_picture
from vtok.audio.stores import audio_of_store
from vtok.datasets.base import source_path
from vtok.files import local_copy, read_table
from vtok.sealed import sealed_path
from vtok.shards.codec import decode_clip, encode_clip, encode_extras
from vtok.shards.reader import decode_sample, read_samples
from vtok.tokens.store import TokenStore
from vtok.tokens.views import cut_view, frames_of_view
from vtok.video.child import DecodeChild
from vtok.video.errors import VideoError
from vtok.video.media.companions import split_address

GONE = "neither its shard nor its source is there"
CHANGED = "its source is another file now"
UNKNOWN = "its shard is not there, and where the videos are is not known (--videos)"


class Original(NamedTuple):
    """A row and what was encoded.

    Attributes:
        row: as it was asked for.
        video_thwc: RGB frames of the row's view, or None.
        problem: why there are none.
        sound_cthw: the picture of its sound; None: it has none, or the store has no codes of sound.
    """

    row: dict[str, Any]
    video_thwc: UInt8[ndarray, "t h w 3"] | None
    problem: str = ""
    sound_cthw: Float32[ndarray, "1 t h2 w2"] | None = None


class Origin:
    """Finds the frames of rows.

    Args:
        store: the store; `shards/` and `clips/` are looked for beside it.
        shards: the folder of the shards, if it is elsewhere.
        videos: the folder that was ingested (artefacts hold no paths); None: only shards are looked at.

    Attributes:
        notes: what is worth knowing, e.g. that the shards are other ones.
    """

    def __init__(self, store: TokenStore, *, shards: Path | None = None, videos: Path | None = None) -> None:
        self.store, self.notes = store, list[str]()
        beside = store.folder.parent
        self.shards = as_path(shards) if shards is not None else beside / STAGE_FOLDERS["shards"]
        self._shards_card = self._card(self.shards, "shards")
        self._clips = beside / STAGE_FOLDERS["clips"]
        self._clips_card = self._card(self._clips, "clips")
        self.videos = as_path(videos) if videos is not None else None
        self.views = {WHOLE: ViewConfig()}
        for view in store.card.facts.get("views", []):
            settings = {name: value for name, value in view.items() if name in ViewConfig.model_fields}
            self.views[view["name"]] = ViewConfig.model_validate(settings)
        heard = audio_of_store(store).get("spectrum")
        self._spectrum = None if heard is None else SpectrumConfig.model_validate(heard)
        self._digests: dict[str, str] = {}
        if self._shards_card is not None:
            try:
                index = artefacts.load_index(self.shards).to_pylist()
                self._digests = {row["path"]: row["sha256"] for row in index}
            except VtokError as error:
                self.notes.append(f"the shards cannot be used: {error.what}")

    def frames(self, rows: list[dict[str, Any]]) -> Iterator[Original]:
        """The frames of each row, in the order of their shards and sources.

        Args:
            rows: with `clip_id view_id shard source source_sha256 windowed_from`.
        """
        ordered = sorted(rows, key=lambda row: (row["shard"], row["source"], row["clip_id"]))
        for shard, group in itertools.groupby(ordered, key=lambda row: row["shard"]):
            mine = list(group)
            inside = shard in self._digests and (self.shards / shard).exists()
            yield from self._from_shard(shard, mine) if inside else self._from_videos(mine)

    def _card(self, folder: Path, kind: Kind) -> Card | None:
        if not (folder / CARD_NAME).exists():
            return None
        try:
            card = artefacts.load(folder, kind)
        except VtokError as error:
            self.notes.append(f"the {kind} beside the store cannot be used: {error.what}")
            return None
        wanted = self.store.card.inputs.get(kind)
        if wanted is not None and card.fingerprint != wanted:
            self.notes.append(f"the {kind} in {folder} are not the ones that the store was made from")
        return card

    def _from_shard(self, shard: str, rows: list[dict[str, Any]]) -> Iterator[Original]:
        try:
            path = artefacts.verify_part(self.shards, shard, self._digests[shard])
        except VtokError as error:
            yield from (Original(row, None, f"its shard is damaged: {error.what}") for row in rows)
            return
        waiting: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            waiting.setdefault(row["clip_id"], []).append(row)
        for sample in read_samples(path):
            mine = waiting.pop(sample["__key__"], [])
            if mine:
                clip = decode_sample(sample, path)
                if clip.meta.get("source_sha256") != mine[0]["source_sha256"]:
                    yield from (Original(row, None, "its shard holds another source's clip") for row in mine)
                else:
                    yield from (self._cut(row, clip.video_thwc, clip.extras) for row in mine)
        yield from (Original(row, None, "its shard does not hold it") for mine in waiting.values() for row in mine)

    def _from_videos(self, rows: list[dict[str, Any]]) -> Iterator[Original]:
        """Decodes as the shards were made, so that what they lost to compression is lost again."""
        settings = self._settings()
        if settings is None or self.videos is None:
            yield from (Original(row, None, GONE if settings is None else UNKNOWN) for row in rows)
            return
        config, data, encoded = settings
        manifest = self._manifest({row["clip_id"] for row in rows})
        child = DecodeChild(max_memory_mb=config.max_memory_mb)
        try:
            for source, group in itertools.groupby(rows, key=lambda row: row["source"]):
                mine = list(group)
                clips = [manifest[name] for name in dict.fromkeys(row["clip_id"] for row in mine) if name in manifest]
                if not clips:
                    yield from (Original(row, None, "the manifest does not name it") for row in mine)
                    continue
                remote = self.videos / source_path(source, clips[0]["item"])
                if not remote.exists():
                    yield from (Original(row, None, GONE) for row in mine)
                    continue
                with local_copy(remote) as local:
                    decoded = child.decode(
                        str(local),
                        clips,
                        resolution=data["resolution"],
                        pixel_aspect=data.get("pixel_aspect", "ignore"),
                        policy=config.policy,
                        decoder=config.decoder,
                        max_pixels=config.max_pixels,
                        max_frames=config.max_frames,
                        hwaccel=config.hwaccel,
                        cpu_seconds=config.cpu_seconds_per_video,
                        audio_rate=None if self._spectrum is None else config.audio_rate,
                        companions=self._companions(clips[0]),
                    )
                    for index, result in decoded:
                        wanted = [row for row in mine if row["clip_id"] == clips[index]["clip_id"]]
                        if isinstance(result, VideoError):
                            why = (
                                CHANGED if result.reason == "changed" else f"its source is unreadable: {result.reason}"
                            )
                            yield from (Original(row, None, why) for row in wanted)
                        elif decoded.sha256 != mine[0]["source_sha256"]:
                            yield from (Original(row, None, CHANGED) for row in wanted)
                        else:
                            frames = result.frames_thwc
                            if encoded:
                                fps = clips[index]["frame_rate"] or clips[index]["fps"] / clips[index]["frame_stride"]
                                frames = decode_clip(encode_clip(frames, config, float(fps)))
                            extras = encode_extras(result.extras, config)
                            yield from (self._cut(row, frames, extras) for row in wanted)
        finally:
            child.close()

    def _settings(self) -> tuple[ShardsConfig, dict[str, Any], bool] | None:
        """How the clips were decoded and shaped, and whether they went through a shard."""
        if self.store.card.config.get("source") == "clips":
            if self._clips_card is None:
                return None
            decoding = self.store.card.config["decoding"]
            return ShardsConfig.model_validate(decoding), self._clips_card.config, False
        if self._shards_card is None:
            return None
        config = self._shards_card.config
        return ShardsConfig.model_validate(config["shards"]), config, True

    def _manifest(self, clips: set[str]) -> dict[str, dict[str, Any]]:
        """The manifest's rows of these clips."""
        if self._shards_card is not None and MANIFEST_NAME in self._shards_card.files:
            files = [sealed_path(self.shards, self._shards_card, MANIFEST_NAME)]
        else:
            index = artefacts.load_index(self._clips).to_pylist()
            files = [artefacts.verify_part(self._clips, row["path"], row["sha256"]) for row in index]
        found: dict[str, dict[str, Any]] = {}
        for file in files:
            table = read_table(file, schema=CLIPS)
            wanted = table.filter(pc.is_in(table["clip_id"], value_set=pa.array(sorted(clips))))
            found |= {row["clip_id"]: row for row in wanted.to_pylist()}
        return found

    def _companions(self, row: dict[str, Any]) -> dict[str, tuple[str, str]]:
        named = {name: split_address(address) for name, address in json.loads(row["companions"] or "{}").items()}
        return {name: (str(Path(str(self.videos)) / path), item) for name, (path, item) in named.items()}

    def _cut(self, row: dict[str, Any], video_thwc: UInt8[ndarray, "t h w 3"], extras: Mapping[str, bytes]) -> Original:
        if row["windowed_from"] is not None:
            return Original(row, None, "its codes were cut out of a longer encoding")
        view = self.views.get(row["view_id"])
        if view is None:
            return Original(row, None, f"the store does not say what the view {row['view_id']!r} is")
        sound = None
        if self._spectrum is not None:
            frames = len(video_thwc)
            try:
                sound = sound_picture(extras, self._spectrum, frames, frames_of_view(view, frames))
            except VtokError as error:
                return Original(row, None, error.what)
        return Original(row, cut_view(video_thwc, view), sound_cthw=sound)
