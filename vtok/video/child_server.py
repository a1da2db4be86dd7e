"""What runs inside a decoding child (`python -m vtok.video.child_server`): it imports neither torch nor Ray.

It answers one request after the other until its parent is gone, under limits of CPU time and memory that the kernel
keeps; then it ends, with everything that it has started.
"""

from __future__ import annotations

import faulthandler
import functools
import hashlib
import importlib.metadata
import math
import os
import platform
import queue
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from av.error import FFmpegError

from schemas.errors import VtokError
from vtok.video.analysis import analyse, pack
from vtok.video.child_slots import Slots
from vtok.video.child_wire import RECEIVED, DecodedClip, pack_clip, pack_facts, read_request, write_message
from vtok.video.clips import ClipSpan
from vtok.video.decode import clip_indices, decode_clips, decode_sequence
from vtok.video.errors import VideoError
from vtok.video.media import Opened, open_item
from vtok.video.media.audio import read_sound
from vtok.video.media.companions import companion_size, read_companion
from vtok.video.probe import StreamFacts, describe, probe
from vtok.video.self_test import check_decoding

_BLOCK = 1 << 20
_ROOT = Path(__file__).resolve().parents[2]


def limit_cpu(seconds: float) -> None:
    """Lets this process use `seconds` more of CPU time before the kernel ends it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds), hard))


def serve() -> None:
    """The child's life: one request after the other until its parent closes the pipe.

    Its arguments are the memory that it may have, MiB, and those of `Slots.inherited`.
    """
    memory, slots = int(sys.argv[1]) << 20, Slots.inherited(sys.argv[2:])
    resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that a library prints may end up among the frames
    faulthandler.enable()
    broken = _try_out()
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        request = requests.get()
        sink.write(RECEIVED)
        sink.flush()
        limit_cpu(request["cpu_seconds"])
        if broken is not None:
            write_message(sink, {"fatal": broken})
            continue
        try:
            answer(request, sink, slots)
        except VideoError as error:
            write_message(sink, {"error": [error.reason, error.detail]})
        except VtokError as error:
            write_message(sink, {"fatal": [error.what, error.at, error.hint]})
        except MemoryError:
            write_message(sink, {"error": ["memory", "the decoder ran out of memory"]})
        except FFmpegError as error:  # of a kind that is not expected there; still FFmpeg's word on this file
            reason = "unreadable" if request["do"] == "probe" else "corrupt"
            write_message(sink, {"error": [reason, describe(error)]})
        except Exception as error:
            write_message(sink, {"error": ["internal", summary(error)], "traceback": traceback.format_exc()})


def _try_out() -> list[str] | None:
    """What, where and hint of an error for users if this machine cannot decode; None: it can."""
    try:
        check_decoding()
    except Exception as error:
        versions = f"Python {platform.python_version()}, PyAV {importlib.metadata.version('av')}"
        return [
            f"no video can be decoded here, not even the built-in one: {summary(error)}\n{traceback.format_exc()}",
            versions,
            "install the versions that are known to work (`pip install -c constraints.txt -e .`); see `vtok doctor`",
        ]
    return None


def summary(error: BaseException) -> str:
    """An exception of ours in one line that is the same everywhere: what it is, and the way to it in our files."""
    files = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    ours = [(path.relative_to(_ROOT).as_posix(), line) for path, line in files if path.is_relative_to(_ROOT / "vtok")]
    way = " < ".join(f"{path}:{line}" for path, line in reversed(ours[-4:]))
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({way})"


def _listen(requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Reads requests in a thread of its own, so that the parent's end is noticed at any time; then all ends."""
    while (request := read_request(sys.stdin.buffer)) is not None:
        requests.put(request)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def answer(request: dict[str, Any], sink: IO[bytes], slots: Slots) -> None:
    """Does what a request asks for."""
    with open_item(request, Path(request["path"])) as opened:
        if request["do"] == "probe":
            facts = opened.sequence.facts if opened.sequence else probe(opened.path)
            header, data = pack_facts(facts)
            write_message(sink, {**header, "size": _size(opened)}, [data])
            return
        if request["do"] == "analyse":
            header, data = pack(analyse(opened, StreamFacts(**request["facts"]), bars=request["bars"]))
            write_message(sink, header, [data])
            return
        digest = opened.sequence.digest() if opened.sequence else hash_file(opened.path)
        size = _size(opened)
        if size != request["bytes"]:
            raise VideoError("changed", f"{size} bytes where ingest saw {request['bytes']}")
        beside = companion_size(Path(path) for path, _ in request["companions"].values())
        if None not in (beside, request["companion_bytes"]) and beside != request["companion_bytes"]:
            raise VideoError("changed", f"companions of {beside} bytes where ingest saw {request['companion_bytes']}")
        write_message(sink, {"sha256": digest})
        slots.grow(request["slot"])
        for index, result in _decode(request, opened):
            if isinstance(result, VideoError):
                write_message(sink, {"index": index, "error": [result.reason, result.detail]})
            else:
                header, blocks = pack_clip(result, slots)
                write_message(sink, {"index": index, **header}, blocks)
        write_message(sink, {"done": True})


