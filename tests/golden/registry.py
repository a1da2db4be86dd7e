"""Which check belongs to a case: chosen by its system and the longest prefix of its name."""

from __future__ import annotations

from collections.abc import Callable

from tests.golden.cases import Case
from tests.golden.checks_long import check_sample_hierarchical, check_sample_long, check_sample_spatial
from tests.golden.checks_mebt import check_masks, check_mebt, check_mebt_plain
from tests.golden.checks_other import check_lpips, check_preprocess
from tests.golden.checks_priors import (
    check_gpt_boxes,
    check_gpt_clip,
    check_gpt_interpolation,
    check_gpt_plain,
    check_sparse_layout,
    check_topk_topp,
)
from tests.golden.checks_tokenizers import (
    check_codebook_ema,
    check_codebook_init,
    check_vqgan,
    check_vqgan_loss,
    check_vqvae,
)
from tests.golden.checks_videogpt import check_videogpt, check_videogpt_plain

Check = Callable[[Case], None]

CHECKS: dict[tuple[str, str], Check] = {
    ("data", "preprocess"): check_preprocess,
    ("lpips", "lpips"): check_lpips,
    ("mebt", "mebt_"): check_mebt,
    ("mebt", "mebt_lowvar"): check_mebt_plain,
    ("mebt", "mebt_masks"): check_masks,
    ("tats", "codebook_ema"): check_codebook_ema,
    ("tats", "codebook_init"): check_codebook_init,
    ("tats", "gpt_interp"): check_gpt_interpolation,
    ("tats", "gpt_label"): check_gpt_clip,
    ("tats", "gpt_lowvar"): check_gpt_plain,
    ("tats", "gpt_uncond"): check_gpt_clip,
    ("tats", "gpt_vtokens_pos"): check_gpt_boxes,
    ("tats", "sample_hierarchical"): check_sample_hierarchical,
    ("tats", "sample_long_fast"): check_sample_long,
    ("tats", "sample_long_spatial"): check_sample_spatial,
    ("tats", "topk_topp"): check_topk_topp,
    ("tats", "vqgan_"): check_vqgan,
    ("tats", "vqgan_loss_"): check_vqgan_loss,
    ("videogpt", "codebook_ema"): check_codebook_ema,
    ("videogpt", "codebook_init"): check_codebook_init,
    ("videogpt", "gpt_"): check_videogpt,
    ("videogpt", "gpt_lowvar"): check_videogpt_plain,
    ("videogpt", "sparse_layout"): check_sparse_layout,
    ("videogpt", "vqvae_"): check_vqvae,
}


def check_of(case: Case) -> Check | None:
    """The check of a case, or None while there is none yet."""
    system, name = case.id.split("/", 1)
    fitting = [prefix for of, prefix in CHECKS if of == system and name.startswith(prefix)]
    return CHECKS[system, max(fitting, key=len)] if fitting else None
