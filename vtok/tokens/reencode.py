"""Encodes a sample of a store's clips again and compares the codes: does what made them still make them?

Which rows are taken is a pure function of their ids, the share and the seed, so a check that is run again takes the
same ones. They are encoded in the way that the store was made: mode, chunks, shape of a batch.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from schemas.config.run import STAGE_FOLDERS
from schemas.errors import UsageError
from vtok.audio.stores import audio_of_store
from vtok.audio.tokenizer import AudioTokenizer, load_audio_tokenizer
from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.encoding import ClipEncoder
from vtok.tokens.origin import Origin, Original
from vtok.tokens.parts import arrays_of
from vtok.tokens.ragged import row_ids
from vtok.tokens.store import TokenStore

ORIGIN_COLUMNS = ["clip_id", "view_id", "codes", "grid_t", "grid_h", "grid_w", "shard", "source", "source_sha256"]
ORIGIN_COLUMNS += ["windowed_from", "split", "class_name", "fps"]
_COLUMNS = [*ORIGIN_COLUMNS, "audio_codes"]


class Mismatch(NamedTuple):
    """A row whose codes came out differently: how many of how many, of its frames and of its sound."""

    clip_id: str
    view_id: str
    part: str
    changed_codes: int
    codes: int
    changed_audio_codes: int
    audio_codes: int


class Reencoded(NamedTuple):
    """What came out.

    Attributes:
        share: of the rows that was asked for.
        rows: in the sample.
        equal: with the very same codes.
        mismatches: those with others.
        skipped: those that could not be compared, by reason.
        codes, changed_codes: code positions that were compared, and that differ.
        audio_codes, changed_audio_codes: those of the sounds.
        notes: what is worth knowing.
    """

    share: float
    rows: int
    equal: int
    mismatches: list[Mismatch]
    skipped: dict[str, int]
    codes: int
    changed_codes: int
    audio_codes: int
    changed_audio_codes: int
    notes: list[str]


def store_tokenizer(store: TokenStore, folder: Path | None = None, device: str = "cpu") -> VideoAutoencoder:
    """The tokenizer that made a store: the one beside it, or in `folder`.

    Raises:
        UsageError: there is none, or it is another one.
    """
    folder = folder or store.folder.parent / STAGE_FOLDERS["tokenizer"]
    tokenizer = load_tokenizer(folder, device)
    if tokenizer.fingerprint != store.tokenizer:
        raise UsageError(
            f"the store was made by tokenizer {store.tokenizer[:16]}, this one is {tokenizer.fingerprint[:16]}",
            at=str(folder),
            hint="give --tokenizer the folder of the one that made it",
        )
    return tokenizer


def store_audio_tokenizer(store: TokenStore, folder: str, device: str = "cpu") -> AudioTokenizer:
    """The tokenizer in `folder`, which made a store's codes of sound.

    Raises:
        UsageError: there is none, it is another one, or the store has no such codes.
    """
    made_by = audio_of_store(store).get("fingerprint")
    if made_by is None:
        raise UsageError("the store does not say what made its codes of sound, if it has any", at=str(store.folder))
    audio = load_audio_tokenizer(folder, device)
    if audio.facts.fingerprint != made_by:
        raise UsageError(
            f"the store's sounds were encoded by {made_by[:16]}, this one is {audio.facts.fingerprint[:16]}",
            at=folder,
            hint="give --audio-tokenizer the folder of the one that made them",
        )
    return audio


def in_sample(clip_id: str, view_id: str, share: float, seed: int) -> bool:
    """Whether a row belongs to the sample."""
    digest = hashlib.blake2b(f"{seed}\0{clip_id}\0{view_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2.0**64


def reencode(
    store: TokenStore,
    origin: Origin,
    tokenizer: VideoAutoencoder,
    share: float,
    *,
    audio: AudioTokenizer | None = None,
    seed: int = 0,
    device: str = "cpu",
    advance: Callable[[int], None] = lambda rows: None,
) -> Reencoded:
    """Compares a sample of rows with a new encoding.

    Args:
        store: the store.
        origin: where its frames are.
        tokenizer: the one that made it, on `device`.
        share: of the rows, 0 to 1.
        audio: the one that made its codes of sound, on `device`; None: they are not compared.
        seed: other seeds take other rows.
        advance: called with the number of rows that were compared or skipped.

    Raises:
        IntegrityError: a row group is damaged.
    """
    counted: Counter[str] = Counter()
    mismatches: list[Mismatch] = []
    skipped: Counter[str] = Counter()
    encoder = _encoder(store, tokenizer, device, None if audio is None else audio.network)
    for part, rows in _sampled(store, share, seed):
        counted["rows"] += len(rows)
        for batch in _batches(origin.frames(rows), encoder.batch_size):
            there = [(each, each.video_thwc) for each in batch if each.video_thwc is not None]
            skipped.update(each.problem for each in batch if each.video_thwc is None)
            made = encoder.frames([video for _, video in there]) if there else []
            sounds = encoder.sounds([each.sound_cthw for each, _ in there])
            for (original, _), again, sound in zip(there, made, sounds, strict=True):
                row = original.row
                kept = again[:: origin.views[row["view_id"]].latent_stride]
                differ = _different(row["codes"], kept)
                unheard = _different(row["audio_codes"], sound) if audio is not None else 0
                heard = len(row["audio_codes"]) if audio is not None and row["audio_codes"] is not None else 0
                counted.update(codes=len(row["codes"]), changed=differ, audio=heard, changed_audio=unheard)
                if differ or unheard:
                    sizes = differ, len(row["codes"]), unheard, heard
                    mismatches.append(Mismatch(row["clip_id"], row["view_id"], part, *sizes))
                else:
                    counted["equal"] += 1
            advance(len(batch))
    notes = list(origin.notes)
    if audio is None and "audio" in store.card.facts:
        notes.append("the codes of sound were not compared: give --audio-tokenizer the folder of their tokenizer")
    made_on = store.card.config.get("device", device)
    if made_on != device:
        notes.append(
            f"the store was encoded on {made_on}, this on {device}: a rare code may differ for that reason alone"
        )
    return Reencoded(
        share,
        counted["rows"],
        counted["equal"],
        mismatches,
        dict(skipped),
        counted["codes"],
        counted["changed"],
        counted["audio"],
        counted["changed_audio"],
        notes,
    )


def _different(stored: np.ndarray | None, again: np.ndarray | None) -> int:
    """How many of the stored codes another encoding does not give; all, where there is none or of another size."""
    if stored is None or again is None:
        return (stored is not again) * max(1, 0 if stored is None else len(stored))
    return int((again.reshape(-1) != stored).sum()) if again.size == len(stored) else len(stored)


def device_of(store: TokenStore) -> str:
    """The kind of device that a store was made on, if this machine has it, else the CPU."""
    return "cuda" if store.card.config.get("device") == "cuda" and torch.cuda.is_available() else "cpu"


def _encoder(
    store: TokenStore, tokenizer: VideoAutoencoder, device: str, audio: VideoAutoencoder | None
) -> ClipEncoder:
    """What encodes as the store was made."""
    config = store.card.config
    return ClipEncoder(
        tokenizer,
        mode=config.get("mode", "exact"),
        device=device,
        batch_size=config.get("batch_size", 8),
        chunk_frames=config.get("chunk_frames"),
        audio=audio,
        pad_on_cpu="device" not in config,  # stores of version 1
    )


def _sampled(store: TokenStore, share: float, seed: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of the sample, by part; in a store that it would leave out wholly, the first row."""
    chosen = 0
    for split in store.splits():
        for path, groups in itertools.groupby(store.row_groups(split), key=lambda group: group.path):
            rows: list[dict[str, Any]] = []
            for group in groups:
                ids = row_ids(store.read(group, ["clip_id", "view_id"]))
                places = [i for i, (clip, view) in enumerate(ids) if in_sample(clip, view, share, seed)]
                if places:
                    rows += rows_of(store.read(group, _COLUMNS), places)
            chosen += len(rows)
            if rows:
                yield path.name, rows
    if not chosen:
        for split in store.splits():
            for group in store.row_groups(split)[:1]:
                yield group.path.name, rows_of(store.read(group, _COLUMNS), [0])
                return


def rows_of(table: pa.Table, places: Iterable[int]) -> list[dict[str, Any]]:
    """Some rows as dicts; `codes` is a 1-D array, and so is what there is of `audio_codes`."""
    lists = {name: arrays_of(table, name) for name in ("codes", "audio_codes") if name in table.column_names}
    rest = table.drop_columns(list(lists))
    return [
        {**rest.slice(place, 1).to_pylist()[0], **{name: values[place] for name, values in lists.items()}}
        for place in places
    ]


def _batches(originals: Iterator[Original], size: int) -> Iterator[list[Original]]:
    """Successive rows of one shape of frames, at most `size` of them."""
    batch: list[Original] = []
    shape: tuple[int, ...] | None = None
    for each in originals:
        mine = None if each.video_thwc is None else each.video_thwc.shape
        if batch and (len(batch) == size or (mine not in (None, shape) and shape is not None)):
            yield batch
            batch, shape = [], None
        batch.append(each)
        shape = shape or mine
    if batch:
        yield batch
