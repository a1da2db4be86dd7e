"""Recipes: everything wrong is found at once, with its place and the nearest right key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from schemas.config import Recipe, fingerprint, load_recipe
from schemas.errors import ConfigError, UsageError

MINIMAL = {"out": "runs/x", "data": {"root": "videos"}}


def write(path: Path, tree: object) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


def test_ten_lines_are_enough(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "r.yaml", MINIMAL))
    assert recipe.data.num_frames == 16
    assert recipe.tokenizer.model.grid(16, 128, 128) == (4, 16, 16)


def test_overrides_are_yaml_and_come_last(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", MINIMAL)
    recipe = load_recipe(path, ["data.num_frames=8", "tokenizer.model.downsample=[2, 4, 4]", "sample.top_p=null"])
    assert (recipe.data.num_frames, recipe.tokenizer.model.downsample, recipe.sample.top_p) == (8, (2, 4, 4), None)


def test_all_problems_at_once(tmp_path: Path) -> None:
    tree = {"out": "x", "data": {"root": "v", "num_frmes": 3}, "shard": {}, "tokenizer": {"train": {"steps": "many"}}}
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path / "r.yaml", tree), ["prior.model.n_heads=3", "no-equals-sign"])
    found = {path: (message, hint) for path, message, hint in caught.value.problems}
    assert found["data.num_frmes"] == ("unknown key", "did you mean num_frames?")
    assert found["shard"][1] == "did you mean shards?"
    assert found["prior.model.n_heads"][1] == "did you mean n_head?"
    assert "'many'" in found["tokenizer.train.steps"][0]
    assert "no-equals-sign" in found
    assert caught.value.exit_code == 2
    assert "5 problems" in str(caught.value)


def test_right_key_in_the_wrong_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path / "r.yaml", MINIMAL), ["resolution=64"])
    assert caught.value.problems[0][2] == "did you mean data.resolution?"


def test_missing_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root: is required"):
        load_recipe(write(tmp_path / "r.yaml", {"out": "x", "data": {}}))


def test_resolution_must_divide(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.resolution 100 is not divisible by the downsampling factor 8"):
        load_recipe(write(tmp_path / "r.yaml", MINIMAL), ["data.resolution=100"])


def test_a_crop_must_fit_and_divide(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", MINIMAL)
    crop = "tokenizer.train.augment.crop"
    assert load_recipe(path, [f"{crop}=64", "data.resolution=72"]).tokenizer.train.augment.crop == 64
    with pytest.raises(ConfigError, match=r"tokenizer\.train\.augment\.crop 136 is larger than data\.resolution 128"):
        load_recipe(path, [f"{crop}=136"])
    with pytest.raises(ConfigError, match=r"augment\.crop 100 is not divisible by the downsampling factor 8"):
        load_recipe(path, [f"{crop}=100"])


def test_stride_or_rate_not_both(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        load_recipe(write(tmp_path / "r.yaml", MINIMAL), ["data.frame_stride=2", "data.frame_rate=8"])


def test_extends_one_level(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", {**MINIMAL, "seed": 7, "data": {"root": "videos", "num_frames": 32}})
    child = write(tmp_path / "child.yaml", {"extends": "base.yaml", "data": {"resolution": 64}})
    recipe = load_recipe(child)
    assert (recipe.seed, recipe.data.num_frames, recipe.data.resolution) == (7, 32, 64)
    grandchild = write(tmp_path / "grandchild.yaml", {"extends": "child.yaml"})
    with pytest.raises(UsageError, match="one level"):
        load_recipe(grandchild)
    lost = write(tmp_path / "lost.yaml", {"extends": "bse.yaml"})
    with pytest.raises(UsageError, match=r"bse\.yaml"):
        load_recipe(lost)


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", b"- 1\n- 2\n"])
def test_not_a_recipe(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    assert str(path) in caught.value.at


def test_no_such_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the recipe"):
        load_recipe(tmp_path / "none.yaml")


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("out: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_recipe(path)


def test_every_field_is_described() -> None:
    def check(model: type, prefix: str) -> list[str]:
        missing = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            if hasattr(field.annotation, "model_fields"):
                missing += check(field.annotation, f"{prefix}{name}.")
            elif not field.description and name != "kind":
                missing.append(prefix + name)
        return missing

    assert check(Recipe, "") == []


def test_fingerprint_ignores_key_order_and_sees_values() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


SHIPPED = sorted((Path(__file__).resolve().parents[2] / "vtok" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_recipes_load_and_say_what_they_are(path: Path) -> None:
    recipe = load_recipe(path, shipped=path.parent)
    assert recipe.folder("tokens").name == "tokens"
    header = path.read_text().split("\nname:")[0]
    for word in ("Paper:", "Expected:", "Hardware:", "Hours:", "Command:"):
        assert word in header, f"{path.name} lacks {word}"


def test_kinds_of_tokenizers(tmp_path: Path) -> None:
    """Keys, defaults and mistakes are those of the model's kind; without a kind it is the VQGAN."""
    path = write(tmp_path / "r.yaml", {**MINIMAL, "tokenizer": {"model": {"kind": "vqvae"}}})
    tokenizer = load_recipe(path, ["tokenizer.train.generator.lr=1e-3"]).tokenizer
    assert (tokenizer.model.kind, tokenizer.model.n_codes, tokenizer.model.downsample) == ("vqvae", 2048, (4, 4, 4))
    assert (tokenizer.loss.l1_weight, tokenizer.loss.l2_weight, tokenizer.loss.video_gan_weight) == (0, 1 / 0.06, 0)
    generator = tokenizer.train.generator
    assert (generator.lr, generator.betas, generator.clip_grad_norm) == (1e-3, (0.9, 0.999), None)
    assert load_recipe(write(tmp_path / "v.yaml", MINIMAL)).tokenizer.loss.video_gan_weight == 1
    assert Recipe.model_validate(load_recipe(path).plain()) == load_recipe(path)

    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["tokenizer.model.norm=batch", "tokenizer.model.n_codes=1", "tokenizer.model.n_res_layer=2"])
    found = {place: (message, hint) for place, message, hint in caught.value.problems}
    assert found["tokenizer.model.norm"][0] == "unknown key"
    assert found["tokenizer.model.n_res_layer"][1] == "did you mean n_res_layers?"
    assert "(got 1)" in found["tokenizer.model.n_codes"][0]
    assert len(found) == 3
    with pytest.raises(ConfigError, match=r"tokenizer\.model: `kind` is vqgan or vqvae"):
        load_recipe(path, ["tokenizer.model.kind=vqvea"])


def test_reflection_needs_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", MINIMAL)
    short = ["tokenizer.model.padding=reflect", "data.num_frames=8"]
    with pytest.raises(ConfigError, match=r"data\.num_frames 8 is too small for reflect padding, which needs 12"):
        load_recipe(path, short)
    assert load_recipe(path, [*short, "data.num_frames=12"]).data.num_frames == 12
    assert load_recipe(path, [*short, "tokenizer.model.padding=circular"]).data.num_frames == 8
