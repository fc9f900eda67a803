"""Fields of galaxies against GalSim, formulas and their own statement of what is in them."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from astrodeblend.simulate import (
    SURVEYS,
    FieldStream,
    Morphologies,
    cut_large_galaxies,
    draw_spirals,
    get_survey,
    linear_light,
    simulate_fields,
)
from astrodeblend.simulate.morphology import composite
from astrodeblend.simulate.populations import GALAXY, IMAGE, STAR
from astrodeblend.simulate.survey import draw_profile

SMALL = {"batch": 2, "seed": 1, "size": 96, "bands": 2}
PLAIN = {"large": 0, "bright": 0, "gaps": 0, "edges": 0}


def spiral(width, radius):
    """Return light in g, r, i of a spiral: a bulge, a disk and two arms."""
    y, x = np.mgrid[:width, :width] - (width - 1) / 2
    r = np.hypot(x, y / 0.7)
    arms = 1 + 0.8 * np.cos(2 * np.arctan2(y / 0.7, x) - r / radius)
    disk = np.exp(-r / radius) * arms
    bulge = 8 * np.exp(-r / (0.25 * radius))
    return np.stack([0.3 * bulge + 0.9 * disk, 0.7 * bulge + 1.2 * disk, bulge + 1.4 * disk])


def morphologies(width, radius):
    """Return a galaxy in two orientations, not quite in the middle of its maps."""
    light = spiral(width, radius)[2]
    maps = np.stack([light, light**2])
    maps = np.stack([maps, maps[:, ::-1].transpose(0, 2, 1)])
    maps = np.roll(maps, (2, -1), axis=(2, 3))
    maps /= maps.mean(axis=(2, 3), keepdims=True)
    spectra = np.array([[[0.4, 0.8, 1.0], [0.9, 1.0, 1.0]]] * 2)
    y, x = np.indices((width, width)) - (width - 1) / 2
    order = np.hypot(x, y).argsort(axis=None)
    curve = np.cumsum(maps[0].sum(axis=0).ravel()[order])
    half = np.hypot(x, y).ravel()[order][np.searchsorted(curve, curve[-1] / 2)]
    return Morphologies(
        maps.astype(np.float16), spectra, np.array([[0.4, 0.6]] * 2), np.full(2, half)
    )


@pytest.fixture(scope="module")
def images():
    return morphologies(96, 4)


@pytest.fixture(scope="module")
def large_images():
    return morphologies(288, 12)


def test_spirals_are_sharp_whole_and_in_the_middle():
    drawn, again = draw_spirals(12, 3), draw_spirals(13, 3)
    assert (drawn.maps == again.maps[:12]).all()
    np.testing.assert_allclose(drawn.maps.mean(axis=(2, 3), dtype=float), 1, rtol=1e-3)
    light = (drawn.maps * drawn.shares[..., None, None]).sum(axis=1)
    away = np.hypot(*(np.indices(light.shape[1:]) - 143.5))
    for galaxy, radius, centre in zip(light, drawn.radius, drawn.centres, strict=True):
        within = galaxy[away < radius].sum() / galaxy.sum()
        assert within == pytest.approx(0.5, abs=0.03)
        assert np.hypot(*centre) < 9
        assert galaxy[away > 140].sum() < 0.01 * galaxy.sum()
    # sharper than the PSF of SDSS (1.4 arcsec) lets pictures of such galaxies be
    blurred = [ndimage.gaussian_filter(galaxy, 1.5) for galaxy in light]
    changed = np.abs(light - blurred).sum(axis=(1, 2)) / light.sum(axis=(1, 2))
    assert np.median(changed) > 0.02


def plain_light(galsim, stream, draw, field):
    """Draw the noiseless field source by source with GalSim, on the whole field."""
    exact = galsim.GSParams(maxk_threshold=1e-6, folding_threshold=1e-4)
    seen, (ny, nx) = draw.seen, stream.size
    most = seen.present.shape[1]
    total = np.zeros((seen.fwhm.shape[1], ny, nx))
    scale = seen.scale[field]
    for s in np.flatnonzero(seen.present[field]):
        row = field * most + s
        source = seen.sources[[row]]
        x, y = seen.position[field, s]
        large = int(draw.large[row])
        if source.kind[0] == IMAGE:
            shown = stream.images[large]
            offset = stream.renderer._offsets(draw, np.array([row]))[0]
            x, y = (x, y) - offset
        for b in range(len(total)):
            psf, beta = stream.seen.profiles[seen.profile[field, b]]
            fwhm = seen.fwhm[field, b] * scale
            psf = galsim.Moffat(beta=beta, fwhm=fwhm, gsparams=exact) if psf == "moffat" else None
            flux = seen.fluxes[field, s, :, b] / seen.noise[field, b]
            share = 1.0
            if s == draw.star[field]:
                share -= draw.halo[field, b] + draw.spikes[field, b]
                total[b] += glare(draw, field, b, flux[0], (x, y), (ny, nx))
            middle = (nx - 1) / 2, (ny - 1) / 2
            profile = draw_profile(
                source, share * flux, shown if source.kind[0] == IMAGE else None
            ).shift(scale * (x - middle[0]), scale * (y - middle[1]))
            image = galsim.Convolve(profile, psf, gsparams=exact).drawImage(
                nx=nx, ny=ny, scale=scale
            )
            total[b] += image.array
    return total


def glare(draw, field, band, flux, position, shape):
    """Return halo and spikes by their formulas, a pixel's light from its middle."""
    y, x = np.indices(shape)
    x, y = x - position[0], y - position[1]
    core = draw.halo_radius[field]
    halo = draw.halo[field, band] / (2 * np.pi * core**2) / (1 + (x**2 + y**2) / core**2) ** 1.5
    turned = (x + 1j * y) * np.exp(-1j * draw.angle[field])
    length, width = draw.spike_length[field, band], draw.spike_width[field, band]

    def bar(along, across):
        height = np.exp(-np.abs(along) / length) / (2 * length)
        return height * np.exp(-((across / width) ** 2) / 2) / (math.sqrt(2 * np.pi) * width)

    spikes = bar(turned.real, turned.imag) + bar(turned.imag, turned.real)
    return flux * (halo + draw.spikes[field, band] / 2 * spikes)


