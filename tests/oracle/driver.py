"""Runs vtok over files, one JSON job a line; imports nothing of these tests, so that it drives any checkout.

`PYTHONPATH=CHECKOUT python -P driver.py JUNK`: JUNK is the byte that fills what numpy leaves uninitialised.
"""

from __future__ import annotations

import hashlib
import json
import sys
import traceback
from typing import Any

import numpy as np


def poison(junk: int) -> None:
    """numpy.empty and its kin return junk, and always the same."""
    for name in ("empty", "empty_like"):
        real = getattr(np, name)

        def poisoned(*args: Any, real: Any = real, **options: Any) -> Any:
            out = real(*args, **options)
            if out.dtype != object and out.size and out.flags.contiguous:
                out.reshape(-1, order="A").view(np.uint8)[...] = junk
            return out

        setattr(np, name, poisoned)


def run(job: dict[str, Any]) -> dict[str, Any]:
    from schemas.config.data import DataConfig
    from vtok.video.clips import plan_clips
    from vtok.video.decode import decode_clips, read_video
    from vtok.video.errors import VideoError
    from vtok.video.probe import probe

    def reason(error: VideoError) -> dict[str, Any]:
        return {"error": [error.reason, error.detail]}

    try:
        if job["plan"] is None:
            return {"whole": read_video(job["path"])}
        facts = probe(job["path"])
        out: dict[str, Any] = {"facts": facts._asdict()}
        spans = plan_clips(facts, DataConfig(root="/", **job["plan"]))
    except VideoError as error:
        return reason(error)
    out["spans"] = [span._asdict() for span in spans]
    options = {name: job[name] for name in ("resolution", "policy", "decoder")}
    clips: dict[int, Any] = {}
    for number, clip in decode_clips(job["path"], facts, spans, **options):
        if number in clips:
            raise AssertionError(f"clip {number} came twice")
        clips[number] = clip.copy() if isinstance(clip, np.ndarray) else reason(clip)
    out["clips"] = [clips.get(number) for number in range(len(spans))]
    return out


def _packed(value: Any, arrays: list[np.ndarray], keep: bool) -> Any:
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(repr(value.shape).encode() + value.tobytes()).hexdigest()
        arrays.append(value if keep else value[:0])
        return {"array": len(arrays) - 1, "sha256": digest}
    if isinstance(value, dict):
        return {key: _packed(item, arrays, keep) for key, item in value.items()}
    if isinstance(value, list):
        return [_packed(item, arrays, keep) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def main() -> None:
    poison(int(sys.argv[1]))
    for line in sys.stdin:
        job = json.loads(line)
        try:
            out = run(job)
        except Exception as error:
            out = {"crash": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()[-3000:]}
        arrays: list[np.ndarray] = []
        answer = _packed(out, arrays, job["keep"] is not None)
        if job["keep"] is not None:
            np.savez(job["keep"], *arrays)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
