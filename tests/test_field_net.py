"""The network for fields: any number of sources, wherever they are, and nothing from afar."""

import numpy as np
import pytest
import torch

from astrodeblend.networks import build, describe, find_centres, least_probability
from astrodeblend.networks.blocks import Attention, LocalAttention, draw_marks, draw_spots

SHAPE = {"band_widths": [4, 8], "widths": [8, 8], "attention": 1}


def network(**changes):
    """Return a small network all of whose weights matter."""
    torch.manual_seed(1)
    module = build("field", **{**SHAPE, **changes})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return module.eval()


@pytest.fixture(scope="module")
def small():
    return network()


def fields(n=1, bands=2, height=64, width=72, sources=5, seed=1):
    """Return sources over noise of deviation 1, where they are and how large."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.rand(n, sources, 2, generator=rng) * torch.tensor([width - 1, height - 1])
    size = 1.5 + 2 * torch.rand(n, sources, generator=rng)
    level = 5 + 30 * torch.rand(n, sources, bands, generator=rng)
    r2 = (x - at[..., 0, None, None]) ** 2 + (y - at[..., 1, None, None]) ** 2
    light = (-0.7 * r2 / size[..., None, None] ** 2).exp()[:, :, None] * level[..., None, None]
    return light.sum(dim=1) + torch.randn(n, bands, height, width, generator=rng), at, size


def same(one, other, tolerance=1e-4):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_shapes_and_description(small):
    blend, at, _ = fields(2, 3, 45, 61)
    heat, offset, size = small.find(blend)
    assert (heat.shape, offset.shape, size.shape) == (
        (2, 1, 45, 61),
        (2, 2, 45, 61),
        (2, 1, 45, 61),
    )
    light, std = small.split(blend, at)
    assert light.shape == std.shape == (2, 5, 3, 45, 61)
    assert (light >= 0).all()
    assert (std >= 0).all()
    assert describe(small) == {"kind": "field", **{k: tuple(v) if isinstance(v, list) else v
                                                   for k, v in SHAPE.items()}}  # fmt: skip
    both, std = small(blend)
    assert both.shape == std.shape == (2, 2, 3, 45, 61)
    same(both.sum(dim=1), small.look(blend).total)


@torch.no_grad()
def test_light_is_shared_out_once(small):
    """All sources and nobody together are the light that there is."""
    blend, at, size = fields()
    light, _ = small.split(blend, at, sizes=size)
    total = small.look(blend).total
    left = total - light.sum(dim=1)
    assert (left > -1e-4 * (1 + total)).all()
    twice, _ = small.split(blend, torch.cat([at, at], dim=1), sizes=torch.cat([size, size], dim=1))
    same(twice[:, :5], twice[:, 5:])


@torch.no_grad()
def test_another_order_of_sources_and_of_bands(small):
    blend, at, _ = fields(2, 3)
    light, std = small.split(blend, at)
    order, bands = torch.tensor([3, 0, 4, 1, 2]), [2, 0, 1]
    for one, other in zip(small.split(blend[:, bands], at[:, order]), (light, std), strict=True):
        same(one, other[:, order][:, :, bands])


@torch.no_grad()
def test_what_is_not_present_changes_nothing(small):
    blend, at, size = fields()
    present = torch.tensor([[True, False, True, True, False]])
    light, std = small.split(blend, at, present, sizes=size)
    fewer = small.split(blend, at[present][None], sizes=size[present][None])
    same(light[present][None], fewer[0])
    same(std[present][None], fewer[1])
    assert light[~present].abs().max() == 0


@torch.no_grad()
def test_a_source_far_away_changes_nothing(small):
    blend, at, size = fields(height=64, width=320, sources=1)
    at[0, 0] = torch.tensor([20.0, 30.0])
    near, _ = small.split(blend, at, sizes=size)
    more, sizes = torch.cat([at, torch.tensor([[[300.0, 30.0]]])], dim=1), size.repeat(1, 2)
    blend[..., 290:310] += 50
    both, _ = small.split(blend, more, sizes=sizes)
    same(near[:, 0, ..., :100], both[:, 0, ..., :100])
    blend[..., 30:34] += 50
    assert (small.split(blend, more, sizes=sizes)[0] - both)[:, 0, ..., :100].abs().max() > 1e-3


@torch.no_grad()
def test_neighbours_are_told_of_each_other(small):
    """Beyond the reach of their sizes nothing changes, within it the queries do."""
    blend, at, size = fields(height=64, width=200, sources=2)
    seen, present = small.look(blend), torch.ones(1, 2, dtype=torch.bool)
    size = torch.full_like(size, 3.0)

    def query(away):
        at[0] = torch.tensor([[40.0, 30.0], [40.0 + away, 30.0]])
        sources = small.sources(seen, at, present, size)
        return small._met(small.pixels(seen), sources).query[0]

    alone = query(100)
    assert (query(18.1) == alone).all()  # three times the sum of their sizes
    assert (query(17) - alone).abs().max() > 1e-6
    assert (query(4) - alone).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize(("dx", "dy"), [(8, 0), (0, 8), (24, 16)])
def test_shifts_by_the_coarsest_grid(small, dx, dy):
    blend, at, size = fields(height=200, width=200, sources=8)
    at = 80 + at / 5
    part = blend[..., dy : dy + 160, dx : dx + 160]
    whole, _ = small.split(blend[..., :160, :160], at, sizes=size)
    moved, _ = small.split(part, at - torch.tensor([dx, dy]), sizes=size)
    inner = slice(70, 90)
    same(whole[..., inner, inner],
         moved[..., 70 - dy : 90 - dy, 70 - dx : 90 - dx], 1e-3)  # fmt: skip


@torch.no_grad()
def test_blocks_with_a_margin_are_the_whole(small):
    blend, at, size = fields(height=64, width=360, sources=20)
    whole, std = small.split(blend, at, sizes=size)
    found = small.find(blend)
    start, end, margin = 120, 240, 96
    cut = slice(start - margin, end + margin)
    here = (at[..., 0] > cut.start) & (at[..., 0] < cut.stop)
    x0 = torch.tensor([float(cut.start), 0])
    light, std_of = small.split(blend[..., cut], at - x0, here, sizes=size)
    for one, other in ((light, whole), (std_of, std)):
        same(one[..., margin:-margin][here], other[..., start:end][here], 1e-3)
    for one, other in zip(small.find(blend[..., cut]), found, strict=True):
        same(one[..., margin:-margin], other[..., start:end], 1e-3)


@torch.no_grad()
def test_it_starts_as_disks():
    """Before training a source alone has what is above the faintest, and two have half each."""
    torch.manual_seed(1)
    module = build("field", **SHAPE).eval()
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    r = torch.hypot(x - 20.0, y - 32.0), torch.hypot(x - 44.0, y - 32.0)
    blend = sum(100 * torch.exp(-1.678 * each / 3) for each in r)[None, None]
    at = torch.tensor([[[20.0, 32.0], [44.0, 32.0]]])
    light, _ = module.split(blend, at, sizes=torch.full((1, 2), 3.0))
    same(light[0, 0], light[0, 1].flip(-1).roll(1, -1), 1e-2)
    share = light[0, 0, 0, 32] / light.sum(dim=1)[0, 0, 32]
    assert share[20] > 0.99
    assert share[44] < 0.01


@torch.no_grad()
def test_no_data_is_nothing_to_go_by(small):
    blend, at, size = fields()
    holes = torch.zeros_like(blend, dtype=torch.bool)
    holes[..., 20:24, 30:40] = True
    one = small.split(blend.masked_fill(holes, torch.nan), at, sizes=size)[0]
    other = small.split((100 * blend).where(holes, blend).masked_fill(holes, torch.nan), at,
                        sizes=size)[0]  # fmt: skip
    assert one.isfinite().all()
    same(one, other)


@torch.no_grad()
def test_psf_is_heard_where_it_is_stated(small):
    blend, at, _ = fields()
    unknown = small.split(blend, at)[0]
    same(small.split(blend, at, psf=torch.full((1, 2), torch.nan))[0], unknown)
    stated = small.split(blend, at, psf=torch.tensor([[3.0, torch.nan]]))[0]
    assert (stated - unknown).abs().max() > 1e-3
    other = small.split(blend, at, psf=torch.tensor([[5.0, torch.nan]]))[0]
    assert (stated - other).abs().max() > 1e-3


@torch.no_grad()
def test_none_and_many(small):
    blend, *_ = fields(height=96, width=96)
    light, _ = small.split(blend, torch.zeros(1, 0, 2))
    assert light.shape == (1, 0, 2, 96, 96)
    _, at, size = fields(height=96, width=96, sources=2000)
    seen = small.look(blend)
    windows = small.windows(seen, at, torch.ones(1, 2000, dtype=torch.bool), size)
    assert sum(len(source) for source, *_ in windows) == 2000
    assert all(part.isfinite().all() for *_, parts in windows for part in parts)


@torch.no_grad()
def test_the_error_of_a_flux_is_of_a_source_and_band(small):
    blend, at, size = fields(2, 3)

    def errors(bands, order):
        seen, there = small.look(blend[:, bands]), torch.ones(2, 5, dtype=torch.bool)
        found = small.windows(seen, at[:, order], there, size[:, order])
        flux_std = torch.zeros(10, 3)
        for source, _, parts in found:
            flux_std[source] = parts[2]
        return flux_std.view(2, 5, 3)

    one = errors([0, 1, 2], [0, 1, 2, 3, 4])
    assert (one > 0).all()
    same(errors([2, 0, 1], [3, 0, 4, 1, 2]), one[:, [3, 0, 4, 1, 2]][:, :, [2, 0, 1]])


@torch.no_grad()
def test_local_attention_is_attention_where_all_is_near():
    torch.manual_seed(1)
    local, wide = LocalAttention(64), Attention(64)
    torch.nn.init.normal_(local.project.weight, std=0.1)
    wide.load_state_dict(local.state_dict())
    x = torch.randn(2, 64, 5, 5)
    x = (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, keepdim=True, unbiased=False)
    same(local(x), wide(x), 1e-4)
    far = torch.randn(1, 64, 20, 27)
    one = local(far)
    changed = far.clone()
    changed[..., 0, :] += 3
    moved = (local(changed) - one).abs().amax(dim=(0, 1, 3))
    assert (moved[:5] > 0).all()
    assert (moved[5:] == 0).all()


def test_local_attention_has_gradients():
    layer = LocalAttention(32)
    torch.nn.init.normal_(layer.project.weight, std=0.1)
    x = torch.randn(2, 32, 3, 11, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad.isfinite().all()


def test_spots_are_those_of_marks():
    _, at, _ = fields(2, 1, sources=4)
    present = torch.tensor([[True, True, False, True], [True, False, True, True]])
    spots = draw_spots(at, present, (64, 72))
    _, two = draw_marks(torch.zeros(2, 1, 64, 72), at, present)
    same(spots, two.amax(dim=1, keepdim=True), 1e-3)


def test_centres_are_found_where_the_heat_is_highest():
    heat, offset, log_size = torch.full((2, 1, 32, 40), -9.0), torch.zeros(2, 2, 32, 40), None
    log_size = torch.full((2, 1, 32, 40), np.log(2.5))
    heat[0, 0, 10, 20], heat[0, 0, 10, 21], heat[0, 0, 30, 0] = 2.0, 1.0, 3.0
    offset[0, :, 10, 20] = torch.tensor([0.3, -0.2])
    (at, chance, size), (none, *_) = find_centres(heat, offset, log_size)
    same(at, torch.tensor([[0.0, 30.0], [20.3, 9.8]]))
    same(chance, torch.tensor([3.0, 2.0]).sigmoid())
    same(size, torch.tensor([2.5, 2.5]))
    assert len(none) == 0
    assert len(find_centres(heat, offset, log_size, least=0.9)[0][0]) == 1
    chance = find_centres(heat, offset, log_size, torch.tensor([2.0, -1.0]))[0][1]
    same(chance, torch.tensor([5.0, 3.0]).sigmoid())


def test_a_sample_is_as_pure_as_was_asked_for():
    rng = torch.Generator().manual_seed(2)
    chance = torch.rand(20000, generator=rng)
    true = torch.rand(20000, generator=rng) < chance
    for purity in (0.7, 0.85, 0.9, 0.97):
        least = least_probability(chance, purity)
        assert abs(true[chance >= least].float().mean() - purity) < 0.015
        # of uniform probabilities: the mean of those kept
        assert abs(least - (2 * purity - 1)) < 0.02
    assert least_probability(torch.tensor([0.9, 1.0, 0.3, 0.8]), 0.95) == pytest.approx(0.9)
    assert least_probability(torch.tensor([0.9, 1.0, 0.3, 0.8]), 0.89) == pytest.approx(0.8)
    # fewer than five sources: a quarter of a false one is expected at most
    assert least_probability(torch.tensor([0.76, 0.3]), 0.95) == pytest.approx(0.76)
    for none in ([0.74, 0.3], []):
        assert least_probability(torch.tensor(none), 0.95) == 1
    with pytest.raises(ValueError, match="purity=98"):
        least_probability(chance, 98)