class TestLight:
    @pytest.mark.parametrize(
        ("survey", "options"),
        [
            ("lsst", {"large": 1.0, "bright": 1.0}),
            ("hsc", {"psf": (2.0, 2.2)}),
            ("sdss", {"psf": (7.5, 8.0), "density": 10}),
        ],
    )
    def test_plain_and_fast_are_one(self, survey, options, images, large_images):
        galsim = pytest.importorskip("galsim")
        given = {"batch": 1, "seed": 6, "size": (80, 112), "bands": 2, "magnitudes": (-8, -3)}
        stream = FieldStream([survey], images, large_images, **given | options)
        draw = stream.draw(0)
        kinds = set(draw.seen.sources.kind[draw.seen.present.ravel()])
        assert kinds == {GALAXY, IMAGE, STAR}
        assert draw.large.any() == ("large" in options)
        fast = stream.light(draw).paint().numpy()
        plain = plain_light(galsim, stream, draw, 0)
        wrong = np.abs(fast[0] - plain)
        assert plain.max() > 20
        # also far from what is brightest; a stamp ends at 0.05 of the noise
        assert (wrong < 4e-3 * ndimage.maximum_filter(plain, size=(1, 9, 9)) + 0.1).all()

    def test_nuclei_of_real_galaxies(self, large_images):
        galsim = pytest.importorskip("galsim")
        given = {"batch": 1, "seed": 6, "size": 96, "bands": 1, "density": 0, "large": 1.0}
        stream = FieldStream(["lsst"], None, large_images, **given, edges=0, gaps=0, bright=0)
        for number in range(300):
            draw = stream.draw(number)
            at, share = draw.seen.position[0, 0], draw.seen.sources.share[0]
            if draw.large[0] and share[2] > 0.2 and (abs(at - 48) < 30).all():
                break
        assert share[2] > 0.2
        assert share.sum() == pytest.approx(1)
        fast = stream.light(draw).paint().numpy()[0]
        plain = plain_light(galsim, stream, draw, 0)
        y, x = np.indices(plain.shape[1:])
        near = np.hypot(x - at[0], y - at[1]) < 3
        assert plain[0, near].max() == plain.max()
        np.testing.assert_allclose(fast, plain, rtol=0.01, atol=0.1)

    def test_flux_is_conserved(self):
        stream = FieldStream(["lsst"], **SMALL, density=30, magnitudes=(-8, -4), **PLAIN)
        made = stream[0]
        for source, _, stamps in made.light.groups:
            flux = made.flux.view(-1, 2)[source]
            share = stamps.sum(dim=(2, 3)) / flux
            assert ((share > 0.9) & (share < 1.005)).all()
            assert share.median() > 0.98

    def test_painted_sources_sum_to_the_field(self, images):
        made = FieldStream(["hsc"], images, **SMALL, **PLAIN)[0]
        for field in range(2):
            alone = made.light.alone(field)
            assert alone.shape == made.light.shape[1:]
            assert torch.allclose(alone.sum(dim=0), made.light.paint()[field], atol=1e-3)
            assert (alone[~made.present[field]] == 0).all()
        chosen = torch.zeros(made.present.shape, dtype=bool)
        chosen[1, 2] = True
        only = made.light.paint(chosen)
        assert (only[0] == 0).all()
        assert torch.equal(only[1], made.light.alone(1, [2])[0])

    def test_positions_are_centroids(self):
        options = {"density": 30, "stars": 1.0, "magnitudes": (-8, -5)}
        made = FieldStream(["lsst"], **SMALL, **options, **PLAIN)[0]
        count = 0
        for source, corner, stamps in made.light.groups:
            light = stamps.sum(dim=1)
            grid = torch.arange(stamps.shape[-1])
            total = light.sum(dim=(1, 2))
            x = (light.sum(dim=1) * grid).sum(dim=1) / total + corner[:, 0]
            y = (light.sum(dim=2) * grid).sum(dim=1) / total + corner[:, 1]
            position = made.position.view(-1, 2)[source]
            assert (torch.stack([x, y], dim=1) - position).abs().max() < 0.05
            count += len(source)
        assert count >= 8

    def test_images_are_brightest_at_their_positions(self, images):
        options = {"density": 40, "stars": 0.0, "magnitudes": (-8, -5), "psf": (2.0, 2.5)}
        made = FieldStream(["hsc"], images, **SMALL, **options, **PLAIN)[0]
        real = made.present & (made.kind == IMAGE)
        count = 0
        for source, corner, stamps in made.light.groups:
            of = real.flatten()[source]
            light = stamps[of].sum(dim=1)
            peak = light.flatten(1).argmax(dim=1)
            peak = torch.stack([peak % light.shape[-1], peak // light.shape[-1]], dim=1)
            away = peak + corner[of] - made.position.view(-1, 2)[source[of]]
            assert (away.abs() < 1.2).all()
            count += int(of.sum())
        assert count >= 5

    def test_sizes_of_stars(self):
        options = {"stars": 1.0, "density": 60, "psf": None, "vary": 0.0}
        made = FieldStream(["lsst"], **SMALL, **options, **PLAIN)[0]
        # Moffat of exponent 3.5: half of the light is within 0.683 FWHM; the pixel adds a little
        core = 1 / (2 * math.sqrt(2 ** (1 / 3.5) - 1))
        half = core * math.sqrt(0.5 ** (-1 / 2.5) - 1)
        ratio = made.size / (half * made.psf.mean(dim=1, keepdim=True))
        assert 0.97 < ratio[made.present].median() < 1.05

    def test_the_noise_limit_of_a_star(self):
        options = {"stars": 1.0, "density": 60, "psf": None, "vary": 0.0, "magnitudes": (-1, 0)}
        made = FieldStream(["lsst"], **SMALL | {"size": 160}, **options, **PLAIN)[0]
        x, y = made.position.unbind(-1)
        middle = made.present & (x > 20) & (x < 139) & (y > 20) & (y < 139)
        survey = get_survey("lsst")
        for k, band in enumerate(made.draw.seen.band[0]):
            # the depth says what a point source has at 5 sigma
            limit = 10 ** (0.4 * (31.4 - survey.bands[band].point_depth)) / 5
            ratio = made.limit[0, middle[0], k] * made.noise[0, k] / limit
            assert ((ratio > 0.97) & (ratio < 1.1)).all()
            assert middle[0].sum() > 3


class TestImage:
    def test_it_is_light_sky_and_noise(self, images, large_images):
        options = {"large": 0.5, "bright": 0.5, "gaps": 0.7, "edges": 0.5, "size": 128}
        made = FieldStream(["lsst", "des"], images, large_images, **SMALL | {"batch": 8} | options)[
            2
        ]
        rest = (made.image - made.light.paint() - made.sky) / made.variance.sqrt()
        clear = ~(made.mask | made.saturated)
        assert 0.5 < clear.float().mean() < 1
        for k in range(8):
            noise = rest[k][clear[k]]
            assert 0.97 < noise.std() < 1.03
            assert noise.mean().abs() < 0.05
        assert (made.image[made.mask] == 0).all()
        assert made.sky.abs().max() <= 0.5
        assert made.sky.abs().max() > 0.1
        # clipped where it is not masked
        full = torch.as_tensor(made.draw.full, dtype=torch.float32).view(-1, 1, 1, 1)
        assert (made.image <= full.expand_as(made.image))[made.saturated].all()
        assert torch.isfinite(made.image).all()

    @pytest.mark.parametrize("correlated", [0.0, 1.0])
    def test_noise_is_white_or_not(self, correlated):
        options = {"density": 0, "residual": 0, "correlated": correlated, **PLAIN}
        made = FieldStream(["lsst"], **SMALL | {"size": 160}, **options)[0]
        noise = made.image
        assert 0.97 < noise.std() < 1.03
        beside = (noise[..., 1:] * noise[..., :-1]).mean(dim=(1, 2, 3))
        if correlated:
            # a Gaussian kernel of width s correlates neighbours by exp(-1 / 4 s^2), if s is large
            kernel = np.exp(-0.5 * (np.arange(-3, 4) / draw_kernel(made)[:, None]) ** 2)
            expected = (kernel[:, 1:] * kernel[:, :-1]).sum(axis=1) / (kernel**2).sum(axis=1)
            assert np.abs(beside.numpy() - expected).max() < 0.03
            assert (expected > 0.05).all()
        else:
            assert beside.abs().max() < 0.02

    def test_few_photons_are_counted(self):
        stream = FieldStream(
            ["hsc"], batch=4, seed=8, size=128, bands=2, density=60, counted=1.0, **PLAIN
        )
        fields = stream[0]
        sky = torch.tensor(fields.draw.counts, dtype=torch.float)[..., None, None]
        photons = fields.image * sky.sqrt() + sky
        assert (photons - photons.round()).abs().max() < 2e-2
        assert photons.min() > -2e-2
        off = (fields.image - fields.light.paint() - fields.sky) / fields.variance.sqrt()
        assert off.mean().abs() < 0.02
        assert abs(off.std() - 1) < 0.03

    def test_strong_sources_have_noise_of_their_own(self):
        options = {"density": 30, "magnitudes": (-8, -6), "residual": 0, **PLAIN}
        made = FieldStream(["sdss"], **SMALL | {"batch": 4}, **options)[0]
        bright = (made.variance > 1.5) & ~made.saturated
        rest = (made.image - made.light.paint())[bright]
        assert bright.sum() > 300
        assert 0.9 < (rest / made.variance[bright].sqrt()).std() < 1.1
        assert rest.std() > 1.2

    def test_masked_bands_may_differ(self):
        options = {**PLAIN, "gaps": 1.0, "density": 10}
        made = FieldStream(["lsst"], **SMALL | {"batch": 16}, **options)[0]
        share = made.mask.float().mean(dim=(2, 3))
        assert (share > 0).any(dim=1).float().mean() > 0.5
        assert (share < 0.6).all()
        assert (share[:, 0] != share[:, 1]).any()


def draw_kernel(made):
    return made.draw.kernel


class TestPopulation:
    def test_density_and_counts(self):
        options = {"density": 80, "magnitudes": (-6, 0), "slope": 0.4, "stars": 0, **PLAIN}
        stream = FieldStream(["lsst"], batch=30, seed=5, size=600, bands=1, **options)
        drawn = stream.draw(0).seen
        inside = drawn.present & ((drawn.position > -0.5) & (drawn.position < 599.5)).all(axis=2)
        expected = 80 * 30 * (600 * 0.2 / 60) ** 2
        assert abs(inside.sum() - expected) < 5 * math.sqrt(expected)
        depth = get_survey("lsst").reference.point_depth
        above = drawn.sources.magnitude[drawn.present.ravel()] - depth
        assert above.min() > -6
        assert above.max() < 0
        number = np.histogram(above, [-4, -3, -2, -1, 0])[0]
        slope = np.diff(np.log10(number))
        assert np.abs(slope - 0.4).max() < 0.06

    @pytest.mark.parametrize("density", [10, 60, 120])
    def test_a_third_has_a_close_neighbour(self, density):
        stream = FieldStream(["lsst"], batch=8, seed=5, size=600, bands=1, density=density, **PLAIN)
        drawn = stream.draw(0).seen
        near = []
        for position, present, fwhm in zip(
            drawn.position, drawn.present, drawn.fwhm.mean(axis=1), strict=True
        ):
            if density > 100 and fwhm > 5:
                continue  # more than a third by chance alone
            at = position[present]
            away = np.hypot(*(at[:, None] - at).T)
            np.fill_diagonal(away, np.inf)
            near += list(away.min(axis=0) < 2 * fwhm)
        assert len(near) > 200
        assert 0.29 < np.mean(near) < 0.38

    def test_large_galaxies_and_bright_stars(self, images, large_images):
        options = {"large": 1.0, "bright": 1.0, "size": 256, "density": 10, "batch": 6}
        stream = FieldStream(["lsst"], images, large_images, **SMALL | options)
        made = stream[0]
        large = made.draw.large.reshape(made.present.shape)
        assert large.any()
        assert (made.kind.numpy()[large] == IMAGE).all()
        sizes = made.size.numpy()
        asked = made.draw.seen.sources.radius[:, 0].reshape(large.shape) / 0.2
        seen = (asked > 8) & large
        assert np.abs(sizes[seen] / asked[seen] - 1).max() < 0.35
        row = np.arange(6)
        assert (made.kind.numpy()[row, made.draw.star] == STAR).all()
        assert (made.flux.numpy()[row, made.draw.star].max(axis=-1) > 1e4).all()
        assert made.saturated.any()
        assert (made.mask & made.saturated).any()
        assert (made.saturated & ~made.mask).any()

    def test_sources_beyond_the_edge_shine_in(self):
        made = FieldStream(["lsst"], **SMALL, density=120, magnitudes=(-8, -4), **PLAIN)[0]
        outside = made.present & ~made.inside
        assert outside.any()
        assert made.light.paint(outside).max() > 1
        assert torch.isfinite(made.snr).all()
        assert (made.snr[~made.present] == 0).all()

    def test_psfs(self):
        stream = FieldStream(["lsst", "sdss"], batch=200, seed=1, size=16, bands=3)
        draw = stream.draw(0)
        fwhm = draw.seen.fwhm
        assert fwhm.min() >= 2
        assert fwhm.max() <= 8
        assert fwhm.min() < 2.5
        assert fwhm.max() > 7
        assert (np.ptp(fwhm, axis=1) > 0).mean() > 0.95
        assert 0.6 < draw.stated.mean() < 0.75


class TestStream:
    @pytest.mark.parametrize("bands", [1, 6])
    def test_any_batch_at_any_time(self, bands, images):
        options = SMALL | {"bands": bands, "size": (48, 64)}
        streams = [FieldStream(["lsst"], images, **options) for _ in range(2)]
        _ = streams[0][0]
        first, again = (stream[3] for stream in streams)
        assert first.image.shape == (2, bands, 48, 64)
        for field in fields(first):
            value = getattr(first, field.name)
            if torch.is_tensor(value):
                assert torch.equal(value, getattr(again, field.name)), field.name
        assert not torch.equal(first.image, streams[0][4].image)
        other = FieldStream(["lsst"], images, **options | {"seed": 2})[3]
        assert not torch.equal(first.image, other.image)

    def test_numbers_of_bands_are_drawn(self):
        stream = FieldStream(["lsst", "hsc"], batch=2, seed=1, size=16, bands={1: 1, 6: 1})
        numbers = [stream.draw(k).seen.fwhm.shape[1] for k in range(20)]
        assert set(numbers) == {1, 6}

    @pytest.mark.parametrize("survey", sorted(SURVEYS))
    def test_every_preset_to_judge_by(self, survey):
        preset = get_survey(survey)
        made = simulate_fields(survey, 2, 1, size=64)
        assert made.unit == "nJy"
        assert isinstance(made.image, np.ndarray)
        assert made.image.shape == (2, len(preset.bands), 64, 64)
        noise = [band.sky_noise(preset.pixel_scale) for band in preset.bands]
        assert np.allclose(made.noise, noise)
        width = [band.psf_fwhm / preset.pixel_scale for band in preset.bands]
        assert np.allclose(made.psf, width)
        rest = made.image - made.light.paint() - made.sky
        clear = ~(made.mask | made.saturated)
        sigma = np.sqrt(made.variance)
        assert 0.95 < (rest[clear] / sigma[clear]).std() < 1.05
        assert np.allclose(made.flux, made.draw.seen.fluxes.sum(axis=2))
        same = FieldStream(
            [survey], batch=2, seed=1, size=64, density=60, psf=None, vary=0.0,
            bands=[band.name for band in preset.bands],
        )[0]  # fmt: skip
        assert np.allclose(made.snr, same.snr, rtol=1e-4)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"density": (20, 10)}, "density="),
            ({"density": -1}, "density="),
            ({"psf": (0.4, 3)}, "psf="),
            ({"wider": ()}, "wider="),
            ({"wider": (0.5, 1)}, "wider="),
            ({"magnitudes": (0, -1)}, "magnitudes="),
            ({"large": 1.5}, r"large=1\.5"),
            ({"close": -0.1}, "close="),
            ({"size": 8}, "size=8"),
            ({"bands": 7}, "bands=7"),
        ],
    )
    def test_refusals(self, options, words):
        with pytest.raises(ValueError, match=words):
            FieldStream(["lsst"], **SMALL | options)


