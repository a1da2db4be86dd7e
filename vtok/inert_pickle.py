"""Pickles whose names lead to inert stand-ins: nothing that a pickle asks for is imported or run.

A pickle is a program that may call anything by name. Here a name of the allowed ones leads to an object that only
keeps what it is given; what was meant is made from that afterwards. Any other name is refused. Arrays of numbers, which
STFT files and checkpoints both hold, are read here; `vtok.convert.unpickle` knows the names of checkpoints.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from typing import IO, Any, NoReturn

import numpy as np


class RefusedPickle(ValueError):
    """The pickle is damaged, or asks for something that is not allowed.

    Attributes:
        name: the `module.name` that was refused; empty where something else is wrong.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class Name:
    """A name that a pickle may ask for; calling it keeps the arguments."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> Call:
        return Call(self.name, arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise RefusedPickle(f"the pickle changes {self.name}")


class Call:
    """What the pickle wants called, with which arguments, and the state that it gives to the result."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


ARRAY_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Name("ndarray"),
    ("numpy", "dtype"): Name("dtype"),
    ("_codecs", "encode"): Name("encode"),
    **{(builtins, "bytes"): Name("bytes") for builtins in ("__builtin__", "builtins")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Name("_reconstruct") for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): Name("_frombuffer") for core in ("core", "_core")},
}
"""The names that a pickled array of numbers uses."""


class InertUnpickler(pickle.Unpickler):
    """Reads a pickle of which `names` are allowed.

    Args:
        file: the pickle.
        names: stand-ins by module and name.
        what: what is read instead, for the message about a refused name.
    """

    def __init__(self, file: IO[bytes], names: Mapping[tuple[str, str], Any], what: str) -> None:
        super().__init__(file, encoding="latin1")
        self._names, self._what = names, what

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            asked = ascii(f"{module}.{name}")[1:-1][:120]
            raise RefusedPickle(f"the pickle asks for {asked}; only {self._what} are read", asked) from None


def array_of(found: Any) -> np.ndarray:
    """The array that a pickle means.

    Raises:
        RefusedPickle: it means something else.
        Exception: anything, if the pickle is damaged.
    """
    if isinstance(found, Call) and found.name == "_reconstruct":
        _, shape, dtype, columns_first, raw = found.state
        order, axes = "F" if columns_first else "C", []
    elif isinstance(found, Call) and found.name == "_frombuffer":
        raw, dtype, shape, order, *axes = found.arguments
    else:
        raise RefusedPickle("the pickle holds something else than one array")
    kind, block = dtype_of(dtype), bytes_of(raw)
    shape = tuple(int(side) for side in shape)
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(block) or order not in ("C", "F", "K"):
        raise RefusedPickle(f"the pickled array of shape {shape} has {len(block)} bytes")
    if order == "F":
        return np.frombuffer(block, kind).reshape(shape[::-1]).T
    array = np.frombuffer(block, kind).reshape(shape)
    return array.transpose(axes[0]) if order == "K" else array


def dtype_of(found: Any) -> np.dtype[Any]:
    """A type of plain numbers; its byte order is the first text of its state."""
    if not (isinstance(found, Call) and found.name == "dtype"):
        raise RefusedPickle("the pickled array has no type")
    code = found.arguments[0]
    code = code.decode("latin1") if isinstance(code, bytes) else code
    if code not in {"b1", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8"}:
        raise RefusedPickle(f"the pickled array is of type {ascii(code)[:40]}")
    swapped = found.state is not None and found.state[1] in (">", b">")
    return np.dtype(code).newbyteorder(">" if swapped else "<")


def bytes_of(found: Any) -> bytes:
    """Raw bytes, which old protocols spell as text in Latin-1."""
    if isinstance(found, Call) and found.name == "bytes" and not found.arguments:
        return b""  # as protocols before 3 spell it
    if isinstance(found, Call) and found.name == "encode":
        found = found.arguments[0]
    return found.encode("latin1") if isinstance(found, str) else bytes(memoryview(found))
