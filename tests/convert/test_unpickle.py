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
from vtok.convert.checkpoint import read_checkpoint
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


@pytest.mark.parametrize(
    "text",
    [
        b"\x80\x02cargparse\nNamespace\nctypes\nCodeType\nb.",  # state given to a class
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}X\x08\x00\x00\x00__code__K\x01stb.",  # a function's attributes
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02)))NNtR.",  # a tensor without a storage
        b"\x80\x04\x8c\x08builtins\x8c\x0d__import__.os\x93.",  # a dotted name
        b"\x80\x02\x82\x01.",  # an extension's code
    ],
)
def test_handwritten_pickles_are_refused(text: bytes) -> None:
    with pytest.raises(Exception):  # noqa: B017 - of whatever kind: the reader turns all into one error
        _opcodes(text)


def test_tensors_beyond_their_storage_are_refused() -> None:
    from vtok.convert.unpickle import StoredTensor

    storage = Storage("0", "F32", 10)
    StoredTensor(storage, 4, (2, 3), (3, 1))
    for offset, shape, strides in [(5, (2, 3), (3, 1)), (0, (11,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,))]:
        with pytest.raises(ValueError, match="beyond its storage"):
            StoredTensor(storage, offset, shape, strides)


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
