"""What encodes clips, inside an actor: a thread decodes ahead while the tokenizer works."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from pipelines.decode_clips import clip_fps
from pipelines.token_inputs import ClipSource
from schemas.card import MADE_WITH
from schemas.clips import reject_row
from schemas.config.tokens import TokensConfig, ViewConfig
from schemas.paths import as_path
from vtok.artefacts import Part
from vtok.audio.clips import sound_picture
from vtok.audio.tokenizer import load_audio_tokenizer
from vtok.readahead import read_ahead
from vtok.shards.reader import Clip
from vtok.stopwatch import Stopwatch
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.encoding import ClipEncoder
from vtok.tokens.parts import write_tokens
from vtok.tokens.views import cut_view, frames_of_view, view_span


class TokenPart(NamedTuple):
    """One part to be made; what a unit's payload is.

    Attributes:
        view: number of its view.
        split: of its clips.
        shard: name of the shard that holds them; "" if none does.
        clips: for the worker's `ClipSource`.
        grid: codes (t, h, w) of a row.
        audio_grid: of its sound; none: sounds are not encoded.
        content: fingerprint of everything that decides its bytes.
    """

    view: int
    split: str
    shard: str
    clips: Any
    grid: tuple[int, int, int]
    audio_grid: tuple[int, int, int] | None
    content: str


class Framed(NamedTuple):
    """A clip that waits for the tokenizer.

    Attributes:
        meta: the clip's row of the manifest.
        video_thwc: the frames of a view.
        sound_cthw: the picture of its sound; none: it has no sound, or it is not wanted.
    """

    meta: dict[str, Any]
    video_thwc: UInt8[np.ndarray, "t h w 3"]
    sound_cthw: Float32[np.ndarray, "1 t h2 w2"] | None


class TokenizeWorker:
    """Holds the tokenizer and makes parts.

    Args:
        folder: of the token store.
        tokenizer: folder of the tokenizer.
        config: `TokensConfig` as plain values.
        device: `cpu` or `cuda`.
        source: makes what gives the clips.
    """

    def __init__(
        self,
        folder: str,
        tokenizer: str,
        config: dict[str, Any],
        device: str,
        source: Callable[[], ClipSource],
    ) -> None:
        self.folder, self.device = as_path(folder), device
        self.config = TokensConfig.model_validate(config)
        self.source = source()
        torch.set_num_threads(self.config.threads)
        self.tokenizer = load_tokenizer(tokenizer, device=device)
        self.fingerprint = self.tokenizer.fingerprint
        self.audio = None
        if self.config.audio is not None:
            self.audio = load_audio_tokenizer(self.config.audio.tokenizer, device)
        self.encoder = ClipEncoder(
            self.tokenizer,
            mode=self.config.mode,
            device=device,
            batch_size=self.config.batch_size,
            chunk_frames=self.config.chunk_frames,
            audio=None if self.audio is None else self.audio.network,
        )
        self.clock = Stopwatch()

    def make(self, name: str, payload: TokenPart) -> Part:
        """Encodes a view of some clips into one part. The phase `decode` is the time spent waiting for frames."""
        view = self.config.views[payload.view]
        rejects: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        ahead = read_ahead(self._framed(payload, view, rejects), _size, self.config.prefetch_mb << 20)
        with contextlib.closing(ahead):
            for batch in self._batches(self.clock.each("decode", ahead)):
                with self.clock.phase("encode"):
                    codes = self.encoder.frames([clip.video_thwc for clip in batch])
                    sounds = self.encoder.sounds([clip.sound_cthw for clip in batch])
                for clip, codes_thw, sound in zip(batch, codes, sounds, strict=True):
                    heard = None if sound is None else sound.reshape(-1)
                    rows.append(self._row(clip, codes_thw, view, payload.shard) | {"audio_codes": heard})
        with self.clock.phase("write"):
            return write_tokens(
                self.folder / name,
                rows,
                tokenizer=self.fingerprint,
                codebook_size=self.tokenizer.codebook_size,
                grid=payload.grid,
                plan=payload.content,
                split=payload.split,
                rejects=rejects,
                row_group_rows=self.config.row_group_rows,
                point=f"tokens:{name}",
                mode=self.config.mode,
                audio=None if self.audio is None else {**self.audio.facts.plain(), "grid": payload.audio_grid},
                made_by={
                    "view": view.plain(),
                    "device": self.device,
                    "chunk_frames": self.config.chunk_frames,
                    **({MADE_WITH: self.source.programs} if self.source.programs else {}),
                },
            )

    def _framed(self, payload: TokenPart, view: ViewConfig, rejects: list[dict[str, Any]]) -> Iterator[Framed]:
        with contextlib.closing(self.source.clips(payload.clips, rejects)) as clips:
            for clip in clips:
                sound = self._sound(clip, view)
                if self.config.audio is not None and self.config.audio.silent == "reject" and sound is None:
                    where = clip.meta["source"], clip.clip_id
                    rejects.append(reject_row("tokens", *where, "no_sound", "tokens.audio wants sound of every clip"))
                    continue
                yield Framed(clip.meta, cut_view(clip.video_thwc, view), sound)

    def _sound(self, clip: Clip, view: ViewConfig) -> Float32[np.ndarray, "1 t h w"] | None:
        if self.audio is None:
            return None
        frames = len(clip.video_thwc)
        return sound_picture(clip.extras, self.audio.facts.spectrum, frames, frames_of_view(view, frames))

    def _batches(self, clips: Iterator[Framed]) -> Iterator[list[Framed]]:
        """Successive clips of one shape, at most `batch_size` of them; a long one by itself."""
        batch: list[Framed] = []
        for clip in clips:
            if batch and (batch[0].video_thwc.shape != clip.video_thwc.shape or self.encoder.is_long(clip.video_thwc)):
                yield batch
                batch = []
            batch.append(clip)
            if len(batch) == self.config.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _row(self, clip: Framed, codes_thw: np.ndarray, view: ViewConfig, shard: str) -> dict[str, Any]:
        kept = codes_thw[:: view.latent_stride]
        height, width = clip.video_thwc.shape[1:3]
        cond = clip.video_thwc[: self.config.cond_frames].tobytes() if self.config.cond_frames else None
        return {
            **{key: clip.meta[key] for key in _COPIED},
            **view_span(view, clip.meta, clip_fps(clip.meta)),
            "view_id": view.name,
            "flip": view.flip,
            "codes": kept.reshape(-1),
            "grid_t": kept.shape[0],
            "grid_h": kept.shape[1],
            "grid_w": kept.shape[2],
            "height": height,
            "width": width,
            "decoder": self.source.decoder,
            "shard": shard,
            "windowed_from": None,
            "cond_frames": cond,
        }


def _size(clip: Framed) -> int:
    return clip.video_thwc.nbytes + (0 if clip.sound_cthw is None else clip.sound_cthw.nbytes)


_COPIED = ("clip_id", "split", "label", "class_name", "caption", "source", "source_sha256")
