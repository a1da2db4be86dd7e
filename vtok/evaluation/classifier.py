"""A small 3-D CNN that names the class of a clip: the judge of label-conditional samples.

It is trained on the run's own real clips, so it needs no download, and its accuracy on real held-out clips is the
ceiling against which its accuracy on samples is read. Random shifts and brightness keep it from knowing clips by the
place or the shade of their background; half of the clips it learns from are grey, so that it has to look at shape and
motion too and a blob of the right colour does not pass.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn.utils import skip_init

from vtok.seeds import generator

MAX_SIZE = (16, 32, 32)
"""Larger clips are averaged down to this many frames and pixels: the judge's cost does not depend on the dataset."""
TRAIN_STEPS = 200
BATCH_SIZE = 32
_WIDTHS = (16, 32, 64)
_PEAK_LR = 3e-3
_MAX_SHIFT = 4  # pixels of 32
_GROUPS = 8


class ClipClassifier(nn.Module):
    """Three strided 3x3x3 convolutions, a mean over space and time, a linear layer: under 100k parameters.

    Args:
        n_classes: number of classes.
        draw: draws the initial weights.
    """

    def __init__(self, n_classes: int, draw: torch.Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for number, width in enumerate(_WIDTHS):
            conv = skip_init(nn.Conv3d, channels, width, 3, stride=(1 if number == 0 else 2, 2, 2), padding=1)
            layers += [conv, nn.GroupNorm(_GROUPS, width), nn.SiLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = skip_init(nn.Linear, channels, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=draw)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, videos_bcthw: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        """Logits of the classes for clips in [-0.5, 0.5] of any size."""
        return self.head(self.features(shrink(videos_bcthw)).mean(dim=(2, 3, 4)))


def shrink(videos_bcthw: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
    """Clips averaged down to at most `MAX_SIZE`; smaller ones are returned as they are."""
    t, h, w = (min(have, most) for have, most in zip(videos_bcthw.shape[2:], MAX_SIZE, strict=True))
    return videos_bcthw if (t, h, w) == videos_bcthw.shape[2:] else F.adaptive_avg_pool3d(videos_bcthw, (t, h, w))


def train_classifier(
    videos_bcthw: Float[Tensor, "b 3 t h w"], labels: Int[Tensor, " b"], n_classes: int, seed: int
) -> ClipClassifier:
    """Trains the judge for `TRAIN_STEPS` batches; equal arguments (and torch threads) give equal weights.

    Args:
        videos_bcthw: real clips in [-0.5, 0.5].
        labels: 0 to n_classes-1.
        n_classes: number of classes.
        seed: of the weights, the order and the augmentation.

    Returns:
        The classifier in eval mode, without gradients.
    """
    videos_bcthw = shrink(videos_bcthw)
    device = videos_bcthw.device
    model = ClipClassifier(n_classes, generator(seed, "classifier")).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_LR, total_steps=TRAIN_STEPS)
    draw = generator(seed, "classifier", "batches")
    order = torch.empty(0, dtype=torch.long)
    size = min(BATCH_SIZE, len(videos_bcthw))
    with torch.enable_grad():
        for _ in range(TRAIN_STEPS):
            if len(order) < size:
                order = torch.randperm(len(videos_bcthw), generator=draw)
            batch, order = order[:size], order[size:]
            logits = model(_augment(videos_bcthw[batch.to(device)], draw))
            loss = F.cross_entropy(logits, labels[batch].long().to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def _augment(videos_bcthw: Float[Tensor, "b c t h w"], draw: torch.Generator) -> Float[Tensor, "b c t h w"]:
    """Each clip shifted by up to an eighth of its side (edges repeated), contrast and brightness changed, half grey."""
    count, _, _, height, width = videos_bcthw.shape
    most = max(1, _MAX_SHIFT * min(height, width) // MAX_SIZE[1])
    shifts = torch.randint(-most, most + 1, (count, 2), generator=draw)
    rows = (torch.arange(height) + shifts[:, :1]).clamp(0, height - 1).to(videos_bcthw.device)
    columns = (torch.arange(width) + shifts[:, 1:]).clamp(0, width - 1).to(videos_bcthw.device)
    moved = torch.stack([clip[:, :, r][..., c] for clip, r, c in zip(videos_bcthw, rows, columns, strict=True)])
    gain, offset, colour = torch.rand((3, count, 1, 1, 1, 1), generator=draw).to(videos_bcthw.device)
    moved = torch.where(colour < 0.5, moved, moved.mean(dim=1, keepdim=True))
    return moved * (0.7 + 0.6 * gain) + 0.2 * (offset - 0.5)


@torch.no_grad()
def classify(model: nn.Module, videos_bcthw: Float[Tensor, "b 3 t h w"], batch_size: int = 64) -> Int64[Tensor, " b"]:
    """The most likely class of each clip, on the CPU."""
    parts = [model(chunk).argmax(dim=1).cpu() for chunk in videos_bcthw.split(batch_size)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)


def confusion(true: Int[Tensor, " n"], predicted: Int[Tensor, " n"], n_classes: int) -> Int64[Tensor, "k k"]:
    """How often a clip of class (row) was named class (column)."""
    pairs = true.long() * n_classes + predicted.long()
    return torch.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def classifier_fingerprint(model: nn.Module) -> str:
    """sha256 (hex) of the weights: accuracies are comparable only where it is the same."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
