"""Checks of tats/sample_long_fast, tats/sample_long_spatial and tats/sample_hierarchical."""

from __future__ import annotations

from schemas.config.prior import GptConfig
from tests.golden.cases import Case
from vtok.priors.gpt import GPT
from vtok.priors.tats import GptPrior
from vtok.sampling.picture import draw_picture
from vtok.sampling.sliding import Draw, fill_hierarchy, slide


def _gpt(case: Case, options: dict[str, int], vocabulary: int, prefix: str = "") -> GPT:
    sizes = {name: options[name] for name in ("block_size", "n_layer", "n_head", "n_embd")}
    gpt = GPT(vocab_size=vocabulary, n_unmasked=options.get("n_unmasked", 0), **sizes).eval()
    gpt.load_state_dict(case.state(prefix))
    return gpt


def check_sample_long(case: Case) -> None:
    config, exact = case.config, case.tolerance("tokens")
    gpt = _gpt(case, config, config["vocab_size"])
    frames, side, offset = config["temporal_infer"], config["spatial_infer"], config["cond_stage_vocab_size"]
    condition = case.input("class_label").expand(config["batch_size"], 1)
    for context in config["temporal_sample_pos"]:
        tokens = slide(gpt, condition, frames, side * side, context, Draw()).unflatten(2, (side, side))
        case.expect(f"tokens_tpos{context}", tokens, exact)
        case.expect(f"codes_tpos{context}", (tokens - offset).clamp(0, config["n_codes"] - 1), exact)


def check_sample_spatial(case: Case) -> None:
    """Crops that slide over time, height and width."""
    options = case.config
    place, trained, drawn = (options[name] for name in ("args_resolution", "spatial_train", "spatial_infer"))
    config = GptConfig(
        **{name: options[name] for name in ("n_layer", "n_head", "n_embd")},
        condition="label",
        parity=True,
        boxes=True,
        box_grid=(options["args_sequence_length"], place, place),
    )
    grid = (options["temporal_train"], trained, trained)
    classes = options["cond_stage_vocab_size"]
    prior = GptPrior(config, options["n_codes"], grid, classes, options["block_size"]).eval()
    prior.transformer.load_state_dict(case.state())
    condition = case.input("class_label").expand(options["batch_size"], 1)
    total, context = (options["temporal_infer"], drawn, drawn), options["temporal_sample_pos"]
    tokens = draw_picture(prior, condition, total, context, Draw())
    case.expect("codes", (tokens - prior.offset).clamp(0, prior.n_codes - 1), case.tolerance("tokens"))


def check_sample_hierarchical(case: Case) -> None:
    config, exact = case.config, case.tolerance("tokens")
    first = _gpt(case, config["gpt1"], config["vocab_size"], "gpt1.")
    second = _gpt(case, config["gpt2"], config["vocab_size"], "gpt2.")
    side, keys = config["sample_resolution"], config["sample_length"] // 4 + 1
    condition = case.input("class_label").expand(config["batch_size"], 1)
    tokens = slide(first, condition, keys, side * side, config["temporal_sample_pos"], Draw())
    case.expect("index_lv1", tokens.unflatten(2, (side, side)), exact)
    filled = fill_hierarchy(second, condition, tokens, 3, Draw(), tats=True)
    case.expect("index_lv2_raw", filled.flatten(1), exact)
    codes = (filled - config["cond_stage_vocab_size"]).clamp(0, config["n_codes"] - 1)
    case.expect("codes", codes.unflatten(2, (side, side)), exact)
