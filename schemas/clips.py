"""The clip manifest: one row a planned clip, and the rejects table that everything else ends up in."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

CLIPS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),  # stable: path below the root, start and sampling
        pa.field("source", pa.string(), nullable=False),  # path below the root, POSIX, and `#item` if any
        pa.field("medium", pa.string()),  # how the frames lie: null for a video file, else frames, hdf5, tar, tfrecord
        pa.field("item", pa.string()),  # which of several videos in the file, or which part of it; null: the only one
        pa.field("companions", pa.string()),  # JSON: name to `path#item` of what lies elsewhere, one row a frame
        pa.field("source_bytes", pa.int64(), nullable=False),
        pa.field("source_sha256", pa.string()),  # of the video alone; null until the pass that decodes it has read it
        pa.field("companion_bytes", pa.int64()),  # size of the companions' files together; null: none, or an older vtok
        pa.field("companions_sha256", pa.string()),  # of the companions' rows for this clip; null until it is decoded
        pa.field("stream", pa.int32(), nullable=False),  # index of the video stream in the file
        pa.field("codec", pa.string(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),  # average frame rate, frames per second
        pa.field("height", pa.int32(), nullable=False),  # pixels, after rotation
        pa.field("width", pa.int32(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),  # frames in the stream
        pa.field("frames_exact", pa.bool_(), nullable=False),  # counted from packets, not believed from the header
        pa.field("duration", pa.float64(), nullable=False),  # seconds to the end of the last frame, holes included
        pa.field("rotation", pa.int32(), nullable=False),  # degrees counter-clockwise that a viewer turns the frames by
        pa.field("mirrored", pa.bool_()),  # flipped left to right before they are turned; null: not, or an older vtok
        pa.field("tilt", pa.float64()),  # degrees that the file asks for beyond the right angle, not done; null: none
        pa.field("pixel_aspect", pa.float64()),  # width by height of a pixel, after rotation; null: an older vtok's
        pa.field("has_audio", pa.bool_(), nullable=False),
        pa.field("start_frame", pa.int64()),  # by stride: first source frame; null when sampled by rate
        pa.field("frame_stride", pa.int32()),
        pa.field("start_time", pa.float64(), nullable=False),  # seconds from the first frame, by time stamps if uneven
        pa.field("end_time", pa.float64(), nullable=False),  # seconds, end of the last frame
        pa.field("frame_rate", pa.float64()),  # by rate: frames per second; null when sampled by stride
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("class_name", pa.string()),
        pa.field("caption", pa.string()),
        pa.field(
            "bbox", pa.list_(pa.int32(), 4)
        ),  # left, top, right, bottom in pixels after rotation; null: whole frame
    ]
)

REJECTS = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),  # which artefact's making rejected it
        pa.field("source", pa.string(), nullable=False),
        pa.field("clip_id", pa.string()),  # null: the whole file
        pa.field("reason", pa.string(), nullable=False),  # one of REASONS
        pa.field("detail", pa.string(), nullable=False),
    ]
)

REASONS: dict[str, str] = {
    "unreadable": "the file cannot be opened or is no video",
    "empty": "the file has no bytes",
    "no_video": "the file has no video stream",
    "no_frames": "the video stream has no frames",
    "too_short": "fewer frames than one clip needs",
    "implausible": "what the file says of its frames, their rate and its length does not fit together",
    "too_large": "frames larger than shards.max_pixels",
    "too_long": "the clip lies beyond shards.max_frames",
    "over_budget": "decoding it takes more pixels than data.max_pixels_per_byte allows for the file's size",
    "unsafe_path": "the path is a link that leaves the root, or a link to a folder",
    "corrupt": "decoding failed",
    "missing_frames": "the file ends before the clip does",
    "timeout": "decoding took longer than shards.cpu_seconds_per_video (tried again on the next run)",
    "crashed": "the decoding process died",
    "memory": "decoding needed more than shards.max_memory_mb",
    "vanished": "the file was there at ingest and is gone now",
    "changed": "the file is not the one that ingest saw",
    "still": "the clip moves less than data.min_motion",
    "black": "more of the clip's frames are black than data.max_black",
    "no_sound": "the clip has no sound, and tokens.audio.silent is reject",
    "not_in_split": "no split list names this file, they contradict each other, or it lies in no split folder",
    "missing": "the dataset's lists name this video, but it is not there",
    "internal": "a fault of vtok, not of the video: the job fails when everything else is done",
}
"""Every reason that a reject can have, and what it means."""


def reject_row(stage: str, source: str, clip_id: str | None, reason: str, detail: str) -> dict[str, Any]:
    """One row of `REJECTS`; `reason` must be one of `REASONS`."""
    if reason not in REASONS:
        raise ValueError(f"unknown reject reason {reason!r}")
    return {"stage": stage, "source": source, "clip_id": clip_id, "reason": reason, "detail": detail}
