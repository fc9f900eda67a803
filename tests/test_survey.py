"""The survey simulator against analytic truth, GalSim and astropy."""

import math
import re
import sys
import textwrap
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy import integrate, special

from astrodeblend.cli import main
from astrodeblend.metrics import moments
from astrodeblend.simulate import (
    SURVEYS,
    Band,
    Morphologies,
    Survey,
    SurveyStream,
    cut_galaxies,
    draw_psfs,
    get_survey,
    simulate_blends,
)
from astrodeblend.simulate.fourier import FourierRenderer, transfer_function
from astrodeblend.simulate.morphology import SCALES, SOFTENING, composite, linear_light
from astrodeblend.simulate.populations import GALAXY, IMAGE, STAR, draw_sources, get_chances
from astrodeblend.simulate.survey import draw_profile
from astrodeblend.simulate.surveys import AB_NANOJANSKY

galsim = pytest.importorskip("galsim")

MINE = """
name: mine
pixel_scale: 0.25
bands:
  - {name: g, psf_fwhm: 1.0, depth: 25, zero_point: 27, exposure: 900, psf: gaussian}
  - {name: r, psf_fwhm: 0.8, depth: 24.5, zero_point: 27, exposure: 900, psf: kolmogorov}
  - {name: F150W, psf_fwhm: 0.9, depth: 24, zero_point: 26, exposure: 900, wavelength: 1500}
"""


def band(**values):
    known = {"psf_fwhm": 1.0, "depth": 25.0, "zero_point": 27.0, "exposure": 1000.0}
    return Band("r", **known | values)


def picture_of_a_galaxy(*, neighbour=False):
    """Return the picture of a bulge and a disk as SDSS shows them, and the flux in g, r, i."""
    y, x = np.mgrid[:424, :424] - 211.5
    radius = np.hypot(x, y / 0.6)
    bulge = np.exp(-radius / 5)
    disk = np.exp(-radius / 16)
    flux = np.stack([0.3 * bulge + 0.9 * disk, 0.7 * bulge + 1.2 * disk, bulge + 1.4 * disk])
    flux *= 1e-3
    total = flux.sum(axis=(1, 2))
    if neighbour:
        star = np.exp(-((x - 60) ** 2 + (y + 40) ** 2) / 40)
        flux = flux + 1e-2 * star * np.array([1, 0.5, 0.2])[:, None, None]
    rng = np.random.default_rng(1)
    flux = flux + 3e-5 + 1e-5 * rng.standard_normal(flux.shape)  # the sky
    return (255 * composite(flux)).round().astype(np.uint8), total


@pytest.fixture(scope="module")
def images():
    """Return four galaxies of pictures, of different orientation."""
    pictures = [np.rot90(picture_of_a_galaxy()[0], k, axes=(1, 2)) for k in (0, 1)]
    y, x = np.mgrid[:424, :424] - 211.5
    angle = np.arctan2(y, x) - np.hypot(x, y) / 30
    spiral = np.exp(-np.hypot(x, y) / 18) * (1 + 0.8 * np.cos(2 * angle))
    flux = 1e-3 * spiral * np.array([1, 0.8, 0.6])[:, None, None]
    flux = flux + 3e-5 + 1e-5 * np.random.default_rng(1).standard_normal(flux.shape)
    pictures += [(255 * composite(factor * flux)).astype(np.uint8) for factor in (1, 2)]
    return cut_galaxies(pictures)


@pytest.fixture(scope="module")
def blends(images):
    return simulate_blends("lsst", 12, sources={2: 1, 3: 1}, images=images, bands="gri", rng=4)


def star(magnitude=20.0):
    sources = draw_sources(np.random.default_rng(1), [magnitude], reference=756, stars=1.0)
    assert sources.kind[0] == STAR
    return sources


def disk(radius, ellipticity=0.0, angle=0.0):
    """Return a bare exponential disk of 20 mag."""
    source = draw_sources(np.random.default_rng(1), [20.0], reference=756, stars=0)
    return replace(
        source,
        share=np.array([[0.0, 1.0, 0.0]]),
        radius=np.array([[radius, radius]]),
        ellipticity=np.full((1, 2), ellipticity),
        angle=np.array([angle]),
    )


