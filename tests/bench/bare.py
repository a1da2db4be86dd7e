"""Running our model code where only torch and numpy are installed, as on a rented GPU machine.

The models take their configs and annotations from pydantic and jaxtyping; recipes and weights are read by PyYAML and
safetensors. Where one of them is missing, `prepare` puts a small stand-in in its place, with just enough to make a
config from keyword arguments and to import what uses it: nothing is checked, no file can be read. Where they are
installed nothing changes. It must run before anything of ours is imported.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any


class _Field:
    """What a config's field has without a value."""

    def __init__(self, default: Any = None, *, default_factory: Callable[[], Any] | None = None, **_: Any) -> None:
        self.default, self.factory = default, default_factory

    def make(self) -> Any:
        """A new default."""
        return copy.deepcopy(self.default) if self.factory is None else self.factory()


class _Model:
    """A config: its fields are the annotated names of its classes."""

    def __init__(self, **values: Any) -> None:
        for name in self._names():
            default = getattr(type(self), name, None)
            self.__dict__[name] = default.make() if isinstance(default, _Field) else copy.deepcopy(default)
        unknown = set(values) - set(self.__dict__)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        self.__dict__.update(values)

    @classmethod
    def _names(cls) -> list[str]:
        found: dict[str, None] = {}
        for base in reversed(cls.__mro__):
            found |= dict.fromkeys(name for name in inspect.get_annotations(base) if name != "model_config")
        return list(found)

    def model_copy(self, *, update: dict[str, Any] | None = None) -> Any:
        """The same with other values."""
        return type(self)(**{**self.__dict__, **(update or {})})


class _Subscript:
    """Anything that annotations subscript."""

    def __class_getitem__(cls, _: Any) -> Any:
        return Any


def _passing(*_: Any, **__: Any) -> Any:
    """A decorator that leaves its function alone, or a marker in an annotation."""
    return lambda function: function


def _pydantic() -> dict[str, Any]:
    return {
        "BaseModel": _Model,
        "ConfigDict": dict,
        "Discriminator": _passing,
        "Field": _Field,
        "Tag": _passing,
        "TypeAdapter": _passing,
        "ValidationError": type("ValidationError", (ValueError,), {}),
        "field_validator": _passing,
        "model_validator": _passing,
    }


def _jaxtyping() -> dict[str, Any]:
    names = ("Bool", "Float", "Float32", "Float64", "Int", "Int32", "Int64", "Integer", "Shaped", "UInt8")
    return dict.fromkeys(names, _Subscript)


def _error(name: str) -> Callable[[], dict[str, Any]]:
    return lambda: {name: type(name, (ValueError,), {})}


STAND_INS: dict[str, Callable[[], dict[str, Any]]] = {
    "pydantic": _pydantic,
    "jaxtyping": _jaxtyping,
    "yaml": _error("YAMLError"),
    "safetensors": _error("SafetensorError"),
    "safetensors.torch": lambda: dict.fromkeys(("load", "load_file", "save")),
}


def prepare() -> list[str]:
    """Puts stand-ins where packages are missing; returns their names."""
    missing = [name for name in STAND_INS if name not in sys.modules and _is_missing(name)]
    for name in missing:
        module = types.ModuleType(name, "a stand-in of tests/bench/bare.py")
        module.__dict__.update(STAND_INS[name]())
        sys.modules[name] = module
    return missing


def _is_missing(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is None
    except ModuleNotFoundError:
        return True
