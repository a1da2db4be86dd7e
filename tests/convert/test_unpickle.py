"""A checkpoint's pickle is read and never run: every way to make it run something is refused by name."""

from __future__ import annotations

import argparse
import builtins
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.errors import IntegrityError, UsageError, VtokError
from tests.convert.lightning import namespace, omega, save
from vtok.convert import checkpoint
from vtok.convert.archive import open_archive
from vtok.convert.checkpoint import read_checkpoint
from vtok.convert.child import _values
from vtok.convert.unpickle import CheckpointUnpickler, Storage, plain


def _state() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0)
    return {
        "a.weight": base.view(4, 6),
        "a.part": base.view(4, 6)[1:, ::2],
        "a.turned": base.view(4, 6).t(),
        "a.wide": torch.tensor(3.5).expand(2, 3),
        "count": torch.tensor(7),
        "half": torch.arange(5.0).half(),
        "brain": torch.arange(5.0).bfloat16(),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "blocks.0.attn.mask": torch.ones(4, 4),
        "image_discriminator.model0.0.weight": torch.ones(3),
    }


@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
def test_tensors_and_hyper_parameters(stream: bool, tmp_path: Path) -> None:
    state = _state()
    hyper = {
        "args": namespace({"downsample": (4, 8, 8), "lr": 3e-5, "missing": None, "odd": {1, 2}}),
        "number": np.float64(0.5),
        "numbers": np.arange(3, dtype=np.int32),
        "mask_config": omega({"params": {"shape": [4, 16, 16], "budget": 512}}),
        "where": Path("logs") / "x",
    }
    found = read_checkpoint(save(tmp_path / "a.ckpt", state, hyper, stream=stream))
    left_out = {"blocks.0.attn.mask": [4, 4], "image_discriminator.model0.0.weight": [3]}
    assert (found.container, found.left_out) == ("stream" if stream else "zip", left_out)
    assert set(found.tensors) == set(state) - set(left_out)
    for name, tensor in found.tensors.items():
        wanted = state[name].detach()
        assert torch.equal(tensor, wanted.float() if wanted.is_floating_point() else wanted), name
    assert found.hyper["args"]["downsample"] == [4, 8, 8]
    assert found.hyper["args"]["odd"] == [1, 2]
    assert (found.hyper["number"], found.hyper["numbers"]) == (0.5, [0, 1, 2])
    assert found.hyper["mask_config"] == {"params": {"shape": [4, 16, 16], "budget": 512}}
    assert found.hyper["where"] == "logs/x"
    assert found.facts == {"epoch": 12, "global_step": 29999, "pytorch-lightning_version": "1.5.4"}