def render(source, fluxes, *, scale, psf, beta=3.5, fwhm=1.0, stamp=64, shift=(0, 0), **options):
    """Draw one source in one band by Fourier transform, and by GalSim."""
    renderer = FourierRenderer(stamp, [(psf, beta)], **options)
    position = np.array([[(stamp - 1) / 2 + s for s in shift]])
    transfer = renderer.transfer([[fwhm / scale]], [[0]])
    fast = renderer(source, fluxes[:, :, None], [scale], position, transfer)[0, 0].numpy()
    profile = {
        "moffat": lambda: galsim.Moffat(beta=beta, fwhm=fwhm),
        "gaussian": lambda: galsim.Gaussian(fwhm=fwhm),
        "kolmogorov": lambda: galsim.Kolmogorov(fwhm=fwhm),
    }[psf]()
    shape = draw_profile(source, fluxes[0], options.get("images")).shift(*np.array(shift) * scale)
    plain = galsim.Convolve(shape, profile).drawImage(nx=stamp, ny=stamp, scale=scale).array
    return fast, plain


class TestSurveys:
    @pytest.mark.parametrize("psf", ["moffat", "gaussian", "kolmogorov"])
    def test_depth_is_what_a_point_source_has(self, psf):
        one = band(psf=psf, depth_sigma=7.0)
        scale = 0.05  # fine pixels, so that they add nothing to the PSF
        flux = 10 ** (0.4 * (AB_NANOJANSKY - one.depth))
        image, _ = render(star(), np.array([[flux, 0, 0]]), scale=scale, psf=psf, stamp=240)
        # with the PSF as weights, S/N = sqrt(sum of (signal / noise)^2)
        assert np.sqrt((image**2).sum()) / one.sky_noise(scale) == pytest.approx(7, rel=0.01)

    def test_depth_in_an_aperture(self):
        one = band(depth_sigma=10, depth_aperture=2.0)
        scale = 0.2
        pixels = math.pi * 1.0**2 / scale**2
        noise = one.sky_noise(scale) * math.sqrt(pixels)
        assert 10 * noise == pytest.approx(10 ** (0.4 * (AB_NANOJANSKY - 25)))
        # a point source at the depth so restated has the same noise
        assert replace(
            one, depth=one.point_depth, depth_sigma=5, depth_aperture=None
        ).sky_noise(scale) == pytest.approx(one.sky_noise(scale))  # fmt: skip

    def test_noise_of_a_pixel_goes_with_its_width(self):
        assert band().sky_noise(0.4) == pytest.approx(2 * band().sky_noise(0.2))

    def test_electrons(self):
        assert band(zero_point=AB_NANOJANSKY, exposure=7).electrons == pytest.approx(7)

    @pytest.mark.parametrize("name", SURVEYS)
    def test_presets(self, name):
        survey = get_survey(name)
        assert survey.name == name
        # the sky that the depth implies: dark, and brighter to the red, as at any good site
        noise = np.array([b.sky_noise(survey.pixel_scale) * b.electrons for b in survey.bands])
        rate = noise**2 / [b.exposure for b in survey.bands] / survey.pixel_scale**2
        sky = np.array([b.zero_point for b in survey.bands]) - 2.5 * np.log10(rate)
        named = dict(zip("ugrizy", (22.4, 22.0, 21.1, 20.2, 19.1, 17.8), strict=True))
        expected = [named[b.name.lower()] for b in survey.bands]
        np.testing.assert_allclose(sky, expected, atol=0.85)

    def test_a_survey_of_ones_own(self, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text(MINE)
        bands = [
            Band("g", 1.0, 25, 27, 900, psf="gaussian"),
            Band("r", 0.8, 24.5, 27, 900, psf="kolmogorov"),
            Band("F150W", 0.9, 24, 26, 900, wavelength=1500),
        ]
        assert get_survey(path) == Survey("mine", 0.25, bands) == get_survey(str(path))
        blends = simulate_blends(path, 1, rng=1, stamp=32)
        assert blends.blend.shape == (1, 3, 32, 32)
        assert blends.survey.reference.name == "r"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("name: mine", "lacks bands, pixel_scale"),
            (MINE.replace("depth: 25", "deep: 25"), "no parameter deep and lacks depth"),
            (MINE.replace("depth: 25", "depth: dark"), "depth='dark' of band 'g'"),
            (MINE.replace("wavelength", "psf: moffat, beta: 0.5, wavelength"), "above 1"),
            (MINE.replace(", wavelength: 1500", ""), "'F150W' needs its wavelength"),
            (MINE.replace("gaussian", "square"), "psf='square'"),
            (MINE.replace("name: r", "name: g"), "each name once"),
            (MINE.replace("0.25", "0"), "pixel_scale=0"),
            (MINE.replace("psf_fwhm: 1.0", "psf_fwhm: -1"), "psf_fwhm=-1"),
            ("name: [", "is not YAML"),
            ("- 1", "give a mapping"),
            ("name: x\npixel_scale: 1\nbands: 3", "bands as a list"),
        ],
    )
    def test_bad_files(self, text, words, tmp_path):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises((ValueError, TypeError), match=words) as caught:
            get_survey(path)
        assert "bad.yaml" in str(caught.value)

    def test_unknown_names(self, tmp_path):
        with pytest.raises(ValueError, match="choose one of lsst, hsc, des, sdss"):
            get_survey("euclid")
        with pytest.raises(FileNotFoundError):
            get_survey(tmp_path / "none.yaml")
        with pytest.raises(ValueError, match="'hsc' has g, r, i, z, y, not u"):
            get_survey("hsc").select("ug")


