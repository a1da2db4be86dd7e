"""How a decoded frame becomes the pixels of a clip: turned upright, cut to the box, resized, cropped."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import UInt8, UInt32

from vtok.video.errors import VideoError
from vtok.video.packed import PackedResize
from vtok.video.transforms import resize_crop_uint8, target_size

Policy = Literal["reference", "fast"]
Box = tuple[int, int, int, int]


class Geometry:
    """What to do to every frame of a video; not for use by two threads at once.

    Args:
        rotation: degrees counter-clockwise: 0, 90, 180 or 270.
        resolution: height and width of the result, pixels; None: leave the size as it is.
        policy: `reference` resizes as the originals do; `fast` lets libswscale resize (it antialiases a little).
        max_pixels: frames larger than this are refused.
        bbox: left, top, right, bottom in pixels of the upright frame; None: all of it. A box makes `fast` act as
            `reference`, because libswscale would resize before the cut.
    """

    def __init__(
        self, rotation: int, resolution: int | None, policy: Policy, max_pixels: int, bbox: Box | None = None
    ) -> None:
        self.rotation, self.resolution, self.policy = rotation, resolution, policy
        self.max_pixels, self.bbox = max_pixels, bbox
        self._resizes: dict[tuple[int, int], PackedResize] = {}

    @property
    def resizes_here(self) -> bool:
        """Whether `finish` resizes, and not libswscale."""
        return self.resolution is not None and (self.policy == "reference" or self.bbox is not None)

    @property
    def pixel_format(self) -> Literal["rgb0", "rgb24"]:
        """FFmpeg's name of the format that decoders convert frames to; both hold the same colours."""
        return "rgb0" if self.resizes_here else "rgb24"

    def view(self, data: bytes | memoryview | np.ndarray, height: int, width: int, stride: int) -> np.ndarray:
        """The pixels in a decoder's buffer, without a copy, as `finish` takes them.

        Args:
            data: the buffer.
            height, width: pixels.
            stride: bytes from one row to the next; with four-byte pixels a multiple of four.
        """
        if self.resizes_here:
            return np.frombuffer(data, np.uint32).reshape(-1, stride // 4)[:height, :width]
        rows = np.frombuffer(data, np.uint8).reshape(-1, stride)[:height, : width * 3]
        return rows.reshape(height, width, 3)

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

    def finish(self, frame: UInt8[np.ndarray, "h w 3"] | UInt32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "r q 3"]:
        """From the converted frame to the clip's pixels; where it only crops, the result is a view of `frame`.

        Args:
            frame: RGB in three bytes, or in the first three of four (`view`).

        Raises:
            VideoError: corrupt, if the box lies outside of the frame.
        """
        if self.rotation:
            frame = np.rot90(frame, self.rotation // 90)
        if self.bbox is not None:
            left, top, right, bottom = self.bbox
            if not (0 <= left < right <= frame.shape[1] and 0 <= top < bottom <= frame.shape[0]):
                raise VideoError("corrupt", f"the box {self.bbox} is not inside of the frame")
            frame = frame[top:bottom, left:right]
        if self.resolution is None:
            return frame
        if self.resizes_here:
            return self._resize(frame)
        size = self.resolution
        top, left = (frame.shape[0] - size) // 2, (frame.shape[1] - size) // 2
        return frame[top : top + size, left : left + size]

    def _resize(self, frame: np.ndarray) -> np.ndarray:
        assert self.resolution is not None
        if frame.dtype != np.uint32:
            return resize_crop_uint8(frame[None], self.resolution)[0]
        height, width = frame.shape
        if (height, width) not in self._resizes:
            self._resizes = {(height, width): PackedResize(height, width, self.resolution)}
        return self._resizes[height, width](frame)


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
