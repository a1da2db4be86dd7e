"""The originals' own configs: MeBT's YAML, Lightning's hparams.yaml, and command lines of the training scripts.

Nothing is built from a YAML file's tags: a pickled namespace in it becomes a plain mapping.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import UsageError

_SCRIPTS = {
    "train_vqvae": "videogpt-vqvae",
    "train_videogpt": "videogpt-gpt",
    "train_vqgan": "tats-vqgan",
    "train_transformer": "tats-gpt",
}
_MARKS = (
    ("videogpt-vqvae", {"n_res_layers"}),
    ("videogpt-gpt", {"hidden_dim", "attn_type"}),
    ("tats-vqgan", {"discriminator_iter_start", "disc_channels", "image_gan_weight", "norm_type"}),
    ("tats-gpt", {"n_unmasked", "block_size", "n_embd", "first_stage_key"}),
)
_MEBT_SECTIONS = (("model", "params"), ("model", "mask", "params"), ("data",), ("exp",))
_FLAG = re.compile(r"--([A-Za-z][\w-]*)")


@dataclass(frozen=True)
class Original:
    """One config.

    Attributes:
        system: a kind of `vtok.convert.kinds.KINDS`.
        values: settings by their original names, without nesting.
    """

    system: str
    values: dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads tagged mappings (argparse's namespace, OmegaConf's configs) as plain ones."""


def _untagged(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", _untagged)


def read_settings(path: str | Path) -> Original:
    """Reads a config file of any of the systems.

    Args:
        path: YAML (MeBT's, or `hparams.yaml` as Lightning logs it), JSON, or a text or shell file with the command line
            of a training script.

    Raises:
        UsageError: it cannot be read, or it is not told which system it belongs to.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the config: {error}", at=str(path)) from None
    if _FLAG.search(text) and not re.search(r"^\w+\s*:", text, re.MULTILINE):
        return _from_command(text, str(path))
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader that makes tagged values plain
    except yaml.YAMLError as error:
        raise UsageError(f"neither YAML nor a command line: {error}", at=str(path)) from None
    if not isinstance(tree, dict):
        raise UsageError("not a config: it holds no settings", at=str(path))
    model = tree.get("model")
    if isinstance(model, Mapping) and "mask" in model:
        return Original("mebt", _mebt_values(tree))
    values = {str(key): value for key, value in tree.items() if key != "args"}
    if isinstance(tree.get("args"), Mapping):
        values.update(tree["args"])
    return Original(_system(values, str(path)), values)


def _mebt_values(tree: Mapping[str, Any]) -> dict[str, Any]:
    """MeBT's sections side by side; what is in none of them keeps its dotted path."""
    values: dict[str, Any] = {}
    for section in _MEBT_SECTIONS:
        part: Any = tree
        for name in section:
            part = part.get(name, {}) if isinstance(part, Mapping) else {}
        values.update(part if isinstance(part, Mapping) else {})
    covered = {".".join(section) for section in _MEBT_SECTIONS}

    def rest(part: Mapping[str, Any], prefix: str) -> None:
        for key, value in part.items():
            dotted = f"{prefix}{key}"
            if dotted in covered or key == "target":
                continue
            if isinstance(value, Mapping):
                rest(value, f"{dotted}.")
            else:
                values[dotted] = value

    rest(tree, "")
    return values


def _from_command(text: str, at: str) -> Original:
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise UsageError(f"not a command line: {error}", at=at) from None
    script = next((Path(word).stem for word in words if word.endswith(".py")), "")
    values: dict[str, Any] = {}
    name = None
    for word in words:
        flag = re.fullmatch(r"--([A-Za-z][\w-]*)(?:=(.*))?", word)
        if flag:
            name = flag.group(1)
            values[name] = True if flag.group(2) is None else _value(flag.group(2))
        elif name is not None:
            before = values[name]
            value = _value(word)
            values[name] = value if before is True else [*(before if isinstance(before, list) else [before]), value]
    return Original(_SCRIPTS.get(script) or _system(values, at), values)


def _value(word: str) -> Any:
    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", word):
        return float(word)  # YAML takes 3e-5 for a text
    return yaml.safe_load(word)


def _system(values: Mapping[str, Any], at: str) -> str:
    for system, marks in _MARKS:
        if marks & set(values):
            return system
    raise UsageError(
        f"not told whose config this is: {', '.join(sorted(values)[:12])}",
        at=at,
        hint="known are MeBT's YAML, and flags or hparams of VideoGPT, TATS and vqgan-gpt-video",
    )