class TestFourier:
    @pytest.mark.parametrize("beta", [2.5, 3.5, 4.765])
    def test_moffat(self, beta):
        core = 1 / (2 * math.sqrt(2 ** (1 / beta) - 1))

        def profile(r, k):
            return (beta - 1) / core**2 * 2 * r * (1 + (r / core) ** 2) ** -beta * special.j0(k * r)

        for k in (0.0, 0.5, 2.0, 6.0):
            expected, _ = integrate.quad(profile, 0, 200, args=(k,), limit=4000)
            assert transfer_function(k, "moffat", beta) == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("psf", ["gaussian", "kolmogorov"])
    def test_full_width_at_half_maximum(self, psf):
        def profile(r):
            def integrand(k):
                return k * transfer_function(k, psf, 0) * special.j0(k * r)

            return integrate.quad(integrand, 0, 60, limit=500)[0]

        assert profile(0.5) == pytest.approx(profile(0) / 2, rel=1e-3)

    def test_flux_and_moments_of_a_gaussian(self):
        """A star under a Gaussian PSF, in pixels: variance sigma^2 + 1/12 along each axis."""
        scale, fwhm = 0.2, 0.9
        flux = np.array([[1234.5, 0, 0]])
        for image in render(star(), flux, scale=scale, psf="gaussian", fwhm=fwhm, shift=(3.3, -2)):
            found = moments(image[None], np.ones(image.shape, bool))
            assert found.flux == pytest.approx(1234.5, rel=1e-4)
            np.testing.assert_allclose(found.centroid, [31.5 + 3.3, 31.5 - 2], atol=1e-3)
            x = np.arange(64)
            size = (image.sum(axis=0) * (x - 34.8) ** 2).sum() / image.sum()
            sigma = fwhm / scale / math.sqrt(8 * math.log(2))
            assert size == pytest.approx(sigma**2 + 1 / 12, rel=1e-3)

    @settings(max_examples=10, deadline=None)
    @given(st.floats(0, 0.6), st.floats(0, math.pi))
    def test_moments_of_a_disk(self, ellipticity, angle):
        """Variance 3 r^2 along the major axis; distortion (1 - q^2) / (1 + q^2) less the PSF's."""
        scale, radius, fwhm = 0.2, 0.5, 0.8
        source = disk(radius, ellipticity, angle)
        image, _ = render(
            source, np.array([[0, 1e4, 0]]), scale=scale, psf="gaussian", fwhm=fwhm, stamp=128
        )
        found = moments(image[None], np.ones(image.shape, bool))
        ratio = (1 - ellipticity) / (1 + ellipticity)
        major, minor = (3 * (r / scale) ** 2 for r in (radius, radius * ratio))
        psf = (fwhm / scale) ** 2 / (8 * math.log(2)) + 1 / 12
        expected = (major - minor) / (major + minor + 2 * psf) * np.exp(2j * angle)
        assert abs(found.distortion - expected) < 5e-3

    @pytest.mark.parametrize(
        ("scale", "psf", "fine"), [(0.2, "moffat", 1), (0.25, "kolmogorov", 1), (0.7, "moffat", 2)]
    )
    def test_plain_and_fast_are_one(self, scale, psf, fine, images):
        rng = np.random.default_rng(3)
        for kind, options in (
            (GALAXY, {"population": "parametric", "stars": 0}),
            (IMAGE, {"population": "images", "stars": 0, "images": images}),
            (STAR, {"stars": 1}),
        ):
            sources = draw_sources(rng, np.full(8, 22.0), reference=756, **options)
            assert (sources.kind == kind).all()
            sources = replace(
                sources, radius=np.full((8, 2), 0.6), symmetry=np.arange(8), angle=np.arange(8.0)
            )
            fluxes = sources.fluxes([600])[:, :, 0]
            for k in range(8):
                fast, plain = render(
                    sources[[k]], fluxes[[k]], scale=scale, psf=psf, fwhm=0.9,
                    shift=rng.uniform(-5, 5, 2), images=images, fine=fine,
                )  # fmt: skip
                assert np.abs(fast - plain).max() < 2e-3 * plain.max()

    def test_profiles_by_their_formulas(self):
        """The bulge's table against the integral of its profile."""
        renderer = FourierRenderer(16, [("gaussian", 0)])
        low, high, number = math.log(1e-3), math.log(1e4), len(renderer.bulge)
        for k in (0.01, 0.3, 2.0, 20.0):

            def integrand(t, k=k):  # r = t^4
                return 4 * t**7 * math.exp(-7.66924944 * t) * special.j0(k * t**4)

            expected = integrate.quad(integrand, 0, 6, limit=5000)[0]
            expected *= 7.66924944**8 / (4 * math.gamma(8))
            at = np.interp(math.log(k), np.linspace(low, high, number), renderer.bulge.numpy())
            assert at == pytest.approx(expected, abs=2e-4)


