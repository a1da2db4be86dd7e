"""The pickle inside a torch checkpoint, read without torch and without running any of it.

Allowed are what state dicts are made of (tensors by their storage, ordered dicts), hyper-parameters (argparse's
Namespace, Lightning's AttributeDict, OmegaConf's containers, NumPy numbers and arrays, plain containers) and the names
of classes that Lightning uses as keys. All are stand-ins: see `vtok.inert_pickle`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from vtok.inert_pickle import ARRAY_NAMES, Call, InertUnpickler, Name, RefusedPickle, array_of, bytes_of, dtype_of

STORAGES = {
    "Float": "F32",
    "Double": "F64",
    "Half": "F16",
    "BFloat16": "BF16",
    "Long": "I64",
    "Int": "I32",
    "Short": "I16",
    "Char": "I8",
    "Byte": "U8",
    "Bool": "BOOL",
}
"""torch's storage classes (without `Storage`), and what safetensors calls their values."""

SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes a value."""

_MAX_VALUES = 200_000
_MAX_DEPTH = 40
_MAX_TEXT = 1 << 20
_MAX_BITS = 256
_TEXT_A_VALUE = 32
"""So many letters count as one value."""


class _Fixed:
    """What a pickle made and may not change afterwards: it was checked when it was made."""

    def __setstate__(self, state: Any) -> NoReturn:
        raise RefusedPickle(f"the pickle changes a {type(self).__name__}")


@dataclass(frozen=True)
class Storage(_Fixed):
    """Values that tensors are cut out of: `numel` of `dtype`, kept in the file under `key`."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class StoredTensor(_Fixed):
    """A tensor by its place in a storage: offset, shape and strides count values.

    Raises:
        RefusedPickle: it has no sound shape, or reaches beyond its storage.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        self.must_lie_within(self.storage.numel)

    def must_lie_within(self, values: int) -> None:
        """Checks that no value lies outside the first `values` of the storage.

        Raises:
            RefusedPickle: one does, or the shape is none.
        """
        whole = [self.offset, *self.shape, *self.strides]
        if len(self.shape) != len(self.strides) or len(self.shape) > 8 or any(type(n) is not int for n in whole):
            raise RefusedPickle("a tensor has no sound shape")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if min(whole) < 0 or (0 not in self.shape and last >= values):
            raise RefusedPickle("a tensor reaches beyond its storage")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * SIZES[self.storage.dtype]


class Record:
    """An object of a class that only holds attributes."""

    name = ""
    state: Any = None

    def __new__(cls, *_: Any) -> Record:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Mapping(dict[Any, Any]):
    """A dict of a class of its own; attributes besides its items are left out."""

    name = ""

    def __setstate__(self, state: Any) -> None:
        del state


class _Default(Mapping):
    def __init__(self, *_: Any) -> None:
        super().__init__()


def _standin(base: type, module: str, name: str) -> type:
    return type(base.__name__, (base,), {"name": f"{module}.{name}"})


class _StorageType(Name):
    __slots__ = ("dtype",)

    def __init__(self, name: str, dtype: str) -> None:
        super().__init__(name)
        self.dtype = dtype


def _tensor(storage: Storage, offset: int, shape: Iterable[int], strides: Iterable[int], *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise RefusedPickle("a tensor has no storage")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


class _Makes(Name):
    """A name whose call makes a stand-in at once."""

    __slots__ = ("make",)

    def __init__(self, name: str, make: Any) -> None:
        super().__init__(name)
        self.make = make

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)


def _of_type(make: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """A tensor that has attributes, which are left out."""
    if not isinstance(make, _Makes) or not isinstance(arguments, tuple):
        raise RefusedPickle("a tensor is made in a way that is not known")
    return make(*arguments)


_RECORDS = [
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
    ("omegaconf.dictconfig", "DictConfig"),
    ("omegaconf.listconfig", "ListConfig"),
    ("omegaconf.base", "ContainerMetadata"),
    ("omegaconf.base", "Metadata"),
    ("omegaconf.base", "UnionNode"),
    *[("omegaconf.nodes", f"{kind}Node") for kind in ("Any", "String", "Integer", "Float", "Boolean", "Bytes", "Path")],
]
_MAPPINGS = [
    ("collections", "OrderedDict"),
    ("collections", "Counter"),
    ("pytorch_lightning.utilities.parsing", "AttributeDict"),
    ("lightning_fabric.utilities.data", "AttributeDict"),
    ("lightning.fabric.utilities.data", "AttributeDict"),
]
_MADE_BY_NAME = [
    *[
        (pathlib, name)
        for pathlib in ("pathlib", "pathlib._local")  # the second in Python 3.13
        for name in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
    ],
    *[(builtins, name) for builtins in ("builtins", "__builtin__") for name in ("set", "frozenset", "bytearray")],
    *[(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")],
]
_ONLY_NAMED = [
    *[("torch", f"{kind}{bits}") for kind in ("float", "int") for bits in (16, 32, 64)],
    *[("torch", name) for name in ("bfloat16", "int8", "uint8", "bool")],
    *[
        (builtins, name)
        for builtins in ("builtins", "__builtin__")
        for name in ("bool", "dict", "float", "int", "list", "object", "str", "tuple", "unicode", "long")
    ],
    ("typing", "Any"),
    ("torch", "Tensor"),
    ("torch.nn.parameter", "Parameter"),
    ("pytorch_lightning.utilities.argparse", "_gpus_arg_default"),
    ("pytorch_lightning.utilities.argparse_utils", "_gpus_arg_default"),
]
"""Names that stand in checkpoints as values or keys and are never called."""

_CALLBACKS = ("pytorch_lightning.callbacks.", "lightning.pytorch.callbacks.")
"""Old Lightning keys the states of its callbacks by their classes."""

NAMES: dict[tuple[str, str], Any] = {
    **ARRAY_NAMES,
    **{(module, name): _standin(Record, module, name) for module, name in _RECORDS},
    **{(module, name): _standin(Mapping, module, name) for module, name in _MAPPINGS},
    ("collections", "defaultdict"): _standin(_Default, "collections", "defaultdict"),
    **{(module, name): Name(name) for module, name in _MADE_BY_NAME},
    **{(module, name): Name(f"{module}.{name}") for module, name in _ONLY_NAMED},
    **{
        (module, f"{kind}Storage"): _StorageType(f"{module}.{kind}Storage", dtype)
        for module in ("torch", "torch.cuda")
        for kind, dtype in STORAGES.items()
    },
    ("torch", "Size"): _Makes("torch.Size", tuple),
    ("torch", "device"): _Makes("torch.device", lambda *parts: ":".join(map(str, parts))),
    ("torch._utils", "_rebuild_tensor"): _Makes("_rebuild_tensor", _tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Makes("_rebuild_tensor_v2", _tensor),
    **{
        ("torch._utils", name): _Makes(name, lambda tensor, *_: tensor)
        for name in ("_rebuild_parameter", "_rebuild_parameter_with_state")
    },
    ("torch._tensor", "_rebuild_from_type_v2"): _Makes("_rebuild_from_type_v2", _of_type),
}
"""Stand-ins by module and name: everything that a checkpoint may ask for."""


class CheckpointUnpickler(InertUnpickler):
    """Reads the pickle of a checkpoint; storages become `Storage`, by their key.

    Raises:
        RefusedPickle: from `load`: it asks for a name that is not allowed, or for a tensor that cannot be.
        Exception: from `load`: anything, if it is damaged.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, NAMES, "weights and plain hyper-parameters")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}".startswith(_CALLBACKS) and "." not in name:
            return Name(f"{module}.{name}")
        return super().find_class(module, name)

    def persistent_load(self, found: Any) -> Storage:
        if not isinstance(found, tuple) or len(found) < 5 or found[0] != "storage":
            what = found[0] if isinstance(found, tuple) and found else found
            what = ascii(what)[:40] if isinstance(what, str) else type(what).__name__
            raise RefusedPickle(f"the pickle holds a whole {what} instead of its weights")
        _, kind, key, _, numel, *view = found
        sound = isinstance(key, str | int) and type(numel) is int and numel >= 0 and not (view and view[0] is not None)
        if not sound or not isinstance(kind, _StorageType):
            raise RefusedPickle("a storage is of a kind that is not read")
        storage = Storage(str(key), kind.dtype, numel)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise RefusedPickle(f"storage {storage.key} is described twice, differently")
        return storage


