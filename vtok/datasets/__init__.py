"""Datasets in their native layouts: one file each, one entry here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from schemas.config.data import DataConfig
from vtok.datasets.bair import list_bair
from vtok.datasets.base import SourceVideo
from vtok.datasets.folder import list_folder
from vtok.datasets.frames import list_frame_lists, list_frames
from vtok.datasets.hdf5 import list_hdf5
from vtok.datasets.sky import list_sky
from vtok.datasets.ucf101 import list_ucf101

LAYOUTS: dict[str, Callable[[Path, DataConfig], list[SourceVideo]]] = {
    "folder": list_folder,
    "ucf101": list_ucf101,
    "bair": list_bair,
    "hdf5": list_hdf5,
    "frames": list_frames,
    "frame_lists": list_frame_lists,
    "sky": list_sky,
}
"""From `data.layout` to the function that lists the videos below a root."""
