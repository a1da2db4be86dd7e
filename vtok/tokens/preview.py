"""Rows of a token store as pictures: what the codes decode to, below the frames that they were made from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from schemas.errors import UsageError
from vtok.evaluation.reconstruction import psnr
from vtok.files import write_bytes
from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokens.origin import Origin
from vtok.tokens.reencode import ORIGIN_COLUMNS, rows_of
from vtok.tokens.store import RowGroup, TokenStore
from vtok.video.encode import write_gif
from vtok.video.preview import Frames, contact_sheet, grid_frames
from vtok.video.ranges import to_model_range, to_pixels

SHEET_FRAMES = 8
"""Frames of a row on the contact sheet, at most."""
_SMALLEST = 96  # pixels: smaller frames are enlarged by a whole number
_LETTER = 6  # pixels of a letter on the sheet, about
_GREY = 128
_ACROSS = 6  # rows side by side in the GIF, at most
_GAP = 2  # white pixels between the frames of a row


class Decoded(NamedTuple):
    """A row and its pictures.

    Attributes:
        row: its columns.
        video_thwc: what its codes decode to.
        source_thwc: what was encoded, or None.
        psnr_db: of the one against the other, or None.
        problem: why there is no source.
    """

    row: dict[str, Any]
    video_thwc: UInt8[np.ndarray, "t h w 3"]
    source_thwc: UInt8[np.ndarray, "t h w 3"] | None
    psnr_db: float | None
    problem: str


def choose(
    store: TokenStore,
    num: int,
    *,
    clips: list[str] | None = None,
    split: str | None = None,
    class_name: str | None = None,
) -> list[dict[str, Any]]:
    """Rows to look at, as dicts with the columns of `ORIGIN_COLUMNS`.

    Args:
        store: the store.
        num: at most so many, evenly spread over what fits, in store order.
        clips: only rows of these clips, and all of them.
        split, class_name: only rows of these.

    Raises:
        UsageError: there is none; the names that there are are told.
        IntegrityError: a row group is damaged.
    """
    splits = store.splits()
    if split is not None and split not in splits:
        raise UsageError(f"no split {split!r}", at=str(store.folder), hint=f"there are: {', '.join(splits)}")
    wanted, classes, seen = set(clips or []), set[str](), set[str]()

    def fitting(group: RowGroup) -> Int64[np.ndarray, " n"]:
        """Places of the rows that fit."""
        if not wanted and class_name is None:
            return np.arange(group.rows)
        table = store.read(group, ["clip_id", "class_name"])
        names, of = table["clip_id"].to_pylist(), table["class_name"].to_pylist()
        classes.update(name for name in of if name is not None)
        places = [
            i
            for i, name in enumerate(names)
            if (not wanted or name in wanted) and (class_name is None or of[i] == class_name)
        ]
        seen.update(names[i] for i in places if wanted)
        return np.array(places, np.int64)

    groups = [group for name in (splits if split is None else [split]) for group in store.row_groups(name)]
    ends = np.cumsum([len(fitting(group)) for group in groups])
    if wanted - seen:
        raise UsageError(
            f"no such clip: {', '.join(sorted(wanted - seen)[:3])}",
            at=str(store.folder),
            hint='`vtok tokens sql "select clip_id from tokens limit 10" PATH` lists some',
        )
    total = int(ends[-1]) if len(ends) else 0
    if not total:
        hint = f"there are the classes {', '.join(sorted(classes)[:20])}" if class_name else "the store is empty"
        raise UsageError("no row fits", at=str(store.folder), hint=hint)
    picked = np.unique(np.linspace(0, total - 1, total if wanted else min(num, total)).round().astype(np.int64))
    rows = []
    for number in np.unique(np.searchsorted(ends, picked, side="right")):
        group, start = groups[number], int(ends[number - 1]) if number else 0
        inside = picked[(picked >= start) & (picked < ends[number])] - start
        rows += rows_of(store.read(group, ORIGIN_COLUMNS), fitting(group)[inside].tolist())
    return rows


def decode_rows(tokenizer: VideoAutoencoder, origin: Origin, rows: list[dict[str, Any]]) -> list[Decoded]:
    """Decodes rows, and finds what was encoded."""
    originals = {(each.row["clip_id"], each.row["view_id"]): each for each in origin.frames(rows)}
    device = next(tokenizer.parameters()).device
    out = []
    for row in rows:
        grid = (1, row["grid_t"], row["grid_h"], row["grid_w"])
        codes = torch.from_numpy(row["codes"].astype(np.int64).reshape(grid)).to(device)
        with torch.inference_mode():
            video_bcthw = tokenizer.decode(codes).float().cpu()
        original = originals[row["clip_id"], row["view_id"]]
        source = original.video_thwc
        value = None
        if source is not None and source.shape[0] == video_bcthw.shape[2]:
            value = float(psnr(video_bcthw, torch.from_numpy(to_model_range(source[None])))[0])
        out.append(Decoded(row, to_pixels(video_bcthw.numpy())[0], source, value, original.problem))
    return out


def write_pictures(out: Path, decoded: list[Decoded]) -> list[Path]:
    """Writes a contact sheet and a GIF: of each row the source above, what its codes decode to below.

    Args:
        out: a PNG or GIF file; the other one gets the same name with its own ending.
        decoded: the rows.

    Raises:
        UsageError: another kind of file.
    """
    if out.suffix not in (".png", ".gif"):
        raise UsageError("pictures are .png and .gif", at=str(out), hint="give --out a file name with that ending")
    shape = [max(_sides(each)[axis] for each in decoded) for axis in (0, 1)]
    factor = max(1, -(-_SMALLEST // max(shape)))
    columns = min(SHEET_FRAMES, min(len(each.video_thwc) for each in decoded))
    strips, labels, pairs = [], [], []
    for each in decoded:
        both = [_fitted(video, shape, factor) for video in (each.source_thwc, each.video_thwc) if video is not None]
        strips += [np.pad(video, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255) for video in both]
        said = _labels(each)
        width = columns * (shape[1] * factor + _GAP) // _LETTER
        labels += [text if len(text) <= width else f"{text[: width - 3]}..." for text in said]
        length = max(map(len, both))
        pairs.append(np.concatenate([_as_long(video, length) for video in both], axis=1))
    tallest = max(pair.shape[1] for pair in pairs)
    pairs = [np.pad(p, ((0, 0), (0, tallest - p.shape[1]), (0, 0), (0, 0)), constant_values=255) for p in pairs]
    buffer = io.BytesIO()
    contact_sheet(strips, labels, columns).save(buffer, "PNG", optimize=True)
    paths = [out.with_suffix(".png"), out.with_suffix(".gif")]
    write_bytes(paths[0], buffer.getvalue())
    across = -(-len(pairs) // -(-len(pairs) // _ACROSS))
    write_gif(paths[1], grid_frames(pairs, across, pad=4), max(1.0, float(decoded[0].row["fps"])))
    return paths


def _labels(each: Decoded) -> list[str]:
    row = each.row
    view = "" if row["view_id"] == "whole" else f"view {row['view_id']}"
    name = "  ".join(filter(None, [row["clip_id"], view, row["split"], row["class_name"]]))
    if each.source_thwc is None:
        return [f"{name}  (from its codes; no source: {each.problem})"]
    quality = "" if each.psnr_db is None else f", {each.psnr_db:.2f} dB"
    return [name, f"from its codes{quality}"]


def _sides(each: Decoded) -> tuple[int, int]:
    height, width = each.video_thwc.shape[1:3]
    return height, width


def _fitted(video_thwc: Frames, shape: list[int], factor: int) -> Frames:
    """In the middle of a grey frame of that shape (smaller rows in a store of several sizes), enlarged."""
    height, width = video_thwc.shape[1:3]
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    around = ((0, 0), (top, shape[0] - height - top), (left, shape[1] - width - left), (0, 0))
    padded = np.pad(video_thwc, around, constant_values=_GREY)
    return padded.repeat(factor, axis=1).repeat(factor, axis=2)


def _as_long(video_thwc: Frames, length: int) -> Frames:
    return video_thwc[np.minimum(np.arange(length), len(video_thwc) - 1)]
