"""Reads one NumPy array out of a pickle, and runs nothing that the pickle asks for.

A pickle is a program that may call anything by name. Here the few names that a pickled array of numbers uses lead to
inert stand-ins, which only keep what they are given; the array is made from that afterwards. Any other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any, NoReturn

import numpy as np

from vtok.video.errors import VideoError


class _Name:
    """A name that a pickle may ask for; calling it keeps the arguments."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> _Call:
        return _Call(self.name, arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise VideoError("corrupt", f"the pickle changes {self.name}")


class _Call:
    """What the pickle wants called, with which arguments, and the state that it gives to the result."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


_NAMES = {
    ("numpy", "ndarray"): _Name("ndarray"),
    ("numpy", "dtype"): _Name("dtype"),
    ("_codecs", "encode"): _Name("encode"),
    **{(builtins, "bytes"): _Name("bytes") for builtins in ("__builtin__", "builtins")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Name("_reconstruct") for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Name("_frombuffer") for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            asked = ascii(f"{module}.{name}")[1:-1][:120]
            raise VideoError("corrupt", f"the pickle asks for {asked}; only arrays of numbers are read") from None


def read_pickled_array(data: bytes) -> np.ndarray:
    """The array that a pickle holds, made by any NumPy and any protocol.

    Args:
        data: the pickle.

    Raises:
        VideoError: corrupt: it is damaged, holds something else, or asks for a name that no array of numbers needs.
    """
    try:
        return _array(_Unpickler(io.BytesIO(data), encoding="latin1").load())
    except (VideoError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise VideoError("corrupt", f"the pickle is damaged: {type(error).__name__}") from None


def _array(found: Any) -> np.ndarray:
    if isinstance(found, _Call) and found.name == "_reconstruct":
        _, shape, dtype, columns_first, raw = found.state
        order, axes = "F" if columns_first else "C", []
    elif isinstance(found, _Call) and found.name == "_frombuffer":
        raw, dtype, shape, order, *axes = found.arguments
    else:
        raise VideoError("corrupt", "the pickle holds something else than one array")
    kind, block = _dtype(dtype), _bytes(raw)
    shape = tuple(int(side) for side in shape)
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(block) or order not in ("C", "F", "K"):
        raise VideoError("corrupt", f"the pickled array of shape {shape} has {len(block)} bytes")
    if order == "F":
        return np.frombuffer(block, kind).reshape(shape[::-1]).T
    array = np.frombuffer(block, kind).reshape(shape)
    return array.transpose(axes[0]) if order == "K" else array


def _dtype(found: Any) -> np.dtype[Any]:
    """A type of plain numbers; its byte order is the first text of its state."""
    if not (isinstance(found, _Call) and found.name == "dtype"):
        raise VideoError("corrupt", "the pickled array has no type")
    code = found.arguments[0]
    code = code.decode("latin1") if isinstance(code, bytes) else code
    if code not in {"b1", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8"}:
        raise VideoError("corrupt", f"the pickled array is of type {ascii(code)[:40]}")
    swapped = found.state is not None and found.state[1] in (">", b">")
    return np.dtype(code).newbyteorder(">" if swapped else "<")


def _bytes(found: Any) -> bytes:
    """Raw bytes, which old protocols spell as text in Latin-1."""
    if isinstance(found, _Call) and found.name == "bytes" and not found.arguments:
        return b""  # as protocols before 3 spell it
    if isinstance(found, _Call) and found.name == "encode":
        found = found.arguments[0]
    return found.encode("latin1") if isinstance(found, str) else bytes(memoryview(found))
