"""Checks of videogpt/gpt_*: the prior with its tokenizer, from a video to codes, logits, loss, samples and back."""

from __future__ import annotations

import torch
from torch import Tensor

from schemas.config.prior import VideoGptConfig
from tests.golden.cases import Case
from tests.golden.checks_tokenizers import vqvae_from
from vtok.priors.videogpt import Context, VideoGptPrior


def _prior(case: Case, codebook_kc: Tensor) -> VideoGptPrior:
    config = case.config
    prior = VideoGptPrior(
        VideoGptConfig(
            n_layer=config["layers"],
            n_head=config["heads"],
            n_embd=config["hidden_dim"],
            condition="label" if config["class_cond"] else "none",
            attention=config["attn_type"],
            cond_frames=config["n_cond_frames"],
            dropout=config["dropout"],
            attention_dropout=0.0 if config["attn_type"] == "sparse" else config["attn_dropout"],
        ),
        codebook_kc,
        tuple(config["latent_shape"]),
        config["class_cond_dim"] or 0,
        config["resolution"],
    ).eval()
    prior.load_state_dict({**case.state(drop=("vqvae.",)), "codebook_kc": codebook_kc})
    return prior


def check_videogpt_plain(case: Case) -> None:
    """Given embeddings and targets alone."""
    prior = _prior(case, torch.zeros(case.config["vqvae"]["n_codes"], case.config["vqvae"]["embedding_dim"]))
    with torch.no_grad():
        logits_bnk = prior.logits_of_embeddings(case.input("embeddings"), prior.context())
    _expect_logits(case, prior, "logits", logits_bnk)
    targets = case.input("targets").flatten()
    loss = torch.nn.functional.cross_entropy(logits_bnk.flatten(0, 1), targets)
    case.expect("loss", loss, case.tolerance("loss"))


def check_videogpt(case: Case) -> None:
    near, exact = case.tolerance("logits"), case.tolerance("codes_tokens")
    tokenizer = vqvae_from(case.config["vqvae"], case.state("vqvae."))
    video_bcthw = case.input("video")
    codes_bthw = tokenizer.encode(video_bcthw)
    case.expect("targets", codes_bthw, exact)
    prior = _prior(case, tokenizer.codebook.embeddings)
    labels_b = case.input("label") if case.config["class_cond"] else None
    given = case.config["n_cond_frames"]
    frames_bcthw = video_bcthw[:, :, :given] if given else None
    with torch.no_grad():
        context = prior.context(labels_b, frames_bcthw)
        if context.frames_bnc is not None:
            wanted = case.reference("frame_cond")
            case.expect("frame_cond", context.frames_bnc.view_as(wanted), case.tolerance("frame_cond"))
        straight_through = prior.logits_of_embeddings(case.input("embeddings"), context)
        _expect_logits(case, prior, "logits", straight_through)
        _expect_logits(case, prior, "logits", prior.logits(codes_bthw, context))
        case.expect("loss", prior(codes_bthw, labels_b, frames_bcthw).loss, case.tolerance("loss"))
        _expect_logits(case, prior, "decode_path_logits", _step_by_step(prior, codes_bthw, context))
        greedy_bn = _greedy(prior, len(codes_bthw), context)
    case.expect("greedy_tokens", greedy_bn.view_as(codes_bthw), exact)
    video = tokenizer.decode(greedy_bn.view_as(codes_bthw)).clamp(-0.5, 0.5) + 0.5
    case.expect("greedy_video", video, near)


def _expect_logits(case: Case, prior: VideoGptPrior, name: str, logits_bnk: Tensor) -> None:
    case.expect(name, logits_bnk.unflatten(1, prior.grid), case.tolerance("logits"))


def _step_by_step(prior: VideoGptPrior, codes_bthw: Tensor, context: Context) -> Tensor:
    codes_bn = codes_bthw.flatten(1)
    cache = prior.new_cache(len(codes_bn))
    steps = [prior.step(codes_bn[:, i - 1] if i else None, i, cache, context) for i in range(codes_bn.shape[1])]
    return torch.stack(steps, dim=1)


def _greedy(prior: VideoGptPrior, batch: int, context: Context) -> Tensor:
    cache, codes = prior.new_cache(batch), []
    for i in range(prior.grid[0] * prior.grid[1] * prior.grid[2]):
        codes.append(prior.step(codes[-1] if codes else None, i, cache, context).argmax(-1))
    return torch.stack(codes, dim=1)
