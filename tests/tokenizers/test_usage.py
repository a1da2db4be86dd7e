"""A collapsing codebook is told from a healthy one, and the setting to change is named."""

from __future__ import annotations

import numpy as np

from schemas.config.tokenizer import TokenizerTrainConfig, VqganConfig
from vtok.tokenizers.usage import collapse_warnings, usage_picture

TRAIN = TokenizerTrainConfig(warn_usage_below=0.05, warn_dead_above=0.8, warn_restarts_above=0.5)


def _warnings(
    perplexity: float, positions: int = 10_000, restarted: float = 0.0, dead: int = 0, **model: object
) -> list[str]:
    return collapse_warnings(perplexity, dead, positions, restarted, VqganConfig(n_codes=1000, **model), TRAIN)


def test_a_healthy_codebook_is_left_alone() -> None:
    assert _warnings(400.0, restarted=0.3) == []
    assert _warnings(51.0) == []
    # 40 positions can hold 40 codes at most: a perplexity of 10 is none too few.
    assert _warnings(10.0, positions=40) == []


def test_a_collapse_names_the_setting() -> None:
    (still,) = _warnings(7.0, random_restart=False)
    assert "perplexity 7.0 where 1,000 codes could occur" in still
    assert "set tokenizer.model.random_restart to true" in still
    (drawn,) = _warnings(7.0)
    assert "lower tokenizer.model.n_codes" in drawn and "random_restart" not in drawn


def test_dead_codes_are_counted_among_those_that_could_occur() -> None:
    (found,) = _warnings(100.0, dead=801)
    assert "codes are dead: 199 occur where 1,000 could (more than 80% never do)" in found
    assert "lower tokenizer.model.n_codes" in found
    (still,) = _warnings(100.0, dead=801, random_restart=False)
    assert "set tokenizer.model.random_restart to true" in still
    assert _warnings(100.0, dead=800) == []
    # 200 positions leave 800 codes out at least; dead are those that 200 positions could have shown besides.
    assert _warnings(100.0, positions=200, dead=840) == []
    (few,) = _warnings(30.0, positions=200, dead=961)
    assert "39 occur where 200 could" in few
    (collapsed,) = _warnings(7.0, dead=990)
    assert "the codebook collapses" in collapsed, "one line for one fault"


def test_quantizers_without_a_codebook_have_settings_of_their_own() -> None:
    signs = VqganConfig(quantizer="lfq", bits=10)
    (found,) = collapse_warnings(7.0, 0, 10_000, 1.0, signs, TRAIN)
    assert "raise tokenizer.model.diversity_weight" in found
    rounding = VqganConfig(quantizer="fsq", levels=(8, 8, 8))
    (found,) = collapse_warnings(7.0, 0, 10_000, 1.0, rounding, TRAIN)
    assert "tokenizer.model.levels" in found


def test_too_many_restarts_name_the_batch() -> None:
    (found,) = _warnings(400.0, restarted=0.9)
    assert "90% of the 1,000 codes are restarted in every batch" in found
    assert "tokenizer.train.batch_size" in found and "restart_threshold" in found
    assert _warnings(400.0, restarted=0.9, random_restart=False) == []
    assert len(_warnings(7.0, restarted=0.9)) == 2


def test_every_setting_that_is_named_exists() -> None:
    for text in _warnings(7.0, restarted=0.9) + _warnings(7.0, random_restart=False) + _warnings(99.0, dead=900):
        for word in text.replace(";", " ").replace(",", " ").split():
            if word.startswith("tokenizer.model."):
                assert word.split(".")[2] in VqganConfig.model_fields
            elif word.startswith("tokenizer.train."):
                assert word.split(".")[2] in TokenizerTrainConfig.model_fields


def test_the_picture_falls_from_left_to_right_and_leaves_unused_codes_empty() -> None:
    counts = np.array([0] * 50 + [1000] * 25 + [3] * 25)
    picture = usage_picture(counts)
    assert picture.dtype == np.uint8 and picture.shape == (240, 640, 3)
    body = picture[30:210, 28:612]
    bars = (body[..., 2] > body[..., 0].astype(int) + 60).sum(axis=0)
    quarter = body.shape[1] // 4
    assert (bars[: quarter - 2] > bars[quarter + 2 : 2 * quarter - 2].max()).all()
    assert (bars[quarter + 2 : 2 * quarter - 2] > 0).all() and (bars[2 * quarter + 2 :] == 0).all()
    assert usage_picture(np.zeros(5, np.int64)).shape == picture.shape
    many = usage_picture(np.arange(100_000))
    assert many.shape == picture.shape