def test_a_bare_state_dict(tmp_path: Path) -> None:
    torch.save(OrderedDict(w=torch.ones(2)), tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    assert (list(found.tensors), found.hyper) == (["w"], {})


class _Runs:
    """Pickles to a call of any function."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def _attacks(mark: Path) -> dict[str, tuple[Any, str]]:
    touch = f"touch {mark}"
    code = f"__import__('os').system({touch!r})"
    return {
        "os.system": (_Runs(os.system, touch), "posix.system"),
        "eval": (_Runs(builtins.eval, code), "eval"),
        "exec": (_Runs(builtins.exec, code), "exec"),
        "subprocess": (_Runs(subprocess.call, ["touch", str(mark)]), "commands.call"),
        "getattr": (_Runs(builtins.getattr, "", "upper"), "getattr"),
        "partial": (partial(os.system, touch), "functools.partial"),
        "nested": (argparse.Namespace(a=OrderedDict(b=[(_Runs(os.system, touch),)])), "posix.system"),
        "numpy's load": (_Runs(np.load, str(mark)), "numpy.load"),
        "torch's load": (_Runs(torch.load, str(mark)), "torch.serialization.load"),
        "open": (_Runs(builtins.open, str(mark), "w"), "open"),
    }


@pytest.mark.parametrize("attack", list(_attacks(Path("x"))))
def test_attacks_are_refused_by_name(attack: str, tmp_path: Path) -> None:
    """Read in this process, to be quick; the child that reads real files uses the same class.

    Protocol 2, which torch uses, spells some names as Python 2 did.
    """
    mark = tmp_path / "ran"
    bomb, name = _attacks(mark)[attack]
    data = pickle.dumps({"state_dict": {}, "hyper_parameters": bomb}, protocol=2)
    path = tmp_path / "bomb.pkl"
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(ValueError, match=name):
        CheckpointUnpickler(file).load()
    assert not mark.exists()


def test_an_attack_in_a_real_file_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    bomb = _Runs(os.system, f"touch {mark}")
    for stream in (False, True):
        path = save(tmp_path / "a.ckpt", _state(), {"args": bomb}, stream=stream)
        with pytest.raises(UsageError, match=r"refused: the pickle asks for posix\.system"):
            read_checkpoint(path)
        assert not mark.exists()
    pickle.loads(pickle.dumps(bomb))  # noqa: S301 - the point of the test
    assert mark.exists(), "the attack works where pickles are run"


def _opcodes(text: bytes) -> Any:
    """Reads a handwritten pickle."""
    import io

    return CheckpointUnpickler(io.BytesIO(text)).load()


_STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x10tQ"
_TENSOR = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + _STORAGE + b"K\x00K\x04\x85K\x01\x85\x89}tR"
"""4 of a storage's 16 values, and what they lie in."""


def _state_of(**values: Any) -> bytes:
    """Opcodes that put a state on the stack."""
    return pickle.dumps(values, protocol=2)[2:-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\x80\x02cargparse\nNamespace\nctypes\nCodeType\nb.", "types.CodeType"),
        (b"\x80\x02cargparse\nNamespace\n}b.", "missing"),  # state given to a class
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "missing"),
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00__code__K\x01s\x86b.",
            "changes _rebuild_tensor_v2",
        ),  # a function's attributes
        (b"\x80\x02ctorch\nFloatStorage\n" + _state_of(dtype="F64") + b"b.", "changes torch.FloatStorage"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02)))NNtR.", "no storage"),
        (b"\x80\x04\x8c\x08builtins\x8c\x0d__import__.os\x93.", "__import__.os"),
        (b"\x80\x02\x82\x01.", "unregistered extension code"),
        (_TENSOR + _state_of(strides=(256,)) + b"b.", "changes a StoredTensor"),
        (_TENSOR + _state_of(strides=(1 << 40,)) + b"b.", "changes a StoredTensor"),
        (_TENSOR + _state_of(offset=1 << 20) + b"b.", "changes a StoredTensor"),
        (_TENSOR + _state_of(shape=(1 << 20,)) + b"b.", "changes a StoredTensor"),
        (_TENSOR + b"N" + _state_of(strides=(256,)) + b"\x86b.", "changes a StoredTensor"),  # a slots' state
        (_TENSOR + b"q\x000h\x00" + _state_of(strides=(256,)) + b"b.", "changes a StoredTensor"),  # by the memo
        (_TENSOR + _state_of(must_lie_within=None) + b"b.", "changes a StoredTensor"),
        (b"\x80\x02" + _STORAGE + _state_of(numel=1 << 40) + b"b.", "changes a Storage"),
        (b"\x80\x02" + _STORAGE + _state_of(dtype="F64") + b"b.", "changes a Storage"),
        (_TENSOR.replace(b"K\x01\x85\x89", b"M\x00\x01\x85\x89") + b".", "beyond its storage"),
        (_TENSOR.replace(b"K\x10tQ", b"J\xff\xff\xff\xfftQ") + b".", "not read"),  # -1 values
        (_TENSOR.replace(b"X\x01\x00\x00\x000", b")") + b".", "not read"),  # a key that is no text
    ],
)
def test_handwritten_pickles_are_refused(text: bytes, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        _opcodes(text)


def test_the_handwritten_tensor_is_one() -> None:
    """Without what the pickles above do to it."""
    found = _opcodes(_TENSOR + b".")
    assert (found.storage.numel, found.offset, found.shape, found.strides) == (16, 0, (4,), (1,))


def test_attributes_never_hide_methods() -> None:
    """State of an object becomes its attributes elsewhere; here it is only kept."""
    for made in (
        b"cargparse\nNamespace\n)R",
        b"ccollections\nOrderedDict\n)R",
        b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR",
    ):
        found = _opcodes(b"\x80\x02" + made + _state_of(__setstate__=1, items=2, name="x", __class__=3) + b"b.")
        assert not set(getattr(found, "__dict__", {})) - {"state"}
        assert callable(found.__setstate__)
        assert getattr(found, "name", "dtype") != "x"


@pytest.mark.parametrize(
    ("field", "value"), [("strides", (256,)), ("strides", (1 << 40,)), ("offset", 1 << 20), ("shape", (1 << 20,))]
)
def test_values_are_cut_out_of_what_was_read(field: str, value: Any) -> None:
    """Even a tensor that got past the first check."""
    tensor = _opcodes(_TENSOR + b".")
    assert _values(bytes(64), tensor) == bytes(16)
    with pytest.raises(ValueError, match="beyond its storage"):
        _values(bytes(8), tensor)
    object.__setattr__(tensor, field, value)
    with pytest.raises(ValueError, match="beyond its storage"):
        _values(bytes(64), tensor)


def _entries(path: Path, edit: Any) -> Path:
    """The zip file with some entries' bytes changed."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in found.items():
            archive.writestr(name, edit(name, data))
    return path


def test_a_storage_that_is_said_to_be_larger_than_the_file(tmp_path: Path) -> None:
    """Its size stands in the pickle, in the zip's directory or in the stream: none is believed."""
    huge = 1 << 40

    def read_here(path: Path) -> None:
        with open_archive(path) as archive:
            archive.read(archive.root["state_dict"]["w"].storage)

    def with_values(number: bytes) -> Any:
        def edit(name: str, data: bytes) -> bytes:
            assert data.count(b"M\xf4\x01tq") == name.endswith("data.pkl")
            return data.replace(b"M\xf4\x01tq", number + b"tq")

        return edit

    path = save(tmp_path / "a.ckpt", {"w": torch.arange(500.0)}, {})
    with pytest.raises(ValueError, match="data/0 has 2000 bytes instead of"):
        read_here(_entries(path, with_values(b"\x8a\x06" + huge.to_bytes(6, "little"))))

    path = save(tmp_path / "b.ckpt", {"w": torch.arange(500.0)}, {}, stream=True)
    data = path.read_bytes()
    assert data.count(b"M\xf4\x01N") == data.count((500).to_bytes(8, "little")) == 1
    data = data.replace(b"M\xf4\x01N", b"\x8a\x06" + huge.to_bytes(6, "little") + b"N")
    path.write_bytes(data.replace((500).to_bytes(8, "little"), huge.to_bytes(8, "little")))
    with pytest.raises(ValueError, match="cut short"):
        read_here(path)

    path = save(tmp_path / "c.ckpt", {"w": torch.arange(500.0)}, {})
    data = _entries(path, with_values(b"J" + (0x3FFFFFFC).to_bytes(4, "little"))).read_bytes()
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(b"data/0"))
    assert data[place + 20 : place + 28] == (2000).to_bytes(4, "little") * 2, "the entry's size, twice"
    path.write_bytes(data[: place + 20] + (0xFFFFFFF0).to_bytes(4, "little") * 2 + data[place + 28 :])
    with pytest.raises(ValueError, match="longer than the whole file"):
        read_here(path)


