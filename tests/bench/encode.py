"""Encoding clips with TATS's VQGAN (16 x 128 x 128 to 4 x 16 x 16): ours, the originals' way, and the bare layers.

The original's way is written out here: padded copies, convolutions in torch's default layout, batch norm,
x * sigmoid(x), then all distances and one-hot matrices. Same weights, same clips, same threads; medians of interleaved
rounds. `bare` is nothing but the encoder's convolutions on inputs that are padded already, and the product with the
codes.

    python tests/bench/encode.py --threads 2
    python tests/bench/encode.py --device cuda --batch 8

On a GPU there are two originals, as published (float32) and helped (bfloat16 autocast and torch.compile), and our fast
mode, eager and compiled, against bare layers in bfloat16.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from schemas.config.tokenizer import VqganConfig  # noqa: E402
from tests.bench.contenders import OneHotCodebook, interleaved, ratio, run, table  # noqa: E402
from vtok.tokenizers.autoencoder import strides  # noqa: E402
from vtok.tokenizers.fast import encode_fast, latent_error  # noqa: E402
from vtok.tokenizers.precision import full_precision  # noqa: E402
from vtok.tokenizers.vqgan import VQGAN  # noqa: E402


class PlainEncoder(nn.Module):
    """The original's encoder and codebook around another model's weights."""

    def __init__(self, model: VQGAN) -> None:
        super().__init__()
        self.state = dict(model.state_dict())
        self.steps = strides(model.config.downsample)
        codebook = {name: self.state[f"codebook.{name}"] for name in ("embeddings", "N", "z_avg")}
        self.codebook = OneHotCodebook(codebook, training=False)

    def latents(self, video: Tensor) -> Tensor:
        x = self._conv("encoder.conv_first", video, (1, 1, 1))
        for level, stride in enumerate(self.steps):
            block = f"encoder.conv_blocks.{level}"
            x = self._conv(f"{block}.down", x, stride)
            h = self._conv(f"{block}.res.conv1", self._norm(f"{block}.res.norm1", x), (1, 1, 1))
            x = x + self._conv(f"{block}.res.conv2", self._norm(f"{block}.res.norm2", h), (1, 1, 1))
        return self._conv("pre_vq_conv", self._norm("encoder.final_block.0", x), (1, 1, 1))

    def forward(self, video: Tensor) -> Tensor:
        return self.codebook(self.latents(video).float())[1]

    def _norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (self.state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, mean, var, weight, bias)
        return x * torch.sigmoid(x)

    def _conv(self, name: str, x: Tensor, stride: tuple[int, ...]) -> Tensor:
        weight, bias = self.state[f"{name}.conv.weight"], self.state[f"{name}.conv.bias"]
        pads: list[int] = []
        for kernel, step in zip(reversed(weight.shape[2:]), reversed(stride), strict=True):
            total = kernel - step
            pads += [total // 2 + total % 2, total // 2]
        return F.conv3d(F.pad(x, pads, mode="replicate"), weight, bias, stride)


class BareLayers:
    """The encoder's convolutions on inputs of the right shape, and the product with the codes: no encoder is faster."""

    def __init__(self, model: VQGAN, video: Tensor, dtype: torch.dtype) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor, tuple[int, ...]]] = []
        hooks = [layer.register_forward_hook(self._record) for layer in model.modules() if isinstance(layer, nn.Conv3d)]
        with torch.enable_grad():  # the layers are called as modules then
            z = model.latents(video)
        for hook in hooks:
            hook.remove()
        form = torch.channels_last_3d
        self.calls = [
            (x.to(dtype).contiguous(memory_format=form), w.to(dtype).contiguous(memory_format=form), b.to(dtype), s)
            for x, w, b, s in self.calls
        ]
        self.rows = z.detach().movedim(1, -1).flatten(0, -2).to(dtype).contiguous()
        self.codes = model.codebook.embeddings.t().to(dtype)
        self.out = torch.empty(min(1024, len(self.rows)), self.codes.shape[1], dtype=dtype, device=video.device)

    def _record(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv3d)
        assert layer.bias is not None
        self.calls.append((inputs[0].detach(), layer.weight.detach(), layer.bias.detach(), tuple(layer.stride)))

    def __call__(self) -> None:
        for x, weight, bias, stride in self.calls:
            if x.device.type == "cpu":
                for clip in x.split(1):
                    torch.mkldnn_convolution(clip, weight, bias, [0, 0, 0], stride, [1, 1, 1], 1)
            else:
                F.conv3d(x, weight, bias, stride)
        for part in self.rows.split(len(self.out)):
            torch.mm(part, self.codes, out=self.out[: len(part)])


