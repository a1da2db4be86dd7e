"""Decoding in a disposable child process: a file that hangs, crashes or eats memory costs one reject, not the job.

The child speaks over its pipes (`child_wire`) and hands clips over in shared memory (`child_slots`). It is
started when first needed (`child_server`), tried out on a built-in clip, reused while it behaves, and replaced when it
does not. CPU time and memory
are limited by the kernel (RLIMIT_CPU, RLIMIT_AS); a generous wall-clock guard catches what sleeps. It leads a process
group of its own, with any ffmpeg in it, and the whole group ends when its parent does, even in the middle of a request.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas.errors import VtokError
from vtok import console
from vtok.video.analysis import Analysis, unpack
from vtok.video.child_process import ChildProcess, Patience
from vtok.video.child_slots import Slots
from vtok.video.child_wire import RECEIVED, DecodedClip, Probed, unpack_clip, unpack_facts
from vtok.video.clips import ClipSpan
from vtok.video.decode import MAX_FRAMES
from vtok.video.errors import VideoError
from vtok.video.frames_ffmpeg import Hwaccel
from vtok.video.geometry import PixelAspect, Policy
from vtok.video.probe import FOR_PLANNING, StreamFacts

_PIXELS_PER_SECOND, _BYTES_PER_SECOND = 1e7, 5e7
"""What a slow decoder and a slow hash do in a CPU second; PyAV does 5e7 to 5e8 pixels, sha256 4e8 bytes."""
_LARGEST_ALLOWANCE = 100
"""The allowance for pixels and bytes is at most this many times the configured CPU time: headers can lie."""
_WALL_FACTOR, _WALL_EXTRA = 10.0, 30.0
"""The wall-clock guard: this many times the CPU time, plus this many seconds."""
_START_SECONDS = 120.0
"""Wall-clock time in which a child must take a request: a busy machine needs seconds to start Python."""


class DecodeChild:
    """A child process that probes and decodes videos.

    Args:
        max_memory_mb: address space of the child, MiB.
        module: what `python -m` runs; tests put a misbehaving one here.
    """

    def __init__(self, max_memory_mb: int = 4096, module: str = "vtok.video.child_server") -> None:
        self._memory, self._module = max_memory_mb, module
        self._process: ChildProcess | None = None
        self._slots = Slots(None)

    def __enter__(self) -> DecodeChild:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child, and the ffmpeg that it may be running."""
        if self._process is not None:
            self._process.end()
            self._process = None
            self._slots.close()

    def probe(self, path: str, *, cpu_seconds: float, source: Mapping[str, Any] | None = None) -> Probed:
        """`vtok.video.probe.probe` in the child.

        Args:
            path: the file or folder.
            cpu_seconds: CPU time that it may take.
            source: `medium`, `item` and `source_fps` of what is no video file (see `vtok.video.media`).

        Raises:
            VideoError: why the file cannot be used; `timeout`, `crashed` or `memory` if the child did not survive it.
        """
        patience = self._send({"do": "probe", "path": path, **_address(source or {})}, cpu_seconds)
        answer, data = self._receive(patience, cpu_seconds)
        if "error" in answer:
            raise VideoError(*answer["error"])
        return Probed(unpack_facts(answer, data), answer["size"])

    def analyse(
        self, path: str, facts: StreamFacts, *, size: int, bars: bool, cpu_seconds: float, source: Mapping[str, Any]
    ) -> Analysis:
        """`vtok.video.analysis.analyse` in the child.

        Args:
            path: the file or folder.
            facts: what `probe` found.
            size: stored bytes, as `probe` found them.
            bars: whether to look for black bars.
            cpu_seconds: CPU time that it may take, besides a generous allowance for its pixels and bytes.
            source: see `probe`.

        Raises:
            VideoError: as `probe`.
        """
        seconds = _with_allowance(cpu_seconds, facts.frames * facts.height * facts.width, size)
        request = {
            "do": "analyse",
            "path": path,
            "facts": facts._replace(segments=(), times=())._asdict(),
            "bars": bars,
            **_address(source),
        }
        answer, data = self._receive(self._send(request, seconds), seconds)
        if "error" in answer:
            raise VideoError(*answer["error"])
        return unpack(answer, data)

    def decode(
        self,
        path: str,
        rows: Sequence[dict[str, Any]],
        *,
        resolution: int,
        policy: Policy,
        decoder: str,
        max_pixels: int,
        cpu_seconds: float,
        max_frames: int = MAX_FRAMES,
        hwaccel: Hwaccel = "none",
        audio_rate: int | None = None,
        companions: Mapping[str, tuple[str, str]] | None = None,
        pixel_aspect: PixelAspect = "ignore",
    ) -> DecodeRun:
        """Decodes the clips of one video and hashes the file in the same pass.

        Args:
            path: the file or folder.
            rows: manifest rows of its clips.
            resolution, policy, decoder, max_pixels, max_frames, hwaccel, pixel_aspect: see
                `vtok.video.decode.decode_clips`.
            cpu_seconds: CPU time that it may take, besides a generous allowance for its pixels and bytes.
            audio_rate: samples per second of the clips' sound; None: leave the sound out.
            companions: name to (path, item) of arrays with a row a frame (see `vtok.video.media.companions`).
        """
        options: dict[str, Any] = {"resolution": resolution, "policy": policy, "max_pixels": max_pixels}
        options |= {"decoder": decoder, "max_frames": max_frames, "hwaccel": hwaccel, "pixel_aspect": pixel_aspect}
        options["companions"] = dict(companions or {})
        return DecodeRun(self, path, rows, options, cpu_seconds, audio_rate)

    def _start(self) -> ChildProcess:
        if self._process is None or not self._process.is_there():
            self.close()
            self._slots = Slots.create()
            command = [sys.executable, "-m", self._module, str(self._memory), *self._slots.arguments]
            self._process = ChildProcess(command, self._slots.handles or ())
        return self._process

    def _send(self, request: dict[str, Any], cpu_seconds: float, clip_bytes: int = 0) -> Patience:
        """Sends a request and waits until the child has it; returns how long its answers may be waited for.

        `clip_bytes` is the size of the largest clip that it asks for.
        A child that dies before it has the request died of something else, so the video is not to blame.
        """
        words = ""
        for _ in range(2):
            process = self._start()
            self._slots.grow(clip_bytes)
            try:
                process.write({**request, "cpu_seconds": cpu_seconds, "slot": self._slots.size})
                process.read(len(RECEIVED), Patience(_START_SECONDS))
                return Patience(_WALL_FACTOR * cpu_seconds + _WALL_EXTRA)
            except (BrokenPipeError, EOFError, TimeoutError):
                self.close()
                words = process.words
        said = f"; it says:\n{words}" if words else ""
        raise VtokError(
            f"the decoding process does not start{said}",
            at=f"{sys.executable} -m {self._module}",
            hint="look at the machine's memory and process limits, then run the same command again",
        )

    def _receive(self, patience: Patience, cpu_seconds: float) -> tuple[dict[str, Any], memoryview]:
        process = self._process
        assert process is not None
        try:
            size = int.from_bytes(process.read(4, patience))
            header = json.loads(bytes(process.read(size, patience)))
            data = process.read(header.get("bytes", 0), patience)
        except TimeoutError:
            self.close()
            raise VideoError("timeout", f"no answer within {_WALL_FACTOR * cpu_seconds + _WALL_EXTRA:.0f} s") from None
        except EOFError:
            code = process.exit_code()
            self.close()
            _report(process.words)
            raise _death(code, cpu_seconds, self._memory, process.words) from None
        if "fatal" in header:
            what, at, hint = header["fatal"]
            raise VtokError(what, at=at, hint=hint)
        if "traceback" in header:
            _report(header["traceback"])
        return header, data


