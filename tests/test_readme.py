"""What README shows works: its recipe loads, its commands exist, its Python runs, its tests are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from schemas.config import load_recipe
from tests import tiny_run
from vtok.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    """The verbs of every `vtok` command in a shell block, without what follows the first path or option."""
    found = []
    for line in "\n".join(blocks("sh")).splitlines():
        for part in line.split("#")[0].split("&&"):
            words = shlex.split(part)
            if words[:1] == ["vtok"]:
                found.append([word for word in words[1:] if re.fullmatch(r"[a-z]+", word)])
    return found


@pytest.mark.parametrize("verbs", commands(), ids=" ".join)
def test_commands_exist(verbs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verbs, "--help"]) == 0
    assert " ".join(verbs) in capsys.readouterr().out


def test_recipe_loads_and_is_short(tmp_path: Path) -> None:
    (block,) = blocks("yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(block)
    assert len(block.splitlines()) <= 10
    recipe = load_recipe(path)
    assert yaml.safe_load(block)["out"] == recipe.out


def test_python_runs(tmp_path: Path) -> None:
    (block,) = blocks("python")
    tiny_run.make_run(tmp_path / "run")
    names: dict[str, object] = {}
    exec(block.replace("runs/demo", str(tmp_path / "run")), names)
    assert names["codes"].shape == names["store"].grid  # type: ignore[attr-defined]


def test_the_tests_it_names_are_there() -> None:
    named = re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py|tests/[\w/]+/)`", README)
    assert len(named) >= 8
    for name in named:
        places = [ROOT / name, ROOT / "tests" / "pipelines" / name]
        assert any(place.exists() for place in places), name


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert f"\n{target}:" in makefile
