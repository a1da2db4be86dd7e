"""From rows of the token store to what priors are given: tensors on a device, conditions and all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from schemas.errors import UsageError
from vtok.priors.base import Batch, ModelConfig
from vtok.tokens.loader import TokenBatch
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
        columns = self.config.columns
        frames, audio = tokens.cond_frames_bthwc, tokens.audio_codes_bn
        if "label" in columns and (tokens.labels_b < 0).any():
            raise _missing("label", at, "a clip")
        for name, found in (("cond_frames", frames), ("audio_codes", audio)):
            if name in columns and found is None:
                raise _missing(name, at, "a clip")
        codes = tokens.codes_bthw
        if tokens.valid_b is not None and not tokens.valid_b.all():
            codes = np.where(tokens.valid_b[:, None, None, None], codes, -1)
        return Batch(
            self._tensor(codes),
            self._tensor(tokens.labels_b) if "label" in columns else None,
            self._text(tokens.captions) if "caption" in columns else None,
            self._tensor(audio) if "audio_codes" in columns else None,
            self._frames(frames) if "cond_frames" in columns and frames is not None else None,
            self._tensor(tokens.boxes_b6) if tokens.boxes_b6 is not None else self._whole(codes),
        )

    def of_rows(self, rows: Sequence[Mapping[str, Any]], grid: tuple[int, int, int], at: str) -> Batch:
        """Rows of a store that have one grid, with at least `columns_of` the prior's config.

        Raises:
            UsageError: as `of_tokens`.
        """
        columns = self.config.columns
        frames = audio = None
        if "cond_frames" in columns:
            frames = stack_frames(rows, at)
        if "audio_codes" in columns:
            audio = np.stack([_needed(row, "audio_codes", at) for row in rows]).astype(np.int64)
        labels = [-1] * len(rows)
        if "label" in columns:
            labels = [-1 if row["label"] is None else row["label"] for row in rows]
        codes = np.stack([row["codes"] for row in rows]).astype(np.int64).reshape(len(rows), *grid)
        captions = [row.get("caption") for row in rows]
        tokens = TokenBatch(codes, np.array(labels), captions=captions, cond_frames_bthwc=frames, audio_codes_bn=audio)
        return self.of_tokens(tokens, at)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _text(self, captions: Sequence[str | None]) -> Tensor:
        assert self.text is not None
        assert self.config.kind == "gpt"
        return self._tensor(self.text.encode([caption or "" for caption in captions], self.config.tokens_before))

    def _frames(self, frames_bthwc: np.ndarray) -> Tensor:
        """Pixels in [-0.5, 0.5], channels first."""
        return self._tensor(frames_bthwc).permute(0, 4, 1, 2, 3).float() / 255 - 0.5

    def _whole(self, codes_bthw: np.ndarray) -> Tensor:
        batch, t, h, w = codes_bthw.shape
        return torch.tensor([0, t, 0, h, 0, w], device=self.device).expand(batch, -1)


def columns_of(config: ModelConfig) -> list[str]:
    """Columns to read for `Collate.of_rows`."""
    sizes = ["height", "width"] if "cond_frames" in config.columns else []
    return ["codes", *config.columns, *sizes]


def text_tokenizer_of(prior: Path, config: ModelConfig) -> TextTokenizer | None:
    """The text tokenizer in a prior's folder; None if it is not conditioned on captions."""
    if "caption" not in config.columns:
        return None
    from vtok.priors.text import FILE_NAME, TextTokenizer

    try:
        return TextTokenizer((prior / FILE_NAME).read_bytes(), str(prior / FILE_NAME))
    except FileNotFoundError:
        raise UsageError("the prior's text tokenizer is missing", at=str(prior / FILE_NAME)) from None


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
