"""`tokenizer.parity` turns on the original's quirks where they are not set."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.config.tokenizer import TokenizerConfig


def _quirks(tree: dict[str, Any]) -> tuple[bool, int, bool, bool, bool]:
    config = TokenizerConfig.model_validate(tree)
    loss, train = config.loss, config.train
    return (
        config.model.parity,
        train.forwards,
        train.idle_discriminators,
        loss.lpips_half_contrast,
        loss.lpips_dropout,
    )


def test_parity_of_the_vqgan() -> None:
    assert _quirks({}) == (False, 1, False, False, False)
    assert _quirks({"parity": True}) == (True, 2, True, True, True)
    some = {"parity": True, "train": {"forwards": 1, "steps": 7}, "loss": {"lpips_dropout": False}}
    assert _quirks(some) == (True, 1, True, True, False)
    assert TokenizerConfig.model_validate(some).train.steps == 7


def test_parity_of_the_vqvae_has_one_pass() -> None:
    tree = {"parity": True, "model": {"kind": "vqvae"}}
    assert _quirks(tree) == (True, 1, False, False, False)
    assert TokenizerConfig.model_validate(tree).loss.l2_weight == pytest.approx(1 / 0.06)


def test_a_config_survives_its_own_plain_form() -> None:
    for tree in ({"parity": True}, {"parity": True, "model": {"kind": "vqvae"}}, {"parity": True, "loss": {}}):
        config = TokenizerConfig.model_validate(tree)
        assert TokenizerConfig.model_validate(config.plain()) == config


def test_lpips_sees_grey_or_colour() -> None:
    for channels in (1, 3):
        TokenizerConfig.model_validate({"model": {"image_channels": channels}, "loss": {"perceptual_weight": 1.0}})
    with pytest.raises(ValidationError, match="1 or 3 channels, not 2"):
        TokenizerConfig.model_validate({"model": {"image_channels": 2}, "loss": {"perceptual_weight": 1.0}})
    for broken in ({"parity": True, "loss": 3}, {"parity": True, "train": None}):
        with pytest.raises(ValidationError):
            TokenizerConfig.model_validate(broken)
