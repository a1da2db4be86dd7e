"""Weights on disk: safetensors beside a YAML description. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save

from schemas.card import Card
from schemas.errors import IntegrityError, UsageError
from schemas.paths import ObjectPath
from vtok.files import sha256_of, write_bytes
from vtok.sealed import read_sealed


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


def read_weights(folder: Path, name: str, card: Card) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the description, after comparing both with the card.

    Raises:
        UsageError: the weights are missing.
        IntegrityError: weights or description are not those that were written.
    """
    path = folder / f"{name}.safetensors"
    try:
        description = yaml.safe_load(read_sealed(folder, card, f"{name}.yaml"))
        if sha256_of(path) != card.index_sha256:
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
