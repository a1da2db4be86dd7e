"""Losses of the VQGAN (TATS, https://arxiv.org/abs/2204.03638; VQGAN, https://arxiv.org/abs/2012.09841).

VideoGPT's VQ-VAE has its squared error and the commitment loss only: no discriminators.

Pure functions: the caller makes the reconstruction once, chooses the frames and owns the optimisers. The terms, their
weights and the order in which the discriminators see batches are TATS's. Deviation on purpose: passes through a
discriminator that cannot change a loss (before `discriminator_start`, or with weight 0) are left out;
`always_run=True` makes them, for the sake of the running statistics. Options that TATS does not have: `adaptive_weight`
is VQGAN's (https://arxiv.org/abs/2012.09841, section 3.2); `discriminator_warmup` lets the adversarial losses grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from schemas.config.tokenizer import LossConfig
from vtok.tokenizers.autoencoder import Reconstruction
from vtok.tokenizers.collective import sum_over_ranks, world_size
from vtok.tokenizers.discriminators import Discriminators
from vtok.tokenizers.lpips import LPIPS

Scalars = dict[str, Tensor]


def l1(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """mean |a - b|."""
    return F.l1_loss(a, b)


def hinge_d_loss(real_logits: Float[Tensor, "*real"], fake_logits: Float[Tensor, "*fake"]) -> Float[Tensor, ""]:
    """0.5 (mean relu(1 - real) + mean relu(1 + fake)) (https://arxiv.org/abs/1705.02894)."""
    return 0.5 * (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean())


def vanilla_d_loss(real_logits: Float[Tensor, "*real"], fake_logits: Float[Tensor, "*fake"]) -> Float[Tensor, ""]:
    """0.5 (mean softplus(-real) + mean softplus(fake)) (https://arxiv.org/abs/1406.2661)."""
    return 0.5 * (F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean())


DISCRIMINATOR_LOSSES = {"hinge": hinge_d_loss, "vanilla": vanilla_d_loss}


def generator_adversarial(fake_logits: Float[Tensor, "*fake"]) -> Float[Tensor, ""]:
    """-mean(fake)."""
    return -fake_logits.float().mean()


def feature_matching(fake_features: list[Tensor], real_features: list[Tensor]) -> Float[Tensor, ""]:
    """Sum over all maps but the logits of L1(fake, real); gradients reach the fakes only."""
    pairs = list(zip(fake_features, real_features, strict=True))[:-1]
    return torch.stack([l1(fake.float(), real.detach().float()) for fake, real in pairs]).sum()


def discriminator_factor(config: LossConfig, batch: int) -> float:
    """What the discriminators' own losses are multiplied with: 0.0 for the first `discriminator_start` batches of the
    run (counted from 0), 1.0 from then on."""
    return 0.0 if batch < config.discriminator_start else 1.0


def adversarial_factor(config: LossConfig, batch: int) -> float:
    """What the generator's adversarial and feature losses are multiplied with: as `discriminator_factor`, but growing
    linearly to 1.0 over the first `discriminator_warmup` batches."""
    since = batch - config.discriminator_start
    return min(1.0, (since + 1) / (config.discriminator_warmup + 1)) if since >= 0 else 0.0


_LARGEST_ADAPTIVE_WEIGHT = 1e4
_ADAPTIVE_EPS = 1e-4


def adaptive_weight(
    recon_loss: Float[Tensor, ""], adversarial: Float[Tensor, ""], last_layer: Tensor | Callable[[Tensor], Tensor]
) -> Float[Tensor, ""]:
    """VQGAN's lambda: |gradient of the reconstruction losses| / (|gradient of the adversarial loss| + 1e-4), at most
    1e4, without a graph of its own. The gradients are those of the batch of all ranks.

    Args:
        recon_loss: the weighted reconstruction losses, perceptual ones included.
        adversarial: the weighted adversarial loss.
        last_layer: the weights that both gradients are taken for, usually the decoder's last convolution; or what gives
            the gradient of a loss for them, where autograd may not be asked.
    """
    norms = []
    for loss in (recon_loss, adversarial):
        if isinstance(last_layer, Tensor):
            (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
        else:
            gradient = last_layer(loss)
        norms.append((sum_over_ranks(gradient.float()) / world_size()).norm())
    return (norms[0] / (norms[1] + _ADAPTIVE_EPS)).clamp(max=_LARGEST_ADAPTIVE_WEIGHT)


def uses_discriminators(config: LossConfig) -> bool:
    """Whether any loss has weight that needs a discriminator."""
    return config.image_gan_weight > 0 or config.video_gan_weight > 0


def pick_frames(video_bcthw: Float[Tensor, "b c t h w"], frame_index_b: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Frame `frame_index_b[i]` of clip i."""
    return video_bcthw[torch.arange(video_bcthw.shape[0], device=video_bcthw.device), :, frame_index_b]


Pass = Literal["image_fake", "video_fake", "image_real", "video_real"]
"""Which discriminator looks at what: at the reconstruction (fake) or at the clips (real)."""

_IMAGE: tuple[Pass, Pass] = ("image_fake", "image_real")
_VIDEO: tuple[Pass, Pass] = ("video_fake", "video_real")
_FAKE_FIRST: tuple[Pass, ...] = ("image_fake", "video_fake", "image_real", "video_real")
_REAL_FIRST: tuple[Pass, ...] = ("image_real", "video_real", "image_fake", "video_fake")


class Verdicts(NamedTuple):
    """What the discriminators say of clips and their reconstruction.

    Attributes:
        said: logits and features (`NLayerDiscriminator.forward`) of each pass that was made.
        loss: name of the discriminators' loss.
    """

    said: dict[Pass, tuple[Tensor, list[Tensor]]]
    loss: str


def judge(
    video_bcthw: Float[Tensor, "b c t h w"],
    recon_bcthw: Float[Tensor, "b c t h w"],
    frame_index_b: Int[Tensor, " b"],
    discriminators: Discriminators,
    passes: Sequence[Pass],
) -> Verdicts:
    """Runs the discriminators; their running statistics see the batches in the order of `passes`.

    Args:
        video_bcthw: the clips, in [-0.5, 0.5].
        recon_bcthw: their reconstruction.
        frame_index_b: the frame of each clip, 0..t-1, that the image discriminator sees.
    """
    said = {}
    for name in passes:
        clips_bcthw = recon_bcthw if name.endswith("fake") else video_bcthw
        if name.startswith("image"):
            said[name] = discriminators.image_discriminator(pick_frames(clips_bcthw, frame_index_b))
        else:
            said[name] = discriminators.video_discriminator(clips_bcthw)
    return Verdicts(said, discriminators.config.loss)


def judge_once(
    video_bcthw: Float[Tensor, "b c t h w"],
    recon_bcthw: Float[Tensor, "b c t h w"],
    frame_index_b: Int[Tensor, " b"],
    discriminators: Discriminators,
    config: LossConfig,
) -> Verdicts:
    """The passes of which both `generator_loss` and `discriminator_loss` can be made, which by themselves make twice as
    many. Arguments as of `judge`."""
    passes = [name for name in _FAKE_FIRST if _gan_weight(config, name) > 0]
    return judge(video_bcthw, recon_bcthw, frame_index_b, discriminators, passes)


def _gan_weight(config: LossConfig, name: Pass) -> float:
    return config.image_gan_weight if name.startswith("image") else config.video_gan_weight


def generator_loss(
    video_bcthw: Float[Tensor, "b c t h w"],
    output: Reconstruction,
    frame_index_b: Int[Tensor, " b"],
    discriminators: Discriminators | Verdicts | None,
    config: LossConfig,
    *,
    factor: float,
    lpips: LPIPS | None = None,
    always_run: bool = False,
    last_layer: Tensor | Callable[[Tensor], Tensor] | None = None,
    dropout: Sequence[torch.Generator] | None = None,
) -> tuple[Float[Tensor, ""], Scalars]:
    """Loss of encoder, decoder and codebook convolutions.

    Args:
        video_bcthw: the clips, in [-0.5, 0.5].
        output: the tokenizer's forward pass on them.
        frame_index_b: the frame of each clip, 0..t-1, that the image losses see.
        discriminators: may have `requires_grad` off: gradients pass through them to the reconstruction all the same.
            Or what they said of these clips and this reconstruction. None: losses without them, which `always_run`
            cannot change.
        factor: see `adversarial_factor`.
        lpips: needed when `perceptual_weight` > 0.
        always_run: make also those discriminator passes that cannot change the loss.
        last_layer: see `adaptive_weight`; needed with `gan_balance: adaptive`.
        dropout: one generator a clip that draws LPIPS's dropout; needed with `lpips_dropout`, else left alone.

    Returns:
        The loss, and detached scalars by TATS's names. `aeloss` is the weighted adversarial term, `gan_lambda` the
        adaptive weight in it (1 where it is fixed).

    Raises:
        ValueError: `perceptual_weight` > 0 without `lpips`, or what an option needs is missing.
    """
    recon_bcthw = output.recon_bcthw
    frames_bchw = pick_frames(video_bcthw, frame_index_b)
    recon_frames_bchw = pick_frames(recon_bcthw, frame_index_b)
    zero = recon_bcthw.new_zeros(())

    recon_loss = config.l1_weight * l1(recon_bcthw, video_bcthw)
    if config.l2_weight > 0:
        recon_loss = recon_loss + config.l2_weight * F.mse_loss(recon_bcthw, video_bcthw)
    perceptual_loss = zero
    if config.perceptual_weight > 0:
        if lpips is None:
            raise ValueError("perceptual_weight > 0 needs LPIPS")
        if config.lpips_dropout and dropout is None:
            raise ValueError("lpips_dropout needs generators")
        draws = dropout if config.lpips_dropout else None
        perceptual_loss = config.perceptual_weight * lpips(frames_bchw, recon_frames_bchw, draws).mean()

    if isinstance(discriminators, Discriminators):
        match = always_run or config.gan_feature_weight > 0
        passes = [name for name in _FAKE_FIRST if always_run or factor * _gan_weight(config, name) > 0]
        passes = [name for name in passes if name.endswith("fake") or (match and _gan_weight(config, name) > 0)]
        discriminators = judge(video_bcthw, recon_bcthw, frame_index_b, discriminators, passes)
    said = discriminators.said if discriminators else {}
    g_image_loss, g_video_loss = (
        generator_adversarial(said[fake][0]) if fake in said else zero for fake, _ in (_IMAGE, _VIDEO)
    )
    image_features, video_features = (
        feature_matching(said[fake][1], said[real][1]) if real in said else zero for fake, real in (_IMAGE, _VIDEO)
    )

    adversarial = config.image_gan_weight * g_image_loss + config.video_gan_weight * g_video_loss
    gan_lambda = torch.ones_like(zero)
    if config.gan_balance == "adaptive" and factor > 0 and adversarial.requires_grad:
        if last_layer is None:
            raise ValueError("an adaptive weight needs the decoder's last layer")
        gan_lambda = adaptive_weight(recon_loss + perceptual_loss, adversarial, last_layer)
        adversarial = gan_lambda * adversarial
    adversarial = factor * adversarial
    gan_feature_loss = factor * config.gan_feature_weight * (image_features + video_features)
    loss = recon_loss + output.commitment_loss + adversarial + perceptual_loss + gan_feature_loss
    scalars = {
        "recon_loss": recon_loss,
        "commitment_loss": output.commitment_loss,
        "perplexity": output.perplexity,
        "perceptual_loss": perceptual_loss,
        "g_image_loss": g_image_loss,
        "g_video_loss": g_video_loss,
        "image_gan_feat_loss": image_features,
        "video_gan_feat_loss": video_features,
        "aeloss": adversarial,
        "gan_lambda": gan_lambda,
        "gan_feat_loss": gan_feature_loss,
        "total_loss": loss,
    }
    return loss, {name: value.detach() for name, value in scalars.items()}


def discriminator_loss(
    video_bcthw: Float[Tensor, "b c t h w"],
    recon_bcthw: Float[Tensor, "b c t h w"],
    frame_index_b: Int[Tensor, " b"],
    discriminators: Discriminators | Verdicts,
    config: LossConfig,
    *,
    factor: float,
    always_run: bool = False,
) -> tuple[Float[Tensor, ""], Scalars]:
    """Loss of both discriminators; gradients do not reach the reconstruction, unless verdicts on it have its graph.

    Args:
        video_bcthw: the clips, in [-0.5, 0.5].
        recon_bcthw: their reconstruction.
        frame_index_b: the frame of each clip, 0..t-1, that the image discriminator sees.
        discriminators: or what they said of these clips and this reconstruction.
        factor: see `discriminator_factor`.
        always_run: make also those passes that cannot change the loss.

    Returns:
        The loss, and detached scalars by TATS's names (`logits_*` are means). Where no discriminator ran, the loss is
        0 without a graph: there is nothing to step.
    """
    if isinstance(discriminators, Discriminators):
        passes = [name for name in _REAL_FIRST if always_run or factor * _gan_weight(config, name) > 0]
        discriminators = judge(video_bcthw.detach(), recon_bcthw.detach(), frame_index_b, discriminators, passes)
    loss = video_bcthw.new_zeros(())
    scalars: Scalars = {}
    for kind, (of_fake, of_real) in (("image", _IMAGE), ("video", _VIDEO)):
        if of_real not in discriminators.said:
            continue
        real, fake = discriminators.said[of_real][0], discriminators.said[of_fake][0]
        d_loss = DISCRIMINATOR_LOSSES[discriminators.loss](real, fake)
        loss = loss + factor * _gan_weight(config, of_real) * d_loss
        scalars[f"logits_{kind}_real"] = real.mean()
        scalars[f"logits_{kind}_fake"] = fake.mean()
        scalars[f"d_{kind}_loss"] = d_loss
    scalars["discloss"] = loss
    return loss, {name: value.detach() for name, value in scalars.items()}
