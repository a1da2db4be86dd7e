"""The recipe: all stages of a run in one YAML file, and how it is read.

`extends: NAME_OR_PATH` (one level) starts from another recipe; `key.path=value` overrides come last. Every problem is
found in one pass and reported with its dotted path.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from schemas.config.base import Config, section_of, sections
from schemas.config.data import DataConfig, ShardsConfig
from schemas.config.prior import PriorConfig, SampleConfig
from schemas.config.tokenizer import TokenizerConfig
from schemas.config.tokens import TokensConfig
from schemas.errors import ConfigError, UsageError
from schemas.paths import as_path

Model = TypeVar("Model", bound=Config)

STAGE_FOLDERS = {
    "clips": "clips",
    "shards": "shards",
    "tokenizer": "tokenizer",
    "tokens": "tokens",
    "prior": "prior",
    "samples": "samples",
}
"""Where each stage writes, below the run's folder."""

METRICS_FOLDER = "metrics"
"""Where `vtok evaluate` writes, below the run's folder."""


class ClusterConfig(Config):
    """Section `cluster`: how Ray runs the data stages. Never changes a result."""

    workers: int | None = Field(None, ge=1, description="Parallel workers; null: one per CPU core.")
    cpus_per_worker: float = Field(
        0.5, gt=0, description="CPUs that Ray reserves per worker; below 1 leaves room for Ray's own tasks."
    )
    address: str | None = Field(
        None, description="Address of a running Ray cluster; null: a Ray embedded in this process."
    )
    retries: int = Field(3, ge=0, description="How often a unit is tried again after its worker was lost.")
    unit_timeout: float = Field(3600.0, gt=0, description="Longest wait for any unit to finish, seconds.")
    start_timeout: float = Field(
        600.0, gt=0, description="Longest wait for a first worker when the cluster has no room, seconds."
    )
    straggler_factor: float = Field(
        4.0,
        gt=1,
        description="A unit that takes this many times what is expected is reported, and made a second time on another "
        "node when nothing else is left to do.",
    )
    straggler_seconds: float = Field(
        30.0, ge=0, description="No unit counts as late before this many seconds have gone by."
    )