class TestLargeGalaxies:
    @pytest.fixture
    def truth(self):
        return 3e-3 * spiral(424, 18)

    @pytest.fixture
    def picture(self, truth):
        rng = np.random.default_rng(1)
        flux = truth + 1e-4 + 2e-5 * rng.standard_normal(truth.shape)
        y, x = np.mgrid[:424, :424] - 211.5
        star = 3e-3 * np.exp(-((x - 150) ** 2 + (y + 60) ** 2) / 8)
        return (255 * composite(flux + star)).round().astype(np.uint8)

    def test_detail_stays_and_noise_goes(self, truth, picture):
        cut = cut_large_galaxies([picture])
        assert cut.maps.shape == (1, 2, 288, 288)
        found = np.einsum("c,cyx->yx", cut.shares[0], cut.maps[0].astype(float)) / 288**2
        true = truth[2, 68:-68, 68:-68]
        true = true / truth[2].sum()
        middle = slice(144 - 60, 144 + 60)
        wrong = np.abs(found - true)[middle, middle] / true.max()
        assert wrong.max() < 0.12  # a cusp is finer than the noise of compression lets it be
        wrong[55:65, 55:65] = 0
        assert wrong.max() < 0.03
        kept = found[middle, middle].ravel(), true[middle, middle].ravel()
        assert np.corrcoef(*kept)[0, 1] > 0.995
        # the light goes on beyond where it was seen, and falls
        y, x = np.mgrid[:288, :288] - 143.5
        r = np.hypot(x, y / 0.7).astype(int)
        profile = np.bincount(r.ravel(), found.ravel()) / np.bincount(r.ravel())
        outer = profile[90:130:8]
        assert (np.diff(outer) < 0).all()
        assert outer[-1] > 0
        # no noise where it is faint, and no neighbour
        ring = (r > 110) & (r < 130)
        raw = linear_light(picture / 255.0)[2, 68:-68, 68:-68]
        raw = raw / truth[2].sum()
        rough, smooth = (np.std((a - ndimage.gaussian_filter(a, 2))[ring]) for a in (raw, found))
        assert smooth < 0.05 * rough

    def test_blurred_pictures_are_left_out(self, picture):
        blurred = ndimage.gaussian_filter(picture.astype(float), (0, 3, 3)).astype(np.uint8)
        with pytest.raises(ValueError, match="no galaxy"):
            cut_large_galaxies([blurred])
        assert replace(cut_large_galaxies([picture]), radius=None).radius is None

    def test_refusals(self):
        with pytest.raises(ValueError, match="uint8"):
            cut_large_galaxies([np.zeros((3, 424, 424))])


