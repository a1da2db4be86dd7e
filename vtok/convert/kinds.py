"""Which checkpoint is it? Every kind is known by a tensor that no other has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from schemas.errors import UsageError
from vtok.convert import mebt, tats, videogpt
from vtok.convert.models import Models, Tensors
from vtok.convert.settings import Settings


class Kind(NamedTuple):
    """One kind of checkpoint.

    Attributes:
        title: what it is, for people.
        marks: tensors that are in it.
        read: makes models of tensors and settings.
    """

    title: str
    marks: tuple[str, ...]
    read: Callable[[Tensors, Settings], Models]


KINDS: dict[str, Kind] = {
    "videogpt-vqvae": Kind("VideoGPT's VQ-VAE", ("encoder.convs.0.conv.weight",), videogpt.vqvae),
    "tats-vqgan": Kind("the VQGAN of TATS, MeBT and vqgan-gpt-video", ("encoder.conv_first.conv.weight",), tats.vqgan),
    "videogpt-gpt": Kind(
        "VideoGPT's GPT, with its VQ-VAE", ("fc_in.weight", "attn_stack.right_shift.sos"), videogpt.gpt
    ),
    "tats-gpt": Kind("the GPT of TATS and vqgan-gpt-video, with its VQGAN", ("transformer.tok_emb.weight",), tats.gpt),
    "mebt": Kind("MeBT's transformer, with its VQGAN", ("mask_emb", "tok_emb.weight"), mebt.transformer),
}
"""The kinds that can be converted, by the name that `--kind` takes."""

_WRAPPERS = ("module.", "_orig_mod.", "model.")


def unwrapped(tensors: Tensors) -> Tensors:
    """The state dict without the prefixes that data parallelism or compilation put before every name."""
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return unwrapped({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def kind_of(names: Mapping[str, object], at: str) -> str:
    """The kind of a state dict with these names.

    Raises:
        UsageError: none fits, or several do.
    """
    found = [name for name, kind in KINDS.items() if all(mark in names for mark in kind.marks)]
    if len(found) == 1:
        return found[0]
    known = "; ".join(f"{name} ({kind.title})" for name, kind in KINDS.items())
    what = f"could be {' or '.join(found)}" if found else "is of no known kind"
    raise UsageError(
        f"the checkpoint {what}: {len(names)} tensors, under {', '.join(_roots(names))}",
        at=at,
        hint=f"force a kind with --kind; known are {known}",
    )


def kind_named(name: str) -> Kind:
    """The kind that the user names.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in KINDS:
        raise UsageError(f"no kind {name!r}", at="--kind", hint=f"known kinds: {', '.join(KINDS)}")
    return KINDS[name]


def _roots(names: Iterable[str], most: int = 12) -> list[str]:
    """The first parts of names, for people."""
    roots = sorted({name.split(".")[0] for name in names})
    return roots[:most] + ([f"and {len(roots) - most} more"] if len(roots) > most else [])
