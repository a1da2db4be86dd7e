"""Checks of tats/vqgan_*, tats/vqgan_loss_*, videogpt/vqvae_* and both systems' codebook_*."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from schemas.config.tokenizer import DiscriminatorConfig, LossConfig, TokenizerConfig
from tests.golden.cases import Case
from vtok.convert import tats, videogpt
from vtok.convert.models import Models
from vtok.convert.settings import Settings
from vtok.tokenizers import losses
from vtok.tokenizers.codebook import Codebook
from vtok.tokenizers.discriminators import Discriminators
from vtok.tokenizers.load import build_tokenizer
from vtok.tokenizers.vqgan import VQGAN
from vtok.tokenizers.vqvae import VQVAE

NOT_THE_TOKENIZER = ("image_discriminator.", "video_discriminator.", "perceptual_model.")


def vqgan_from(config: dict[str, Any], state: dict[str, Tensor]) -> VQGAN:
    """Our VQGAN with the original's options and weights, as the import makes it, in eval mode."""
    model = _imported(tats.vqgan(state, Settings({}, config, "")))
    assert isinstance(model, VQGAN)
    return model


def _imported(models: Models) -> nn.Module:
    found = models.tokenizers["tokenizer"]
    model = build_tokenizer(found.config)
    model.load_state_dict(found.tensors)
    return model.eval()


def check_vqgan(case: Case) -> None:
    model = vqgan_from(case.config, case.state(drop=NOT_THE_TOKENIZER))
    video_bcthw = case.input("x")
    near, exact, loss = (case.tolerance(k) for k in ("encoder_z_decode_x_recon", "encodings", "losses"))
    with torch.no_grad():
        case.expect("encoder", model.encoder(video_bcthw), near)
        case.expect("z", model.latents(video_bcthw), near)
        case.expect("encodings", model.encode(video_bcthw), exact)
        case.expect("embeddings", model.quantize(video_bcthw).embeddings_bcthw, near)
        case.expect("decode", model.decode(case.reference("encodings")), near)
        output = model(video_bcthw)
    case.expect("x_recon", output.recon_bcthw, near)
    case.expect("recon_loss", case.config["l1_weight"] * losses.l1(output.recon_bcthw, video_bcthw), loss)
    case.expect("commitment_loss", output.commitment_loss, loss)
    case.expect("perplexity", output.perplexity, loss)
    assert torch.equal(output.codes_bthw, case.reference("encodings"))
    sizes = video_bcthw.shape[2:]
    assert model.grid(*sizes) == tuple(case.reference("encodings").shape[1:])


def vqvae_from(config: dict[str, Any], state: dict[str, Tensor]) -> VQVAE:
    """Our VQ-VAE with the original's options and weights, as the import makes it, in eval mode."""
    model = _imported(videogpt.vqvae(state, Settings({}, config, "")))
    assert isinstance(model, VQVAE)
    return model


def check_vqvae(case: Case) -> None:
    state = case.state()
    model = vqvae_from(case.config, state)
    assert set(model.state_dict()) - set(state) == {"codebook.initialized"}
    video_bcthw = case.input("x")
    near, exact, loss = (case.tolerance(k) for k in ("activations", "codes_tokens", "loss"))
    with torch.no_grad():
        case.expect("encoder", model.encoder(video_bcthw), near)
        case.expect("z", model.latents(video_bcthw), near)
        case.expect("encodings", model.encode(video_bcthw), exact)
        case.expect("embeddings", model.quantize(video_bcthw).embeddings_bcthw, near)
        case.expect("decode", model.decode(case.reference("encodings")), near)
        output = model(video_bcthw)
        case.expect("x_recon", output.recon_bcthw, near)
        if case.has("res_out"):
            block = model.encoder.get_submodule("res_stack.0")
            case.expect("res_out", block(case.input("res_in")), near)
            case.expect("axial_out", block.get_submodule("block.8")(case.input("res_in")), near)
    assert torch.equal(output.codes_bthw, case.reference("encodings"))
    weights = TokenizerConfig.model_validate({"model": {"kind": "vqvae"}}).loss
    frame_index_b = torch.zeros(len(video_bcthw), dtype=torch.int64)
    total, scalars = losses.generator_loss(video_bcthw, output, frame_index_b, None, weights, factor=0.0)
    for name in ("recon_loss", "commitment_loss", "perplexity"):
        case.expect(name, scalars[name], loss)
    torch.testing.assert_close(
        total, case.reference("recon_loss") + case.reference("commitment_loss"), rtol=loss, atol=0
    )
    grid = model.grid(*video_bcthw.shape[2:])
    assert grid == tuple(case.reference("encodings").shape[1:])
    sequence, resolution = case.config["sequence_length"], case.config["resolution"]
    assert model.grid(sequence, resolution, resolution) == tuple(case.config["latent_shape"])


