"""A small labelled corpus of drawn videos, in UCF-101's own layout, with damaged files among them.

Five classes differ in shape, colour and motion. Every video is a real compressed file (MPEG-4 ASP in AVI, as UCF-101's)
with its own background, position, size and speed, drawn from a generator keyed by (seed, class, number).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Float, UInt8

from vtok.files import write_bytes
from vtok.seeds import derive

DEMO = {"videos_per_class": 48, "size": 64, "num_frames": 32, "fps": 16, "seed": 0}
"""What `vtok demo` draws."""

_GROUPS = 8
"""Videos of a class are spread over this many groups; the last two are the test split, as UCF-101 splits by group."""

_SOFTNESS = 0.1
"""Width of a shape's soft edge, in units of the frame: a small tokenizer learns soft edges in minutes."""

Grid = Float[np.ndarray, "h w"]


class Corpus(NamedTuple):
    """What was written.

    Attributes:
        videos: sound videos.
        damaged: paths below the root of the files that must be rejected.
    """

    videos: int
    damaged: list[str]


class _Scene(NamedTuple):
    """One video's random choices: positions and sizes in units of the frame, speeds in frames' sides a video."""

    x: float
    y: float
    radius: float
    speed: float
    phase: float
    sign: float


def _circle(x: Grid, y: Grid, radius: float) -> Grid:
    return np.hypot(x, y) - radius


def _square(x: Grid, y: Grid, radius: float) -> Grid:
    return np.maximum(np.abs(x), np.abs(y)) - radius * 0.85


def _triangle(x: Grid, y: Grid, radius: float) -> Grid:
    return np.maximum(np.abs(x) * 0.866 - y * 0.5, y) - radius * 0.55


def _ring(x: Grid, y: Grid, radius: float) -> Grid:
    return np.abs(np.hypot(x, y) - radius * 0.8) - radius * 0.3


def _cross(x: Grid, y: Grid, radius: float) -> Grid:
    a = np.maximum(np.abs(x) - radius, np.abs(y) - radius * 0.33)
    b = np.maximum(np.abs(y) - radius, np.abs(x) - radius * 0.33)
    return np.minimum(a, b)


def _bounce(scene: _Scene, t: float) -> tuple[float, float, float, float]:
    height = abs(np.sin(np.pi * (scene.speed * 1.5 * t + scene.phase)))
    return scene.x, 0.75 - 0.5 * height, 1.0, 0.0


def _slide(scene: _Scene, t: float) -> tuple[float, float, float, float]:
    return (scene.phase + scene.sign * scene.speed * t) % 1.4 - 0.2, scene.y, 1.0, 0.0


def _fall(scene: _Scene, t: float) -> tuple[float, float, float, float]:
    return scene.x, (scene.phase + scene.speed * t) % 1.4 - 0.2, 1.0, 0.0


def _grow(scene: _Scene, t: float) -> tuple[float, float, float, float]:
    return scene.x, scene.y, 1.0 + 0.6 * float(np.sin(2 * np.pi * (scene.speed * t + scene.phase))), 0.0


def _orbit(scene: _Scene, t: float) -> tuple[float, float, float, float]:
    angle = 2 * np.pi * (scene.phase + scene.sign * scene.speed * t / 2)
    return 0.5 + 0.25 * float(np.cos(angle)), 0.5 + 0.25 * float(np.sin(angle)), 1.0, 0.0


class _Kind(NamedTuple):
    """A class: its shape (signed distance), its motion (x, y, scale, angle at time t in 0..1) and its colour."""

    distance: Callable[[Grid, Grid, float], Grid]
    motion: Callable[[_Scene, float], tuple[float, float, float, float]]
    colour: tuple[float, float, float]


CLASSES: dict[str, _Kind] = {
    "BallBounce": _Kind(_circle, _bounce, (0.93, 0.30, 0.25)),
    "CrossOrbit": _Kind(_cross, _orbit, (0.98, 0.85, 0.25)),
    "RingGrow": _Kind(_ring, _grow, (0.35, 0.85, 0.45)),
    "SquareSlide": _Kind(_square, _slide, (0.30, 0.55, 0.98)),
    "TriangleFall": _Kind(_triangle, _fall, (0.95, 0.95, 0.95)),
}
"""Class names in UCF-101's style, alphabetical: the label is the position."""


