"""From answers to light: against galaxies that are known."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.nddata import NDData
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from astrodeblend.flags import Flag
from astrodeblend.light import combine, of_stamps, outlined, regained
from astrodeblend.scaling import Flux, Picture
from astrodeblend.stamps import cut_stamp


def gaussian(x, y, flux, *, shape=(48, 56), sigma=2.5):
    rows, columns = np.indices(shape)
    square = (columns - x) ** 2 + (rows - y) ** 2
    return flux / (2 * np.pi * sigma**2) * np.exp(-square / (2 * sigma**2))


class TestRegained:
    def test_nothing_is_missing(self):
        light = np.stack([gaussian(20, 25, 900), gaussian(30, 20, 100)])
        np.testing.assert_allclose(regained(light, light, 1.0), 1, rtol=1e-6)

    @pytest.mark.parametrize("part", [0.8, 1.25])
    def test_a_flux_that_is_off_comes_back(self, part):
        """Nearly all of it where the light is brighter than the noise."""
        light = gaussian(28, 24, 1e5)
        found = part * light * regained(light, part * light, 1.0)
        assert found.sum() == pytest.approx(light.sum(), rel=0.02)
        faint = gaussian(28, 24, 30)  # 0.8 of the noise at its peak
        found = part * faint * regained(faint, part * faint, 1.0)
        assert abs(found.sum() - faint.sum()) < 0.7 * abs(part - 1) * faint.sum()

    def test_the_noise_does_not_come_with_it(self):
        light = gaussian(28, 24, 1e5)
        noise = np.random.default_rng(1).standard_normal(light.shape)
        error = light * regained(light + noise, light, 1.0) - light
        bright = light > 20
        assert error[bright].std() < 0.35
        smoothed = gaussian_filter(noise, 2.0)[bright].std()
        assert error[bright].std() > smoothed  # in two steps: it is the data all the same

    def test_light_that_nobody_claims_stays_where_it_is(self):
        light = gaussian(15, 24, 500) + gaussian(40, 24, 500)
        found = gaussian(15, 24, 500)
        np.testing.assert_allclose(
            found * regained(light, found, 1.0), found, atol=0.01 * found.max()
        )

    def test_units_do_not_matter(self):
        rng = np.random.default_rng(2)
        light = rng.normal(size=(3, 20, 20)) + 5
        total = rng.uniform(0, 8, (3, 20, 20))
        noise = np.array([1.0, 2.0, 3.0])[:, None, None]
        expected = regained(light, total, noise)
        np.testing.assert_allclose(regained(7 * light, 7 * total, 7 * noise), expected, rtol=1e-5)

    def test_masked_pixels_say_nothing(self):
        light, total = gaussian(28, 24, 1e4), 0.9 * gaussian(28, 24, 1e4)
        valid = np.ones(light.shape, bool)
        valid[24, 26:30] = False
        spoilt = np.where(valid, light, 1e6)
        factor = regained(spoilt, total, 1.0, valid=valid)
        np.testing.assert_allclose(
            factor, regained(np.where(valid, light, 0), total, 1.0, valid=valid)
        )
        assert (factor * total).sum() == pytest.approx(light.sum(), rel=0.02)

    @given(st.integers(0, 2**32 - 1), st.floats(0.1, 100))
    def test_always_finite_and_never_negative(self, seed, noise):
        rng = np.random.default_rng(seed)
        light, total = rng.normal(scale=100, size=(2, 2, 16, 17))
        factor = regained(light, total, noise, valid=rng.random((16, 17)) < 0.9)
        assert np.isfinite(factor).all()
        assert (factor >= 0).all()


PAIR = [(40.0, 44.0, 9000.0), (46.0, 41.0, 4000.0)]
SHAPE = (90, 96)
COLOURS = np.array([1.0, 0.5])[:, None, None]


def made(pair=PAIR, *, noise=1.0, adds=True, hidden=None, answers=lambda own, rest: (own, rest)):
    """Stamps of 40 pixels of galaxies that are known, and what a network says of them."""
    truths = [COLOURS * gaussian(*each, shape=SHAPE) for each in pair]
    data = np.sum(truths, axis=0) if adds else np.max(truths, axis=0)
    data = data + noise * np.random.default_rng(4).standard_normal(data.shape)
    sky = SimpleNamespace(
        level=np.zeros((2, 1, 1)),
        noise=np.ones((2, 1, 1)),
        hidden=np.zeros(data.shape, bool) if hidden is None else hidden,
    )
    scaling = Flux() if adds else Picture(255.0)
    image = NDData(np.where(sky.hidden, np.nan, data).astype(np.float32))
    stamps, found = [], []
    for k, (x, y, _) in enumerate(pair):
        place = Flux().on_grid(x, y, 40.0, 40, SHAPE)
        stamps.append(cut_stamp(image, sky, scaling, place[:2], width=40.0, pixels=40))
        part = (slice(None), *stamps[-1].slices)
        rest = [truth for j, truth in enumerate(truths) if j != k]
        rest = np.sum(rest, axis=0) if rest else np.zeros(data.shape)
        light = np.stack(answers(truths[k][part], rest[part])) / (1 if adds else 255)
        found.append(
            SimpleNamespace(
                light=light.astype(np.float32),
                std=np.full(light.shape, 0.01, np.float32),
                position=(x, y),
                flags=Flag(0),
                blend_score=np.nan,
            )
        )
    return truths, image, sky, scaling, stamps, found


def combined(*given, complete):
    """Return the light of all sources, from a network's answers on."""
    return combine(*given[:3], *of_stamps(*given, complete=complete))


