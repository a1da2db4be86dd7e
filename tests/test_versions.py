"""The ranges that doctor knows are those of pyproject.toml and constraints.txt, and versions are held against them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from vtok import doctor, versions
from vtok.doctor import FAIL, OK, WARN
from vtok.versions import RANGES, Range, judge, parsed

_ROOT = Path(__file__).resolve().parents[1]


def required() -> dict[str, tuple[str, str]]:
    """Least and first forbidden version of every dependency."""
    found = {}
    for line in tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        name, bounds = re.fullmatch(r"([\w-]+)(.*)", line).groups()  # type: ignore[union-attr]
        limits = dict(re.fullmatch(r"(>=|<)(.*)", bound).groups() for bound in bounds.split(","))  # type: ignore[union-attr]
        found[name] = limits[">="], limits.get("<", "")
    return found


def test_ranges_are_those_of_the_project() -> None:
    assert {name: (known.least, known.below) for name, known in RANGES.items()} == required()


def test_the_pinned_versions_are_tested_ones() -> None:
    lines = (_ROOT / "constraints.txt").read_text().splitlines()
    pins = {name.lower(): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}
    for name, known in RANGES.items():
        judged = judge(pins[name], known)
        assert judged.usable and judged.tested, name
        assert name == "av" or parsed(pins[name]) == parsed(known.newest), f"{name}: what is pinned is what is tested"


def test_pickled_code_out_of_schemas_and_tars_is_kept_out() -> None:
    assert parsed(RANGES["ray"].least) >= (2, 56)


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("14.1.0", FAIL),
        ("14.2", OK),
        ("18.1.0+local", OK),
        ("19.0.2", OK),
        ("19.1", WARN),
        ("20.0.0", FAIL),
        ("9", FAIL),
    ],
)
def test_levels(version: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "RANGES", {"av": Range("14.2", "20", "19.0.2")})
    monkeypatch.setattr(doctor, "installed", lambda package: version if package == "av" else "")
    (found,) = doctor._version_findings()
    assert (found.name, found.level) == ("av", level)
    assert version in found.detail and "14.2 to 19.0.2" in found.detail
    assert bool(found.hint) == (level != OK)


def test_what_is_missing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda package: "")
    assert {finding.level for finding in doctor._version_findings()} == {FAIL}


@pytest.mark.parametrize(("version", "warned"), [("2026.10.18", True), ("2026.10.23", False), ("2027.1.2", False)])
def test_certificates_of_a_compromised_authority(version: str, warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda name: version if name == "certifi" else versions.installed(name))
    assert any(f.name == "certifi" and f.level == WARN for f in doctor._version_findings()) == warned


def test_versions_as_programs_say_them() -> None:
    assert parsed("n9.0.2-12-g0123abc-20260930") == (9, 0, 2)
    assert parsed("5.1.9-0+deb12u1") == (5, 1, 9)
    assert parsed("2.13.0+cpu") == (2, 13, 0)
    assert parsed("git") == ()
