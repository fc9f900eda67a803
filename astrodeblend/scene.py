"""A whole image taken apart: a catalogue, a component for every source, and what is left."""

from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import QTable

from astrodeblend.catalog import measure_components
from astrodeblend.detect import data_and_mask, estimate_background
from astrodeblend.images import image_to_hdus, to_original_shape, write_fits
from astrodeblend.places import find_places, find_sources_in_light
from astrodeblend.results import Flag, decode_flags, table_to_hdu
from astrodeblend.separate import separate, share_out

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
        image its stamp covers, with the image's unit, the WCS of that part, its mask, and the
        standard deviation as uncertainty. ``meta["box"]`` is the part, ((y, y), (x, x)).
    residual : `~astropy.nddata.NDData`
        The image less the network's own components, sky included.
    meta : dict
        Version, model and its hash, settings, how many rounds it took, as plain values.
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

        Its extensions are CATALOG, the table; RESIDUAL; and for every source COMPONENT and
        COMPONENT_UNCERT with EXTVER the source's label, each with a WCS of its own.

        Parameters
        ----------
        path : str or path-like
            Where to.
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
        hdus = [primary, table_to_hdu(self.catalog, "CATALOG")]
        hdus += image_to_hdus(self.residual, "RESIDUAL")
        for label, component in enumerate(self.components, 1):
            for hdu in image_to_hdus(component, "COMPONENT"):
                hdu.ver = label
                hdus.append(hdu)
        write_fits(hdus, path, overwrite=overwrite)

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


def separate_scene(image, size_rule, run, *, positions, light, rounds, watch, meta):
    """Take a whole image apart; `astrodeblend.Deblender.deblend_scene` says what is what.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    size_rule : dict
        Of the model's card.
    run : callable
        As `astrodeblend.separate.separate` takes it.
    positions : numpy.ndarray, shape (n, 2), or None
        Of the sources, in pixels; None to detect them.
    light : {'apportioned', 'network'}
        What components hold.
    rounds : int
        The most rounds to take.
    watch : callable
        As `astrodeblend.separate.separate` takes it.
    meta : dict
        What is known already about how this is done.

    Returns
    -------
    Scene
    """
    data, hidden = data_and_mask(image)
    level, _ = estimate_background(image)
    above = np.where(hidden, 0, data - level)
    sources, segmentation, measured = find_sources_in_light(image, positions)
    if positions is not None:  # better known than the centroid of a part of the light
        sources["x_centroid"], sources["y_centroid"] = np.reshape(positions, (-1, 2)).T
    places = find_places(image, measured, sources, size_rule)
    order = np.zeros(1 + int(max(sources["label"], default=0)), int)
    order[sources["label"]] = np.arange(1, len(sources) + 1)
    parents = np.asarray(sources["parent"], int)
    found, taken = separate(
        *(image, level, places, order[segmentation], parents, size_rule, run),
        rounds=rounds,
        watch=watch,
    )
    left = data.astype(np.float64)
    for component in found:
        left[:, *component.box] -= component.light
    shown = share_out(above, found, fill=True) if light == "apportioned" else found
    shown = [c if c.light.any() else replace(c, flags=c.flags | Flag.EMPTY) for c in shown]
    radii = sources["petrosian_radius"].value
    catalog = measure_components(image, above, shown, places, radii, parents)
    meta = {**meta, "light": light, "rounds": taken, "sources": len(sources)}
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
