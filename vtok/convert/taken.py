"""The originals' settings as they are used up, so that none of them is forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.errors import UsageError


class Taken:
    """Settings, of which it is remembered which were used.

    A value that is not of its kind raises UsageError.

    Args:
        values: by the original's names.
        at: the file, for messages.

    Attributes:
        used: names that were asked for.
        assumed: what the settings do not say, and what was taken.
    """

    def __init__(self, values: Mapping[str, Any], at: str) -> None:
        self.values, self.at = dict(values), at
        self.used: set[str] = set()
        self.assumed: list[str] = []

    def take(self, name: str, default: Any) -> Any:
        """The setting, or the original's default."""
        self.used.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def number(self, name: str, default: float) -> float:
        """A setting that is a number."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"`{name}` is not a number: {value!r}", at=self.at)
        return value

    def whole(self, name: str, default: int, *, least: int = 0) -> int:
        """A setting that is a whole number, not below `least`."""
        value = self.take(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 2e6
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"`{name}` is not a whole number from {least} on: {value!r}", at=self.at)
        return value

    def ranks(self) -> int:
        """Number of GPUs of a machine: a number, or `0,1,2,`."""
        gpus = self.take("gpus", self.take("devices", 1))
        if isinstance(gpus, str) and "," in gpus:
            gpus = [part for part in gpus.split(",") if part.strip()]
        if isinstance(gpus, str) and gpus.strip().isdecimal():
            gpus = int(gpus)
        if isinstance(gpus, list):
            return max(1, len(gpus))
        if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 0:
            raise UsageError(f"`gpus` does not say how many: {gpus!r}", at=self.at, hint="for example --set gpus=8")
        return max(1, gpus)
