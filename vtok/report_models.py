"""The report's sections on the models: tokenizer, codebook, prior, samples and measured quality."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vtok import artefacts
from vtok.evaluation.results import CONFUSION_NAME, MEASURES, METRICS_TABLE, shown
from vtok.metrics_log import read_metrics, series
from vtok.report_charts import Series, line_chart, number, usage_chart
from vtok.report_html import Html, breakable, figure, join, note, section, table, tag
from vtok.report_pictures import clips_picture, gif_picture
from vtok.report_run import COMMANDS, RunFacts, Stage
from vtok.sampling.drawn import sample_rows, sample_video
from vtok.sealed import read_sealed
from vtok.tokens.stats import health
from vtok.tokens.store import TokenStore

_PER_ROW = 8  # samples of a class
_MAX_ROWS = 12
_MAX_MATRIX = 20  # classes up to which a confusion table is drawn whole
_CONFUSIONS = {
    "real": "Real held-out clips",
    "reconstructed": "The same clips, reconstructed",
    "samples": "Samples",
}


def tokenizer(run: RunFacts) -> Html | None:
    """Previews and curves of the tokenizer's training."""
    stage = run.stages["tokenizer"]
    if not stage.started:
        return None
    rows = read_metrics(stage.folder)
    charts = [
        line_chart(
            "Loss",
            "Total and reconstruction loss of the training batches.",
            "",
            [Series("total", series(rows, "loss"), 1), Series("reconstruction", series(rows, "recon"), 2)],
        ),
        line_chart(
            "Reconstruction of held-out clips",
            "A tokenizer that has learnt motion is above the best still picture.",
            "dB",
            [
                Series("PSNR", series(rows, "val_psnr"), 1),
                Series("best still picture", series(rows, "val_psnr_still"), 2, dashed=True),
            ],
        ),
        line_chart(
            "Codebook perplexity",
            "How many codes are in effective use; near 1 the codebook has collapsed.",
            "codes",
            [
                Series("training batch", series(rows, "perplexity"), 1),
                Series("held-out clips", series(rows, "val_perplexity"), 3),
            ],
        ),
    ]
    return section(
        "tokenizer",
        "Tokenizer",
        _progress(stage, rows),
        _previews(stage),
        tag("div", *charts, class_="charts"),
        _unsealed("Curves and previews are"),
    )


def _progress(stage: Stage, rows: list[dict[str, Any]]) -> Html:
    """One sentence on how far the training is."""
    if stage.complete:
        steps, parameters = stage.counts.get("steps", 0), stage.counts.get("parameters", 0)
        return tag("p", f"{parameters / 1e6:.2f} M parameters, trained for {steps:,} steps.")
    last = f"step {rows[-1]['step']:,} of {rows[-1].get('steps', 0):,}" if rows else "no step logged yet"
    return note(f"Training is {stage.state} ({last}). `{COMMANDS[stage.name]}` goes on from there.", "warn")


def _previews(stage: Stage) -> Html:
    """The first and the last preview."""
    paths = sorted((stage.folder / "previews").glob("step-*.gif"))
    if not paths:
        return Html("")
    chosen = [paths[0], paths[-1]] if len(paths) > 1 else paths
    figures = []
    for path in chosen:
        step = int(path.stem.removeprefix("step-"))
        alt = f"Held-out clips in the upper row, their reconstructions at step {step} in the lower row"
        picture = gif_picture(path.read_bytes(), path, alt, 480)
        figures.append(figure(f"Step {step:,}. Upper row: held-out clips. Lower row: reconstructed.", picture))
    return join([tag("h3", "Original and reconstruction"), tag("div", *figures, class_="pictures")])


