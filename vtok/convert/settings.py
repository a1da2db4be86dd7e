"""Hyper-parameters under their original names, and what had to be assumed because a checkpoint does not say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.errors import UsageError


class Settings:
    """Looks a setting up: what the user gave comes first, then what the checkpoint (or its config file) holds.

    Args:
        given: the user's, from `--set name=value`.
        found: the checkpoint's, flat.
        at: the file, for messages.

    Attributes:
        assumed: `name=value` of every setting that is nowhere and decides something; for the user to check.
        noted: what else the user should know of the conversion.
    """

    def __init__(self, given: Mapping[str, Any], found: Mapping[str, Any], at: str) -> None:
        self._given, self._found, self.at = dict(given), dict(found), at
        self._asked: set[str] = set()
        self.assumed: list[str] = []
        self.noted: list[str] = []

    def get(self, name: str) -> Any:
        """The setting, or None where it is nowhere (or null)."""
        self._asked.add(name)
        return self._given.get(name, self._found.get(name))

    def count(self, name: str) -> int | None:
        """A setting that counts something, or None where it is nowhere.

        Raises:
            UsageError: it is no whole number.
        """
        value = self.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        raise UsageError(f"`{name}` is not a whole number: {value!r}", at=self.at)

    def need(self, name: str, why: str) -> Any:
        """The setting.

        Raises:
            UsageError: it is nowhere.
        """
        value = self.get(name)
        if value is None:
            raise UsageError(
                f"the checkpoint does not say `{name}`: {why}",
                at=self.at,
                hint=f"give it with --set {name}=VALUE, or the original's config file with --config FILE",
            )
        return value

    def assume(self, name: str, default: Any) -> Any:
        """The setting, or a default that is noted down."""
        value = self.get(name)
        if value is None:
            self.assumed.append(f"{name}={default}")
            return default
        return value

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Compares settings with what the weights' shapes say.

        Raises:
            UsageError: some differ; all are listed.
        """
        wrong = [
            f"{name} is {self.get(name)}, the weights have {there}"
            for name, there in shapes.items()
            if self.get(name) is not None and self.get(name) != there
        ]
        if wrong:
            raise UsageError(
                f"settings and weights contradict each other: {'; '.join(wrong)}",
                at=self.at,
                hint="leave these out of --set: the weights decide" if self._given else "the file was put together",
            )

    def unused(self) -> list[str]:
        """Names that the user gave and nothing asked for."""
        return sorted(set(self._given) - self._asked)


def flat(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning's hyper-parameters without their nesting.

    VideoGPT and TATS keep an argparse namespace under `args`; MeBT keeps OmegaConf's configs, with `params` in them,
    under `transformer_config` and `mask_config`.
    """
    out: dict[str, Any] = {}
    for key, value in hyper.items():
        if key in ("args", "transformer_config", "mask_config", "data_config") and isinstance(value, Mapping):
            inner = value.get("params", value)
            out.update(inner if isinstance(inner, Mapping) else value)
        else:
            out.setdefault(key, value)
    return out
