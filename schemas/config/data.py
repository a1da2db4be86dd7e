"""What the videos are, how they are cut into clips, and how clips are packed into shards."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.config.base import Config


class DataConfig(Config):
    """Section `data`: the source videos and the clip plan."""

    root: str = Field(description="Folder that holds the videos. Local, or `s3://BUCKET/FOLDER`.")
    layout: Literal["folder", "ucf101"] = Field(
        "folder",
        description="How the folder is laid out: `folder` (train/ test/ and class folders are used when there) or "
        "`ucf101` (v_<Class>_gNN_cNN.avi, with the official split lists).",
    )
    split_list: Literal[1, 2, 3] = Field(1, description="UCF-101 only: which of the three official split lists.")
    test_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Folder without train/ and test/: the fraction of videos that go to `test`, decided per video by a "
        "hash of its path below the root.",
    )
    source_fps: float = Field(
        25.0, gt=0, le=1000, description="Frames per second of sources that do not say theirs (image folders, arrays)."
    )
    resolution: int = Field(128, ge=8, le=4096, description="Height and width of a clip after resize and crop, pixels.")
    num_frames: int = Field(16, ge=1, le=65536, description="Frames in a clip.")
    frame_stride: int | None = Field(None, ge=1, description="Take every n-th source frame (default 1).")
    frame_rate: float | None = Field(
        None, gt=0, le=1000, description="Sample at this many frames per second instead of by stride."
    )
    clip_stride: int | None = Field(
        None,
        ge=1,
        description="Distance between the starts of two clips of a video, in sampled frames (default: num_frames, "
        "so that clips do not overlap).",
    )
    max_clips_per_video: int | None = Field(None, ge=1, description="Keep the first n clips of a video.")

    @model_validator(mode="after")
    def _one_rate(self) -> DataConfig:
        if self.frame_stride is not None and self.frame_rate is not None:
            raise ValueError("give frame_stride or frame_rate, not both")
        return self


class ShardsConfig(Config):
    """Section `shards`: decoding and packing."""

    encoding: Literal["jpeg", "raw", "h264"] = Field(
        "jpeg", description="How frames are stored: `jpeg` (q95, 4:4:4), `raw` (lossless, zstd) or `h264` (smallest)."
    )
    clips_per_shard: int = Field(256, ge=1, le=100_000, description="Clips planned into one shard: the unit of work.")
    decoder: Literal["pyav", "ffmpeg"] = Field(
        "pyav", description="`pyav` (in-process libraries) or `ffmpeg` (the ffmpeg binary)."
    )
    policy: Literal["reference", "fast"] = Field(
        "reference",
        description="Resize: `reference` equals the originals (bilinear without antialias), `fast` is libswscale's.",
    )
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality, with encoding jpeg.")
    h264_crf: int = Field(18, ge=0, le=51, description="x264 constant rate factor, with encoding h264 (lower: better).")
    cpu_seconds_per_video: float = Field(
        60.0,
        gt=0,
        description="CPU time that decoding one video may take, seconds, besides an allowance for its pixels and bytes "
        "(at most 100 times this); past it the video is rejected.",
    )
    max_pixels: int = Field(
        8192 * 8192, ge=1, description="Largest frame that is decoded, pixels; larger videos are rejected."
    )
    max_memory_mb: int = Field(4096, ge=512, description="Address space of the decoding process, MiB.")
    audio_rate: int | None = Field(
        None,
        ge=1000,
        le=384_000,
        description="Keep the sound of every clip beside its frames: mono 16-bit WAV at this many samples per second.",
    )
    shuffle: bool = Field(
        True, description="Spread the videos of a class over all shards, in an order fixed by `seed`."
    )
