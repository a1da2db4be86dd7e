"""Reads one NumPy array out of a pickle, and runs nothing that the pickle asks for (see `vtok.inert_pickle`)."""

from __future__ import annotations

import io

import numpy as np

from vtok.inert_pickle import ARRAY_NAMES, InertUnpickler, RefusedPickle, array_of
from vtok.video.errors import VideoError


def read_pickled_array(data: bytes) -> np.ndarray:
    """The array that a pickle holds, made by any NumPy and any protocol.

    Args:
        data: the pickle.

    Raises:
        VideoError: corrupt: it is damaged, holds something else, or asks for a name that no array of numbers needs.
    """
    try:
        return array_of(InertUnpickler(io.BytesIO(data), ARRAY_NAMES, "arrays of numbers").load())
    except RefusedPickle as refused:
        raise VideoError("corrupt", str(refused)) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise VideoError("corrupt", f"the pickle is damaged: {type(error).__name__}") from None
