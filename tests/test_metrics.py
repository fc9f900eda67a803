"""Metrics against scikit-image, analytic galaxies and a plain bootstrap."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.testing import assert_allclose
from skimage.metrics import peak_signal_noise_ratio

from astrodeblend import metrics


@pytest.fixture(scope="module")
def pictures():
    """Truth and a noisy guess in [0, 1], shape (2, 3, bands, y, x)."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:40, :48]
    galaxy = np.exp(-np.hypot(y - 18, x - 25) / 6)
    truth = galaxy * rng.uniform(0.3, 1, size=(2, 3, 3, 1, 1))
    guess = np.clip(truth + rng.normal(0, 0.05, size=truth.shape), 0, 1)
    return guess, truth


def gaussian(centre, covariance, *, size=(90, 100), flux=1.0):
    """Elliptical Gaussian on pixels, (y, x); sampled finely enough to have exact moments."""
    y, x = np.mgrid[: size[0], : size[1]]
    offset = np.stack([x - centre[0], y - centre[1]], axis=-1)
    chi2 = np.einsum("yxi,ij,yxj->yx", offset, np.linalg.inv(covariance), offset)
    return flux * np.exp(-chi2 / 2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))


def ellipse(q, angle, sigma=5.0):
    """Covariance matrix of a Gaussian with axis ratio q whose long axis stands at an angle."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.diag([sigma**2, (q * sigma) ** 2]) @ turn.T


def each(function, image, truth):
    """Apply a function of two (bands, y, x) images to each pair of a batch."""
    scores = np.empty(image.shape[:-3])
    for index in np.ndindex(scores.shape):
        scores[index] = function(image[index], truth[index])
    return scores


def test_psnr_is_that_of_scikit_image(pictures):
    expected = each(lambda a, b: peak_signal_noise_ratio(b, a, data_range=1), *pictures)
    assert_allclose(metrics.psnr(*pictures), expected, rtol=1e-12)
    assert_allclose(metrics.psnr(*(8 * p for p in pictures), data_range=8), expected, rtol=1e-12)


def test_psnr_of_a_known_error():
    truth = np.zeros((3, 4, 4))
    assert_allclose(metrics.psnr(truth + 0.1, truth), 20)
    assert metrics.psnr(truth, truth) == np.inf


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("score", "data_range"), [(metrics.ssim, 1), (metrics.ssim_reiman2019, 2)])
def test_ssim_is_its_definition(pictures, dtype, score, data_range):
    """Equation 13 of Wang et al. (2004), window by window."""
    image, truth = (p.astype(dtype) for p in pictures)
    a, b = (sliding_window_view(p.astype(float), (7, 7), axis=(-2, -1)) for p in (image, truth))
    mean_a, mean_b = (each.mean(axis=(-2, -1), keepdims=True) for each in (a, b))
    variances = a.var(axis=(-2, -1), ddof=1) + b.var(axis=(-2, -1), ddof=1)
    covariance = ((a - mean_a) * (b - mean_b)).sum(axis=(-2, -1)) / 48
    product, squares = (each[..., 0, 0] for each in (mean_a * mean_b, mean_a**2 + mean_b**2))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    expected = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    assert_allclose(score(image, truth), expected.mean(axis=(-3, -2, -1)), rtol=1e-10)


def test_ssim_of_one_image_and_of_the_smallest():
    image = np.random.default_rng(3).random((1, 7, 7))
    assert metrics.ssim(image, image) == pytest.approx(1)
    assert metrics.ssim(image, image).shape == ()
    with pytest.raises(ValueError, match=r"6x9 pixels.*at least 7x7"):
        metrics.ssim(np.zeros((1, 6, 9)), np.zeros((1, 6, 9)))


def test_the_lenient_scale_is_kinder(pictures):
    assert (metrics.ssim_reiman2019(*pictures) > metrics.ssim(*pictures) + 0.01).all()


@pytest.mark.parametrize("score", [metrics.psnr, metrics.ssim, metrics.flux_error])
def test_nan_stays_with_its_image(pictures, score):
    image, truth = (p.copy() for p in pictures)
    clean = score(image, truth)
    image[1, 2, 0, 18, 25] = np.nan
    scores = score(image, truth)
    assert np.isnan(scores[1, 2])
    scores[1, 2] = clean[1, 2]
    assert_allclose(scores, clean)


@pytest.mark.parametrize(
    "score",
    [
        metrics.psnr,
        metrics.ssim,
        metrics.ssim_reiman2019,
        metrics.flux_error,
        metrics.centroid_error,
        metrics.ellipticity_error,
    ],
)
def test_shapes_are_checked(score, pictures):
    image, truth = pictures
    assert score(image, truth).shape == (2, 3)
    assert score(image[0, 0], truth[0, 0]) == pytest.approx(score(image, truth)[0, 0])
    with pytest.raises(ValueError, match=r"image has shape \(3, 3, 40, 48\) and truth \(2, 3"):
        score(image[0], truth)
    with pytest.raises(ValueError, match=r"image has shape \(40, 48\); give"):
        score(image[0, 0, 0], truth[0, 0, 0])


def test_integers_are_not_subtracted_round_the_corner():
    truth = np.full((1, 8, 8), 10, dtype=np.uint8)
    assert_allclose(metrics.psnr(truth - 1, truth, data_range=255), 20 * np.log10(255))


@pytest.mark.parametrize("angle", [0, 0.4, np.pi / 2, 2.8])
@pytest.mark.parametrize("q", [1, 0.8, 0.4])
def test_moments_of_a_gaussian(q, angle):
    image = gaussian((47.3, 41.8), ellipse(q, angle), flux=7)
    found = metrics.moments(image[np.newaxis], np.ones(image.shape))
    assert_allclose(found.flux, 7, rtol=1e-6)
    assert_allclose(found.centroid, (47.3, 41.8), rtol=1e-6)
    expected = (1 - q**2) / (1 + q**2) * np.exp(2j * angle)
    assert_allclose(found.distortion, expected, atol=1e-6)


def test_moments_are_those_of_photutils(pictures):
    from photutils.centroids import centroid_com

    image = pictures[0][0, 0]
    footprint = metrics.isophote(image)
    found = metrics.moments(image, footprint)
    assert_allclose(found.centroid, centroid_com(image.sum(axis=0), mask=~footprint))
    assert_allclose(found.flux, image.sum(axis=0)[footprint].sum())


def test_errors_of_gaussians_that_differ_by_known_amounts():
    truth = gaussian((50, 44), ellipse(0.6, 0.3), flux=3)
    image = gaussian((50.3, 43.6), ellipse(0.8, 1.2), flux=3.6)
    image, truth = (np.stack([g, 2 * g]) for g in (image, truth))
    everything = np.ones(truth.shape[1:])
    options = {"footprint": everything}
    assert metrics.flux_error(image, truth, **options) == pytest.approx(0.2, rel=1e-5)
    assert metrics.flux_error(truth, image, **options) == pytest.approx(-1 / 6, rel=1e-5)
    assert metrics.centroid_error(image, truth, **options) == pytest.approx(0.5, rel=1e-5)
    expected = abs(0.36 / 1.64 * np.exp(2.4j) - 0.64 / 1.36 * np.exp(0.6j))
    assert metrics.ellipticity_error(image, truth, **options) == pytest.approx(expected, rel=1e-5)


def test_by_default_only_light_in_the_true_isophote_counts():
    truth = gaussian((50, 44), ellipse(0.6, 0.3))[np.newaxis]
    image = truth.copy()
    image[:, 80:, 90:] += 1  # a companion left in the corner
    assert metrics.flux_error(image, truth) == 0
    assert metrics.centroid_error(image, truth) == 0
    assert metrics.ellipticity_error(image, truth) == 0


def test_isophote_is_the_connected_ellipse():
    truth = gaussian((50, 44), ellipse(0.6, 0.3))
    y, x = np.mgrid[: truth.shape[0], : truth.shape[1]]
    expected = truth > 0.25 * truth.max()
    neighbour = 0.9 * truth[44, 50] * ((x > 90) & (y > 80))
    truth = np.stack([truth + neighbour, np.zeros_like(truth)])
    assert (metrics.isophote(truth, fraction=0.25) == expected).all()
    # The isophote of a Gaussian at a fraction f has the area 2 pi ln(1/f) sigma_a sigma_b.
    assert expected.sum() == pytest.approx(2 * np.pi * np.log(4) * 5 * 3, rel=0.02)


def test_no_light_gives_nan_not_warnings():
    dark = np.zeros((2, 1, 9, 9))
    dark[1] -= 1
    assert not metrics.isophote(dark).any()
    for error in (metrics.flux_error, metrics.centroid_error, metrics.ellipticity_error):
        assert np.isnan(error(dark, dark)).all()
    point = np.zeros((1, 9, 9))
    point[0, 4, 5] = 2
    found = metrics.moments(point, metrics.isophote(point))
    assert_allclose(found.centroid, (5, 4))
    assert np.isnan(found.distortion)


def test_footprints_are_checked():
    image = np.ones((4, 2, 9, 9))
    assert metrics.moments(image, np.ones((9, 9))).flux.shape == (4,)
    with pytest.raises(ValueError, match=r"footprint has shape \(9, 8\).*\(4, 9, 9\)"):
        metrics.moments(image, np.ones((9, 8)))
    with pytest.raises(ValueError, match="fraction=1 is not between 0 and 1"):
        metrics.isophote(image, fraction=1)


def test_table_statistics():
    found = metrics.table_statistics([[1, 2], [4, 9]])
    assert found == {"mean": 4, "median": 3, "max": 9, "min": 1, "variance": 9.5}
    perfect = metrics.table_statistics([30, np.inf])
    assert perfect["mean"] == np.inf
    assert np.isnan(perfect["variance"])
    with pytest.raises(ValueError, match="values is empty"):
        metrics.table_statistics([])


def test_bootstrap_error_of_a_mean_is_sigma_over_root_n():
    values = np.random.default_rng(5).normal(3, 2, size=900)
    error = metrics.bootstrap_error(values, resamples=2000, rng=6)
    assert error == pytest.approx(2 / 30, rel=0.1)
    assert error == metrics.bootstrap_error(values, resamples=2000, rng=np.random.default_rng(6))
    # Two components of a blend that always err alike tell no more than one.
    twice = np.stack([values, values], axis=1)
    assert metrics.bootstrap_error(twice, rng=6) == pytest.approx(error, rel=0.1)
    median = metrics.bootstrap_error(values, np.median, rng=6)
    assert median == pytest.approx(np.sqrt(np.pi / 2) * 2 / 30, rel=0.2)
    with pytest.raises(ValueError, match="resamples=1 gives no spread"):
        metrics.bootstrap_error(values, resamples=1)
