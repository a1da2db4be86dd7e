"""Where frames lie when they are not in a video file of their own: image folders, tars, TFRecord and HDF5 files.

One file a medium, one entry here. A medium opens one item of a file (or folder) either as a video file, which is then
decoded like any other, or as a `FrameSequence`, whose frames are had one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vtok.video.media.sequence import FrameSequence, Opened


@contextmanager
def open_item(source: dict[str, Any], path: Path) -> Iterator[Opened]:
    """Opens what a manifest row or a listed video names.

    Args:
        source: `medium` (None: a video file; `frames`, `tar`, `tfrecord`, `hdf5`), `item`, and `source_fps` for media
            that do not know their frame rate.
        path: the file or folder.

    Raises:
        VideoError: it is gone, unreadable or damaged.
    """
    medium, item, fps = source.get("medium"), source.get("item"), float(source.get("source_fps") or 25.0)
    opened: Opened
    if medium == "frames":
        from vtok.video.media.images import open_frames

        with open_frames(path, item, fps) as opened:
            yield opened
    elif medium == "tar":
        from vtok.video.media.tar import open_member

        with open_member(path, str(item)) as opened:
            yield opened
    elif medium == "tfrecord":
        from vtok.video.media.tfrecord import open_record

        with open_record(path, str(item), fps) as opened:
            yield opened
    elif medium == "hdf5":
        from vtok.video.media.hdf5 import open_slice

        with open_slice(path, str(item), fps) as opened:
            yield opened
    else:
        yield Opened(path, None, None)


__all__ = ["FrameSequence", "Opened", "open_item"]
