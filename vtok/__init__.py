"""vtok: raw video datasets become verifiable token stores, once.

The public names below are imported on first use, so that `import vtok` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from schemas.version import CODE_VERSION as __version__

_PUBLIC = {
    "VtokError": "schemas.errors",
    "preprocess": "vtok.video.transforms",
    "read_video": "vtok.video.decode",
    "ShardReader": "vtok.shards.reader",
    "load_tokenizer": "vtok.tokenizers.load",
    "TokenStore": "vtok.tokens.store",
    "load_prior": "vtok.priors.load",
    "sample": "vtok.sampling.autoregressive",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'vtok' has no attribute {name!r}")
    return getattr(import_module(module), name)
