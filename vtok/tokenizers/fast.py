"""`fast` mode: the encoder in bfloat16 (float16 where there is none), the nearest code in float32, and a certificate.

Rounding in the encoder moves a vector z by some distance r from where float32 would have put it. Its code a is surely
that of float32 if every code b stays farther than a within that distance, that is, if z lies at least r away from the
plane halfway between a and b: (|z - b|^2 - |z - a|^2) / (2 |a - b|) > r for every b. A code that far is certified.

The nearest code itself is found by a product in the small type, whose error is bounded from the vectors' lengths, and
by float32 distances to whatever that leaves possible: this step loses nothing.

What is measured and not proven is r. `latent_error` compares both encoders on clips that are given to it; worst cases
over all inputs are far too wide to be of use. So a certificate holds for clips whose error is no larger than that of
the clips measured, times a safety factor. Without a measured r, nothing is certified.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from schemas.errors import UsageError
from vtok.tokenizers.autoencoder import VideoAutoencoder, clips_of
from vtok.tokenizers.codebook import Codebook
from vtok.tokenizers.precision import full_precision

SAFETY = 2.0
"""How many times the largest error seen a latent may be off before a certificate is wrong."""
_MOST_CANDIDATES = 64
"""Codes a vector on average that are compared in float32; where more are possible, all are, as in exact mode."""
_ROWS, _ROWS_GPU = 256, 4096


class FastCodes(NamedTuple):
    """Codes of the fast mode.

    Attributes:
        codes_bthw: int64.
        certified_bthw: bool; whether the code is that of exact mode, given the latents' error.
    """

    codes_bthw: Int[Tensor, "b t h w"]
    certified_bthw: Bool[Tensor, "b t h w"]

    @property
    def share(self) -> float:
        """Certified codes, 0 to 1."""
        return float(self.certified_bthw.float().mean())


def fast_type(device: torch.device) -> torch.dtype:
    """bfloat16, or float16 on a GPU that has no bfloat16."""
    old = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if old else torch.bfloat16


def fast_latents(
    latents: Callable[[Tensor], Tensor], video_bcthw: Float[Tensor, "b c t h w"], dtype: torch.dtype | None = None
) -> Float[Tensor, "b d t2 h2 w2"]:
    """The vectors that are quantised, float32, from `tokenizer.latents` computed in `dtype` (None: `fast_type`)."""
    dtype = dtype or fast_type(video_bcthw.device)
    with torch.autocast(video_bcthw.device.type, dtype=dtype):
        return torch.cat([latents(clips_bcthw).float() for clips_bcthw in clips_of(video_bcthw)])


@torch.no_grad()
def latent_error(
    tokenizer: VideoAutoencoder, video_bcthw: Float[Tensor, "b c t h w"], dtype: torch.dtype | None = None
) -> float:
    """Largest distance between a latent of the fast and of the exact encoder, on these clips.

    Args:
        tokenizer: in eval mode.
        video_bcthw: clips like those to be encoded; the more, the better the certificate.
        dtype: of the fast encoder; None: `fast_type`.

    Raises:
        UsageError: the video's channels or size do not fit (`VideoAutoencoder.check_video`).
        RuntimeError: the tokenizer is in training mode.
    """
    _check(tokenizer, video_bcthw)
    fast_bcthw = fast_latents(tokenizer.latents, video_bcthw, dtype)
    with full_precision(video_bcthw.device):
        exact_bcthw = torch.cat([tokenizer.latents(clips_bcthw).float() for clips_bcthw in clips_of(video_bcthw)])
    return float((fast_bcthw - exact_bcthw).norm(dim=1).max())


@torch.no_grad()
def encode_fast(
    tokenizer: VideoAutoencoder,
    video_bcthw: Float[Tensor, "b c t h w"],
    error: float | None = None,
    *,
    safety: float = SAFETY,
    recompute: bool = False,
    dtype: torch.dtype | None = None,
    latents: Callable[[Tensor], Tensor] | None = None,
) -> FastCodes:
    """Codes from an encoder in a small type, and which of them are surely those of exact mode.

    Args:
        tokenizer: in eval mode, with a learnt codebook.
        video_bcthw: in [-0.5, 0.5].
        error: what `latent_error` measured on clips like these; None: no code is certified.
        safety: times `error` is the distance that certified codes withstand.
        recompute: encode clips with an uncertified code again, in exact mode; all codes are then certified.
        dtype: of the encoder; None: `fast_type`.
        latents: what stands for `tokenizer.latents`, such as its `torch.compile`; None: itself.

    Raises:
        UsageError: the tokenizer has no codebook (signs and roundings gain nothing from a certificate), or the video's
            channels or size do not fit (`VideoAutoencoder.check_video`).
        RuntimeError: the tokenizer is in training mode.
    """
    _check(tokenizer, video_bcthw)
    codebook = tokenizer.codebook
    if not isinstance(codebook, Codebook):
        raise UsageError(
            "fast mode needs a codebook",
            at="tokenizer.model.quantizer",
            hint="encode in exact mode",
        )
    z_bcthw = fast_latents(latents or tokenizer.latents, video_bcthw, dtype)
    radius = 0.0 if error is None else safety * error
    with full_precision(video_bcthw.device):
        found = [
            search(part_nc, codebook.embeddings, radius, dtype or fast_type(video_bcthw.device))
            for z_nc in z_bcthw.flatten(2).transpose(1, 2)
            for part_nc in z_nc.split(_ROWS_GPU if z_nc.is_cuda else _ROWS)
        ]
    shape = (len(video_bcthw), *z_bcthw.shape[2:])
    codes_bthw = torch.cat([codes_n for codes_n, _ in found]).view(shape)
    margin_bthw = torch.cat([margin_n for _, margin_n in found]).view(shape)
    certified_bthw = margin_bthw > radius if error is not None else torch.zeros_like(codes_bthw, dtype=torch.bool)
    if recompute:
        again_b = ~certified_bthw.flatten(1).all(1)
        if again_b.any():
            codes_bthw[again_b] = tokenizer.encode(video_bcthw[again_b])
            certified_bthw[again_b] = True
    return FastCodes(codes_bthw, certified_bthw)


def search(
    z_nc: Float[Tensor, "n c"], embeddings_kc: Float[Tensor, "k c"], radius: float, dtype: torch.dtype
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The nearest code of every vector, and how far the vector may move before its code changes.

    Args:
        z_nc: float32.
        embeddings_kc: float32.
        radius: margins up to here are exact; a larger one is only known to be larger, and reported as infinite or as
            the least among the codes that were compared. Where too many codes are as near, margins may be too small.
        dtype: of the product that chooses the codes to compare.

    Returns:
        int64 codes, the lowest of equally near ones; margins, float32, never below 0.
    """
    n, k = len(z_nc), len(embeddings_kc)
    squares_k = embeddings_kc.square().sum(1)
    lengths_n = z_nc.norm(dim=1)
    # Distances less |z|^2, as everywhere. Each factor of the product and its result are rounded once to the small type.
    rough_nk = squares_k - 2 * (z_nc.to(dtype) @ embeddings_kc.to(dtype).T).float()
    unit = torch.finfo(dtype).eps
    slack_n = 4 * unit * lengths_n * squares_k.max().sqrt() + torch.finfo(dtype).tiny
    least_n = rough_nk.amin(1)
    # d_b - d_a > 2 r is enough for a margin above r, as |a - b| <= d_a + d_b: so codes beyond d_a + 2 r do not matter.
    nearest_n = (least_n + slack_n + lengths_n.square()).clamp(min=0).sqrt()
    limit_n = least_n + 2 * slack_n + 4 * radius * (nearest_n + radius)
    row_p, code_p = (rough_nk <= limit_n.unsqueeze(1)).nonzero(as_tuple=True)
    if len(row_p) > _MOST_CANDIDATES * n or not rough_nk.isfinite().all():
        return _search_all(z_nc, embeddings_kc, squares_k)
    distance_p = squares_k[code_p] - 2 * (z_nc[row_p] * embeddings_kc[code_p]).sum(1)
    best_n = distance_p.new_full((n,), torch.inf).scatter_reduce(0, row_p, distance_p, "amin")
    is_best_p = distance_p == best_n[row_p]
    codes_n = code_p.new_full((n,), k).scatter_reduce(0, row_p, code_p.where(is_best_p, k), "amin")
    apart_p = (embeddings_kc[code_p] - embeddings_kc[codes_n[row_p]]).norm(dim=1)
    margin_p = ((distance_p - best_n[row_p]) / (2 * apart_p)).where(apart_p > 0, torch.inf)
    margin_p = margin_p.where((code_p != codes_n[row_p]) & (margin_p >= 0), torch.inf)
    return codes_n, margin_p.new_full((n,), torch.inf).scatter_reduce(0, row_p, margin_p, "amin")


def _search_all(z_nc: Tensor, embeddings_kc: Tensor, squares_k: Tensor) -> tuple[Tensor, Tensor]:
    """`search` by all distances; margins from the two least alone, and so often too small, never too large."""
    distances_nk = torch.addmm(squares_k, z_nc, embeddings_kc.T, alpha=-2)
    two_n2 = distances_nk.topk(2, largest=False).values
    near_n, next_n = (two_n2 + z_nc.square().sum(1, keepdim=True)).clamp(min=0).sqrt().unbind(1)
    return distances_nk.argmin(1), (next_n - near_n) / 2


def _check(tokenizer: VideoAutoencoder, video_bcthw: Tensor) -> None:
    if tokenizer.training:
        raise RuntimeError("encode_fast() needs eval mode: call tokenizer.eval() first")
    tokenizer.check_video(video_bcthw)
