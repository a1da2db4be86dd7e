"""Jobs: planned units, lost workers, errors that travel, and resuming."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
import ray

from pipelines.runtime import Job, Unit, ray_session, run_job
from schemas.card import Card
from schemas.config.run import ClusterConfig
from schemas.errors import ConfigError, IntegrityError, UsageError, VtokError
from tests.pipelines import workers
from tests.pipelines.making import digests
from vtok import artefacts, console
from vtok.locks import exclusive
from vtok.parquet import recover_part

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_running")]
NAMES = [f"{letter}.parquet" for letter in "abcd"]


def four_parts(folder: Path, worker: type) -> Job:
    plan = artefacts.make_plan("tokens", {}, {}, NAMES)
    return Job(
        folder,
        plan,
        [Unit(name, 1, number) for number, name in enumerate(NAMES)],
        worker=worker,
        init=(str(folder), plan.fingerprint, str(folder.parent / "notes")),
        recover=recover_part,
        finish=lambda parts: ({"clips": sum(part.rows for part in parts)}, {}),
        title="test",
        item="clips",
        seconds=lambda: 4.0,
        splits={"train": 4},
    )


def job(folder: Path, worker: type, **cluster: object) -> Card:
    return run_job(four_parts(folder, worker), ClusterConfig.model_validate({"workers": 1, **cluster}))


def pids(folder: Path, name: str) -> list[str]:
    return (folder.parent / "notes" / name).read_text().splitlines()


def gone(pid: str, patience: float = 60.0) -> bool:
    """Whether a process ends within some seconds."""
    end = time.monotonic() + patience
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_any_number_of_workers_makes_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "1" / "tokens", tmp_path / "2" / "tokens"
    card = job(one, workers.Writing)
    assert card == job(two, workers.Writing, workers=2)
    assert card.counts["clips"] == 4
    assert digests(one) == digests(two)
    assert len({pids(one, name)[0] for name in NAMES}) == 1
    assert os.getpid() not in {int(pid) for name in NAMES for pid in pids(two, name)}


def test_running_again_makes_nothing_again(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    card, before = job(folder, workers.Writing), digests(folder)
    assert job(folder, workers.AlwaysDies) == card, "a finished job starts no worker"
    assert digests(folder) == before
    assert all(len(pids(folder, name)) == 1 for name in NAMES)


def test_only_what_is_missing_or_damaged_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    job(folder, workers.Writing)
    before = digests(folder)
    (folder / "_vtok.json").unlink()
    (folder / "a.parquet").unlink()
    (folder / "c.parquet").write_bytes((folder / "c.parquet").read_bytes()[:-30])
    job(folder, workers.Writing)
    assert digests(folder) == before
    assert [len(pids(folder, name)) for name in NAMES] == [2, 1, 2, 1]


def test_a_lost_worker_is_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    undisturbed, folder = tmp_path / "x" / "tokens", tmp_path / "y" / "tokens"
    job(undisturbed, workers.Writing)
    job(folder, workers.DiesOnce, workers=2)
    assert digests(folder) == digests(undisturbed), "what the lost worker had half-written must be gone, too"
    assert len(pids(folder, "b.parquet")) == 2
    assert "worker lost while making b.parquet; trying again" in capfd.readouterr().err


def test_a_unit_that_always_loses_its_worker(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    with pytest.raises(VtokError, match="was lost 3 times") as caught:
        job(folder, workers.AlwaysDies, workers=2, retries=2)
    assert caught.value.at == "b.parquet"
    assert "same command again" in caught.value.hint
    assert len(pids(folder, "b.parquet")) == 3
    assert sorted(p.name for p in folder.glob("*.parquet")) == ["a.parquet", "c.parquet", "d.parquet"], "the others"
    assert not (folder / "_vtok.json").exists()
    job(folder, workers.Writing)
    assert len(pids(folder, "a.parquet")) == 1, "finished units are kept"


def test_what_a_zombie_writes_late_changes_nothing(tmp_path: Path) -> None:
    undisturbed, folder = tmp_path / "x" / "tokens", tmp_path / "y" / "tokens"
    job(undisturbed, workers.Writing)
    job(folder, workers.LeavesAZombie, workers=2)
    end = time.monotonic() + 120
    while not (tmp_path / "y" / "notes" / "zombie").exists():
        assert time.monotonic() < end, "the zombie must have written, or the test proves nothing"
        time.sleep(0.1)
    assert digests(folder) == digests(undisturbed)
    assert artefacts.load(folder).counts["clips"] == 4


def test_a_second_job_in_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    with exclusive(folder), pytest.raises(UsageError, match="another job is at work") as caught:
        job(folder, workers.Writing)
    assert caught.value.at == str(folder)
    assert list(folder.iterdir()) == []
    job(folder, workers.Writing)
    made = digests(folder)
    assert not [name for name in made if not name.endswith((".parquet", ".table", ".json"))], "no lock file is left"
    with exclusive(folder), pytest.raises(UsageError):
        job(folder, workers.Writing)
    assert digests(folder) == made


def test_a_straggler_is_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    note = console.note

    def heard(text: str) -> None:
        note(text)
        if text.startswith("b.parquet takes long"):
            (tmp_path / "notes" / "told").touch()

    monkeypatch.setattr(console, "note", heard)
    job(tmp_path / "tokens", workers.Slow, workers=2, straggler_seconds=1.5, straggler_factor=1.5)
    said = capfd.readouterr().err
    assert "b.parquet takes long: " in said
    assert f" on {socket.gethostname()} so far" in said
    assert "second time" not in said, "a second copy on the same node would only slow it down"
    assert len(pids(tmp_path / "tokens", "b.parquet")) == 1


def test_a_verdict_ends_the_job(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job(tmp_path / "tokens", workers.Writing)
    assert "test: 4 clips in " in capfd.readouterr().err
    job(tmp_path / "tokens", workers.Writing)
    assert "test: " not in capfd.readouterr().err, "nothing was done"


def test_a_workers_error_arrives_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        job(tmp_path / "tokens", workers.Complains)
    assert str(caught.value) == str(ConfigError([("data.root", "is gone", "mount it")], at="r.yaml"))
    assert caught.value.exit_code == 2


def test_an_error_while_a_worker_starts_arrives_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        job(tmp_path / "tokens", workers.CannotStart, workers=2)
    assert (caught.value.at, caught.value.hint) == ("w.safetensors", "copy them again")
    starts = (tmp_path / "notes" / "starts").read_text()
    assert len(starts) <= 2, "starting again cannot help"


def test_a_job_that_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(VtokError, match="No space left on device"):
        job(tmp_path / "tokens", workers.DiskIsFull)
    assert not list((tmp_path / "tokens").glob(".vtok-tmp-*"))


def test_a_bug_in_a_worker_shows_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="one over nothing") as caught:
        job(tmp_path / "tokens", workers.HasABug)
    assert "misbehave" in str(caught.value)


def test_a_ray_that_does_not_start_is_an_error_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []

    def late(**options: object) -> None:
        tries.append(options["address"])
        raise Exception("The current node timed out during startup.\nThis could be ...")  # as Ray does

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("ray.init", late)
    with (
        pytest.raises(VtokError, match="does not start: The current node timed out") as caught,
        ray_session(ClusterConfig()),
    ):
        pass
    assert "vtok doctor" in caught.value.hint
    assert tries == ["local", "local"], "once more, and never somebody else's cluster"


def test_an_embedded_ray_that_has_lost_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, nodes = tmp_path / "tokens", ray.nodes()
    assert any(node["Alive"] for node in nodes)
    monkeypatch.setattr("ray.nodes", lambda: [{**node, "Alive": False} for node in nodes])
    with pytest.raises(VtokError, match="has lost its node") as caught:
        job(folder, workers.Writing, cpus_per_worker=10_000)  # no worker can start
    assert "same command again" in caught.value.hint


def test_a_unit_that_hangs(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    with pytest.raises(VtokError, match=r"longer than cluster\.unit_timeout") as caught:
        job(folder, workers.Hangs, workers=2, unit_timeout=10)
    assert caught.value.at == "b.parquet"
    assert all((folder / name).exists() for name in NAMES if name != "b.parquet"), "the others are made first"
    assert gone(pids(folder, "b.parquet")[0]), "the hanging worker must be ended"
