"""Two training processes take the steps of one on the same batches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from schemas.card import with_checksum
from schemas.config import load_recipe
from tests.pipelines.making import REPOSITORY, vtok
from tests.trainers.making import assert_same_steps, losses, prepare, weights
from trainers.tokenizer import train_tokenizer
from vtok import artefacts
from vtok.hardware import find_compiler

pytestmark = [
    pytest.mark.soak,
    pytest.mark.deepspeed,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler: DeepSpeed's op cannot be built"),
]
STEPS = 8


def test_ctrl_c_saves_on_both_ranks_and_one_process_goes_on(inputs: Path, tmp_path: Path) -> None:
    """The whole command line: two ranks stop after the same step; then one process goes on with their checkpoint."""
    path = tmp_path / "run" / "recipe.yaml"
    options = {"engine": "deepspeed", "zero_stage": 1, "validate_every": 10**6, "checkpoint_every": 10**6}
    folder = prepare(inputs, tmp_path / "run", "prior", steps=10**5, **options).folder("prior")
    command = [sys.executable, "-m", "vtok", "train", "prior", str(path), "--gpus", "2"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log, end = folder / "metrics.jsonl", time.monotonic() + 1200
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    (saved,) = (folder / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step-"))
    assert max(losses(folder)) == step
    tree = yaml.safe_load(path.read_text())
    for name in ("_plan.json", "checkpoints"):  # the same run, but for its length
        assert (folder / name).exists()
    plan = json.loads((folder / "_plan.json").read_text())
    del plan["sha256"]  # of its fields, one of which changes
    plan["config"]["train"]["steps"] = tree["prior"]["train"]["steps"] = step + 3
    (folder / "_plan.json").write_text(json.dumps(with_checksum(plan)))
    state = json.loads((saved / "state.json").read_text())
    state["plan"] = artefacts.load_plan(folder).fingerprint
    (saved / "state.json").write_text(json.dumps(with_checksum(state)))
    path.write_text(yaml.safe_dump(tree))
    done = vtok("train", "prior", path, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "the checkpoint was of ZeRO stage 1 on 2 ranks; it was shared out anew for ZeRO stage 1 on 1" in done.stdout
    assert max(losses(folder)) == step + 3


MODELS = {
    "vqgan": {"kind": "vqgan", "n_hiddens": 4, "n_codes": 60},
    "vqvae": {"kind": "vqvae", "n_hiddens": 8, "n_res_layers": 1, "n_codes": 40},
}
"""More codes than are used, so that some are restarted. With 60 the VQ-VAE comes so near to a tie that one process,
too, takes other steps once its first weights are changed by 1e-7."""


def _recipe(inputs: Path, out: Path, kind: str, engine: str, stage: int) -> Path:
    """A recipe that validates halfway."""
    options = {"zero_stage": stage, "checkpoint_every": STEPS, "validate_every": STEPS // 2}
    prepare(inputs, out, "tokenizer", steps=STEPS, engine=engine, **options)
    path = out / "recipe.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["tokenizer"]["model"] = {**MODELS[kind], "embedding_dim": 4, "downsample": [2, 4, 4]}
    for part in ("generator", "discriminator"):
        tree["tokenizer"]["train"][part]["lr"] = 1e-4
    joining = {"discriminator_start": 3, "discriminator_warmup": 1}
    tree["tokenizer"]["loss"] |= {**joining, "gan_balance": "adaptive" if stage < 3 else "fixed"}
    if kind == "vqvae":
        del tree["tokenizer"]["loss"]
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("kind", list(MODELS))
def test_two_processes_take_the_steps_of_one(inputs: Path, tmp_path: Path, kind: str, stage: int) -> None:
    path = _recipe(inputs, tmp_path / "two", kind, "deepspeed", stage)
    done = vtok("train", "tokenizer", path, "--gpus", "2", timeout=1800)
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    train_tokenizer(load_recipe(_recipe(inputs, tmp_path / "one", kind, "plain", stage)))
    torch.set_num_threads(threads)
    rows = losses(tmp_path / "one" / "tokenizer")
    assert "val_psnr" in rows[STEPS // 2]
    assert kind == "vqvae" or all("adversarial" in rows[step] for step in range(4, STEPS + 1))
    assert kind == "vqvae" or stage == 3 or rows[STEPS]["gan_lambda"] > 0
    restarted = weights(tmp_path / "one" / "tokenizer")["codebook.N"] < 1
    assert restarted.any(), "codes must have been restarted"
    assert_same_steps(tmp_path / "two", tmp_path / "one")
