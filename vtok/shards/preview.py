"""A contact sheet of a split's clips: an HTML page that needs nothing else, or a PNG."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import NamedTuple

from schemas.errors import UsageError
from vtok import artefacts
from vtok.files import write_bytes
from vtok.inspect_folder import data_folders
from vtok.report_html import Html, figure, join, page, section, tag
from vtok.report_pictures import strip_picture
from vtok.shards.reader import Clip, decode_sample, read_samples
from vtok.video.preview import contact_sheet

FRAMES = 8
"""Frames of a clip that are shown."""
_LETTER = 6  # pixels of a letter on the PNG, about


class Written(NamedTuple):
    """The sheet: its path, and how many clips are on it."""

    path: Path
    clips: int


def write_preview(path: Path, out: Path | None, count: int, split: str | None) -> Written:
    """Draws clips that are spread evenly over a split, in store order.

    Args:
        path: a run or its shards.
        out: `.html` or `.png`; None: `preview.html` beside the shards.
        count: clips to draw.
        split: None: `train` if there is one, else the first.

    Raises:
        UsageError: no shards, no such split, or another kind of file.
        IntegrityError: a shard is not the one that was written.
    """
    folder = data_folders(path)[-1]
    card = artefacts.load(folder, "shards")
    index = [row for row in artefacts.load_index(folder).to_pylist() if row["rows"]]
    splits = list(dict.fromkeys(row["split"] for row in index))
    split = split or ("train" if "train" in splits else next(iter(splits), ""))
    if split not in splits:
        raise UsageError(f"no clips in the split {split!r}", at=str(folder), hint=f"there are: {', '.join(splits)}")
    out = out or folder.parent / "preview.html"
    if out.suffix not in (".html", ".png"):
        raise UsageError("a preview is .html or .png", at=str(out), hint="give --out a file name with that ending")
    clips = _spread(folder, [row for row in index if row["split"] == split], count)
    if out.suffix == ".png":
        write_bytes(out, _png(clips))
    else:
        write_bytes(out, _html(clips, card.fingerprint, split, card.facts.get("splits", {}).get(split)).encode())
    return Written(out, len(clips))


def _spread(folder: Path, index: list[dict[str, object]], count: int) -> list[Clip]:
    """`count` clips at even distances; shards without one are not opened, other clips not decoded."""
    sizes = [int(str(row["rows"])) for row in index]
    total = sum(sizes)
    count = min(count, total)
    wanted = {number * (total - 1) // max(1, count - 1) for number in range(count)}
    clips, start = [], 0
    for row, size in zip(index, sizes, strict=True):
        mine = {number - start for number in wanted if start <= number < start + size}
        if mine:
            path = artefacts.verify_part(folder, str(row["path"]), str(row["sha256"]))
            samples = enumerate(read_samples(path))
            clips += [decode_sample(sample, path) for number, sample in samples if number in mine]
        start += size
    return clips


def _png(clips: list[Clip]) -> bytes:
    width = min(FRAMES, len(clips[0].video_thwc)) * clips[0].video_thwc.shape[2]
    labels = []
    for clip in clips:
        label = "  ".join(filter(None, [clip.clip_id, clip.class_name, clip.meta.get("caption")]))
        labels.append(label if len(label) * _LETTER <= width else f"{label[: width // _LETTER - 3]}...")
    buffer = io.BytesIO()
    columns = min(FRAMES, len(clips[0].video_thwc))
    contact_sheet([clip.video_thwc for clip in clips], labels, columns).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _html(clips: list[Clip], fingerprint: str, split: str, total: int | None) -> str:
    figures = [_figure(clip) for clip in clips]
    of = f" of {total:,}" if total else ""
    text = f"{len(clips):,}{of} clips, spread over the split; {FRAMES} frames of each, in time from left to right."
    heading = join([tag("h1", "Clips"), tag("p", text)])
    body = section("clips", f"Split {split}", tag("div", *figures, class_="pictures"))
    return page(f"Clips of {split}", heading, [body], tag("p", f"Shards {fingerprint[:12]}"))


def _figure(clip: Clip) -> Html:
    alt = f"{FRAMES} frames of the clip {clip.clip_id}"
    facts = [clip.class_name, clip.meta.get("caption"), _where(clip)]
    lines = [tag("code", clip.clip_id), *(join([tag("br"), fact]) for fact in facts if fact)]
    return figure(join(lines), tag("div", strip_picture(clip.video_thwc, FRAMES, alt), class_="strips"))


def _where(clip: Clip) -> str:
    """Source and time, as far as the sample says."""
    source, start, end = (clip.meta.get(name) for name in ("source", "start_time", "end_time"))
    if source is None or start is None or end is None:
        return json.dumps(source) if source else ""
    return f"{source}, {start:.2f} to {end:.2f} s"