class TestPopulations:
    def test_magnitudes_are_those_of_the_reference(self, images):
        rng = np.random.default_rng(1)
        magnitude = rng.uniform(18, 25, 300)
        sources = draw_sources(rng, magnitude, reference=770, images=images)
        assert set(sources.kind) == {GALAXY, STAR, IMAGE}
        total = sources.fluxes([770.0])[:, :, 0].sum(axis=1)
        np.testing.assert_allclose(AB_NANOJANSKY - 2.5 * np.log10(total), magnitude)
        np.testing.assert_allclose(sources.share.sum(axis=1), 1)

    def test_sizes_and_shapes_are_as_published(self):
        rng = np.random.default_rng(2)
        sources = draw_sources(rng, np.full(20000, 23.0), reference=756, stars=0)
        assert np.median(sources.radius[:, 1]) == pytest.approx(math.exp(-1.145), rel=0.02)
        assert (sources.share[:, 0] == 1).mean() == pytest.approx(0.1, abs=0.01)
        # median of a gamma distribution of shape 3: 2.674 z0
        assert np.median(sources.redshift) == pytest.approx(2.674 * 0.2151, rel=0.02)
        e = sources.ellipticity[:, 1]
        x = np.linspace(1e-6, 0.804, 20001)
        density = x * (1 - np.exp((x - 0.804) / 0.2539)) / ((1 + x) * np.sqrt(x**2 + 0.0256**2))
        assert e.mean() == pytest.approx((x * density).sum() / density.sum(), abs=0.005)

    def test_spectra_are_those_of_the_templates(self):
        """Against the spectra as GalSim ships them, which are on a finer grid."""
        source = disk(1.0)
        wavelength = np.array([361.0, 475, 621, 753, 895, 980])
        for number, name in enumerate(("E", "Sbc", "Scd", "Im")):
            spectrum = np.zeros((1, 3, 5))
            spectrum[:, :, 0] = number
            galaxy = replace(source, spectrum=spectrum, redshift=np.array([0.5]))
            sed = galsim.SED(f"CWW_{name}_ext.sed", "Ang", "flambda").atRedshift(0.5)
            ours = np.log(galaxy.fluxes(wavelength)[0, 1])
            offsets = np.linspace(0.96, 1.04, 41)
            # photons per nm times wavelength: proportional to f_nu
            theirs = np.log([np.mean([sed(w * o) * w * o for o in offsets]) for w in wavelength])
            np.testing.assert_allclose(ours - ours[2], theirs - theirs[2], atol=0.08)

    def test_images_keep_their_colours(self, images):
        sources = draw_sources(
            np.random.default_rng(1), np.full(40, 22.0), reference=900, population="images",
            images=images, stars=0,
        )  # fmt: skip
        g, r, i = sources.fluxes([475.0, 621.0, 753.0]).sum(axis=1).T
        spectra = np.einsum("nc,ncb->nb", images.shares, images.spectra)[sources.image]
        np.testing.assert_allclose(g / i, spectra[:, 0], rtol=1e-6)
        np.testing.assert_allclose(r / i, spectra[:, 1], rtol=1e-6)

    def test_stars_lie_on_the_locus(self):
        sources = draw_sources(np.random.default_rng(1), np.full(200, 20.0), reference=753, stars=1)
        magnitudes = -2.5 * np.log10(sources.fluxes([475.0, 621.0, 753.0])[:, 0])
        gr, ri = -np.diff(magnitudes, axis=1).T
        np.testing.assert_allclose(
            gr, 1.39 * (1 - np.exp(-4.9 * ri**3 - 2.45 * ri**2 - 1.68 * ri - 0.05)), atol=1e-9
        )

    def test_refusals(self):
        rng = np.random.default_rng(1)
        with pytest.raises(ValueError, match="population='real'"):
            draw_sources(rng, [20.0], reference=756, population="real")
        with pytest.raises(ValueError, match="takes images"):
            draw_sources(rng, [20.0], reference=756, population="images")
        with pytest.raises(ValueError, match="stars=2"):
            draw_sources(rng, [20.0], reference=756, stars=2)
        with pytest.raises(ValueError, match="sources="):
            get_chances({0: 1}, "sources")
        with pytest.raises(ValueError, match="one of them above 0"):
            get_chances({2: 0}, "sources")