def tokens(run: RunFacts) -> Html | None:
    """How the codebook is used over the whole store."""
    stage = run.stages["tokens"]
    if not stage.started:
        return None
    if not stage.complete:
        return section("tokens", "Token store", note(f"The token store is {stage.state}.", "warn"))
    store = TokenStore(stage.folder)
    counts = store.usage()
    facts = health(counts)
    grid = store.card.facts["grid"]
    each = "grids of several sizes"
    if grid is not None:
        each = f"each a grid of {' x '.join(map(str, grid))} = {math.prod(grid):,} codes"
    bits = 8 * stage.counts.get("bytes", 0) / max(1, facts.codes)
    text = (
        f"{stage.counts['clips']:,} rows, {each} out of {store.codebook_size:,}: "
        f"{facts.codes:,} codes, {bits:.2f} bits each on disk with all metadata "
        f"(the codes alone need at most {np.log2(store.codebook_size):.2f}). "
        f"Perplexity {facts.perplexity:.1f}, entropy {facts.entropy_bits:.2f} bits a code, "
        f"{facts.dead:,} codes never used."
    )
    kind = "warn" if facts.perplexity < 0.1 * store.codebook_size else "plain"
    remark = "Less than a tenth of the codebook is in effective use." if kind == "warn" else ""
    chart = usage_chart("Codebook usage", "Share of every code in the store, most frequent first, %.", counts.tolist())
    return section(
        "tokens",
        "Token store",
        tag("p", text),
        note(remark, kind) if remark else Html(""),
        tag("div", chart, class_="charts"),
    )


def prior(run: RunFacts) -> Html | None:
    """The prior's learning curve against what the positions alone give away."""
    stage = run.stages["prior"]
    if not stage.started:
        return None
    rows = read_metrics(stage.folder)
    loss = series(rows, "loss")
    entropy = series(rows, "position_entropy")
    line = [(loss[0][0], entropy[-1][1]), (loss[-1][0], entropy[-1][1])] if loss and entropy else []
    charts = [
        line_chart(
            "Loss, nats a code",
            "Below the dashed line the prior knows more than which codes are frequent at which position.",
            "",
            [
                Series("training", loss, 1),
                Series("held-out clips", series(rows, "val"), 3),
                Series("position-wise entropy", line, 2, dashed=True),
            ],
        ),
        line_chart(
            "Code guessed right",
            "How often the most likely code was the true one, in training batches.",
            "%",
            [Series("training", series(rows, "acc1"), 1)],
        ),
    ]
    return section(
        "prior", "Prior", _progress(stage, rows), tag("div", *charts, class_="charts"), _unsealed("Curves are")
    )


def _unsealed(what: str) -> Html:
    """What of a section no card vouches for."""
    return tag("p", f"{what} the training's log as it lies there; the card does not vouch for it.", class_="note")


def samples(run: RunFacts) -> Html | None:
    """Drawn clips: a row a class where they have labels, else the grid."""
    stage = run.stages["samples"]
    if not stage.started:
        return None
    if not stage.complete:
        return section("samples", "Samples", note(f"The samples are {stage.state}.", "warn"))
    card = artefacts.load(stage.folder, "samples")
    config = card.config
    cuts = [f"{name} {config[key]:g}" for key, name in (("top_k", "top-k"), ("top_p", "top-p")) if config.get(key)]
    how = ", ".join([f"temperature {config['temperature']:g}", *cuts])
    text = (
        f"{stage.counts['samples']:,} clips drawn from the prior ({how}) and decoded by the tokenizer. None is picked."
    )
    rows = sample_rows(stage.folder)
    if any(row["label"] is not None for row in rows):
        picture = _by_class(stage.folder, rows, config["fps"], _recognised(run))
    elif "grid.gif" in card.files:
        data = read_sealed(stage.folder, card, "grid.gif")
        picture = figure(
            "Samples in the order of their numbers.", gif_picture(data, stage.folder / "grid.gif", "A grid of samples")
        )
    else:
        picture = Html("")
    return section("samples", "Samples", tag("p", text), picture)


def _by_class(folder: Path, rows: list[dict[str, Any]], fps: float, remark: Callable[[int], str]) -> Html:
    labels = sorted({row["label"] for row in rows if row["label"] is not None})
    figures = []
    for label in labels[:_MAX_ROWS]:
        mine = [row for row in rows if row["label"] == label][:_PER_ROW]
        name = mine[0]["class_name"] or f"class {label}"
        clips = [sample_video(folder, row) for row in mine]
        picture = clips_picture(clips, fps, len(clips), f"{len(clips)} samples of class {name}", shown=800)
        figures.append(tag("figure", picture, tag("figcaption", name, tag("small", remark(label)))))
    more = f" The first {_MAX_ROWS} of {len(labels)} classes." if len(labels) > _MAX_ROWS else ""
    heading = tag("h3", f"The first {_PER_ROW} samples of each class.{more}")
    return join([heading, tag("div", *figures, class_="sample-rows")])


