"""Random crop and horizontal flip of training clips: one draw a clip, the same for all its frames.

A draw is keyed by (seed, epoch, clip), so it does not depend on the batch, the rank or the process that decodes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from schemas.config.tokenizer import AugmentConfig
from schemas.errors import UsageError
from vtok.seeds import derive


def augment_clip(
    video_thwc: UInt8[np.ndarray, "t h w c"], config: AugmentConfig, *, seed: int, epoch: int, clip_id: str
) -> UInt8[np.ndarray, "t c_h c_w c"]:
    """A view of the clip: a square of `config.crop` pixels at a random place, mirrored with probability 1/2.

    Raises:
        UsageError: the clip is smaller than the crop.
    """
    height, width = video_thwc.shape[1:3]
    random = np.random.default_rng(derive(seed, "augment", epoch, clip_id))
    if config.crop is not None:
        if config.crop > min(height, width):
            raise UsageError(
                f"a crop of {config.crop} from clips of {height} x {width}",
                at=f"tokenizer.train.augment.crop, clip {clip_id}",
                hint="a crop is at most as large as data.resolution",
            )
        top, left = random.integers(height - config.crop + 1), random.integers(width - config.crop + 1)
        video_thwc = video_thwc[:, top : top + config.crop, left : left + config.crop]
    if config.flip and random.integers(2):
        video_thwc = video_thwc[:, :, ::-1]
    return video_thwc
