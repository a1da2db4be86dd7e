"""Typed configs. A recipe is one YAML file with a section a stage; every stage's command takes the same recipe."""

from schemas.config.base import Config, fingerprint
from schemas.config.run import Recipe, load_recipe

__all__ = ["Config", "Recipe", "fingerprint", "load_recipe"]
