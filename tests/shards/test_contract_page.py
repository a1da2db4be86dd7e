"""schemas/shards.md names what the files hold, and its Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.card import CARD_NAME, INDEX_NAME, PLAN_NAME, REJECTS_NAME
from schemas.clips import REJECTS
from schemas.shards import FOOTER_MEMBER, INDEX, MANIFEST_NAME
from schemas.version import SCHEMA_VERSIONS
from tests.shards.making import clip_name, make_shards
from vtok.shards.writer import _find_footer

PAGE = (Path(__file__).resolve().parents[2] / "schemas" / "shards.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_shards(folder / "runs" / "demo" / "shards", {"train": [6, 2], "test": [3]}, "jpeg")
    return folder


def test_names_keys_and_version_are_on_the_page(folder: Path) -> None:
    footer = _find_footer(folder / "runs" / "demo" / "shards" / "train-00000.tar")[1]
    for key in (*footer, "companions"):
        assert f"`{key}`" in PAGE, key
    for name in (
        *INDEX.names,
        *REJECTS.names,
        FOOTER_MEMBER,
        MANIFEST_NAME,
        INDEX_NAME,
        REJECTS_NAME,
        PLAN_NAME,
        CARD_NAME,
    ):
        assert name in PAGE, name
    assert f"Schema version {SCHEMA_VERSIONS['shards']};" in PAGE


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "6 clips of 0 videos; 0 rejects"),
        (1, str([clip_name(n) for n in range(6)])),
        (2, str([clip_name(n) for n in range(8)])),
        (3, str([n % 3 for n in range(8)])),
    ],
)
def test_its_python_runs(
    number: int, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(SNIPPETS) == 4
    if "datasets" in SNIPPETS[number]:
        pytest.importorskip("datasets", reason="Hugging Face datasets are not installed")
    monkeypatch.chdir(folder)
    exec(compile(SNIPPETS[number], "schemas/shards.md", "exec"), {"__name__": "snippet"})
    assert said in capsys.readouterr().out