class Recipe(Config):
    """A whole run: source videos to samples. Each command reads its own section and those before it."""

    name: str = Field("run", min_length=1, description="Name of the run, shown in reports.")
    out: str = Field(description="Folder of the run; every stage writes below it. Local, or `s3://BUCKET/FOLDER`.")
    models: str | None = Field(
        None,
        description="Where `tokenizer/` and `prior/` lie instead of `out`: a local folder, because checkpoints need "
        "one. For runs whose `out` is an object store.",
    )
    data_run: str | None = Field(
        None,
        description="Folder of another run whose `clips/` and `shards/` are used instead of this one's: a tokenizer of "
        "sound learns from the shards of the run that it is for.",
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Seed of every random draw.")
    data: DataConfig
    shards: ShardsConfig = Field(default_factory=ShardsConfig)
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    tokens: TokensConfig = Field(default_factory=TokensConfig)
    prior: PriorConfig = Field(default_factory=PriorConfig)
    sample: SampleConfig = Field(default_factory=SampleConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)

    @model_validator(mode="after")
    def _grid(self) -> Recipe:
        model, data, crop = self.tokenizer.model, self.data, self.tokenizer.train.augment.crop
        if crop is not None and crop > data.resolution:
            raise ValueError(f"tokenizer.train.augment.crop {crop} is larger than data.resolution {data.resolution}")
        if self.tokenizer.spectrum is not None:
            try:
                model.grid(data.num_frames, *self.tokenizer.frame_size(data.resolution))
            except ValueError as error:
                message = str(error).replace("num_frames", "data.num_frames")
                raise ValueError(f"{message} (tokenizer.model.downsample, tokenizer.spectrum)") from None
            return self
        sides = {"data.resolution": data.resolution}
        if crop is not None:
            sides["tokenizer.train.augment.crop"] = crop
        for name, side in sides.items():
            try:
                model.grid(data.num_frames, side, side)
            except ValueError as error:
                message = str(error).replace("height", name).replace("num_frames", "data.num_frames")
                raise ValueError(f"{message} (tokenizer.model.downsample = {list(model.downsample)})") from None
        return self

    def folder(self, stage: str) -> Path:
        """The folder of a stage: one of `clips shards tokenizer tokens prior samples`."""
        run = self.out
        if self.models is not None and stage in ("tokenizer", "prior"):
            run = self.models
        elif self.data_run is not None and stage in ("clips", "shards"):
            run = self.data_run
        return as_path(run) / STAGE_FOLDERS[stage]


def load_recipe(
    path: str | Path, overrides: list[str] | tuple[str, ...] = (), *, shipped: Path | None = None
) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: a YAML file.
        overrides: `key.path=value` strings; the value is YAML.
        shipped: folder of the recipes that come with vtok, where `extends: NAME` looks after the recipe's own folder.

    Raises:
        UsageError: the file or the one it extends is missing or is not YAML.
        ConfigError: every unknown key, wrong type and contradiction, together.
    """
    path = Path(path)
    tree = _read_yaml(path)
    if "extends" in tree:
        base_path = _find_base(tree.pop("extends"), path, shipped)
        base = _read_yaml(base_path)
        if "extends" in base:
            raise UsageError(
                f"{base_path.name} extends another recipe itself",
                at=str(path),
                hint="one level only: extend the recipe at the bottom, or write the keys out",
            )
        tree = _merge(base, tree)
    problems: list[tuple[str, str, str]] = []
    for text in overrides:
        _apply_override(tree, text, problems)
    return _validated(Recipe, tree, problems, str(path))


def read_section(model: type[Model], tree: dict[str, Any], overrides: Sequence[str] = ()) -> Model:
    """A section by itself, with `key=value` overrides on top of `tree`.

    Raises:
        ConfigError: every unknown key, wrong type and contradiction, together.
    """
    tree = copy.deepcopy(tree)
    problems: list[tuple[str, str, str]] = []
    for text in overrides:
        _apply_override(tree, text, problems)
    return _validated(model, tree, problems, "key=value arguments")


def _validated(model: type[Model], tree: dict[str, Any], problems: list[tuple[str, str, str]], at: str) -> Model:
    problems += _unknown_keys(model, tree, "")
    checked: Model | None = None
    try:
        checked = model.model_validate(tree)
    except ValidationError as error:
        known = {p for p, _, _ in problems}
        for item in error.errors():
            dotted = _dotted(model, item["loc"])
            if item["type"] == "extra_forbidden" or dotted in known:
                continue
            problems.append((dotted, _message(item), _nearest_choice(item)))
    if problems or checked is None:
        raise ConfigError(problems, at=at)
    return checked


def _message(item: Any) -> str:
    if item["type"] == "missing":
        return "is required"
    text = str(item["msg"]).removeprefix("Value error, ")
    value = item.get("input")
    if isinstance(value, str | int | float | bool) and item["type"] != "value_error":
        return f"{text} (got {value!r})"
    return text


def _nearest_choice(item: Any) -> str:
    """A hint where the value is none of a few words."""
    if item["type"] != "literal_error":
        return ""
    return _did_you_mean(str(item.get("input")), re.findall(r"'([^']*)'", item["ctx"]["expected"]))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot read the recipe: {error.strerror or error}",
            at=str(path),
            hint="give the path of a YAML file; `vtok recipes` lists those that come with vtok",
        ) from None
    except UnicodeDecodeError:
        raise UsageError("the recipe is not a text file", at=str(path), hint="recipes are UTF-8 YAML") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UsageError(
            f"not valid YAML: {getattr(error, 'problem', error)}",
            at=where,
            hint="indent with spaces, and put quotes around a text with a colon, a hash or brackets in it",
        ) from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UsageError("a recipe is a mapping of sections", at=str(path), hint="see `vtok config schema`")
    return tree


def _find_base(name: Any, path: Path, shipped: Path | None) -> Path:
    candidates = [path.parent / str(name)]
    if shipped is not None:
        candidates += [shipped / str(name), shipped / f"{name}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    have = sorted(p.stem for p in shipped.glob("*.yaml")) if shipped else []
    raise UsageError(
        f"extends a recipe that is not there: {name}",
        at=str(path),
        hint=_did_you_mean(str(name), have) or "see `vtok recipes`",
    )


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; mappings merge, everything else is replaced."""
    out = copy.deepcopy(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = _merge(out[key], value)
        else:
            out[key] = copy.deepcopy(value)
    return out


def _apply_override(tree: dict[str, Any], text: str, problems: list[tuple[str, str, str]]) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        problems.append((text, "an override is key.path=value", "for example data.num_frames=8"))
        return
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        problems.append((key, f"the value is not valid YAML: {value}", ""))
        return
    *parents, last = key.strip().split(".")
    node = tree
    for part in parents:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            problems.append((key, f"{part} is a value, not a section", ""))
            return
        node = child
    node[last] = parsed


def _unknown_keys(model: type[BaseModel], tree: Any, prefix: str) -> list[tuple[str, str, str]]:
    """Keys that the schema does not have, with the nearest that it has, at every depth."""
    if not isinstance(tree, dict):
        return []
    problems = []
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        field = model.model_fields.get(str(key))
        if field is None:
            hint = _did_you_mean(str(key), list(model.model_fields)) or _elsewhere(str(key), prefix)
            problems.append((dotted, "unknown key", hint))
            continue
        items = enumerate(value) if isinstance(value, list) else [("", value)]
        for number, item in items:
            section = section_of(field.annotation, item)
            if section is not None:
                problems += _unknown_keys(section, item, f"{dotted}.{number}." if number != "" else f"{dotted}.")
    return problems


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def _elsewhere(key: str, prefix: str) -> str:
    """A hint when the key is right but stands in another section."""
    paths = [p for p in _all_paths(Recipe, "") if p.split(".")[-1] == key]
    if paths:
        return f"did you mean {paths[0]}?"
    return f"known keys here: see `vtok config schema{' ' + prefix.rstrip('.') if prefix else ''}`"


def _all_paths(model: type[BaseModel], prefix: str) -> list[str]:
    paths = []
    for name, field in model.model_fields.items():
        paths.append(prefix + name)
        for section in sections(field.annotation):
            paths += _all_paths(section, f"{prefix}{name}.")
    return paths


def _dotted(model: type[BaseModel], location: tuple[str | int, ...]) -> str:
    """A place in the recipe; pydantic also names the `kind` on the way, which is no key."""
    if not location:
        return ""
    name, *rest = location
    field = model.model_fields.get(str(name))
    found = sections(field.annotation) if field else []
    if not found:
        return ".".join(map(str, location))
    section = found[0]
    if len(found) > 1 and rest:
        kind, *rest = rest
        section = next(item for item in found if item.model_fields["kind"].default == kind)
    below = _dotted(section, tuple(rest))
    return f"{name}.{below}" if below else str(name)
