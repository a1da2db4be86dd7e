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
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Integer, UInt8

from schemas.config.run import STAGE_FOLDERS
from schemas.errors import UsageError
from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokenizers.chunked import encode_chunks
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.origin import Origin, Original
from vtok.tokens.ragged import row_codes, row_ids
from vtok.tokens.store import TokenStore
from vtok.video.ranges import to_model_range

ORIGIN_COLUMNS = ["clip_id", "view_id", "codes", "grid_t", "grid_h", "grid_w", "shard", "source", "source_sha256"]
ORIGIN_COLUMNS += ["windowed_from", "split", "class_name", "fps"]


class Mismatch(NamedTuple):
    """A row whose codes came out differently: how many of how many, and what its grid would be."""

    clip_id: str
    view_id: str
    part: str
    changed_codes: int
    codes: int


class Reencoded(NamedTuple):
    """What came out.

    Attributes:
        share: of the rows that was asked for.
        rows: in the sample.
        equal: with the very same codes.
        mismatches: those with others.
        skipped: those that could not be compared, by reason.
        codes, changed_codes: code positions that were compared, and that differ.
        notes: what is worth knowing.
    """

    share: float
    rows: int
    equal: int
    mismatches: list[Mismatch]
    skipped: dict[str, int]
    codes: int
    changed_codes: int
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
        seed: other seeds take other rows.
        advance: called with the number of rows that were compared or skipped.

    Raises:
        IntegrityError: a row group is damaged.
    """
    equal = codes = changed = total = 0
    mismatches: list[Mismatch] = []
    skipped: Counter[str] = Counter()
    for part, rows in _sampled(store, share, seed):
        total += len(rows)
        for batch in _batches(origin.frames(rows), store.card.config.get("batch_size", 8)):
            videos = [each.video_thwc for each in batch if each.video_thwc is not None]
            made = encode(tokenizer, videos, store.card.config, device) if videos else []
            answers = iter(made)
            for original in batch:
                advance(1)
                if original.video_thwc is None:
                    skipped[original.problem] += 1
                    continue
                row, again = original.row, next(answers)
                again = again[:: origin.views[row["view_id"]].latent_stride].reshape(-1)
                same = len(again) == len(row["codes"])
                differ = int((again != row["codes"]).sum()) if same else len(row["codes"])
                codes, changed = codes + len(row["codes"]), changed + differ
                equal += not differ
                if differ:
                    mismatches.append(Mismatch(row["clip_id"], row["view_id"], part, differ, len(row["codes"])))
    notes = list(origin.notes)
    made_on = store.card.config.get("device", device)
    if made_on != device:
        notes.append(
            f"the store was encoded on {made_on}, this on {device}: a rare code may differ for that reason alone"
        )
    return Reencoded(share, total, equal, mismatches, dict(skipped), codes, changed, notes)


def device_of(store: TokenStore) -> str:
    """The kind of device that a store was made on, if this machine has it, else the CPU."""
    return "cuda" if store.card.config.get("device") == "cuda" and torch.cuda.is_available() else "cpu"


def encode(
    tokenizer: VideoAutoencoder, videos: list[UInt8[np.ndarray, "t h w 3"]], config: dict[str, Any], device: str
) -> list[Integer[np.ndarray, "t h w"]]:
    """Codes of clips of one shape, as `vtok tokenize` makes them: one by one on a CPU, in full batches on a GPU.

    Args:
        config: of the store: `mode`, `device`, `batch_size`, `chunk_frames`.
    """
    chunk = config.get("chunk_frames")
    if chunk is not None and len(videos[0]) > chunk:
        return [_encode_long(tokenizer, video, chunk // tokenizer.downsample[0], device) for video in videos]
    mode = config.get("mode", "exact")
    if device == "cpu" and "device" in config:  # stores of version 1 were made in padded batches there, too
        return [_encode_batch(tokenizer, video[None], mode, device)[0] for video in videos]
    padding = max(0, config.get("batch_size", 8) - len(videos))
    padded = np.pad(np.stack(videos), ((0, padding), *((0, 0),) * 4))
    return list(_encode_batch(tokenizer, padded, mode, device)[: len(videos)])


def _encode_batch(
    tokenizer: VideoAutoencoder,
    videos_bthwc: UInt8[np.ndarray, "b t h w 3"],
    mode: Literal["exact", "fast"],
    device: str,
) -> Integer[np.ndarray, "b t h w"]:
    with torch.inference_mode():
        codes = tokenizer.encode(torch.from_numpy(to_model_range(videos_bthwc)).to(device), mode=mode)
    out: np.ndarray = codes.cpu().numpy()
    return out


def _encode_long(
    tokenizer: VideoAutoencoder, video_thwc: UInt8[np.ndarray, "t h w 3"], chunk: int, device: str
) -> Integer[np.ndarray, "t h w"]:
    def read(start: int, stop: int) -> torch.Tensor:
        return torch.from_numpy(to_model_range(video_thwc[None, start:stop])).to(device)

    with torch.inference_mode():
        parts = [codes.cpu().numpy() for codes in encode_chunks(tokenizer, read, len(video_thwc), chunk)]
    whole: np.ndarray = np.concatenate(parts, axis=1)[0]
    return whole


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
                    rows += rows_of(store.read(group, ORIGIN_COLUMNS), places)
            chosen += len(rows)
            if rows:
                yield path.name, rows
    if not chosen:
        for split in store.splits():
            for group in store.row_groups(split)[:1]:
                yield group.path.name, rows_of(store.read(group, ORIGIN_COLUMNS), [0])
                return


def rows_of(table: pa.Table, places: Iterable[int]) -> list[dict[str, Any]]:
    """Some rows as dicts; `codes` is a 1-D array."""
    codes = row_codes(table)
    rest = table.drop_columns("codes")
    return [{**rest.slice(place, 1).to_pylist()[0], "codes": codes[place]} for place in places]


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
