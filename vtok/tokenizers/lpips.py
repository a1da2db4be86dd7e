"""LPIPS, the perceptual distance of deep features (https://arxiv.org/abs/1801.03924), on VGG16
(https://arxiv.org/abs/1409.1556), as TATS (https://arxiv.org/abs/2204.03638) uses it.

Deviations from TATS, on purpose: inputs in [-0.5, 0.5] are scaled to the [-1, 1] that LPIPS was made for
(`input_scale=1.0` reproduces TATS, which forgot to), and dropout is off unless it is asked for (TATS's training loop
turned it on). Weights come from a local file whose hash is checked; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from schemas.errors import VtokError

# Layers [first, last) of VGG16's `features` that end in relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.
VGG_SLICES = ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))
_VGG_CHANNELS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)
_SLICE_CHANNELS = (64, 128, 256, 512, 512)
_VGG_SHA256_START = "397923af"
"""Of torchvision's vgg16-397923af.pth, which carries it in its name."""
_HEADS_MD5 = "d507d7349b931f0638a25a48a722f98a"
"""Of vgg.pth, which the authors of LPIPS published."""
_HINT = (
    "set tokenizer.loss.lpips_weights to torchvision's vgg16-397923af.pth (https://download.pytorch.org/models/), or "
    "to a safetensors file with VGG16"
)
_KEPT = 0.5
"""Share of the differences that the original's dropout keeps."""


