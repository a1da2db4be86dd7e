"""Tokenizers' checkpoints, made as Lightning made them, give the codes and frames of the original implementations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.convert.lightning import full_vqgan_state, lpips_state, namespace, save
from tests.golden.cases import Case, discover
from vtok import artefacts, load_tokenizer
from vtok.convert.convert import convert

CASES = {case.id: case for case in discover()}
VQGANS = [name for name in CASES if name.startswith("tats/vqgan_") and "loss" not in name]
VQVAES = [name for name in CASES if name.startswith("videogpt/vqvae_")]


def _vqgan(case: Case, path: Path, **changes: Any) -> Path:
    args = namespace({k: v for k, v in case.config.items() if k != "latent_shape"}, **changes)
    return save(path, full_vqgan_state(case), {"args": args})


def _vqvae(case: Case, path: Path, **changes: Any) -> Path:
    return save(path, case.state(), {"args": namespace(case.config, **changes)})


def _same_numbers(case: Case, folder: Path, near: str, exact: str) -> None:
    tokenizer = load_tokenizer(folder)
    video = case.input("x")
    with torch.no_grad():
        case.expect("encodings", tokenizer.encode(video), case.tolerance(exact))
        case.expect("decode", tokenizer.decode(case.reference("encodings")), case.tolerance(near))
    assert bool(tokenizer.codebook.initialized)


@pytest.mark.parametrize("name", VQGANS)
def test_vqgans_of_tats(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    made = convert(_vqgan(case, tmp_path / "a.ckpt"), tmp_path / "run")
    assert (made.kind, made.assumed, list(made.cards)) == ("tats-vqgan", [], ["tokenizer"])
    assert made.left_out >= len(lpips_state())
    _same_numbers(case, tmp_path / "run", "encoder_z_decode_x_recon", "encodings")
    card = artefacts.load(tmp_path / "run" / "tokenizer", "tokenizer")
    assert card.facts["grid"] == case.config["latent_shape"]
    assert card.counts["steps"] == card.facts["checkpoint"]["global_step"] == 29999


@pytest.mark.parametrize("name", VQVAES)
def test_vqvaes_of_videogpt(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    made = convert(_vqvae(case, tmp_path / "a.ckpt"), tmp_path / "run")
    assert (made.kind, made.assumed, made.left_out) == ("videogpt-vqvae", [], 0)
    _same_numbers(case, tmp_path / "run", "activations", "codes_tokens")
