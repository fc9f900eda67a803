"""SEP: the detection, deblending and apertures of SExtractor (Barbary 2016, JOSS 1, 58)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .methods import Catalogue, Package
from .shares import cut, distortion_of, grey


@dataclass(frozen=True)
class SEP(Package):
    """Segmentation and deblending as in SExtractor, with SEP (Barbary 2016, JOSS 1, 58).

    In blends ``sep.extract`` works on the same image as `Photutils`, with its own filter, and each
    pixel belongs to one source; the parameters are for these. In fields fluxes are in SExtractor's
    automatic apertures, neighbours masked.

    Parameters
    ----------
    n_sigma : float
        Detection threshold in standard deviations of the sky.
    n_pixels : int
        Smallest number of pixels of a source (``minarea``).
    n_levels : int
        Thresholds of the deblending (``deblend_nthresh``).
    contrast : float
        Smallest part of the light that makes a source of its own (``deblend_cont``).
    clean : bool
        Whether to drop sources that may come from the wings of brighter ones.
    sky : {"blend", "border"}
        As for `Photutils`.
    """

    n_sigma: float = 0.25
    n_pixels: int = 5
    n_levels: int = 128
    contrast: float = 1e-5
    clean: bool = False
    sky: str = "blend"

    name: ClassVar[str] = "sep"
    given_of_survey: ClassVar[str] = "the blend and the noise of its sky"
    takes_positions: ClassVar[bool] = False
    field_settings: ClassVar[dict] = {
        "n_sigma": 2.0, "n_pixels": 5, "kron": 2.5, "least_radius": 1.75,
    }  # fmt: skip
    grid: ClassVar[dict[str, tuple]] = {
        "n_sigma": (0.25, 0.5, 1.0),
        "n_levels": (32, 64, 128),
        "contrast": (1e-5, 1e-4, 1e-3),
        "sky": ("blend", "border"),
    }
    grid_of_survey: ClassVar[dict[str, tuple]] = {
        "n_sigma": (1.0, 2.0, 3.0, 5.0),
        "n_levels": (32, 128),
        "contrast": (1e-5, 1e-4, 1e-3, 1e-2),
        "sky": ("blend", "border"),
    }

    def split(self, blend, positions, conditions=None):
        """Return `Found`: the light of the segments."""
        import sep

        level, light, threshold = grey(blend, self.n_sigma, conditions)
        _, segments = sep.extract(
            np.ascontiguousarray(light), threshold, minarea=self.n_pixels,
            deblend_nthresh=self.n_levels, deblend_cont=self.contrast, clean=self.clean,
            segmentation_map=True,
        )  # fmt: skip
        return cut(blend, segments, level, self.sky)

    def find(self, seen, positions=None):
        """Return the `Catalogue` of what is found."""
        import sep

        light, nowhere = seen.detection
        n_sigma, n_pixels, factor, least = self.field_settings.values()
        found, segments = sep.extract(
            light, n_sigma, mask=nowhere, minarea=n_pixels, segmentation_map=True
        )
        x, y, major, minor = (found[name] for name in ("x", "y", "a", "b"))
        angle = found["theta"].clip(-np.pi / 2, np.pi / 2)
        own = {"seg_id": np.arange(1, len(found) + 1), "segmap": segments}
        radius = sep.kron_radius(light, x, y, major, minor, angle, 6.0, mask=nowhere, **own)[0]
        # as SExtractor, a circle where the ellipse would be too small
        radius = factor * np.nan_to_num(radius).clip(min=0)
        small = radius * np.sqrt(major * minor) < factor * least
        axes = [np.where(small, least, radius * axis) for axis in (major, minor)]
        sums = [
            sep.sum_ellipse(
                np.ascontiguousarray(data, float), x, y, *axes, angle, 1.0, mask=mask, subpix=1,
                err=np.ascontiguousarray(error, float), **own,
            )[:2]
            for data, error, mask in zip(seen.data, seen.error, seen.mask, strict=True)
        ]  # fmt: skip
        flux, error = np.moveaxis(np.reshape(sums, (len(sums), 2, -1)), 0, -1)
        return Catalogue(np.stack([x, y], axis=1), flux, error, distortion_of(major, minor, angle))
