"""A whole image taken apart: a catalogue, a component for every source, and what is left."""

from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import QTable

from astrodeblend.background import data_and_mask, estimate_background
from astrodeblend.catalog import measure_components, source_regions
from astrodeblend.components import flag_lost_light, regain, share_out, trimmed
from astrodeblend.detect import find_sources
from astrodeblend.files import atomic_path
from astrodeblend.images import image_to_hdus, to_original_shape, write_fits
from astrodeblend.places import (
    find_places,
    full_scale_of,
    sky_of_flux,
    summed_light,
    unstretched,
)
from astrodeblend.results import Flag, decode_flags, table_to_hdu
from astrodeblend.separate import separate

__all__ = ["Scene", "separate_scene"]

LIGHTS = ("apportioned", "network")


@dataclass(frozen=True, eq=False, repr=False)
class Scene:
    """An image taken apart into its sources.

    Made by `astrodeblend.Deblender.deblend_scene`.

    Attributes
    ----------
    image : `~astropy.nddata.NDData`
        The image that was given, shape (bands, y, x), or (y, x) if it was given so.
    catalog : `~astropy.table.QTable`
        A row for every source; `astrodeblend.catalog.measure_components` says what is in it.
    components : tuple of `~astropy.nddata.NDData`
        The light of every source above the sky, in the order of the catalogue: the part of the
        image that has any, with the image's unit, the WCS of that part, its mask, and the
        standard deviation as uncertainty. ``meta["box"]`` is the part, ((y, y), (x, x)).
    residual : `~astropy.nddata.NDData`
        The image less the network's own components, sky included.
    meta : dict
        Version, model and its hash, and settings, as plain values; ``background`` and ``noise`` of
        the sky in each band, of maps the median; how many ``rounds`` it took,
        ``largest_change`` of a component when it was last asked for (rms over its footprint, in
        units of the noise; NaN if all were asked for once), how many sources have
        ``not_converged``, and whether ``light_adds`` where sources overlap, or the brighter one
        hides the other.
    """

    image: NDData
    catalog: QTable
    components: tuple[NDData, ...]
    residual: NDData
    meta: dict

    def component(self, label):
        """Return one component on the grid of the whole image.

        Parameters
        ----------
        label : int
            As in the catalogue.

        Returns
        -------
        `~astropy.nddata.NDData`
            Zero outside the source's footprint.

        Raises
        ------
        ValueError
            If there is no such label.
        """
        if not 1 <= label <= len(self.components):
            raise ValueError(f"label={label} is not in the catalogue: 1 to {len(self.components)}")
        part = self.components[label - 1]
        box = (..., *(slice(*ends) for ends in part.meta["box"]))
        data, spread = np.zeros((2, *self.image.data.shape), np.float32)
        data[box], spread[box] = part.data, part.uncertainty.array
        return NDData(
            data,
            unit=self.image.unit,
            mask=self.image.mask,
            uncertainty=StdDevUncertainty(spread, copy=False),
            wcs=self.image.wcs,
            meta=dict(self.image.meta),
        )

    def write(self, path, *, overwrite=False):
        """Write the scene to a FITS file, which appears whole or not at all.

        Its extensions are CATALOG, the table; RESIDUAL; and for every source COMPONENT,
        COMPONENT_UNCERT and, where the image has a mask, COMPONENT_MASK, with the source's
        label as EXTVER, each with a WCS of its own, as `~astropy.nddata.CCDData` reads them
        (``CCDData.read(path, hdu=("COMPONENT", 7))``). LTV1 and LTV2 say where in the image
        they are: in DS9, physical coordinates are those of the image.

        Parameters
        ----------
        path : str or path-like
            Where to; ``.gz`` at its end compresses the file.
        overwrite : bool, optional
            Replace a file that is there already. By default that is refused.

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError
            If ``path`` exists, its folder does not, or that is read-only.
        """
        primary = fits.PrimaryHDU()
        primary.header["CREATOR"] = (f"astrodeblend {self.meta['version']}", "software")
        primary.header["MODEL"] = (self.meta["model"], "the trained network")
        primary.header["MODELSHA"] = (self.meta["sha256"][:16], "its sha256, first 16 digits")
        primary.header["LIGHT"] = (self.meta["light"], "what the components hold")
        primary.header["NSOURCES"] = (len(self.components), "in the catalogue")
        primary.header["ROUNDS"] = (self.meta["rounds"], "in which all were deblended again")
        hdus = [primary, table_to_hdu(self.catalog, "CATALOG")]
        hdus += image_to_hdus(self.residual, "RESIDUAL")
        write_fits(hdus, path, cutouts=self.components, name="COMPONENT", overwrite=overwrite)

    def write_regions(self, path, *, overwrite=False):
        """Write the sources as regions that DS9 draws: ellipses of 3 semi-axes.

        They are on the sky if the image has a WCS, in pixels otherwise; cyan if the source is
        blended, white if it is isolated, and named by their labels. A source without light is a
        point. Takes the package regions (``pip install "astrodeblend[regions]"``).

        Parameters
        ----------
        path : str or path-like
            Where to, as ``sources.reg``.
        overwrite : bool, optional
            Replace a file that is there already. By default that is refused.

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError
            If ``path`` exists, its folder does not, or that is read-only.
        ImportError
            If the package regions is missing.
        """
        regions = source_regions(self.catalog, self.image.wcs)
        with atomic_path(path, overwrite=overwrite) as temporary:
            regions.write(temporary, format="ds9")

    def plot(self):
        """Draw the image with its sources, their sum, and what is left.

        Returns
        -------
        `~matplotlib.figure.Figure`
            With ``savefig``; it is shown nowhere by itself.
        """
        from astrodeblend.plot import scene_panels

        return scene_panels(self)

    def __repr__(self):
        shape = " x ".join(str(n) for n in self.image.data.shape)
        unit = "" if self.image.unit is None else f" {self.image.unit}"
        blended = int(np.sum(self.catalog["n_blended"] > 1))
        flags = Flag(0)
        for value in self.catalog["flags"]:
            flags |= Flag(value)
        text = f"<Scene: {shape}{unit}, {len(self.catalog)} sources, {blended} of them blended"
        words = "; ".join(decode_flags(flags & (Flag.NOT_DEBLENDED | Flag.NOT_CONVERGED)))
        return f"{text}; some: {words}>" if words else f"{text}>"


