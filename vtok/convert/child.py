"""The process that reads a checkpoint: `python -m vtok.convert.child CKPT FOLDER`.

It imports no torch, has limits on memory, time and what it writes, and leaves `tensors.safetensors` and `facts.json` in
FOLDER. What is wrong with the file goes to `error.json` instead.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vtok.convert.archive import Archive, DamagedCheckpoint, NotACheckpoint, open_archive
from vtok.convert.unpickle import SIZES, StoredTensor, plain
from vtok.inert_pickle import RefusedPickle

LEFT_OUT = re.compile(r"(^|\.)(image_discriminator|video_discriminator|perceptual_model)\.|\.attn\.mask$")
"""Tensors that stay in the checkpoint: what only training needs, and masks, which follow from the config."""

_STATES = ("state_dict", "module", "model", "model_state_dict")
"""Where the weights are: Lightning, DeepSpeed, and what people write by hand."""

_HYPER = ("hyper_parameters", "hparams", "module_arguments")
_FACTS = ("epoch", "global_step", "pytorch-lightning_version")
_CPU_SECONDS = 900
_MEMORY = 2 << 30


def main(arguments: list[str]) -> int:
    """0: tensors and facts are written; 1: an error is."""
    source, folder = Path(arguments[0]), Path(arguments[1])
    _limit(source.stat().st_size)
    try:
        with open_archive(source) as archive:
            facts = _transfer(archive, folder, source.stat().st_size)
    except NotACheckpoint as error:
        kind = "damaged" if isinstance(error, DamagedCheckpoint) else "other"
        return _fail(folder, {"kind": kind, "message": str(error)})
    except RefusedPickle as error:
        return _fail(folder, {"kind": "refused", "message": str(error), "name": error.name})
    except MemoryError:
        return _fail(folder, {"kind": "damaged", "message": "it asks for more memory than its size explains"})
    (folder / "facts.json").write_text(json.dumps(facts))
    return 0


def _limit(size: int) -> None:
    """A file may ask for what its size explains, not more."""
    for which, most in (
        (resource.RLIMIT_AS, _MEMORY + 2 * size),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_FSIZE, (64 << 20) + 4 * size),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(which)
        resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _fail(folder: Path, error: dict[str, Any]) -> int:
    (folder / "error.json").write_text(json.dumps(error))
    return 1


def _transfer(archive: Archive, folder: Path, size: int) -> dict[str, Any]:
    root = archive.root
    if not isinstance(root, dict):
        raise NotACheckpoint(f"the checkpoint holds a {type(root).__name__}, not a mapping")
    state = next((root[name] for name in _STATES if _tensors(root.get(name))), root)
    tensors = _tensors(state)
    if not tensors:
        names = sorted(key for key in root if isinstance(key, str))
        raise NotACheckpoint(f"no state_dict in it, only: {', '.join(names)[:200]}")
    kept = {name: tensors[name] for name in sorted(tensors) if not LEFT_OUT.search(name)}
    if sum(tensor.nbytes for tensor in kept.values()) > 4 * size:
        raise NotACheckpoint("its tensors are far larger than the file")
    _write(folder / "tensors.safetensors", archive, kept)
    hyper: Any = next((root[key] for key in _HYPER if key in root), {}) if state is not root else {}
    facts = {key: plain(root[key]) for key in _FACTS if isinstance(root.get(key), int | str)}
    left_out = {name: list(tensor.shape) for name, tensor in sorted(tensors.items()) if name not in kept}
    return {"container": archive.kind, "facts": facts, "hyper_parameters": plain(hyper), "left_out": left_out}


def _tensors(state: Any) -> dict[str, StoredTensor]:
    if not isinstance(state, dict):
        return {}
    return {name: v for name, v in state.items() if isinstance(name, str) and isinstance(v, StoredTensor)}


def _write(path: Path, archive: Archive, tensors: dict[str, StoredTensor]) -> None:
    """A safetensors file: the length of a JSON header, the header, the values one after the other."""
    header, place = {}, 0
    for name, tensor in tensors.items():
        end = place + tensor.nbytes
        header[name] = {"dtype": tensor.storage.dtype, "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    last, block = None, b""
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            if tensor.storage != last:
                last, block = tensor.storage, archive.read(tensor.storage)
            file.write(_values(block, tensor))


def _values(block: bytes, tensor: StoredTensor) -> bytes:
    """A tensor's values in raster order.

    Raises:
        RefusedPickle: it does not lie within the block. numpy reads whatever memory the strides lead to, so the numbers
            are checked again here, against what was really read.
    """
    size = SIZES[tensor.storage.dtype]
    tensor.must_lie_within(len(block) // size)
    if tensor.nbytes == 0:
        return b""
    array = np.lib.stride_tricks.as_strided(
        np.frombuffer(block, f"V{size}", offset=tensor.offset * size),
        tensor.shape,
        [step * size for step in tensor.strides],
    )
    return array.tobytes()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
