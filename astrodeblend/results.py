"""What comes out of deblending: frozen results with units, flags, a table, a file and a figure."""

import warnings
from dataclasses import dataclass
from enum import IntFlag
from io import BytesIO

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import QTable
from photutils.segmentation import SegmentationImage, SourceCatalog

from astrodeblend.background import data_and_mask, estimate_background
from astrodeblend.calibration import Calibration
from astrodeblend.detect import find_sources
from astrodeblend.images import image_to_hdus, write_fits

__all__ = ["Deblended", "Flag", "decode_flags", "measure_fluxes", "table_to_hdu"]


class Flag(IntFlag):
    """What a user should know about a result, one bit each; `decode_flags` puts it in words."""

    SINGLE_BAND = 1
    EDGE = 2
    MASKED = 4
    SATURATED = 8
    NO_SOURCE = 16
    UNCERTAIN_SIZE = 32
    EMPTY = 64
    OUT_OF_DISTRIBUTION = 128
    NOT_DEBLENDED = 256
    NOT_CONVERGED = 512
    POSSIBLE_BLEND = 1024
    FLUX_NOT_CONSERVED = 2048


_WORDS = {
    Flag.SINGLE_BAND: "the single band was repeated in the model's bands, its outputs averaged",
    Flag.EDGE: "the stamp reaches beyond the image",
    Flag.MASKED: "the stamp has masked pixels; the network saw the background's level there",
    Flag.SATURATED: "the stamp has saturated pixels",
    Flag.NO_SOURCE: "no source was detected at the position; the nearest one set the stamp's width",
    Flag.UNCERTAIN_SIZE: "the source's Petrosian radius, which sets the stamp's width, is a guess",
    Flag.EMPTY: "no light above the noise in a component: its row has no measurements",
    Flag.OUT_OF_DISTRIBUTION: "the stamp is unlike anything the model was trained on",
    Flag.NOT_DEBLENDED: "deblending failed: the source keeps its light from before, or its segment",
    Flag.NOT_CONVERGED: "its light or that of its neighbours still changed in the last round",
    Flag.POSSIBLE_BLEND: "detected as one source, but its blend score says more than one galaxy",
    Flag.FLUX_NOT_CONSERVED: "the network's components have over a tenth less or more light than "
    "the image in its footprint",
}


def decode_flags(flags):
    """Put flags in plain words.

    Parameters
    ----------
    flags : int
        As in `astrodeblend.Deblended.flags` or the ``flags`` column of its table.

    Returns
    -------
    words : list of str
        One sentence per bit that is set, in the order of `Flag`.

    Raises
    ------
    ValueError
        If a bit is set that has no meaning.
    """
    flags = int(flags)
    if flags < 0 or flags > sum(Flag):
        raise ValueError(f"flags={flags} is no combination of flags; they are 0 to {sum(Flag)}")
    return [words for flag, words in _WORDS.items() if flags & flag]


