from __future__ import annotations

import math

import pytest
import torch

from schemas.config.tokenizer import DiscriminatorConfig, LossConfig, VqganConfig
from vtok.tokenizers import losses
from vtok.tokenizers.autoencoder import Reconstruction
from vtok.tokenizers.discriminators import Discriminators
from vtok.tokenizers.vqgan import VQGAN

FRAMES = torch.tensor([0, 3])


def _video(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) - 0.5


def _output(recon: torch.Tensor) -> Reconstruction:
    return Reconstruction(recon, torch.tensor(0.5), torch.tensor(3.0), torch.zeros(2, 1, 1, 1, dtype=torch.int64))


def _discriminators(loss: str = "hinge") -> Discriminators:
    return Discriminators(DiscriminatorConfig(channels=2, layers=2, loss=loss), 3)


def test_sizes_and_maps_of_the_paper() -> None:
    with torch.device("meta"):
        models = Discriminators(DiscriminatorConfig(), 3)
        image_logits, image_maps = models.image_discriminator(torch.empty(1, 3, 128, 128))
        _, video_maps = models.video_discriminator(torch.empty(1, 3, 16, 128, 128))
    sizes = [sum(p.numel() for p in m.parameters()) for m in (models.image_discriminator, models.video_discriminator)]
    assert sizes == [pytest.approx(2.77e6, rel=2e-3), pytest.approx(11.06e6, rel=2e-3)]
    assert image_logits is image_maps[-1]
    assert [m.shape[-1] for m in image_maps] == [65, 33, 17, 18, 19]
    assert [m.shape[2] for m in video_maps] == [9, 5, 3, 4, 5]
    assert [m.shape[1] for m in image_maps] == [64, 128, 256, 512, 1]


def test_adversarial_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])
    assert float(losses.hinge_d_loss(real, fake)) == pytest.approx(0.5 * (0.5 + 1.0))
    vanilla = 0.25 * sum(math.log1p(math.exp(v)) for v in (-2.0, 0.0, -2.0, 1.0))
    assert float(losses.vanilla_d_loss(real, fake)) == pytest.approx(vanilla)
    assert float(losses.generator_adversarial(fake)) == pytest.approx(0.5)


def test_feature_matching_leaves_out_the_logits() -> None:
    fake = [torch.zeros(3, requires_grad=True), torch.full((2,), 2.0), torch.full((1,), 100.0)]
    real = [torch.ones(3, requires_grad=True), torch.zeros(2), torch.zeros(1)]
    loss = losses.feature_matching(fake, real)
    assert loss.item() == 3.0
    loss.backward()
    assert fake[0].grad is not None
    assert real[0].grad is None


def test_frames_are_picked_per_clip() -> None:
    video = _video()
    frames = losses.pick_frames(video, FRAMES)
    assert torch.equal(frames[0], video[0, :, 0])
    assert torch.equal(frames[1], video[1, :, 3])


def test_the_start_counts_batches() -> None:
    config = LossConfig(discriminator_start=2)
    assert [losses.discriminator_factor(config, i) for i in range(4)] == [0.0, 0.0, 1.0, 1.0]


def test_the_adversarial_losses_grow_after_the_start() -> None:
    config = LossConfig(discriminator_start=2, discriminator_warmup=3)
    assert [losses.adversarial_factor(config, i) for i in range(7)] == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert losses.discriminator_factor(config, 2) == 1.0
    at_once = LossConfig(discriminator_start=2)
    assert [losses.adversarial_factor(at_once, i) for i in range(4)] == [0.0, 0.0, 1.0, 1.0]


def test_the_adaptive_weight_by_hand() -> None:
    layer = torch.tensor([1.0, 2.0], requires_grad=True)
    recon, adversarial = (layer * torch.tensor([3.0, 4.0])).sum(), -0.5 * layer[0]
    weight = losses.adaptive_weight(recon, adversarial, layer)
    assert float(weight) == pytest.approx(5.0 / (0.5 + 1e-4))
    assert not weight.requires_grad and layer.grad is None
    assert float(losses.adaptive_weight(recon, 0.0 * adversarial, layer)) == 1e4
    (recon + weight * adversarial).backward()  # the graph is still there
    torch.testing.assert_close(layer.grad, torch.tensor([3.0 - 0.5 * float(weight), 4.0]))


