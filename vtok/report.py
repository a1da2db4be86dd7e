"""Writes report.html: one file that shows a run from its videos to its metrics.

It reads what the stages wrote; no stage knows that it exists. A section appears only where its artefact is there, and
says so plainly where a stage is not finished or is damaged. The page holds no clock: equal runs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from schemas.errors import VtokError
from schemas.paths import COPY_FIRST, as_path, local_only
from schemas.version import CODE_VERSION
from vtok import report_data, report_models
from vtok.evaluation.results import shown
from vtok.files import write_bytes
from vtok.report_html import Html, join, note, page, section, tag
from vtok.report_run import RunFacts, read_run, verdict

REPORT_NAME = "report.html"

SECTIONS: dict[str, Callable[[RunFacts], Html | None]] = {
    "Stages": report_data.stages,
    "Data": report_data.dataset,
    "Rejects": report_data.rejects,
    "Tokenizer": report_models.tokenizer,
    "Token store": report_models.tokens,
    "Prior": report_models.prior,
    "Samples": report_models.samples,
    "Metrics": report_models.metrics,
    "How to make it again": report_data.reproduce,
}
"""The page from top to bottom."""

_TILES = ("psnr_gain", "codebook_share", "loss_ratio", "accuracy_samples")


def write_report(run: Path) -> Path:
    """Writes `report.html` into a run's folder and returns its path.

    Raises:
        UsageError: no such folder, or no stage of a run in it.
        VtokError: the file cannot be written.
    """
    run = local_only(as_path(run), "vtok report", COPY_FIRST)
    facts = read_run(run)
    sections = [part for title, draw in SECTIONS.items() if (part := _drawn(title, draw, facts)) is not None]
    text = page(f"{facts.name} - vtok report", _header(facts), sections, _footer(facts))
    path = run / REPORT_NAME
    write_bytes(path, text.encode())
    return path


def _drawn(title: str, draw: Callable[[RunFacts], Html | None], facts: RunFacts) -> Html | None:
    """A section, or what is wrong with its artefact: one damaged file must not hide the rest of the run."""
    try:
        return draw(facts)
    except VtokError as error:
        anchor = title.lower().replace(" ", "-")
        remarks = [note(f"This cannot be shown: {error.what}.", "warn")]
        remarks += [tag("p", tag("code", error.at))] if error.at else []
        remarks += [tag("p", f"What to do: {error.hint}.")] if error.hint else []
        return section(anchor, title, *remarks)


def _header(facts: RunFacts) -> Html:
    return join(
        [
            tag("p", "vtok report", class_="brand"),
            tag("h1", facts.name),
            tag("p", verdict(facts), class_="verdict"),
            _tiles(facts),
        ]
    )


def _tiles(facts: RunFacts) -> Html:
    """The few figures that say most."""
    tiles: list[tuple[str, str, str]] = []
    shards, tokens = facts.stages["shards"], facts.stages["tokens"]
    rejects = sum(stage.counts.get("rejects", 0) for stage in facts.stages.values())
    if shards.complete:
        tiles.append(("clips", f"{shards.counts['clips']:,}", f"{rejects:,} rejected"))
    if tokens.complete:
        tiles.append(
            ("codes in the token store", f"{tokens.counts['tokens']:,}", f"out of {tokens.facts['codebook_size']:,}")
        )
    for name in _TILES:
        if name in facts.results:
            title, value, interval = shown(facts.results[name])
            tiles.append((title, value, f"95%: {interval}" if interval else ""))
    cells = [tag("div", tag("dt", title), tag("dd", value, tag("small", remark))) for title, value, remark in tiles]
    return tag("dl", *cells, class_="tiles") if cells else Html("")


def _footer(facts: RunFacts) -> Html:
    return tag(
        "p", f"Written by vtok {CODE_VERSION} from what the stages left in the run's folder. One file, no requests."
    )