def whole(component):
    light = np.zeros((2, *SHAPE))
    light[:, *component.box] = component.seen
    return light


class TestCombine:
    def test_the_truth_goes_through(self):
        truths, *given = made()
        found = combined(*given, complete=True)
        assert found.rest is None
        for component, truth, (x, y, flux) in zip(found.components, truths, PAIR, strict=True):
            assert component.position == (x, y)
            np.testing.assert_allclose(whole(component)[0].sum(), flux, rtol=0.02)
            near = truth > 0.1 * truth.max()
            np.testing.assert_allclose(whole(component)[near], truth[near], rtol=0.03, atol=1)
            assert not component.flags

    def test_the_image_is_shared_out_in_proportion(self):
        truths, image, sky, *rest = made()
        found = combined(image, sky, *rest, complete=True)
        shared = [whole(c) for c in found.apportioned(image.data, sky.noise)]
        claims = [whole(c) for c in found.components]
        both = (claims[0] > 1) & (claims[1] > 1)
        ratio = claims[0][both] / claims[1][both]
        np.testing.assert_allclose(shared[0][both] / shared[1][both], ratio, rtol=1e-4)
        np.testing.assert_allclose(truths[0][both] / truths[1][both], ratio, rtol=1e-3)
        np.testing.assert_allclose(sum(shared)[both], image.data[both], rtol=1e-4)
        # each has its part of the image's noise
        for component, claim in zip(found.apportioned(image.data, sky.noise), claims, strict=True):
            box = (slice(None), *component.box)
            part = (claim / np.maximum(sum(claims), 1e-9))[box]
            np.testing.assert_allclose(component.noise[both[box]], part[both[box]], rtol=1e-4)

    def test_negative_noise_of_a_picture_makes_no_flux(self):
        light = np.array([[2.0, -1.0, 1.0]])
        image = np.array([[3.0, -2.0, -1.0]])
        np.testing.assert_array_equal(Picture(255).claims(light, image), [[2.0, 1.0, 0.0]])
        np.testing.assert_array_equal(Flux().claims(light, image), [[2.0, 1.0, 1.0]])

    @pytest.mark.parametrize("adds", [True, False])
    def test_what_is_no_sources_is_unclaimed(self, adds):
        """Only the first is asked for: the second is the rest, and has its share."""
        truths, image, sky, scaling, stamps, answers = made(adds=adds, noise=0.1)
        found = combined(image, sky, scaling, stamps[:1], answers[:1], complete=False)
        assert len(found.components) == 1
        peak = np.unravel_index(np.argmax(truths[1][0]), SHAPE)
        assert found.unclaimed[0][peak] == pytest.approx(truths[1][0].max(), rel=0.1)
        assert not found.unclaimed[:, 10:20].any()
        (shared,) = found.apportioned(image.data, sky.noise)
        np.testing.assert_allclose(whole(shared)[0].sum(), 9000, rtol=0.08)
        rest = outlined(found.rest, scaling)
        assert rest.position == pytest.approx(PAIR[1][:2], abs=1)
        np.testing.assert_allclose(whole(rest)[0].sum(), 4000, rtol=0.06)

    def test_light_that_is_missing_comes_back_where_it_adds(self):
        dim = made(answers=lambda own, rest: (0.7 * own, 0.7 * rest))
        for component, (_, _, flux) in zip(
            combined(*dim[1:], complete=True).components, PAIR, strict=True
        ):
            np.testing.assert_allclose(component.seen[0].sum(), flux, rtol=0.04)
            assert not component.flags & Flag.FLUX_NOT_CONSERVED

    @pytest.mark.parametrize("part", [0.6, 1.5])
    def test_light_that_components_do_not_make_up_is_flagged(self, part):
        found = made(adds=False, answers=lambda own, rest: (part * own, rest))
        flags = [c.flags for c in combined(*found[1:], complete=True).components]
        assert all(bool(f & Flag.FLUX_NOT_CONSERVED) == (part < 1) for f in flags)

    def test_an_answer_that_is_no_number_spoils_one_source(self):
        _, *given = made()
        expected = combined(*given, complete=True).components[1]
        given[-1][0].light[0, 0, 3, 4] = np.nan
        failed, other = combined(*given, complete=True).components
        assert failed.flags & Flag.NOT_DEBLENDED
        assert failed.flags & Flag.EMPTY
        assert not failed.light.any()
        near = expected.light[0] > 50
        assert np.isfinite(other.light).all()
        assert not other.flags & Flag.NOT_DEBLENDED
        assert near.any()

    def test_a_footprint_is_where_light_stands_out(self):
        _, *given = made([(40.0, 44.0, 9000.0)])
        (component,) = combined(*given, complete=True).components
        footprint = np.zeros(SHAPE, bool)
        footprint[component.box] = component.footprint
        rows, columns = np.indices(SHAPE)
        radius = np.hypot(columns - 40, rows - 44)
        assert footprint[radius < 6].all()
        assert not footprint[radius > 19].any()
        # a spot beside the position is not its own
        spot = made([(40.0, 44.0, 100.0)], answers=lambda own, rest: (np.roll(own, 16, 2), rest))
        (component,) = combined(*spot[1:], complete=True).components
        assert not component.footprint.any()

    def test_two_peaks_are_flagged(self):
        far = [(40.0, 44.0, 9000.0), (52.0, 44.0, 7000.0)]
        undivided = made(far, answers=lambda own, rest: (own + rest, 0 * rest))
        found = combined(*undivided[1:], complete=True)
        parted = combined(*made(far)[1:], complete=True)
        assert all(c.flags & Flag.SEVERAL_PEAKS for c in found.components)
        for component, (x, y, _) in zip(found.components, far, strict=True):
            assert component.peak == pytest.approx((x, y), abs=0.3)  # its own of the two
        assert not any(c.flags & Flag.SEVERAL_PEAKS for c in parted.components)

    def test_what_is_hidden_is_nowhere(self):
        hidden = np.zeros((2, *SHAPE), bool)
        hidden[1, 30:60, 25:60] = True
        component = combined(*made(hidden=hidden)[1:], complete=True).components[0]
        assert component.hidden[1].all()  # more than half of the stamp's middle
        assert not component.seen[1].any()
        np.testing.assert_allclose(component.seen[0].sum(), 9000, rtol=0.02)
