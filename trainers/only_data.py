"""Checkpoints are data: nothing that stands in one is imported or run, whoever wrote it.

DeepSpeed's files are pickles, and DeepSpeed reads them as the programs that pickles are (`weights_only=False`). Here
every `torch.load`, DeepSpeed's own included, is held to torch's reader of weights
(https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only), which knows tensors and plain containers,
and to three classes besides that only hold values. Whatever else a file asks for is refused by its name.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from schemas.errors import IntegrityError

_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch looks at it in every load, and it outdoes the argument."""

_HINT = "do not trust this folder if somebody else made it; resume from another checkpoint, or with --resume never"


@contextmanager
def only_data(folder: Path) -> Iterator[None]:
    """Looks through the checkpoint in a folder, and lets nothing but weights and plain values be loaded in the block.

    Args:
        folder: what an engine's `save` wrote.

    Raises:
        IntegrityError: a file asks for a name that is not allowed, or is no checkpoint.
    """
    before = os.environ.get(_FORCED)
    os.environ[_FORCED] = "1"
    try:
        with safe_globals(_value_types(folder)):
            for path in sorted(folder.rglob("*.pt")):
                _look_through(path)
            try:
                yield
            except pickle.UnpicklingError as error:  # of a file that was exchanged since the look
                raise _refused(str(error).strip().splitlines()[-1], folder) from None
    finally:
        if before is None:
            del os.environ[_FORCED]
        else:
            os.environ[_FORCED] = before


def _look_through(path: Path) -> None:
    try:
        names = get_unsafe_globals_in_checkpoint(str(path))
    except (ValueError, RuntimeError, pickle.UnpicklingError, IndexError, UnicodeDecodeError) as error:
        raise _refused(f"it is no file of weights ({str(error).splitlines()[0]})", path) from None
    if names:
        asked = ", ".join(ascii(name)[1:-1][:120] for name in sorted(names)[:4])
        raise _refused(f"it asks for {asked}; only weights and plain values are loaded", path)


def _refused(why: str, at: Path) -> IntegrityError:
    return IntegrityError(f"the checkpoint is refused, and nothing of it was run: {why}", at=str(at), hint=_HINT)


def _value_types(folder: Path) -> list[Any]:
    """What DeepSpeed's optimisers save besides tensors; none for a checkpoint without such a file."""
    if next(folder.rglob("*_optim_states.pt"), None) is None:
        return []
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]
