"""A checkpoint of TATS's VQGAN at its published size (32 channels, 4x8x8, batch norm), with every tensor that training
leaves in it, converts.

Names and shapes are written out here from the release, not taken from the toolkit's own modules. So that the file stays
small, floating-point tensors are views of one block of memory, which torch saves once; every one begins elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tests.convert.lightning import CHANNELS, VGG, namespace, save
from vtok import artefacts, load_tokenizer
from vtok.convert.convert import convert

Shapes = dict[str, tuple[int, ...]]
FLAGS = {
    "embedding_dim": 256,
    "n_codes": 16384,
    "n_hiddens": 32,
    "lr": 3e-5,
    "downsample": [4, 8, 8],
    "disc_channels": 64,
    "disc_layers": 3,
    "discriminator_iter_start": 10000,
    "disc_loss_type": "hinge",
    "image_gan_weight": 1.0,
    "video_gan_weight": 1.0,
    "l1_weight": 4.0,
    "gan_feat_weight": 4.0,
    "perceptual_weight": 4.0,
    "i3d_feat": False,
    "restart_thres": 1.0,
    "no_random_restart": True,
    "norm_type": "batch",
    "padding_type": "replicate",
    "sequence_length": 16,
    "sample_every_n_frames": 1,
    "resolution": 128,
    "image_channels": 3,
    "sync_batchnorm": True,
}
SIZES = {
    "encoder.": 7.40e6,
    "decoder.": 16.12e6,
    "image_discriminator.": 2.77e6,
    "video_discriminator.": 11.06e6,
    "perceptual_model.": 14.7e6,
}
"""Parameters of the release's parts."""


def _norm(name: str, channels: int) -> Shapes:
    vectors = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def _conv(name: str, out: int, into: int, kernel: int, dims: int = 3) -> Shapes:
    return {f"{name}.weight": (out, into, *[kernel] * dims), f"{name}.bias": (out,)}


def _res(name: str, channels: int) -> Shapes:
    norms = _norm(f"{name}.norm1", channels) | _norm(f"{name}.norm2", channels)
    convs = _conv(f"{name}.conv1.conv", channels, channels, 3) | _conv(f"{name}.conv2.conv", channels, channels, 3)
    return norms | convs


def _vqgan() -> Shapes:
    shapes = _conv("encoder.conv_first.conv", 32, 3, 3)
    for i, (into, out) in enumerate([(32, 64), (64, 128), (128, 256)]):
        shapes |= _conv(f"encoder.conv_blocks.{i}.down.conv", out, into, 4) | _res(f"encoder.conv_blocks.{i}.res", out)
    shapes |= _norm("encoder.final_block.0", 256) | _norm("decoder.final_block.0", 256)
    for i, (into, out) in enumerate([(256, 256), (256, 128), (128, 64)]):
        block = f"decoder.conv_blocks.{i}"
        # A transposed convolution's weight is (in, out, ...).
        shapes |= {f"{block}.up.convt.weight": (into, out, 4, 4, 4), f"{block}.up.convt.bias": (out,)}
        shapes |= _res(f"{block}.res1", out) | _res(f"{block}.res2", out)
    shapes |= _conv("decoder.conv_last.conv", 3, 64, 3)
    shapes |= _conv("pre_vq_conv.conv", 256, 256, 1) | _conv("post_vq_conv.conv", 256, 256, 1)
    return shapes | {"codebook.embeddings": (16384, 256), "codebook.N": (16384,), "codebook.z_avg": (16384, 256)}


def _discriminator(name: str, dims: int) -> Shapes:
    shapes: Shapes = {}
    for i, (into, out) in enumerate([(3, 64), (64, 128), (128, 256), (256, 512), (512, 1)]):
        shapes |= _conv(f"{name}.model{i}.0", out, into, 4, dims)
        shapes |= _norm(f"{name}.model{i}.1", out) if i in (1, 2, 3) else {}
    return shapes


def _lpips() -> Shapes:
    shapes: Shapes = {f"perceptual_model.scaling_layer.{name}": (1, 3, 1, 1) for name in ("shift", "scale")}
    into = 3
    for slice_, indices in VGG.items():
        for index in indices:
            shapes |= _conv(f"perceptual_model.net.slice{slice_}.{index}", CHANNELS[slice_ - 1], into, 3, 2)
            into = CHANNELS[slice_ - 1]
    return shapes | {f"perceptual_model.lin{i}.model.1.weight": (1, c, 1, 1) for i, c in enumerate(CHANNELS)}


def _values(shapes: Shapes) -> Iterator[tuple[str, Tensor]]:
    """A tensor for every shape: positive values, for the variances."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    block = 0.01 + 0.01 * torch.rand(max(sizes) + len(sizes), generator=torch.Generator().manual_seed(0))
    for number, (name, shape) in enumerate(shapes.items()):
        if name.endswith("num_batches_tracked"):
            yield name, torch.tensor(29999)
        else:
            yield name, block[number:].as_strided(shape, torch.empty(shape, device="meta").stride())


def test_every_tensor_of_the_release(tmp_path: Path) -> None:
    parts = [_vqgan(), _discriminator("image_discriminator", 2), _discriminator("video_discriminator", 3), _lpips()]
    shapes = {name: shape for part in parts for name, shape in part.items()}
    for prefix, published in SIZES.items():
        learnt = {n: s for n, s in shapes.items() if n.startswith(prefix) and "running" not in n and "tracked" not in n}
        assert abs(sum(map(math.prod, learnt.values())) / published - 1) < 2e-3, prefix
    state = dict(_values(shapes))
    path = save(tmp_path / "vqgan.ckpt", state, {"args": namespace(FLAGS)})
    assert path.stat().st_size < 50e6

    made = convert(path, tmp_path / "run")
    assert (made.kind, made.assumed, list(made.cards)) == ("tats-vqgan", [], ["tokenizer"])
    assert made.left_out == sum(len(part) for part in parts[1:])
    card = artefacts.load(tmp_path / "run" / "tokenizer", "tokenizer")
    assert (card.facts["grid"], card.counts["parameters"]) == ([4, 16, 16], 23_652_227)

    tokenizer = load_tokenizer(tmp_path / "run")
    loaded = tokenizer.state_dict()
    assert set(loaded) == set(parts[0]) | {"codebook.initialized"}
    for name in parts[0]:
        assert torch.equal(loaded[name], state[name]), name
    assert tokenizer.encode(torch.zeros(1, 3, 4, 16, 16)).shape == (1, 1, 2, 2)
    for large in (path, *(tmp_path / "run").rglob("*.safetensors")):  # pytest keeps the folders of the last runs
        large.unlink()
