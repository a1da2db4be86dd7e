"""What the makers of files share: an ordinary file to start from, the ffmpeg program, and the list of named rows."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.oracle.catalogue import CODECS, Codec, chroma_margin, tolerance
from tests.oracle.drive import POLICIES, Case
from tests.oracle.encode import Edit, Encoding, encode
from tests.oracle.picture import Colours, Picture
from tests.oracle.truth import Truth

STRIDE: dict[str, Any] = {"num_frames": 4}
"""The plan of most rows."""

Maker = Callable[[Path], Case]
ROWS: dict[str, Maker] = {}
"""By name; the name begins with the row of the list of faults."""


def row(name: str, *args: Any) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
    """Registers a maker under a name, with its arguments."""

    def register(maker: Callable[..., Case]) -> Callable[..., Case]:
        assert name not in ROWS
        ROWS[name] = lambda folder: maker(folder, name.replace(" ", "-").replace("/", "-"), *args)
        return maker

    return register


def ordinary(
    folder: Path,
    name: str,
    extension: str,
    codec: str | Codec,
    count: int = 24,
    *,
    size: tuple[int, int] = (48, 64),
    pix_fmt: str | None = None,
    colours: Colours | None = None,
    options: dict[str, str] | None = None,
    plans: Sequence[dict[str, Any]] = (STRIDE, {"num_frames": 4, "frame_rate": 25.0}),
    resolution: int | None = None,
    stamps: Sequence[int] | None = None,
    edit: Edit | None = None,
    picture: Picture | None = None,
    by_rate: bool = True,
    **settings: Any,
) -> Case:
    """An ordinary file of frames 0 to `count` - 1 at 25 frames a second, or at `stamps` of `time_base`."""
    kind = CODECS[codec] if isinstance(codec, str) else codec
    pix_fmt = pix_fmt or kind.formats[0]
    picture = picture or Picture(*size, colours or Colours(full=pix_fmt.startswith("yuvj")))
    encoding = Encoding(kind.encoder, pix_fmt, dict(options if options is not None else kind.options), **settings)
    numbers = list(range(count))
    stamps = list(stamps) if stamps is not None else numbers
    times = [float((stamp - stamps[0]) * encoding.time_base) for stamp in stamps]
    path = folder / f"{name}.{extension}"
    encode(path, picture, numbers, stamps, encoding, edit)
    end = times[-1] + (times[-1] - times[-2])
    truth = Truth(
        picture,
        numbers,
        times if by_rate else [],
        (end, end),
        1e-3,
        tolerance=tolerance(kind, pix_fmt),
        soft=0 if kind.exact else 2,
        chroma=chroma_margin(pix_fmt),
    )
    # Which frames there are does not depend on how they are resized.
    policies = POLICIES if name[0] in "1agh" else POLICIES[:1]
    resolutions = [resolution or min(picture.height, picture.width)]
    return Case(name, path, truth, [dict(plan) for plan in plans], resolutions, policies=policies)


def program(*arguments: str | Path) -> None:
    """Runs the pinned ffmpeg program; outputs are overwritten."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-loglevel", "error", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
