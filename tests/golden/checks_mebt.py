"""Checks of mebt/*: the transformer, its masks and both ways of decoding."""

from __future__ import annotations

from typing import Any

import torch

from schemas.config.prior import MebtConfig
from tests.golden.cases import Case
from tests.golden.checks_tokenizers import NOT_THE_TOKENIZER, vqgan_from
from vtok.priors.masking import (
    SCHEDULES,
    Division,
    divide,
    draft_partition,
    keep_best,
    length_probabilities,
    masked_count,
    revise_partition,
)
from vtok.priors.mebt import MebtPrior
from vtok.sampling.parallel import draft, everywhere, revise, sample_masked


def _prior(case: Case) -> MebtPrior:
    options, mask = case.config["transformer"], case.config["mask"]
    config = MebtConfig(
        n_layer=options["n_layer"],
        n_head=options["n_head"],
        n_embd=options["n_embd"],
        latents=options["sos_emb"],
        mode=tuple(options["mode"]),
        schedule=mask["schedule"],
        t_range=tuple(mask["t_range"]),
        budget=mask["budget"],
        t_prior=options["t_prior"],
        avg_loss=float(options["avg_loss"]),
        label_smoothing=options.get("label_smoothing") or 0.0,
    )
    shape: tuple[int, int, int] = tuple(mask["shape"])
    prior = MebtPrior(config, options["first_stage_vocab_size"], shape).eval()
    state = case.state(drop=("first_stage_model.",))
    state["pos_emb"] = state["pos_emb"][:, : prior.pos_emb.shape[1]]
    prior.load_state_dict(state)
    return prior


def _reconstructions(case: Case, prior: MebtPrior, codes_bn: torch.Tensor, cuts: list[tuple[int, int]]) -> None:
    order = case.input("indices")
    with torch.no_grad():
        for number, (seen, predicted) in enumerate(cuts):
            logits = prior.logits(codes_bn, order[:, :seen], order[:, order.shape[1] - predicted :])
            case.expect(f"recon_logits{number}", logits, case.tolerance("logits"))


def _cuts(case: Case) -> list[tuple[int, int]]:
    """(contexts, targets) of the reconstructions, as the case's own words give them."""
    cuts = []
    for name in case.outputs("recon_logits"):
        words = case.meta["tensors"][f"out/{name}"]["meaning"]
        seen = words.split("context=indices[:, :")[1].split("]")[0]
        predicted = words.split("target=indices[:, -")[1].split(":")[0]
        cuts.append((int(seen), int(predicted)))
    return cuts


def check_mebt_plain(case: Case) -> None:
    _reconstructions(case, _prior(case), case.input("codes"), _cuts(case))


def check_mebt(case: Case) -> None:
    near, exact, loss = (case.tolerance(k) for k in ("logits", "tokens_indices", "loss"))
    tokenizer = vqgan_from(case.config["first_stage"], case.state("first_stage_model.", drop=NOT_THE_TOKENIZER))
    codes_bthw = tokenizer.encode(case.input("video"))
    codes_bn = codes_bthw.flatten(1)
    case.expect("codes", codes_bn, exact)
    prior = _prior(case)
    _reconstructions(case, prior, codes_bn, _cuts(case))
    order, shape = case.input("indices"), prior.grid
    schedule = case.config["mask"]["schedule"]

    def look(kind: str, number: int, division: Division) -> None:
        with torch.no_grad():
            logits = prior.logits(codes_bn, division.contexts_bn, division.targets_bn)
            output = prior(codes_bthw, division)
        case.expect(f"{kind}_logits{number}", logits, near)
        case.expect(f"{kind}_loss{number}", output.loss, loss)
        if kind == "eval":
            case.expect(f"eval_targets{number}", codes_bn.gather(1, division.targets_bn), exact)
            case.expect(f"eval_acc1_{number}", output.acc1.reshape(1), loss)
            case.expect(f"eval_acc5_{number}", output.acc5.reshape(1), loss)
            ratio = (division.length - division.contexts_bn.shape[1]) / division.length
            case.expect(f"eval_ratio{number}", torch.tensor(ratio), loss)

    for number in range(len(case.outputs("eval_loss"))):
        words = case.meta["tensors"][f"out/eval_loss{number}"]["meaning"]
        t = float(words.split("t=")[1].split(":")[0].split(",")[0])
        look("eval", number, divide(order, shape, schedule=schedule, t=t, parity=True))
    for number, draws in enumerate(case.config["train_draws"]):
        division = divide(
            order,
            shape,
            schedule=schedule,
            t=draws["t"],
            first_frame=draws["start"],
            frames=draws["T"],
            budget=case.config["mask"]["budget"],
            parity=True,
        )
        assert (division.length, division.masked / division.length) == (draws["seq_len"], draws["ratio"])
        case.expect(f"train_context{number}", division.contexts_bn, exact)
        case.expect(f"train_target_idx{number}", division.targets_bn, exact)
        look("train", number, division)
    _check_decoding(case, prior, codes_bn, exact)
    groups = prior.optim_groups(case.meta["optimizer_groups"][0]["weight_decay"])
    names = {id(p): name for name, p in prior.named_parameters()}
    found = [(g["weight_decay"], sorted(names[id(p)] for p in g["params"])) for g in groups]
    assert found == [(g["weight_decay"], sorted(g["names"])) for g in case.meta["optimizer_groups"]]


