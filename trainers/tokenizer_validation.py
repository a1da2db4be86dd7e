"""Measures a tokenizer on held-out clips while it trains, shows them, and warns of a codebook that collapses."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from schemas.config import Recipe
from schemas.errors import UsageError
from vtok import console
from vtok.audio.clips import sound_batch, sound_picture
from vtok.evaluation.reconstruction import SSIM_LEAST_SIDE, psnr, psnr_of_best_constant_frame, sharpness, ssim
from vtok.files import write_bytes
from vtok.shards.reader import ShardReader
from vtok.tokenizers.autoencoder import VideoAutoencoder
from vtok.tokenizers.codebook import Codebook
from vtok.tokenizers.lpips import LPIPS
from vtok.tokenizers.usage import collapse_warnings, usage_picture
from vtok.tokens.stats import health, usage
from vtok.video.encode import write_gif
from vtok.video.preview import side_by_side
from vtok.video.ranges import to_model_range, to_pixels

_LPIPS_SCALE = 2.0  # from [-0.5, 0.5] to what LPIPS was made for, whatever the training feeds it


class HeldOut:
    """The first clips of the test split (of train, where there is no test) in store order.

    Args:
        recipe: its `tokenizer.train` says how many clips, previews and when to warn.
        folder: the run's; previews go into `previews/`.
        batch_size: clips in a forward pass.

    Attributes:
        usage_k: how often each code occurred in the last measurement, the most frequent code first.

    Raises:
        UsageError: the shards hold no clips.
    """

    usage_k: Int64[np.ndarray, " k"]

    def __init__(self, recipe: Recipe, folder: Path, batch_size: int) -> None:
        self.config, self.folder, self.batch_size = recipe.tokenizer, folder, batch_size
        # a tokenizer sees sounds in [-1, 1]; everything is measured and shown in [-0.5, 0.5]
        self._scale = 1.0 if self.config.spectrum is None else 0.5
        self.video_bcthw = self._scale * _first_clips(recipe, self.config.train.validate_clips)
        self._psnr_still = float(psnr_of_best_constant_frame(self.video_bcthw).mean())

    @torch.no_grad()
    def measure(self, model: VideoAutoencoder, lpips: LPIPS | None) -> tuple[dict[str, float], Tensor, np.ndarray]:
        """Numbers, the reconstruction in [-0.5, 0.5], how often each code occurs. The model is left in training mode.

        Args:
            lpips: measures `val_lpips`, on every frame; None: it is left out.
        """
        device = next(model.parameters()).device
        model.eval()
        recon, codes, distances = [], [], []
        for video in self.video_bcthw.split(self.batch_size):
            output = model(video.to(device) / self._scale)
            recon.append(self._scale * output.recon_bcthw.float().cpu())
            codes.append(output.codes_bthw.cpu())
            if lpips is not None:
                pair = (video.to(device), (self._scale * output.recon_bcthw.float()).clamp(-0.5, 0.5))
                distances.append(_lpips_of_frames(lpips, *pair).cpu())
        model.train()
        recon_bcthw = torch.cat(recon)
        counts = usage(torch.cat(codes).numpy(), self.config.model.n_codes)
        self.usage_k = np.sort(counts)[::-1]
        facts = health(counts)
        values = {
            "val_psnr": float(psnr(recon_bcthw, self.video_bcthw).mean()),
            "val_psnr_still": self._psnr_still,
            "val_sharpness": float(sharpness(recon_bcthw, self.video_bcthw).mean()),
            "val_perplexity": facts.perplexity,
            "val_dead": float(facts.dead),
        }
        if min(recon_bcthw.shape[-2:]) >= SSIM_LEAST_SIDE:
            values["val_ssim"] = float(ssim(recon_bcthw, self.video_bcthw).mean())
        if distances:
            values["val_lpips"] = float(torch.cat(distances).mean())
        return values, recon_bcthw, counts

    def show(self, recon_bcthw: Tensor, counts: np.ndarray, step: int) -> None:
        """Writes originals beside reconstructions as a GIF, and the usage of the codebook as a PNG."""
        count = self.config.train.preview_clips
        originals, made = (_rgb(clips[:count]) for clips in (self.video_bcthw, recon_bcthw))
        frames = side_by_side(list(originals), list(made))
        write_gif(self.folder / "previews" / f"step-{step:08d}.gif", frames, 8.0)
        buffer = io.BytesIO()
        Image.fromarray(usage_picture(counts)).save(buffer, "PNG")
        write_bytes(self.folder / "previews" / f"usage-{step:08d}.png", buffer.getvalue())

    def warnings(self, model: VideoAutoencoder, values: dict[str, float], step: int, counts: np.ndarray) -> list[str]:
        """What is wrong with the codebook after `step` batches; nothing in the first `warn_after`."""
        if step < self.config.train.warn_after:
            return []
        codebook, restarted = model.codebook, 0.0
        if isinstance(codebook, Codebook):
            restarted = float(codebook.N.lt(codebook.restart_threshold).float().mean())
        measured = (values["val_perplexity"], int(values["val_dead"]), int(counts.sum()), restarted)
        return collapse_warnings(*measured, self.config.model, self.config.train)


def warn(name: str, step: int, texts: list[str]) -> None:
    """Says every text on the console."""
    for text in texts:
        console.note(f"WARN {name} step {step}: {text}")


def _lpips_of_frames(lpips: LPIPS, video_bcthw: Tensor, recon_bcthw: Tensor) -> Tensor:
    scale = _LPIPS_SCALE / lpips.input_scale
    frames = [scale * x.movedim(2, 1).flatten(0, 1) for x in (video_bcthw, recon_bcthw)]
    return lpips(*frames).flatten()


def _rgb(clips_bcthw: Tensor) -> np.ndarray:
    """Pixels; sounds are grey, low frequencies at the bottom."""
    pixels = to_pixels(clips_bcthw.numpy())
    return pixels if pixels.shape[-1] != 1 else np.repeat(pixels[:, :, ::-1], 3, axis=-1)


def _first_clips(recipe: Recipe, count: int) -> Tensor:
    shards, spectrum = recipe.folder("shards"), recipe.tokenizer.spectrum
    for split in ("test", "train"):
        reader = ShardReader(shards, split, seed=recipe.seed, shuffle=False)
        if len(reader):
            clips = list(itertools.islice(reader.clips(0), count))
            if spectrum is not None:
                if all(sound_picture(clip.extras, spectrum, clip.meta["num_frames"]) is None for clip in clips):
                    raise UsageError(f"none of the first clips of {split!r} has sound", at=str(shards))
                sounds = sound_batch([clip.extras for clip in clips], [clip.meta for clip in clips], spectrum)
                return torch.from_numpy(sounds)
            return torch.from_numpy(to_model_range(np.stack([clip.video_thwc for clip in clips])))
    raise UsageError("the shards hold no clips", at=str(shards), hint="ingest videos that can be decoded")
