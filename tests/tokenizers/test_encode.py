"""A clip's codes depend on the clip alone: not on its batch, its place in it, or the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from schemas.config.tokenizer import VqganConfig, VqvaeConfig
from schemas.errors import UsageError
from tests.tokenizers.making import clips, seasoned
from vtok.tokenizers.base import Mode
from vtok.tokenizers.fast import encode_fast, latent_error
from vtok.tokenizers.layers import ResBlock, SamePadConv3d, draw_weights, pad_same
from vtok.tokenizers.load import build_tokenizer
from vtok.tokenizers.norm import Norm

MODELS = {
    "vqgan": VqganConfig(n_hiddens=8, embedding_dim=16, n_codes=128),
    "vqgan, group norm": VqganConfig(n_hiddens=16, embedding_dim=16, n_codes=128, norm="group", downsample=(2, 4, 4)),
    "vqvae": VqvaeConfig(n_hiddens=48, embedding_dim=16, n_codes=128, n_res_layers=1),
    "lfq": VqganConfig.model_validate({"n_hiddens": 8, "quantizer": "lfq", "bits": 10}),
}


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kind", list(MODELS))
def test_codes_depend_on_the_clip_alone(kind: str) -> None:
    video = clips(3, size=32, num_frames=8)
    model = seasoned(MODELS[kind], video)
    torch.set_num_threads(1)
    alone = torch.cat([model.encode(clip) for clip in video.split(1)])
    assert len(alone.unique()) > 20
    for count in (1, 2):
        torch.set_num_threads(count)
        for order in ([0, 1, 2], [2, 0, 1], [1, 1, 2, 0, 0], [2]):
            assert torch.equal(model.encode(video[order]), alone[order]), (count, order)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kind", ["vqgan", "vqvae"])
def test_latents_are_equal_to_the_bit_on_any_number_of_threads(kind: str) -> None:
    """Codes hide roundings; a first convolution of few channels used to take another kernel on one thread."""
    video = clips(1, size=32, num_frames=8)
    model = seasoned(MODELS[kind], video)
    found = []
    with torch.no_grad():
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(model.latents(video))
    assert torch.equal(*found)


class _Shapes(TorchDispatchMode):
    """Counts operations, and sees the largest batch and the layouts of the convolutions' results."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.batch = 0
        self.strided: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        if "convolution" in str(func):
            self.batch = max(self.batch, len(result))
            if not result.is_contiguous(memory_format=torch.channels_last_3d):
                self.strided.append(tuple(result.shape))
        return result


def test_convolutions_take_one_kernel_and_stay_channels_last() -> None:
    video = clips(2, size=32, num_frames=8)
    model = seasoned(MODELS["vqgan"], video)
    with _Shapes() as seen:
        model.encode(video)
    assert (seen.batch, seen.strided) == (1, [])
    convolutions = [name for name in seen.names if "convolution" in name]
    layers = sum(isinstance(m, SamePadConv3d) for m in model.encoder.modules()) + 1
    assert convolutions == ["aten.mkldnn_convolution.default"] * 2 * layers
    assert not [name for name in seen.names if "replication_pad" in name]


@pytest.mark.parametrize("pads", [(1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 2, 1), (2, 1, 0, 0, 0, 3), (0, 0, 0, 0, 0, 0)])
def test_padding_without_gradients_equals_torch(pads: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(pad_same(x, pads, "replicate"), F.pad(x, pads, mode="replicate"))


@pytest.mark.parametrize("kind", ["vqgan", "vqvae"])
def test_the_path_without_gradients_computes_the_same(kind: str) -> None:
    video = clips(1, size=32, num_frames=8)
    model = seasoned(MODELS[kind], video)
    expected = model.latents(video.clone().requires_grad_())
    assert expected.requires_grad
    with torch.no_grad():
        z = model.latents(video)
    torch.testing.assert_close(z, expected.detach(), rtol=0, atol=2e-5 * float(z.abs().max()))


def test_double_precision_works_too() -> None:
    video = clips(1, size=32, num_frames=8)
    model = seasoned(MODELS["vqgan"], video)
    with torch.no_grad():
        z = model.latents(video)
        exact = model.double().latents(video.double())
    torch.testing.assert_close(z.double(), exact, rtol=0, atol=2e-5 * float(z.abs().max()))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_block_leaves_its_input_alone(norm: Norm) -> None:
    """The activation works in place, on the result of a normalisation: never on the skip connection."""
    block = ResBlock(32, norm).eval()
    draw_weights(block, torch.Generator().manual_seed(0))
    x = torch.randn(1, 32, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    expected = block(x.requires_grad_()).detach()
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("channels", [1, 2, 66])
def test_any_number_of_channels(channels: int) -> None:
    """Spectrograms have one, semantic maps as many as classes."""
    config = VqganConfig(n_hiddens=4, embedding_dim=8, n_codes=16, downsample=(2, 4, 4), image_channels=channels)
    model = build_tokenizer(config).eval().requires_grad_(False)
    video = torch.rand(1, channels, 4, 16, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    codes = model.encode(video)
    assert codes.shape == (1, *model.grid(4, 16, 8))
    assert model.decode(codes).shape == video.shape


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 5, 8, 8), "num_frames 5 is not divisible by the downsampling factor 2"),
        ((3, 4, 10, 8), "height 10 is not divisible by the downsampling factor 4"),
        ((3, 4, 8, 6), "width 6 is not divisible by the downsampling factor 4"),
        ((1, 4, 8, 8), "the video has 1 channels, and the tokenizer 3"),
    ],
)
def test_no_frame_and_no_pixel_is_dropped_silently(shape: tuple[int, ...], message: str, mode: Mode) -> None:
    model = build_tokenizer(VqganConfig(n_hiddens=2, embedding_dim=4, n_codes=8, downsample=(2, 4, 4))).eval()
    video = torch.zeros(2, *shape)
    with pytest.raises(UsageError, match=message) as caught:
        model.encode(video, mode)
    assert str(list(video.shape)) in caught.value.at
    for other in (encode_fast, latent_error):
        with pytest.raises(UsageError, match=message):
            other(model, video)