def test_tensors_beyond_their_storage_are_refused() -> None:
    from vtok.convert.unpickle import StoredTensor

    storage = Storage("0", "F32", 10)
    StoredTensor(storage, 4, (2, 3), (3, 1))
    for offset, shape, strides in [(5, (2, 3), (3, 1)), (0, (11,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,))]:
        with pytest.raises(ValueError, match="beyond its storage"):
            StoredTensor(storage, offset, shape, strides)


def test_values_of_other_pythons_and_libraries() -> None:
    """Names that no test can make here: Python 3.13's paths, OmegaConf's unions; and a scheduler's counter."""
    path = b"cpathlib._local\nPosixPath\n(X\x01\x00\x00\x00aX\x01\x00\x00\x00btR"
    union = b"comegaconf.base\nUnionNode\n)\x81" + _state_of(_content=7) + b"b"
    counter = b"ccollections\nCounter\n}K\x05K\x01s\x85R"
    found = _opcodes(b"\x80\x02(" + path + union + counter + b"l.")
    assert plain(found) == ["a/b", 7, {"5": 1}]


def test_a_tensor_made_in_an_unknown_way_is_refused() -> None:
    bare = b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cnumpy\nndarray\nctorch\nTensor\n)}tR."
    with pytest.raises(ValueError, match="not known"):
        _opcodes(bare)


def test_long_numbers_and_arrays_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="very long number"):
        plain({"seed": 1 << 5000})
    with pytest.raises(ValueError, match="too many values"):
        plain(["x" * (1 << 20)] * 10)
    endless = np.empty((1 << 40, 0))
    data = pickle.dumps(endless, protocol=2)
    with pytest.raises(ValueError, match="large array"):
        plain(_opcodes(data))


def test_values_without_end_are_refused() -> None:
    doubled: list[Any] = [0]
    for _ in range(30):
        doubled = [doubled, doubled]
    itself: list[Any] = []
    itself.append(itself)
    for found in (doubled, itself):
        with pytest.raises(ValueError, match="too many values"):
            plain(found)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    data[info.header_offset + 200] ^= 1
    path.write_bytes(data)


def _page(path: Path) -> None:
    path.write_text("<html>Google Drive: quota exceeded</html>")


def _zip_of_something(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (_truncated, IntegrityError, "cut short"),
        (_flipped, IntegrityError, "damaged"),
        (_page, UsageError, "a download that did not work"),
        (_zip_of_something, UsageError, "no data.pkl"),
    ],
)
def test_files_that_are_no_checkpoint(spoil: Any, kind: type[VtokError], words: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", {"w": torch.arange(500.0)}, {})
    spoil(path)
    with pytest.raises(kind, match=words):
        read_checkpoint(path)


def test_a_fault_of_ours_is_not_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}}, tmp_path / "a.ckpt")
    monkeypatch.setattr(checkpoint, "_MODULE", "tests.convert.faulty_child")
    with pytest.raises(VtokError, match="a fault of vtok") as caught:
        read_checkpoint(tmp_path / "a.ckpt")
    assert "Traceback" in caught.value.what and "ZeroDivisionError: no such number" in caught.value.what
    assert "no fault of the checkpoint" in caught.value.hint
