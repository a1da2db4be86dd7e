"""What the videos are, how they are cut into clips, and how clips are packed into shards."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.config.base import Config


class DataConfig(Config):
    """Section `data`: the source videos and the clip plan."""

    root: str = Field(description="Folder that holds the videos. Local, or `s3://BUCKET/FOLDER`.")
    layout: Literal[
        "folder",
        "bair",
        "frame_lists",
        "frames",
        "hdf5",
        "kinetics",
        "mugen",
        "sky",
        "taichi",
        "tars",
        "tats_stft",
        "tgif",
        "ucf101",
    ] = Field(
        "folder",
        description="How the folder is laid out: `folder` (train/ test/, however spelt, and class folders are "
        "used when there), `bair` "
        "(softmotion30_44k/{train,test}/*.tfrecords), `frame_lists` (train.txt and test.txt name the images), `frames` "
        "(every folder of images is a video), `hdf5` (files with {train,test}_data and {train,test}_idx, as VideoGPT "
        "and TATS have them), `kinetics` (400, 600, 700: CSV lists), `mugen` (rendered, with train.json, test.json), "
        "`sky` (sky_timelapse/{sky_train,sky_test}/<video>/<clip>/*.jpg), `taichi` (Taichi-HD, downloaded with "
        "taichi-metadata.csv, or cut), `tars` (WebDataset tars of videos), `tats_stft` (video/ and stft/ as TATS has "
        "them), `tgif` (GIFs with tgif-v1.0.tsv and splits/) or `ucf101` (v_<Class>_gNN_cNN.avi, with the official "
        "split lists).",
    )
    annotations: str | None = Field(
        None,
        description="Glob, below the root, of the lists that the layouts `kinetics`, `mugen`, `taichi` and `tgif` "
        "read (default: where the dataset has them).",
    )
    captions: str | None = Field(
        None,
        description="Layout `folder`: file below the root with the videos' captions: name<TAB>caption (.tsv, .txt) or "
        "`source` and `caption` (.csv with a header, .jsonl). A video that it names and that is not there is a reject, "
        "`missing`.",
    )
    semantic_maps: str | None = Field(
        None,
        description="Layout `hdf5`: HDF5 file below the root with a class a pixel, cut like the frames; becomes "
        "`smap.npy` of each clip.",
    )
    caption_type: Literal["manual", "auto"] = Field(
        "manual", description="MUGEN only: which kind of caption to take; the other where a video has none of it."
    )
    bair_view: Literal["image_aux1", "image_main"] = Field(
        "image_aux1", description="BAIR only: which of the two cameras."
    )
    split_list: Literal[1, 2, 3] = Field(1, description="UCF-101 only: which of the three official split lists.")
    test_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Folder without train/ and test/: the fraction of videos that go to `test`, decided per video by a "
        "hash of its path below the root.",
    )
    max_pixels_per_byte: int = Field(
        100_000,
        ge=1,
        description="Pixels that a video may decode to for each byte of its file; clips beyond that are rejected "
        "(`over_budget`). 4 gigapixels are always allowed. A still picture, over and over, has less than 10,000.",
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
    windows: Literal["all", "first", "centre"] = Field(
        "all",
        description="Where clips lie in a video (in a shot, with scene_threshold): `all` windows from its start on, "
        "only the `first`, or one in the `centre`. All clips have num_frames frames.",
    )
    max_clips_per_video: int | None = Field(
        None, ge=1, description="Keep at most n clips of a video, of those that the filters below let through."
    )
    pick: Literal["first", "spread"] = Field(
        "first",
        description="Which clips max_clips_per_video keeps: the `first` n, or n `spread` evenly over the video.",
    )
    scene_threshold: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Cut videos into shots and let no clip straddle a cut: a frame whose score (ffmpeg's scdet, 0-100) "
        "is higher begins a shot; 10 is usual, and dissolves are not found. This and the next three options decode "
        "every video once more, at ingest.",
    )
    min_motion: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Reject clips (`still`) whose mean absolute difference between successive frames, grey and small, "
        "is below this, percent of the range from black to white; 0.1 drops slides and still pictures.",
    )
    max_black: float | None = Field(
        None, ge=0, lt=1, description="Reject clips (`black`) of whose frames more than this fraction are black."
    )
    letterbox: Literal["keep", "crop"] = Field(
        "keep",
        description="Black bars around the picture: `keep` them or `crop` to the picture (the manifest's bbox). Videos "
        "whose layout gives a box keep that.",
    )

    pixel_aspect: Literal["ignore", "apply"] = Field(
        "ignore",
        description="Pixels that are not square, as of DV and DVD: `ignore`, taken as if they were, as the originals "
        "do, or `apply`, resized to what a viewer is shown. The manifest's `pixel_aspect` has the figure.",
    )

    @property
    def looks_at_frames(self) -> bool:
        """Whether planning needs more than the headers: a pass over the frames of every video."""
        return (self.scene_threshold, self.min_motion, self.max_black) != (None,) * 3 or self.letterbox == "crop"

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
    target_bytes: int | None = Field(
        None,
        ge=1 << 16,
        description="Plan shards of about this many bytes instead of by clips_per_shard. The size of a clip is "
        "estimated from resolution, frames and encoding, so that the plan never depends on encoded sizes.",
    )
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
    max_frames: int = Field(
        10_000_000, ge=1, description="Frames of one video that are decoded at most; clips beyond them are rejected."
    )
    hwaccel: Literal["none", "cuda"] = Field(
        "none",
        description="With decoder ffmpeg: `cuda` decodes with NVDEC; where that cannot be had, a note says so and the "
        "CPU decodes.",
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

    @model_validator(mode="after")
    def _cuda_by_ffmpeg(self) -> ShardsConfig:
        if self.hwaccel == "cuda" and self.decoder != "ffmpeg":
            raise ValueError("hwaccel cuda needs decoder ffmpeg")
        return self
