"""Results of deblending: immutable, with units, flags, table, file and figure."""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from io import BytesIO

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import QTable, vstack

from astrodeblend.calibration import Calibration
from astrodeblend.files import atomic_path
from astrodeblend.flags import Flag, count_flags, decode_flags, flag_names
from astrodeblend.images import image_to_hdus, to_original_shape, write_fits
from astrodeblend.light import LIGHTS, Light, outlined
from astrodeblend.measure import measure
from astrodeblend.sky import Sky

__all__ = ["Deblended", "Scene", "brief", "provenance"]

_BRIEF = (
    "label", "component", "x_centroid", "y_centroid", "sky_centroid", "segment_flux",
    "ellipticity", "flag_names",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Scene:
    """An image deblended into its sources.

    Made by `astrodeblend.Deblender.deblend_scene`. It holds two kinds of light; `with_light`
    selects one.

    Parameters
    ----------
    read : `~astropy.nddata.NDData`
        The image, shape (bands, y, x).
    sky : `astrodeblend.sky.Sky`
        The image's sky.
    light : `astrodeblend.light.Light`
        The light of its sources.
    sources : `~astropy.table.QTable`
        The table of detected sources.
    meta : dict
        Version, ``model`` as asked for, ``network`` that it took for this image, with its hash, and
        settings, as plain values; ``background`` and ``noise`` of
        the sky in each band (the median of maps); ``light`` is the selected kind.

    Attributes
    ----------
    image : `~astropy.nddata.NDData`
        The image that was given, shape (bands, y, x), or (y, x) if it was given so.
    catalog : `~astropy.table.QTable`
        A row for every source, with the columns of `astrodeblend.measure.measure`.
    components : tuple of `~astropy.nddata.NDData`
        The sky-subtracted light of every source, in the order of the catalogue: cutouts with the
        image's unit, their WCS, a mask, and the standard deviation as uncertainty; NaN without
        data. ``meta["box"]`` is the place of the cutout in the image, ((y, y), (x, x)).
    residual : `~astropy.nddata.NDData`
        The image less the network's components, sky included.

    Examples
    --------
    >>> from skimage.data import hubble_deep_field
    >>> from astrodeblend import Deblender
    >>> scene = Deblender.from_pretrained().deblend_scene(hubble_deep_field()[60:130, 240:310])
    >>> len(scene.components) == len(scene.catalog)
    True
    >>> bright = scene.catalog[scene.catalog["segment_flux"].sum(axis=1) > 1000]
    >>> alone = scene.component(bright["label"][0])  # on the grid of the image
    >>> alone.data.shape
    (3, 70, 70)
    """

    read: NDData
    sky: Sky
    light: Light
    sources: QTable
    meta: dict

    def with_light(self, light):
        """Return the same scene with components and catalogue of one kind of light.

        Parameters
        ----------
        light : {'apportioned', 'network'}
            The light of the image, apportioned in proportion to the network's components, which
            keeps its flux and noise; or the network's components.

        Returns
        -------
        Scene

        Raises
        ------
        ValueError
            If there is no such kind of light.
        """
        if light not in LIGHTS:
            raise ValueError(f"light={light!r}: choose one of {', '.join(LIGHTS)}")
        return replace(self, meta={**self.meta, "light": light})

    @property
    def image(self):
        """The image that was given."""
        return to_original_shape(self.read)

    @cached_property
    def _above(self):
        return np.where(self.sky.hidden, 0, self.read.data - self.sky.level)

    @cached_property
    def _shown(self):
        if self.meta["light"] == "network":
            return self.light.components
        stated = self.sky.noise if self.read.uncertainty is None else self.read.uncertainty.array
        return self.light.apportioned(self._above, np.where(self.sky.hidden, 0, stated))

    @cached_property
    def catalog(self):
        """The catalogue of sources."""
        catalog = measure(
            *(self.read, self.sky, self._above, self._shown, self.sources),
            Calibration(**self.meta["calibration"]).of_light(self.meta["light"]),
            unclaimed=self.light.unclaimed,
        )
        catalog.meta = dict(self.meta)
        return catalog

    @cached_property
    def components(self):
        """The light of every source."""
        masked = self.sky.hidden.any()
        return tuple(_cutout(self.read, component, masked) for component in self._shown)

    @cached_property
    def residual(self):
        """The image less the network's components."""
        left = self.read.data.astype(np.float64)
        for component in self.light.components:
            left[:, *component.box] -= component.seen
        return to_original_shape(
            _like(self.read, left.astype(np.float32), mask=_mask(self.sky.hidden))
        )

    def component(self, label):
        """Return one component on the grid of the whole image.

        Parameters
        ----------
        label : int
            The source's label in the catalogue.

        Returns
        -------
        `~astropy.nddata.NDData`
            The component; 0 outside the source's footprint.

        Raises
        ------
        ValueError
            If there is no such label.
        """
        number = len(self.components)
        if np.ndim(label) or label not in range(1, number + 1):
            there = f"give one of 1 to {number}" if number else "it is empty"
            raise ValueError(f"label={label!r} is not in the catalogue; {there}")
        part = self.components[int(label) - 1]
        box = (..., *(slice(*ends) for ends in part.meta["box"]))
        data, spread = np.zeros((2, *self.image.data.shape), np.float32)
        data[box], spread[box] = part.data, part.uncertainty.array
        return NDData(
            data,
            unit=self.read.unit,
            mask=self.residual.mask,
            uncertainty=StdDevUncertainty(spread, copy=False),
            wcs=self.read.wcs,
            meta=dict(self.read.meta),
        )

    def write(self, path, *, overwrite=False):
        """Write the scene to a FITS file; after an error no file is left.

        Its extensions are CATALOG, the table; IMAGE and RESIDUAL; and for every source COMPONENT,
        COMPONENT_UNCERT and, if the image has a mask, COMPONENT_MASK, with the source's label as
        EXTVER and the WCS of the cutout, as `~astropy.nddata.CCDData` reads them
        (``CCDData.read(path, hdu=("COMPONENT", 7))``). LTV1 and LTV2 state their place in the
        image: in DS9, physical coordinates are those of the image.

        Parameters
        ----------
        path : str or path-like
            The file; a name that ends in ``.gz`` is compressed.
        overwrite : bool, optional
            Replace a file that exists. By default that raises.

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError
            If ``path`` exists, its folder does not, or that is read-only.
        """
        primary = fits.PrimaryHDU(header=provenance(self.read, self.meta))
        primary.header["LIGHT"] = (self.meta["light"], "kind of light of the components")
        primary.header["NSOURCES"] = (len(self.components), "in the catalogue")
        hdus = [primary, _table_to_hdu(self.catalog, "CATALOG")]
        hdus += _image_hdus(self, self.meta) + image_to_hdus(self.residual, "RESIDUAL")
        write_fits(hdus, path, cutouts=self.components, name="COMPONENT", overwrite=overwrite)

    def write_regions(self, path, *, overwrite=False):
        """Write the sources as regions for DS9: ellipses of 3 semi-axes.

        They are in sky coordinates if the image has a WCS, else in pixels; cyan if the source is
        blended, white if it is isolated, and named by their labels. A source without light is a
        point. Needs the package regions (``pip install regions``).

        Parameters
        ----------
        path : str or path-like
            The file, such as ``sources.reg``.
        overwrite : bool, optional
            Replace a file that exists. By default that raises.

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError
            If ``path`` exists, its folder does not, or that is read-only.
        ImportError
            If the package regions is missing.
        """
        from astrodeblend.plot import source_regions

        regions = source_regions(self.catalog, self.read.wcs)
        with atomic_path(path, overwrite=overwrite) as temporary:
            regions.write(temporary, format="ds9")

    def plot(self, **options):
        """Draw the image with its sources, all components, the residual, and each source alone.

        Parameters
        ----------
        **options
            ``sources``, ``bands``, ``stretch``, ``labels`` and ``axes``, as
            `astrodeblend.plot.scene_panels` says.

        Returns
        -------
        `~matplotlib.figure.Figure`
            The figure, which is not displayed; or ``axes``, if given.
        """
        from astrodeblend.plot import scene_panels

        return scene_panels(self, **options)

    def __repr__(self):
        blended = int(np.sum(self.sources["n_blended"] > 1))
        text = f"<Scene: {_size(self.read)}, {len(self.sources)} sources, {blended} of them blended"
        failed = sum(bool(c.flags & Flag.NOT_DEBLENDED) for c in self.light.components)
        return f"{text}; {failed} could not be deblended>" if failed else f"{text}>"

    def _repr_html_(self):
        from astrodeblend.plot.view import thumbnails

        flags = [
            f"{number} of {len(self.catalog)}: {flag.name}, {decode_flags(flag)[0]}"
            for flag, number in count_flags(self.catalog["flags"]).items()
        ]
        table = brief(self.catalog, 5)._repr_html_()
        return _html(self, thumbnails(self, {"image": self.image}), flags) + table


@dataclass(frozen=True, eq=False, repr=False)
class Deblended:
    """A deblended stamp: the central galaxy, and the rest.

    Made by calling a `astrodeblend.Deblender`.

    Attributes
    ----------
    scene : Scene
        The scene of the central galaxy, with the network's light.
    image : `~astropy.nddata.NDData`
        The image that was given, shape (bands, y, x), or (y, x) if it was given so.
    central, companion : `~astropy.nddata.NDData`
        The galaxy at the position, and all other light in its stamp, each with the sky level
        added: on the grid of ``image``, with its unit, WCS and mask. The uncertainty is a standard
        deviation. Outside the stamp they equal the sky level; NaN without data.
    position : tuple of float
        Position of the central galaxy, (x, y) in pixels.
    flags : Flag
        Flags of the result; `astrodeblend.decode_flags` describes them.
    meta : dict
        As in the scene, and ``stamp_width``, ``stamp_pixels``, ``stamp_box``, ``core`` (the
        part of the image, ((y, y), (x, x)), in which components do not fade), ``familiarity``
        and ``blend_score``. ``calibration["interval_95"]`` is the half width, in standard
        deviations, of the interval with 95.4 % of the truths.

    Examples
    --------
    >>> from skimage.data import hubble_deep_field
    >>> from astrodeblend import Deblender
    >>> result = Deblender.from_pretrained()(hubble_deep_field(), position=(292, 108))
    >>> result.central.data.shape
    (3, 872, 1000)
    >>> result.to_table()["component"].tolist()
    ['central', 'companion']
    """

    scene: Scene
    meta: dict

    @property
    def image(self):
        """The image that was given."""
        return self.scene.image

    @cached_property
    def central(self):
        """The galaxy at the position."""
        return self._whole(self.scene.light.components[0])

    @cached_property
    def companion(self):
        """All other light in its stamp."""
        return self._whole(self.scene.light.rest)

    @property
    def position(self):
        """Position of the central galaxy, (x, y) in pixels."""
        return self.scene.light.components[0].position

    @property
    def flags(self):
        """Flags of the result."""
        return Flag(int(self.scene.catalog["flags"][0])) & ~Flag.EMPTY

    def _whole(self, component):
        """Return a component on the image's grid, with its sky level added."""
        read, sky, box = self.scene.read, self.scene.sky, (slice(None), *component.box)
        shape = read.data.shape
        data = np.broadcast_to(component.sky, shape).astype(np.float32)
        data[box] += component.light
        spread = np.broadcast_to(sky.noise, shape).astype(np.float32)
        if read.uncertainty is not None:
            spread = np.where(sky.hidden, spread, read.uncertainty.array).astype(np.float32)
        spread[box] = np.hypot(component.deblending, component.noise)
        data[sky.hidden] = np.nan
        return to_original_shape(_like(read, data, mask=_mask(sky.hidden), spread=spread))

    def to_table(self):
        """Measure both components, with the columns of a scene's catalogue.

        A companion of several galaxies is measured at its peak.

        Returns
        -------
        `~astropy.table.QTable`
            Two rows, with ``component`` ``central`` and ``companion``, and the columns of
            `Scene.catalog`.
        """
        scene = self.scene
        both = [scene.light.components[0], outlined(scene.light.rest, scene.light.scaling)]
        sources = vstack([scene.sources[:1]] * 2)
        apart = np.hypot(*np.subtract(both[0].position, both[1].position))
        sources["neighbor_distance"][1] = apart * u.pix
        calibration = Calibration(**self.meta["calibration"])
        arguments = scene.read, scene.sky, scene._above, both, sources, calibration
        table = vstack([scene.catalog, measure(*arguments)[1:]], metadata_conflicts="silent")
        table.add_column(["central", "companion"], name="component", index=1)
        table.meta = dict(self.meta)
        return table

    def write(self, path, *, overwrite=False):
        """Write the components and their table to a FITS file; after an error no file is left.

        Its extensions are CENTRAL and COMPANION, each with _UNCERT and, if pixels lack data,
        _MASK, as `~astropy.nddata.CCDData` reads them (``CCDData.read(path,
        hdu="CENTRAL", hdu_mask="CENTRAL_MASK", hdu_uncertainty="CENTRAL_UNCERT")``); IMAGE; and
        SOURCES, the table (``QTable.read(path, hdu="SOURCES")``). The primary header states model
        and settings.

        Parameters
        ----------
        path : str or path-like
            The file.
        overwrite : bool, optional
            Replace a file that exists. By default that raises.

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError
            If ``path`` exists, its folder does not, or that is read-only.
        """
        header = provenance(self.scene.read, self.meta)
        header["XPOS"] = (self.position[0], "[pix] x of the source, from 0")
        header["YPOS"] = (self.position[1], "[pix] y of the source, from 0")
        header["STAMPWID"] = (self.meta["stamp_width"], "[pix] width of the stamp")
        header["FLAGS"] = (int(self.flags), flag_names(self.flags)[:40])
        for words in decode_flags(self.flags):
            header["HISTORY"] = words
        hdus = [fits.PrimaryHDU(header=header)]
        for name in ("central", "companion"):
            hdus += image_to_hdus(getattr(self, name), name.upper())
        hdus += _image_hdus(self.scene, self.meta)
        sources = _table_to_hdu(self.to_table(), "SOURCES")
        write_fits([*hdus, sources], path, overwrite=overwrite)

    def plot(self, **options):
        """Draw the blend, both components and the residual.

        Parameters
        ----------
        **options
            ``bands``, ``stretch`` and ``axes``, as `astrodeblend.plot.panels` says.

        Returns
        -------
        `~matplotlib.figure.Figure`
            The figure, which is not displayed; or ``axes``, if given.
        """
        from astrodeblend.plot import panels

        return panels(self, **options)

    def __repr__(self):
        x, y = self.position
        text = f"<Deblended: {_size(self.scene.read)}, at ({x:.1f}, {y:.1f})"
        words = "; ".join([_model_in_words(self.meta), *decode_flags(self.flags)])
        return f"{text}, {words}>"

    def _repr_html_(self):
        from astrodeblend.plot.view import thumbnails

        images = {name: getattr(self, name) for name in ("image", "central", "companion")}
        pictures = thumbnails(self.scene, images, box=self.meta["stamp_box"])
        return _html(self, pictures) + brief(self.to_table())._repr_html_()


def _html(result, pictures, lines=()):
    """Return the start of a result's HTML in notebooks."""
    lines = [escape(line) for line in (repr(result)[1:-1], *lines)]
    return f"<p>{'<br>'.join(lines)}</p><p>{pictures}</p>"


def brief(catalog, rows=None):
    """Return the main columns of a catalogue, and its brightest rows.

    Parameters
    ----------
    catalog : `~astropy.table.QTable`
        The catalogue of a `Scene`, or from `Deblended.to_table`.
    rows : int, optional
        Number of rows, by decreasing flux summed over bands. By default all, in order.

    Returns
    -------
    `~astropy.table.QTable`
    """
    order = np.arange(len(catalog))
    if rows is not None:
        flux = np.nan_to_num(getattr(catalog["segment_flux"], "value", catalog["segment_flux"]))
        flux = flux if flux.ndim == 1 else flux.sum(axis=1)
        order = np.argsort(-flux, kind="stable")[:rows]
    return catalog[[name for name in _BRIEF if name in catalog.colnames]][order]


def _model_in_words(meta):
    """Return the model that was asked for, and the network that it took if that is another."""
    network = "" if meta["network"] == meta["model"] else f" (network {meta['network']})"
    return f"model {meta['model']}{network}"


def _size(image):
    shape = " x ".join(str(n) for n in to_original_shape(image).data.shape)
    return f"{shape} {image.unit or ''}".strip()


def provenance(image, meta):
    """Return a primary header with the model and settings of an image's components."""
    header = fits.Header()
    header["CREATOR"] = (f"astrodeblend {meta['version']}", "software")
    header["MODEL"] = (meta["model"], "as asked for")
    header["NETWORK"] = (meta["network"], "the trained network that it took")
    header["MODELSHA"] = (meta["sha256"][:16], "sha256 of the network, first 16 digits")
    header["KIND"] = (image.meta["astrodeblend"]["kind"], "kind of image, picture or flux")
    for k, band in enumerate(image.meta["astrodeblend"]["bands"] or (), 1):
        header[f"BAND{k}"] = (str(band), f"name of band {k}")
    return header


def _image_hdus(scene, meta):
    """Return the HDUs of the given image, without its uncertainty."""
    read = scene.read
    hdus = image_to_hdus(_like(read, read.data, mask=_mask(scene.sky.hidden)), "IMAGE")
    for name, key in (("SKY", "background"), ("NOISE", "noise")):
        for k, value in enumerate(meta[key], 1):
            if np.isfinite(value):  # FITS has no cards for NaN
                hdus[0].header[f"{name}{k}"] = (value, f"median over the sky of band {k}")
    return hdus


def _mask(hidden):
    return hidden if hidden.any() else None


def _like(image, data, *, mask, spread=None, box=None):
    """Return an image, or a part of it, with other data, mask and standard deviation."""
    wcs = image.wcs
    return NDData(
        data,
        unit=image.unit,
        mask=mask,
        uncertainty=None if spread is None else StdDevUncertainty(spread, copy=False),
        wcs=wcs if wcs is None or box is None else wcs.slice(box),
        meta=dict(image.meta),
    )


def _cutout(image, component, masked):
    """Return a component as a cutout of the image, of its footprint's extent."""
    seen = (component.seen != 0).any(axis=0) | component.footprint
    inner = tuple(slice(0, 1) for _ in seen.shape)
    if seen.any():
        inner = tuple(
            slice(int(np.argmax(line)), len(line) - int(np.argmax(line[::-1])))
            for line in (seen.any(axis=1), seen.any(axis=0))
        )
    box = tuple(
        slice(part.start + cut.start, part.start + cut.stop)
        for part, cut in zip(component.box, inner, strict=True)
    )
    hidden = component.hidden[:, *inner]
    light, spread = component.seen, np.hypot(component.deblending, component.noise)
    data = np.where(hidden, np.nan, light[:, *inner]).astype(np.float32)
    spread = np.where(light != 0, spread, 0)[:, *inner].astype(np.float32)
    mask = hidden if masked else None  # for all components of an image, or for none
    cutout = _like(image, data, mask=mask, spread=spread, box=box)
    cutout.meta["box"] = [[part.start, part.stop] for part in box]
    return to_original_shape(cutout)


def _table_to_hdu(table, name):
    """Return a table as a FITS extension, with sky coordinates and units, without meta."""
    table = table.copy(copy_data=False)
    table.meta = {}
    content = BytesIO()
    with warnings.catch_warnings():
        # astropy also restores units that FITS does not know, such as nmgy.
        warnings.filterwarnings("ignore", message="The unit .* could not be saved")
        table.write(content, format="fits")
    content.seek(0)
    with fits.open(content, memmap=False) as written:
        hdu = written[1].copy()
    hdu.name = name
    return hdu
