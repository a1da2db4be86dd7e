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
from vtok.datasets.kinetics import list_kinetics
from vtok.datasets.mugen import list_mugen
from vtok.datasets.sky import list_sky
from vtok.datasets.taichi import list_taichi
from vtok.datasets.tars import list_tars
from vtok.datasets.tats_stft import list_tats_stft
from vtok.datasets.tgif import list_tgif
from vtok.datasets.ucf101 import list_ucf101

LAYOUTS: dict[str, Callable[[Path, DataConfig], list[SourceVideo]]] = {
    "folder": list_folder,
    "bair": list_bair,
    "frame_lists": list_frame_lists,
    "frames": list_frames,
    "hdf5": list_hdf5,
    "kinetics": list_kinetics,
    "mugen": list_mugen,
    "sky": list_sky,
    "taichi": list_taichi,
    "tars": list_tars,
    "tats_stft": list_tats_stft,
    "tgif": list_tgif,
    "ucf101": list_ucf101,
}
"""From `data.layout` to the function that lists the videos below a root."""
