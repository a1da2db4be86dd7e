"""The GPU benches: what they import, that they come to their end, and that one section's failure stays its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.gpu import Bench, Section, main, table

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {"torch", "numpy", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec"}
"""What a GPU machine has: torch, and what torch needs."""
NEEDED |= {"filelock", "setuptools", "torchgen", "functorch", "triton", "tqdm"}

BLOCKED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
there = {NEEDED!r} | {{"vtok", "schemas", "trainers", "tests"}} | sys.stdlib_module_names

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        known = name.split(".")[0] in there or name.startswith("_sysconfigdata")
        return self.finder.find_spec(name, path, target) if known else None

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_nothing_but_torch_is_needed() -> None:
    code = (
        "from tests.bench import gpu_prior, gpu_tokenizer\n"
        "from vtok.priors.build import build_prior, Facts\n"
        "config = gpu_prior.MebtConfig(n_layer=3, n_head=2, n_embd=8, latents=2)\n"
        "prior = build_prior(config, Facts(5, (2, 2, 2))).eval()\n"
        "print(prior.config.modes(), prior.config.schedule, config.model_copy(update={'n_layer': 4}).n_layer)\n"
        "try:\n    gpu_prior.GptConfig(layers=3)\nexcept TypeError as error:\n    print(error)\n"
    )
    done = _run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['latent_enc', 'latent_self', 'latent_dec'] linear 4",
        "GptConfig has no layers",
    ]


@pytest.mark.soak
@pytest.mark.parametrize("bench", ["gpu_prior", "gpu_tokenizer"])
def test_a_tiny_bench_comes_to_its_end_without_other_packages(bench: str, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    arguments = ("--device=cpu", "--tiny", f"--out={out}")
    done = _run(f"import runpy\nrunpy.run_path('tests/bench/{bench}.py', run_name='__main__')", *arguments)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    for name, section in figures["sections"].items():
        assert section["rows"] and section["error"] is None, name


@pytest.mark.soak
def test_a_section_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, "tests/bench/gpu_prior.py", "--device=cpu", "--tiny", "--isolate", f"--out={out}"]
    subprocess.run([*command, "--only=cross_entropy"], cwd=ROOT, check=True)
    figures = json.loads(out.read_text())["sections"]
    assert list(figures) == ["cross_entropy"]
    assert [row["name"] for row in figures["cross_entropy"]["rows"]] == ["seed, published", "seed, helped", "ours"]


def _broken(bench: Bench) -> None:
    bench.report("before", ms=1.0)
    raise RuntimeError("no such luck")


def _checked(bench: Bench) -> None:
    bench.check("error", 2.0, 1.0)


def test_a_failing_section_leaves_the_others_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--device=cpu", "--tiny", f"--out={out}"])
    sections = [
        Section("broken", 60, _broken),
        Section("checked", 60, _checked),
        Section("sound", 60, lambda bench: bench.report("after", ms=bench.milliseconds(int, rounds=3))),
    ]
    with pytest.raises(SystemExit, match=r"failed: broken, checked$"):
        main("bench", sections)
    found = json.loads(out.read_text())["sections"]
    assert found["broken"]["error"] == "RuntimeError: no such luck"
    assert found["broken"]["rows"] == [{"name": "before", "ms": 1.0}]
    assert [row["name"] for row in found["sound"]["rows"]] == ["after"]
    assert "error: RuntimeError: no such luck" in capsys.readouterr().out


def test_a_bench_without_time_left_begins_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--device=cpu", "--seconds=5"])
    with pytest.raises(SystemExit, match="failed: sound"):
        main("bench", [Section("sound", 60, _broken)])
    assert "error: no time was left" in capsys.readouterr().out


def test_batches_are_halved_until_they_fit(tmp_path: Path) -> None:
    import torch

    options = argparse.Namespace(device="cpu", tiny=True, compile=False)
    tried: list[int] = []

    def make(batch: int) -> object:
        tried.append(batch)
        if batch > 4:
            raise torch.OutOfMemoryError
        return lambda: batch

    batch, work = Bench(options, tmp_path / "rows").largest(16, make)  # type: ignore[arg-type]
    assert (batch, work(), tried) == (4, 4, [16, 8, 4])


def test_a_contender_that_failed_holds_no_memory(tmp_path: Path) -> None:
    import gc
    import weakref

    class Model:
        calls = 0

        def __init__(self, dies_after: int) -> None:
            self.dies_after = dies_after

        def __call__(self) -> None:
            self.calls += 1
            if self.calls > self.dies_after:
                raise torch.OutOfMemoryError if self.dies_after == 0 else RuntimeError

    import torch

    alive: list[weakref.ref[Model]] = []

    def make(dies_after: dict[int, int]) -> Any:
        def of_batch(batch: int) -> Model:
            gc.collect()
            assert not [model for model in alive if model() is not None], "the one before is still held"
            model = Model(dies_after[batch])
            alive.append(weakref.ref(model))
            return model

        return of_batch

    options = argparse.Namespace(device="cpu", tiny=True, compile=False)
    bench = Bench(options, tmp_path / "rows")
    bench.race({"breaks": make({4: 0, 2: 2}), "sound": make({4: 10**9})}, 4, unit="tok/s")
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert len(alive) == 3
    assert [row.get("batch") for row in rows] == [None, 4] and rows[0]["error"].startswith("RuntimeError")


def test_time_is_shared_out_so_that_no_section_is_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, float] = {}

    def apart(section: Section, options: Any, path: Path, seconds: float) -> None:
        given[section.name] = seconds

    monkeypatch.setattr("tests.bench.gpu._apart", apart)
    sections = [Section(name, share, _checked) for name, share in (("a", 30), ("b", 60), ("c", 30))]
    for total in (1202, 62):
        monkeypatch.setattr(sys, "argv", ["bench", "--device=cpu", "--isolate", f"--seconds={total}"])
        main("bench", sections)
        # None took any time: what it left goes to those after it.
        assert given == pytest.approx({"a": (total - 2) / 4, "b": (total - 2) * 2 / 3, "c": total - 2}, abs=10)


def test_tables_have_a_column_for_every_value() -> None:
    assert table([{"name": "a", "ms": 1.23456}, {"name": "b", "tok/s": 7}]).splitlines() == [
        "| name | ms | tok/s |",
        "| --- | --- | --- |",
        "| a | 1.235 |  |",
        "| b |  | 7 |",
    ]
