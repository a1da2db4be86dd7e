"""Captions to tokens, by an encoding that is trained or given."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from schemas.errors import UsageError
from vtok.priors.text import END, START, TextTokenizer, read_text_tokenizer, train_text_tokenizer

CAPTIONS = ["A red ball rolls to the left.", "a blue ball rolls to the right", "Two balls, one café"] * 4


def test_trained_on_captions() -> None:
    made = train_text_tokenizer(CAPTIONS, 300)
    assert made.sha256 == train_text_tokenizer(reversed(CAPTIONS), 300).sha256, "the order does not matter"
    assert 256 < made.vocabulary <= 302
    tokens = made.encode(["a red ball", "A  RED\tball", "", "żółw"], 12)
    assert tokens.shape == (4, 12)
    assert tokens[0].tolist() == tokens[1].tolist(), "case and spaces do not matter"
    start, end = tokens[2][:2].tolist()
    assert (tokens[:, 0] == start).all() and (tokens == end).sum(1).tolist() == [1] * 4
    assert not tokens[2][2:].any()
    assert (tokens[3] > 0).sum() > 4, "bytes of what was never seen"
    cut = made.encode([CAPTIONS[0] * 5], 6)[0].tolist()
    assert (cut[0], cut[-1]) == (start, end)


def test_a_file_is_read_back(tmp_path: Path) -> None:
    made = train_text_tokenizer(CAPTIONS, 300)
    (tmp_path / "tokenizer.json").write_bytes(made.data)
    again = read_text_tokenizer(tmp_path / "tokenizer.json")
    assert (again.sha256, again.vocabulary) == (made.sha256, made.vocabulary)
    assert (again.encode(CAPTIONS, 20) == made.encode(CAPTIONS, 20)).all()


def test_a_list_of_merges_as_clip_has_it(tmp_path: Path) -> None:
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(gzip.compress(b"version\nr e\nre d</w>\nb a\nl l</w>\nba ll</w>\n"))
    text = read_text_tokenizer(path)
    assert text.vocabulary == 512 + 5 + 2
    # start, "a</w>", "red</w>", "ball</w>", "!</w>", end: by CLIP's numbering
    assert text.encode(["A red ball!"], 6)[0].tolist() == [517, 256 + 64, 513, 516, 256 + 0, 518]


def test_what_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a tokenizer\.json"):
        TextTokenizer(b"{}")
    with pytest.raises(UsageError, match="cannot read"):
        read_text_tokenizer(tmp_path / "none.json")
    made = train_text_tokenizer(CAPTIONS, 300)
    with pytest.raises(UsageError, match="no token"):
        TextTokenizer(made.data.replace(START.encode(), b"<s>").replace(END.encode(), b"</s>"))
