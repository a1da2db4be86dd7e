"""Clips from MeBT's prior (https://arxiv.org/abs/2303.11251): a draft, passes that revise it, and windows for clips
that are longer than what was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from schemas.config.prior import SampleConfig
from schemas.errors import UsageError
from vtok.priors.mebt import MebtPrior
from vtok.sampling.autoregressive import guide
from vtok.sampling.parallel import Logits, draft, everywhere, random_orders, revise, sample_masked


@torch.inference_mode()
def sample_mebt(
    prior: MebtPrior,
    config: SampleConfig,
    generators: Sequence[torch.Generator],
    labels_b: Int[Tensor, " b"] | None = None,
    first_bthw: Int[Tensor, "b f h w"] | None = None,
) -> Int[Tensor, "b t h w"]:
    """Codes of as many clips as there are generators.

    A clip of more latent frames than the prior has is drawn in windows, each behind the last `context_frames` of the
    one before; revising then stays within a window.

    Args:
        prior: in eval mode.
        config: how to draw; section `sample`.
        generators: one a clip.
        labels_b: a class a clip, for a label-conditional prior.
        first_bthw: codes of the first latent frames, which are given.

    Raises:
        UsageError: the options do not fit the prior.
    """
    t, h, w = prior.grid
    frames, area = config.latent_frames or t, h * w
    if frames > t and not config.context_frames < t:
        raise UsageError(
            f"{config.context_frames} latent frames of context leave nothing to draw in a window of {t}",
            at="sample.context_frames",
            hint=f"choose 1 to {t - 1}",
        )
    logits = _logits(prior, labels_b, config.guidance)
    batch, device = len(generators), prior.pos_emb.device
    done_bn = torch.zeros(batch, 0, dtype=torch.long, device=device)
    if first_bthw is not None:
        done_bn = first_bthw.flatten(1).long()
    while done_bn.shape[1] < frames * area:
        seen_bn = done_bn[:, -config.context_frames * area :] if done_bn.shape[1] >= t * area else done_bn
        window_bn = torch.zeros(batch, t * area, dtype=torch.long, device=device)
        window_bn[:, : seen_bn.shape[1]] = seen_bn
        window_bn = _draw(logits, window_bn, seen_bn.shape[1], config, generators)
        done_bn = torch.cat([done_bn, window_bn[:, seen_bn.shape[1] :]], dim=1)
    return done_bn[:, : frames * area].unflatten(1, (frames, h, w))


def _logits(prior: MebtPrior, labels_b: Tensor | None, guidance: float) -> Logits:
    if guidance == 1:
        return lambda codes, contexts, targets: prior.logits(codes, contexts, targets, labels_b)
    if labels_b is None or not prior.config.condition_drop:
        raise UsageError(
            "guidance needs a prior that was trained with condition_drop",
            at="sample.guidance",
            hint="set sample.guidance=1, or train with prior.model.condition=label and condition_drop=0.1",
        )
    both = torch.cat([labels_b, torch.full_like(labels_b, prior.no_class)])

    def guided(codes: Tensor, contexts: Tensor, targets: Tensor) -> Tensor:
        codes, contexts, targets = (torch.cat([part, part]) for part in (codes, contexts, targets))
        return guide(prior.logits(codes, contexts, targets, both), guidance)

    return guided


def _draw(
    logits: Logits, codes_bn: Tensor, seen: int, config: SampleConfig, generators: Sequence[torch.Generator]
) -> Tensor:
    """A window whose first `seen` codes are given."""
    masked, (batch, places) = config.masked, codes_bn.shape
    whole = everywhere(batch, places, codes_bn.device)
    contexts, targets = whole[:, :seen], whole[:, seen:]
    drawing: dict[str, Any] = {"top_k": config.top_k, "top_p": config.top_p, "generator": generators}
    for _ in range(min(masked.bootstrap, targets.shape[1] - 1)):
        order = random_orders(batch, targets.shape[1], generators).to(codes_bn.device)
        targets = targets.gather(1, order)
        codes_bn = draft(logits, codes_bn, contexts, targets[:, :1], order[:, :1] * 0, steps=1, generator=generators)
        contexts, targets = torch.cat([contexts, targets[:, :1]], dim=1), targets[:, 1:]
    if masked.method == "maskgit":
        codes_bn = sample_masked(
            logits,
            codes_bn,
            contexts,
            targets,
            steps=masked.steps,
            schedule=masked.schedule,
            temperature=config.temperature,
            context_temperature=masked.context_temperature,
            decay=masked.decay,
            **drawing,
        ).codes_bn
    else:
        order = random_orders(batch, targets.shape[1], generators).to(codes_bn.device)
        steps = _groups(targets.shape[1], masked.steps)
        codes_bn = draft(
            logits, codes_bn, contexts, targets, order, steps=steps, temperature=config.temperature, **drawing
        )
    if masked.revise_passes:
        contexts, targets = whole[:, :seen], whole[:, seen:]
        orders = [random_orders(batch, places - seen, generators) for _ in range(masked.revise_passes)]
        codes_bn = revise(
            logits,
            codes_bn,
            contexts,
            targets,
            torch.stack(orders).to(codes_bn.device),
            steps=_groups(places - seen, masked.revise_steps),
            temperature=masked.revise_temperature,
            **drawing,
        )
    return codes_bn


def _groups(codes: int, wanted: int) -> int:
    """The most groups of equal size, up to as many as are wanted."""
    return max(count for count in range(1, min(wanted, codes) + 1) if codes % count == 0)