def _check_decoding(case: Case, prior: MebtPrior, codes_bn: torch.Tensor, exact: float) -> None:
    options = case.config["decode"]
    batch, places = codes_bn.shape
    whole, none = everywhere(batch, places), torch.zeros(batch, 0, dtype=torch.long)
    blank = torch.zeros_like(codes_bn)
    maskgit: dict[str, Any] = {"steps": options["maskgit_steps"], "schedule": options["schedule"]}
    drawn = sample_masked(prior.logits, blank, none, whole, **maskgit)
    case.expect("maskgit_tokens", drawn.codes_bn, exact)
    case.expect("maskgit_context_order", drawn.order_bn, exact)
    half = places // 2
    given = torch.where(whole < half, codes_bn, 0)
    extended = sample_masked(prior.logits, given, whole[:, :half], whole[:, half:], **maskgit)
    case.expect("maskgit_extend_tokens", extended.codes_bn, exact)
    orders = case.input("dr_perms")
    first = draft(prior.logits, blank, none, whole, orders[0], steps=options["n_draft"])
    case.expect("draft_tokens", first, exact)
    assert len(orders) == 1 + options["M"]
    revised = revise(prior.logits, first, none, whole, orders[1:], steps=options["n_revise"])
    case.expect("draft_and_revise_tokens", revised, exact)


def check_masks(case: Case) -> None:
    exact, near = case.tolerance("indices"), 0.0
    t = case.input("t")
    for name in case.outputs("schedule_"):
        case.expect(name, SCHEDULES[name.removeprefix("schedule_")](t), near, 1e-6)
    for name in case.outputs("nmask_"):
        schedule, total = name.removeprefix("nmask_").rsplit("_", 1)
        counts = [masked_count(schedule, value, int(total)) for value in t]  # type: ignore[arg-type]
        case.expect(name, torch.tensor(counts), exact)
    for name in case.outputs("prior_"):
        wanted = case.reference(name)
        rows = [
            length_probabilities(name.removeprefix("prior_"), wanted.shape[1], step)  # type: ignore[arg-type]
            for step in case.config["t_prior_steps"]
        ]
        case.expect(name, torch.stack(rows), near, 1e-6)
    for name in [key for key in case.config if key.startswith("gibbs")]:
        contexts, targets = case.input(f"{name}_context"), case.input(f"{name}_target")
        steps = case.config[name]["n_steps"]
        for kind, partition in (("draft", draft_partition), ("revise", revise_partition)):
            orders = case.input(f"{name}_{kind}_perms")
            for number, (seen, predicted) in enumerate(partition(contexts, targets, orders, steps)):
                case.expect(f"{name}_{kind}_context{number}", seen, exact)
                case.expect(f"{name}_{kind}_target{number}", predicted, exact)
    for name in [key for key in case.config if key.startswith("next")]:
        options = case.config[name]
        contexts, targets = case.input(f"{name}_context"), case.input(f"{name}_target")
        masked = options["n_masked_toks"]
        if masked is None:
            masked = masked_count(options["schedule"], options["t"], contexts.shape[1] + targets.shape[1])
        seen, left = keep_best(contexts, targets, case.input(f"{name}_score"), masked)
        case.expect(f"{name}_context", seen, exact)
        case.expect(f"{name}_target", left, exact)