def test_neighbours_are_alike_and_galaxies_grow():
    options = {"batch": 8, "seed": 1, "size": 128, "bands": 1, "psf": None, "large": 0, "bright": 0,
               "stars": 0, "density": 300}  # fmt: skip
    plain, grown, alike = (
        FieldStream(["lsst"], **options | more).draw(0).seen
        for more in ({}, {"growth": 4.0}, {"size": 384, "density": 60, "close": 0.5, "alike": 1.0})
    )
    number = plain.present.sum(axis=1), grown.present.sum(axis=1)
    sizes = [
        np.median(each.sources.radius[:, 1].reshape(each.present.shape), axis=1)
        for each in (plain, grown)
    ]
    factor = np.sqrt(number[0] / number[1])  # by the number: the area of a galaxy grows likewise
    some = factor > 1.5
    assert some.any()
    assert (factor < 1.2).any()
    np.testing.assert_allclose((sizes[1] / sizes[0])[some], factor[some], rtol=0.4)

    def differences(seen):
        """Return differences in magnitude of the nearest neighbours within 3 pixels."""
        found = []
        magnitude = seen.sources.magnitude.reshape(seen.present.shape)
        for place, there, bright in zip(seen.position, seen.present, magnitude, strict=True):
            place, bright = place[there], bright[there]
            away = np.hypot(*(place[:, None] - place).transpose(2, 0, 1))
            np.fill_diagonal(away, np.inf)
            close = away.min(axis=1) < 3
            found += list(np.abs(bright - bright[away.argmin(axis=1)])[close])
        return np.array(found)

    assert (differences(plain) < 2).mean() < 0.75
    assert (differences(alike) < 2).mean() > 0.9  # two at one host may differ by more


