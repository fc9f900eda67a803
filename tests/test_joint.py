"""Sources that were asked for one by one agree with the image: against analytic cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from astrodeblend.joint import ask_in_turn, recentred, regained


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


class TestInTurn:
    def test_moving_there_and_back(self):
        rng = np.random.default_rng(1)
        images = rng.standard_normal((3, 2, 9, 12)).astype(np.float32)
        shifts = np.array([[0, 0], [3, -2], [-4, 1]])
        moved = recentred(images, shifts)
        for image, new, (x, y) in zip(images, moved, shifts, strict=True):
            padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
            np.testing.assert_array_equal(new, np.roll(padded, (y, x), (1, 2))[:, 4:-4, 4:-4])
        back = recentred(moved, -shifts)
        known = back != 0
        np.testing.assert_array_equal(back[known], images[known])
        assert known[0].all()

    def test_three_sources_each_in_the_middle(self):
        """A network that keeps what is near the middle, and a fifth too little of it.

        With what the sum lacks of the image given back it is right.
        """
        positions = np.array([[[12.0, 30.2], [40.0, 10.0], [44.4, 39.0]]])
        shape = (55, 57)
        truth = np.stack(
            [gaussian(*position, 1e5, shape=shape, sigma=1.5) for position in positions[0]]
        )[None, :, None].repeat(2, axis=2)
        asked = []

        def answer(stamps):
            asked.append(stamps)
            y, x = np.indices(shape)
            near = 0.8 * stamps * (np.hypot(x - 28, y - 27) < 9)
            return np.stack([near, stamps - near], axis=1), np.ones((3, 2, 2, *shape))

        blend = truth.sum(axis=1)
        components, std = ask_in_turn(answer, blend, positions)
        assert components.shape == std.shape == (1, 3, 2, *shape)
        assert len(asked) == 1
        brightest = asked[0][:, :, 27, 28] / asked[0].max(axis=(2, 3))
        assert (brightest > 0.9).all()
        flux, true = (each.sum(axis=(-2, -1)) for each in (components, truth))
        np.testing.assert_allclose(flux, 0.8 * true, rtol=1e-3)
        components *= regained(blend, components.sum(axis=1), 1.0)[:, None]
        np.testing.assert_allclose(components.sum(axis=(-2, -1)), true, rtol=0.02)
