"""The Python of schemas/token_store_queries.md runs as it stands (Ray Data's: tests/pipelines/test_token_origin.py)."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from tests.tokens.stores import some_rows, store_of
from vtok.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "schemas" / "token_store_queries.md").read_text()
SNIPPETS = {
    f"{number}-{title.splitlines()[0]}": code
    for number, (title, code) in enumerate(
        (section, code)
        for section in PAGE.split("\n## ")[1:]
        for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    )
}
LIBRARIES = {"duckdb": "DuckDB", "polars": "polars", "datasets": "Hugging Face datasets"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    store_of(folder / "runs" / "demo" / "tokens", some_rows())
    return folder


@pytest.mark.parametrize("name", [name for name in SNIPPETS if "Ray" not in name])
def test_it_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = SNIPPETS[name]
    for module, library in LIBRARIES.items():
        if re.search(rf"^(import|from) {module}\b", code, re.MULTILINE) and importlib.util.find_spec(module) is None:
            pytest.skip(f"{library} is not installed")
    monkeypatch.chdir(folder)
    exec(compile(code, name, "exec"), {"__name__": "snippet"})
    said = capsys.readouterr().out
    wanted = {
        "vtok": "clip-0003 c0 (2, 2, 3) uint16",
        "pyarrow": "15 rows; 180 codes",
        "polars": "180",
        "Hugging Face datasets": "{'train': 180, 'test': 36} codes",
        "Statistics": "'rows': 18",
    }
    for title, text in wanted.items():
        if name.endswith(f"-{title}") and "read_metadata" not in code:
            assert text in said


def test_its_commands_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb", reason="DuckDB is not installed")
    monkeypatch.chdir(folder)
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines():
        assert main(shlex.split(line)[1:]) == 0
    assert (folder / "stats.html").stat().st_size > 10_000 and (folder / "stats.parquet").exists()


def test_every_library_has_a_snippet() -> None:
    assert len(SNIPPETS) == 9
    for import_line in ("import pyarrow", "import duckdb", "import polars", "import read_tokens", "from datasets"):
        assert any(import_line in code for code in SNIPPETS.values())
