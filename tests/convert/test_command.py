"""`vtok convert`, published names, and what goes wrong on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.config import load_recipe
from schemas.errors import UsageError
from tests.convert.lightning import full_vqgan_state, namespace, save
from tests.convert.test_priors import CASES, TATS, _tats
from vtok import load_prior, load_tokenizer
from vtok.cli import main
from vtok.convert.convert import convert
from vtok.convert.kinds import KINDS
from vtok.convert.published import PUBLISHED, checkpoints_folder

VQGAN = next(case for name, case in CASES.items() if name.startswith("tats/vqgan_bn"))


def _checkpoint(path: Path, **changes: Any) -> Path:
    return save(path, full_vqgan_state(VQGAN), {"args": namespace(VQGAN.config, **changes)})


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_checkpoint_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _tats(CASES[TATS[0]], tmp_path / "a.ckpt")
    assert main(["convert", str(path), str(tmp_path / "one"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], sorted(found["made"])) == ("tats-gpt", ["prior", "tokenizer"])
    assert main(["convert", str(path), str(tmp_path / "two")]) == 0
    out = capsys.readouterr().out
    assert "assumed: padding_type=replicate" in out
    assert "next: vtok status" in out
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    assert main(["convert", str(path), str(tmp_path / "two")]) == 0, "what is there is kept"
    assert main(["status", str(tmp_path / "two")]) == 0
    assert not any(str(tmp_path).encode() in data for data in _files(tmp_path / "one").values())


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _checkpoint(tmp_path / "a.ckpt", downsample=None)
    text = tmp_path / "a.txt"
    text.write_text("hello")
    out = str(tmp_path / "run")
    for arguments, words in [
        ([str(path)], "two paths are needed"),
        ([str(path), out], "does not say `downsample`"),
        ([str(path), out, "--set", "downsample=[4]"], "not three whole numbers"),
        ([str(path), out, "--set", "downsample=[32,1,1]"], "does not fit"),
        ([str(path), out, "--set", f"downsample={VQGAN.config['downsample']}", "--set", "colour=1"], "colour"),
        ([str(path), out, "--set", "downsample"], "NAME=VALUE"),
        ([str(path), out, "--kind", "gpt2"], "tats-vqgan"),
        ([str(path), out, "--kind", "tats-gpt"], "no GPT of TATS"),
        ([str(path), out, "--kind", "videogpt-vqvae", "--set", "downsample=[4,4,4]"], "no VQ-VAE of VideoGPT"),
        ([str(text), out], "neither torch's zip file nor its older stream"),
        ([str(tmp_path / "none.ckpt"), out], "no such file"),
        ([str(tmp_path), out], "this is a folder"),
    ]:
        assert main(["convert", *arguments]) == 2, words
        assert words in capsys.readouterr().err
    assert not Path(out).exists()


def test_weights_that_do_not_fit_are_all_listed(tmp_path: Path) -> None:
    state = full_vqgan_state(VQGAN)
    del state["encoder.conv_first.conv.bias"]
    state["decoder.extra"] = torch.zeros(2)
    state["decoder.conv_last.conv.bias"] = torch.zeros(9)
    path = save(tmp_path / "a.ckpt", state, {"args": namespace(VQGAN.config)})
    with pytest.raises(UsageError) as caught:
        convert(path, tmp_path / "run")
    for words in (
        "in 3 places",
        "missing: encoder.conv_first.conv.bias",
        "unexpected: decoder.extra [2]",
        "shape: decoder.conv_last.conv.bias is [9], should be [3]",
    ):
        assert words in str(caught.value)


def test_a_kind_that_is_not_known(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", {"conv1.weight": torch.zeros(2), "fc.weight": torch.zeros(2)}, {})
    with pytest.raises(UsageError, match=r"no known kind: 2 tensors, under conv1, fc") as caught:
        convert(path, tmp_path / "run")
    assert all(kind in caught.value.hint for kind in KINDS)


def test_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path / "a.ckpt")
    convert(path, tmp_path / "run")
    with pytest.raises(UsageError, match="made from something else"):
        convert(_checkpoint(tmp_path / "b.ckpt", padding_type="circular"), tmp_path / "run")


def test_a_tokenizer_where_a_prior_is_expected(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path / "a.ckpt")
    convert(path, tmp_path / "run")
    with pytest.raises(UsageError, match="this is a tokenizer folder, not prior"):
        load_prior(tmp_path / "run" / "tokenizer")
    with pytest.raises(UsageError, match="no prior here"):
        load_prior(tmp_path / "run")
    with pytest.raises(UsageError) as caught:
        load_tokenizer(path)
    assert caught.value.hint == f"vtok convert {path} FOLDER"


def test_published_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTOK_CHECKPOINTS", str(tmp_path))
    assert {entry.kind for entry in PUBLISHED.values()} <= set(KINDS)
    with pytest.raises(UsageError, match=r"github\.com/songweige/TATS") as caught:
        load_tokenizer("vqgan_ucf_128_488")
    assert str(tmp_path / "vqgan_ucf_128_488.ckpt") in caught.value.hint
    with pytest.raises(UsageError) as caught:
        load_tokenizer("vqgan_ufc_128_488")
    assert "vqgan_ucf_128_488" in caught.value.hint
    path = _checkpoint(tmp_path / "vqgan_ucf_128_488_epoch=1-step=29999-train.ckpt")
    tokenizer = load_tokenizer("vqgan_ucf_128_488")
    path.unlink()
    assert load_tokenizer(tmp_path / "converted" / "vqgan_ucf_128_488").fingerprint == tokenizer.fingerprint
    monkeypatch.delenv("VTOK_CHECKPOINTS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkpoints_folder() == tmp_path / ".cache" / "vtok" / "checkpoints"


MEBT = """
model:
  target: mebt.transformer.Net2NetTransformer
  params: {n_layer: 4, n_head: 4, n_embd: 64, block_size: 1024, sos_emb: 8, avg_loss: True, t_prior: gaussian2,
           mode: [latent_enc, latent_dec], embd_pdrop: 0.1, resid_pdrop: 0.1, attn_pdrop: 0.1, vis_epoch: 100}
  mask: {target: m, params: {schedule: linear, max_token: 1024, method: mlm, shape: [4, 16, 16], budget: 512}}
  vqvae: {params: {ckpt_path: vqgan.ckpt}}
