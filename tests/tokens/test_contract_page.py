"""schemas/token_store.md names what the files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.clips import REJECTS
from schemas.config.tokens import TokensConfig
from schemas.shards import INDEX
from schemas.tokens import tokens_schema
from tests.tokens.test_versions import VERSION_2
from vtok import artefacts
from vtok.parquet import read_metadata

PAGE = (Path(__file__).resolve().parents[2] / "schemas" / "token_store.md").read_text()


def test_every_column_is_on_the_page() -> None:
    for name in (*tokens_schema(1).names, *INDEX.names, *REJECTS.names):
        assert name in PAGE, name


@pytest.mark.parametrize("part", ["train-00000.parquet", "train-00000.mirrored.parquet"])
def test_every_key_of_the_footer_is_on_the_page(part: str) -> None:
    for key, value in read_metadata(VERSION_2 / part).items():
        assert f"`{key}`" in PAGE, key
        if isinstance(value, dict):
            assert all(f"`{inner}`" in PAGE for inner in value), key


def test_every_key_of_plan_and_card_is_on_the_page() -> None:
    card: dict[str, Any] = artefacts.load(VERSION_2).model_dump()
    plan: dict[str, Any] = artefacts.load_plan(VERSION_2).model_dump()
    for key in (*card, *plan, *card["counts"], *card["facts"]):
        assert f"`{key}`" in PAGE, key


def test_its_numbers_are_those_of_the_code() -> None:
    assert f"row groups of {TokensConfig().row_group_rows} rows" in PAGE
