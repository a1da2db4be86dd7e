"""Every file of a run is flipped, cut, swapped and replaced: whoever reads the run sees the same values or an error.

What no card vouches for (logs, previews, the recipe's copy) may change what is shown of it, and no command falls over.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate import evaluate
from schemas.card import CARD_NAME
from schemas.errors import VtokError
from tests.tiny_run import finish_run, make_run
from vtok import artefacts, check, sealed
from vtok.cli import main
from vtok.evaluation.results import read_results
from vtok.inspect_folder import describe_run, stage_folders
from vtok.priors.load import load_prior
from vtok.report import write_report
from vtok.sampling.drawn import sample_rows, sample_video
from vtok.shards.query import run_query
from vtok.shards.reader import ShardReader
from vtok.tokenizers.load import load_tokenizer
from vtok.tokens.store import TokenStore

LOGS = ("metrics.jsonl", "previews", "recipe.yaml", "timings.json", "report.html")
"""Files and folders that nothing vouches for."""
MOST, SAMPLE = 700, 40  # mutations of the whole walk, and of the one in the fast tier


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "run"
    settings = make_run(folder)
    evaluate(folder)
    finish_run(settings)
    return folder


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _arrays(arrays: Iterator[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)).hexdigest()


def _weights(model: object) -> str:
    tensors = model.state_dict()  # type: ignore[attr-defined]
    return str(model) + _arrays(tensors[name].numpy() for name in sorted(tensors))


def _prior(run: Path) -> str:
    prior = load_prior(run / "prior")
    return _weights(prior) + str(prior.config) + _digest(artefacts.load(run / "prior").facts)


def _clips(run: Path) -> str:
    both = [ShardReader(run / "shards", split, shuffle=False).clips(0) for split in ("train", "test")]
    return _digest([[_arrays(iter([clip.video_thwc])), clip.label, clip.meta] for clip in itertools.chain(*both)])


def _store(run: Path) -> str:
    store = TokenStore(run / "tokens")
    rows = [{**row, "codes": row["codes"].tolist()} for split in ("train", "test") for row in store.rows(split)]
    return _digest([rows, store.grid, store.classes, store.codebook_size])


def _drawn(run: Path) -> str:
    rows = sample_rows(run / "samples")
    return _digest(rows) + _arrays(sample_video(run / "samples", row) for row in rows)


def _rejects(run: Path) -> str:
    return _digest([artefacts.load_rejects(run / kind).to_pylist() for kind in ("clips", "shards", "tokens")])


READERS: dict[str, Callable[[Path], str]] = {
    "tokenizer": lambda run: _weights(load_tokenizer(run / "tokenizer")),
    "prior": _prior,
    "clips of shards": _clips,
    "token store": _store,
    "samples": _drawn,
    "metrics": lambda run: _digest(read_results(run / "metrics")),
    "manifest": lambda run: _digest(run_query("select * from clips order by clip_id", run, 1000).rows),
    "rejects": _rejects,
}


def _files(run: Path, *, logs: bool) -> list[Path]:
    found = sorted(path for path in run.rglob("*") if path.is_file())
    return [path for path in found if bool(set(LOGS) & set(path.relative_to(run).parts)) == logs]


def _mutations(run: Path, draw: random.Random) -> Iterator[tuple[str, Path, bytes | None]]:
    """(name, file, its new bytes; None: it is gone), without an end."""
    files = _files(run, logs=False)
    while True:
        path = draw.choice(files)
        data, name = path.read_bytes(), str(path.relative_to(run))
        kind = draw.choice(("flip", "flip", "flip", "cut", "swap", "replace", "zeros", "gone"))
        if kind == "flip":
            place, changed = draw.randrange(8 * len(data)), bytearray(data)
            changed[place // 8] ^= 1 << place % 8
            yield f"{name}: bit {place}", path, bytes(changed)
        elif kind == "cut":
            yield f"{name}: cut", path, data[: draw.randrange(len(data))]
        elif kind == "swap":
            other = draw.choice([each for each in files if each.suffix == path.suffix and each != path] or [path])
            if other.read_bytes() != data:
                yield f"{name}: {other.relative_to(run)} in its place", path, other.read_bytes()
        elif kind == "replace" and path.suffix in (".json", ".yaml"):
            text = data.decode()
            digits = [place for place, letter in enumerate(text) if letter in "123456789"]
            if digits:
                place = draw.choice(digits)
                yield (
                    f"{name}: another digit at {place}",
                    path,
                    (text[:place] + str(int(text[place]) % 9 + 1) + text[place + 1 :]).encode(),
                )
        elif kind == "zeros":
            place = draw.randrange(len(data))
            changed = data[:place] + bytes(min(64, len(data) - place)) + data[place + 64 :]
            if changed != data:
                yield f"{name}: zeros at {place}", path, changed
        elif kind == "gone":
            yield f"{name}: gone", path, None


def _seen(run: Path) -> dict[str, str]:
    """What every reader gives, or the error that it raises. Only `VtokError`s are errors; all else is a failure."""
    found = {}
    for name, read in READERS.items():
        try:
            found[name] = read(run)
        except VtokError as error:
            found[name] = "error" if error.what and error.at else f"an error without a place: {error}"
    return found


def _silent(run: Path, right: dict[str, str], name: str, path: Path, data: bytes | None) -> list[str]:
    """Who gives other values than the right ones without an error; the file is put back."""
    before = path.read_bytes()
    try:
        path.unlink() if data is None else path.write_bytes(data)
        wrong = [f"{name} -> {who}" for who, value in _seen(run).items() if value not in ("error", right[who])]
        sound = not any(check.check(folder).problems for folder in stage_folders(run) if (folder / CARD_NAME).exists())
        if sound and data is not None:
            wrong.append(f"{name} -> vtok check")
        if data is None and path.name != CARD_NAME and sound:
            wrong.append(f"{name} -> vtok check")
        return wrong
    finally:
        path.write_bytes(before)


def _walk(run: Path, count: int, seed: int) -> list[str]:
    right, wrong = _seen(run), []
    assert "error" not in right.values()
    for name, path, data in itertools.islice(_mutations(run, random.Random(seed)), count):
        wrong += _silent(run, right, name, path, data)
    assert _seen(run) == right
    return wrong


def test_no_changed_file_changes_a_value_in_silence(finished: Path) -> None:
    assert _walk(finished, SAMPLE, seed=1) == []


@pytest.mark.soak
def test_no_changed_file_changes_a_value_in_silence_at_length(finished: Path) -> None:
    assert _walk(finished, MOST, seed=2) == []


def test_the_walk_notices_a_comparison_that_is_gone(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = finished / "prior" / "prior.yaml"
    other = path.read_text().replace("n_head: 1", "n_head: 2")
    assert other != path.read_text()
    right = _seen(finished)
    assert _silent(finished, right, "n_head", path, other.encode()) == []
    monkeypatch.setattr("vtok.weights.read_sealed", lambda folder, card, name: (folder / name).read_bytes())
    assert _silent(finished, right, "n_head", path, other.encode()) == ["n_head -> prior"]


def test_status_sees_what_is_missing_or_cut(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert {item["state"] for item in describe_run(run)} == {"complete"}
    (run / "tokenizer" / "tokenizer.safetensors").unlink()
    part = run / "shards" / "train-00000.tar"
    part.write_bytes(part.read_bytes()[:-1])
    states = {item["kind"]: (item["state"], item["next"]) for item in describe_run(run)}
    assert states["tokenizer"] == (
        "damaged: tokenizer.safetensors is missing",
        f"vtok check {run / 'tokenizer'}",
    )
    assert states["shards"][0].startswith("damaged: train-00000.tar has ")
    assert states["prior"][0] == "complete"


@pytest.mark.parametrize("name", ["status", "check", "report"])
def test_commands_on_a_damaged_run(
    finished: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert main([name, str(run)]) == 0
    said = capsys.readouterr().out
    if name == "check":
        assert "nothing vouches for metrics.jsonl, previews/" in said and said.count("sound:") == 7
    for path in _files(run, logs=True):
        path.write_bytes(path.read_bytes()[:-7][::-1])
    assert main([name, str(run)]) == 0
    for folder in ("prior/prior.yaml", "samples/part-00000.parquet", "metrics/clips.parquet", "shards/_clips.table"):
        path = run / folder
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    capsys.readouterr()
    code = main([name, str(run)])
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    if name == "check":
        assert code == 1 and said.count("DAMAGED") == 4 and said.count("hint:") >= 4
    elif name == "report":
        assert code == 0 and "This cannot be shown" in write_report(run).read_text()


def test_a_card_from_elsewhere_does_not_vouch(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.copy(run / "metrics" / CARD_NAME, run / "prior" / CARD_NAME)
    with pytest.raises(VtokError, match="this is a metrics folder, not prior"):
        load_prior(run / "prior")
    found = check.check(run / "prior")
    assert found.problems
    card = artefacts.load(finished / "prior")
    without = card.model_copy(update={"files": {}})
    with pytest.raises(VtokError, match=r"does not vouch for prior\.yaml"):
        sealed.read_sealed(finished / "prior", without, "prior.yaml")