class ScalingLayer(nn.Module):
    """ImageNet's mean and deviation, for images in [-1, 1]."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, image_bchw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
        return (image_bchw - self.shift) / self.scale


class Vgg16(nn.Module):
    """The convolutions of VGG16 in five slices; layer numbers are torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for entry in _VGG_CHANNELS:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
            else:
                conv = nn.utils.skip_init(nn.Conv2d, channels, entry, 3, padding=1)
                layers += [conv, nn.ReLU(inplace=True)]
                channels = entry
        for number, (first, last) in enumerate(VGG_SLICES, 1):
            part = nn.Sequential()
            for index in range(first, last):
                part.add_module(str(index), layers[index])
            self.add_module(f"slice{number}", part)

    def forward(self, image_bchw: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """The five feature maps, finest first."""
        maps: list[Tensor] = []
        x = image_bchw
        for number in range(1, len(VGG_SLICES) + 1):
            x = self.get_submodule(f"slice{number}")(x)
            maps.append(x)
        return maps


class _Head(nn.Module):
    """One weight a channel. The original has dropout at index 0 of `model`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.utils.skip_init(nn.Conv2d, channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class LPIPS(nn.Module):
    """The distance; all its parameters are frozen. Built without weights: see `LPIPS.load`.

    Args:
        input_scale: factor on images in [-0.5, 0.5]; 2.0 is right, 1.0 reproduces TATS.
    """

    def __init__(self, input_scale: float = 2.0) -> None:
        super().__init__()
        self.input_scale = input_scale
        self.scaling_layer = ScalingLayer()
        self.net = Vgg16()
        for i, channels in enumerate(_SLICE_CHANNELS):
            self.add_module(f"lin{i}", _Head(channels))
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path, input_scale: float = 2.0, sha256: str | None = None) -> LPIPS:
        """The distance with weights from a file.

        Args:
            path: safetensors with VGG16 by torchvision's names (`features.*`) or by TATS's (`net.slice{1..5}.*`), or
                torchvision's vgg16-397923af.pth. The heads (`lin{0..4}.model.1.weight`) may be in it; else those that
                torchmetrics ships are taken.
            input_scale: see the class.
            sha256: what the file must hash to. None: a .pth must be torchvision's, safetensors are not checked.

        Raises:
            VtokError: the file is missing, of another format or has another hash; its tensors are not the expected
                ones; or the heads are nowhere.
        """
        model = cls(input_scale)
        found = _read(Path(path), sha256)
        expected = model.state_dict()
        state = {**{name: expected[name] for name in expected if name.startswith("scaling_layer.")}, **found}
        if not any(name.startswith("lin") for name in state):
            state |= _heads()
        problems = [f"{name} is missing" for name in expected if name not in state]
        problems += [f"{name} is not part of LPIPS" for name in state if name not in expected]
        for name in expected:
            if name in state and state[name].shape != expected[name].shape:
                problems.append(f"{name} is {list(state[name].shape)}, not {list(expected[name].shape)}")
        if problems:
            more = f" (and {len(problems) - 3} more problems)" if len(problems) > 3 else ""
            raise VtokError(f"wrong LPIPS weights: {'; '.join(problems[:3])}{more}", at=str(path), hint=_HINT)
        model.load_state_dict(state)
        return model

    def features(self, image_bchw: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """VGG16's five feature maps of images in [-0.5, 0.5]: of 3 channels, or of 1, which is taken for all three."""
        return self.net(self.scaling_layer(image_bchw * self.input_scale))

    def forward(
        self,
        a_bchw: Float[Tensor, "b c h w"],
        b_bchw: Float[Tensor, "b c h w"],
        dropout: Sequence[torch.Generator] | None = None,
    ) -> Float[Tensor, "b 1 1 1"]:
        """Distance (>= 0) of two batches of images in [-0.5, 0.5], of 3 channels or 1.

        Args:
            dropout: a generator for each image, whose draws drop half of its differences and double the others, as
                TATS's training does; None, which is right, drops none.
        """
        total = a_bchw.new_zeros(())
        for i, (map_a, map_b) in enumerate(zip(self.features(a_bchw), self.features(b_bchw), strict=True)):
            difference = (_unit(map_a) - _unit(map_b)).square()
            if dropout is not None:
                draws = [torch.rand(difference.shape[1:], generator=g, device=g.device) for g in dropout]
                kept = torch.stack(draws) < _KEPT
                difference = difference * kept.to(difference) / _KEPT
            total = total + self.get_submodule(f"lin{i}")(difference).mean((2, 3), keepdim=True)
        return total


def _read(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """The file's tensors by TATS's names, its hash checked; what belongs to VGG16's classifier is left out."""
    from vtok.files import sha256_of  # needs pyarrow, which the losses do without

    pickled = path.suffix in (".pth", ".pt")
    wanted = sha256 or (_VGG_SHA256_START if pickled else "")
    try:
        if wanted and not (digest := sha256_of(path)).startswith(wanted):
            raise VtokError(f"the LPIPS weights have sha256 {digest}, not {wanted}", at=str(path), hint=_HINT)
        state = torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(str(path))
    except (OSError, SafetensorError, RuntimeError, UnpicklingError) as error:
        raise VtokError(f"cannot read the LPIPS weights: {error}", at=str(path), hint=_HINT) from error
    return {_name(name): value for name, value in state.items() if not name.startswith("classifier.")}


def _name(name: str) -> str:
    """TATS's name of one of torchvision's tensors; other names stay."""
    parts = name.split(".")
    if parts[0] != "features" or len(parts) != 3 or not parts[1].isdecimal():
        return name
    for number, (first, last) in enumerate(VGG_SLICES, 1):
        if first <= int(parts[1]) < last:
            return f"net.slice{number}.{parts[1]}.{parts[2]}"
    return name


def _heads() -> dict[str, Tensor]:
    """The LPIPS heads, which torchmetrics ships byte by byte."""
    spec = find_spec("torchmetrics")
    path = Path(spec.origin).parent / "functional/image/lpips_models/vgg.pth" if spec and spec.origin else None
    if path is None or not path.exists() or hashlib.md5(path.read_bytes()).hexdigest() != _HEADS_MD5:
        raise VtokError(
            "the LPIPS heads are neither in the weights' file nor in torchmetrics",
            at=str(path),
            hint="install torchmetrics 1.x, or put lin0..lin4.model.1.weight into the file",
        )
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def _unit(x_bchw: Tensor) -> Tensor:
    # vector_norm has a zero gradient where all channels are zero; the square root of a sum has NaN there.
    return x_bchw / (torch.linalg.vector_norm(x_bchw, dim=1, keepdim=True) + 1e-10)
