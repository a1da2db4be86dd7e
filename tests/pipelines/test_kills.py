"""kill -9 and Ctrl-C anywhere: the same command again makes the bytes of an undisturbed run.

Points in workers (`<kind>:<part>:...`) kill an actor, which the running command replaces; points in the driver kill the
command, which is run again. Three points a stage here; all of them, and random ones, in the soak.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.card import CARD_NAME, INDEX_NAME
from schemas.config import Recipe
from tests.pipelines.making import REPOSITORY, digests, vtok, write_recipe
from vtok.cli import main

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
COMMANDS = {"clips": ("data", "ingest"), "shards": ("data", "shard"), "tokens": ("tokenize",)}
PARTS = {"clips": "part-00000.parquet", "shards": "train-00001.tar", "tokens": "train-00001.parquet"}
INPUTS = {"clips": (), "shards": ("clips",), "tokens": ("shards", "tokenizer")}
MOMENTS = ("temp_written", "before_rename", "after_rename")
CODES = (0, 3)


def worker_points(kind: str) -> list[str]:
    return [f"{kind}:{PARTS[kind]}:{moment}" for moment in MOMENTS]


def driver_points(kind: str) -> list[str]:
    places = [f"{kind}:{INDEX_NAME}", f"{kind}:card"]
    return [f"{place}:{moment}" for place in places for moment in MOMENTS] + [f"{kind}:before_card"]


SAMPLE = [
    "clips:part-00000.parquet:before_rename",
    "shards:train-00001.tar:temp_written",
    "shards:before_card",
    "tokens:train-00001.parquet:after_rename",
]
EVERY = [point for kind in COMMANDS for point in worker_points(kind) + driver_points(kind)]


def prepare(made: Recipe, folder: Path, kind: str) -> tuple[Path, Path]:
    """A run with the inputs of a stage: its recipe and the stage's folder."""
    out = folder / "run"
    for stage in INPUTS[kind]:
        shutil.copytree(made.folder(stage), out / stage)
    return write_recipe(folder / "r.yaml", Path(made.data.root), out, cluster__workers=2), out / kind


def kill_and_rerun(made: Recipe, folder: Path, point: str) -> None:
    kind = point.split(":")[0]
    recipe, artefact = prepare(made, folder, kind)
    mark = folder / "mark"
    first = vtok(*COMMANDS[kind], recipe, VTOK_CRASH_AT=point, VTOK_CRASH_MARK=str(mark))
    assert mark.exists(), f"{point} was not reached: {first.stderr}"
    if point in driver_points(kind):
        assert first.returncode == -signal.SIGKILL
        assert (artefact / CARD_NAME).exists() == point.endswith("card:after_rename")
        assert again(kind, recipe) in CODES
    else:
        assert "worker lost while making" in first.stderr
        assert first.returncode in CODES, first.stderr
    assert digests(artefact) == digests(made.folder(kind))


def again(kind: str, recipe: Path) -> int:
    """The same command, with another number of workers, in this process, whose Ray is there; its exit code."""
    return main([*COMMANDS[kind], str(recipe), "cluster.workers=1"])


@pytest.mark.parametrize("point", SAMPLE)
def test_killed_at_a_point(made: Recipe, tmp_path: Path, point: str) -> None:
    kill_and_rerun(made, tmp_path, point)


@pytest.mark.soak
@pytest.mark.parametrize("point", EVERY)
def test_killed_at_every_point(made: Recipe, tmp_path: Path, point: str) -> None:
    kill_and_rerun(made, tmp_path, point)


DIRECT = ("tokens.source=clips", "tokens.cond_frames=1")
"""Tokens from the videos themselves."""


