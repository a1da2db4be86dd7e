"""Samples are drawn the same however they are batched, and say how they were made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest

from pipelines.generate import GRID_NAME, generate
from schemas.card import with_checksum
from schemas.config import Recipe
from schemas.errors import UsageError
from schemas.samples import SAMPLES
from tests.pipelines.making import digests
from vtok import artefacts
from vtok.files import read_table, sha256_of
from vtok.video.decode import read_video

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_running")]
Copy = Callable[..., Recipe]


def rows_of(settings: Recipe) -> list[dict[str, object]]:
    folder = settings.folder("samples")
    names = artefacts.load_index(folder)["path"].to_pylist()
    return [row for name in names for row in read_table(folder / name, schema=SAMPLES).to_pylist()]


def test_samples(copy_of: Copy) -> None:
    settings = copy_of("tokenizer", "prior", cluster__workers=1, sample__top_k=5)
    card = generate(settings)
    folder, rows = settings.folder("samples"), rows_of(settings)
    assert card.counts["samples"] == 4 == len(rows)
    assert [row["label"] for row in rows] == [0, 1, 0, 1], "classes take turns"
    assert [row["class_name"] for row in rows] == [card.facts["classes"][i] for i in (0, 1, 0, 1)]
    assert len({row["seed"] for row in rows}) == 4
    for row in rows:
        path = folder / str(row["path"])
        assert sha256_of(path) == row["sha256"]
        assert read_video(path).shape == (4, 16, 16, 3)
        assert len(row["codes"]) == 32 and max(row["codes"]) < 16  # type: ignore[arg-type]
        assert (row["top_k"], row["top_p"], row["temperature"]) == (5, None, 1.0)
        assert row["prior"] == artefacts.load(settings.folder("prior")).fingerprint
        assert row["tokenizer"] == artefacts.load(settings.folder("tokenizer")).facts["fingerprint"]
    assert (folder / GRID_NAME).stat().st_size > 100
    before = digests(folder)
    generate(settings)
    assert digests(folder) == before


def test_a_sample_does_not_depend_on_its_batch(copy_of: Copy) -> None:
    settings = copy_of("tokenizer", "prior", cluster__workers=1, sample__batch_size=3)
    generate(settings)
    three = rows_of(settings)
    shutil.rmtree(settings.folder("samples"))
    generate(settings.model_copy(update={"sample": settings.sample.model_copy(update={"batch_size": 2})}))
    assert [(row["codes"], row["sha256"], row["seed"]) for row in rows_of(settings)] == [
        (row["codes"], row["sha256"], row["seed"]) for row in three
    ]
    assert len({str(row["codes"]) for row in three}) > 1


def test_one_class_only(copy_of: Copy) -> None:
    settings = copy_of("tokenizer", "prior", cluster__workers=1, sample__label=1, sample__num=2)
    generate(settings)
    assert [row["label"] for row in rows_of(settings)] == [1, 1]


def test_no_such_class(copy_of: Copy) -> None:
    with pytest.raises(UsageError, match="no class 7") as caught:
        generate(copy_of("tokenizer", "prior", cluster__workers=1, sample__label=7))
    assert caught.value.at == "sample.label" and "labels 0 to 1" in caught.value.hint


def test_another_tokenizer_is_refused_with_both_fingerprints(copy_of: Copy) -> None:
    settings = copy_of("tokenizer", "prior")
    path = settings.folder("prior") / "_vtok.json"
    card = json.loads(path.read_text())
    right, card["facts"]["tokenizer"] = card["facts"]["tokenizer"], "f" * 64
    path.write_text(json.dumps(with_checksum(card)))
    with pytest.raises(UsageError) as caught:
        generate(settings)
    assert "f" * 64 in caught.value.what and right in caught.value.what


def test_a_missing_prior(copy_of: Copy) -> None:
    with pytest.raises(UsageError, match="no such folder") as caught:
        generate(copy_of("tokenizer"))
    assert "vtok train prior" in caught.value.hint