class TestPictures:
    @settings(max_examples=30, deadline=None)
    @given(arrays.arrays(float, (3, 4, 5), elements=st.floats(0, 0.02)))
    def test_round_trip(self, flux):
        picture = composite(flux)
        kept = picture.max(axis=0) < 1
        back = linear_light(picture)
        np.testing.assert_allclose(back[:, kept], flux[:, kept], rtol=1e-6, atol=1e-12)

    def test_colours_are_kept_in_the_picture(self):
        flux = np.array([0.001, 0.003, 0.004])[:, None, None] * np.logspace(-2, 0, 5)
        picture = composite(flux / SCALES[:, None, None])
        np.testing.assert_allclose(picture[0] / picture[2], 4)
        np.testing.assert_allclose(picture[1] / picture[2], 3)

    def test_against_astropy(self):
        """In the terms of Lupton et al. as astropy has them, Q = 8.4 and a stretch of 0.0084."""
        from astropy.visualization import make_lupton_rgb

        rng = np.random.default_rng(1)
        flux = rng.uniform(0, 0.1, (3, 20, 20)) ** 2
        q = 10 * math.sinh(0.1 * SOFTENING)
        scaled = flux * SCALES[:, None, None]
        theirs = make_lupton_rgb(*scaled[::-1], Q=q, stretch=q / math.sinh(SOFTENING))
        ours = np.moveaxis(255 * composite(flux), 0, -1)
        assert np.abs(ours - theirs).max() < 1.01

    def test_a_galaxy_is_cut_out(self):
        picture, total = picture_of_a_galaxy()
        galaxy = cut_galaxies([picture])
        colours = np.einsum("nc,ncb->nb", galaxy.shares, galaxy.spectra)[0]
        np.testing.assert_allclose(colours, total / total[2], rtol=0.03)
        light = galaxy.light(0, galaxy.shares[0])
        assert light.sum() == pytest.approx(1, rel=1e-3)
        found = moments(light[None], np.ones(light.shape, bool))
        np.testing.assert_allclose(found.centroid, 47.5, atol=0.2)
        # the axis ratio of 0.6, sky and pixels aside
        assert found.distortion.real == pytest.approx((1 - 0.36) / (1 + 0.36), abs=0.06)
        # the bulge is redder than the disk
        redder, bluer = (galaxy.light(0, share) for share in np.eye(2))
        assert redder[44:52, 44:52].sum() > 2 * bluer[44:52, 44:52].sum()

    def test_a_neighbour_is_left_out(self):
        (alone, _), (beside, _) = picture_of_a_galaxy(), picture_of_a_galaxy(neighbour=True)
        one, two = (cut_galaxies([picture]) for picture in (alone, beside))
        light = [galaxy.light(0, galaxy.shares[0]) for galaxy in (one, two)]
        assert np.abs(light[1] - light[0]).sum() < 0.1
        assert two.radius == pytest.approx(one.radius, rel=0.05)

    def test_what_is_left_out(self):
        bright = (255 * composite(np.full((3, 424, 424), 0.5))).astype(np.uint8)
        empty = np.zeros((3, 424, 424), np.uint8)
        with pytest.raises(ValueError, match="no galaxy in the middle"):
            cut_galaxies([bright, empty])
        with pytest.raises(ValueError, match=r"shape \(3, 80, 80\)"):
            cut_galaxies([empty[:, :80, :80]])

    def test_files(self, images, tmp_path):
        path = tmp_path / "galaxies.npz"
        images.write(path)
        again = Morphologies.read(path)
        for field in fields(images):
            np.testing.assert_array_equal(getattr(again, field.name), getattr(images, field.name))
        with pytest.raises(FileExistsError):
            images.write(path)
        np.savez(tmp_path / "other.npz", maps=[1])
        with pytest.raises(ValueError, match="lacks spectra, shares, radius"):
            Morphologies.read(tmp_path / "other.npz")


