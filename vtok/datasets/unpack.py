"""Unpacks a dataset's archives as they were downloaded; what is killed half-way is unpacked again, whole.

An archive is unpacked into a temporary folder beside its place, checked (zip: CRC of every member; tar.gz: the
stream's CRC; rar: the unpacker's own check), and moved into place file by file. A receipt is written last. Members that
would end outside of the folder are refused, as are links that point outside.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from schemas.errors import IntegrityError, UsageError, VtokError
from vtok import console
from vtok.datasets.catalogue import Dataset
from vtok.files import write_json

RECEIPT = ".vtok-unpacked.json"
_TEMPORARY = ".vtok-unpacking-"
_BLOCK = 1 << 20

_PROGRAMS: dict[str, Callable[[str, str], list[str]]] = {
    "unrar": lambda archive, to: ["unrar", "x", "-idq", "-o+", "-p-", "--", archive, f"{to}/"],
    "unar": lambda archive, to: [
        "unar",
        "-quiet",
        "-force-overwrite",
        "-no-directory",
        "-output-directory",
        to,
        archive,
    ],
    "7zz": lambda archive, to: ["7zz", "x", "-y", "-bso0", "-bsp0", f"-o{to}", archive],
    "7z": lambda archive, to: ["7z", "x", "-y", "-bso0", "-bsp0", f"-o{to}", archive],
    "bsdtar": lambda archive, to: ["bsdtar", "-x", "--no-same-owner", "-f", archive, "-C", to],
}
"""Programs that unpack rar, the surest first, and how each is called."""


class Unpacked(NamedTuple):
    """What became of one archive.

    Attributes:
        archive: its path below the root.
        files: files that came out of it.
        skipped: it had been unpacked before.
    """

    archive: str
    files: int
    skipped: bool


def unpack(dataset: Dataset, root: Path) -> list[Unpacked]:
    """Unpacks every archive of the dataset that lies in `root`; archives unpacked before are skipped.

    The archives themselves are left where they are.

    Raises:
        UsageError: no such folder, or none of the dataset's archives in it.
        VtokError: an unpacker is missing, or the disk is too small.
        IntegrityError: an archive is damaged or unsafe.
    """
    if not root.is_dir():
        raise UsageError("no such folder", at=str(root), hint=dataset.get)
    if not dataset.archives:
        raise UsageError("this dataset comes without archives", at=dataset.page, hint=dataset.get)
    archives = sorted({path for pattern in dataset.archives for path in root.glob(pattern) if path.is_file()})
    if not archives:
        raise UsageError(f"none of {', '.join(dataset.archives)} is here", at=str(root), hint=dataset.get)
    done = _receipt(root)
    results = []
    for archive in archives:
        name, size = archive.relative_to(root).as_posix(), archive.stat().st_size
        if done.get(name, {}).get("bytes") == size:
            results.append(Unpacked(name, done[name]["files"], True))
            continue
        console.note(f"unpacking {name} ({console.size(size)})")
        files = _unpack_one(archive)
        done[name] = {"bytes": size, "files": files}
        write_json(root / RECEIPT, done)
        results.append(Unpacked(name, files, False))
    return results


def _receipt(root: Path) -> dict[str, dict[str, int]]:
    try:
        return dict(json.loads((root / RECEIPT).read_bytes()))
    except (OSError, ValueError):
        return {}


def _unpack_one(archive: Path) -> int:
    temporary = archive.parent / f"{_TEMPORARY}{archive.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        kind = archive.name.lower()
        if kind.endswith(".zip"):
            _unzip(archive, temporary)
        elif kind.endswith(".rar"):
            _unrar(archive, temporary)
        else:
            _untar(archive, temporary)
        _refuse_escapes(archive, temporary)
        return _move(temporary, archive.parent)
    except OSError as error:
        raise VtokError(
            f"cannot unpack {archive.name}: {error.strerror or error}",
            at=str(archive.parent),
            hint="make room or choose another folder, then run the same command again",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unzip(archive: Path, to: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as file:
            _need_room(archive, to, sum(member.file_size for member in file.infolist()))
            for member in file.infolist():
                parts = Path(member.filename.replace("\\", "/")).parts
                if member.filename.startswith(("/", "\\")) or ".." in parts:
                    raise _unsafe(archive, member.filename)
                file.extract(member, to)  # reading compares the CRC
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged(archive, str(error)) from error


def _untar(archive: Path, to: Path) -> None:
    try:
        with tarfile.open(archive, "r:*") as file:
            if not archive.name.endswith(("gz", "bz2", "xz")):
                _need_room(archive, to, archive.stat().st_size)
            file.extractall(to, filter="data")
        if not archive.name.endswith(("gz", "bz2", "xz")):
            _refuse_cut_tar(archive)
    except tarfile.FilterError as error:
        raise _unsafe(archive, str(error)) from error
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(archive, str(error)) from error


def _refuse_cut_tar(archive: Path) -> None:
    """A tar that was cut between two members reads like a whole one, but for the two empty blocks at its end."""
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - 1024))
        if stream.read().strip(b"\0"):
            raise _damaged(archive, "the end of the archive is missing")


def _unrar(archive: Path, to: Path) -> None:
    for program, command in _PROGRAMS.items():
        found = shutil.which(program)
        if found is None:
            continue
        arguments = [found, *command(str(archive.absolute()), str(to))[1:]]
        ran = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if ran.returncode:
            lines = (ran.stderr or ran.stdout).strip().splitlines()
            raise _damaged(archive, f"{program} says: {lines[-1] if lines else f'exit code {ran.returncode}'}")
        return
    raise VtokError(
        f"no program that unpacks {archive.name}: none of {', '.join(_PROGRAMS)} is installed",
        at=str(archive),
        hint="install one (Debian: apt-get install unar), then run the same command again",
    )


def _need_room(archive: Path, to: Path, size: int) -> None:
    free = shutil.disk_usage(to).free
    if size > free:
        raise VtokError(
            f"{archive.name} unpacks to {console.size(size)}, and {console.size(free)} are free",
            at=str(archive.parent),
            hint="make room or unpack on another disk",
        )


def _refuse_escapes(archive: Path, folder: Path) -> None:
    """Whatever an unpacker did: no link may lead out of the folder."""
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise _unsafe(archive, path.relative_to(folder).as_posix())


def _move(source: Path, target: Path) -> int:
    """Moves all files below `source` to the same places below `target`; returns their number."""
    files = 0
    for path in sorted(source.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
        files += 1
    return files


def _damaged(archive: Path, what: str) -> IntegrityError:
    first = (what.splitlines() or ["unreadable"])[0].rstrip(":")
    return IntegrityError(
        f"the archive is damaged: {first}",
        at=str(archive),
        hint="download it again; nothing of it was put into place",
    )


def _unsafe(archive: Path, member: str) -> IntegrityError:
    return IntegrityError(
        f"a member of the archive would end outside of the folder: {member}",
        at=str(archive),
        hint="this is not the dataset's own archive: do not use it",
    )
