"""Network interpolation against hand computation and image interpolation; lineage; pairs that do not fit."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_export.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from esrgan_export.interpolate import blend_images, interpolate, relatedness
from esrgan_export.networks import MSRResNet, RRDBNet, SRResNet, SRVGGNetCompact

IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def checkpoint(network, name="net", kind="bare", parent=None, sha256=None):
    return Checkpoint(network.eval(), f"{name}.pth", sha256 or name, kind, parent)


def test_a_weight_by_hand(tiny_pair):
    """0.2 * 3 + 0.8 * 8 = 7: alpha is the share of the GAN, not of the PSNR network."""
    psnr, gan = tiny_pair
    with torch.no_grad():
        psnr.network.conv_hr.weight.fill_(3)
        gan.network.conv_hr.weight.fill_(8)
    mixed = interpolate(psnr, gan, 0.8)
    torch.testing.assert_close(mixed.conv_hr.weight, torch.full((8, 8, 3, 3), 7.0), rtol=1e-7, atol=0)


@given(alpha=st.floats(0, 1))
def test_theta_is_linear_in_every_tensor(alpha):
    psnr, gan = SRVGGNetCompact(4, 1, 2), SRVGGNetCompact(4, 1, 2)
    mixed = interpolate(checkpoint(psnr, "a"), checkpoint(gan, "b"), alpha).state_dict()
    for key, theta in mixed.items():
        a, b = (network.state_dict()[key].double().numpy() for network in (psnr, gan))
        np.testing.assert_allclose(theta.numpy(), (1 - alpha) * a + alpha * b, rtol=1e-5, atol=1e-7)
        assert theta.dtype == torch.float32


@pytest.mark.parametrize("alpha", [0, 1])
def test_the_ends_are_the_parents_bit_for_bit(tiny_pair, alpha):
    assert torch.equal(interpolate(*tiny_pair, alpha)(IMAGE), tiny_pair[alpha].network(IMAGE))
    assert not torch.equal(tiny_pair[0].network(IMAGE), tiny_pair[1].network(IMAGE))


def test_parents_stay_as_they_were(tiny_pair):
    before = [{key: tensor.clone() for key, tensor in c.network.state_dict().items()} for c in tiny_pair]
    mixed = interpolate(*tiny_pair, 0.5)
    with torch.no_grad():
        for parameter in mixed.parameters():
            parameter.zero_()
    for state, parent in zip(before, tiny_pair, strict=True):
        assert all(torch.equal(tensor, parent.network.state_dict()[key]) for key, tensor in state.items())
    assert not mixed.training
    assert not any(parameter.requires_grad for parameter in mixed.parameters())


def test_networks_that_differ_in_one_linear_layer_blend_like_pictures(tiny_pair):
    """The output is linear in conv_last, so there both ways of interpolating must agree."""
    psnr, gan = tiny_pair
    state = psnr.network.state_dict()
    gan.network.load_state_dict(
        {k: v if k.startswith("conv_last") else state[k] for k, v in gan.network.state_dict().items()}
    )
    blended = blend_images(psnr.network(IMAGE), gan.network(IMAGE), 0.3)
    torch.testing.assert_close(interpolate(psnr, gan, 0.3)(IMAGE), blended, rtol=1e-5, atol=1e-5)


def test_batch_normalisation_statistics_are_interpolated_and_counters_kept():
    psnr, gan = SRResNet(4, 1), SRResNet(4, 1)
    gan.bn_body.running_var.fill_(3.0)
    gan.bn_body.num_batches_tracked.fill_(7)
    state = interpolate(checkpoint(psnr, "a"), checkpoint(gan, "b"), 0.25).state_dict()
    assert torch.equal(state["bn_body.running_var"], torch.full((4,), 1.5))
    assert state["bn_body.num_batches_tracked"] == 7


@pytest.mark.parametrize("alpha", [1.5, -0.01, float("nan"), float("inf")])
def test_alpha_outside_of_0_to_1_is_refused(tiny_pair, alpha):
    with pytest.raises(OptionError, match=r"alpha .* is not in \[0, 1\]"):
        interpolate(*tiny_pair, alpha)
    with pytest.raises(OptionError, match="is not in"):
        blend_images(IMAGE, IMAGE, alpha)


def test_blend_of_arrays():
    mixed = blend_images(np.full((2, 2, 3), 0.5, np.float32), np.ones((2, 2, 3), np.float32), 0.8)
    np.testing.assert_allclose(mixed, 0.9, rtol=1e-6)
    assert mixed.dtype == np.float32
    with pytest.raises(OptionError, match="cannot be blended"):
        blend_images(np.ones((2, 2, 3)), np.ones((4, 4, 3)), 0.5)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (RRDBNet(8, 4, 1), "blocks is 2 and 1"),
        (RRDBNet(8, 4, 2, 8), "scale is 4 and 8"),
        (RRDBNet(8, 4, 2, block="dense"), "block is rrdb and dense"),
        (MSRResNet(8, 2), "name is RRDBNet and MSRResNet"),
    ],
)
def test_different_networks_are_refused(other, difference):
    pair = checkpoint(RRDBNet(8, 4, 2), "one"), checkpoint(other, "two")
    for refuse in (lambda: interpolate(*pair, 0.5), lambda: relatedness(*pair)):
        with pytest.raises(ModelError, match=rf"one.pth and two.pth are different networks: {difference}"):
            refuse()


@pytest.mark.parametrize(
    ("kinds", "fits"),
    [
        (("params", "params_ema"), False),
        (("params_ema", "params"), False),
        (("params", "params"), True),
        (("params_ema", "params_ema"), True),
        (("params_ema", "bare"), True),
        (("ncnn", "params"), True),
    ],
)
def test_averaged_weights_go_with_averaged_weights(tiny_pair, kinds, fits):
    pair = [dataclasses.replace(found, kind=kind) for found, kind in zip(tiny_pair, kinds, strict=True)]
    if fits:
        interpolate(*pair, 0.5)
    else:
        with pytest.raises(ModelError, match=rf"psnr.* holds {kinds[0]} and .*gan.* {kinds[1]}"):
            interpolate(*pair, 0.5)


@pytest.mark.parametrize(
    ("psnr_parent", "gan_parent", "lineage"),
    [
        (None, "p" * 64, "parent"),
        ("0" * 64, "p" * 64, "parent"),
        (None, None, "unknown"),
        ("0" * 64, None, "unknown"),
        ("0" * 64, "0" * 64, "siblings"),
        (None, "0" * 64, "contradicts"),
        ("1" * 64, "0" * 64, "contradicts"),
        ("g" * 64, None, "contradicts"),
    ],
)
def test_lineage(psnr_parent, gan_parent, lineage):
    psnr = checkpoint(SRVGGNetCompact(4, 1, 2), "psnr", parent=psnr_parent, sha256="p" * 64)
    gan = checkpoint(SRVGGNetCompact(4, 1, 2), "gan", parent=gan_parent, sha256="g" * 64)
    assert relatedness(psnr, gan).lineage == lineage
    if lineage == "contradicts":
        says = (
            "wrong way round; swap" if psnr_parent == "g" * 64 else "gan.pth was trained from a file with SHA-256 0000"
        )
        with pytest.raises(ModelError, match=says):
            interpolate(psnr, gan, 0.5)
    else:
        interpolate(psnr, gan, 0.5)


def test_lineage_survives_the_files(tmp_path, tiny_pair):
    psnr, gan = tiny_pair
    assert relatedness(psnr, gan).lineage == "parent"
    assert relatedness(psnr, psnr).lineage == "same"
    retrained = RRDBNet(8, 4, 2)
    save_checkpoint(retrained, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"give that file as the PSNR network"):
        interpolate(load_checkpoint(tmp_path / "other.safetensors"), gan, 0.5)


def test_similarity_is_the_median_cosine():
    psnr, gan = SRVGGNetCompact(4, 1, 2), SRVGGNetCompact(4, 1, 2)
    gan.load_state_dict(psnr.state_dict())
    first, middle, last = (gan.body[k].weight.data for k in (0, 2, 4))
    first.neg_()  # cosine -1
    last.mul_(5)  # cosine 1
    a, b = psnr.body[2].weight.data.flatten(), torch.randn(middle.numel())
    b -= a * (a @ b) / (a @ a)
    middle.copy_((0.6 * a / a.norm() + 0.8 * b / b.norm()).reshape(middle.shape))  # cosine 0.6
    assert relatedness(checkpoint(psnr, "a"), checkpoint(gan, "b")).similarity == pytest.approx(0.6, abs=1e-6)


def test_warning_only_for_strangers(tiny_pair):
    related = relatedness(*tiny_pair)
    assert related.similarity > 0.98
    assert related.warning is None
    strangers = relatedness(tiny_pair[0], checkpoint(RRDBNet(8, 4, 2), "stranger"))
    assert abs(strangers.similarity) < 0.2
    assert re.search(
        rf"psnr.safetensors and stranger.pth look unrelated: .* is {strangers.similarity:.2f} ", strangers.warning
    )


def picture_of(network):
    y, x = np.mgrid[0:24, 0:24]
    shades = 0.5 + 0.3 * np.stack([np.sin(x / 4.0), np.cos(y / 3.0), np.sin((x + y) / 5.0)])
    with torch.no_grad():
        return network(torch.from_numpy(shades.astype(np.float32))[None]).clamp(0, 1)


def with_features_in_another_order(network):
    """A network with the same function that shares no filter: 64 trunk and 32 growth features are renumbered."""
    trunk, growth = torch.randperm(64), torch.randperm(32)

    def order(features):
        if features < 64:
            return growth if features == 32 else torch.arange(features)
        return torch.cat([trunk, *(64 + 32 * k + growth for k in range((features - 64) // 32))])

    renumbered = RRDBNet(blocks=6)
    state = {key: tensor[order(len(tensor))] for key, tensor in network.state_dict().items()}
    renumbered.load_state_dict({k: t[:, order(t.shape[1])] if t.ndim == 4 else t for k, t in state.items()})
    return renumbered


def test_interpolating_real_strangers_is_dark_and_warned_of(anime):
    stranger = checkpoint(with_features_in_another_order(anime.network), "stranger")
    torch.testing.assert_close(picture_of(stranger.network), picture_of(anime.network), rtol=0, atol=1e-5)
    assert relatedness(anime, stranger).warning is not None
    mixed = picture_of(interpolate(anime, stranger, 0.5))
    assert mixed.mean() < 0.9 * picture_of(anime.network).mean()