data: {data_path: /data/sky, sequence_length: 16, resolution: 128, batch_size: 6, image_folder: True}
exp: {exact_lr: 1.08e-5, weight_decay: 1.0e-4, weight_dacay: 3}
"""
VQGAN_COMMAND = """
python train_vqgan.py --embedding_dim 256 --n_codes 16384 --n_hiddens 32 --downsample 2 16 16 --no_random_restart \\
  --gpus 8 --batch_size 2 --accumulate_grad_batches 6 --max_steps 2000000 --gradient_clip_val 1.0 --lr 3e-5 \\
  --data_path /data/ucf --resolution 256 --sequence_length 32 --sample_every_n_frames 1 --norm_type batch \\
  --discriminator_iter_start 10000 --perceptual_weight 4 --gan_feat_weight 4 --frame_rate 16 --sync_batchnorm
"""
HPARAMS = """
args: !!python/object:argparse.Namespace
  hidden_dim: 576
  heads: 4
  attn_type: sparse
  class_cond: true
  vqvae: ucf101_stride4x4x4
  downsample: !!python/tuple [4, 4, 4]
  max_steps: 100000
  run: !!python/object/apply:os.system ['false']
"""


def _recipe(text: str, folder: Path) -> Any:
    config, out = folder / "original.txt", folder / "recipe.yaml"
    config.write_text(text)
    assert main(["convert", "--config", str(config), str(out)]) == 0
    assert main(["convert", "--config", str(config), str(out)]) == 2, "a recipe is never overwritten"
    return load_recipe(out)


def test_a_config_of_mebt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = _recipe(MEBT, tmp_path)
    out = capsys.readouterr().out
    assert "unknown: weight_dacay=3" in out
    assert "left out: max_token" in out
    assert (recipe.data.layout, recipe.data.num_frames) == ("frame_lists", 16)
    assert recipe.tokenizer.model.downsample == (4, 8, 8)
    model, optim = recipe.prior.model, recipe.prior.train.optim
    assert (model.kind, model.latents, model.t_prior, model.budget) == ("mebt", 8, "gaussian2", 512)
    assert model.modes() == ["latent_enc", "latent_dec", "maskgit", "maskgit"]
    assert (optim.lr, optim.weight_decay) == (1.08e-5, 1e-4)


def test_a_command_line_of_tats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = _recipe(VQGAN_COMMAND, tmp_path)
    assert "unknown" not in capsys.readouterr().out
    tokenizer = recipe.tokenizer
    assert (tokenizer.model.downsample, tokenizer.model.n_codes, tokenizer.model.norm) == ((2, 16, 16), 16384, "batch")
    assert (tokenizer.train.batch_size, tokenizer.train.generator.lr) == (96, pytest.approx(9e-5))
    assert (tokenizer.loss.gan_feature_weight, tokenizer.loss.discriminator_start) == (4, 10000)
    assert not tokenizer.model.random_restart
    assert (recipe.data.num_frames, recipe.data.frame_rate) == (32, 16)


def test_hparams_of_videogpt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = _recipe(HPARAMS, tmp_path)
    assert "unknown: run=" in capsys.readouterr().out, "a tagged value is read as plain text and not run"
    model = recipe.prior.model
    assert (model.kind, model.attention, model.condition) == ("videogpt", "sparse", "label")
    assert model.attention_dropout == 0.0, "which the original's sparse mode ignores"
    assert recipe.tokenizer.model.kind == "vqvae"
    assert recipe.prior.train.optim.schedule == "cosine"