@pytest.fixture(scope="module")
def undisturbed(made: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A token store made with `DIRECT`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe, artefact = prepare(made, folder, "tokens")
    shutil.copytree(made.folder("clips"), folder / "run" / "clips")
    assert vtok("tokenize", recipe, *DIRECT).returncode in CODES
    return digests(artefact)


@pytest.mark.soak
@pytest.mark.parametrize("point", worker_points("tokens") + driver_points("tokens"))
def test_killed_while_videos_become_tokens(
    made: Recipe, undisturbed: dict[str, str], tmp_path: Path, point: str
) -> None:
    recipe, artefact = prepare(made, tmp_path, "tokens")
    shutil.copytree(made.folder("clips"), tmp_path / "run" / "clips")
    mark = tmp_path / "mark"
    first = vtok("tokenize", recipe, *DIRECT, VTOK_CRASH_AT=point, VTOK_CRASH_MARK=str(mark))
    assert mark.exists(), f"{point} was not reached: {first.stderr}"
    if point in driver_points("tokens"):
        assert first.returncode == -signal.SIGKILL
        first = vtok("tokenize", recipe, *DIRECT, "cluster.workers=3")
    assert first.returncode in CODES, first.stderr
    assert digests(artefact) == undisturbed


@pytest.mark.soak
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_a_store_is_taken_over(
    made: Recipe, undisturbed: dict[str, str], tmp_path: Path, moment: str
) -> None:
    """The store holds the tokens of the shards; then its recipe asks for those of the videos."""
    recipe, artefact = prepare(made, tmp_path, "tokens")
    for kind in ("clips", "tokens"):
        shutil.copytree(made.folder(kind), tmp_path / "run" / kind)
    mark, point = tmp_path / "mark", f"tokens:replan:{moment}"
    first = vtok("tokenize", recipe, *DIRECT, VTOK_CRASH_AT=point, VTOK_CRASH_MARK=str(mark))
    assert mark.exists() and first.returncode == -signal.SIGKILL, first.stderr
    assert not (artefact / CARD_NAME).exists()
    second = vtok("tokenize", recipe, *DIRECT)
    assert second.returncode in CODES, second.stderr
    assert digests(artefact) == undisturbed


@pytest.mark.soak
def test_killed_when_the_workers_have_verified_what_a_take_over_needs(made: Recipe, tmp_path: Path) -> None:
    """Every part is to be made again, from the shards: the workers read them before the old seal goes."""
    recipe, artefact = prepare(made, tmp_path, "tokens")
    shutil.copytree(made.folder("tokens"), artefact)
    mark, option = tmp_path / "mark", "tokens.cond_frames=1"
    first = vtok("tokenize", recipe, option, VTOK_CRASH_AT="tokens:replan:before_rename", VTOK_CRASH_MARK=str(mark))
    assert mark.exists() and first.returncode == -signal.SIGKILL, first.stderr
    assert " inputs verified" in first.stderr
    assert not (artefact / CARD_NAME).exists()
    assert vtok("tokenize", recipe, option).returncode in CODES
    found = digests(artefact)
    shutil.rmtree(artefact)
    assert vtok("tokenize", recipe, option, "cluster.workers=3").returncode in CODES
    assert digests(artefact) == found


def start(kind: str, recipe: Path, **environment: str) -> subprocess.Popen[str]:
    """The command in a session of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "vtok", *COMMANDS[kind], str(recipe)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "VTOK_TEST_RUN": str(recipe.parent), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def marked(recipe: Path) -> dict[int, str]:
    """Command lines of the processes that carry the mark of a run in their environment, by process number."""
    mark = os.fsencode(f"VTOK_TEST_RUN={recipe.parent}")
    found = {}
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and mark in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
    return {number: line for number, line in found.items() if line.strip()}


def survivors(recipe: Path) -> list[str]:
    return list(marked(recipe).values())


def shared_memory() -> set[str]:
    """Ray's files in /dev/shm that no process uses; what other Rays have is in use, and goes with them."""
    found = {path.name for path in Path("/dev/shm").iterdir() if "ray" in path.name or "plasma" in path.name}
    for process in Path("/proc").iterdir() if found else ():
        with contextlib.suppress(OSError):
            maps = (process / "maps").read_text() if process.name.isdecimal() else ""
            found = {name for name in found if f"/dev/shm/{name}" not in maps}
    return found


def all_gone(recipe: Path, patience: float = 5.0) -> list[str]:
    """What is left of a run's processes some seconds after the command's end."""
    end = time.monotonic() + patience
    while (left := survivors(recipe)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def no_more_shared_memory_than(before: set[str], patience: float = 60.0) -> bool:
    """Whether Ray's files in /dev/shm that nobody uses are soon no others than `before`."""
    end = time.monotonic() + patience
    while not shared_memory() <= before:
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def go_on(recipe: Path) -> None:
    """Wakes the processes of a run that stand still."""
    for pid in marked(recipe):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def wait_for_parts(process: subprocess.Popen[str], artefact: Path, count: int) -> None:
    """Returns when the job has written that many parts."""
    end = time.monotonic() + 300
    while len([p for p in artefact.glob("*-*.*") if not p.name.startswith((".", "_"))]) < count:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]], ids=["ctrl-c", "preempted"])
