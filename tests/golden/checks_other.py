"""Checks of data/preprocess and lpips/*."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden.cases import Case
from vtok.tokenizers.lpips import LPIPS, VGG_SLICES
from vtok.video.transforms import preprocess, target_size


def check_preprocess(case: Case) -> None:
    absolute = case.tolerance("all")
    for number, options in case.config.items():
        video = case.tensors[options["input"]].numpy()
        arguments = {
            "resolution": options["resolution"],
            "num_frames": options["sequence_length"],
            "frame_stride": options["sample_every_n_frames"],
            "channels": options["in_channels"],
        }
        assert target_size(video.shape[1], video.shape[2], options["resolution"]) == tuple(options["target_size"])
        ours = preprocess(video, **arguments)
        assert ours.dtype == np.float32
        assert ours.flags.c_contiguous
        case.expect(number, torch.from_numpy(ours), 0.0, absolute)
        mebt = preprocess(video, **arguments, variant="mebt")
        apart = np.abs(mebt - case.reference(number).numpy()).max()
        assert abs(apart - options["mebt_max_abs_diff"]) <= absolute, f"{case.id} {number}: MeBT's differs by {apart}"


def check_lpips(case: Case) -> None:
    state = {}
    for name, tensor in case.state().items():
        index = int(re.fullmatch(r"features\.(\d+)\.\w+", name).group(1))
        part = next(i for i, (first, last) in enumerate(VGG_SLICES, 1) if first <= index < last)
        state[f"net.slice{part}.{name.removeprefix('features.')}"] = tensor
    model = LPIPS(input_scale=1.0).train()
    state |= _heads()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (sorted(missing), unexpected) == (["scaling_layer.scale", "scaling_layer.shift"], [])
    relative = case.tolerance("lpips")
    for number in case.config:
        a, b = case.input(f"a{number}"), case.input(f"b{number}")
        case.expect(f"lpips{number}", model(a, b), relative)
        case.expect(f"lpips_self{number}", model(a, a), relative)
        maps = model.features(a)
        case.expect(f"feat_means{number}", torch.stack([m.mean() for m in maps]), relative)
        case.expect(f"feat_rms{number}", torch.stack([m.square().mean().sqrt() for m in maps]), relative)


def _heads() -> dict[str, torch.Tensor]:
    """The LPIPS heads, which torchmetrics ships byte by byte."""
    spec = find_spec("torchmetrics")
    path = Path(spec.origin).parent / "functional/image/lpips_models/vgg.pth" if spec and spec.origin else None
    if path is None or not path.exists():
        pytest.skip("the LPIPS heads (torchmetrics' vgg.pth) are not installed")
    heads = torch.load(path, map_location="cpu", weights_only=True)
    return dict(heads)