def _models(case: Case) -> tuple[VQGAN, Discriminators]:
    config = case.config
    discriminators = Discriminators(
        DiscriminatorConfig(
            channels=config["disc_channels"], layers=config["disc_layers"], loss=config["disc_loss_type"]
        ),
        config["image_channels"],
    )
    state = case.state()
    discriminators.load_state_dict({k: v for k, v in state.items() if k.startswith(NOT_THE_TOKENIZER[:2])})
    return vqgan_from(config, case.state(drop=NOT_THE_TOKENIZER)).train(), discriminators.train()


def _expect_gradients(case: Case, phase: str, module: nn.Module) -> None:
    tolerance = case.tolerance("grads")
    gradients = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in module.named_parameters()}
    names = case.meta["grad_names"][phase]
    assert sorted(names) == sorted(gradients)
    norms = torch.stack([gradients[name].norm() for name in names])
    # The bias before a batch norm has gradient 0: what is there is rounding noise of the size of the others.
    noise = 1e-6 * case.reference(f"{phase}_grad_norms").max().item()
    wanted = case.reference(f"{phase}_grad_norms")
    worst = ((norms - wanted).abs() - tolerance * wanted).max().item()
    assert worst <= noise, f"{case.id} {phase}: a gradient norm is off by {worst:.3g}"
    case.expect(f"{phase}_grad_norms", norms, tolerance, noise)
    for name in case.outputs(f"{phase}_grad/"):
        case.expect(name, gradients[name.split("/", 1)[1]], tolerance, noise)


def _expect_buffers(case: Case, phase: str, *modules: nn.Module) -> None:
    buffers = {name: tensor for module in modules for name, tensor in module.named_buffers()}
    for name in case.outputs(f"{phase}_after/"):
        case.expect(name, buffers[name.split("/", 1)[1]], case.tolerance("running_stats"))


def check_vqgan_loss(case: Case) -> None:
    config = case.config
    assert config["perceptual_weight"] == 0, "the stub of the perceptual model has no weights to check against"
    loss_config = LossConfig(
        l1_weight=config["l1_weight"],
        image_gan_weight=config["image_gan_weight"],
        video_gan_weight=config["video_gan_weight"],
        gan_feature_weight=config["gan_feat_weight"],
        discriminator_start=config["discriminator_iter_start"],
    )
    factor = losses.discriminator_factor(loss_config, config["global_step"])
    video_bcthw, frame_index_b = case.input("x"), case.input("frame_idx")
    near, exact = case.tolerance("logits_features"), case.tolerance("losses")

    model, discriminators = _models(case)
    discriminators.requires_grad_(False)
    output = model(video_bcthw)
    total, scalars = losses.generator_loss(
        video_bcthw, output, frame_index_b, discriminators, loss_config, factor=factor, always_run=True
    )
    total.backward()
    case.expect("opt0_total", total, exact)
    for name in ("recon_loss", "aeloss", "gan_feat_loss", "commitment_loss", "perplexity"):
        case.expect(f"opt0_{name}", scalars[name], exact)
    case.expect("opt0_x_recon", output.recon_bcthw, near)
    _expect_gradients(case, "opt0", model)
    _expect_buffers(case, "opt0", model, discriminators)

    model, discriminators = _models(case)
    output = model(video_bcthw)
    loss, _ = losses.discriminator_loss(
        video_bcthw, output.recon_bcthw, frame_index_b, discriminators, loss_config, factor=factor, always_run=True
    )
    loss.backward()
    case.expect("opt1_discloss", loss, exact)
    _expect_gradients(case, "opt1", discriminators)
    _expect_buffers(case, "opt1", model, discriminators)
    assert all(p.grad is None for p in model.parameters())

    frames_bchw = losses.pick_frames(video_bcthw, frame_index_b)
    for mode in ("eval", "train"):
        _, discriminators = _models(case)
        discriminators.train(mode == "train")
        inputs = {"image": frames_bchw, "video": video_bcthw}
        for kind, x in inputs.items():
            with torch.no_grad():
                logits, features = getattr(discriminators, f"{kind}_discriminator")(x)
            case.expect(f"disc_{mode}_{kind}_logits", logits, near)
            for name in case.outputs(f"disc_{mode}_{kind}_feat"):
                case.expect(name, features[int(name.rsplit("feat", 1)[1])], near)