def test_a_stopped_job_leaves_nothing_behind_and_goes_on(
    made: Recipe, tmp_path: Path, signals: list[signal.Signals]
) -> None:
    recipe, artefact = prepare(made, tmp_path, "shards")
    before = shared_memory()
    mark, point = tmp_path / "mark", f"shards:{PARTS['shards']}:temp_written"
    held = {"VTOK_CRASH_AT": point, "VTOK_CRASH_MARK": str(mark), "VTOK_CRASH_SIGNAL": str(int(signal.SIGSTOP))}
    process = start("shards", recipe, **held)  # one worker stands still, so that the job cannot end too early
    wait_for_parts(process, artefact, 1)
    while not mark.exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert len(survivors(recipe)) > 2, "the mark must find Ray's processes, or the test proves nothing"
    for number in signals:
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)  # a terminal tells the whole group
        time.sleep(0.2)
    go_on(recipe)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert all_gone(recipe) == []
    assert no_more_shared_memory_than(before)
    assert not (artefact / CARD_NAME).exists()
    assert again("shards", recipe) in CODES
    assert digests(artefact) == digests(made.folder("shards"))


def test_a_killed_driver_leaves_no_process(made: Recipe, tmp_path: Path) -> None:
    recipe, artefact = prepare(made, tmp_path, "shards")
    process = start("shards", recipe)
    wait_for_parts(process, artefact, 1)
    process.kill()
    process.communicate(timeout=300)
    assert all_gone(recipe) == []
    assert again("shards", recipe) in CODES
    assert digests(artefact) == digests(made.folder("shards"))


ROUNDS = 17
PATIENCE = 1800.0  # seconds for a command; on a busy machine Ray alone can take minutes to start
TARGETS = {"worker": "ray::_Actor", "decoder": "vtok.video.child", "node": "raylet/raylet"}


def strike(process: subprocess.Popen[str], recipe: Path, draw: random.Random) -> None:
    """Ends something: the driver, by SIGKILL, SIGINT or SIGTERM, or one of its helpers, by SIGKILL."""
    target = draw.choice(["driver", *TARGETS])
    if target == "driver":
        os.killpg(process.pid, draw.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
        return
    found = [number for number, line in marked(recipe).items() if TARGETS[target] in line]
    if found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(sorted(found)), signal.SIGKILL)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("kind", list(COMMANDS))
def test_killed_again_and_again_at_random_moments(made: Recipe, tmp_path: Path, kind: str) -> None:
    """51 kills over the three stages: driver, workers, decoding processes and node, some time after the start."""
    recipe, artefact = prepare(made, tmp_path, kind)
    draw = random.Random(f"kills {kind}")
    for _ in range(ROUNDS):
        if (artefact / CARD_NAME).exists():
            shutil.rmtree(artefact)
        process = start(kind, recipe)
        try:
            process.wait(timeout=draw.uniform(1, 14))
        except subprocess.TimeoutExpired:
            strike(process, recipe, draw)
        process.communicate(timeout=PATIENCE)
        assert all_gone(recipe) == []
    done = vtok(*COMMANDS[kind], recipe, timeout=PATIENCE)
    assert done.returncode in CODES, done.stderr
    assert digests(artefact) == digests(made.folder(kind))