def test_bright_sources_lie_in_front_of_large_galaxies():
    options = {"batch": 12, "seed": 1, "size": 192, "bands": 1, "psf": None, "bright": 0,
               "large": 1, "density": 60, "gaps": 0, "edges": 0, "close": 0}  # fmt: skip
    plain, front = (FieldStream(["lsst"], **options, front=share)[0] for share in (0, 1))
    moved = (plain.position != front.position).any(dim=2)
    assert moved[:, -2].logical_not().all()  # the large galaxies stay
    assert moved.sum(dim=1).float().mean().item() == pytest.approx(3.5, abs=1.2)
    contrasts, aways, stars = [], [], 0
    for k, j in moved.nonzero().tolist():
        x, y = (front.position[k, j] + 0.5).floor().long().tolist()
        if not (5 <= x < 187 and 5 <= y < 187):
            continue
        large = int(front.present[k].nonzero()[-1])
        own, host = front.light.alone(k, [j, large])[:, 0, y, x]
        away = float((front.position[k, j] - front.position[k, large]).norm())
        aways.append(away / float(front.size[k, large]))
        contrasts.append(float(own / (host + 1)))
        stars += int(front.kind[k, j] == 1)
    contrasts = np.array(contrasts)
    assert len(contrasts) > 15
    assert 0.25 < stars / len(contrasts) < 0.75
    assert 0.7 < np.median(aways) < 3
    # of disks seen inclined and of resolved galaxies it is another than of round ones and stars
    assert (contrasts > 0.1).mean() > 0.7
    assert 0.2 < np.median(contrasts) < 8


