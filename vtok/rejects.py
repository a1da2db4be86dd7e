"""What was rejected, why, what to do about it, and how to try it again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from schemas.card import CARD_NAME, PLAN_NAME, REJECTS_NAME
from schemas.clips import REASONS
from schemas.config.run import STAGE_FOLDERS
from schemas.errors import UsageError
from vtok import artefacts
from vtok.parquet import read_metadata
from vtok.shards.writer import read_footer

REMEDIES: dict[str, str] = {
    "unreadable": "open it with a player; download it again, or remove it from the root",
    "empty": "download it again",
    "no_video": "nothing: it holds only sound or data",
    "no_frames": "download it again",
    "too_short": "lower data.num_frames or data.frame_stride, or leave it out",
    "implausible": "copy it anew with `ffmpeg -i FILE -c copy NEW`, or download it again: its header is damaged",
    "too_large": "raise shards.max_pixels if it is meant to be that large",
    "unsafe_path": "put a copy in the link's place",
    "corrupt": "download it again; other clips of the file may be sound",
    "missing_frames": "download it again: it is cut off or its header promises too much",
    "timeout": "the next run tries it again; on slow machines raise shards.cpu_seconds_per_video",
    "crashed": "try `shards.decoder: ffmpeg`, or convert the file",
    "memory": "raise shards.max_memory_mb",
    "vanished": "put the file back, then `vtok data rejects retry`",
    "changed": "put back the file that ingest saw, or ingest into a new folder",
    "over_budget": "raise data.max_pixels_per_byte if such large and still pictures are meant",
    "too_long": "raise shards.max_frames if the video is meant to be that long",
    "missing": "download the file that the lists name, or leave it out",
    "internal": "report it with the file; the next run tries it again, and without the file the job ends well",
    "still": "lower data.min_motion if still clips are wanted",
    "black": "raise data.max_black if black clips are wanted",
    "no_sound": "set tokens.audio.silent: null to keep clips without sound, or leave them out of the dataset",
    "not_in_split": "nothing, if the official lists leave it out; else move it into the folder of its split",
}
"""What to do about each of `schemas.clips.REASONS`."""

Reject = dict[str, Any]


def find_rejects(path: Path) -> list[Reject]:
    """Rejects of an artefact, or of all stages of a run; of an unfinished job, those of its finished parts.

    Returns:
        Rows of `schemas.clips.REJECTS`, with the `part` whose making rejected them.

    Raises:
        UsageError: nothing of vtok's is there.
    """
    folders = [folder for folder in (path, *(path / name for name in STAGE_FOLDERS.values())) if _is_artefact(folder)]
    if not folders:
        raise UsageError(
            "no artefact and no run is here", at=str(path), hint="give a run's folder or one of its stages"
        )
    return [reject for folder in folders for reject in _of_artefact(folder)]


def _is_artefact(folder: Path) -> bool:
    return (folder / PLAN_NAME).exists() or (folder / CARD_NAME).exists()


def _of_artefact(folder: Path) -> list[Reject]:
    if (folder / CARD_NAME).exists():
        artefacts.load(folder)  # the seal must hold
        return _sealed(folder) if (folder / REJECTS_NAME).exists() else []
    artefacts.refuse_old_names(folder)
    found = []
    for name in artefacts.load_plan(folder).units:
        if (folder / name).exists():
            footer = _footer(name)(folder / name)
            found += [{**reject, "part": name} for reject in footer["rejects"]]
    return found


def _footer(name: str) -> Callable[[Path], dict[str, Any]]:
    return read_footer if name.endswith(".tar") else read_metadata


def _sealed(folder: Path) -> list[Reject]:
    """Rejects of a sealed artefact: they are stored in the order of the parts, and the index counts each part's."""
    rejects = iter(artefacts.load_rejects(folder).to_pylist())
    found = []
    for row in artefacts.load_index(folder).to_pylist():
        found += [{**next(rejects), "part": row["path"]} for _ in range(row["rejects"])]
    return found


def summary(rejects: list[Reject], examples: int = 3) -> list[dict[str, Any]]:
    """Rejects by reason, the most frequent first: `reason count files meaning remedy examples`."""
    groups: dict[str, list[Reject]] = {}
    for reject in rejects:
        groups.setdefault(reject["reason"], []).append(reject)
    return [
        {
            "reason": reason,
            "count": len(rows),
            "files": len({row["source"] for row in rows}),
            "meaning": REASONS[reason],
            "remedy": REMEDIES[reason],
            "examples": list(dict.fromkeys(f"{row['source']}: {row['detail']}" for row in rows))[:examples],
        }
        for reason, rows in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def reopen(folder: Path, reasons: Collection[str] | None = None) -> list[str]:
    """Removes the seal of an artefact and its parts with such rejects, so that the job makes them again.

    Only call it while holding the folder (`vtok.locks.exclusive`).

    Args:
        folder: a sealed or an unfinished artefact.
        reasons: which rejects; None: any.

    Returns:
        The parts that were removed; nothing is touched if there are none.
    """
    parts = [r["part"] for r in _of_artefact(folder) if reasons is None or r["reason"] in reasons]
    names = list(dict.fromkeys(parts))
    if names:
        (folder / CARD_NAME).unlink(missing_ok=True)
        for name in names:
            (folder / name).unlink(missing_ok=True)
    return names