def plain(found: Any) -> Any:
    """Stand-ins as values that JSON can hold: namespaces and OmegaConf's containers as dicts and lists.

    Raises:
        RefusedPickle: too many values, or a value that no hyper-parameter has.
    """
    return _Plain().of(found, 0)


class _Plain:
    def __init__(self) -> None:
        self._left = _MAX_VALUES

    def of(self, found: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            raise RefusedPickle("the hyper-parameters hold too many values, or hold themselves")
        if isinstance(found, int) and found.bit_length() > _MAX_BITS:
            raise RefusedPickle("the hyper-parameters hold a very long number")
        if found is None or isinstance(found, bool | int | float):
            return found
        if isinstance(found, str | bytes):
            text = found.decode("latin1") if isinstance(found, bytes) else found
            if len(text) > _MAX_TEXT:
                raise RefusedPickle("the hyper-parameters hold a very long text")
            self._left -= len(text) // _TEXT_A_VALUE
            return text
        if isinstance(found, dict):
            return {str(self._key(key)): self.of(value, depth + 1) for key, value in found.items()}
        if isinstance(found, list | tuple | set | frozenset):
            return [self.of(value, depth + 1) for value in found]
        if isinstance(found, Record):
            return self._record(found, depth)
        if isinstance(found, StoredTensor):
            return f"tensor of shape {list(found.shape)}"
        if isinstance(found, Name):
            return found.name
        if isinstance(found, type) and issubclass(found, Record | Mapping):
            return found.name
        if isinstance(found, Call):
            return self._call(found, depth)
        raise RefusedPickle(f"the hyper-parameters hold a {type(found).__name__}")

    def _key(self, key: Any) -> Any:
        return key if isinstance(key, str | int | float | bool) else self.of(key, _MAX_DEPTH)

    def _record(self, record: Record, depth: int) -> Any:
        state = record.state if isinstance(record.state, dict) else {}
        if not record.name.startswith("omegaconf."):
            return self.of(state, depth + 1)
        content = state.get("_content", state.get("_val"))
        return self.of(content, depth + 1)

    def _call(self, call: Call, depth: int) -> Any:
        if call.name in ("set", "frozenset"):
            return self.of(list(*call.arguments), depth + 1)
        if call.name.endswith("Path"):
            return "/".join(str(self.of(part, depth + 1)) for part in call.arguments)
        if call.name in ("bytes", "encode", "bytearray"):
            return bytes_of(call).decode("latin1")
        if call.name == "scalar":
            kind, block = dtype_of(call.arguments[0]), bytes_of(call.arguments[1])
            return self.of(_numbers(block, kind), depth + 1)
        array = array_of(call)
        if max((array.size, *array.shape)) > _MAX_VALUES:
            raise RefusedPickle("the hyper-parameters hold a large array")
        return self.of(array.tolist(), depth + 1)


def _numbers(block: bytes, kind: Any) -> Any:
    import numpy as np

    (value,) = np.frombuffer(block, kind).tolist()
    return value
