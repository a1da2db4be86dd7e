"""The datasets that vtok knows by name: their layout, their archives, and what their authors say is in them."""

from __future__ import annotations

from typing import NamedTuple

from schemas.errors import UsageError


class Dataset(NamedTuple):
    """One published dataset.

    Attributes:
        layout: the `data.layout` that reads it.
        page: where it comes from.
        archives: file name patterns of its archives, as they are downloaded.
        videos: published number of videos of each split (UCF-101: of list 1); empty: not stated.
        classes: published number of classes; 0: it has none.
        get: how to get it, in a sentence.
    """

    layout: str
    page: str
    archives: tuple[str, ...]
    videos: dict[str, int]
    classes: int
    get: str


UCF101_LISTS = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
"""Videos of train and test in each of UCF-101's three official splits."""


def _kinetics(classes: int, train: int, val: int) -> Dataset:
    return Dataset(
        "kinetics",
        "https://github.com/cvdfoundation/kinetics-dataset",
        ("*.tar.gz", "train/*.tar.gz", "val/*.tar.gz", "test/*.tar.gz"),
        {"train": train, "val": val},
        classes,
        "download the tar.gz files and the annotation CSVs with the scripts of the CVD foundation",
    )


DATASETS: dict[str, Dataset] = {
    "ucf101": Dataset(
        "ucf101",
        "https://www.crcv.ucf.edu/data/UCF101.php",
        ("UCF101.rar", "UCF101TrainTestSplits-RecognitionTask.zip"),
        dict(zip(("train", "test"), UCF101_LISTS[1], strict=True)),
        101,
        "download UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip into the folder",
    ),
    "bair": Dataset(
        "bair",
        "https://rail.eecs.berkeley.edu/datasets/bair_robot_pushing_dataset_v0.tar",
        ("bair_robot_pushing_dataset_v0.tar",),
        {"train": 43264, "test": 256},
        0,
        "download bair_robot_pushing_dataset_v0.tar (30 GB) into the folder",
    ),
    "kinetics400": _kinetics(400, 240436, 19796),
    "kinetics600": _kinetics(600, 383393, 27910),
    "kinetics700": _kinetics(700, 542357, 34824),
    "sky": Dataset(
        "sky",
        "https://github.com/weixiong-ur/mdgan",
        ("sky_timelapse*.zip", "sky_timelapse*.tar", "sky_timelapse*.tar.gz"),
        {},
        0,
        "download the Sky Time-lapse archive of MD-GAN into the folder",
    ),
    "taichi": Dataset(
        "taichi",
        "https://github.com/AliaksandrSiarohin/video-preprocessing",
        (),
        {"train": 3049, "test": 285},
        0,
        "download the videos that taichi-metadata.csv names, as {video_id}.mp4, and put the CSV beside them",
    ),
    "mugen": Dataset(
        "mugen",
        "https://mugen-org.github.io/download",
        ("*.zip",),
        {},
        0,
        "download MUGEN's rendered videos and its train.json, val.json, test.json into the folder",
    ),
    "tgif": Dataset(
        "tgif",
        "https://github.com/raingo/TGIF-Release",
        (),
        {"train": 80000, "val": 10708, "test": 11360},
        0,
        "download the GIFs that tgif-v1.0.tsv names, by the last part of their addresses, and put it and splits/ there",
    ),
}
"""By the name that `vtok data unpack` and `vtok data doctor` take."""


def find_dataset(name: str) -> Dataset:
    """The dataset of this name.

    Raises:
        UsageError: vtok does not know it.
    """
    if name not in DATASETS:
        raise UsageError(
            f"no dataset is called {name!r}",
            at="NAME",
            hint=f"vtok knows {', '.join(DATASETS)}; any other folder of videos is read with data.layout: folder",
        )
    return DATASETS[name]
