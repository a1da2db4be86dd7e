"""From rows of the manifest to frames: what every job does that decodes source videos.

A video is decoded in one pass, in a disposable child process; what cannot be decoded comes out as an error, not as an
exception.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from schemas.config.data import DataConfig, ShardsConfig
from schemas.paths import as_path
from vtok.datasets.base import source_path
from vtok.files import local_copy
from vtok.stopwatch import Stopwatch
from vtok.video.child import DecodeChild
from vtok.video.child_wire import DecodedClip
from vtok.video.errors import VideoError
from vtok.video.media.companions import rows_digest, split_address


class Decoded(NamedTuple):
    """One clip of the manifest.

    Attributes:
        row: its row, completed with the source's and the companions' sha256 where there is a result.
        result: the clip, or why there is none.
    """

    row: dict[str, Any]
    result: DecodedClip | VideoError


class ClipDecoder:
    """Decodes the clips of manifest rows.

    Args:
        data: where the videos are, and their resolution.
        config: decoder, policy and limits.
        clock: gets the phases `fetch` and `decode`.
    """

    def __init__(self, data: DataConfig, config: ShardsConfig, clock: Stopwatch) -> None:
        self.data, self.config, self.clock = data, config, clock
        self.child = DecodeChild(max_memory_mb=config.max_memory_mb)

    def clips(self, rows: list[dict[str, Any]]) -> Iterator[Decoded]:
        """Every row once; rows of one source that follow one another are decoded together."""
        for source, group in itertools.groupby(rows, key=lambda row: row["source"]):
            clips = list(group)
            with contextlib.ExitStack() as stack:
                with self.clock.phase("fetch"):
                    remote = as_path(self.data.root) / source_path(source, clips[0]["item"])
                    local = stack.enter_context(local_copy(remote))
                yield from self._decoded(str(local), clips)

    def _decoded(self, path: str, rows: list[dict[str, Any]]) -> Iterator[Decoded]:
        """What a lack of memory took away is tried once more: it may have been the machine's, and then the kernel kills
        whom it likes."""
        last = False
        while rows:
            again = []
            companions = self._companions(rows[0])
            decoded = self.child.decode(
                path,
                rows,
                resolution=self.data.resolution,
                policy=self.config.policy,
                decoder=self.config.decoder,
                max_pixels=self.config.max_pixels,
                max_frames=self.config.max_frames,
                hwaccel=self.config.hwaccel,
                cpu_seconds=self.config.cpu_seconds_per_video,
                audio_rate=self.config.audio_rate,
                companions=companions,
                pixel_aspect=self.data.pixel_aspect,
            )
            for index, result in self.clock.each("decode", decoded):
                if not isinstance(result, VideoError):
                    beside = rows_digest({name: result.extras[name] for name in companions})
                    known = {"source_sha256": decoded.sha256, "companions_sha256": beside}
                    yield Decoded({**rows[index], **known}, result)
                elif result.reason == "memory" and not last:
                    again.append(rows[index])
                else:
                    yield Decoded(rows[index], result)
            rows, last = again, True

    def _companions(self, row: dict[str, Any]) -> dict[str, tuple[str, str]]:
        """Name to absolute path and item of what lies beside a video."""
        found = {name: split_address(address) for name, address in json.loads(row["companions"] or "{}").items()}
        return {name: (str(Path(self.data.root) / path), item) for name, (path, item) in found.items()}


def clip_fps(row: dict[str, Any]) -> float:
    """Frames per second of a clip as it was sampled."""
    return float(row["frame_rate"] or row["fps"] / row["frame_stride"])
