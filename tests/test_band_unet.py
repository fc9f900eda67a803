"""The network for linear flux: bands are a set, and light is what was measured."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astrodeblend.networks import build, describe

SHAPE = {"band_widths": [4, 8], "widths": [8, 8], "attention": 1}


def network(**changes):
    """Return a small network all of whose weights matter."""
    torch.manual_seed(1)
    module = build("band_unet", **{**SHAPE, **changes})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.1)
    return module.eval()


@pytest.fixture(scope="module")
def small():
    return network()


def blends(n, bands, height, width, seed=1):
    """Sources over noise of deviation 1."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    light = torch.exp(-((y - height / 2) ** 2 + (x - width / 2) ** 2) / 20)
    level = 50 * torch.rand(n, bands, 1, 1, generator=rng)
    return level * light + torch.randn(n, bands, height, width, generator=rng)


@torch.no_grad()
@given(
    st.integers(1, 6).flatmap(lambda b: st.permutations(range(b))),
    st.integers(16, 45),
    st.integers(16, 45),
)
@settings(max_examples=20, deadline=None)
def test_another_order_of_bands_is_the_same_order_of_components(order, height, width):
    module = network()
    blend = blends(2, len(order), height, width)
    components, std = module(blend)
    assert components.shape == std.shape == (2, 2, len(order), height, width)
    for one, other in zip(module(blend[:, order]), (components, std), strict=True):
        torch.testing.assert_close(one, other[:, :, order], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_blend_comes_out_the_same_whatever_else_is_in_the_batch(small):
    blend = blends(4, 3, 32, 32)
    together = small(blend)
    for k in range(4):
        for one, all_ in zip(small(blend[k : k + 1]), together, strict=True):
            torch.testing.assert_close(one[0], all_[k], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_band_says_something_about_the_others(small):
    """Adding a band adds information: what is in it reaches the others' components."""
    blend = blends(1, 3, 32, 32)
    changed = blend.clone()
    changed[:, 2] *= 3
    difference = (small(blend)[0] - small(changed)[0]).abs()
    assert difference[:, :, :2].max() > 1e-3


@torch.no_grad()
def test_an_untrained_network_gives_half_of_the_light_to_each():
    torch.manual_seed(1)
    module = build("band_unet", **SHAPE)
    blend = blends(1, 2, 32, 32)
    components, std = module(blend)
    faint = torch.log1p(torch.exp(torch.tensor(-3.0)))
    total = torch.sinh((torch.asinh(blend.clamp(min=0)) + faint) / 2)
    torch.testing.assert_close(components[:, 0], total / 2, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(components[:, 0], components[:, 1])
    assert (std > 0).all()


@torch.no_grad()
def test_light_is_neither_negative_nor_endless(small):
    blend = blends(1, 2, 32, 32)
    blend[:, 0, 3, 4] = -1e6
    blend[:, 1, 5, 6] = 1e6
    for part in small(blend):
        assert torch.isfinite(part).all()
        assert (part >= 0).all()


def test_errors_do_not_teach_the_components(small):
    """The gradient of the deviations reaches their own layers alone."""
    module = network()
    _, std = module(blends(1, 2, 32, 32))
    std.sum().backward()
    moved = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved
    assert all(name.startswith("log_std") for name in moved)


def test_it_is_built_again_from_what_describes_it(small):
    again = build(**describe(small))
    assert [p.shape for p in again.parameters()] == [p.shape for p in small.parameters()]


@pytest.mark.parametrize("levels", [[4], [4, 8, 16, 32]])
def test_bands_have_to_meet(levels):
    with pytest.raises(ValueError, match="band_widths"):
        build("band_unet", **{**SHAPE, "band_widths": levels})
