"""The report's sections on the data: what was found, what it looks like, what was rejected and why."""

from __future__ import annotations

import itertools
from typing import Any

from schemas.card import REJECTS_NAME
from schemas.clips import CLIPS, REASONS
from schemas.shards import MANIFEST_NAME
from vtok import artefacts, console
from vtok.files import read_table
from vtok.inspect_folder import reasons
from vtok.report_html import Html, details, escape, figure, join, note, section, table, tag
from vtok.report_pictures import strip_picture
from vtok.report_run import COMMANDS, TITLES, RunFacts, Stage, made_from, reconciliation
from vtok.sealed import sealed_path

_COUNTS = ("files", "files_with_clips", "planned", "clips", "samples", "tokens", "metrics", "parameters", "steps")
_FRAMES = 6  # of a clip, on the contact sheet
_CLIPS_PER_CLASS = 2
_MAX_CLASSES = 12
_LOOKED_AT = 600  # clips searched for examples of every class
_MAX_REJECTS = 50


def stages(run: RunFacts) -> Html:
    """Every stage's state, content and fingerprint, and what it was made from."""
    rows = []
    for stage in run.stages.values():
        counts = ", ".join(f"{stage.counts[key]:,} {key.replace('_', ' ')}" for key in _ordered(stage.counts))
        size = f"{counts} ({console.size(stage.counts['bytes'])})" if "bytes" in stage.counts else counts
        links = [
            join(
                [
                    f"{name} ",
                    _short(fingerprint),
                    "" if ok else tag("span", " (not the one here now)", class_="state warn"),
                ]
            )
            for name, fingerprint, ok in made_from(run, stage)
        ]
        rows.append(
            [
                TITLES[stage.name],
                _state(stage),
                size,
                _fingerprints(stage),
                join(itertools.chain.from_iterable((link, tag("br")) for link in links)),
            ]
        )
    text = (
        "Each stage seals what it made with a fingerprint of its content, its settings and its inputs. "
        "Equal fingerprints mean equal bytes."
    )
    header = ["Stage", "State", "Holds", "Fingerprint", "Made from"]
    return section("stages", "Stages", tag("p", text), table("The run's artefacts", header, rows), _timing(run))


def _ordered(counts: dict[str, int]) -> list[str]:
    """The counts worth showing, the main ones first."""
    keys = [key for key, value in counts.items() if key != "bytes" and not (key == "rejects" and not value)]
    return sorted(keys, key=lambda key: (_COUNTS.index(key) if key in _COUNTS else len(_COUNTS), key))


def _fingerprints(stage: Stage) -> Html:
    """Of the artefact, and of the weights where codes carry that one."""
    weights = stage.facts.get("fingerprint")
    parts = [_short(stage.fingerprint)] if stage.fingerprint else []
    return join([*parts, tag("br"), "weights ", _short(weights)] if weights else parts)


def _state(stage: Stage) -> Html:
    kind = "good" if stage.complete else "warn" if stage.started else "none"
    return tag("span", stage.state, class_=f"state {kind}")


def _short(fingerprint: str) -> Html:
    return tag("code", fingerprint[:12], title=fingerprint)


def _timing(run: RunFacts) -> Html:
    if not run.timings:
        return Html("")
    longest = max(seconds for _, seconds in run.timings) or 1.0
    bars = [
        join([tag("span", name), tag("i", style=f"--share:{seconds / longest:.4f}"), tag("b", _seconds(seconds))])
        for name, seconds in run.timings
    ]
    total = sum(seconds for _, seconds in run.timings)
    return join([tag("h3", f"Time: {_seconds(total)} in all"), tag("div", *bars, class_="bars")])


def _seconds(value: float) -> str:
    return f"{value:.1f}s" if value < 10 else console.duration(value)


def dataset(run: RunFacts) -> Html | None:
    """Counts by split and class, and some clips of each class."""
    clips, shards = run.stages["clips"], run.stages["shards"]
    if not clips.complete and not shards.complete:
        return None
    parts: list[str] = []
    if shards.complete:
        card = artefacts.load(shards.folder, "shards")
        config = card.config
        size = config["resolution"]
        parts.append(
            tag("p", f"Clips of {config['num_frames']} frames of {size} x {size} pixels, as the models see them.")
        )
        manifest = read_table(sealed_path(shards.folder, card, MANIFEST_NAME), schema=CLIPS)
        parts.append(_counts(manifest.select(["split", "class_name"]).to_pylist()))
        parts.append(_contact_sheet(shards))
    else:
        parts.append(note("The clips are planned; they are not decoded and packed yet.", "warn"))
        parts.append(table("Planned clips", ["Split", "Clips"], _pairs(clips.facts.get("splits", {})), numeric=[1]))
    for text, ok in reconciliation(run):
        parts.append(
            note(text + (". Nothing is missing." if ok else ". The counts do not add up!"), "good" if ok else "warn")
        )
    return section("data", "Data", *parts)