def test_holes_are_in_the_middle_of_sources():
    options = {"batch": 6, "seed": 2, "size": 96, "bands": 2, "density": 200, **PLAIN}
    whole, holes = (FieldStream(["lsst"], **options, holes=share)[0] for share in (0, 1))
    assert not whole.mask.any()
    assert holes.mask.any(dim=(1, 2, 3)).float().mean() > 0.6  # of the others they lie outside
    assert (holes.mask[:, 0] == holes.mask[:, 1]).all()
    assert (holes.image[holes.mask] == 0).all()
    labels, number = ndimage.label(holes.mask[:, 0].any(dim=0).numpy())
    assert number > 6
    for mask, places in zip(holes.mask[:, 0].numpy(), holes.position.numpy(), strict=True):
        labels, number = ndimage.label(mask)
        for middle in ndimage.center_of_mass(mask, labels, range(1, number + 1)):
            assert np.hypot(*(places - middle[::-1]).T).min() < 3.5
        assert np.bincount(labels.ravel())[1:].max(initial=0) < 2 * np.pi * 4.5**2


def test_trails_and_uneven_sky_belong_to_no_source():
    options = {
        "batch": 6,
        "seed": 3,
        "size": 96,
        "bands": 3,
        "density": 60,
        "correlated": 0,
        **PLAIN,
    }
    for share in ("trails", "uneven"):
        fields = FieldStream(["lsst"], **options, residual=0, **{share: 1.0})[0]
        rest = (fields.image - fields.light.paint() - fields.sky) / fields.variance.sqrt()
        assert rest.mean().abs() < 0.02
        assert rest.std().item() == pytest.approx(1, abs=0.02)
        assert (fields.sky.std(dim=(2, 3)).amax(dim=1) > 0.02).all()
    sky = fields.sky.double()  # linear between nodes 32 pixels apart, alike in all bands
    assert np.diff(sky, n=2, axis=3)[..., 5:25].max() < 0.02 * sky.abs().max()
    flat = (sky - sky.mean(dim=(2, 3), keepdim=True)).flatten(2)
    assert np.corrcoef(flat[0])[0, 1:].min() > 0.99
    trail = FieldStream(["lsst"], **options, residual=0, trails=1.0)[0].sky[0].amax(dim=0)
    y, x = np.argwhere(trail.numpy() > 0.9 * float(trail.max())).T
    along = np.linalg.svd(np.stack([x - x.mean(), y - y.mean()]))[1]
    assert along[1] < 0.1 * along[0]  # straight


def test_light_runs_over_from_a_bright_star():
    options = {"batch": 4, "seed": 3, "size": 96, "bands": 1, "density": 10, **PLAIN, "bright": 1}
    plain, over = (FieldStream(["lsst"], **options, bleeds=share)[0] for share in (0, 1))
    more = (over.saturated & ~plain.saturated)[:, 0]
    assert more.any()
    for k, _, x in more.nonzero().tolist():
        star = int(over.draw.star[k])
        assert abs(float(over.position[k, star, 0]) - x) < 5
    full = over.image[over.saturated & ~over.mask]
    assert len(full) == 0 or full.unique().numel() <= 4  # each field's own level
