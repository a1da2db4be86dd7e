"""From rows of the token store to what priors are given: tensors on a device, conditions and all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from schemas.errors import UsageError
from vtok import artefacts
from vtok.priors.base import Batch, ModelConfig, Shape
from vtok.sealed import read_sealed
from vtok.tokens.batches import TokenBatch
from vtok.tokens.store import TokenStore

if TYPE_CHECKING:
    from vtok.priors.text import TextTokenizer

_MISSING = {
    "label": ("labels", "set prior.model.condition=none, or give the videos class folders and ingest again"),
    "caption": ("captions", "ingest a dataset with captions, or set prior.model.condition=none"),
    "audio_codes": ("codes of sounds", "tokenize with the sound's codes, or set prior.model.condition=none"),
    "cond_frames": ("conditioning frames", "tokenize again with tokens.cond_frames, or set prior.model.cond_frames=0"),
}


class Collate:
    """Makes batches for a prior.

    Args:
        config: of the prior; what it does not need is left out.
        device: where the tensors go.
        text: for `condition: text`.
    """

    def __init__(self, config: ModelConfig, device: torch.device | str, text: TextTokenizer | None = None) -> None:
        self.config, self.device, self.text = config, torch.device(device), text

    def of_tokens(self, tokens: TokenBatch, at: str) -> Batch:
        """What a loader gives.

        Args:
            tokens: a rank's share of a batch.
            at: the store's folder, for errors.

        Raises:
            UsageError: a clip lacks what the prior is conditioned on.
        """
        codes = tokens.codes_bthw
        if not tokens.valid_b.all():  # a copy, which is not in page-locked memory
            codes = np.where(tokens.valid_b[:, None, None, None], codes, -1)
        frames, audio = tokens.cond_frames_bthwc, tokens.audio_codes_bn
        return self._batch(codes, tokens.labels_b, tokens.captions, audio, frames, tokens.boxes_b6, at)

    def of_rows(self, rows: Sequence[Mapping[str, Any]], at: str, crop: Shape | None = None) -> Batch:
        """Rows of a store, with at least the columns of `columns_of`.

        Args:
            rows: as `TokenStore.rows` gives them.
            at: the store's folder, for errors.
            crop: use the first codes (t, h, w) of every axis only.

        Raises:
            UsageError: a clip lacks what the prior is conditioned on, or the codes have different shapes.
        """
        columns = self.config.columns
        labels = [row["label"] for row in rows] if "label" in columns else []
        captions = [row["caption"] for row in rows] if "caption" in columns else []
        audio = frames = None
        if "audio_codes" in columns:
            audio = np.stack([_needed(row, "audio_codes", at) for row in rows]).astype(np.int64)
        if "cond_frames" in columns:
            frames = stack_frames(rows, at)
        cut = tuple(slice(side) for side in crop or (None, None, None))
        clips = [np.reshape(row["codes"], [row[f"grid_{axis}"] for axis in "thw"])[cut] for row in rows]
        if len({clip.shape for clip in clips}) > 1:
            raise UsageError("clips of different sizes", at=at, hint="train on crops: prior.train.crop=[t,h,w]")
        codes = np.stack(clips).astype(np.int64)
        t, h, w = clips[0].shape
        boxes = np.tile(np.array([0, t, 0, h, 0, w]), (len(rows), 1))
        known = np.array([-1 if label is None else label for label in labels], dtype=np.int64)
        return self._batch(codes, known, captions, audio, frames, boxes, at)

    def _batch(
        self,
        codes: np.ndarray,
        labels: np.ndarray,
        captions: Sequence[str | None],
        audio: np.ndarray | None,
        frames: np.ndarray | None,
        boxes: np.ndarray,
        at: str,
    ) -> Batch:
        """What the prior needs of it, on the device."""
        columns = self.config.columns
        if "label" in columns and (labels < 0).any():
            raise _missing("label", at, "a clip")
        for name, found in (("cond_frames", frames), ("audio_codes", audio)):
            if name in columns and found is None:
                raise _missing(name, at, "a clip")
        return Batch(
            self._tensor(codes),
            self._tensor(labels) if "label" in columns else None,
            self._text(captions) if "caption" in columns else None,
            self._tensor(audio) if "audio_codes" in columns and audio is not None else None,
            self._frames(frames) if "cond_frames" in columns and frames is not None else None,
            self._tensor(boxes),
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)

    def _text(self, captions: Sequence[str | None]) -> Tensor:
        assert self.text is not None
        assert self.config.kind == "gpt"
        return self._tensor(self.text.encode([caption or "" for caption in captions], self.config.tokens_before))

    def _frames(self, frames_bthwc: np.ndarray) -> Tensor:
        """Pixels in [-0.5, 0.5], channels first."""
        return self._tensor(frames_bthwc).permute(0, 4, 1, 2, 3).float() / 255 - 0.5


def columns_of(config: ModelConfig) -> list[str]:
    """Columns to read for `Collate.of_rows`."""
    sizes = ["height", "width"] if "cond_frames" in config.columns else []
    return ["codes", "grid_t", "grid_h", "grid_w", *config.columns, *sizes]


def text_tokenizer_of(prior: Path, config: ModelConfig) -> TextTokenizer | None:
    """The text tokenizer in a finished prior's folder; None if it is not conditioned on captions.

    Raises:
        IntegrityError: it is missing, or not the one that the card seals.
    """
    if "caption" not in config.columns:
        return None
    from vtok.priors.text import FILE_NAME, TextTokenizer

    data = read_sealed(prior, artefacts.load(prior, "prior"), FILE_NAME)
    return TextTokenizer(data, str(prior / FILE_NAME))


def check_columns(config: ModelConfig, store: TokenStore) -> None:
    """Looks at the store's first training clip.

    Raises:
        UsageError: the store lacks what the prior is conditioned on.
    """
    at = str(store.folder)
    for name in config.columns:
        if name not in store.schema.names or (name == "label" and not store.classes):
            raise _missing(name, at, "the token store")
    if not config.columns:
        return
    first = next(store.rows("train", list(config.columns)), None)
    for name in config.columns:
        if first is not None and first[name] is None and name != "caption":
            raise _missing(name, at, "a clip of the token store")
    if "caption" in config.columns and not any(row["caption"] for row in store.rows("train", ["caption"])):
        raise _missing("caption", at, "the token store")


def stack_frames(rows: Sequence[Mapping[str, Any]], at: str) -> np.ndarray:
    """The conditioning frames of rows, uint8 (b, n, height, width, 3); of the fewest that any row has.

    Raises:
        UsageError: a row has none, or they are not of one size.
    """
    clips = []
    for row in rows:
        pixels = np.frombuffer(_needed(row, "cond_frames", at), dtype=np.uint8)
        clips.append(pixels.reshape(-1, row["height"], row["width"], 3))
    if len({clip.shape[1:] for clip in clips}) > 1:
        raise UsageError("conditioning frames of different sizes", at=at, hint="tokenize views of one size only")
    count = min(len(clip) for clip in clips)
    return np.stack([clip[:count] for clip in clips])


def _needed(row: Mapping[str, Any], name: str, at: str) -> Any:
    if row[name] is None:
        raise _missing(name, at, "a clip")
    return row[name]


def _missing(name: str, at: str, where: str) -> UsageError:
    what, hint = _MISSING[name]
    return UsageError(f"prior.model needs {what} and {where} has no {what}", at=at, hint=hint)
