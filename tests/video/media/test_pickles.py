from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtok.video.errors import VideoError
from vtok.video.media.pickles import read_pickled_array

KINDS = ["<f4", ">f4", "<f8", "<f2", "u1", "<i8", ">u2", "?"]


def _array(kind: str) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 2 if kind == "?" else 100, (5, 4, 3))
    return values.astype(np.dtype(kind))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_every_protocol(kind: str, protocol: int) -> None:
    plain = _array(kind)
    for array in (plain, np.asfortranarray(plain), plain[::2], plain.transpose(2, 0, 1), plain[:0], plain.reshape(-1)):
        found = read_pickled_array(pickle.dumps(array, protocol))
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_an_array_of_an_old_numpy_and_python() -> None:
    """Protocol 2 as Python 2 wrote it: the bytes are `str`, and the module is numpy.core."""
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    text = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R("
        b"K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x18" + array.tobytes() + b"tb."
    )
    np.testing.assert_array_equal(read_pickled_array(text), array)


class _Runs:
    """Pickles to a call of any function."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_that_a_pickle_asks_for_runs(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    data = pickle.dumps(_Runs(os.system, f"touch {mark}"), protocol)
    pickle.loads(data)  # noqa: S301 - the point of the test
    assert mark.exists()  # it is a pickle that runs
    mark.unlink()
    with pytest.raises(VideoError, match=r"asks for (posix|nt)\.system") as caught:
        read_pickled_array(data)
    assert caught.value.reason == "corrupt" and not mark.exists()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (eval, r"builtins\.eval"),
        (getattr, r"builtins\.getattr"),
        (np.load, r"numpy\.load"),
        (np.frombuffer, r"numpy\.\w*\.?\w*\.?frombuffer"),
        (pickle.loads, r"_pickle\.loads"),
        (Path, r"pathlib\.\w*\.?Path"),
    ],
)
def test_names_are_refused_by_name(call: Any, name: str) -> None:
    with pytest.raises(VideoError, match=f"asks for {name};"):
        read_pickled_array(pickle.dumps(_Runs(call, "1"), 4))


def test_a_name_with_line_ends_and_dots_stays_in_one_line() -> None:
    data = b"\x80\x04\x8c\x08numpy\nx.\x8c\x0fdtype.__class__\x93."
    with pytest.raises(VideoError) as caught:
        read_pickled_array(data)
    assert "\n" not in caught.value.detail and "dtype.__class__" in caught.value.detail


@pytest.mark.parametrize(
    "held",
    [
        {"a": 1},
        [np.zeros(3)],
        None,
        np.float32(3),
        np.array([{}, None], object),
        np.array(["text"]),
        np.zeros(2, [("a", "f4")]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, "c8"),
        np.dtype("f4"),
        np.ndarray,
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_anything_but_an_array_of_numbers_is_refused(held: Any, protocol: int) -> None:
    with pytest.raises(VideoError) as caught:
        read_pickled_array(pickle.dumps(held, protocol))
    assert caught.value.reason == "corrupt"


def _reduced(shape: Any, raw: bytes, kind: str = "f4") -> bytes:
    """A pickle of an array whose parts do not fit together."""
    array = np.arange(6, dtype="<f4")
    data = pickle.dumps(array, 2)
    sink = io.BytesIO()

    class Odd:
        def __reduce__(self) -> Any:
            rebuild, arguments, _ = array.__reduce__()
            return rebuild, arguments, (1, shape, np.dtype(kind), False, raw)

    pickle.Pickler(sink, 2).dump(Odd())
    assert sink.getvalue() != data
    return sink.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        _reduced((1 << 40,), bytes(24)),
        _reduced((-6,), bytes(24)),
        _reduced((-2, -3), bytes(24)),
        _reduced(("a",), bytes(24)),
        _reduced(3, bytes(24)),
        _reduced((6,), bytes(23)),
        pickle.dumps(np.arange(6), 5)[:-20],
        b"",
        b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"no pickle",
        b"\x80\x02cnumpy\ndtype\n}b.",
        b"\x80\x02cnumpy\ndtype\n)\x81.",
        b"\x80\x02cnumpy\ndtype\nN}\x8c\x08__code__K\x01s\x86b.",
    ],
)
def test_damaged_pickles(data: bytes) -> None:
    with pytest.raises(VideoError) as caught:
        read_pickled_array(data)
    assert caught.value.reason == "corrupt"


def test_every_flipped_byte_of_a_pickle_is_an_array_or_an_error() -> None:
    data = pickle.dumps(np.arange(4, dtype="<f4"), 4)
    assert len(list(pickletools.genops(data))) > 10
    for position in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[position] ^= flip
            with contextlib.suppress(VideoError, MemoryError):
                assert read_pickled_array(bytes(changed)).dtype.kind in "fiub"
