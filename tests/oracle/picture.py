"""The picture of a frame: a few flat cells that spell its number, known colours, a white and a black corner.

Everything is drawn as codes of the stream's own pixel format, so that the colours which must come back follow from the
matrix and the range alone (ITU-R BT.601, BT.709 and BT.2020). All cells differ from their mirror images: a picture
that is turned, mirrored or moved is not mistaken for the right one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import av
import numpy as np

MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
"""Weights of red and blue in the luma."""

_LARGE, _SMALL = 32, 16  # pixels of the short side from which there are sixteen and four cells
_MARK, _BLACK, _BIT, _COLOUR, _LEVEL, _OUTSIDE = range(6)
_GRID = ["M0", "b0", "b1", "b2", "c0", "b3", "b4", "c1", "b5", "c2", "b6", "b7", "K0", "b8", "c3", "b9"]
_QUARTERS = ["l0", "c0", "c1", "M0"]
_KINDS = {"M": _MARK, "K": _BLACK, "b": _BIT, "c": _COLOUR, "l": _LEVEL}
_DARK, _BRIGHT = (50, 50, 50), (190, 190, 190)
_LEVELS, _TINTS = 16, ((0, 0, 0), (24, 0, -24), (-24, 0, 24))
OUTSIDE = 200
"""Label of what a crop cuts off."""

Turn = tuple[int, int, int, int]
"""(a, b, c, d): the coded point (x, y) is shown at (a x + c y, b x + d y); ISO/IEC 14496-12's display matrix."""

TURNS: tuple[Turn, ...] = (
    (1, 0, 0, 1),
    (0, 1, -1, 0),
    (-1, 0, 0, -1),
    (0, -1, 1, 0),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, -1, -1, 0),
)
"""As it is, a quarter, a half and three quarters clockwise; mirrored left to right, upside down, both diagonals."""


@dataclass(frozen=True)
class Colours:
    """How a stream's codes are read: `matrix` of `MATRICES`, `full` or limited range, `depth` bits; RGB needs none."""

    matrix: str = "bt601"
    full: bool = False
    depth: int = 8
    kind: str = "yuv"  # or "rgb", "gray"

    def codes(self, rgb: np.ndarray) -> np.ndarray:
        """Codes (n, 3), integers, of colours (n, 3) from 0 to 255."""
        top = (1 << self.depth) - 1
        if self.kind == "rgb":
            return np.rint(rgb / 255 * top).astype(np.int64)
        red, blue = MATRICES[self.matrix]
        r, g, b = (rgb / 255).T
        luma = red * r + (1 - red - blue) * g + blue * b
        chroma = np.stack([(b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)], 1)
        unit = 1 << (self.depth - 8)
        low, high = (0, top) if self.full else (16 * unit, 219 * unit)
        codes = np.column_stack([low + high * luma, 128 * unit + chroma * (top if self.full else 224 * unit)])
        return np.clip(np.rint(codes), 0, top).astype(np.int64)

    def colours(self, codes: np.ndarray) -> np.ndarray:
        """The inverse: float (n, 3), 0 to 255."""
        top = (1 << self.depth) - 1
        if self.kind == "rgb":
            return codes / top * 255
        red, blue = MATRICES[self.matrix]
        unit = 1 << (self.depth - 8)
        low, high = (0, top) if self.full else (16 * unit, 219 * unit)
        luma = (codes[:, 0] - low) / high
        if self.kind == "gray":
            return np.clip(np.repeat(luma[:, None], 3, 1), 0, 1) * 255
        u, v = ((codes[:, 1:] - 128 * unit) / (top if self.full else 224 * unit)).T
        r, b = luma + (2 - 2 * red) * v, luma + (2 - 2 * blue) * u
        g = (luma - red * r - blue * b) / (1 - red - blue)
        return np.clip(np.column_stack([r, g, b]), 0, 1) * 255


