"""Which parts of a token store stay when its clips, views or settings change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from schemas.card import Plan
from schemas.errors import IntegrityError
from vtok import console
from vtok.datasets.base import source_path
from vtok.files import read_table, sha256_of
from vtok.parquet import read_metadata

_AT_ONCE = 8


def kept_parts(
    folder: Path,
    plan: Plan,
    contents: dict[str, str],
    root: Path | None,
    there: Plan,
) -> set[str] | None:
    """Names of the parts of the store in `folder` that the new plan would make again byte for byte.

    Args:
        folder: the store, made to another plan.
        plan: the new plan.
        contents: what each of its parts is made from.
        root: where the videos are, if they are encoded directly: the manifest knows their size only, so the files are
            hashed and compared with what was encoded. None: `contents` says it all.
        there: the plan that the store was made to.

    Returns:
        None if the store is not this job's to change: another tokenizer (of frames or of sound) made it, or
        another version of vtok.
    """
    if (there.kind, there.schema_version) != (plan.kind, plan.schema_version):
        return None
    if there.config.get("tokenizer") != plan.config["tokenizer"]:
        return None
    sounds = [each.config.get("audio", {}).get("fingerprint") for each in (there, plan)]
    if None not in sounds and sounds[0] != sounds[1]:
        return None
    names = [name for name in there.units if name in contents and (folder / name).exists()]

    @cache
    def sha256(source: str) -> str:
        assert root is not None
        path = root / source_path(source, None)
        return sha256_of(path) if path.is_file() else ""

    def stays(name: str) -> bool:
        try:
            metadata = read_metadata(folder / name)
            if metadata["plan"] != contents[name]:
                return False
            if root is None:
                return True
            rows = read_table(folder / name, columns=["source", "source_sha256"]).to_pylist()
            return not metadata["rejects"] and all(sha256(row["source"]) == row["source_sha256"] for row in rows)
        except (IntegrityError, OSError):
            return False

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        kept = {name for name, stay in zip(names, pool.map(stays, names), strict=True) if stay}
    console.note(
        f"the store was made from other clips or settings: {len(kept)} of {len(there.units)} parts fit and stay"
    )
    return kept
