"""How the clips of a token store are encoded: by the job that makes it, and by whoever checks it afterwards.

A clip's codes do not depend on its neighbours: on the CPU clips go through one by one (kernels round differently for
other shapes, and a batch is no faster there); on a GPU in batches of a fixed shape, of which the last one is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokenizers.chunked import encode_chunks
from vtok.video.ranges import to_model_range


class ClipEncoder:
    """Encodes clips, and the pictures of their sounds.

    Args:
        tokenizer: of the frames, on `device`, in eval mode.
        mode: see `VideoAutoencoder.encode`.
        device: `cpu` or `cuda`.
        batch_size: clips of a batch.
        chunk_frames: longer clips are encoded in chunks of so many frames; None: never.
        audio: the tokenizer of the sounds, on `device`; None: there are no sounds.
        pad_on_cpu: also on the CPU encode in padded batches, as stores of version 1 were made.
    """

    def __init__(
        self,
        tokenizer: VideoAutoencoder,
        *,
        mode: Literal["exact", "fast"],
        device: str,
        batch_size: int,
        chunk_frames: int | None,
        audio: VideoAutoencoder | None = None,
        pad_on_cpu: bool = False,
    ) -> None:
        self.tokenizer, self.audio, self.mode, self.device = tokenizer, audio, mode, device
        self.batch_size, self.chunk_frames = batch_size, chunk_frames
        self._padded = pad_on_cpu or device != "cpu"

    def is_long(self, video_thwc: UInt8[np.ndarray, "t h w 3"]) -> bool:
        """Whether a clip is encoded in chunks, and so by itself."""
        return self.chunk_frames is not None and len(video_thwc) > self.chunk_frames

    def frames(self, videos: Sequence[UInt8[np.ndarray, "t h w 3"]]) -> list[Int64[np.ndarray, "t h w"]]:
        """Codes of each of some clips of one shape, at most `batch_size`; RGB frames."""
        if self.is_long(videos[0]):
            return [self._in_chunks(video) for video in videos]
        pictures = [to_model_range(video[None])[0] for video in videos]
        return self._encode(self.tokenizer, pictures, self.mode)

    def sounds(
        self, pictures: Sequence[Float32[np.ndarray, "1 t h w"] | None]
    ) -> list[Int64[np.ndarray, "t h w"] | None]:
        """Codes of the pictures that there are, of one shape, at most `batch_size`; see `vtok.audio.clips`."""
        heard = [picture for picture in pictures if picture is not None]
        if self.audio is None or not heard:
            return [None] * len(pictures)
        codes = iter(self._encode(self.audio, heard, "exact"))
        return [None if picture is None else next(codes) for picture in pictures]

    def _encode(
        self, tokenizer: VideoAutoencoder, pictures: list[np.ndarray], mode: Literal["exact", "fast"]
    ) -> list[np.ndarray]:
        """Codes of each of (c, t, h, w) pictures in the model's range."""
        if not self._padded:
            return [self._batch(tokenizer, picture[None], mode)[0] for picture in pictures]
        empty = [np.zeros_like(pictures[0])] * (self.batch_size - len(pictures))
        return list(self._batch(tokenizer, np.stack([*pictures, *empty]), mode)[: len(pictures)])

    def _batch(
        self, tokenizer: VideoAutoencoder, pictures_bcthw: np.ndarray, mode: Literal["exact", "fast"]
    ) -> np.ndarray:
        with torch.inference_mode():
            codes_bthw = tokenizer.encode(torch.from_numpy(pictures_bcthw).to(self.device), mode=mode)
        codes: np.ndarray = codes_bthw.cpu().numpy()
        return codes

    def _in_chunks(self, video_thwc: UInt8[np.ndarray, "t h w 3"]) -> np.ndarray:
        def read(start: int, stop: int) -> Tensor:
            return torch.from_numpy(to_model_range(video_thwc[None, start:stop])).to(self.device)

        assert self.chunk_frames is not None
        chunk = self.chunk_frames // self.tokenizer.downsample[0]
        with torch.inference_mode():
            parts = [codes.cpu().numpy() for codes in encode_chunks(self.tokenizer, read, len(video_thwc), chunk)]
        whole: np.ndarray = np.concatenate(parts, axis=1)[0]
        return whole
