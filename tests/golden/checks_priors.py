"""Checks of tats/gpt_uncond, tats/gpt_label, tats/gpt_lowvar, tats/topk_topp and videogpt/sparse_layout."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from schemas.config.prior import GptConfig
from tests.golden.cases import Case
from tests.golden.checks_tokenizers import NOT_THE_TOKENIZER, vqgan_from
from vtok.priors.attention import visible
from vtok.priors.gpt import GPT
from vtok.priors.sparse import block_grid, block_layout, dense_mask
from vtok.priors.tats import GptPrior
from vtok.sampling.autoregressive import sample, sample_codes, sample_tokens
from vtok.sampling.interpolate import fill_tokens
from vtok.sampling.logits import filter_logits


def check_gpt_clip(case: Case) -> None:
    """A prior with its tokenizer: from a video to codes, loss, optimiser groups, sampled codes and back to a video."""
    config = case.config
    near, exact, loss = (case.tolerance(k) for k in ("logits", "tokens", "loss"))
    tokenizer = vqgan_from(
        config["first_stage"],
        case.state("first_stage_model.", drop=NOT_THE_TOKENIZER),
    )
    codes_bthw = tokenizer.encode(case.input("video"))
    if config["sample_every_n_latent_frames"] > 0:
        codes_bthw = codes_bthw[:, :: config["sample_every_n_latent_frames"]]
    case.expect("z_indices", codes_bthw.flatten(1), exact)

    labelled = not config["unconditional"]
    t, h, w = codes_bthw.shape[1:]
    prior = GptPrior(
        GptConfig(
            n_layer=config["n_layer"],
            n_head=config["n_head"],
            n_embd=config["n_embd"],
            condition="label" if labelled else "none",
            parity=True,
        ),
        config["first_stage"]["n_codes"],
        (t, h, w),
        n_classes=config["class_cond_dim"] or 0,
        block_size=config["block_size"],
    ).eval()
    prior.load_state_dict({name: v for name, v in case.state().items() if name.startswith("transformer.")})
    assert (prior.offset, prior.transformer.vocab_size) == (config["cond_stage_vocab_size"], config["gpt_vocab_size"])
    labels_b = case.input("label") if labelled else None
    batch, steps = codes_bthw.shape[0], t * h * w

    case.expect("c_indices", prior.condition(batch, labels_b), exact)
    tokens_bn, targets_bn = prior.inputs(codes_bthw, labels_b)
    assert torch.equal(tokens_bn, case.input("cz_indices"))
    case.expect("target", targets_bn, exact)
    with torch.no_grad():
        case.expect("logits", prior.logits(codes_bthw, labels_b), near)
        case.expect("transformer_logits", prior.transformer(tokens_bn), near)
        output = prior.loss(codes_bthw, labels_b)
    case.expect("loss", output.loss, loss)
    case.expect("acc1", output.acc1.reshape(1), loss)
    case.expect("acc5", output.acc5.reshape(1), loss)

    prefix = steps - case.reference("greedy_tokens_prefix").shape[1] + 1
    gpt = prior.transformer
    cache = gpt.new_cache(batch, steps)
    with torch.no_grad():
        parts = [gpt.prefill(tokens_bn[:, :prefix], cache)]
        parts += [gpt.step(tokens_bn[:, i], i, cache).unsqueeze(1) for i in range(prefix, steps)]
    case.expect("incremental_logits", torch.cat(parts, dim=1), near)

    case.expect("greedy_tokens", sample_tokens(gpt, tokens_bn[:, :1], steps, most_likely=True), exact)
    # The reference's temperature and filters never remove the most likely token.
    continued = sample_tokens(gpt, tokens_bn[:, :prefix], steps - prefix + 1, most_likely=True)
    case.expect("greedy_tokens_prefix", continued, exact)
    codes = sample_codes(prior, num=batch, labels_b=labels_b, greedy=True, parity=True)
    case.expect("greedy_codes", codes, exact)
    case.expect("greedy_video", tokenizer.decode(codes).clamp(-0.5, 0.5) + 0.5, near)
    if prior.offset == 0:
        case.expect("greedy_video", sample(prior, tokenizer, num=batch, greedy=True), near)
    _check_optim_groups(case, gpt)


def _check_optim_groups(case: Case, gpt: GPT) -> None:
    names = {id(p): name for name, p in gpt.named_parameters()}
    wanted = case.meta["optimizer_groups"]
    groups = gpt.optim_groups(wanted[0]["weight_decay"])
    found = [(g["weight_decay"], sorted(names[id(p)] for p in g["params"])) for g in groups]
    assert found == [(g["weight_decay"], sorted(g["names"])) for g in wanted]


def check_gpt_plain(case: Case) -> None:
    """The transformer alone."""
    config = case.config
    sizes = {name: config[name] for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")}
    gpt = GPT(**sizes, n_unmasked=config.get("n_unmasked", 0)).eval()
    gpt.load_state_dict(case.state())
    with torch.no_grad():
        logits_bnv = gpt(case.input("idx"))
    case.expect("logits", logits_bnv, case.tolerance("logits"))
    targets = case.input("targets")
    case.expect("loss", F.cross_entropy(logits_bnv.flatten(0, 1), targets.flatten()), case.tolerance("loss"))


def check_gpt_interpolation(case: Case) -> None:
    """TATS's transformer for interpolation, with its mask, positions and first token."""
    config, near, exact = case.config, case.tolerance("logits"), case.tolerance("tokens")
    sizes = {name: config[name] for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_unmasked")}
    gpt = GPT(**sizes).eval()
    gpt.load_state_dict(case.state())
    tokens_bn, past_bn, future_bn = case.input("idx"), case.input("x_past"), case.input("x_future")
    block, future = config["block_size"], future_bn.shape[1]
    case.expect("mask", visible(block, config["n_unmasked"]), exact)
    with torch.no_grad():
        logits_bnv = gpt(tokens_bn)
        case.expect("logits", logits_bnv, near)
        case.expect("logits_short", gpt(tokens_bn[:, : block - config["n_unmasked"]]), near)
        targets = case.input("targets").flatten()
        case.expect("loss", F.cross_entropy(logits_bnv.flatten(0, 1), targets), case.tolerance("loss"))
        places = torch.cat([torch.arange(past_bn.shape[1]), torch.arange(block - future, block)])
        first = gpt(torch.cat([past_bn, future_bn], dim=1), positions_n=places)
        case.expect("future_first_logits", first, near)
    steps = (config["frames"] - 2) * config["tokens_per_frame"]
    case.expect("greedy_tokens", fill_tokens(gpt, past_bn, future_bn, steps, tats=True), exact)


def check_gpt_boxes(case: Case) -> None:
    """A table of places that boxes are cut out of."""
    config, near = case.config, case.tolerance("logits")
    tokens_bn, boxes_b4 = case.input("idx"), case.input("cbox")

    def build(prefix: str, **changes: int) -> GPT:
        options = {**config, **changes}
        sizes = {name: options[name] for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")}
        side = options["args_resolution"]
        gpt = GPT(**sizes, box_grid=(options["args_sequence_length"], side, side)).eval()
        gpt.load_state_dict(case.state(prefix, drop=("gpt_t.",) if not prefix else ()))
        return gpt

    with torch.no_grad():
        prefixes = {name.removeprefix("sd/").split(".")[0] for name in case.tensors if name.startswith("sd/")}
        gpt = build("gpt." if "gpt" in prefixes else "")
        case.expect("logits", gpt(tokens_bn, boxes_bne=gpt.box_positions(boxes_b4)), near)
        one = gpt.box_positions(boxes_b4[:1])
        case.expect("logits_onebox", gpt(tokens_bn, boxes_bne=one), near)
        cache, prefill = gpt.new_cache(len(tokens_bn), config["block_size"]), 3
        parts = [gpt.prefill(tokens_bn[:, :prefill], cache, boxes_bne=one[:, :prefill])]
        for i in range(prefill, config["block_size"]):
            parts.append(gpt.step(tokens_bn[:, i], i, cache, box_be=one[:, i]).unsqueeze(1))
        case.expect("incremental_logits_onebox", torch.cat(parts, dim=1), near)
        timed = build("gpt_t.", **config["gpt_t"])
        boxes_bne = timed.box_positions(boxes_b4, case.input("tbox"))
        case.expect("logits_tbox", timed(tokens_bn, boxes_bne=boxes_bne), near)


def check_sparse_layout(case: Case) -> None:
    exact = case.tolerance("all")
    for number, options in case.config.items():
        shape = tuple(options["shape"])
        chosen = {"block": options["block"], "local_blocks": options["num_local_blocks"], "causal": options["causal"]}
        assert block_grid(shape, options["block"]) == tuple(options["block_shape"])
        layout = block_layout(shape, **chosen)
        case.expect(f"layout{number}", layout.long().expand(options["n_head"], -1, -1), exact)
        if case.has(f"mask{number}"):
            case.expect(f"mask{number}", dense_mask(shape, **chosen), exact)


def check_topk_topp(case: Case) -> None:
    logits_bv = case.input("logits")
    before = logits_bv.clone()
    for number, options in case.config.items():
        filtered = filter_logits(logits_bv, options["top_k"], options["top_p"])
        case.expect(f"filtered{number}", filtered, case.tolerance("values"))
    for name in case.outputs("topk_logits"):
        k = int(name.removeprefix("topk_logits"))
        case.expect(name, filter_logits(logits_bv, k), case.tolerance("values"))
    assert torch.equal(logits_bv, before), "filter_logits changed its argument"
