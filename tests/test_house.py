"""The house rules that a machine can check: who imports whom, one version, no leftovers of this and that."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from schemas.version import CODE_VERSION

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("schemas", "vtok", "pipelines", "trainers")
FORBIDDEN = {
    "schemas": {"torch", "ray", "deepspeed", "vtok", "pipelines", "trainers", "numpy"},
    "vtok": {"ray", "deepspeed", "pipelines", "trainers"},
    "pipelines": {"trainers", "deepspeed", "vtok.cli"},
    "trainers": {"pipelines", "ray", "vtok.cli"},
}
CLI_MAY = {"pipelines", "trainers"}
"""What vtok/cli may import all the same, inside a function."""


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether the import is inside a function) for every import of a file."""
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            typing_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            deeper = inside or function or typing_only
            if isinstance(child, ast.Import):
                found.extend((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                found.append((child.module or "", inside))
                found.extend((f"{child.module}.{alias.name}", inside) for alias in child.names)
            walk(child, deeper)

    walk(ast.parse(path.read_text()), False)
    return found


def violations(room: str, path: Path, source: list[tuple[str, bool]]) -> list[str]:
    cli = path.is_relative_to(ROOT / "vtok" / "cli")
    bad = []
    for module, inside in source:
        for forbidden in FORBIDDEN[room]:
            if module != forbidden and not module.startswith(f"{forbidden}."):
                continue
            if cli and inside and forbidden in CLI_MAY:
                continue
            bad.append(f"{path.relative_to(ROOT)} imports {module}")
    return bad


@pytest.mark.parametrize("room", ROOMS)
def test_import_rule(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    assert [v for path in files for v in violations(room, path, imports(path))] == []


def test_import_rule_sees_violations() -> None:
    path = ROOT / "vtok" / "anything.py"
    assert violations("vtok", path, [("ray.data", True)])
    assert violations("vtok", path, [("trainers.loop", True)])
    assert violations("schemas", ROOT / "schemas" / "x.py", [("vtok.files", False)])
    assert not violations("vtok", ROOT / "vtok" / "cli" / "x.py", [("trainers.loop", True)])
    assert violations("vtok", ROOT / "vtok" / "cli" / "x.py", [("trainers.loop", False)])


def test_only_the_given_rooms() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {name.split("/")[0] for name in tracked if "/" in name}
    assert folders - {".ci"} == {*ROOMS, "tests", "findings"}


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == CODE_VERSION


def test_import_vtok_is_light() -> None:
    code = "import sys, vtok; print([m for m in ('torch', 'ray', 'deepspeed', 'pyarrow', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom vtok.cli import main\nmain(['--help'])\n"
        "print([m for m in ('torch', 'ray', 'deepspeed', 'pyarrow', 'numpy', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
