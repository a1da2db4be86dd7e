"""Two trainings never write into one folder, whoever started them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import UsageError
from tests.pipelines.making import REPOSITORY, digests, vtok
from tests.trainers.making import prepare
from tests.trainers.tiny_task import PLAN
from tests.waiting import PATIENCE, wait_until
from trainers.alone import alone
from trainers.prior import train_prior
from trainers.tokenizer import train_tokenizer
from vtok import artefacts
from vtok.hardware import find_compiler
from vtok.locks import exclusive

TRAIN = {"tokenizer": train_tokenizer, "prior": train_prior}


@pytest.mark.parametrize("name", list(TRAIN))
def test_a_second_training_is_refused_and_touches_nothing(inputs: Path, tmp_path: Path, name: str) -> None:
    recipe = prepare(inputs, tmp_path / "run", name)
    folder = recipe.folder(name)
    with exclusive(folder):
        (folder / ".vtok-tmp-of-the-first").touch()
        before = digests(folder)
        with pytest.raises(UsageError, match="another job is at work in this folder") as caught:
            TRAIN[name](recipe)
        assert digests(folder) == before
    assert caught.value.at == str(folder)


def test_the_folder_is_held_from_the_plan_to_the_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "prior"

    def begin(place: Path, plan: object) -> None:
        with pytest.raises(UsageError, match="another job"), exclusive(place):
            pass

    with monkeypatch.context() as patched:
        patched.setattr(artefacts, "begin", begin)
        with alone(folder, PLAN, "plain") as card:
            assert card is None
            with pytest.raises(UsageError, match="another job"), exclusive(folder):
                pass
    with exclusive(folder):
        pass
    (folder / "something").touch()
    with pytest.raises(UsageError, match="holds no vtok artefact"), alone(folder, PLAN, "plain"):
        pass


@pytest.mark.soak
@pytest.mark.deepspeed
@pytest.mark.timeout(1800)
@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler: DeepSpeed's op cannot be built")
def test_two_ranks_are_refused_beside_others_and_end_with_their_launcher(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = prepare(
        inputs, out, "prior", engine="deepspeed", steps=100_000, checkpoint_every=5, validate_every=100_000
    )
    folder = recipe.folder("prior")
    arguments = ("train", "prior", str(out / "recipe.yaml"), "--gpus", "2")
    command = [sys.executable, "-m", "vtok", *arguments]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True) as first:
        wait_until(lambda: len(list(folder.glob("checkpoints/step-*"))) > 0 or first.poll() is not None, 600)
        second = vtok(*arguments, timeout=800)
        assert second.returncode == 2, second.stderr
        assert "another job is at work in this folder" in second.stderr
        assert "do not end by themselves" not in second.stderr and "Traceback" not in second.stderr
        assert first.poll() is None
        first.kill()
        first.communicate(timeout=PATIENCE)  # the pipe's end: no rank is left
    assert first.returncode == -signal.SIGKILL
    with exclusive(folder):
        assert artefacts.load_plan(folder)
