"""Which parts of a token store stay when its clips or views change.

Other settings decide the bytes of every part, so a store made with others would have to go as a whole. That is never
done by running a command again: it is refused, and what differs is said.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from schemas.card import MADE_WITH, Plan
from schemas.errors import IntegrityError, UsageError
from vtok import artefacts, console
from vtok.datasets.base import source_path
from vtok.files import read_table, sha256_of
from vtok.parquet import read_metadata
from vtok.tokens.sealing import view_of

_AT_ONCE = 8
_MAY_CHANGE = ("views", "classes", "contents")
"""What of a plan's config says which clips and views there are; the rest are settings."""
_ANEW = "choose another `out`, or delete this folder to encode everything anew"


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
        None if the folder holds something else than a token store, or one of another version of vtok.

    Raises:
        UsageError: the store was made with other settings, or its clips would only come into other parts.
    """
    if (there.kind, there.schema_version) != (plan.kind, plan.schema_version):
        return None
    if not any((folder / name).exists() for name in there.units):
        return set()  # nothing can be lost
    if artefacts.only_made_otherwise(there, plan) and plan.config["source"] == "clips":
        return None  # `artefacts.begin` knows what to say
    others = artefacts.differences(*map(_settings, (there, plan)))
    if others:
        raise UsageError(
            f"the folder holds tokens made from something else, so that no part could stay ({'; '.join(others)})",
            at=str(folder),
            hint=f"set this back to go on with the store; else {_ANEW}",
        )
    same_clips = root is not None and _clips(there) == _clips(plan)  # shards are parts already
    unchanged = {str(view["name"]) for view in there.config["views"] if view in plan.config["views"]}
    due = [name for name in there.units if view_of(there, name)["name"] in unchanged]
    if same_clips and (gone := [name for name in due if name not in contents]):
        raise _regrouped(folder, len(gone), len(there.units))
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
                if same_clips and name in due:
                    raise _regrouped(folder, 1, len(there.units))
                return False
            if root is None:
                return True
            rows = read_table(folder / name, columns=["source", "source_sha256"]).to_pylist()
            return not metadata["rejects"] and all(sha256(row["source"]) == row["source_sha256"] for row in rows)
        except (IntegrityError, OSError):
            return False

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        kept = {name for name, stay in zip(names, pool.map(stays, names), strict=True) if stay}
    console.note(f"the store was made from other clips or views: {len(kept)} of {len(there.units)} parts fit and stay")
    return kept


def _settings(plan: Plan) -> dict[str, Any]:
    may_change = (*_MAY_CHANGE, MADE_WITH) if plan.config.get("source") == "shards" else _MAY_CHANGE
    return {key: value for key, value in plan.config.items() if key not in may_change}


def _clips(plan: Plan) -> dict[str, str]:
    """Fingerprints of what the clips come from."""
    return {kind: value for kind, value in plan.inputs.items() if kind != "tokenizer"}


def _regrouped(folder: Path, parts: int, total: int) -> UsageError:
    return UsageError(
        f"the folder holds the same clips in other parts: at least {parts} of {total} could not stay",
        at=str(folder),
        hint=f"set back how clips come into parts (section `shards`) to go on with the store; else {_ANEW}",
    )
