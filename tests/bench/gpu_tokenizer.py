"""TATS's VQGAN on one GPU within ten minutes: correctness, the nearest code, encoding, a training step.

    python tests/bench/gpu_tokenizer.py --out gpu_tokenizer.json
    python tests/bench/gpu_tokenizer.py --device cpu --tiny     # does the script itself work?

Needs torch and numpy (`bare.py` stands in for the rest). The seed is that of `contenders.py`, `encode.py` and
`seed_vqgan.py`: published is float32 and eager, helped is bfloat16 autocast and torch.compile. The
weights and the clips are the same.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.bench import bare  # noqa: E402

bare.prepare()

from schemas.config.tokenizer import DiscriminatorConfig, LossConfig, VqganConfig  # noqa: E402
from schemas.config.train import OptimConfig, TrainConfig  # noqa: E402
from tests.bench import codebook as codebook_bench  # noqa: E402
from tests.bench import encode as encode_bench  # noqa: E402
from tests.bench.contenders import OneHotCodebook  # noqa: E402
from tests.bench.gpu import Bench, Section, main  # noqa: E402
from tests.bench.seed_vqgan import SeedTrainer  # noqa: E402
from trainers.engine import make_engine  # noqa: E402
from trainers.precision import use_precision  # noqa: E402
from vtok.tokenizers.discriminators import Discriminators  # noqa: E402
from vtok.tokenizers.losses import discriminator_loss, generator_loss, judge_once  # noqa: E402
from vtok.tokenizers.vqgan import VQGAN  # noqa: E402

LOSSES = {"perceptual_weight": 0.0, "discriminator_start": 0}
"""Without LPIPS, whose weights are not ours to ship; with the discriminators from the first step."""


def codebook_options(bench: Bench) -> argparse.Namespace:
    sizes = (
        {"vectors": 2048, "codes": 256, "dim": 16} if bench.tiny else {"vectors": 65_536, "codes": 16_384, "dim": 256}
    )
    return argparse.Namespace(**sizes, device=bench.device.type)


def encode_options(bench: Bench) -> argparse.Namespace:
    sizes = {"batch": 1, "size": 32, "codes": 64, "hiddens": 8}
    if not bench.tiny:
        sizes = {"batch": 8, "size": 128, "codes": 16_384, "hiddens": 32}
    return argparse.Namespace(**sizes, device=bench.device.type)


def check(bench: Bench) -> None:
    """What is about to be timed computes the same."""
    found = codebook_bench.agreement(codebook_options(bench))
    bench.check("codes that are not float64's although they must be", found["sure"] - found["sure_equal"], 0)
    shares = encode_bench.agreement(encode_options(bench))
    bench.check("codes that are not the seed's (near ties)", 1 - shares["equal_to_seed"], 0.01)
    bench.check("certified codes that are wrong", shares["certified_but_different"], 0)
    bench.report("certified codes, of weights that were drawn", found=shares["fast_certified"])
    bench.check("codes that depend on the place in a batch or on the neighbours", _moved_codes(bench), 0)
    source = torch.Generator(bench.device).manual_seed(0)
    x = torch.randn(1, 16, 8, 32, 32, generator=source, device=bench.device)
    weight = torch.randn(32, 16, 4, 4, 4, generator=source, device=bench.device)
    exact = F.conv3d(x, weight, stride=2, padding=1)
    small = F.conv3d(x.bfloat16(), weight.bfloat16(), stride=2, padding=1).float()
    bench.check("conv3d in bf16 and fp32", float((small - exact).norm() / exact.norm()), 0.02)
    video, model, discriminators = _clips(bench, 1), *_models(bench)
    ours = OurTrainer(bench, copy.deepcopy(model), copy.deepcopy(discriminators), "fp32", compile_it=False)
    first = ours.step(video)
    theirs = SeedTrainer(model, discriminators, LossConfig(**LOSSES), lr=3e-5, clip=1.0)
    seed = theirs.step(video, _frames(video), 0)[0]
    bench.check("loss of a training step, ours and the seed's in fp32", abs(first - seed) / abs(seed), 1e-3)


def codebook(bench: Bench) -> None:
    """S8: the nearest code of 65,536 vectors (64 clips), and the learning of the codes."""
    options = codebook_options(bench)
    works = codebook_bench.works(options)
    z, state = codebook_bench.inputs(options)
    for kind in ("training", "inference"):
        seed = OneHotCodebook(state, training=kind == "training")
        helped = torch.compile(seed.__call__) if bench.compile else seed
        contenders = {
            "seed, published": works[f"seed, {kind}"],
            "seed, helped": lambda helped=helped: _in_bfloat16(bench, lambda: helped(z)),
            "ours": works[f"ours, {kind}"],
            "bare product, fp32": works["bare product"],
        }
        with torch.no_grad():
            bench.compare(contenders, what=kind)


def encode(bench: Bench) -> None:
    """S9: clips of 16 x 128 x 128 to codes; `ours` is exact (fp32), `fast` is bf16 with certificates."""
    options = encode_options(bench)
    if not bench.compile:  # its contenders are compiled where they are of a GPU
        options.device = "cpu"
    with torch.no_grad():
        bench.compare(encode_bench.works(options), units=options.batch, unit="clips/s")


def train(bench: Bench) -> None:
    """S10: a training step with both discriminators, batches halved until they fit."""

    def seeded(count: int) -> tuple[SeedTrainer, Tensor]:
        return SeedTrainer(*_models(bench), LossConfig(**LOSSES), lr=3e-5, clip=1.0), _clips(bench, count)

    def published(count: int) -> Callable[[], Any]:
        seed, video = seeded(count)
        return lambda: seed.step(video, _frames(video), 0)

    def helped(count: int) -> Callable[[], Any]:
        seed, video = seeded(count)
        if bench.compile:
            seed.reconstruct = torch.compile(seed.reconstruct)  # type: ignore[method-assign]
        return lambda: _in_bfloat16(bench, lambda: seed.step(video, _frames(video), 0))

    def ours(count: int, precision: str) -> Callable[[], Any]:
        trainer, video = OurTrainer(bench, *_models(bench), precision, compile_it=bench.compile), _clips(bench, count)
        return lambda: trainer.step(video)

    contenders = {
        "seed, published": published,
        "seed, helped": helped,
        "ours": lambda count: ours(count, "bf16"),
        "ours, fp32": lambda count: ours(count, "fp32"),
    }
    bench.race(contenders, 1 if bench.tiny else 8, unit="clips/s")


class OurTrainer:
    """The step of `trainers/tokenizer.py` on one GPU."""

    def __init__(
        self, bench: Bench, model: VQGAN, discriminators: Discriminators, precision: Any, *, compile_it: bool
    ) -> None:
        self.model, self.discriminators, self.losses = model, discriminators, LossConfig(**LOSSES)
        optim = OptimConfig(optimizer="adam", lr=3e-5, betas=(0.5, 0.9), weight_decay=0.0, clip_grad_norm=1.0)
        settings = TrainConfig(precision=precision, compile=compile_it)
        self.engine = make_engine("plain", model, _group(model), optim, settings)
        for part in discriminators.children():
            use_precision(part, precision)
        self.d_engine = make_engine("plain", discriminators, _group(discriminators), optim, settings)
        self.draws = torch.Generator().manual_seed(0)

    def step(self, video: Tensor) -> float:
        """Trains on clips; returns the generator's loss."""
        frames, _ = _frames(video)
        output = self.engine(video, self.draws)
        recon = output.recon_bcthw.float()
        seen = recon.detach().requires_grad_()
        said = judge_once(video, seen, frames, self.discriminators, self.losses)
        loss, _ = generator_loss(video, output._replace(recon_bcthw=seen), frames, said, self.losses, factor=1.0)
        (at_recon,) = torch.autograd.grad(loss, seen, retain_graph=True)
        self.engine.backward(output.commitment_loss + (recon * at_recon).sum())
        found = float(loss.detach())
        self.engine.step(3e-5)
        d_loss, _ = discriminator_loss(video, recon, frames, said, self.losses, factor=1.0)
        self.d_engine.backward(d_loss)
        self.d_engine.step(3e-5)
        return found