def separate_scene(
    image, size_rule, run, score, *, positions, light, rounds, watch, calibration, meta
):
    """Take a whole image apart; `astrodeblend.Deblender.deblend_scene` says what is what.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    size_rule : dict
        Of the model's card.
    run, score : callable
        As `astrodeblend.separate.separate` takes them.
    positions : numpy.ndarray, shape (n, 2), or None
        Of the sources, in pixels; None to detect them.
    light : {'apportioned', 'network'}
        What components hold.
    rounds : int
        The most rounds to take.
    watch : callable
        As `astrodeblend.separate.separate` takes it.
    calibration : Calibration
        How errors of deblending add up in fluxes.
    meta : dict
        What is known already about how this is done.

    Returns
    -------
    Scene
    """
    data, hidden = data_and_mask(image)
    full_scale = full_scale_of(image)
    level, noise = estimate_background(image)
    if size_rule.get("native"):
        level, noise = sky_of_flux(image, (level, noise))
    above = np.where(hidden, 0, data - level)
    # a picture's sources are found and measured in its light before it was stretched
    linear = unstretched(image, full_scale)
    sky = (level, noise) if linear is image else estimate_background(linear)
    sources, segmentation = find_sources(linear, positions=positions, background=sky)
    if positions is not None:  # better known than the centroid of a part of the light
        sources["x_centroid"], sources["y_centroid"] = np.reshape(positions, (-1, 2)).T
    summed = summed_light(linear, sky)
    places = find_places(image, (level, noise), sources, summed, size_rule, full_scale)
    order = np.zeros(1 + int(max(sources["label"], default=0)), int)
    order[sources["label"]] = np.arange(1, len(sources) + 1)
    parents = np.asarray(sources["parent"], int)
    found, taken, adds = separate(
        *(image, level, places, order[segmentation], parents, size_rule, run, score),
        rounds=rounds,
        watch=watch,
    )
    deviation = None  # of the light, if components come without noise
    if size_rule.get("native"):
        found = regain(above, found, noise, ~hidden)
        known = noise if image.uncertainty is None else image.uncertainty.array
        deviation = np.where(hidden, 0, known)
    left = data.astype(np.float64)
    for component in found:
        left[:, *component.box] -= component.light
    found = flag_lost_light(above, found, places, adds=adds)
    shown = found
    if light == "apportioned":
        shown = share_out(above, found, fill=True, noise=deviation)
    shown = [trimmed(component) for component in shown]
    shown = [c if c.light.any() else replace(c, flags=c.flags | Flag.EMPTY) for c in shown]
    radii = sources["petrosian_radius"].value
    catalog = measure_components(
        *(image, above, shown, places, radii, parents, calibration, size_rule["pixels"])
    )
    meta = {**meta, "light": light, "sources": len(sources), "rounds": taken}
    meta |= {
        name: np.median(values, axis=(1, 2)).tolist()
        for name, values in (("background", level), ("noise", noise))
    }
    meta["light_adds"] = bool(adds)
    changes = [c.change for c in found if np.isfinite(c.change)]
    known = any(changes) or len(changes) == len(found)  # isolated sources do not change
    meta["largest_change"] = max(changes, default=0.0) if known else np.nan
    meta["not_converged"] = sum(bool(c.flags & Flag.NOT_CONVERGED) for c in found)
    catalog.meta = dict(meta)
    return Scene(
        to_original_shape(image),
        catalog,
        tuple(_cutout(image, component) for component in shown),
        to_original_shape(_like(image, left)),
        meta,
    )


def _like(image, data):
    """Return an image with other data."""
    return NDData(
        data.astype(np.float32),
        unit=image.unit,
        mask=None if image.mask is None else image.mask.copy(),
        wcs=None if image.wcs is None else image.wcs.deepcopy(),
        meta=dict(image.meta),
    )


def _cutout(image, component):
    """Return a component as an image of its own."""
    box = component.box
    cutout = NDData(
        component.light.astype(np.float32),
        unit=image.unit,
        mask=None if image.mask is None else image.mask[:, *box].copy(),
        uncertainty=StdDevUncertainty(np.sqrt(component.variance).astype(np.float32), copy=False),
        wcs=None if image.wcs is None else image.wcs.slice(box),
        meta={**image.meta, "box": [[part.start, part.stop] for part in box]},
    )
    return to_original_shape(cutout)
