"""How clips become rows of the token store."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.config.audio import AudioTokensConfig
from schemas.config.base import Config


class ViewConfig(Config):
    """One way to look at a clip: a window of its frames, mirrored or not, at a resolution. Each gives a row."""

    name: str = Field("whole", pattern=r"^[A-Za-z0-9_-]+$", description="The rows' view_id.")
    first_frame: int = Field(0, ge=0, description="First frame of the window, counted in the clip's frames from 0.")
    num_frames: int | None = Field(
        None, ge=1, description="Frames of the window, after frame_stride; null: all that the clip has from there on."
    )
    frame_stride: int = Field(1, ge=1, description="Take every n-th frame of the clip.")
    flip: bool = Field(False, description="Mirror the frames left to right.")
    resolution: int | None = Field(
        None, ge=8, le=4096, description="Height and width of the frames, pixels; null: the clip's own."
    )
    fit: Literal["crop", "resize"] = Field(
        "crop",
        description="How frames come to `resolution`: `crop` cuts out the centre, `resize` scales (policy `reference`: "
        "bilinear without antialias).",
    )
    latent_stride: int = Field(
        1, ge=1, description="Store every n-th time step of the codes, from the first; the others are dropped."
    )


class TokensConfig(Config):
    """Section `tokens`: encoding clips into the token store. One shard becomes one part for each view."""

    source: Literal["shards", "clips"] = Field(
        "shards",
        description="What is encoded: the run's `shards`, or the videos themselves, cut by `clips` (the manifest) "
        "without shards in between; the codes are those of shards with encoding raw. "
        "A finished store is left as it is where videos have the names and sizes that they had: one that was "
        "replaced by another of equal size is found by `vtok tokens check --reencode`.",
    )
    views: tuple[ViewConfig, ...] = Field(
        (ViewConfig(),),
        min_length=1,
        description="Windows, flips and resolutions of every clip; a row for each. "
        "With `source: clips` every view decodes every video again; with several views shards in between are cheaper.",
    )
    cond_frames: int = Field(0, ge=0, description="Keep the first n frames of each view as pixels beside its codes.")
    audio: AudioTokensConfig | None = Field(
        None, description="Encode the sound of every view, too, into the column audio_codes; null: do not."
    )
    mode: Literal["exact", "fast"] = Field(
        "exact",
        description="`exact`: the codes of float32; `fast`: the encoder computes in bfloat16, and some codes differ.",
    )
    chunk_frames: int | None = Field(
        None,
        ge=1,
        description="Encode views with more frames than this in chunks of so many frames, so that memory does not "
        "depend on their length; null: whole. Needs a VQGAN with norm: batch.",
    )
    batch_size: int = Field(
        8,
        ge=1,
        description="Clips in one forward pass on a GPU, the last batch padded; on a CPU they go one by one.",
    )
    row_group_rows: int = Field(256, ge=1, description="Rows in a Parquet row group; more rows: fewer bits a code.")
    threads: int = Field(1, ge=1, description="torch threads of an encoding worker on the CPU.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where the tokenizer runs; `auto`: where the store in the folder was begun, for a new one cuda if "
        "this machine has it, else the CPU.",
    )
    actors_per_gpu: int = Field(1, ge=1, description="Encoding workers that share a GPU.")
    prefetch_mb: int = Field(
        256, ge=1, description="Decoded frames that a worker reads ahead of the encoder at most, MiB (at least a clip)."
    )

    @model_validator(mode="after")
    def _names(self) -> TokensConfig:
        names = [view.name for view in self.views]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two views have the name {twice[0]!r}")
        return self
