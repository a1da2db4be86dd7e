"""Checkpoints as Lightning 1.3 to 1.7 wrote them, without Lightning: the same names in the pickle, the same entries."""

from __future__ import annotations

import argparse
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.golden.cases import Case
from vtok.tokenizers.discriminators import Discriminators

DISCRIMINATORS = ("image_discriminator.", "video_discriminator.")
CHANNELS = (64, 128, 256, 512, 512)
VGG = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}


@contextmanager
def importable(**modules: dict[str, type]) -> Iterator[None]:
    """Classes that pickle finds under modules that are not installed; dots of a module's name are spelt `__`."""
    added = []
    for spelt, classes in modules.items():
        parts = spelt.split("__")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in sys.modules:
                sys.modules[name] = types.ModuleType(name)
                added.append(name)
        for label, cls in classes.items():
            cls.__module__, cls.__qualname__, cls.__name__ = ".".join(parts), label, label
            setattr(sys.modules[".".join(parts)], label, cls)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


class AttributeDict(dict[str, Any]):
    """Stands in for pytorch_lightning.utilities.parsing.AttributeDict."""


class ModelCheckpoint:
    """Stands in for pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint."""


class _Node:
    """Stands in for OmegaConf's values and containers: attributes, with a way back to the parent."""

    def __init__(self, content: Any, parent: Any = None) -> None:
        self._metadata = Metadata()
        self._parent = parent
        if isinstance(content, dict):
            self._content: Any = {key: omega(value, self) for key, value in content.items()}
        elif isinstance(content, list):
            self._content = [omega(value, self) for value in content]
        else:
            self._val = content


class DictConfig(_Node): ...


class ListConfig(_Node): ...


class AnyNode(_Node): ...


class Metadata:
    def __init__(self) -> None:
        self.ref_type, self.object_type, self.optional, self.flags = Any, dict, True, None


def omega(content: Any, parent: Any = None) -> _Node:
    """What `OmegaConf.create` would make of plain values."""
    cls = DictConfig if isinstance(content, dict) else ListConfig if isinstance(content, list) else AnyNode
    return cls(content, parent)


def save(
    path: Path,
    state: Mapping[str, Tensor],
    hyper: Mapping[str, Any],
    *,
    stream: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """A checkpoint as `Trainer.save_checkpoint` leaves it: optimisers, callbacks and loops besides the weights."""
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(3))])
    adam.param_groups[0]["params"][0].grad = torch.ones(3)
    adam.step()
    ordered = OrderedDict(state)
    ordered._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    with importable(
        pytorch_lightning__utilities__parsing={"AttributeDict": AttributeDict},
        pytorch_lightning__callbacks__model_checkpoint={"ModelCheckpoint": ModelCheckpoint},
        omegaconf__dictconfig={"DictConfig": DictConfig},
        omegaconf__listconfig={"ListConfig": ListConfig},
        omegaconf__nodes={"AnyNode": AnyNode},
        omegaconf__base={"Metadata": Metadata},
    ):
        whole = {
            "epoch": 12,
            "global_step": 29999,
            "pytorch-lightning_version": "1.5.4",
            "state_dict": ordered,
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 13, "completed": 12}}}},
            "callbacks": {
                ModelCheckpoint: {
                    "monitor": "val/recon_loss",
                    "best_model_score": torch.tensor(0.25),
                    "best_model_path": "/logs/version_1/checkpoints/latest_checkpoint.ckpt",
                    "dirpath": Path("/logs/version_1/checkpoints"),
                }
            },
            "optimizer_states": [adam.state_dict()],
            "lr_schedulers": [],
            "hparams_name": "args",
            "hyper_parameters": AttributeDict(hyper),
            **(extra or {}),
        }
        torch.save(whole, path, _use_new_zipfile_serialization=not stream)
    return path


def trainer_flags() -> dict[str, Any]:
    """Flags that every script of the originals keeps in its namespace besides its own."""
    return {
        "gpus": 8,
        "max_steps": 2000000,
        "accumulate_grad_batches": 6,
        "gradient_clip_val": 1.0,
        "default_root_dir": "ckpts",
        "logger": True,
        "precision": 32,
        "plugins": None,
        "data_path": "/datasets/ucf101",
        "batch_size": 2,
        "num_workers": 32,
    }


def namespace(options: Mapping[str, Any], **more: Any) -> argparse.Namespace:
    """The originals' `args`."""
    return argparse.Namespace(**{**trainer_flags(), **options, **more})


def lpips_state(prefix: str = "perceptual_model.") -> dict[str, Tensor]:
    """LPIPS as it lies in a VQGAN's checkpoint: keys and ranks of the original, one value a tensor."""
    state = {f"{prefix}scaling_layer.{name}": torch.zeros(1, 3, 1, 1) for name in ("shift", "scale")}
    for number, indices in VGG.items():
        for index in indices:
            state[f"{prefix}net.slice{number}.{index}.weight"] = torch.zeros(1, 1, 1, 1)
            state[f"{prefix}net.slice{number}.{index}.bias"] = torch.zeros(1)
    for number, channels in enumerate(CHANNELS):
        state[f"{prefix}lin{number}.model.1.weight"] = torch.zeros(1, channels, 1, 1)
    return state


def full_vqgan_state(case: Case, prefix: str = "") -> dict[str, Tensor]:
    """A VQGAN case's state dict below `prefix`, with discriminators and LPIPS, as the original saves it."""
    state = case.state(prefix)
    if not any(name.startswith(DISCRIMINATORS) for name in state):
        from schemas.config.tokenizer import DiscriminatorConfig

        state |= Discriminators(DiscriminatorConfig(channels=2, layers=2), 3).state_dict()
    return {prefix + name: tensor for name, tensor in {**state, **lpips_state()}.items()}