class TestBlends:
    def test_shapes_and_ranges(self, blends):
        assert blends.blend.shape == (12, 3, 64, 64)
        assert blends.isolated.shape == (12, 3, 3, 64, 64)
        assert set(blends.present.sum(axis=1)) == {2, 3}
        assert not blends.isolated[~blends.present].any()
        magnitude = np.where(blends.present, blends.sources.magnitude.reshape(12, 3), np.nan)
        assert np.nanmin(magnitude) >= 20
        assert np.nanmax(magnitude) <= 25
        assert np.nanmax(np.nanmax(magnitude, axis=1) - np.nanmin(magnitude, axis=1)) <= 2
        np.testing.assert_allclose(blends.position[:, 0], 31.5, atol=0.5)
        away = 0.2 * np.hypot(*(blends.position[:, 1] - blends.position[:, 0]).T)
        assert (away >= 0.49).all()
        assert (away <= 3.01).all()

    def test_blend_is_the_sum_and_noise(self, blends):
        left = blends.blend - blends.isolated.sum(axis=1)
        ratio = left / np.sqrt(blends.variance)
        assert ratio.mean() == pytest.approx(0, abs=0.01)
        assert ratio.var() == pytest.approx(1, abs=0.02)
        np.testing.assert_allclose(
            blends.variance.min(axis=(2, 3)), blends.noise**2, rtol=0.05
        )  # fmt: skip

    def test_photon_noise(self):
        """A star so bright that its photons outdo the sky: variance = flux / electrons per nJy."""
        survey = Survey("shallow", 0.5, [band(depth=30, exposure=20, psf_fwhm=4.0)])
        blends = simulate_blends(
            survey, 40, sources=1, magnitudes=(20, 20), stars=1, rng=1, offset=0
        )
        light = blends.isolated[:, 0]
        left = blends.blend - light
        bright = light > 0.2 * light.max()
        electrons = survey.bands[0].electrons
        assert (left**2)[bright].sum() / light[bright].sum() * electrons == pytest.approx(
            1, rel=0.05
        )

    def test_the_same_seed_gives_the_same_blends(self, images):
        one, two, three = (
            simulate_blends("sdss", 2, images=images, bands="gr", rng=seed, stamp=48)
            for seed in (1, np.random.default_rng(1), 2)
        )
        np.testing.assert_array_equal(one.blend, two.blend)
        np.testing.assert_array_equal(one.isolated, two.isolated)
        assert not np.array_equal(one.blend, three.blend)

    def test_bands_in_another_order(self, images):
        one, two = (
            simulate_blends("des", 2, images=images, bands=bands, rng=1, stamp=48)
            for bands in ("gri", "igr")
        )
        np.testing.assert_array_equal(one.isolated[:, :, [2, 0, 1]], two.isolated)
        np.testing.assert_array_equal(one.noise[:, [2, 0, 1]], two.noise)
        np.testing.assert_array_equal(one.flux[:, :, [2, 0, 1]], two.flux)

    def test_truth(self, blends):
        truth = blends.truth()
        assert len(truth["blend"]) == blends.present.sum()
        stars = truth["kind"] == "star"
        np.testing.assert_allclose(truth["x_centroid"][stars], truth["x"][stars], atol=0.05)
        np.testing.assert_allclose(np.hypot(truth["chi_1"], truth["chi_2"])[stars], 0, atol=0.02)
        inside = blends.isolated.sum(axis=(3, 4))[blends.present]
        np.testing.assert_allclose(inside, truth["flux"], rtol=0.1)
        assert np.median(inside / truth["flux"]) == pytest.approx(1, abs=0.005)
        i = truth["flux"][:, 2]
        np.testing.assert_allclose(AB_NANOJANSKY - 2.5 * np.log10(i), truth["magnitude"])

    def test_psfs_are_what_stars_look_like(self):
        survey = get_survey("hsc").select("gi")
        images = draw_psfs(survey, 31)
        blends = simulate_blends(survey, 1, sources=1, stars=1, offset=0, stamp=31, rng=1)
        stars = blends.isolated[0, 0] / blends.flux[0, 0][:, None, None]
        np.testing.assert_allclose(images, stars, atol=1e-6)
        assert images.sum(axis=(1, 2)) == pytest.approx(1, abs=0.01)

    def test_number_counts(self):
        from astrodeblend.simulate.populations import draw_brightest

        drawn = draw_brightest(np.random.default_rng(1), 20000, (20, 25), 0.31)
        counts, _ = np.histogram(drawn, np.arange(20, 26))
        np.testing.assert_allclose(np.diff(np.log10(counts)), 0.31, atol=0.06)
        flat = draw_brightest(np.random.default_rng(1), 20000, (20, 25), 0)
        assert np.histogram(flat, 5)[0].std() < 100

    def test_without_galsim(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "galsim", None)
        with pytest.raises(ImportError, match=r"astrodeblend\[galsim\]"):
            simulate_blends("lsst", 1)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"sources": 0}, "sources="),
            ({"magnitudes": (25, 20)}, "magnitudes="),
            ({"separations": (-1, 2)}, "separations="),
            ({"contrast": -1}, "contrast="),
            ({"stamp": 8}, "stamp=8"),
            ({"bands": "gq"}, "not q"),
        ],
    )
    def test_refusals(self, options, words):
        with pytest.raises(ValueError, match=words):
            simulate_blends("lsst", 1, **options)


