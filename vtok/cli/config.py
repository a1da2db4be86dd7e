"""`vtok config` and `vtok recipes`: what can be set, and what a recipe comes to."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from schemas.errors import UsageError
from vtok import console
from vtok.cli.common import SHIPPED, Overrides, RecipeArgument, read_recipe

app = typer.Typer(help="What can be set, and what a recipe comes to.", no_args_is_help=True)


@app.command()
def show(recipe: RecipeArgument, overrides: Overrides = None) -> int:
    """The whole recipe as YAML, with defaults, `extends` and overrides applied."""
    import yaml

    console.say(yaml.safe_dump(read_recipe(recipe, overrides).plain(), sort_keys=False).rstrip())
    return 0


@app.command()
def schema(
    section: Annotated[str, typer.Argument(help="A section such as `data` or `tokenizer.model`; default: all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON Schema, for editors.")] = False,
) -> int:
    """Every key, its type, default and meaning."""
    from pydantic import BaseModel

    from schemas.config import Recipe
    from schemas.config.base import sections

    if as_json:
        console.say(json.dumps(Recipe.model_json_schema(), indent=2))
        return 0
    models: list[type[BaseModel]] = [Recipe]
    for part in filter(None, section.split(".")):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        found = [item for field in fields for item in sections(field.annotation)]
        if not found:
            raise UsageError(f"no section {part!r}", at=section, hint=f"sections: {', '.join(_sections(models))}")
        models = found
    _print_sections(models, f"{section}." if section else "")
    return 0


def _sections(models: Any) -> list[str]:
    from schemas.config.base import sections

    return [name for model in models for name, field in model.model_fields.items() if sections(field.annotation)]


def _print_sections(models: Any, prefix: str) -> None:
    """The fields of a section; of one for every `kind` where there are several."""
    for model in models:
        if len(models) > 1:
            first = (model.__doc__ or "").partition(". ")[0]
            console.say(f"{prefix}kind: {model.model_fields['kind'].default}\n    {first}.")
        _print_fields(model, prefix, skip="kind" if len(models) > 1 else "")


def _print_fields(model: Any, prefix: str, skip: str) -> None:
    from schemas.config.base import sections

    for name, field in model.model_fields.items():
        if name == skip:
            continue
        kind = field.annotation
        if sections(kind):
            _print_sections(sections(kind), f"{prefix}{name}.")
            continue
        text = str(kind).replace("typing.", "") if not isinstance(kind, type) else kind.__name__
        default = "required" if field.is_required() else f"default {json.dumps(field.get_default(), default=list)}"
        console.say(f"{prefix}{name}: {text} ({default})\n    {field.description or ''}")


def recipes(
    name: Annotated[str, typer.Argument(help="Print this recipe.")] = "",
) -> int:
    """The recipes that come with vtok."""
    if name:
        path = SHIPPED / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
            raise UsageError("no such recipe", at=name, hint=f"there are: {known}")
        console.say(path.read_text(encoding="utf-8").rstrip())
        return 0
    for path in sorted(SHIPPED.glob("*.yaml")):
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        console.say(f"{path.stem:24} {first}")
    console.say("next: vtok recipes NAME")
    return 0
