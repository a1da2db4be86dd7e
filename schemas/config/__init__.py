"""Typed configs. A recipe is one YAML file with a section a stage; every stage's command takes the same recipe."""

from typing import TYPE_CHECKING, Any

from schemas.config.base import Config, fingerprint

if TYPE_CHECKING:
    from schemas.config.run import Recipe, load_recipe

__all__ = ["Config", "Recipe", "fingerprint", "load_recipe"]


def __getattr__(name: str) -> Any:
    """Recipes come when they are asked for: their models take pydantic a fifth of a second, and a card needs none."""
    if name in ("Recipe", "load_recipe"):
        from schemas.config import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
