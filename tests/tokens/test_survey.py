"""Statistics of a store against the same numbers counted another way, also of ragged rows and in little memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.tokens.stores import row_of, some_rows, store_of
from vtok.tokens.page import stats_page
from vtok.tokens.stats import health
from vtok.tokens.store import TokenStore
from vtok.tokens.survey import OTHERS, SURVEY, survey

ROWS = some_rows(lambda number: (2, 2, 3) if number % 4 else (3, 1, 2))


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(store_of(tmp_path_factory.mktemp("stores") / "tokens", ROWS))


def _videos(rows: list[dict[str, Any]]) -> list[np.ndarray]:
    return [row["codes"].reshape(row["grid_t"], row["grid_h"], row["grid_w"]) for row in rows]


def _entropy(values: list[int]) -> float:
    shares = np.array(list(Counter(values).values())) / len(values)
    return float(-(shares * np.log2(shares)).sum())


def test_every_scope_by_hand(ragged: TokenStore) -> None:
    table = survey(ragged, top=4)
    assert table.schema.equals(SURVEY)
    assert table.schema.metadata[b"tokenizer"].decode() == ragged.tokenizer
    every = [row for part in ROWS.values() for row in part]
    scopes = {("store", None): every}
    scopes |= {("split", name): [row for row in every if row["split"] == name] for name in ("test", "train")}
    scopes |= {("class", name): [row for row in every if row["class_name"] == name] for name in ("c0", "c1", "c2")}
    found = {(row["scope"], row["name"]): row for row in table.to_pylist()}
    assert list(found) == list(scopes)
    for key, rows in scopes.items():
        got, videos = found[key], _videos(rows)
        flat = np.concatenate([video.reshape(-1) for video in videos])
        wanted = health(np.bincount(flat, minlength=64))
        assert got["rows"] == len(rows) and got["usage"] == np.bincount(flat, minlength=64).tolist()
        assert (got["codes"], got["dead"], got["used"]) == (wanted.codes, wanted.dead, 64 - wanted.dead)
        assert got["perplexity"] == pytest.approx(wanted.perplexity)
        pairs = [video[1:] == video[:-1] for video in videos]
        assert got["repeat_rate"] == pytest.approx(sum(p.sum() for p in pairs) / sum(p.size for p in pairs))
        raster = Counter(pair for video in videos for pair in pairwise(video.reshape(-1).tolist()))
        along = Counter(
            run for video in videos for place in video.reshape(len(video), -1).T for run in pairwise(place.tolist())
        )
        for name, true in (("raster", raster), ("time", along)):
            told = [run for run in got["ngrams"] if run["along"] == name and len(run["codes"]) == 2]
            assert [run["count"] for run in told] == [count for _, count in true.most_common(4)]
            assert all(true[tuple(run["codes"])] == run["count"] and run["error"] == 0 for run in told)
            assert told[0]["share"] == pytest.approx(told[0]["count"] / true.total())


def test_entropy_by_position_of_each_grid(ragged: TokenStore) -> None:
    rows = {(row["scope"], row["name"]): row for row in survey(ragged, top=0).to_pylist()}
    for split in (None, "test", "train"):
        scope = rows["store" if split is None else "split", split]
        assert scope["ngrams"] == []
        for each in scope["positions"]:
            grid = (each["grid_t"], each["grid_h"], each["grid_w"])
            mine = [r for part in ROWS.values() for r in part if r["split"] == (split or r["split"])]
            videos = [video for video in _videos(mine) if video.shape == grid]
            assert each["rows"] == len(videos) > 0
            wanted = [_entropy([int(v.reshape(-1)[i]) for v in videos]) for i in range(int(np.prod(grid)))]
            assert each["entropy_bits"] == pytest.approx(wanted, abs=1e-9)
            repeats = [np.mean([(v[t] == v[t - 1]).mean() for v in videos]) for t in range(1, grid[0])]
            assert each["repeat_rate"] == pytest.approx(repeats)
    assert [each["rows"] for each in rows["store", None]["positions"]] == [13, 5], "the most frequent grid first"
    assert rows["class", "c0"]["positions"] is None


def test_little_memory_gives_the_same_numbers(ragged: TokenStore) -> None:
    """With room for the counts of five positions at a time, the store is read again and again."""
    read: list[int] = []
    small = survey(ragged, budget=64 * 4 * 3 * 5, advance=read.append)
    whole = survey(ragged)
    assert sum(read) == 4 * 18
    assert small.slice(0, 3).equals(whole.slice(0, 3))
    by_name = {row["name"]: row for row in small.to_pylist() if row["scope"] == "class"}
    assert list(by_name) == ["c0", "c1", "c2"], "7 classes fit"
    fewer = survey(ragged, budget=64 * 8 * 2).to_pylist()
    assert [row["name"] for row in fewer if row["scope"] == "class"] == ["c0", "c1", OTHERS]
    assert fewer[-1]["usage"] == by_name["c2"]["usage"]


def test_rows_without_a_class_and_one_latent_frame(tmp_path: Path) -> None:
    rows = {"train-00000.parquet": [{**row_of(n, "train", (1, 2, 2)), "class_name": None} for n in range(3)]}
    (store, train, none) = survey(TokenStore(store_of(tmp_path / "tokens", rows))).to_pylist()
    assert store["repeat_rate"] is None and (none["scope"], none["name"]) == ("class", None)
    assert store["usage"] == train["usage"] == none["usage"]
    assert {run["along"] for run in store["ngrams"]} == {"raster"}


def test_the_page(ragged: TokenStore, tmp_path: Path) -> None:
    text = stats_page(ragged.summary(), survey(ragged, top=3))
    assert text == stats_page(ragged.summary(), survey(ragged, top=3))
    for title in (
        "Codebook usage",
        "Splits and classes",
        "grid 2 x 2 x 3",
        "grid 3 x 1 x 2",
        "Pairs along time",
        "half by ",
    ):
        assert title in text
    assert "http" not in text.replace("http-equiv", "") and "<script" not in text and "nan" not in text
    rows = {"train-00000.parquet": [{**row_of(0, "train"), "class_name": "<b>&"}]}
    store = TokenStore(store_of(tmp_path / "tokens", rows))
    assert "&lt;b&gt;&amp;" in stats_page(store.summary(), survey(store)) and "<b>&<" not in text


def test_the_page_takes_no_memory_for_histograms_that_it_does_not_draw(tmp_path: Path) -> None:
    store = TokenStore(store_of(tmp_path / "tokens", some_rows(), codebook_size=65_536))
    table, facts = survey(store, top=0), store.summary()
    assert table["scope"][-1].as_py() == "class"
    many = pa.concat_tables([table, *[table.slice(table.num_rows - 1)] * 60])

    def peak(shown: pa.Table) -> int:
        tracemalloc.start()
        stats_page(facts, shown)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(many) - peak(table) < 60 * 65_536, "a byte a code and class; as Python numbers it were 8 at least"