class RecordedDraws:
    """The permutations and the noise that the original drew, in order."""

    def __init__(self, permutations: list[Tensor], noises: list[Tensor]) -> None:
        self._permutations = permutations
        self._noises = noises

    def permutation(self, n: int) -> Tensor:
        order = self._permutations.pop(0)
        assert order.shape == (n,)
        return order

    def normal(self, rows: int, dim: int) -> Tensor:
        noise = self._noises.pop(0)
        assert noise.shape == (rows, dim)
        return noise


def _codebook(case: Case) -> Codebook:
    config = case.config
    codebook = Codebook(
        config["n_codes"],
        config["embedding_dim"],
        random_restart=not config.get("no_random_restart", False),
        restart_threshold=config.get("restart_thres", 1.0),
    )
    codebook.load_state_dict(case.state())
    codebook.train()
    return codebook


def _draws(case: Case, *suffixes: str) -> RecordedDraws:
    """Recorded numbers with these suffixes, e.g. perm_init and tile_noise_init; those of unused draws stay unused."""
    names = case.tensors
    return RecordedDraws(
        [case.input(f"perm{s}") for s in suffixes if f"in/perm{s}" in names],
        [case.input(f"tile_noise{s}") for s in suffixes if f"in/tile_noise{s}" in names],
    )


def check_codebook_ema(case: Case) -> None:
    codebook = _codebook(case)
    exact, state, loss = (case.tolerance(k) for k in ("encodings", "state_after", "losses"))
    for step in range(sum(name.startswith("in/z") for name in case.tensors)):
        if f"in/k_rand{step}" in case.tensors:
            rows_nc = case.input(f"z{step}").flatten(2).transpose(1, 2).flatten(0, 1)
            offered = codebook._candidates(rows_nc, _draws(case, str(step)))
            assert torch.equal(offered, case.input(f"k_rand{step}"))
        output = codebook(case.input(f"z{step}"), _draws(case, str(step)))
        case.expect(f"encodings{step}", output.codes_bthw, exact)
        case.expect(f"embeddings{step}", output.embeddings_bcthw, state)
        case.expect(f"commitment_loss{step}", output.commitment_loss, loss)
        case.expect(f"perplexity{step}", output.perplexity, loss)
        for name in ("N", "z_avg", "embeddings"):
            case.expect(f"{name}_after{step}", getattr(codebook, name), state)
        if case.has(f"restarted{step}"):
            case.expect(f"restarted{step}", codebook.N.lt(codebook.restart_threshold), exact)


def check_codebook_init(case: Case) -> None:
    z_bcthw = case.input("z")
    codebook = _codebook(case)
    codebook.initialized.fill_(not case.config["need_init"])
    rows_nc = z_bcthw.flatten(2).transpose(1, 2).flatten(0, 1)
    codebook._initialise(rows_nc, _draws(case, "_init"))
    assert codebook.initialized
    one_ulp = 2**-23
    for name in ("embeddings", "N", "z_avg"):
        case.expect(f"{name}_init", getattr(codebook, name), one_ulp)
    vectors_kc = codebook.embeddings.clone()

    codebook = _codebook(case)
    codebook.initialized.fill_(False)
    output = codebook(z_bcthw, _draws(case, "_init", "_restart"))
    results = {
        "encodings": output.codes_bthw,
        "commitment_loss": output.commitment_loss,
        "perplexity": output.perplexity,
        **{f"{name}_after": getattr(codebook, name) for name in ("N", "z_avg", "embeddings")},
    }
    same_codes = torch.equal(output.codes_bthw, case.reference("encodings"))
    distances = [
        (rows_nc - vectors_kc[codes.flatten()]).square().sum(1)
        for codes in (results["encodings"], case.reference("encodings"))
    ]
    # Another code is no error where its vector is as near, up to rounding.
    torch.testing.assert_close(*distances, rtol=0, atol=1e-5 * float(rows_nc.square().sum(1).max()))
    for name, value in results.items():
        if not case.is_strict(name) and not same_codes:
            case.waive(name)
            continue
        kind = "losses" if name in ("commitment_loss", "perplexity") else "state_after"
        # Losses of near-identical rows are differences of almost equal numbers.
        absolute = 0.0 if case.is_strict(name) else 1e-9
        case.expect(name, value, case.tolerance(kind), absolute)