def _models(bench: Bench) -> tuple[VQGAN, Discriminators]:
    size = {"n_hiddens": 2, "n_codes": 64, "embedding_dim": 16} if bench.tiny else {"n_hiddens": 32, "n_codes": 16_384}
    source = torch.Generator().manual_seed(0)
    model = VQGAN(VqganConfig(**size, random_restart=False), source)
    model.codebook.initialized.fill_(True)
    model.codebook.N.fill_(1)
    config = DiscriminatorConfig(channels=4, layers=1) if bench.tiny else DiscriminatorConfig(channels=64, layers=3)
    return model.to(bench.device).train(), Discriminators(config, 3, source).to(bench.device)


def _clips(bench: Bench, count: int) -> Tensor:
    size, source = (8, 16, 16) if bench.tiny else (16, 128, 128), torch.Generator().manual_seed(1)
    return (torch.rand(count, 3, *size, generator=source) - 0.5).to(bench.device)


def _moved_codes(bench: Bench) -> int:
    """How many codes change when clips change places in batches of 2 to 16, where all batches have one shape."""
    model, clips, moved = _models(bench)[0].eval(), _clips(bench, 16), 0
    with torch.inference_mode():
        for size in (2, 3) if bench.tiny else range(2, 17):
            first = model.encode(clips[:size])
            for turn in range(1, size):
                codes = model.encode(clips[:size].roll(turn, 0)).roll(-turn, 0)
                moved += int((codes != first).sum())
            alone = model.encode(torch.cat([clips[:1], torch.zeros_like(clips[1:size])]))[0]
            moved += int((alone != first[0]).sum())
    return moved


def _frames(video: Tensor) -> tuple[Tensor, Tensor]:
    index = torch.arange(len(video), device=video.device) % video.shape[2]
    return index, index


def _group(module: torch.nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(module.parameters())}]


def _in_bfloat16(bench: Bench, work: Callable[[], Any]) -> Any:
    with torch.autocast(bench.device.type, torch.bfloat16):
        return work()


SECTIONS = [
    Section("check", 120, check),
    Section("codebook", 120, codebook),
    Section("encode", 150, encode),
    Section("train", 200, train),
]

if __name__ == "__main__":
    main(__doc__ or "", SECTIONS)