class TestStream:
    def test_shapes(self, images):
        stream = SurveyStream(list(SURVEYS), images, batch=2, seed=1, sources={1: 1, 3: 1})
        numbers = set()
        for k in range(20):
            blend, isolated, noise = stream[k]
            n, bands, height, width = blend.shape
            assert (n, height, width) == (2, 64, 64)
            assert isolated.shape == (2, 3, bands, 64, 64)
            assert noise.shape == (2, bands)
            numbers.add(bands)
        assert numbers == {1, 2, 3, 4, 5, 6}

    def test_blend_is_the_sum_and_noise(self, images):
        stream = SurveyStream(["lsst", "sdss"], images, batch=32, seed=1, bands=3)
        draw = stream.draw(0)
        blend, isolated, noise = stream.render(draw)
        total = isolated.sum(dim=1)
        total, noise = total.numpy(), noise.numpy()[..., None, None]
        variance = noise**2 + total / draw.electrons[..., None, None]
        ratio = (blend.numpy() - total) / np.sqrt(variance)
        assert ratio.mean() == pytest.approx(0, abs=0.01)
        assert ratio.var() == pytest.approx(1, abs=0.01)

    def test_sources_are_where_and_what_they_are_said_to_be(self):
        stream = SurveyStream(["hsc"], batch=16, seed=2, bands=4, stars=1.0)
        draw = stream.draw(0)
        _, isolated, _ = stream.render(draw)
        light = isolated.double().numpy()
        flux = light.sum(axis=(-2, -1))
        np.testing.assert_allclose(flux, draw.fluxes.sum(axis=2), rtol=0.02)
        for axis, k in ((-2, 0), (-1, 1)):
            centre = (light.sum(axis=axis) * np.arange(64)).sum(axis=-1) / flux
            expected = np.repeat(draw.position[..., k, None], 4, axis=-1)
            np.testing.assert_allclose(centre, expected, atol=0.3)

    def test_any_batch_at_any_time(self, images):
        options = {"batch": 4, "seed": 3, "bands": 2, "stamp": 32}
        one, two = (SurveyStream(["lsst", "hsc"], images, **options) for _ in range(2))
        two[0]
        for a, b in zip(one[5], two[5], strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(one[5][0], one[6][0])

    def test_processes_share_a_batch(self, images):
        options = {"batch": 4, "seed": 3, "bands": 2, "stamp": 32}
        whole = SurveyStream(["lsst"], images, **options)[1]
        parts = [SurveyStream(["lsst"], images, **options, rank=k, world=2)[1] for k in (0, 1)]
        for k, tensor in enumerate(whole):
            joined = np.concatenate([part[k] for part in parts])
            np.testing.assert_allclose(joined, tensor, rtol=1e-4, atol=1e-3)

    def test_named_bands(self):
        survey = get_survey("des")
        stream = SurveyStream([survey], batch=3, seed=1, bands="zg", vary=0)
        *_, noise = stream[0]
        expected = [b.sky_noise(survey.pixel_scale) for b in survey.select("zg").bands]
        np.testing.assert_allclose(noise, np.tile(expected, (3, 1)), rtol=1e-6)

    def test_drawn_bands_are_each_others_order(self):
        stream = SurveyStream(["lsst"], batch=64, seed=1, bands=6)
        band = stream.draw(0).band
        assert (np.sort(band, axis=1) == np.arange(6)).all()
        assert len(np.unique(band, axis=0)) > 50

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"surveys": []}, "at least one"),
            ({"batch": 3, "world": 2}, "batch=3"),
            ({"bands": 7}, "no survey has more than 6"),
            ({"bands": "gq"}, "not q"),
            ({"population": "all"}, "population='all'"),
            ({"sources": {1.5: 1}}, "sources="),
        ],
    )
    def test_refusals(self, options, words):
        options = {"surveys": ["lsst"], "batch": 2, "seed": 1} | options
        with pytest.raises(ValueError, match=words):
            SurveyStream(**options)

    def test_drawn_as_blends_of_a_survey_are(self):
        """By number counts, and no source fainter than the limit."""
        options = {"magnitudes": (-6.8, -1.8), "vary": 0, "batch": 4000, "seed": 3}
        draws = {
            slope: SurveyStream(["lsst"], slope=slope, **options).draw(0) for slope in (None, 0.31)
        }
        depth = get_survey("lsst").reference.point_depth
        above = {k: d.sources.magnitude.reshape(-1, 2) - depth for k, d in draws.items()}
        counts, edges = np.histogram(above[0.31].min(axis=1), 5, range=(-6.8, -1.8))
        np.testing.assert_allclose(np.diff(np.log10(counts)), 0.31 * np.diff(edges)[0], atol=0.1)
        flat, _ = np.histogram(above[None].min(axis=1), 5, range=(-6.8, -1.8))
        np.testing.assert_allclose(flat / 800, 1, atol=0.15)
        assert above[0.31].max() <= -1.8
        assert above[None].max() > -1


