"""`vtok check`: every byte of any artefact, or of all the artefacts of a run, against what vouches for it.

Clips and shards have `vtok.shards.check`, token stores `vtok.tokens.check`; models, samples and metrics are checked
here. What nothing vouches for (a training's log and previews) is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from schemas.card import CARD_NAME, INDEX_NAME, PLAN_NAME, REJECTS_NAME, SIDECARS, Card, read_record
from schemas.errors import IntegrityError, UsageError, VtokError
from schemas.paths import as_path
from vtok import artefacts, console
from vtok.evaluation.results import read_results
from vtok.files import sha256_of
from vtok.inspect_folder import stage_folders
from vtok.sampling.drawn import sample_rows
from vtok.sealed import sealed_path

Advance = Callable[[int], None]
_CHECKPOINTS = "checkpoints"
_OF_VTOK = {CARD_NAME, PLAN_NAME, INDEX_NAME, REJECTS_NAME}


class Problem(NamedTuple):
    """Something that is damaged.

    Attributes:
        at: the file.
        what: what is wrong with it.
        hint: how to mend it.
    """

    at: str
    what: str
    hint: str


class Checked(NamedTuple):
    """What a check of one artefact found.

    Attributes:
        path: its folder.
        kind: what it is; empty where that cannot be told.
        summary: what was compared, in words.
        problems: what is damaged; none: it is sound.
        notes: what is worth knowing and no damage.
    """

    path: Path
    kind: str
    summary: str
    problems: list[Problem]
    notes: list[str]


def folders_of(path: Path) -> list[Path]:
    """The artefact that a path names, or all those of a run, in the order of the stages.

    Raises:
        UsageError: it names none.
    """
    path = as_path(path)
    if not path.is_dir():
        raise UsageError("no such folder", at=str(path), hint="give a run's folder, or that of an artefact")
    if _is_artefact(path):
        return [path]
    found = [folder for folder in stage_folders(path) if _is_artefact(folder)]
    if not found:
        raise UsageError("nothing of vtok's is in this folder", at=str(path), hint="`vtok demo` makes a run")
    return found


def _is_artefact(folder: Path) -> bool:
    return (folder / CARD_NAME).exists() or (folder / PLAN_NAME).exists()


def check(folder: Path, advance: Advance = lambda clips: None) -> Checked:
    """Checks one artefact.

    Args:
        folder: its folder.
        advance: called with numbers of clips as they are done.

    """
    if not (folder / CARD_NAME).exists():
        return _unfinished(folder)
    kind = _planned_kind(folder)
    try:
        kind = artefacts.read_card(folder).kind
        return _CHECKS[kind](folder, advance)
    except VtokError as error:  # the card is damaged, another folder's, or of another schema version
        return Checked(folder, kind, "", [Problem(CARD_NAME, error.what, error.hint or "")], [])


def _unfinished(folder: Path) -> Checked:
    """A folder that is being made: only the plan can be wrong."""
    try:
        artefacts.refuse_old_names(folder)
        plan = artefacts.load_plan(folder)
    except VtokError as error:
        return Checked(folder, "", "", [Problem(PLAN_NAME, error.what, error.hint or "")], [])
    have = sum((folder / unit).exists() for unit in plan.units)
    note = f"not finished ({have} of {len(plan.units)} parts): `{artefacts.MADE_BY[plan.kind]}` goes on"
    return Checked(folder, plan.kind, "nothing is sealed yet", [], [note])


def _planned_kind(folder: Path) -> str:
    try:
        return artefacts.load_plan(folder).kind
    except VtokError:
        return ""


def _data(folder: Path, advance: Advance) -> Checked:
    from vtok.shards import check as checking

    found = checking.check(folder, advance=advance)
    problems = [Problem(*problem) for problem in found.problems]
    summary = f"{console.count(found.clips, 'clips')} in {console.count(found.parts, 'parts')}"
    return Checked(folder, found.kind, summary, problems, list(found.notes))


def _tokens(folder: Path, advance: Advance) -> Checked:
    from vtok.tokens.check import check_store

    found = check_store(folder, advance=advance)
    problems = [Problem(each.at, each.what, each.hint) for each in found.damages]
    summary = f"{console.count(found.rows, 'rows')} in {console.count(found.parts, 'parts')}"
    return Checked(folder, "tokens", summary, problems, list(found.notes))


class _Check:
    """One check of a folder whose files the card seals: the problems so far."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.problems, self.notes = folder, list[Problem](), list[str]()
        self.card: Card | None = None

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Makes a problem of an error."""
        try:
            yield
        except VtokError as error:
            problem = Problem(error.at.removeprefix(f"{self.folder}/"), error.what, error.hint or "")
            if problem not in self.problems:
                self.problems.append(problem)

    def seals(self) -> None:
        """Card, plan, and the files beside the parts."""
        with self.noting():
            self.card = artefacts.load(self.folder)
        with self.noting():
            plan = artefacts.load_plan(self.folder)
            for key in ("kind", "config", "inputs"):
                if self.card is not None and getattr(self.card, key) != getattr(plan, key):
                    raise IntegrityError(f"the card's {key} is not that of the plan", at=str(self.folder / PLAN_NAME))
        for name in self.card.files if self.card else ():
            with self.noting():
                assert self.card is not None
                sealed_path(self.folder, self.card, name)

    def unsealed(self, known: set[str]) -> None:
        """Names what is in the folder and vouched for by nothing."""
        known |= _OF_VTOK | set(SIDECARS.get(self.card.kind, ()) if self.card else ())
        others = sorted(path.name + "/" * path.is_dir() for path in self.folder.iterdir() if path.name not in known)
        if others:
            self.notes.append(f"nothing vouches for {', '.join(others)}")

    def done(self, kind: str, summary: str) -> Checked:
        return Checked(self.folder, kind, summary, self.problems, self.notes)


def _model(kind: str, folder: Path, advance: Advance) -> Checked:
    found = _Check(folder)
    found.seals()
    if not found.problems:
        with found.noting():
            _load(kind, folder)
    steps = _checkpoints(found)
    found.unsealed({_CHECKPOINTS})
    beside = f", {console.count(steps, 'checkpoints')}" if steps else ""
    return found.done(kind, f"weights, description and fingerprint{beside}")


def _load(kind: str, folder: Path) -> None:
    if kind == "tokenizer":
        from vtok.tokenizers.load import load_tokenizer

        load_tokenizer(folder)
    else:
        from vtok.priors.load import load_prior

        load_prior(folder)


def _checkpoints(found: _Check) -> int:
    """Compares every checkpoint with the hashes in its state; returns how many there are."""
    states = sorted((found.folder / _CHECKPOINTS).glob("step-*/state.json"))
    for path in states:
        try:
            files = read_record(path.read_bytes())["files"]
            damaged = [name for name, digest in files.items() if sha256_of(path.parent / name) != digest]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged = [f"{path.name} ({type(error).__name__})"]
        at = str(path.parent.relative_to(found.folder))
        hint = "training skips it; delete this folder, an earlier or later checkpoint stands beside it"
        found.problems += [Problem(f"{at}/{name}", "it is not the file that was written", hint) for name in damaged]
    return len(states)


def _samples(folder: Path, advance: Advance) -> Checked:
    found, rows = _Check(folder), list[dict[str, object]]()
    found.seals()
    with found.noting():
        artefacts.load_rejects(folder)
    with found.noting():
        rows = sample_rows(folder)
    for row in rows:
        with found.noting():
            artefacts.verify_part(folder, str(row["path"]), str(row["sha256"]))
        advance(1)
    if rows and found.card is not None and len(rows) != found.card.counts["samples"]:
        what = f"it counts {found.card.counts['samples']} samples, there are {len(rows)}"
        found.problems.append(Problem(CARD_NAME, what, "delete the folder and run `vtok sample` again"))
    parts = {row["path"] for row in artefacts.load_index(folder).to_pylist()} if not found.problems else set()
    if not found.problems:
        found.unsealed({*parts, *(str(row["path"]) for row in rows)})
    return found.done("samples", f"{console.count(len(rows), 'clips')} and how each was made")


def _metrics(folder: Path, advance: Advance) -> Checked:
    found, count = _Check(folder), 0
    found.seals()
    if not found.problems:
        with found.noting():
            count = len(read_results(folder))
        found.unsealed(set())
    return found.done("metrics", console.count(count, "figures"))


_CHECKS: dict[str, Callable[[Path, Advance], Checked]] = {
    "clips": _data,
    "shards": _data,
    "tokenizer": lambda folder, advance: _model("tokenizer", folder, advance),
    "tokens": _tokens,
    "prior": lambda folder, advance: _model("prior", folder, advance),
    "samples": _samples,
    "metrics": _metrics,
}


def lineage(folders: list[Path]) -> list[str]:
    """Artefacts of a run that were made from others than those that lie beside them, in words."""
    cards = {}
    for folder in folders:
        try:
            card = artefacts.load(folder)
            cards[card.kind] = card
        except VtokError:
            continue
    lines = []
    for kind, card in cards.items():
        for name, fingerprint in card.inputs.items():
            beside = cards.get(name)  # type: ignore[call-overload]
            if beside is not None and fingerprint not in (beside.fingerprint, beside.facts.get("fingerprint")):
                lines.append(f"{kind}: made from other {name} than those that lie here")
    return lines
