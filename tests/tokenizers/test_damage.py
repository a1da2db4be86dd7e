"""A flipped bit anywhere in a tokenizer's folder is detected, or changes no code and no pixel."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.config.tokenizer import VqganConfig
from schemas.errors import VtokError
from vtok import artefacts
from vtok.tokenizers.load import build_tokenizer, load_tokenizer
from vtok.weights import write_weights

WINDOW = 64
MODEL = VqganConfig(embedding_dim=4, n_codes=16, n_hiddens=2, downsample=(2, 4, 4), norm="batch")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer, not trained."""
    folder = tmp_path_factory.mktemp("run") / "tokenizer"
    plan = artefacts.make_plan("tokenizer", {"model": MODEL.plain()}, {"shards": "0" * 64}, [])
    artefacts.begin(folder, plan)
    tokenizer = build_tokenizer(MODEL).eval()
    digest = write_weights(folder, "tokenizer", tokenizer.state_dict(), {"model": MODEL.plain()})
    facts = {"fingerprint": tokenizer.fingerprint, "codebook_size": MODEL.n_codes}
    artefacts.seal_card(folder, plan, index_sha256=digest, counts={"steps": 0}, facts=facts)
    return folder


def _everything(folder: Path) -> Any:
    """What the folder says, and what it does with a video."""
    tokenizer = load_tokenizer(folder)
    video_bcthw = torch.linspace(-0.5, 0.5, 3 * 4 * 16 * 16).reshape(1, 3, 4, 16, 16)
    codes = tokenizer.encode(video_bcthw)
    plan, card = artefacts.load_plan(folder), artefacts.load(folder)
    return plan, card, tokenizer.fingerprint, codes.tolist(), tokenizer.decode(codes).tolist()


def _outcome(folder: Path, wanted: Any) -> str:
    try:
        found = _everything(folder)
    except VtokError:
        return "detected"
    except Exception as error:
        return f"crashed: {type(error).__name__}: {error}"
    return "identical" if found == wanted else "wrong"


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(3000)])])
def test_a_flipped_bit_never_gives_another_tokenizer(
    made: Path, tmp_path: Path, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = _everything(made)
    counts: Counter[tuple[str, str]] = Counter()
    for original in sorted(made.iterdir()):
        data = original.read_bytes()
        folder = Path(shutil.copytree(made, tmp_path / original.name))
        windows = range(0, len(data), (step if original.suffix == ".safetensors" else min(step, 3)) * WINDOW)
        for number, window in enumerate(windows):
            at = window + (37 * number) % min(WINDOW, len(data) - window)
            bad = bytearray(data)
            bad[at] ^= 1 << (number % 8)
            (folder / original.name).write_bytes(bytes(bad))
            counts[original.name, _outcome(folder, wanted)] += 1
    with capsys.disabled():
        told = ", ".join(f"{name} {outcome} {number}" for (name, outcome), number in sorted(counts.items()))
        print(f"\na tokenizer's folder, one flipped bit in every {step} windows of {WINDOW} bytes: {told}")
    assert {name for name, _ in counts} == {"tokenizer.safetensors", "tokenizer.yaml", "_vtok.json", "_plan.json"}
    assert {outcome for _, outcome in counts} <= {"detected", "identical"}
    assert {outcome for name, outcome in counts if name != "tokenizer.yaml"} == {"detected"}
