"""The checkpoints that the papers' authors published: what they are called, where they were put, what they are.

vtok downloads nothing. A published name is looked for in the checkpoints' folder (`$VTOK_CHECKPOINTS`, else
`~/.cache/vtok/checkpoints`); the file is converted once, into `converted/` beside it.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import NamedTuple

from schemas.errors import UsageError

_VIDEOGPT = "linked from the README of https://github.com/wilson1yan/VideoGPT (Google Drive; those links are dead)"
_TATS = "linked from the README of https://github.com/songweige/TATS"


class Published(NamedTuple):
    """One published checkpoint.

    Attributes:
        what: the model and its data.
        kind: which kind of checkpoint it is (`vtok.convert.kinds.KINDS`).
        where: where its authors put it.
        step: the training step that the file's name holds; empty if it holds none.
        settings: what it was trained with and its file may not say.
    """

    what: str
    kind: str
    where: str
    step: str = ""
    settings: tuple[tuple[str, object], ...] = ()


def _size(frames: int, side: int) -> tuple[tuple[str, object], ...]:
    return ("sequence_length", frames), ("resolution", side)


PUBLISHED: dict[str, Published] = {
    "bair_stride4x2x2": Published("VideoGPT's VQ-VAE, BAIR, 4x2x2", "videogpt-vqvae", _VIDEOGPT),
    "ucf101_stride4x4x4": Published("VideoGPT's VQ-VAE, UCF-101, 4x4x4", "videogpt-vqvae", _VIDEOGPT),
    "kinetics_stride4x4x4": Published("VideoGPT's VQ-VAE, Kinetics, 4x4x4", "videogpt-vqvae", _VIDEOGPT),
    "kinetics_stride2x4x4": Published("VideoGPT's VQ-VAE, Kinetics, 2x4x4", "videogpt-vqvae", _VIDEOGPT),
    "bair_gpt": Published("VideoGPT's GPT, BAIR, one given frame", "videogpt-gpt", _VIDEOGPT),
    "ucf101_uncond_gpt": Published("VideoGPT's GPT, UCF-101, unconditional", "videogpt-gpt", _VIDEOGPT),
    "vqgan_sky_128_488": Published("TATS's VQGAN, Sky Time-lapse, 128 px, 4x8x8", "tats-vqgan", _TATS, "29999"),
    "vqgan_ucf_128_488": Published("TATS's VQGAN, UCF-101, 128 px, 4x8x8", "tats-vqgan", _TATS, "29999"),
    "vqgan_mugen_256_41616": Published("TATS's VQGAN, MUGEN, 256 px, 4x16x16", "tats-vqgan", _TATS, "19999"),
    "uncond_gpt_sky": Published(
        "TATS's GPT, Sky Time-lapse, unconditional", "tats-gpt", _TATS, "329999", _size(16, 128)
    ),
    "uncond_gpt_taichi": Published(
        "TATS's GPT, Taichi-HD, unconditional",
        "tats-gpt",
        _TATS,
        "529999",
        (*_size(64, 128), ("sample_every_n_frames", 4), ("downsample", [4, 8, 8])),
    ),
    "gpt_mugen": Published("TATS's GPT, MUGEN, on captions", "tats-gpt", _TATS, "379999", _size(16, 256)),
}
"""By the name that `load_tokenizer` and `load_prior` take, which is how its file's name begins."""


def checkpoints_folder() -> Path:
    """Where published checkpoints are put by the user: `$VTOK_CHECKPOINTS`, else `~/.cache/vtok/checkpoints`."""
    named = os.environ.get("VTOK_CHECKPOINTS")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "vtok" / "checkpoints"


def published_folder(name: str) -> Path:
    """The run's folder of a published checkpoint, converted now if it was not before.

    Raises:
        UsageError: nothing of that name is published, or its file is not there: the error says where its authors put
            it and where to put it.
        VtokError: the file cannot be converted.
    """
    entry = PUBLISHED[name]
    folder = checkpoints_folder()
    files = sorted(path for ending in (".ckpt", ".pt", ".pth") for path in folder.glob(f"{name}*{ending}"))
    if not files:
        step = f", step {entry.step}" if entry.step else ""
        raise UsageError(
            f"the checkpoint of {entry.what} ({name}{step}) is not here; vtok downloads nothing. "
            f"Its authors put it where it is {entry.where}",
            at=str(folder),
            hint=f"save the file as {folder / name}.ckpt (or set VTOK_CHECKPOINTS to the folder that has it)",
        )
    if len(files) > 1:
        listed = ", ".join(path.name for path in files)
        raise UsageError(f"several files could be {name}: {listed}", at=str(folder), hint="leave one of them there")
    from vtok.convert.convert import convert

    out = folder / "converted" / name
    convert(files[0], out, kind=entry.kind, beside=dict(entry.settings))
    return out


def located(path_or_name: str | Path, stage: str) -> Path:
    """The folder of a model: an artefact's own, a run's, or a published checkpoint's.

    Args:
        path_or_name: what the user gave.
        stage: `tokenizer` or `prior`.

    Raises:
        UsageError: a checkpoint that has to be converted, or nothing that is there; with the nearest published name.
    """
    from schemas.card import CARD_NAME, PLAN_NAME
    from schemas.paths import as_path

    path = as_path(path_or_name)
    if path.is_file():
        raise UsageError("this is a file, not a folder of vtok's", at=str(path), hint=f"vtok convert {path} FOLDER")
    if not path.is_dir() and str(path_or_name) in PUBLISHED:
        path = published_folder(str(path_or_name))
    elif not path.is_dir() and (near := difflib.get_close_matches(str(path_or_name), PUBLISHED, n=1, cutoff=0.7)):
        raise UsageError("no such folder", at=str(path), hint=f"or the published {near[0]}?")
    if any((path / name).exists() for name in (CARD_NAME, PLAN_NAME)) or not (path / stage).is_dir():
        return path
    return path / stage