def _smooth(x: Grid) -> Grid:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def draw_video(name: str, number: int, *, size: int, num_frames: int, seed: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Video `number` of a class, RGB.

    Args:
        name: a key of `CLASSES`.
        number: picks the random choices.
        size: height and width, pixels.
        num_frames: frames.
        seed: of the corpus.
    """
    random = np.random.default_rng(derive(seed, "shapes", name, number))
    kind = CLASSES[name]
    scene = _Scene(
        x=random.uniform(0.3, 0.7),
        y=random.uniform(0.3, 0.7),
        radius=random.uniform(0.3, 0.36),
        speed=random.uniform(1.4, 2.0),
        phase=random.uniform(0, 1),
        sign=random.choice([-1.0, 1.0]),
    )
    axis = (np.arange(size) + 0.5) / size
    y, x = np.meshgrid(axis, axis, indexing="ij")
    shade = random.uniform(0.08, 0.3) + random.uniform(0.0, 0.25) * y
    tint = np.array([0.6, 0.7, 1.0]) if random.random() < 0.5 else np.array([0.9, 0.7, 0.8])
    background = shade[..., None] * tint
    colour = np.array(kind.colour)
    frames = np.empty((num_frames, size, size, 3), dtype=np.uint8)
    for index in range(num_frames):
        centre_x, centre_y, scale, angle = kind.motion(scene, index / num_frames)
        dx, dy = x - centre_x, y - centre_y
        cos, sin = np.cos(angle), np.sin(angle)
        distance = kind.distance(cos * dx + sin * dy, cos * dy - sin * dx, scene.radius * scale)
        cover = _smooth(0.5 - distance / _SOFTNESS)[..., None]
        frames[index] = np.rint(255 * (background * (1 - cover) + colour * cover))
    return frames


def write_shapes(
    root: Path, *, videos_per_class: int, size: int = 64, num_frames: int = 32, fps: int = 16, seed: int = 0
) -> Corpus:
    """Writes the corpus: `<Class>/v_<Class>_gNN_cNN.avi`, `ucfTrainTestlist/`, and four damaged files.

    Files that are there already are left alone. Equal arguments give equal bytes.

    Args:
        root: made if need be.
        videos_per_class: sound videos in a class.
        size: height and width, pixels.
        num_frames: frames in a video.
        fps: frames per second.
        seed: of all random choices.
    """
    train: list[str] = []
    test: list[str] = []
    for label, name in enumerate(CLASSES, start=1):
        for number in range(videos_per_class):
            group, clip = number % _GROUPS + 1, number // _GROUPS + 1
            source = f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
            if not (root / source).exists():
                frames = draw_video(name, number, size=size, num_frames=num_frames, seed=seed)
                write_bytes(root / source, encode_avi(frames, fps))
            if group > _GROUPS - 2:
                test.append(source)
            else:
                train.append(f"{source} {label}")
    damaged = _write_damaged(root, size=size, num_frames=num_frames, fps=fps, seed=seed)
    train += [f"{source} {list(CLASSES).index(source.split('/')[0]) + 1}" for source in damaged]
    lists = root / "ucfTrainTestlist"
    write_bytes(lists / "classInd.txt", _lines([f"{i} {name}" for i, name in enumerate(CLASSES, start=1)]))
    write_bytes(lists / "trainlist01.txt", _lines(sorted(train)))
    write_bytes(lists / "testlist01.txt", _lines(sorted(test)))
    return Corpus(videos_per_class * len(CLASSES), damaged)


def _write_damaged(root: Path, *, size: int, num_frames: int, fps: int, seed: int) -> list[str]:
    """A file without bytes, a text file, one cut off in its header, and one of a single frame."""
    whole = encode_avi(draw_video("BallBounce", 10_000, size=size, num_frames=num_frames, seed=seed), fps)
    contents = {
        "BallBounce/v_BallBounce_g09_c01.avi": b"",
        "CrossOrbit/v_CrossOrbit_g09_c01.avi": b"this is no video\n" * 40,
        "RingGrow/v_RingGrow_g09_c01.avi": whole[:150],
        "SquareSlide/v_SquareSlide_g09_c01.avi": encode_avi(
            draw_video("SquareSlide", 10_000, size=size, num_frames=1, seed=seed), fps
        ),
    }
    for source, data in contents.items():
        write_bytes(root / source, data)
    return list(contents)


def _lines(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def encode_avi(frames_thwc: UInt8[np.ndarray, "t h w 3"], fps: int) -> bytes:
    """MPEG-4 ASP in AVI at good quality; the bytes depend on the frames alone."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = frames_thwc.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"qscale": "2", "flags": "+bitexact+qscale", "global_quality": "236"}
        stream.codec_context.thread_count = 1
        for frame in frames_thwc:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