def _pairs(counts: dict[str, int]) -> list[list[str]]:
    return [[name, f"{number:,}"] for name, number in sorted(counts.items())]


def _counts(rows: list[dict[str, Any]]) -> Html:
    splits = sorted({row["split"] for row in rows}, key=lambda name: (name != "train", name))
    classes = sorted({row["class_name"] for row in rows if row["class_name"] is not None})
    counts: dict[tuple[str | None, str], int] = {}
    for row in rows:
        for key in ((row["class_name"], row["split"]), ("", row["split"])):
            counts[key] = counts.get(key, 0) + 1

    def line(title: str, name: str) -> list[str]:
        numbers = [counts.get((name, split), 0) for split in splits]
        return [title, *[f"{number:,}" for number in [*numbers, sum(numbers)]]]

    header = ["Class" if classes else "", *splits, "all"]
    lines = [line(name, name) for name in classes] + [line("all", "")]
    whole = table("Clips by split", header, lines, numeric=range(1, len(header)))
    if len(classes) <= _MAX_CLASSES:
        return whole
    brief = table("Clips by split", header, lines[-1:], numeric=range(1, len(header)))
    return join([brief, details(f"All {len(classes)} classes", whole)])


def _contact_sheet(shards: Stage) -> Html:
    """A few frames of some clips of each class, in store order."""
    from vtok.shards.reader import ShardReader

    names: list[str] = [name for name in shards.facts.get("classes", []) if name]
    shown: dict[str, list[Html]] = {name: [] for name in names[:_MAX_CLASSES]} or {"clips": []}
    most = _CLIPS_PER_CLASS if names else 2 * _CLIPS_PER_CLASS
    split = (
        "train" if shards.facts.get("splits", {}).get("train") else next(iter(shards.facts.get("splits", {})), "train")
    )
    for clip in itertools.islice(ShardReader(shards.folder, split, shuffle=False).clips(0), _LOOKED_AT):
        name = clip.class_name or "clips" if names else "clips"
        if len(shown.get(name, [None] * most)) < most:
            alt = f"{_FRAMES} frames of the clip {clip.clip_id}" + (f" of class {name}" if names else "")
            shown[name].append(strip_picture(clip.video_thwc, _FRAMES, alt))
        if all(len(strips) >= most for strips in shown.values()):
            break
    figures = [
        figure(name if names else "Some clips, from left to right", tag("div", *strips, class_="strips"))
        for name, strips in shown.items()
        if strips
    ]
    more = f" The first {_MAX_CLASSES} of {len(names)} classes." if len(names) > _MAX_CLASSES else ""
    heading = tag("h3", f"Some clips of the {split} split, {_FRAMES} frames of each.{more}")
    return join([heading, tag("div", *figures, class_="pictures")])


def rejects(run: RunFacts) -> Html | None:
    """Everything that was turned away, with the reason."""
    rows: list[dict[str, Any]] = []
    summary: dict[str, int] = {}
    for stage in run.stages.values():
        if stage.complete and (stage.folder / REJECTS_NAME).exists():
            found = artefacts.load_rejects(stage.folder)
            rows += found.slice(0, max(0, _MAX_REJECTS - len(rows))).to_pylist()
            for reason, number in reasons(found).items():
                summary[reason] = summary.get(reason, 0) + number
    if not run.stages["clips"].complete:
        return None
    if not rows:
        return section("rejects", "Rejects", note("Nothing was rejected.", "good"))
    total = sum(summary.values())
    listed = ", ".join(f"{number:,} {reason}" for reason, number in sorted(summary.items()))
    lines = [
        [
            tag("code", row["reason"]),
            tag("code", row["clip_id"] or row["source"]),
            TITLES.get(row["stage"], row["stage"]),
            join([f"{REASONS.get(row['reason'], '')}: ", tag("span", row["detail"])]),
        ]
        for row in rows
    ]
    parts: list[str] = [
        tag("p", f"{console.count(total, 'rejects')}: {listed}. A file that cannot be used is never dropped silently."),
        table("Rejects", ["Reason", "Source", "Found while making", "Explanation"], lines),
    ]
    if total > len(rows):
        parts.append(note(f"The first {len(rows)} of {total:,} are shown; `vtok data info` lists all."))
    return section("rejects", "Rejects", *parts)


def reproduce(run: RunFacts) -> Html:
    """The commands, and the recipe where there is one."""
    place = str(run.folder / "recipe.yaml") if run.recipe else "RECIPE"
    lines = [f"{command} {run.folder if name == 'metrics' else place}" for name, command in COMMANDS.items()]
    lines.append(f"vtok report {run.folder}")
    parts: list[str] = [
        tag("p", "Each command makes one stage; run again, it finishes what is missing and touches nothing else."),
        tag("pre", tag("code", "\n".join(lines)), tabindex=0),
    ]
    if run.recipe:
        parts.append(details("The recipe", tag("pre", tag("code", escape(run.recipe)), tabindex=0)))
    return section("reproduce", "How to make it again", *parts)
