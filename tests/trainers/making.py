"""The smallest trainings: shards and tokens of `tests.tiny_run`, a handful of steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from schemas.config import Recipe, load_recipe
from tests import tiny_run
from tests.pipelines.making import make_tokenizer
from vtok.seeds import generator
from vtok.tokenizers.load import build_tokenizer
from vtok.tokens.store import TokenStore

OPTIM = {"lr": 1e-3, "betas": [0.5, 0.9], "optimizer": "adam", "weight_decay": 0.0}


def make_inputs(folder: Path) -> Path:
    """A run with clips, shards, a tokenizer and tokens (no training, no Ray)."""
    recipe = tiny_run.make_run(folder, ("clips", "shards"))
    make_tokenizer(recipe)  # its codes differ from clip to clip, so that the order of the batches shows in the losses
    tiny_run.make_run(folder, ("tokens",))
    assert len({row.tobytes() for row in TokenStore(folder / "tokens").codes("train")}) > 5
    return folder


def settings(out: Path, *, steps: int, engine: str, **train: Any) -> dict[str, Any]:
    """A recipe's tree; discriminators join at step 5. `train` changes both trainings."""
    both = {
        "engine": engine,
        "steps": steps,
        "batch_size": 4,
        "threads": 1,
        "log_every": 1,
        "validate_every": 10,
        "validate_clips": 4,
        "checkpoint_every": 4,
        **train,
    }
    tree = tiny_run.recipe(out).plain()
    tree["tokenizer"] |= {
        "discriminators": {"channels": 4, "layers": 1},
        "loss": {"discriminator_start": 5, "gan_feature_weight": 1.0},
        "train": {**both, "generator": OPTIM, "discriminator": OPTIM, "preview_clips": 1},
    }
    tree["prior"]["train"] = {**both, "optim": {"lr": 1e-2, "warmup_steps": 3, "schedule": "cosine"}}
    return tree


def prepare(inputs: Path, out: Path, task: str, *, steps: int = 10, engine: str = "plain", **train: Any) -> Recipe:
    """A run of its own at `out` with the inputs of one training, and its recipe.yaml."""
    for stage in ("shards",) if task == "tokenizer" else ("tokenizer", "tokens"):
        shutil.copytree(inputs / stage, out / stage)
    tree = settings(out, steps=steps, engine=engine, **train)
    (out / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return Recipe.model_validate(tree)


def losses(folder: Path) -> dict[int, dict[str, float]]:
    """Every number that a training logged by step, but for clocks, memory and receipts, which tell of one process."""
    clocks = {"rate", "mem_gb", "data_fraction", "eta", "seconds", "unit", "receipts"}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len({row["step"] for row in rows}) == len(rows), "a step is logged once"
    return {row["step"]: {key: value for key, value in row.items() if key not in clocks} for row in rows}


def weights(folder: Path) -> dict[str, Any]:
    """The exported tensors."""
    return load_file(next(folder.glob("*.safetensors")))


def same_weights(a: Path, b: Path) -> bool:
    """Whether two exports are equal bit by bit."""
    return next(a.glob("*.safetensors")).read_bytes() == next(b.glob("*.safetensors")).read_bytes()


def assert_same_steps(run: Path, other: Path) -> None:
    """Two trainings of one tokenizer but for the order of sums: losses and gradient norms of every step and what was
    validated, and the way that every weight went.

    Left out are biases of convolutions and attention: before a batch norm their gradient is nothing but rounding, and
    Adam makes whole steps of it.
    """
    ours, theirs = losses(run / "tokenizer"), losses(other / "tokenizer")
    assert sorted(ours) == sorted(theirs) and len(ours) > 1
    for step, row in theirs.items():
        assert ours[step].keys() == row.keys()
        for name, value in row.items():
            relative = 2e-3 if name == "gnorm" else 1e-4
            assert ours[step][name] == pytest.approx(value, rel=relative, abs=1e-4), f"{name} at step {step}"
    recipe = load_recipe(run / "recipe.yaml")
    model = recipe.tokenizer.model
    start = build_tokenizer(model, generator(recipe.seed, model.kind)).state_dict()
    found, wanted = weights(run / "tokenizer"), weights(other / "tokenizer")
    assert found.keys() == wanted.keys() == start.keys()
    for name, value in wanted.items():
        if not torch.is_floating_point(value):
            assert torch.equal(found[name], value), name
        elif not name.endswith(("conv.bias", "convt.bias", "fc.bias")):
            way, apart = (value - start[name]).norm(), (found[name] - value).norm()
            assert float(apart) <= 0.02 * float(way), f"{name}: {float(apart):.1e} apart after {float(way):.1e}"
