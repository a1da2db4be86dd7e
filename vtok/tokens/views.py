"""Views of a clip: which of its frames go into the tokenizer, and what the row says about them."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8

from schemas.config.tokens import ViewConfig
from schemas.errors import UsageError
from vtok.video.transforms import resize_crop_uint8


def view_shape(view: ViewConfig, num_frames: int, resolution: int) -> tuple[int, int, int]:
    """Frames, height and width of a view of clips of that many frames and pixels.

    Raises:
        UsageError: the clip has not that many frames or pixels.
    """
    frames = frames_of_view(view, num_frames)
    side = resolution if view.resolution is None else view.resolution
    if view.fit == "crop" and side > resolution:
        raise UsageError(
            f"a crop of {side} pixels does not fit into clips of {resolution}",
            at=f"tokens.views: {view.name}",
            hint="lower its resolution, or set `fit: resize`",
        )
    return len(frames), side, side


def cut_view(video_thwc: UInt8[np.ndarray, "t h w 3"], view: ViewConfig) -> UInt8[np.ndarray, "t2 h2 w2 3"]:
    """The pixels of a view, contiguous."""
    _, side, _ = view_shape(view, len(video_thwc), min(video_thwc.shape[1:3]))
    frames = video_thwc[frames_of_view(view, len(video_thwc))]
    height, width = frames.shape[1:3]
    if view.resolution is not None and (height, width) != (side, side):
        if view.fit == "resize":
            frames = resize_crop_uint8(frames, side)
        else:
            top, left = (height - side) // 2, (width - side) // 2
            frames = frames[:, top : top + side, left : left + side]
    return np.ascontiguousarray(frames[:, :, ::-1] if view.flip else frames)


def view_span(view: ViewConfig, meta: dict[str, Any], fps: float) -> dict[str, Any]:
    """The row's `num_frames fps start_time end_time`.

    Args:
        view: the view.
        meta: the clip's row of the manifest.
        fps: frames per second of the clip.
    """
    frames = frames_of_view(view, meta["num_frames"])
    missing = meta["num_frames"] - 1 - frames[-1]
    return {
        "num_frames": len(frames),
        "fps": fps / view.frame_stride,
        "start_time": meta["start_time"] + frames[0] / fps,
        "end_time": meta["end_time"] - missing / fps,
    }


def frames_of_view(view: ViewConfig, num_frames: int) -> range:
    """Which frames of a clip, by number.

    Raises:
        UsageError: the clip has not that many frames.
    """
    available = range(view.first_frame, num_frames, view.frame_stride)
    wanted = len(available) if view.num_frames is None else view.num_frames
    if not 0 < wanted <= len(available):
        raise UsageError(
            f"clips of {num_frames} frames have no {max(wanted, 1)} frames from {view.first_frame} on with stride "
            f"{view.frame_stride}",
            at=f"tokens.views: {view.name}",
            hint="choose a shorter window, or longer clips (data.num_frames)",
        )
    return available[:wanted]
