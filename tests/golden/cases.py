"""Golden cases: numbers that the original implementations produced (one `.safetensors` and one `.json` a case).

Cases are found under the folder named by VTOK_GOLDEN; without it, under `tests/golden/cases/`, where a few small ones
are kept.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor


def golden_root() -> Path:
    """The folder that holds the cases."""
    return Path(os.environ.get("VTOK_GOLDEN") or Path(__file__).parent / "cases")


@dataclass
class Case:
    """One case. `expect` records which outputs were compared, so that none is forgotten."""

    path: Path
    compared: set[str] = field(default_factory=set)

    @property
    def id(self) -> str:
        return f"{self.path.parent.name}/{self.path.stem}"

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    @property
    def config(self) -> dict[str, Any]:
        return self.meta["config"]

    def input(self, name: str) -> Tensor:
        return self.tensors[f"in/{name}"]

    def has(self, name: str) -> bool:
        return f"out/{name}" in self.tensors

    def reference(self, name: str) -> Tensor:
        return self.tensors[f"out/{name}"]

    def outputs(self, prefix: str = "") -> list[str]:
        return [name[4:] for name in self.tensors if name.startswith(f"out/{prefix}")]

    def state(self, prefix: str = "", drop: tuple[str, ...] = ()) -> dict[str, Tensor]:
        """The original's state dict below `prefix`; entries given by formula are filled in."""
        full = {name[3:]: tensor for name, tensor in self.tensors.items() if name.startswith("sd/")}
        full |= formula_state(self.meta.get("sd_formula"))
        below = {name[len(prefix) :]: tensor for name, tensor in full.items() if name.startswith(prefix)}
        return {name: tensor.clone() for name, tensor in below.items() if not name.startswith(drop)}

    def tolerance(self, kind: str) -> float:
        """The number in the case's own words about `kind`; "exact" is 0."""
        text = self.meta["tolerance"][kind]
        found = re.search(r"\d+(?:\.\d+)?e-\d+", text)
        if found is None:
            assert text.startswith("exact"), f"{self.id}: no number in the tolerance of {kind}: {text!r}"
            return 0.0
        return float(found.group())

    def expect(self, name: str, actual: Any, relative: float, absolute: float = 0.0) -> None:
        """Compare with `out/<name>`: largest error <= relative * largest reference + absolute. 0 means equal."""
        wanted = self.reference(name)
        got = torch.as_tensor(actual).detach()
        assert got.shape == wanted.shape, f"{self.id} {name}: shape {list(got.shape)}, reference {list(wanted.shape)}"
        self.compared.add(name)
        if not wanted.is_floating_point():
            wrong = int((got != wanted).sum())
            assert wrong == 0, f"{self.id} {name}: {wrong} of {wanted.numel()} values differ"
            return
        wanted64, got64 = wanted.double(), got.double()
        finite = wanted64.isfinite()
        assert torch.equal(got64[~finite], wanted64[~finite]), f"{self.id} {name}: infinite values differ"
        if not finite.any():
            return
        bound = relative * wanted64[finite].abs().max().item() + absolute
        error = (got64[finite] - wanted64[finite]).abs().max().item()
        assert error <= bound, f"{self.id} {name}: error {error:.3g} > {bound:.3g}"

    def waive(self, name: str) -> None:
        """Note that `out/<name>` was looked at, although the case's notes say that it is not strict."""
        assert not self.is_strict(name), f"{self.id} {name} is strict"
        self.compared.add(name)

    def is_strict(self, name: str) -> bool:
        """False where the case warns of near-ties, which leave everything but initialisation open."""
        warned = any("NEAR-TIES" in text for text in self.meta["tolerance"].values())
        return not warned or name.endswith("_init")

    def forgotten(self) -> set[str]:
        return set(self.outputs()) - self.compared


def discover() -> list[Case]:
    """Every case under `golden_root()`, sorted."""
    return [Case(path) for path in sorted(golden_root().glob("*/*.json"))]


def formula_state(formula: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """The tensors that a `sd_formula` describes, checked against its sums."""
    state = {}
    for name, entry in (formula["entries"] if formula else {}).items():
        value = _fill(formula["salt"], formula["gain"], name, entry["shape"])
        total = float(value.astype(np.float64).sum())
        assert abs(total - entry["sum_f64"]) <= 1e-6 * max(1.0, abs(total)), f"{name}: sum {total}"
        state[name] = torch.from_numpy(value)
    return state


def _fill(salt: str, gain: float, name: str, shape: list[int]) -> np.ndarray:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    random = np.random.RandomState(zlib.crc32(f"{salt}/{name}".encode()) & 0xFFFFFFFF)
    unit = random.random_sample(int(np.prod(shape)) or 1).reshape(shape)
    signed = 2 * unit - 1
    if leaf == "running_var":
        value = 0.5 + unit
    elif leaf == "running_mean":
        value = 0.2 * signed
    elif leaf == "bias":
        value = 0.1 * signed
    elif leaf == "weight" and len(shape) == 1:
        value = 1 + 0.3 * signed
    elif leaf == "weight":
        value = gain * np.sqrt(6 / np.prod(shape[1:])) * signed
    else:
        value = 0.3 * signed
    return value.astype(np.float32)
