"""scarlet2: a model of the scene, fitted to all pixels at once."""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from astrodeblend.metrics import moments
from astrodeblend.simulate import draw_psfs, get_survey

from .methods import Catalogue, Conditions, Package
from .shares import Found, ellipticity_of, sky_of

_FREE = 2  # pixels: how far scarlet2 may move a source along each axis


@dataclass(frozen=True)
class Scarlet2(Package):
    """A model of the scene, fitted to the blend, with scarlet2.

    Sources are at the true positions, free by 2 pixels, and their light adds.

    A picture has the noise of the stamp's border, and no PSF. What each pixel has above the sky
    goes to the galaxies in proportion to their models, as survey pipelines do; where these are
    below the noise, to both. A survey's image has its variance in every pixel, and the PSF of
    each band, to which the models are convolved.

    Parameters
    ----------
    morphology : {"sersic", "pixels"}
        Sérsic profiles, elliptical; or any positive image, which begins as the Gaussian of
        scarlet2's quick start.
    steps : int
        Largest number of steps of the optimiser.
    tolerance : float
        Relative change of the parameters below which it stops.
    light : {"apportioned", "model"}
        Light of a source: the blend's in proportion to the models, or its model.
    reach : int, optional
        Largest distance of a source's light from its position, in pixels. Default: no limit.
    """

    morphology: str = "sersic"
    steps: int = 300
    tolerance: float = 1e-4
    light: str = "apportioned"
    reach: int | None = None

    name: ClassVar[str] = "scarlet2"
    given: ClassVar[str] = (
        "the blend, its noise and the true positions, no PSF; it models linear flux in which light "
        "adds, and pictures are neither"
    )
    given_of_survey: ClassVar[str] = "the blend, its variance, the PSFs and the true positions"
    given_of_field: ClassVar[str] = (
        "the image, its noise, the PSFs, and positions: the first deblender's detections"
    )
    slow: ClassVar[bool] = True
    detects: ClassVar[bool] = False
    for_survey: ClassVar[dict] = {"steps": 1000, "light": "model"}
    grid: ClassVar[dict[str, tuple]] = {"morphology": ("sersic", "pixels")}
    grid_of_survey: ClassVar[dict[str, tuple]] = {
        "morphology": ("sersic", "pixels"),
        "steps": (300, 1000),
    }

    def split(self, blend, positions, conditions=None):
        """Return `Found`: the light of the fitted models, or in proportion to them."""
        import jax
        import jax.numpy as jnp
        import scarlet2

        scarlet2.set_validation(False)  # its checks print, and change nothing
        level, noise = (each[:, None, None] for each in sky_of(blend, conditions))
        light = blend - level
        if conditions is None:
            variance, psf = np.broadcast_to(noise**2, blend.shape), None
            channels = [str(band) for band in range(len(blend))]
        else:
            variance, channels = conditions.variance, list(conditions.bands)
            psf = scarlet2.ArrayPSF(jnp.asarray(conditions.psfs, "float32"))
        observation = scarlet2.Observation(
            jnp.asarray(light, "float32"),
            jnp.asarray(1 / variance, "float32"),
            psf=psf,
            channels=channels,
        )
        if psf is None:
            frame = scarlet2.Frame(scarlet2.Box(blend.shape), channels=channels)
        else:
            frame = scarlet2.Frame.from_observations(observation)
        with scarlet2.Scene(frame) as scene:
            for x, y in positions:
                self._add_source(observation, light, jnp.array([y, x], "float32"))
        with scarlet2.Parameters(scene):
            for number, source in enumerate(scene.sources):
                self._free(source, number)
        fitted = scene.fit(
            observation, max_iter=self.steps, e_rel=self.tolerance, progress_bar=False
        )
        models = np.stack(
            [
                np.asarray(observation.render(fitted.evaluate_source(source)))
                for source in fitted.sources
            ]
        )
        # every fit is compiled anew, and what was compiled for it would stay in memory
        jax.clear_caches()
        if self.light == "model":
            return Found(np.broadcast_to(level, blend.shape), models)
        parts = models.clip(0) / (models.clip(0).sum(axis=0) + noise)
        sky = level + light * (1 - parts.sum(axis=0))
        return Found(sky, light * parts)

    def _add_source(self, observation, light, center):
        """Add a source to the scene that is open, with a first guess."""
        import jax.numpy as jnp
        import scarlet2

        peak = _around(light, np.asarray(center)).clip(1e-3)
        # covers the image from where the source may go
        reach = max(max(at, side - at) for at, side in zip(center, light.shape[1:], strict=True))
        reach = reach if self.reach is None else min(reach, self.reach)
        size = 2 * int(np.ceil(reach + _FREE)) + 1
        if self.morphology == "sersic":
            profile = scarlet2.SersicMorphology(
                n=jnp.array(1.0), size=jnp.array(5.0), ellipticity=jnp.array([1e-3, 1e-3]),
                shape=(size, size),
            )  # fmt: skip
            # such a profile is 1 at its half-light radius, and some five times that within
            scarlet2.Source(center, jnp.asarray(peak / 5, "float32"), profile)
            return
        try:
            spectrum, image = scarlet2.init.from_gaussian_moments(observation, center)
        except (ValueError, IndexError):  # no Gaussian has such moments: they see the other galaxy
            spectrum, image = peak, scarlet2.GaussianMorphology(3.0)()
        odd = len(image) - 1 + len(image) % 2  # so that a pixel is in the middle
        image = np.asarray(image)[:odd, :odd]
        image = np.pad(image, max(0, (size - odd) // 2), constant_values=1e-6)
        spectrum = jnp.maximum(jnp.asarray(spectrum, "float32"), 1e-3)
        scarlet2.Source(center, spectrum, jnp.asarray(image, "float32").clip(1e-6))

    def _free(self, source, number):
        """Name what is to be fitted of a source, with step sizes for a picture."""
        import scarlet2
        from numpyro.distributions import constraints

        positive = constraints.positive
        relative = partial(scarlet2.relative_step, factor=0.05)
        if self.morphology == "pixels":
            scarlet2.Parameter(source.spectrum, f"spectrum{number}", positive, stepsize=relative)
            scarlet2.Parameter(source.morphology, f"image{number}", positive, stepsize=0.1)
            return
        profile, center = source.morphology, source.center
        near = constraints.interval(center - _FREE, center + _FREE)
        for node, name, constraint, step in (
            (source.spectrum, "spectrum", positive, 0.05),
            (profile.size, "size", positive, 0.05),
            (profile.ellipticity, "ellipticity", scarlet2.constraint.unit_disk, 0.03),
            (profile.n, "n", constraints.interval(0.4, 6.0), 0.03),
            (center, "center", near, 0.03),
        ):
            scarlet2.Parameter(node, f"{name}{number}", constraint, stepsize=step)

    @property
    def _of_field(self):
        return replace(self, **self.for_survey, reach=32)

    @property
    def field_settings(self):
        """Settings of `find`."""
        return self._of_field.settings

    def find(self, seen, positions):
        """Return the `Catalogue` of the fitted models."""
        noise = np.median(seen.error, axis=(1, 2))
        planes = noise[:, None, None]
        every = [band.name for band in get_survey(seen.survey).bands]
        psfs = draw_psfs(seen.survey)[[every.index(band) for band in seen.bands]]
        variance = np.where(seen.mask, np.inf, (seen.error / planes) ** 2)
        conditions = Conditions(variance, psfs, seen.bands)
        light = self._of_field.split(seen.data / planes, positions, conditions).light
        found = Catalogue.empty(len(light), len(noise))
        found.flux[:] = light.sum(axis=(2, 3)) * noise
        whole = np.ones(light.shape[2:], bool)
        for k, one in enumerate(light):
            found.position[k] = moments(one, whole).centroid
        found.ellipticity[:] = ellipticity_of(light, np.ones(len(noise)))
        return found


def _around(light, center):
    """Mean of the 3x3 pixels around a position (y, x), shape (bands,)."""
    y, x = (int(np.clip(round(c), 1, n - 2)) for c, n in zip(center, light.shape[1:], strict=True))
    return light[:, y - 1 : y + 2, x - 1 : x + 2].mean(axis=(1, 2))