def _recognised(run: RunFacts) -> Callable[[int], str]:
    """For a label: how many of its samples the judge recognised, in words."""
    matrix = _confusion(run).get("samples")

    def remark(label: int) -> str:
        if matrix is None or label >= len(matrix) or not sum(matrix[label]):
            return ""
        return f"{matrix[label][label]} of {sum(matrix[label])} recognised"

    return remark


def _confusion(run: RunFacts) -> dict[str, Any]:
    if not run.stages["metrics"].complete:
        return {}
    folder = run.stages["metrics"].folder
    card = artefacts.load(folder, "metrics")
    return dict(json.loads(read_sealed(folder, card, CONFUSION_NAME))) if CONFUSION_NAME in card.files else {}


def metrics(run: RunFacts) -> Html | None:
    """The measured figures with their intervals, and who is taken for whom."""
    stage = run.stages["metrics"]
    if not stage.started:
        return None
    if not run.results:
        return section("metrics", "Metrics", note(f"The metrics are {stage.state}.", "warn"))
    ordered = sorted(
        run.results.values(), key=lambda row: list(MEASURES).index(row["name"]) if row["name"] in MEASURES else 99
    )
    lines = []
    for row in ordered:
        title, value, interval = shown(row)
        reading = MEASURES[row["name"]].reading if row["name"] in MEASURES else ""
        lines.append([title, tag("b", value), interval, f"{row['samples']:,}", tag("code", row["protocol"]), reading])
    header = ["Metric", "Value", "95% interval", "Clips", "Protocol", "How to read it"]
    parts: list[str] = [
        tag("p", "Intervals of means resample whole videos (bootstrap); those of shares are Wilson's."),
        table(f"Measured by `{COMMANDS['metrics']}`, in {METRICS_TABLE}", header, lines, numeric=[1, 2, 3]),
    ]
    skipped = stage.facts.get("skipped", {})
    parts += [note(f"Not measured: {name} ({reason}).") for name, reason in skipped.items()]
    tables = _confusion(run)
    if tables:
        drawn = [_heat(title, tables["classes"], tables[key]) for key, title in _CONFUSIONS.items() if key in tables]
        heading = tag("h3", "Which class the judge takes them for")
        parts += [heading, tag("div", *drawn, class_="confusions")]
    return section("metrics", "Metrics", *parts)


def _heat(title: str, classes: list[str], matrix: list[list[int]]) -> Html:
    total, right = sum(map(sum, matrix)), sum(row[i] for i, row in enumerate(matrix))
    caption = f"{title}: {right} of {total} right. Rows: true class; columns: named by the judge."
    if len(classes) > _MAX_MATRIX:
        return _worst(caption, classes, matrix)
    head = tag("tr", tag("th", "", scope="col"), *[tag("th", breakable(name), scope="col") for name in classes])
    body = []
    for name, row in zip(classes, matrix, strict=True):
        most = max(1, sum(row))
        cells = [
            tag("td", str(value), class_=None if value else "zero", style=f"--share:{value / most:.3f}")
            for value in row
        ]
        body.append(tag("tr", tag("th", name, scope="row"), *cells))
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_="heat")
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _worst(caption: str, classes: list[str], matrix: list[list[int]]) -> Html:
    """With many classes: the most frequent mistakes."""
    mistakes = sorted(
        ((value, i, j) for i, row in enumerate(matrix) for j, value in enumerate(row) if i != j and value), reverse=True
    )[:15]
    lines = [[classes[i], classes[j], number(value)] for value, i, j in mistakes]
    return table(f"{caption} The most frequent mistakes.", ["Class", "Taken for", "Clips"], lines, numeric=[2])
