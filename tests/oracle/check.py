"""Holds what came out of vtok against what is right."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tests.oracle.picture import TURNS, turned
from tests.oracle.truth import Truth

_ENOUGH = 4  # faults of one answer


class Fault(NamedTuple):
    """`kind` groups faults in the table; `detail` says what came and what is right."""

    kind: str
    detail: str


class Looker:
    """Looks at frames of one file at one resolution (None: whole frames)."""

    def __init__(self, truth: Truth, resolution: int | None) -> None:
        self.truth = truth
        height, width = truth.picture.height, truth.picture.width
        rows, down = _places(height, min(height, width), resolution)
        columns, across = _places(width, min(height, width), resolution)
        labels = truth.picture.labels
        radius = (truth.soft + down, truth.soft + across)
        coloured = truth.picture.coloured[labels]
        marked = np.where(coloured, labels + 1, 0)
        chroma = truth.chroma if truth.picture.turn[0] else truth.chroma[::-1]
        mixing = (radius[0] + chroma[1] * max(1, down), radius[1] + chroma[0] * max(1, across))
        known = _same(labels, *radius) & _same(marked, *mixing)
        self.labels = labels[np.ix_(rows, columns)]
        self.known = known[np.ix_(rows, columns)]
        plain, grey, self.mean = truth.tolerance
        self.most = np.where(coloured[np.ix_(rows, columns)], plain, grey)
        self.tables: dict[int, np.ndarray] = {}

    def off(self, frame: np.ndarray, number: int) -> np.ndarray:
        """Levels (h, w) by which the frame differs from the picture of a number; 0 where cells meet."""
        if number not in self.tables:
            self.tables[number] = np.rint(self.truth.picture.expected(number))
        wanted = self.tables[number][self.labels]
        return np.where(self.known[..., None], np.abs(frame.astype(np.int16) - wanted), 0).max(2)

    def is_right(self, frame: np.ndarray, number: int) -> bool:
        return bool((self.off(frame, number) <= self.most).all()) and self._worst_cell(frame, number) <= self.mean

    def _worst_cell(self, frame: np.ndarray, number: int) -> float:
        wanted, worst = self.tables[number], 0.0
        for cell in np.unique(self.labels[self.known]):
            inside = self.known & (self.labels == cell)
            worst = max(worst, float(np.abs(frame[inside].mean(0) - wanted[cell]).max()))
        return worst

    def fault(self, frame: np.ndarray, number: int) -> Fault | None:
        """What is wrong with a frame that should be `number`."""
        if frame.shape[:2] != self.labels.shape:
            return Fault("geometry", f"{frame.shape[:2]} pixels, right is {self.labels.shape}")
        if self.is_right(frame, number):
            return None
        scores = {other: float(self.off(frame, other).mean()) for other in sorted(set(self.truth.numbers))}
        nearest = min(scores, key=scores.__getitem__)
        if scores[nearest] < scores[number] and self.is_right(frame, nearest):
            return Fault("frame", f"frame {nearest} for {number}")
        for turn in TURNS[1:]:
            other = turned(frame, turn)
            if other.shape == frame.shape and self.is_right(other, number):
                return Fault("orientation", f"comes out right only if turned by {turn}")
        off = self.off(frame, number)
        if scores[nearest] < scores[number] and off.mean() > 2 * scores[nearest]:
            return Fault("frame", f"most like frame {nearest}, not {number} ({scores[number]:.1f} off)")
        wrong = off > self.most
        columns, rows = np.flatnonzero(wrong.any(0)), np.flatnonzero(wrong.any(1))
        if not len(columns):
            return Fault("colour", f"cells are off by up to {self._worst_cell(frame, number):.1f} in the mean")
        cell = int(self.labels[rows[0], np.flatnonzero(wrong[rows[0]])[0]])
        where = self.known & (self.labels == cell)
        said = (
            f"off by up to {off.max():.0f} in columns {columns[0]}-{columns[-1]} of {off.shape[1]}, rows {rows[0]}-"
            f"{rows[-1]} of {off.shape[0]} ({wrong.mean():.0%}); a cell is {frame[where].mean(0).round(1).tolist()}, "
            f"right is {self.tables[number][cell].tolist()}"
        )
        return Fault("columns" if len(columns) <= 4 and columns[-1] == off.shape[1] - 1 else "colour", said)


def _places(size: int, short: int, resolution: int | None) -> tuple[np.ndarray, int]:
    """The source pixel in the middle of every output pixel, and how far around it others may have a share."""
    if resolution is None:
        return np.arange(size), 0
    resized = resolution if size == short else math.ceil(size * (resolution / short))
    start = (resized - resolution) // 2
    centres = (start + np.arange(resolution) + 0.5) * size / resized - 0.5
    reach = 0 if resized == size else math.ceil(max(1.0, size / resized))
    return np.clip(np.rint(centres), 0, size - 1).astype(int), reach


def _same(labels: np.ndarray, down: int, across: int) -> np.ndarray:
    """Whether all labels within `down` rows and `across` columns are alike."""
    low = high = labels
    for axis, reach in ((0, down), (1, across)):
        padded = [np.pad(a, [(reach, reach) if k == axis else (0, 0) for k in (0, 1)], "edge") for a in (low, high)]
        size = labels.shape[axis]
        low = np.min([padded[0].take(range(s, s + size), axis) for s in range(2 * reach + 1)], 0)
        high = np.max([padded[1].take(range(s, s + size), axis) for s in range(2 * reach + 1)], 0)
    return np.asarray(low == high)


def indices(truth: Truth, span: dict[str, Any]) -> list[set[int]]:
    """For every frame of a clip the indices of source frames that are right."""
    if span["frame_rate"] is None:
        return [{span["start_frame"] + k * span["frame_stride"]} for k in range(span["num_frames"])]
    return [truth.shown_at(span["start_time"] + k / span["frame_rate"]) for k in range(span["num_frames"])]


def check_clips(
    truth: Truth, plan: dict[str, Any], answer: dict[str, Any], arrays: Any, resolution: int
) -> list[Fault]:
    """Faults of one answer of the driver."""
    faults: list[Fault] = []
    count = len(truth.numbers)
    if "crash" in answer:
        return [Fault("crash", answer["crash"])]
    length, hop = plan["num_frames"], plan.get("clip_stride") or plan["num_frames"]
    rate = plan.get("frame_rate")
    if rate:
        right = truth.clips_by_rate(length, rate, hop)
    else:
        clips = truth.clips_by_stride(length, plan.get("frame_stride") or 1, hop)
        right = range(clips, clips + 1)
    if "error" in answer:
        reason = answer["error"][0]
        if truth.refusable or (reason == "too_short" and (0 in right or not truth.planned)):
            return []
        return [Fault(f"whole file: {reason}", answer["error"][1])]
    planned = len(answer["spans"])
    if truth.planned:
        most = plan.get("max_clips_per_video") or 1 << 30
        if plan.get("windows", "all") != "all":
            most = min(most, 1)
        if planned not in {min(most, n) for n in right}:
            said = f"{planned} clips planned, right is {min(most, right[0])}"
            faults.append(Fault("planned", f"{said}..{right[-1]}" if len(right) > 1 else said))
        height, width = answer["facts"]["height"], answer["facts"]["width"]
        if (height, width) != (truth.picture.height, truth.picture.width):
            said = f"{width}x{height} by probe, right is {truth.picture.width}x{truth.picture.height}"
            faults.append(Fault("geometry", said))
    looker = Looker(truth, resolution)
    for number, (span, clip) in enumerate(zip(answer["spans"], answer["clips"], strict=True)):
        wanted = indices(truth, span)
        if len(faults) >= _ENOUGH:
            break
        certain = set.union(*wanted)
        where = (
            f"clip {number} from {span['start_frame']}" if not rate else f"clip {number} at {span['start_time']:.3f} s"
        )
        if clip is None:
            faults.append(Fault("missing", f"{where} never came"))
        elif "error" in clip:
            excused = truth.refusable or any(index >= count or index in truth.lost for index in certain)
            if rate and not excused:
                excused = span["start_time"] + (span["num_frames"] - 1) / rate >= truth.ends[1] - truth.tick
            if not excused:
                faults.append(Fault(f"rejected: {clip['error'][0]}", f"{where}: {clip['error'][1]}"))
        else:
            faults += _check_clip(truth, looker, arrays[f"arr_{clip['array']}"], wanted, where)
    return faults


def _check_clip(truth: Truth, looker: Looker, clip: np.ndarray, wanted: list[set[int]], where: str) -> list[Fault]:
    if len(clip) != len(wanted):
        return [Fault("frames", f"{where}: {len(clip)} frames, right is {len(wanted)}")]
    middle = sorted(min(choice) for choice in wanted)
    for cut in truth.cuts:
        if middle[0] < cut <= middle[-1]:
            return [Fault("across a hole", f"{where}: frames {middle[0]}..{middle[-1]} around the hole before {cut}")]
    for place, (frame, choice) in enumerate(zip(clip, wanted, strict=True)):
        if min(choice) >= len(truth.numbers):
            return [Fault("frame", f"{where}: frame {min(choice)} of {len(truth.numbers)}")]
        if choice & truth.free:
            continue
        found = [looker.fault(frame, truth.numbers[index]) for index in sorted(choice) if index < len(truth.numbers)]
        if all(found):
            fault = found[0]
            assert fault is not None
            return [Fault(fault.kind, f"{where}, place {place}: {fault.detail}")]
    return []


def check_whole(truth: Truth, answer: dict[str, Any], arrays: Any) -> list[Fault]:
    """Faults of `read_video` without a size."""
    if "crash" in answer:
        return [Fault("crash", answer["crash"])]
    if "error" in answer:
        excused = truth.refusable or bool(truth.lost)
        return [] if excused else [Fault(f"read_video: {answer['error'][0]}", answer["error"][1])]
    frames = arrays[f"arr_{answer['whole']['array']}"]
    looker = Looker(truth, None)
    if len(frames) != len(truth.numbers) and not truth.lost:
        return [Fault("frames", f"read_video: {len(frames)} frames, right is {len(truth.numbers)}")]
    for index, (frame, number) in enumerate(zip(frames, truth.numbers, strict=False)):
        if index in truth.free or truth.lost:
            continue
        if fault := looker.fault(frame, number):
            return [Fault(fault.kind, f"read_video, frame {index}: {fault.detail}")]
    return []