def test_the_adaptive_weight_scales_the_adversarial_loss_alone() -> None:
    scalars = {}
    for balance in ("fixed", "adaptive"):
        model = VQGAN(VqganConfig(embedding_dim=4, n_codes=16, n_hiddens=2, downsample=(2, 4, 4))).train()
        output = model(_video(), torch.Generator().manual_seed(0))
        last = {"last_layer": model.decoder.conv_last.conv.weight}
        config = LossConfig(gan_balance=balance)
        _, scalars[balance] = losses.generator_loss(
            _video(), output, FRAMES, _discriminators(), config, factor=0.5, **last
        )
    fixed, adaptive = scalars["fixed"], scalars["adaptive"]
    weight = float(adaptive["gan_lambda"])
    assert fixed["gan_lambda"] == 1 and weight not in (0.0, 1.0)
    assert float(adaptive["aeloss"]) == pytest.approx(weight * float(fixed["aeloss"]), rel=1e-5)
    assert adaptive["gan_feat_loss"] == fixed["gan_feat_loss"]
    with pytest.raises(ValueError, match="last layer"):
        losses.generator_loss(
            _video(), output, FRAMES, _discriminators(), LossConfig(gan_balance="adaptive"), factor=1.0
        )


def test_before_the_start_the_discriminators_do_not_matter() -> None:
    video, recon = _video(), _video(1).requires_grad_()
    models = _discriminators().train()
    before = {name: value.clone() for name, value in models.state_dict().items()}
    total, scalars = losses.generator_loss(video, _output(recon), FRAMES, models, LossConfig(), factor=0.0)
    assert total.item() == pytest.approx(4 * (video - recon).abs().mean().item() + 0.5)
    assert scalars["aeloss"] == scalars["gan_feat_loss"] == 0
    loss, _ = losses.discriminator_loss(video, recon, FRAMES, models, LossConfig(), factor=0.0)
    assert float(loss) == 0
    assert not loss.requires_grad
    for name, value in models.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    "weights", [{}, {"image_gan_weight": 0.0}, {"video_gan_weight": 0.0}, {"gan_feature_weight": 0.0}]
)
def test_passes_that_are_left_out_do_not_change_losses(weights: dict[str, float]) -> None:
    config = LossConfig(**weights)
    found = []
    for always_run in (False, True):
        video, recon = _video(), _video(1).requires_grad_()
        models = _discriminators().train()
        total, _ = losses.generator_loss(
            video, _output(recon), FRAMES, models, config, factor=1.0, always_run=always_run
        )
        total.backward()
        loss, _ = losses.discriminator_loss(video, recon, FRAMES, models, config, factor=1.0, always_run=always_run)
        found.append((total.detach(), loss.detach(), recon.grad))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_frozen_discriminators_still_pass_gradients() -> None:
    video, recon = _video(), _video(1).requires_grad_()
    models = _discriminators().requires_grad_(False)
    config = LossConfig(l1_weight=0.0)
    total, _ = losses.generator_loss(video, _output(recon), FRAMES, models, config, factor=1.0)
    total.backward()
    assert recon.grad is not None
    assert recon.grad.abs().sum() > 0
    assert all(p.grad is None for p in models.parameters())


def test_the_discriminators_loss_stays_out_of_the_generator() -> None:
    model = VQGAN(VqganConfig(embedding_dim=4, n_codes=16, n_hiddens=2, downsample=(2, 4, 4))).train()
    output = model(_video(), torch.Generator().manual_seed(0))
    models = _discriminators("vanilla")
    loss, scalars = losses.discriminator_loss(
        _video(), output.recon_bcthw, FRAMES, models, LossConfig(video_gan_weight=0.5), factor=1.0
    )
    loss.backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in models.parameters())
    assert loss.item() == pytest.approx((scalars["d_image_loss"] + 0.5 * scalars["d_video_loss"]).item())


def test_the_perceptual_loss_needs_its_network() -> None:
    with pytest.raises(ValueError, match="LPIPS"):
        losses.generator_loss(
            _video(), _output(_video()), FRAMES, _discriminators(), LossConfig(perceptual_weight=1.0), factor=0.0
        )
