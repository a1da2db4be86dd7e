"""`vtok demo`: every other command, in order, on a small dataset. It does nothing of its own but write the recipe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import EXIT_REJECTS, VtokError
from vtok import console
from vtok.cli.common import read_recipe

if TYPE_CHECKING:
    from schemas.config import Recipe


def demo(
    videos: Annotated[Path | None, typer.Option(help="Your own folder of videos; default: drawn shapes.")] = None,
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...", show_default=False)] = None,
) -> int:
    """Run every stage on a small dataset; ends with report.html. Running it again resumes."""
    from pipelines.runtime import ray_session
    from schemas.paths import as_path, local_only
    from vtok.video.ffmpeg import ffmpeg_binary

    local_only(as_path(out), "vtok demo", "run the commands one by one: `vtok data ingest RECIPE` comes first")
    ffmpeg_binary()  # samples need it: better to know before the training
    planted: list[str] = []
    changes = [f"out={json.dumps(str(out))}"]
    if videos is None:
        from vtok.datasets.shapes import DEMO, write_shapes

        console.say(f"videos: drawing moving shapes into {out / 'videos'}")
        planted = write_shapes(out / "videos", **DEMO).damaged
        changes.append(f"data.root={json.dumps(str(out / 'videos'))}")
        recipe = read_recipe("demo", changes + (overrides or []))
    else:
        changes.append(f"data.root={json.dumps(str(videos))}")
        recipe = read_recipe("demo-videos", changes + (overrides or []))
    timings: list[dict[str, Any]] = []
    with ray_session(recipe.cluster):
        path = _write_recipe(recipe)
        for name, command in _stages(path, recipe, own_videos=videos is not None):
            console.say(f"\n== {name}")
            start = time.monotonic()
            code = command()
            timings.append({"name": name, "seconds": round(time.monotonic() - start, 1)})
            if code not in (0, EXIT_REJECTS):
                return code
            if name == "vtok data shard":
                _check_counts(recipe, planted)
            _write_timings(recipe, timings)
    return 0


def _write_recipe(recipe: Recipe) -> Path:
    """The recipe as one plain file in the run, so that every command can be run on it by hand."""
    import yaml

    from vtok.files import write_bytes

    path = Path(recipe.out) / "recipe.yaml"
    write_bytes(path, yaml.safe_dump(recipe.plain(), sort_keys=False).encode())
    return path


def _stages(path: Path, recipe: Recipe, *, own_videos: bool) -> list[tuple[str, Callable[[], int]]]:
    from vtok.cli import data, evaluate, report, sample, tokenize_clips, train

    name = str(path)

    def prior() -> int:
        return train.prior(name, _condition(recipe) if own_videos else None)

    return [
        ("vtok data ingest", lambda: data.ingest(name)),
        ("vtok data shard", lambda: data.shard(name)),
        ("vtok train tokenizer", lambda: train.tokenizer(name)),
        ("vtok tokenize", lambda: tokenize_clips.tokenize(name)),
        ("vtok train prior", prior),
        ("vtok sample", lambda: sample.sample(name)),
        ("vtok evaluate", lambda: evaluate.evaluate(Path(recipe.out))),
        ("vtok report", lambda: report.report(Path(recipe.out))),
    ]


def _condition(recipe: Recipe) -> list[str]:
    """Label-conditional where the user's videos have classes."""
    from vtok.artefacts import load

    classes = load(recipe.folder("shards"), "shards").facts["classes"]
    return [f"prior.model.condition={'label' if len(classes) > 1 else 'none'}"]


def _check_counts(recipe: Recipe, planted: list[str]) -> None:
    """Every planted damaged file must be among the rejects, and the counts must add up.

    Raises:
        VtokError: they do not: this is the demo's own test.
    """
    from vtok.artefacts import load, load_rejects

    clips, shards = (load(recipe.folder(name)) for name in ("clips", "shards"))
    rejects = [row for name in ("clips", "shards") for row in load_rejects(recipe.folder(name)).to_pylist()]
    missed = sorted(set(planted) - {row["source"] for row in rejects})
    if missed:
        raise VtokError(f"damaged files were not rejected: {', '.join(missed)}", at=str(recipe.folder("shards")))
    lost = clips.counts.get("rejected_files", clips.counts["rejects"])
    if (
        clips.counts["files_with_clips"] + lost != clips.counts["files"]
        or shards.counts["clips"] + shards.counts["rejects"] != clips.counts["clips"]
    ):
        raise VtokError(f"the counts do not add up: {clips.counts} {shards.counts}", at=recipe.out)
    console.say(
        f"counts: {clips.counts['files']} files found = {clips.counts['files_with_clips']} with clips + "
        f"{lost} rejected; {clips.counts['clips']} clips planned = {shards.counts['clips']} written "
        f"+ {shards.counts['rejects']} rejected"
    )


def _write_timings(recipe: Recipe, timings: list[dict[str, Any]]) -> None:
    from vtok.files import write_json

    path = Path(recipe.out) / "timings.json"
    known = {row["name"]: row["seconds"] for row in _read_timings(path)}
    for row in timings:  # a resumed demo keeps the time of the run that did the work
        known[row["name"]] = max(row["seconds"], known.get(row["name"], 0.0))
    write_json(path, {"stages": [{"name": name, "seconds": seconds} for name, seconds in known.items()]})


def _read_timings(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text())["stages"])
    except (OSError, ValueError, KeyError):
        return []
