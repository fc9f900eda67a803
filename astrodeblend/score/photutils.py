"""photutils: segments, deblended by multi-thresholding and watershed; Kron fluxes in fields."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from photutils.segmentation import (
    SegmentationImage,
    SourceCatalog,
    deblend_sources,
    detect_sources,
    make_2dgaussian_kernel,
)
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage

from astrodeblend.detect import find_sources

from .methods import Catalogue, Package
from .shares import cut, distortion_of, grey

_FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in standard deviations


@dataclass(frozen=True)
class Photutils(Package):
    """Segmentation and deblending with photutils: each pixel belongs to one source.

    In blends the mean of the bands above the sky of the stamp's border (of a survey's image the
    sum of the bands, each over its noise) is smoothed, detected
    (`photutils.segmentation.detect_sources`) and separated by multi-thresholding and watershed
    (`photutils.segmentation.deblend_sources`); the parameters are for these. In fields fluxes are
    in Kron apertures, neighbours' pixels replaced.

    Parameters
    ----------
    n_sigma : float
        Detection threshold in standard deviations of the sky before smoothing.
    n_pixels : int
        Smallest number of pixels of a source.
    smoothing : float
        Full width at half maximum of the Gaussian kernel, in pixels; 0 for none.
    n_levels : int
        Thresholds between a source's faintest and brightest pixel.
    contrast : float
        Smallest part of the light that makes a source of its own.
    sky : {"blend", "border"}
        What pixels outside all segments keep: the blend's light, or the border's median, which
        is also what a source has where another one is.
    """

    n_sigma: float = 0.5
    n_pixels: int = 5
    smoothing: float = 1.0
    n_levels: int = 32
    contrast: float = 0.001
    sky: str = "blend"

    name: ClassVar[str] = "photutils"
    given_of_survey: ClassVar[str] = "the blend and the noise of its sky"
    given_of_field: ClassVar[str] = (
        "the image and its noise; given positions divide its segments by watershed"
    )
    field_settings: ClassVar[dict] = {"n_sigma": 1.5, "n_pixels": 10, "smoothing": 3.0}
    grid: ClassVar[dict[str, tuple]] = {
        "n_sigma": (0.25, 0.5, 1.0),
        "smoothing": (0.0, 1.0, 2.0),
        "contrast": (1e-4, 1e-3, 1e-2),
        "sky": ("blend", "border"),
    }
    grid_of_survey: ClassVar[dict[str, tuple]] = {
        "n_sigma": (1.0, 2.0, 3.0, 5.0),
        "smoothing": (0.0, 2.0),
        "contrast": (1e-4, 1e-3, 1e-2),
        "sky": ("blend", "border"),
    }

    def split(self, blend, positions, conditions=None):
        """Return `Found`: the light of the segments."""
        level, light, threshold = grey(blend, self.n_sigma, conditions)
        if self.smoothing:
            light = ndimage.gaussian_filter(light, self.smoothing / _FWHM)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoDetectionsWarning)
            segments = detect_sources(light, threshold, self.n_pixels)
        if segments is None:
            return cut(blend, np.zeros(light.shape, int), level, self.sky)
        segments = deblend_sources(
            light, segments, self.n_pixels, n_levels=self.n_levels, contrast=self.contrast,
            progress_bar=False,
        )  # fmt: skip
        return cut(blend, segments.data, level, self.sky)

    def find(self, seen, positions=None):
        """Return the `Catalogue` of what is found, or of given positions."""
        light, nowhere = seen.detection
        n_sigma, n_pixels, smoothing = self.field_settings.values()
        smooth = ndimage.convolve(light, make_2dgaussian_kernel(smoothing, size=5).array)
        if positions is None:
            segments = detect_sources(smooth, n_sigma, n_pixels, mask=nowhere)
            if segments is None:
                return Catalogue.empty(0, len(seen.data))
            segments = deblend_sources(smooth, segments, n_pixels, progress_bar=False)
            segments.relabel_consecutive()
        else:
            segments = SegmentationImage(find_sources(seen.image, positions=positions)[1])
        number = segments.max_label if positions is None else len(positions)
        found = Catalogue.empty(number, len(seen.data))
        shapes = SourceCatalog(light, segments, mask=nowhere)
        rows = np.atleast_1d(shapes.label) - 1
        found.position[rows] = shapes.centroid_win
        axes = shapes.semimajor_axis.value, shapes.semiminor_axis.value
        found.ellipticity[rows] = distortion_of(*axes, shapes.orientation.to_value("rad"))
        for band, (data, error, mask) in enumerate(
            zip(seen.data, seen.error, seen.mask, strict=True)
        ):
            measured = SourceCatalog(
                data, segments, error=error, mask=mask, detection_catalog=shapes
            )
            found.flux[rows, band] = measured.kron_flux
            found.error[rows, band] = measured.kron_flux_err
        return found