class DecodeRun:
    """The decoding of one video: iterate it for (index into rows, clip or error), each index once.

    Attributes:
        sha256: of the whole file, hex; known from the first clip on.
    """

    def __init__(
        self,
        child: DecodeChild,
        path: str,
        rows: Sequence[dict[str, Any]],
        options: dict[str, Any],
        cpu_seconds: float,
        audio_rate: int | None,
    ) -> None:
        self._child, self._path, self._rows, self._options = child, path, rows, options
        self._audio_rate = audio_rate if rows[0]["has_audio"] else None
        first = rows[0]
        pixels = first["frames"] * first["height"] * first["width"]
        self._cpu_seconds = _with_allowance(cpu_seconds, pixels, first["source_bytes"])
        self.sha256 = ""

    def __iter__(self) -> Iterator[tuple[int, DecodedClip | VideoError]]:
        waiting = set(range(len(self._rows)))
        try:
            for index, result in self._messages():
                waiting.discard(index)
                yield index, result
        except VideoError as error:
            for index in sorted(waiting):
                yield index, error

    def _messages(self) -> Iterator[tuple[int, DecodedClip | VideoError]]:
        first = self._rows[0]
        request = {
            "do": "decode",
            "path": self._path,
            "bytes": first["source_bytes"],
            "companion_bytes": first.get("companion_bytes"),
            "spans": [[row[name] for name in ClipSpan._fields] for row in self._rows],
            "facts": {
                name: first.get(name) if name in StreamFacts._field_defaults else first[name]
                for name in StreamFacts._fields
                if name not in FOR_PLANNING
            },
            "bbox": first.get("bbox"),
            "audio_rate": self._audio_rate,
            **_address({**first, "source_fps": first["fps"]}),
            **self._options,
        }
        side = self._options["resolution"]
        largest = max(row["num_frames"] for row in self._rows) * side * side * 3
        patience = self._child._send(request, self._cpu_seconds, largest)
        done = False
        try:
            while not done:
                answer, data = self._child._receive(patience, self._cpu_seconds)
                if "sha256" in answer:
                    self.sha256 = answer["sha256"]
                elif "index" in answer and "error" in answer:
                    yield answer["index"], VideoError(*answer["error"])
                elif "index" in answer:
                    yield answer["index"], unpack_clip(answer, data, self._child._slots)
                else:
                    done = True  # all clips, or none of the rest: either is the request's last answer
                    if "error" in answer:
                        raise VideoError(*answer["error"])
        finally:
            if not done:  # given up half-way: answers that nobody reads must not meet the next request
                self._child.close()


def _with_allowance(cpu_seconds: float, pixels: int, size: int) -> float:
    allowance = pixels / _PIXELS_PER_SECOND + size / _BYTES_PER_SECOND
    return cpu_seconds + min(allowance, _LARGEST_ALLOWANCE * cpu_seconds)


def _address(source: Mapping[str, Any]) -> dict[str, Any]:
    return {key: source.get(key) for key in ("medium", "item", "source_fps")}


def _report(words: str) -> None:
    """Puts what a child said last into the log of this process; a reject has one line of it at most."""
    if words:
        console.note(f"the decoding process says:\n{words}")


def _death(code: int | None, cpu_seconds: float, memory: int, words: str) -> VideoError:
    if code == -signal.SIGXCPU:
        return VideoError("timeout", f"more than {cpu_seconds:.0f} s of CPU time")
    if code == -signal.SIGKILL:
        return VideoError("memory", f"the decoding process was killed (limit {memory} MiB)")
    if code is None:
        return VideoError("crashed", "the decoding process hung up, and did not end")
    if code == 1 and "Traceback" in words:
        return VideoError("internal", words.splitlines()[-1])
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return VideoError("crashed", f"the decoding process died: {name}")
