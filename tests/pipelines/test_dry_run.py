"""`--dry-run` tells what would be done and does nothing; `vtok data rejects` tells what was not done, and undoes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from pipelines import dry_run
from pipelines.dry_run import preview
from pipelines.ingest import ingest_job
from pipelines.shard import shard, shard_job
from pipelines.tokenize_clips import tokenize_job
from schemas.clips import REASONS
from schemas.config import Recipe
from schemas.errors import EXIT_DONE, UsageError
from tests.pipelines.making import AT_INGEST, CUT, digests, write_recipe
from vtok import artefacts
from vtok.cli import main
from vtok.locks import exclusive
from vtok.rejects import REMEDIES, find_rejects, summary

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_running")]
Copy = Callable[..., Recipe]


def shown(settings: Recipe, kind: str) -> dict[str, str]:
    """The preview's lines by their first word or two."""
    job = {"clips": ingest_job, "shards": shard_job, "tokens": tokenize_job}[kind](settings)
    first, *lines = preview(job, settings.cluster)
    assert first.startswith("dry run: ") and "nothing is written" in first
    return {line[2:21].strip(): line[21:].strip() for line in lines}


def test_a_plan_is_shown_and_nothing_is_written(made: Recipe, copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", None)
    settings = copy_of("clips", "shards", "tokenizer")
    before = digests(Path(settings.out))
    empty = copy_of()
    ingested = shown(empty.model_copy(update={"out": str(Path(empty.out) / "other")}), "clips")
    assert ingested["already there"] == "nothing"
    assert int(ingested["train"].split()[0]) + int(ingested["test"].split()[0]) == 12
    tokens = shown(settings, "tokens")
    assert tokens["train"].endswith("clips") and tokens["already there"] == "nothing"
    assert digests(Path(settings.out)) == before


def test_a_plan_counts_what_the_job_then_makes(made: Recipe, copy_of: Copy) -> None:
    settings = copy_of("clips", cluster__workers=2)
    lines = shown(settings, "shards")
    index = artefacts.load_index(made.folder("shards")).to_pylist()
    planned = dict.fromkeys(("train", "test"), 0)
    for row in index:
        planned[row["split"]] += row["rows"] + row["rejects"]
    assert {split: int(lines[split].split()[0]) for split in planned} == planned
    assert f"makes {len(index)} shards in" in preview(shard_job(settings), settings.cluster)[0]
    assert int(lines["frames to decode"].replace(",", "")) >= 4 * sum(planned.values())
    assert "at 2 workers" in lines["estimated time"]


def test_a_plan_knows_what_is_there(made: Recipe, copy_of: Copy) -> None:
    settings = copy_of("clips", "shards")
    assert shown(settings, "shards")["already there"].startswith("complete")
    (settings.folder("shards") / "_vtok.json").unlink()
    (settings.folder("shards") / "train-00001.tar").unlink()
    assert shown(settings, "shards")["already there"].startswith("6 of 7 parts")
    changed = settings.model_copy(update={"seed": 5})
    with pytest.raises(UsageError, match="would be refused"):
        shown(changed, "shards")


def test_a_full_disk_is_foreseen(copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = copy_of("clips")
    assert "FREE" not in shown(settings, "shards")["estimated size"]
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    assert "MORE THAN THE 10 B THAT ARE FREE" in shown(settings, "shards")["estimated size"]


def test_the_commands_take_the_option(made: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", Path(made.data.root), tmp_path / "run")
    assert main(["data", "ingest", str(recipe), "--dry-run"]) == EXIT_DONE
    said = capsys.readouterr().out
    assert said.startswith("dry run: ingest makes 1 part")
    assert f"next: vtok data ingest {recipe}" in said
    assert not (tmp_path / "run").exists()


def test_every_reason_has_a_remedy() -> None:
    assert REMEDIES.keys() == REASONS.keys()


def test_rejects_of_a_run_are_those_of_its_stages(made: Recipe) -> None:
    found = find_rejects(Path(made.out))
    assert {r["source"]: r["reason"] for r in found if r["stage"] == "clips"} == AT_INGEST
    later = [r for r in found if r["stage"] == "shards"]
    assert later and {r["source"] for r in later} == {CUT}
    assert find_rejects(made.folder("shards")) == later
    assert sum(group["count"] for group in summary(found)) == len(found)
    assert all(len(group["examples"]) <= 3 for group in summary(found))
    with pytest.raises(UsageError, match="no artefact"):
        find_rejects(Path(made.data.root))


def test_rejects_of_an_unfinished_job_are_known(made: Recipe, copy_of: Copy) -> None:
    settings = copy_of("clips", "shards")
    expected = find_rejects(settings.folder("shards"))
    for name in ("_vtok.json", "_index.table", "_rejects.table"):
        (settings.folder("shards") / name).unlink()
        (settings.folder("clips") / name).unlink()
    assert find_rejects(settings.folder("shards")) == expected
    assert {r["source"] for r in find_rejects(settings.folder("clips"))} == set(AT_INGEST)


def test_ls_and_why(made: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "rejects", "ls", made.out, "--json"]) == EXIT_DONE
    groups = json.loads(capsys.readouterr().out)
    assert {group["reason"] for group in groups} >= set(AT_INGEST.values())
    assert main(["data", "rejects", "ls", made.out]) == EXIT_DONE
    said = capsys.readouterr().out
    assert "empty: 1 reject of 1 file: the file has no bytes\n  Ball/empty.avi: 0 bytes\n  remedy: " in said
    assert main(["data", "rejects", "why", made.out, CUT]) == EXIT_DONE
    said = capsys.readouterr().out
    assert said.count(".tar") >= 1 and "remedy: " in said
    assert main(["data", "rejects", "why", made.out, "Slide/cut.av"]) == 2
    assert f"did you mean {CUT}?" in capsys.readouterr().err
    assert main(["data", "rejects", "ls", str(made.folder("tokens"))]) == EXIT_DONE
    assert "nothing was rejected" in capsys.readouterr().out


def test_retry_makes_only_the_parts_with_such_rejects_again(
    made: Recipe, copy_of: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = copy_of("clips", "shards")
    folder = settings.folder("shards")
    before, cut = digests(folder), find_rejects(folder)[0]
    parts = {reject["part"] for reject in find_rejects(folder)}
    assert main(["data", "rejects", "retry", str(folder), "--reason", "timeout"]) == EXIT_DONE
    assert "nothing to try again" in capsys.readouterr().out
    assert digests(folder) == before
    assert main(["data", "rejects", "retry", str(folder), "--reason", "tmeout"]) == 2
    with exclusive(folder):
        assert main(["data", "rejects", "retry", str(folder)]) == 2
    assert digests(folder) == before
    assert (
        main(["data", "rejects", "retry", str(folder), "--reason", cut["reason"], "--reason", "timeout"]) == EXIT_DONE
    )
    assert "next: vtok data shard" in capsys.readouterr().out
    assert set(before) - set(digests(folder)) == {"_vtok.json", *parts}
    card = shard(settings)
    assert card.counts["rejects"] == len(find_rejects(folder))
    assert digests(folder) == before
