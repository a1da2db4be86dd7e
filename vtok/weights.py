"""Weights on disk: safetensors beside a YAML description. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save

from schemas.errors import IntegrityError, UsageError
from schemas.paths import ObjectPath
from vtok.files import sha256_of, write_bytes


def write_weights(folder: Path, name: str, tensors: Mapping[str, torch.Tensor], description: dict[str, Any]) -> str:
    """Writes `<name>.safetensors` and `<name>.yaml`; returns the sha256 of the former.

    Args:
        folder: where.
        name: `tokenizer` or `prior`.
        tensors: a state dict.
        description: what is needed to build the module again; plain values.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in sorted(tensors.items())}
    write_bytes(folder / f"{name}.safetensors", save(plain))
    write_bytes(folder / f"{name}.yaml", yaml.safe_dump(description, sort_keys=True).encode())
    return sha256_of(folder / f"{name}.safetensors")


def read_weights(folder: Path, name: str, expected_sha256: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the description, after comparing the weights with their sha256.

    Raises:
        UsageError: a file is missing.
        IntegrityError: the weights are not those that were written.
    """
    path = folder / f"{name}.safetensors"
    try:
        description = yaml.safe_load((folder / f"{name}.yaml").read_text())
        if sha256_of(path) != expected_sha256:
            raise IntegrityError(
                "the weights are not those that were written: their sha256 differs from the card",
                at=str(path),
                hint="copy the folder again, or train again",
            )
        return load(path.read_bytes()) if isinstance(path, ObjectPath) else load_file(path), description
    except FileNotFoundError as error:
        raise UsageError("a file of the model is missing", at=str(error.filename or folder)) from None
    except (SafetensorError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise IntegrityError(f"cannot be read: {error}", at=str(path)) from error