class TestFiles:
    def test_the_command(self, galaxies, tmp_path):
        out = tmp_path / "blends.fits"
        command = ["simulate", "--survey", "sdss", "--bands", "g,i", "-n", "2", "--sources", "3"]
        done = CliRunner().invoke(main, [*command, "-o", str(out), "--plot"])
        assert done.exit_code == 0, done.output
        assert "2 blends of 3 sources as sdss sees them in g, i, seed 1" in done.output
        expected = simulate_blends("sdss", 2, bands="gi", sources=3, rng=1)
        with fits.open(out) as hdus:
            assert hdus[0].header["SURVEY"] == "sdss"
            assert hdus[0].header["BANDS"] == "g,i"
            for name in ("blend", "isolated", "variance", "noise"):
                np.testing.assert_array_equal(hdus[name].data, getattr(expected, name))
                assert hdus[name].header["BUNIT"].startswith("nJy")
        table = QTable.read(out, hdu="TRUTH")
        assert table["flux"].unit == "nJy"
        np.testing.assert_allclose(table["x"].value, expected.position[..., 0].ravel())
        with Image.open(out.with_suffix(".png")) as picture:
            assert picture.size == (128, 256)

    def test_the_command_with_pictures(self, galaxies, tmp_path):
        out, survey = tmp_path / "blends.fits", tmp_path / "mine.yaml"
        survey.write_text(MINE)
        arguments = ["simulate", "--survey", survey, "--images", galaxies, "-n", 4, "-o", out]
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
        assert "image" in QTable.read(out, hdu="TRUTH")["kind"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--survey", "euclid"], "choose one of lsst"),
            (["--survey", "lsst", "--recipe", "sum"], "--recipe does not go with --survey"),
            (["--bands", "g"], "--bands does not go without --survey"),
            ([], "--images is missing"),
        ],
    )
    def test_refusals(self, arguments, words, tmp_path):
        done = CliRunner().invoke(main, ["simulate", *arguments, "-o", str(tmp_path / "x.fits")])
        assert done.exit_code == 2
        assert words in done.stderr
        assert not list(tmp_path.iterdir())

    def test_without_galsim(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "galsim", None)
        command = ["simulate", "--survey", "lsst", "-o", str(tmp_path / "x.fits")]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2
        assert "astrodeblend[galsim]" in done.stderr

    def test_the_documentation(self, tmp_path):
        _, _, *rows = str(SURVEYS["lsst"]).splitlines()
        assert rows[2].split() == ["r", "625", "0.81", "27.50", "28.10", "5520", "0.9664"]
        page = (Path(__file__).parents[1] / "docs" / "surveys.rst").read_text(encoding="utf-8")
        blocks = re.findall(r"code-block:: (\w+)\n\n((?:    .*\n|\n)+)", page)
        blocks = [(language, textwrap.dedent(code)) for language, code in blocks]
        path = tmp_path / "mine.yaml"
        path.write_text(next(code for language, code in blocks if language == "yaml"))
        names = {"simulate_blends": lambda survey, number, rng: survey}
        code = next(code for _, code in blocks if "mine = Survey" in code)
        exec(code.replace(", simulate_blends", ""), names)
        assert get_survey(path) == names["mine"]