def _size(opened: Opened) -> int:
    if opened.sequence is not None:
        return opened.sequence.bytes
    return opened.bytes if opened.bytes is not None else opened.path.stat().st_size


def _decode(request: dict[str, Any], opened: Opened) -> Iterator[tuple[int, DecodedClip | VideoError]]:
    spans = [ClipSpan(*span) for span in request["spans"]]
    facts = StreamFacts(**request["facts"])
    options = {key: request[key] for key in ("resolution", "policy", "max_pixels", "bbox")}
    companions = request["companions"]
    if opened.sequence is not None:
        signals = opened.sequence.signals
        for index, indices, result in decode_sequence(opened.sequence, spans, **options):
            extras = {name: signal[indices] for name, signal in signals.items()} if indices else {}
            yield index, _clip(result, extras, indices, companions)
        return
    sounds: list[np.ndarray | VideoError | None] = [None] * len(spans)
    if request["audio_rate"]:
        order = sorted(range(len(spans)), key=lambda i: spans[i].start_time)
        times = [(spans[i].start_time, spans[i].end_time) for i in order]
        for i, sound in zip(order, read_sound(opened.path, facts.stream, times, request["audio_rate"]), strict=True):
            sounds[i] = sound
    chosen = clip_indices(opened.path, facts, spans) if companions else [[] for _ in spans]
    options |= {key: request[key] for key in ("decoder", "max_frames", "hwaccel", "pixel_aspect")}
    for index, clip in decode_clips(opened.path, facts, spans, **options):
        heard = sounds[index]
        if isinstance(heard, VideoError) and not isinstance(clip, VideoError):
            clip = heard
        yield index, _clip(clip, {"audio": heard} if isinstance(heard, np.ndarray) else {}, chosen[index], companions)


def _clip(
    frames_thwc: np.ndarray | VideoError,
    extras: dict[str, np.ndarray],
    indices: list[int] | VideoError,
    companions: dict[str, tuple[str, str]],
) -> DecodedClip | VideoError:
    """A clip with what belongs to its frames; what cannot be had is the clip's error."""
    if isinstance(frames_thwc, VideoError):
        return frames_thwc
    if isinstance(indices, VideoError):
        return indices
    try:
        found = {name: read_companion(Path(path), item, indices) for name, (path, item) in companions.items()}
    except VideoError as error:
        return error
    return DecodedClip(frames_thwc, {**extras, **found})


def hash_file(path: Path) -> str:
    """sha256 of a file, read through once; decoding then finds it in the page cache.

    The last file's is remembered: datasets that cut a video into parts ask for it part after part.

    Raises:
        VideoError: `vanished` or `unreadable`.
    """
    try:
        facts = path.stat()
        return _hash(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    except FileNotFoundError:
        raise VideoError("vanished", "no such file") from None
    except OSError as error:
        raise VideoError("unreadable", error.strerror or str(error)) from error


@functools.lru_cache(maxsize=1)
def _hash(path: Path, inode: int, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    serve()
