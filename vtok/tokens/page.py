"""The statistics of a token store as one HTML file with plots (vtok/tokens/survey.py counts, this only draws)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.version import CODE_VERSION
from vtok.parquet import numbers_of
from vtok.report_charts import Series, line_chart, number, usage_chart
from vtok.report_html import Html, breakable, details, figure, join, note, page, section, table, tag

_MOST_CLASSES = 100
_MOST_FRAMES = 16  # latent frames of which a map is drawn
_MAP_WIDTH = 112  # pixels, about
_Row = dict[str, Any]


def stats_page(facts: _Row, survey: pa.Table) -> str:
    """The page; equal stores give equal bytes.

    Args:
        facts: the store's `summary()`.
        survey: table of `vtok.tokens.survey.survey`.
    """
    rows = survey.drop_columns("usage").to_pylist()
    for place, row in enumerate(rows):
        if row["scope"] != "class":  # those of classes are not drawn, and may be 512 times 65,536 numbers
            row["usage"] = numbers_of(survey["usage"][place].values)
    parts = [
        _usage(facts, rows),
        _groups(facts, rows),
        *[_positions(facts, rows, grid) for grid in _grids(rows[0])],
        _runs(rows[0]),
    ]
    header = join([tag("p", "vtok tokens stats", class_="brand"), tag("h1", "Token store"), _tiles(facts, rows[0])])
    footer = f"Written by vtok {CODE_VERSION} from the codes of the store. One file, no requests."
    return page("Token store - vtok", header, [part for part in parts if part], tag("p", footer))


def _tiles(facts: _Row, row: _Row) -> Html:
    size = facts["codebook_size"]
    repeats = "" if row["repeat_rate"] is None else f"{100 * row['repeat_rate']:.1f}%"
    tiles = [
        ("rows", f"{row['rows']:,}", ", ".join(f"{name} {count:,}" for name, count in facts["splits"].items())),
        ("codes", f"{row['codes']:,}", f"{facts['bits_per_token']:.2f} bits each, all columns"),
        ("codes in use", f"{row['used']:,}", f"of {size:,}; {row['dead']:,} dead"),
        ("perplexity", number(row["perplexity"]), f"{100 * row['perplexity'] / size:.1f}% of the codebook"),
        ("entropy", f"{row['entropy_bits']:.2f} bits", f"of {math.log2(size):.2f} at most"),
        ("repeated in time", repeats or "none", "equal to the latent frame before" if repeats else "one latent frame"),
    ]
    cells = [tag("div", tag("dt", title), tag("dd", value, tag("small", remark))) for title, value, remark in tiles]
    lines = tag("p", "Tokenizer ", tag("code", facts["tokenizer"][:16]), f", mode {facts['mode']}.")
    return join([lines, tag("dl", *cells, class_="tiles")])


def _usage(facts: _Row, rows: Sequence[_Row]) -> Html:
    counts = np.sort(rows[0]["usage"])[::-1]
    drawn = usage_chart(
        "How often each code occurs",
        "Flat is good: every code earns its place. A steep start means that few codes say most.",
        counts.tolist(),
    )
    series = []
    for colour, row in enumerate([row for row in rows if row["scope"] != "class"][:4], 1):
        mine = np.cumsum(np.sort(row["usage"])[::-1]) / max(1, row["codes"])
        places = np.unique(np.linspace(0, len(mine) - 1, 129).astype(int))
        name = f"{row['name'] or 'all'}: half by {int(np.searchsorted(mine, 0.5)) + 1:,}"
        points = [(0.0, 0.0), *((float(i + 1), float(100 * mine[i])) for i in places)]
        series.append(Series(name, points, colour, told=False))
    reach = line_chart(
        "What the most frequent codes cover",
        "Share of all code positions that the n most frequent codes account for, by split, and how many of them it "
        "takes for half.",
        "%",
        series,
        across="number of codes, most frequent first",
    )
    order = np.argsort(-rows[0]["usage"], kind="stable")[:20]
    total = max(1, rows[0]["codes"])
    listed = [
        [str(code), f"{rows[0]['usage'][code]:,}", f"{100 * rows[0]['usage'][code] / total:.2f}%"] for code in order
    ]
    frequent = table("The 20 most frequent codes", ["code", "times", "share"], listed, numeric=(0, 1, 2))
    remarks = []
    if rows[0]["dead"] > facts["codebook_size"] // 2:
        remarks.append(note(f"{rows[0]['dead']:,} of {facts['codebook_size']:,} codes never occur.", "warn"))
    body = tag("div", drawn, reach, class_="charts")
    return section("usage", "Codebook usage", *remarks, body, details("The most frequent codes", frequent))


def _groups(facts: _Row, rows: Sequence[_Row]) -> Html:
    header = ["", "rows", "codes in use", "perplexity", "entropy, bits", "repeated in time"]

    def cells(row: _Row) -> list[str]:
        repeats = "" if row["repeat_rate"] is None else f"{100 * row['repeat_rate']:.1f}%"
        name = (
            breakable(row["name"]) if row["name"] else Html("<i>all</i>" if row["scope"] == "store" else "<i>none</i>")
        )
        values = [f"{row['rows']:,}", f"{row['used']:,}", number(row["perplexity"]), f"{row['entropy_bits']:.3f}"]
        return [name, *values, repeats]

    splits = [row for row in rows if row["scope"] != "class"]
    classes = sorted((row for row in rows if row["scope"] == "class"), key=lambda row: -row["rows"])
    parts = [table("By split", header, map(cells, splits), numeric=range(1, 6))]
    if any(row["name"] is not None for row in classes):
        shown = classes[:_MOST_CLASSES]
        caption = (
            "By class" if len(shown) == len(classes) else f"By class: the {len(shown)} largest of {len(classes):,}"
        )
        parts.append(table(caption, header, map(cells, shown), numeric=range(1, 6)))
    return section("groups", "Splits and classes", *parts)


def _grids(row: _Row) -> list[tuple[int, int, int]]:
    return [(each["grid_t"], each["grid_h"], each["grid_w"]) for each in row["positions"]]


def _positions(facts: _Row, rows: Sequence[_Row], grid: tuple[int, int, int]) -> Html:
    """Entropy by position and repeats by time of the rows of one grid."""
    t, h, w = grid
    name = f"{t} x {h} x {w}"
    mine = []
    for row in rows:
        for each in row["positions"] or []:
            if (each["grid_t"], each["grid_h"], each["grid_w"]) == grid:
                mine.append((row["name"] or "all", each))
    whole = mine[0][1]
    most = math.log2(min(facts["codebook_size"], max(2, whole["rows"])))
    entropy = np.array(whole["entropy_bits"]).reshape(t, h, w)
    few = whole["rows"] < facts["codebook_size"]
    because = f"of {whole['rows']:,} rows" if few else f"of {facts['codebook_size']:,} codes"
    maps = figure(
        f"Entropy of the code at each position, latent frame by latent frame: {entropy.min():.2f} bits "
        f"(palest) to {entropy.max():.2f} (darkest); {most:.2f} is the most possible, the logarithm {because}.",
        tag("h3", "Where the codes vary"),
        _maps(entropy),
    )
    lines = [
        Series(who, [(float(i), float(v)) for i, v in enumerate(_by_time(each, grid))], colour)
        for colour, (who, each) in enumerate(mine[:4], 1)
    ]
    by_time = line_chart(
        "Entropy along time",
        "Mean over the places of a latent frame. Few rows show less than there is: compare splits of like size.",
        "bits",
        lines,
        across="latent frame",
    )
    repeats = line_chart(
        "Repeats along time",
        "Share of codes that are equal to the code at the same place one latent frame before: stillness.",
        "%",
        [
            Series(who, [(float(i), 100 * float(v)) for i, v in enumerate(each["repeat_rate"], 1)], colour)
            for colour, (who, each) in enumerate(mine[:4], 1)
        ],
        across="latent frame",
    )
    text = tag("p", f"{whole['rows']:,} rows have this grid (frames x rows x columns of codes).")
    anchor = f"grid-{t}-{h}-{w}"
    charts = [by_time, repeats] if t > 2 else [by_time] if t > 1 else []  # two frames have one number: the table's
    return section(anchor, f"Positions, grid {name}", text, maps, tag("div", *charts, class_="charts"))


def _by_time(each: _Row, grid: tuple[int, int, int]) -> np.ndarray:
    mean: np.ndarray = np.array(each["entropy_bits"]).reshape(grid[0], -1).mean(axis=1)
    return mean


def _maps(entropy_thw: np.ndarray) -> Html:
    """A map of each latent frame, side by side; evenly chosen where there are too many."""
    t, h, w = entropy_thw.shape
    low, span = float(entropy_thw.min()), float(np.ptp(entropy_thw))
    chosen = np.unique(np.linspace(0, t - 1, min(t, _MOST_FRAMES)).round().astype(int))
    cell = max(3, min(24, _MAP_WIDTH // w))
    step = max(w * cell, 48) + 10
    parts = []
    for column, frame in enumerate(chosen):
        parts.append(tag("text", f"t = {frame}", class_="tick", x=column * step, y=11))
        for row in range(h):
            for place in range(w):
                value = float(entropy_thw[frame, row, place])
                hover = tag("title", f"t {frame}, row {row}, column {place}: {value:.2f} bits")
                share = (value - low) / span if span else 0.5
                parts.append(
                    Html(
                        f'<rect class="bar" x="{column * step + place * cell}" y="{18 + row * cell}" '
                        f'width="{cell}" height="{cell}" fill-opacity="{0.08 + 0.92 * share:.3f}">{hover}</rect>'
                    )
                )
    width, height = len(chosen) * step - 10, 18 + h * cell
    box = f"0 0 {width} {height}"
    drawn = tag(
        "svg",
        tag("title", "Entropy by position"),
        *parts,
        viewBox=box,
        role="img",
        class_="chart",
        style=f"width:{width}px",
    )
    return tag("div", drawn, class_="scroll")


def _runs(row: _Row) -> Html:
    if not row["ngrams"]:
        return Html("")
    parts = []
    titles = {
        ("raster", 2): "Pairs in raster order",
        ("raster", 3): "Triples in raster order",
        ("time", 2): "Pairs along time",
        ("time", 3): "Triples along time",
    }
    for (along, order), title in titles.items():
        mine = [run for run in row["ngrams"] if run["along"] == along and len(run["codes"]) == order]
        if mine:
            error = mine[0]["error"]
            caption = title if not error else f"{title} (each count may be up to {error:,} too low)"
            cells = [[" ".join(map(str, r["codes"])), f"{r['count']:,}", f"{100 * r['share']:.3f}%"] for r in mine]
            parts.append(table(caption, ["codes", "times", "share"], cells, numeric=(1, 2)))
    text = tag(
        "p", "Raster order is time, rows, columns, as a prior reads them; along time is at one place of the frame."
    )
    return section("runs", "Most frequent runs of codes", text, tag("div", *parts, class_="charts"))