@dataclass
class Picture:
    """The pictures of a file, of any number.

    Args:
        height, width: of the upright picture that a viewer sees, pixels.
        colours: of the stream.
        patches: four RGB colours.
        crop: pixels that the file holds and says to cut off: left, top, right, bottom of the coded frame.
        turn: how the coded frame is turned to become upright.
    """

    height: int
    width: int
    colours: Colours = field(default_factory=Colours)
    patches: tuple[tuple[int, int, int], ...] = ((200, 40, 60), (40, 180, 70), (50, 70, 210), (220, 190, 60))
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    turn: Turn = TURNS[0]

    def __post_init__(self) -> None:
        side = min(self.height, self.width)
        names = _GRID if side >= _LARGE else _QUARTERS if side >= _SMALL else ["l0"]
        count = int(len(names) ** 0.5)
        # Cells begin at even places, where two pixels share their chroma.
        places = [
            np.clip((np.arange(size) - (size - side) // 2 // 2 * 2) // (max(2, side // count // 2 * 2)), 0, count - 1)
            for size in (self.height, self.width)
        ]
        self.labels = (places[0][:, None] * count + places[1][None, :]).astype(np.uint8)
        self.kinds = [(_KINDS[name[0]], int(name[1])) for name in names]
        coded = turned(self.labels, self.turn, back=True)
        left, top, right, bottom = self.crop
        self.coded = np.pad(coded, ((top, bottom), (left, right)), constant_values=OUTSIDE)

    @property
    def coloured(self) -> np.ndarray:
        """bool (cells): whose chroma may not be that of grey."""
        return np.array([kind in (_COLOUR, _LEVEL) for kind, _ in self.kinds])

    @property
    def distinct(self) -> int:
        """How many frames in a row differ from each other."""
        return 1 << 10 if len(self.kinds) > 4 else _LEVELS * (1 if self.colours.kind == "gray" else len(_TINTS))

    def _wanted(self, number: int) -> np.ndarray:
        level, tint = 28 + 12 * (number * 7 % _LEVELS), _TINTS[number // _LEVELS % len(_TINTS)]
        table = {
            _MARK: lambda _: (255, 255, 255),
            _BLACK: lambda _: (0, 0, 0),
            _BIT: lambda bit: _BRIGHT if number >> bit & 1 else _DARK,
            _COLOUR: lambda place: self.patches[place],
            _LEVEL: lambda _: tuple(level + part for part in tint),
        }
        return np.array([table[kind](place) for kind, place in self.kinds], float)

    def codes(self, number: int) -> np.ndarray:
        """Codes (256, 3) by label of frame `number`."""
        out = np.zeros((256, 3), np.int64)
        out[: len(self.kinds)] = self.colours.codes(self._wanted(number))
        out[OUTSIDE] = self.colours.codes(np.array([[230.0, 30.0, 200.0]]))[0]
        return out

    def expected(self, number: int) -> np.ndarray:
        """RGB (cells, 3), float, that must come back for frame `number`."""
        return self.colours.colours(self.codes(number)[: len(self.kinds)])

    def frame(self, number: int, pix_fmt: str) -> av.VideoFrame:
        """Frame `number` as it goes into the encoder."""
        return _frame(self.coded, self.codes(number), pix_fmt)


def turned(picture: np.ndarray, turn: Turn, *, back: bool = False) -> np.ndarray:
    """A coded picture as it is shown; `back`: the coded picture of one that is shown."""
    a, b, c, d = turn
    if back:  # the transpose of a signed permutation is its inverse
        b, c = c, b
    ys, xs = np.indices(picture.shape[:2])
    x, y = a * xs + c * ys, b * xs + d * ys
    x, y = x - x.min(), y - y.min()
    out = np.empty((y.max() + 1, x.max() + 1, *picture.shape[2:]), picture.dtype)
    out[y, x] = picture
    return out


_PACKED = {
    "rgb24": (0, 1, 2),
    "bgr24": (2, 1, 0),
    "rgba": (0, 1, 2, None),
    "bgra": (2, 1, 0, None),
    "argb": (None, 0, 1, 2),
    "abgr": (None, 2, 1, 0),
    "rgb0": (0, 1, 2, None),
    "bgr0": (2, 1, 0, None),
}
_PAIRS = {"yuyv422": (0, 1, 0, 2), "uyvy422": (1, 0, 2, 0), "yvyu422": (0, 2, 0, 1)}


def _frame(labels: np.ndarray, codes: np.ndarray, pix_fmt: str) -> av.VideoFrame:
    height, width = labels.shape
    frame = av.VideoFrame(width, height, pix_fmt)
    if pix_fmt in _PACKED:
        order = _PACKED[pix_fmt]
        planes = [np.stack([np.full_like(labels, 255) if c is None else codes[labels, c] for c in order], 2)]
    elif pix_fmt in _PAIRS:
        padded = np.pad(labels, ((0, 0), (0, width % 2)), "edge")
        pairs = padded.reshape(height, -1, 2)
        columns = [codes[pairs[:, :, 1 if place == 3 else 0], 0] for place in range(4)]
        order = _PAIRS[pix_fmt]
        lumas = [place for place, channel in enumerate(order) if channel == 0]
        for place, channel in enumerate(order):
            source = pairs[:, :, lumas.index(place) if channel == 0 else 0]
            columns[place] = codes[source, channel]
        planes = [np.stack(columns, 2)]
    elif pix_fmt in ("nv12", "nv21"):
        small = labels[::2, ::2]
        pair = (1, 2) if pix_fmt == "nv12" else (2, 1)
        planes = [codes[labels, 0], np.stack([codes[small, c] for c in pair], 2)]
    elif pix_fmt.startswith("gbr"):
        planes = [codes[labels, c] for c in (1, 2, 0)]
        planes += [np.full(labels.shape, (1 << frame.format.components[0].bits) - 1)] * (len(frame.planes) - 3)
    else:
        planes = []
        for plane, component in zip(frame.planes, frame.format.components, strict=True):
            down, across = -(-height // plane.height), -(-width // plane.width)
            small = labels[::down, ::across] if component.is_chroma else labels
            channel = len(planes)
            alpha = component.is_alpha
            planes.append(np.full(labels.shape, (1 << component.bits) - 1) if alpha else codes[small, channel])
    deep = frame.format.components[0].bits > 8
    for plane, values in zip(frame.planes, planes, strict=True):
        row = np.ascontiguousarray(values.astype("<u2" if deep else np.uint8)).reshape(values.shape[0], -1)
        raw = row.view(np.uint8)
        buffer = np.zeros((plane.buffer_size // plane.line_size, plane.line_size), np.uint8)
        buffer[: raw.shape[0], : raw.shape[1]] = raw
        plane.update(buffer.tobytes())
    return frame