def build(options: argparse.Namespace) -> tuple[VQGAN, Tensor]:
    """A VQGAN of TATS's size whose norms and codes fit the clips, and the clips."""
    draws = torch.Generator().manual_seed(0)
    video = F.interpolate(torch.rand(options.batch, 3, 4, 16, 16, generator=draws), (16, options.size, options.size))
    video = (video + 0.1 * torch.rand(video.shape, generator=draws) - 0.55).to(options.device)
    config = VqganConfig(n_codes=options.codes, n_hiddens=options.hiddens)
    model = VQGAN(config, draws).eval().requires_grad_(False).to(options.device)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.train()
            layer.momentum = 1.0
    with torch.no_grad():
        model.latents(video)
        z = model.eval().latents(video).movedim(1, -1).flatten(0, -2)
        noise = torch.randn(options.codes, z.shape[1], generator=draws).to(options.device) * z.std()
        picks = torch.randint(len(z), (options.codes,), generator=draws).to(options.device)
        model.codebook.embeddings.copy_(z[picks] + 0.3 * noise)
    return model, video


def works(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The contenders, each of which encodes the batch."""
    model, video = build(options)
    plain = PlainEncoder(model)
    found: dict[str, Callable[[], Any]] = {"ours": lambda: model.encode(video)}
    if options.device == "cpu":
        found["seed"] = lambda: plain(video)
        found["bare"] = BareLayers(model, video, torch.float32)
        return found
    found["seed, published"] = lambda: plain(video)
    helped = torch.compile(plain.latents)
    compiled = torch.compile(lambda x: model.latents(x))

    def seed_helped() -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            z = helped(video)
        return plain.codebook(z.float())[1]

    error = latent_error(model, video)
    found["seed, helped"] = seed_helped
    found["ours, fast"] = lambda: encode_fast(model, video, error)
    found["ours, fast, compiled"] = lambda: encode_fast(model, video, error, latents=compiled)
    found["bare, bf16"] = BareLayers(model, video, torch.bfloat16)
    return found


def agreement(options: argparse.Namespace) -> dict[str, float]:
    """Shares of codes: ours and the plain encoder's that are equal; fast ones that are certified, and that are equal.

    Weights and codes are drawn, not trained: a trained tokenizer certifies another share.
    """
    model, video = build(options)
    with torch.no_grad():
        exact = model.encode(video)
        with full_precision(video.device):
            plain = PlainEncoder(model)(video)
        fast = encode_fast(model, video, latent_error(model, video))
    equal = fast.codes_bthw == exact
    return {
        "equal_to_seed": float((plain == exact).float().mean()),
        "fast_certified": fast.share,
        "fast_equal": float(equal.float().mean()),
        "certified_but_different": float((fast.certified_bthw & ~equal).sum()),
    }


def _peak(name: str, options: argparse.Namespace) -> int:
    keys = ("batch", "size", "codes", "hiddens", "threads", "device")
    arguments = [f"--{key}={getattr(options, key)}" for key in keys]
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, f"--peak={name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the tables; returns all figures."""
    with torch.no_grad():
        found = interleaved(works(options), options.rounds, torch.device(options.device))
    print(f"{options.batch} clip(s) of 16 x {options.size} x {options.size}, {options.device}, ", end="")
    print(f"{options.threads} thread(s), {options.rounds} rounds")
    others = [name for name in found if not name.startswith("ours")]
    print(table(found, others))
    for name in others:
        print(f"ours is {ratio(found, 'ours', name):.2f} times as fast as {name}")
    figures: dict[str, Any] = {"seconds": found}
    if options.memory:
        figures["peak_bytes"] = {name: _peak(name, options) for name in found}
        for name, value in figures["peak_bytes"].items():
            print(f"peak memory {name}: {value / 2**20:.0f} MiB")
    figures["agreement"] = agreement(options)
    print(", ".join(f"{name} {value:.4f}" for name, value in figures["agreement"].items()))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1, help="clips")
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--codes", type=int, default=16_384)
    parser.add_argument("--hiddens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    run(parser, works, compare)


if __name__ == "__main__":
    main()
