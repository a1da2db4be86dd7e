"""What the report knows of a run before it draws anything: each stage's state, and whether the chain holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from schemas.card import CARD_NAME, PLAN_NAME
from schemas.config.run import METRICS_FOLDER, STAGE_FOLDERS
from schemas.errors import UsageError, VtokError
from vtok.evaluation.results import read_results
from vtok.inspect_folder import describe

TITLES: dict[str, str] = {
    "clips": "Clip manifest",
    "shards": "Shards",
    "tokenizer": "Tokenizer",
    "tokens": "Token store",
    "prior": "Prior",
    "samples": "Samples",
    "metrics": "Metrics",
}
"""Stages in order, as people call them."""

COMMANDS: dict[str, str] = {
    "clips": "vtok data ingest",
    "shards": "vtok data shard",
    "tokenizer": "vtok train tokenizer",
    "tokens": "vtok tokenize",
    "prior": "vtok train prior",
    "samples": "vtok sample",
    "metrics": "vtok evaluate",
}
"""What makes each of them."""


class Stage(NamedTuple):
    """One stage of a run.

    Attributes:
        name: a key of `TITLES`.
        folder: where it writes.
        state: `complete`, `unfinished...`, `damaged...` or `not started`.
        counts, facts, inputs: from the card.
        fingerprint: of the artefact; empty unless complete.
    """

    name: str
    folder: Path
    state: str
    counts: dict[str, int]
    facts: dict[str, Any]
    inputs: dict[str, str]
    fingerprint: str

    @property
    def complete(self) -> bool:
        return self.state == "complete"

    @property
    def started(self) -> bool:
        return self.state != "not started"


class RunFacts(NamedTuple):
    """A run as the report sees it.

    Attributes:
        folder: as the user gave it.
        name: of the run.
        stages: by name, in order.
        recipe: text of the run's recipe.yaml; empty if there is none.
        timings: (command, seconds) of the stages, where `vtok demo` measured them.
        results: rows of the metrics table by name, if there are any.
    """

    folder: Path
    name: str
    stages: dict[str, Stage]
    recipe: str
    timings: list[tuple[str, float]]
    results: dict[str, dict[str, Any]]


def read_run(folder: Path) -> RunFacts:
    """Looks at every stage of a run.

    Raises:
        UsageError: no such folder, or no stage in it.
    """
    stages = {name: _stage(folder, name) for name in TITLES}
    if not any(stage.started for stage in stages.values()):
        raise UsageError(
            "no run here" if folder.is_dir() else "no such folder",
            at=str(folder),
            hint=f"a run's folder holds {', '.join(STAGE_FOLDERS.values())}; `vtok demo` makes one",
        )
    results = {}
    if stages["metrics"].complete:
        try:
            results = {row["name"]: row for row in read_results(stages["metrics"].folder)}
        except VtokError as error:
            stages["metrics"] = stages["metrics"]._replace(state=f"damaged: {error.what}")
    path = folder / "recipe.yaml"
    recipe = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    name = next((line[5:].strip(" '\"") for line in recipe.splitlines() if line.startswith("name:")), "")
    return RunFacts(folder, name or folder.resolve().name, stages, recipe, _timings(folder), results)


def _stage(run: Path, name: str) -> Stage:
    folder = run / (METRICS_FOLDER if name == "metrics" else STAGE_FOLDERS[name])
    empty = Stage(name, folder, "not started", {}, {}, {}, "")
    if not (folder / CARD_NAME).exists() and not (folder / PLAN_NAME).exists():
        return empty
    try:
        found = describe(folder)
    except VtokError as error:
        return empty._replace(state=f"damaged: {error.what}")
    return Stage(
        name,
        folder,
        found["state"],
        found.get("counts", {}),
        found.get("facts", {}),
        found.get("inputs", {}),
        found.get("fingerprint", ""),
    )


def _timings(folder: Path) -> list[tuple[str, float]]:
    try:
        rows = json.loads((folder / "timings.json").read_text(encoding="utf-8"))["stages"]
        return [(str(row["name"]), float(row["seconds"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def made_from(run: RunFacts, stage: Stage) -> list[tuple[str, str, bool]]:
    """What a stage was made from: (input, fingerprint, whether it is what lies there now)."""
    links = []
    for name, fingerprint in sorted(stage.inputs.items()):
        source = run.stages.get(name)
        known = {source.fingerprint, source.facts.get("fingerprint")} if source else {fingerprint}
        links.append((name, fingerprint, fingerprint in known))
    return links


def reconciliation(run: RunFacts) -> list[tuple[str, bool]]:
    """The two sums that must hold, in words, and whether they do."""
    lines = []
    clips, shards = run.stages["clips"], run.stages["shards"]
    if clips.complete:
        c = clips.counts
        lost = c.get("rejected_files", c["rejects"])
        ok = c["files"] == c["files_with_clips"] + lost
        lines.append((f"{c['files']:,} files found = {c['files_with_clips']:,} with clips + {lost:,} rejected", ok))
    if shards.complete:
        s = shards.counts
        ok = s["planned"] == s["clips"] + s["rejects"]
        lines.append((f"{s['planned']:,} clips planned = {s['clips']:,} written + {s['rejects']:,} rejected", ok))
    return lines


def verdict(run: RunFacts) -> str:
    """The run in a few plain sentences: where it stands, and what its figures say."""
    open_stages = [stage for stage in run.stages.values() if not stage.complete]
    if not open_stages:
        parts = ["Every stage is finished."]
    else:
        first = open_stages[0]
        state = f"{TITLES[first.name].lower()} {first.state}"
        parts = [f"This run is not finished: {state}. Next: {COMMANDS[first.name]}."]
    broken = [
        f"{stage.name} were made from other {name} than those that lie here"
        for stage in run.stages.values()
        for name, _, ok in made_from(run, stage)
        if stage.complete and not ok
    ]
    parts += [f"Careful: {text}." for text in broken]
    return " ".join([*parts, *_findings(run.results)])


def _findings(results: dict[str, dict[str, Any]]) -> list[str]:
    """What the metrics say, one sentence each, with what they leave open."""
    parts = []
    if "psnr_gain" in results:
        gain, low, high = (results["psnr_gain"][key] for key in ("value", "low", "high"))
        sense = "better" if gain > 0 else "worse"
        text = f"The tokenizer rebuilds held-out clips {abs(gain):.1f} dB {sense} than the best still picture does"
        if gain <= 0:
            text += ": it has not learnt the motion"
        elif low is not None and low <= 0 <= high:
            text += f", a gain too small to be sure of (95%: {low:.1f} to {high:.1f} dB)"
        parts.append(f"{text}.")
    if "loss_ratio" in results:
        ratio = results["loss_ratio"]["value"]
        text = f"The prior's loss is {100 * ratio:.0f}% of what knowing only positions gives"
        parts.append(f"{text}{'.' if ratio < 1 else ': it has learnt nothing beyond them.'}")
    if "accuracy_samples" in results:
        share = {name: f"{100 * row['value']:.0f}%" for name, row in results.items() if name.startswith("accuracy_")}
        text = f"A judge trained on real clips recognises {share['accuracy_samples']} of the samples as their class"
        beside = f"real held-out clips: {share.get('accuracy_real', '?')}"
        if "accuracy_reconstructed" in share:
            beside += f", their reconstructions: {share['accuracy_reconstructed']}"
        parts.append(f"{text} ({beside}).")
    return parts
