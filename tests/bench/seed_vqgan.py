"""A plain implementation of how TATS (https://arxiv.org/abs/2204.03638) trains its VQGAN, to compare with.

Written from the paper and the facts of its release, without the toolkit's layers: pads, convolutions and norms by
torch's functions, one-hot codes, and two passes of the generator a batch. It trains the weights of a `VQGAN` and of
`Discriminators` that it is given, in place.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.config.tokenizer import LossConfig
from vtok.tokenizers.discriminators import Discriminators
from vtok.tokenizers.vqgan import VQGAN

DECAY, EPS, COMMITMENT = 0.99, 1e-7, 0.25


def _pad(x: Tensor, kernel: int, stride: tuple[int, ...], mode: str) -> Tensor:
    pads: list[int] = []
    for s in reversed(stride):
        pads += [math.ceil((kernel - s) / 2), (kernel - s) // 2]
    return F.pad(x, pads, mode=mode)


def _conv(layer: nn.Module, x: Tensor, mode: str = "replicate") -> Tensor:
    conv = layer.get_submodule("conv")
    return F.conv3d(_pad(x, conv.kernel_size[0], conv.stride, mode), conv.weight, conv.bias, conv.stride)


def _conv_transpose(layer: nn.Module, x: Tensor) -> Tensor:
    conv = layer.get_submodule("convt")
    kernel = conv.kernel_size[0]
    return F.conv_transpose3d(
        _pad(x, kernel, conv.stride, "replicate"), conv.weight, conv.bias, conv.stride, padding=kernel - 1
    )


def _norm(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, 32, layer.weight, layer.bias, 1e-6)
    layer.num_batches_tracked += 1
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, True, 0.1, 1e-5)


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _res(block: nn.Module, x: Tensor) -> Tensor:
    h = _conv(block.conv1, _silu(_norm(block.norm1, x)))
    return x + _conv(block.conv2, _silu(_norm(block.norm2, h)))


class SeedTrainer:
    """Two Adams, two passes a batch.

    Args:
        model: trained in place; its codebook must be initialised and have no random restart.
        discriminators: trained in place.
        losses: the weights; no perceptual loss.
        lr: of both optimisers.
        clip: largest norm of the gradients of each.
    """

    def __init__(
        self, model: VQGAN, discriminators: Discriminators, losses: LossConfig, *, lr: float, clip: float
    ) -> None:
        self.model, self.discriminators, self.losses, self.clip = model, discriminators, losses, clip
        self.generator_adam = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.5, 0.9))
        self.discriminator_adam = torch.optim.Adam(discriminators.parameters(), lr=lr, betas=(0.5, 0.9))

    def reconstruct(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction and the commitment loss; the codebook learns."""
        model, mode = self.model, self.model.config.padding
        x = _conv(model.encoder.conv_first, video, mode)
        for block in model.encoder.conv_blocks:
            x = _res(block.res, _conv(block.down, x, mode))
        x = _silu(_norm(model.encoder.final_block[0], x))
        quantised, commitment = self._quantise(_conv(model.pre_vq_conv, x, mode))
        x = _conv(model.post_vq_conv, quantised)
        x = _silu(_norm(model.decoder.final_block[0], x))
        for block in model.decoder.conv_blocks:
            x = _res(block.res2, _res(block.res1, _conv_transpose(block.up, x)))
        return _conv(model.decoder.conv_last, x), commitment

    def _quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        book = self.model.codebook
        rows = z.movedim(1, -1).flatten(0, -2)
        distances = (
            (rows**2).sum(1, keepdim=True) - 2 * rows @ book.embeddings.t() + (book.embeddings.t() ** 2).sum(0)[None]
        )
        codes = distances.argmin(1)
        one_hot = F.one_hot(codes, book.n_codes).type_as(rows)
        vectors = F.embedding(codes.view(z.shape[0], *z.shape[2:]), book.embeddings).movedim(-1, 1)
        commitment = COMMITMENT * F.mse_loss(z, vectors.detach())
        with torch.no_grad():
            book.N.mul_(DECAY).add_(one_hot.sum(0), alpha=1 - DECAY)
            book.z_avg.mul_(DECAY).add_((rows.t() @ one_hot).t(), alpha=1 - DECAY)
            total = book.N.sum()
            weights = (book.N + EPS) / (total + book.n_codes * EPS) * total
            book.embeddings.copy_(book.z_avg / weights[:, None])
        return (vectors - z).detach() + z, commitment

    def step(self, video: Tensor, frames: tuple[Tensor, Tensor], number: int) -> tuple[float, float]:
        """Trains on a batch; returns the losses of both phases.

        Args:
            frames: the frame of each clip that the image losses see, in the first and in the second phase.
            number: of the batch, from 0.
        """
        losses = self.losses
        factor = 1.0 if number >= losses.discriminator_start else 0.0
        image_d, video_d = self.discriminators.image_discriminator, self.discriminators.video_discriminator
        clips = torch.arange(len(video))

        self.discriminators.requires_grad_(False)
        recon, commitment = self.reconstruct(video)
        real, fake = video[clips, :, frames[0]], recon[clips, :, frames[0]]
        loss = losses.l1_weight * (recon - video).abs().mean() + commitment
        fake_maps, fake_video_maps = image_d(fake)[1], video_d(recon)[1]
        adversarial = -losses.image_gan_weight * fake_maps[-1].mean()
        adversarial = adversarial - losses.video_gan_weight * fake_video_maps[-1].mean()
        matching = torch.zeros(())
        for ours, theirs in ((fake_maps, image_d(real)[1]), (fake_video_maps, video_d(video)[1])):
            for a, b in zip(ours[:-1], theirs[:-1], strict=True):
                matching = matching + (a - b.detach()).abs().mean()
        loss = loss + factor * (adversarial + losses.gan_feature_weight * matching)
        self._descend(loss, self.generator_adam)

        self.discriminators.requires_grad_(True)
        recon, _ = self.reconstruct(video)
        real, fake = video[clips, :, frames[1]], recon[clips, :, frames[1]].detach()
        real_logits, real_video_logits = image_d(real)[0], video_d(video)[0]
        fake_logits, fake_video_logits = image_d(fake)[0], video_d(recon.detach())[0]
        hinge = [
            weight * 0.5 * (F.relu(1 - a).mean() + F.relu(1 + b).mean())
            for weight, a, b in (
                (losses.image_gan_weight, real_logits, fake_logits),
                (losses.video_gan_weight, real_video_logits, fake_video_logits),
            )
        ]
        d_loss = factor * (hinge[0] + hinge[1])
        self._descend(d_loss, self.discriminator_adam)
        return float(loss.detach()), float(d_loss.detach())

    def _descend(self, loss: Tensor, adam: torch.optim.Adam) -> None:
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in adam.param_groups for p in group["params"]], self.clip)
        adam.step()
