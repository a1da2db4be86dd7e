"""`vtok convert`: checkpoints and settings of VideoGPT, TATS, MeBT and vqgan-gpt-video become vtok's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.errors import EXIT_DONE, UsageError
from vtok import console

Sources = Annotated[
    list[str], typer.Argument(metavar="CKPT OUT", help="A checkpoint and a run's folder; with --config alone: OUT.")
]
Kind = Annotated[str | None, typer.Option("--kind", help="The kind of checkpoint; default: found from its tensors.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="The original's config: MeBT's YAML, hparams.yaml, or a text file with its command line. Beside a "
        "checkpoint it says what the checkpoint does not; alone it becomes the recipe OUT.",
    ),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE: a setting, by its original name (repeatable).")
]


def convert(
    paths: Sources,
    kind: Kind = None,
    config: ConfigFile = None,
    given: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Import a checkpoint: tokenizer and prior as safetensors, or the original's config as a recipe."""
    if len(paths) == 1 and config is not None:
        return _recipe(config, Path(paths[0]), _settings(given), as_json)
    if len(paths) != 2:
        raise UsageError(
            "two paths are needed: a checkpoint and a folder to write",
            at="vtok convert",
            hint="vtok convert CKPT OUT, or vtok convert --config FILE OUT.yaml",
        )
    from vtok.convert.convert import convert as run
    from vtok.convert.originals import read_settings

    beside = read_settings(config).values if config is not None else None
    made = run(paths[0], paths[1], kind=kind, given=_settings(given), beside=beside)
    if as_json:
        cards = {name: {"counts": card.counts, "facts": card.facts} for name, card in made.cards.items()}
        found = {"kind": made.kind, "out": paths[1], "assumed": made.assumed, "noted": made.noted, "made": cards}
        console.say(json.dumps({**found, "left_out": made.left_out}, indent=2))
        return EXIT_DONE
    console.say(f"{made.kind}: {made.left_out} tensors left out (discriminators, LPIPS, masks)")
    for name, card in made.cards.items():
        size = console.size(card.counts["bytes"])
        console.say(f"{name}: {card.counts['parameters']:,} parameters ({size}) in {Path(paths[1]) / name}")
    for line in made.assumed:
        console.say(f"assumed: {line} (not in the checkpoint; --set changes it)")
    for line in made.noted:
        console.say(f"note: {line}")
    console.say(f"next: vtok status {paths[1]}")
    return EXIT_DONE


def _settings(given: list[str] | None) -> dict[str, Any]:
    """`name=value` options; values are YAML."""
    import yaml

    found = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError("a setting is NAME=VALUE", at=f"--set {text}", hint="for example --set downsample=[4,8,8]")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError("the value is not valid YAML", at=f"--set {text}") from None
    return found


def _recipe(config: Path, out: Path, given: dict[str, Any], as_json: bool) -> int:
    """Writes the recipe of the original's config."""
    from vtok.convert.recipe import write_recipe

    made = write_recipe(config, out, given)
    if as_json:
        found = {"system": made.system, "out": str(out), "assumed": made.assumed, "left_out": made.left_out}
        console.say(json.dumps({**found, "unknown": made.unknown}, indent=2, default=str))
        return EXIT_DONE
    console.say(f"{made.system}: {out}")
    for line in made.assumed:
        console.say(f"assumed: {line}")
    for name, why in made.left_out.items():
        console.say(f"left out: {name}: {why}")
    for name, value in made.unknown.items():
        console.say(f"unknown: {name}={value}")
    console.say(f"next: vtok config show {out}")
    return EXIT_DONE
