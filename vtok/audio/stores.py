"""Whether a token store's codes of sound are those that a prior wants."""

from __future__ import annotations

import math
from typing import Any

from schemas.card import CARD_NAME
from schemas.errors import UsageError
from vtok.audio.tokenizer import read_audio_facts
from vtok.convert.published import located
from vtok.tokens.store import TokenStore


def audio_of_store(store: TokenStore) -> dict[str, Any]:
    """What the store's card says of its codes of sound; empty if it does not say (imported ones)."""
    return dict(store.card.facts.get("audio") or {})


def check_audio(store: TokenStore, length: int, vocabulary: int, tokenizer: str | None) -> None:
    """Refuses a store whose codes of sound do not fit a prior, or that another tokenizer of sound made.

    Args:
        store: the store.
        length: codes of sound before a clip's, that the prior takes.
        vocabulary: how many different ones it knows.
        tokenizer: folder of the tokenizer that the run names; none, or a folder that is not there: not compared.

    Raises:
        UsageError: they do not fit.
    """
    at, facts = str(store.folder), audio_of_store(store)
    size = int(store.card.facts.get("audio_codebook_size", 0))
    if size > vocabulary:
        raise UsageError(
            f"the store's sounds have {size} codes, the prior knows {vocabulary}",
            at=at,
            hint=f"set prior.model.condition_vocabulary={size}",
        )
    grid = facts.get("grid")
    if grid is not None and math.prod(grid) != length:
        raise UsageError(
            f"a sound has {math.prod(grid)} codes ({' x '.join(map(str, grid))}), the prior takes {length}",
            at=at,
            hint=f"set prior.model.condition_length={math.prod(grid)}",
        )
    silent = int(store.card.counts.get("silent", 0))
    if silent:
        raise UsageError(
            f"{silent} of {store.card.counts['clips']} rows have no codes of sound",
            at=at,
            hint="tokenize again with tokens.audio.silent=reject, which leaves these clips out",
        )
    if tokenizer is None or "fingerprint" not in facts or not (located(tokenizer, "tokenizer") / CARD_NAME).exists():
        return
    there = read_audio_facts(tokenizer).fingerprint
    if there != facts["fingerprint"]:
        raise UsageError(
            f"the store's sounds were encoded by tokenizer {facts['fingerprint']}, the run has {there}",
            at=at,
            hint="tokenize the shards again with this tokenizer, or put the one that made the store in place",
        )
