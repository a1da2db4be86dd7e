"""`convert`: a published or home-made checkpoint becomes `tokenizer/` and `prior/` of a run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.card import Card
from schemas.errors import UsageError
from schemas.paths import NEEDS_LOCAL, as_path, local_only
from vtok.convert.checkpoint import read_checkpoint
from vtok.convert.kinds import KINDS, kind_named, kind_of, unwrapped
from vtok.convert.settings import Settings, flat
from vtok.convert.write import write_prior, write_tokenizer


@dataclass(frozen=True)
class Converted:
    """What came of a checkpoint.

    Attributes:
        kind: which one it was, a key of `vtok.convert.kinds.KINDS`.
        cards: the card of every folder that was written, by its name below `out`.
        assumed: settings that are nowhere in the checkpoint, with the value that was taken.
        noted: what else is worth knowing.
        left_out: tensors that were not needed: discriminators, LPIPS, masks.
    """

    kind: str
    cards: dict[str, Card] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    left_out: int = 0


def convert(
    path: str | Path,
    out: str | Path,
    *,
    kind: str | None = None,
    given: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Converted:
    """Reads a checkpoint of VideoGPT, TATS, MeBT or vqgan-gpt-video and writes its models below `out`.

    Nothing that is pickled in it is run. The same file and settings give the same bytes; what is there already is kept.

    Args:
        path: the checkpoint.
        out: the run's folder: `tokenizer/`, and `prior/` and `stft_tokenizer/` where they are in it.
        kind: a key of `KINDS`; None: found from the tensors' names.
        given: settings under their original names, which count more than the checkpoint's own.
        beside: settings of the original's config file, which count where the checkpoint has none.

    Raises:
        UsageError: it is no such checkpoint, asks for something that is refused, does not fit its kind, or lacks
            settings; or `out` holds something else.
        IntegrityError: it is cut short or damaged.
    """
    folder = local_only(as_path(out), "converting", NEEDS_LOCAL)
    if kind is not None:
        kind_named(kind)
    source = read_checkpoint(path)
    tensors = unwrapped(source.tensors)
    settings = Settings(given or {}, {**(beside or {}), **flat(source.hyper)}, str(path))
    name = kind or kind_of(tensors, str(path))
    models = KINDS[name].read(tensors, settings)
    if unused := settings.unused():
        raise UsageError(f"nothing asks for the setting {', '.join(unused)}", at="--set")
    cards = {place: write_tokenizer(folder / place, model, source, name) for place, model in models.tokenizers.items()}
    if models.prior is not None:
        fingerprint = cards["tokenizer"].facts["fingerprint"] if "tokenizer" in cards else ""
        cards["prior"] = write_prior(folder / "prior", models.prior, fingerprint, source, name)
    return Converted(name, cards, settings.assumed, settings.noted, len(source.left_out))