@dataclass(frozen=True, eq=False, repr=False)
class Deblended:
    """A blend taken apart.

    Made by `astrodeblend.Deblender`.

    Attributes
    ----------
    image : `~astropy.nddata.NDData`
        The image that was given, shape (bands, y, x), or (y, x) if it was given so.
    central, companion : `~astropy.nddata.NDData`
        the galaxy at the position, and the one that overlaps it, each with the sky's level
        under it: on the grid of ``image``, with its unit, WCS and mask. The uncertainty is a
        standard deviation. Outside the stamp they hold the level of the background.
    position : tuple of float
        Where the stamp was centred, in pixels (x, y).
    flags : Flag
        What a user should know; `astrodeblend.results.decode_flags` puts it in words.
    meta : dict
        Version, model and its hash, stretch, stamp, background and settings, as plain values;
        ``core`` is the part of the image, ((y, y), (x, x)), that `to_table` measures, and
        ``calibration["interval_95"]`` says how many standard deviations to either side hold
        95.4 % of the truths.
    deblending : numpy.ndarray, shape (2, bands, y, x), or None
        The part of the two uncertainties that deblending makes, not the noise of the image.
    """

    image: NDData
    central: NDData
    companion: NDData
    position: tuple[float, float]
    flags: Flag
    meta: dict
    deblending: np.ndarray | None = None

    def to_table(self):
        """Measure both components.

        Each component is detected and measured in the part of the image inside the stamp, its own
        background subtracted; it counts as one source, however it is structured.

        Returns
        -------
        `~astropy.table.QTable`
            Two rows, ``component`` being ``central`` and ``companion``, with the names and
            meanings of `photutils.segmentation.SourceCatalog`: ``label``, ``x_centroid``,
            ``y_centroid``, ``sky_centroid`` (if the image has a WCS), ``semimajor_axis``,
            ``semiminor_axis``, ``orientation``, ``ellipticity``, ``segment_area``,
            ``segment_flux``, ``kron_flux`` and their ``_err``, which have shape (rows, bands)
            for an image of (bands, y, x); and ``flags``. A component without light above the
            noise has zero flux, NaN elsewhere, and a flag.

        Notes
        -----
        Errors of fluxes have two parts: the noise of the image, which adds in quadrature over the
        pixels, and what deblending may have done wrong, which does not, as light that went to
        the wrong galaxy did so in many pixels (`astrodeblend.calibration.Calibration`). For a
        calibrated model 68.3 % of the fluxes that the galaxies alone would have had, measured in
        the same segment, are within the error.
        """
        box = tuple(slice(*ends) for ends in self.meta["core"])
        calibration = Calibration(**self.meta.get("calibration", {}))
        if self.deblending is None:
            deblending, scale = np.zeros((2, *self.central.data.shape)), 1.0
        else:
            deblending = self.deblending
            scale = self.meta["stamp_width"] / self.meta["stamp_pixels"]
        rows = [
            _measure(component, position, box, std, calibration, scale, self._sky())
            for component, position, std in zip(
                *((self.central, self.companion), (self.position, None), deblending), strict=True
            )
        ]
        bands = () if self.image.data.ndim == 2 else (len(self.image.data),)
        table = QTable()
        table["label"] = [1, 2]
        table["component"] = ["central", "companion"]
        for name, (unit, printed) in _SHAPES.items():
            values = np.array([np.nan if row is None else row[name] for row in rows])
            table[name] = values if unit is None else values << unit
            table[name].info.format = printed
        for name in _FLUXES:
            nothing = np.zeros(bands) if name.endswith("flux") else np.full(bands, np.nan)
            values = np.stack([nothing if r is None else r[name].reshape(bands) for r in rows])
            table[name] = values if self.image.unit is None else values << self.image.unit
            table[name].info.format = ".5g"
        if self.image.wcs is not None:
            sky = self.image.wcs.pixel_to_world(table["x_centroid"], table["y_centroid"])
            table.add_column(sky, name="sky_centroid", index=4)
        table["flags"] = [int(self.flags | (Flag.EMPTY if r is None else 0)) for r in rows]
        table.meta = dict(self.meta)
        return table

    def write(self, path, *, overwrite=False):
        """Write the components and their table to a FITS file, which appears whole or not at all.

        Its extensions are CENTRAL and COMPANION, each with _UNCERT and, where the image has a
        mask, _MASK, as `~astropy.nddata.CCDData` reads them (``CCDData.read(path,
        hdu="CENTRAL", hdu_mask="CENTRAL_MASK", hdu_uncertainty="CENTRAL_UNCERT")``); and
        SOURCES, the table (``QTable.read(path, hdu="SOURCES")``). The primary header says how
        they were made.

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
        hdus = [fits.PrimaryHDU(header=self._provenance())]
        for name in ("central", "companion"):
            hdus += image_to_hdus(getattr(self, name), name.upper())
        sources = table_to_hdu(self.to_table(), "SOURCES")
        write_fits([*hdus, sources], path, overwrite=overwrite)

    def plot(self):
        """Draw the blend, both components and what is left.

        Returns
        -------
        `~matplotlib.figure.Figure`
            With ``savefig``; it is shown nowhere by itself.
        """
        from astrodeblend.plot import panels

        return panels(self)

    def _sky(self):
        """Return level and noise of the sky, where components are without noise to tell by."""
        if self.meta["stretch"]["stretch"] != "noise":
            return None
        return tuple(np.reshape(self.meta[name], (-1, 1, 1)) for name in ("background", "noise"))

    def _provenance(self):
        """Return the primary header: how the components were made."""
        header = fits.Header()
        header["CREATOR"] = (f"astrodeblend {self.meta.get('version', '')}".strip(), "software")
        header["MODEL"] = (self.meta.get("model", ""), "the trained network")
        header["MODELSHA"] = (self.meta.get("sha256", "")[:16], "its sha256, first 16 digits")
        header["XPOS"] = (self.position[0], "[pix] x of the stamp's centre, from 0")
        header["YPOS"] = (self.position[1], "[pix] y of the stamp's centre, from 0")
        header["STAMPWID"] = (self.meta.get("stamp_width"), "[pix] width of the stamp")
        header["STRETCH"] = (self.meta.get("stretch", {}).get("stretch"), "flux to network")
        header["FLAGS"] = (int(self.flags), "0: nothing to know")
        for words in decode_flags(self.flags):
            header["HISTORY"] = words
        return header

    def __repr__(self):
        shape = " x ".join(str(n) for n in self.image.data.shape)
        x, y = self.position
        unit = "" if self.image.unit is None else f" {self.image.unit}"
        text = f"<Deblended: {shape}{unit}, at ({x:.1f}, {y:.1f}), model {self.meta.get('model')}"
        words = "; ".join(decode_flags(self.flags))
        return f"{text}; {words}>" if words else f"{text}>"


# Columns of plain numbers: unit, and how they are printed.
_SHAPES = {
    "x_centroid": (None, ".2f"),
    "y_centroid": (None, ".2f"),
    "semimajor_axis": (u.pix, ".2f"),
    "semiminor_axis": (u.pix, ".2f"),
    "orientation": (u.deg, ".1f"),
    "ellipticity": (None, ".3f"),
    "segment_area": (u.pix**2, ".0f"),
}
_KINDS = ("segment", "kron")
_FLUXES = ("segment_flux", "segment_flux_err", "kron_flux", "kron_flux_err")


def table_to_hdu(table, name):
    """Turn a table into a FITS extension, positions on the sky and units included.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        Read back by ``QTable.read(path, hdu=name)``. Its meta is left out.
    name : str
        Of the extension.

    Returns
    -------
    `~astropy.io.fits.BinTableHDU`
    """
    table = table.copy(copy_data=False)
    table.meta = {}
    content = BytesIO()
    with warnings.catch_warnings():
        # A unit that FITS does not know, such as nmgy, comes back with astropy all the same.
        warnings.filterwarnings("ignore", message="The unit .* could not be saved")
        table.write(content, format="fits")
    content.seek(0)
    with fits.open(content, memmap=False) as written:
        hdu = written[1].copy()
    hdu.name = name
    return hdu


def _measure(component, position, box, deblending, calibration, scale, sky):
    """Measure one component on a part of its image.

    Parameters
    ----------
    component : `~astropy.nddata.NDData`
    position : tuple of float or None
        Where the galaxy is; None for the brightest one.
    box : tuple of slice
        The part (y, x).
    deblending : numpy.ndarray
        The part of the uncertainty that deblending makes.
    calibration : Calibration
        How that adds up in fluxes.
    scale : float
        Width of a pixel of the stamp in pixels of the image.
    sky : tuple of numpy.ndarray or None
        Level and noise of the sky, shape (bands, 1, 1) each; None to estimate them.

    Returns
    -------
    dict or None
        Plain numbers by column, fluxes one per band; None without light above the noise.
    """

    def cut(array):  # as (bands, y, x)
        return array.reshape(-1, *array.shape[-2:])[:, *box]

    data, error = cut(component.data), cut(component.uncertainty.array)
    mask = None if component.mask is None else cut(component.mask)
    image = NDData(data, mask=mask, unit=component.unit, meta=component.meta)
    level, noise = estimate_background(image) if sky is None else sky
    # one galaxy, however it is structured; what a network makes of noise is smooth by itself
    found, segments = find_sources(image, background=(level, noise), contrast=1, smoothing=2.0)
    if len(found) == 0:
        return None
    if position is None:
        row = np.argmax(found["signal_to_noise"])
    else:
        x, y = position[0] - box[1].start, position[1] - box[0].start
        row = np.argmin(np.hypot(found["x_centroid"] - x, found["y_centroid"] - y))
    segment = SegmentationImage((segments == found["label"][row]).astype(np.int32))

    data, hidden = data_and_mask(image)
    data = np.where(hidden, 0, data - level)
    nowhere = hidden.all(axis=0)
    detection = (data / noise).sum(axis=0)
    catalog = SourceCatalog(detection, segment, mask=nowhere, progress_bar=False)
    measured = {name: float(u.Quantity(getattr(catalog, name)[0]).value) for name in _SHAPES}
    measured["x_centroid"] += box[1].start
    measured["y_centroid"] += box[0].start
    deblending = cut(deblending).astype(float)
    fluxes = measure_fluxes(
        catalog,
        segment,
        data,
        noise=np.sqrt(np.maximum(error.astype(float) ** 2 - deblending**2, 0)),
        deblending=deblending,
        coherent=calibration.coherent_std(data, deblending, segment.data > 0),
        calibration=calibration,
        scale=scale,
        sky=np.median(np.broadcast_to(noise, data.shape), axis=(1, 2)),
        kron_area=getattr(catalog.kron_aperture[0], "area", np.nan),  # None if there is none
        masks=hidden,
    )
    return measured | {name: values[0] for name, values in fluxes.items()}


def measure_fluxes(
    catalog, segments, light, *, noise, deblending, coherent, calibration, scale, sky, kron_area,
    masks=None,
):  # fmt: skip
    """Measure fluxes in segments and in Kron's apertures, with errors.

    Parameters
    ----------
    catalog : `~photutils.segmentation.SourceCatalog`
        Of the sum of the bands, which sets the apertures.
    segments : `~photutils.segmentation.SegmentationImage`
        With one segment per source.
    light : numpy.ndarray, shape (bands, y, x)
        Above the sky.
    noise, deblending : numpy.ndarray, shape (bands, y, x)
        Standard deviations of the light by the noise of the image, and by deblending.
    coherent : numpy.ndarray, shape (bands, y, x)
        `astrodeblend.calibration.Calibration.coherent_std` of each source.
    calibration : Calibration
        How errors of deblending add up.
    scale : float or numpy.ndarray, shape (rows, 1)
        Width of a pixel of the stamp in pixels of the image.
    sky : numpy.ndarray, shape (bands,) or (rows, bands)
        Noise of the sky.
    kron_area : float or numpy.ndarray, shape (rows,)
        Pixels of the sky in Kron's apertures.
    masks : numpy.ndarray of bool, shape (bands, y, x), optional
        Pixels without light.

    Returns
    -------
    dict of str to numpy.ndarray
        Shape (rows, bands): ``segment_flux``, ``kron_flux`` and their ``_err``.
    """
    images = np.stack([light, noise**2, coherent, deblending**2])
    sums = _sums(catalog, segments, images, np.zeros(light.shape, bool) if masks is None else masks)
    fluxes = {}
    areas = u.Quantity(catalog.segment_area).value, np.broadcast_to(kron_area, len(catalog.label))
    for kind, area, factor in zip(_KINDS, areas, (1, calibration.kron), strict=True):
        flux, variance, *parts = sums[kind]
        deviation = factor * calibration.combined(*parts, area[:, None], sky, scale=scale)
        fluxes |= {f"{kind}_flux": flux, f"{kind}_flux_err": np.sqrt(variance + deviation**2)}
    return fluxes


def _sums(catalog, segments, images, masks):
    """Sum images over segments and over Kron's apertures without the segments of others.

    As photutils does, which would draw each aperture again for every image.

    Parameters
    ----------
    catalog, segments
        As in `measure_fluxes`.
    images : numpy.ndarray, shape (kinds, bands, y, x)
    masks : numpy.ndarray of bool, shape (bands, y, x)

    Returns
    -------
    dict of str to numpy.ndarray
        ``segment`` and ``kron``, shape (kinds, rows, bands); NaN where there are no pixels.
    """
    labels, owner = np.atleast_1d(catalog.label), segments.data
    sums = {kind: np.full((len(images), len(labels), len(masks)), np.nan) for kind in _KINDS}
    for band, hidden in enumerate(masks):
        seen = np.where(hidden, 0, owner)
        there = np.bincount(seen.ravel(), minlength=labels.max() + 1)[labels] > 0
        for kind, image in enumerate(images[:, band]):
            summed = np.bincount(seen.ravel(), image.ravel(), minlength=labels.max() + 1)[labels]
            sums["segment"][kind, :, band] = np.where(there, summed, np.nan)
    for row, (label, aperture) in enumerate(zip(labels, catalog.kron_aperture, strict=True)):
        if aperture is None:
            continue
        weights = aperture.to_mask(method="exact")
        part, inner = weights.get_overlap_slices(owner.shape)
        if part is None:
            continue
        alone = (owner[part] == 0) | (owner[part] == label)
        seen = weights.data[inner] * (alone & ~masks[:, *part])
        summed = np.einsum("kbyx,byx->kb", images[:, :, *part], seen)
        sums["kron"][:, row] = np.where((seen > 0).any(axis=(1, 2)), summed, np.nan)
    sums["kron"][np.isnan(sums["segment"])] = np.nan
    return sums
