from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from schemas.config.tokenizer import VqganConfig, VqvaeConfig
from schemas.errors import UsageError
from vtok.tokenizers.chunked import (
    Halo,
    decode_chunks,
    decode_long,
    decoder_halo,
    encode_chunks,
    encode_long,
    encoder_halo,
)
from vtok.tokenizers.load import build_tokenizer
from vtok.tokenizers.vqgan import VQGAN

DOWNSAMPLES = [(4, 8, 8), (4, 4, 4), (2, 8, 8), (1, 4, 4), (8, 4, 2)]


def _config(**options: object) -> VqganConfig:
    return VqganConfig.model_validate({"embedding_dim": 4, "n_codes": 64, "n_hiddens": 2, **options})


def _tokenizer(**options: object) -> VQGAN:
    """As after some training: statistics that fit, a codebook of real latents."""
    model = VQGAN(_config(**options), torch.Generator().manual_seed(1)).train()
    draws = torch.Generator().manual_seed(2)
    sides = [8 * factor for factor in model.downsample[1:]]
    video = torch.rand(2, 3, 16, *sides, generator=draws) - 0.5
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm3d):
                layer.momentum = 1.0
        model(video, draws)
        rows = model.eval().latents(video).movedim(1, -1).flatten(0, -2)
        model.codebook.embeddings.copy_(rows[torch.randperm(len(rows), generator=draws)[:64]])
    return model


def _video(frames: int, model: VQGAN) -> Tensor:
    sides = [2 * factor for factor in model.downsample[1:]]
    return torch.rand(2, 3, frames, *sides, generator=torch.Generator().manual_seed(3)) - 0.5


@pytest.mark.parametrize("downsample", DOWNSAMPLES)
def test_the_halo_is_the_receptive_field(downsample: tuple[int, int, int]) -> None:
    """By gradients, far from both ends: nothing outside the halo counts, and its outermost code does."""
    config = _config(downsample=downsample, n_hiddens=1, embedding_dim=1)
    model = VQGAN(config).eval()
    with torch.no_grad():  # positive weights: no two paths cancel
        for p in model.parameters():
            p.abs_()
    frames, middle, codes = downsample[0], 20, 40
    sides = downsample[1:]
    video = torch.ones(1, 3, codes * frames, *sides, requires_grad=True)
    model.latents(video)[:, :, middle].sum().backward()
    used = (video.grad.abs().amax((0, 1, 3, 4)) > 0).nonzero().flatten().div(frames, rounding_mode="floor")
    halo = encoder_halo(config)
    assert (int(used.min()), int(used.max())) == (middle - halo.before, middle + halo.after)

    z = torch.ones(1, 1, codes, 2, 2, requires_grad=True)
    model.decoder(model.post_vq_conv(z))[:, :, middle * frames : (middle + 1) * frames].sum().backward()
    used = (z.grad.abs().amax((0, 1, 3, 4)) > 0).nonzero().flatten()
    halo = decoder_halo(config)
    assert (int(used.min()), int(used.max())) == (middle - halo.before, middle + halo.after)


@pytest.mark.parametrize(("downsample", "chunk"), [((4, 8, 8), 7), ((2, 4, 4), 1), ((1, 4, 4), 7), ((8, 4, 2), 4)])
def test_chunks_equal_the_whole_clip(downsample: tuple[int, int, int], chunk: int) -> None:
    model = _tokenizer(downsample=downsample)
    length = 27
    video = _video(length * downsample[0], model)
    codes = model.encode(video)
    assert len(codes.unique()) > 10
    assert torch.equal(encode_long(model, video, chunk), codes)
    with torch.no_grad():
        whole = model.decode(codes)
    torch.testing.assert_close(decode_long(model, codes, chunk), whole, rtol=0, atol=1e-5)
    assert [part.shape[1] for part in encode_chunks(model, lambda a, b: video[:, :, a:b], video.shape[2], chunk)] == [
        min(chunk, length - start) for start in range(0, length, chunk)
    ]


