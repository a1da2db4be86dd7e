"""How a decoded frame becomes the pixels of a clip: turned upright, cut to the box, resized, cropped."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vtok.video.errors import VideoError
from vtok.video.transforms import resize_crop_uint8, target_size

Policy = Literal["reference", "fast"]
Box = tuple[int, int, int, int]


class Geometry(NamedTuple):
    """What to do to every frame of a video.

    Attributes:
        rotation: degrees counter-clockwise: 0, 90, 180 or 270.
        resolution: height and width of the result, pixels; None: leave the size as it is.
        policy: `reference` resizes as the originals do; `fast` lets libswscale resize (it antialiases a little).
        max_pixels: frames larger than this are refused.
        bbox: left, top, right, bottom in pixels of the upright frame; None: all of it. A box makes `fast` act as
            `reference`, because libswscale would resize before the cut.
    """

    rotation: int
    resolution: int | None
    policy: Policy
    max_pixels: int
    bbox: Box | None = None

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which libswscale converts a frame of this size, both before the rotation.

        Raises:
            VideoError: too_large.
        """
        if height * width > self.max_pixels:
            raise VideoError("too_large", f"a frame of {width}x{height}, the limit is {self.max_pixels} pixels")
        if self.policy == "reference" or self.resolution is None or self.bbox is not None:
            return height, width
        if self.rotation in (90, 270):
            scaled_width, scaled_height = target_size(width, height, self.resolution)
            return scaled_height, scaled_width
        return target_size(height, width, self.resolution)

    def finish(self, frame_hwc: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "r q 3"]:
        """From the converted frame to the clip's pixels.

        Raises:
            VideoError: corrupt, if the box lies outside of the frame.
        """
        frame_hwc = np.rot90(frame_hwc, self.rotation // 90)
        if self.bbox is not None:
            left, top, right, bottom = self.bbox
            if not (0 <= left < right <= frame_hwc.shape[1] and 0 <= top < bottom <= frame_hwc.shape[0]):
                raise VideoError("corrupt", f"the box {self.bbox} is not inside of the frame")
            frame_hwc = frame_hwc[top:bottom, left:right]
        if self.resolution is None:
            return np.ascontiguousarray(frame_hwc)
        if self.policy == "fast" and self.bbox is None:
            size = self.resolution
            top, left = (frame_hwc.shape[0] - size) // 2, (frame_hwc.shape[1] - size) // 2
            return np.ascontiguousarray(frame_hwc[top : top + size, left : left + size])
        return resize_crop_uint8(np.ascontiguousarray(frame_hwc)[None], self.resolution)[0]


def scale_box(
    box: tuple[float, float, float, float] | None, size: tuple[int, int] | None, width: int, height: int
) -> list[int] | None:
    """A box given for frames of `size` (width, height), for frames of width x height: rounded, and cut to the frame.

    Raises:
        VideoError: corrupt, if nothing of the box is inside of the frame.
    """
    if box is None:
        return None
    across, down = (width / size[0], height / size[1]) if size else (1.0, 1.0)
    left, right = (min(max(round(x * across), 0), width) for x in (box[0], box[2]))
    top, bottom = (min(max(round(y * down), 0), height) for y in (box[1], box[3]))
    if left >= right or top >= bottom:
        raise VideoError("corrupt", f"the box {box} is not inside of the frame of {width}x{height}")
    return [left, top, right, bottom]