@pytest.mark.parametrize("padding", ["constant", "reflect"])
def test_other_local_paddings(padding: str) -> None:
    model = _tokenizer(downsample=(4, 4, 4), padding=padding)
    video = _video(100, model)
    assert torch.equal(encode_long(model, video, 3), model.encode(video))


def test_a_halo_too_small_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with the whole clip sees a cut halo."""
    model = _tokenizer(downsample=(2, 4, 4))
    codes = model.encode(_video(60, model))
    with torch.no_grad():
        whole = model.decode(codes)
    monkeypatch.setattr("vtok.tokenizers.chunked.decoder_halo", lambda config: Halo(2, 2))
    assert float((decode_long(model, codes, 5) - whole).abs().max()) > 1e-4


class _LargestTensor(TorchDispatchMode):
    """Records the most values that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def test_memory_does_not_depend_on_the_length() -> None:
    model = _tokenizer(downsample=(2, 4, 4))
    largest = []
    for length in (48, 96):
        codes = torch.zeros(1, length, 1, 1, dtype=torch.int64)
        seen = _LargestTensor()
        frames, read = 0, []

        def frames_of(start: int, stop: int, read: list[int] = read) -> Tensor:
            read.append(stop - start)
            return torch.zeros(1, 3, stop - start, 4, 4)

        with seen:
            for part in decode_chunks(model, codes, 16):
                frames += part.shape[2]
            coded = sum(part.shape[1] for part in encode_chunks(model, frames_of, 2 * length, 16))
        assert (frames, coded) == (2 * length, length)
        largest.append((seen.largest, max(read)))
    assert largest[0] == largest[1]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (_config(norm="group", n_hiddens=16), "group norm"),
        (_config(padding="circular"), "circular"),
        (VqvaeConfig(embedding_dim=4, n_codes=8, n_hiddens=8, n_res_layers=1), "attention"),
    ],
)
def test_what_depends_on_the_whole_clip_is_refused(config: VqganConfig | VqvaeConfig, reason: str) -> None:
    model = build_tokenizer(config).eval()
    with pytest.raises(UsageError, match=reason):
        encode_long(model, torch.zeros(1, 3, 32, 16, 16))
    with pytest.raises(UsageError, match=reason):
        decode_long(model, torch.zeros(1, 32, 2, 2, dtype=torch.int64))


def test_mistakes() -> None:
    model = _tokenizer(downsample=(4, 4, 4))
    with pytest.raises(UsageError, match="30 frames are not divisible"):
        encode_long(model, torch.zeros(1, 3, 30, 8, 8))
    with pytest.raises(UsageError, match="at least 1 code"):
        encode_long(model, torch.zeros(1, 3, 32, 8, 8), 0)
    with pytest.raises(RuntimeError, match="eval"):
        decode_long(model.train(), torch.zeros(1, 8, 2, 2, dtype=torch.int64))


_PEAK = """
import sys, torch
from pathlib import Path
from schemas.config.tokenizer import VqganConfig
from vtok.tokenizers.chunked import encode_chunks
from vtok.tokenizers.vqgan import VQGAN

def peak():
    return next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))

torch.set_num_threads(1)
model = VQGAN(VqganConfig(embedding_dim=4, n_codes=64, n_hiddens=8, downsample=(2, 4, 4))).eval()
for frames in (96, 192, 768):
    for part in encode_chunks(model, lambda a, b: torch.zeros(1, 3, b - a, 64, 64), frames, 16):
        pass
    print(peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of resident memory from Linux")
def test_resident_memory_does_not_grow_with_the_length() -> None:
    done = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    warm, short, long = (int(line) for line in done.stdout.split())
    # The longest clip alone would be 36 MiB of pixels, and 96 MiB behind the first convolution.
    assert long - short < 24 << 10
    assert short - warm < 32 << 10


def test_chunks_in_fast_mode() -> None:
    model = _tokenizer(downsample=(4, 4, 4))
    video = _video(48, model)
    codes = encode_long(model, video, 4, mode="fast")
    assert codes.shape == model.encode(video).shape
    assert (codes == model.encode(video)).float().mean() > 0.5
