"""Files of scenes and results as one self-contained HTML page."""

import warnings
import zlib
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from astrodeblend.files import atomic_path
from astrodeblend.flags import Flag, count_flags, decode_flags
from astrodeblend.plot.view import RESIDUAL, SIGMA, View, png_address, residual_of, shrunk
from astrodeblend.sky import Sky

__all__ = ["write_page"]

#: Largest numbers of sources (those of the highest signal to noise), thumbnails and pictures.
SOURCES, THUMBNAILS, PICTURES = 5000, 1000, 50

_WRITES = "'astrodeblend deblend IMAGE --scene -o FILE' writes one"
_SIDE = 48  # pixels along the side of a thumbnail
_TOTAL = 900  # pixels along the side of a square with the area of all pictures
_SHOWN = (
    "component", "x_centroid", "y_centroid", "ra", "dec", "segment_flux", "segment_flux_err",
    "semimajor_axis", "ellipticity", "neighbor_distance", "n_blended", "blendedness",
    "blend_score",
)  # fmt: skip
_DISTRIBUTIONS = "segment_flux", "semimajor_axis", "ellipticity", "neighbor_distance", "blendedness"
_UNREADABLE = (
    ArithmeticError, AstropyUserWarning, AttributeError, EOFError, LookupError, OSError, TypeError,
    ValueError, zlib.error,
)  # fmt: skip


def write_page(source, path, *, overwrite=False):
    """Write scenes and results as one self-contained HTML page.

    It shows each image with its sources outlined, and its residual; a catalogue to sort and
    filter, with data, component, residual and flags of every source; histograms of quantities;
    and the headers.

    Parameters
    ----------
    source : str or path-like
        A file written by `astrodeblend.Scene.write` or `astrodeblend.Deblended.write`, or a folder
        of such files, also in subfolders (``.fits``, ``.fit``, ``.fts``, also with ``.gz``).
    path : str or path-like
        The page, such as ``report.html``.
    overwrite : bool, optional
        Replace a file that exists. By default that raises.

    Returns
    -------
    sources : int
        Number of sources.
    bad : list of str
        A sentence for each file of a folder that cannot be read; the page shows them, too.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError
        If ``path`` exists, its folder does not or is read-only, or ``source`` does not exist.
    ValueError
        If ``path`` does not end in ``.html``, or ``source`` holds no scene or result.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{str(path)!r} is no name of an HTML page; end it in .html")
    with atomic_path(path, overwrite=overwrite) as temporary:
        content = _content(Path(source))
        environment = Environment(
            loader=PackageLoader("astrodeblend"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        html = environment.get_template("report.html").render(content)
        temporary.write_text(html, encoding="utf-8")
    return content["total"], content["bad"]


def _content(source):
    """Return the content of the page."""
    files = _files(source)
    side = int(_TOTAL / min(len(files), PICTURES) ** 0.5)
    scenes, rows, bad, total = [], [], [], 0
    for file in files:
        name = file.name if file == source else str(file.relative_to(source))
        try:
            scene, found = _read(file, name, side if len(scenes) < PICTURES else 0, len(scenes))
        except _UNREADABLE as e:
            why = " ".join(str(e).split())
            if not isinstance(e, ValueError) or str(file) not in why:
                why = f"{str(file)!r} cannot be shown, it may be cut off ({why})"
            if file == source:
                raise ValueError(f"{why}; {_WRITES}") from e
            bad.append(why)
            continue
        scenes.append(scene)
        total += len(found)
        rows = sorted([*rows, *found], key=lambda row: -row["snr"])[:SOURCES]
        for row in rows[THUMBNAILS:]:
            row["strip"] = None
    if not scenes:
        raise ValueError(
            f"{str(source)!r} holds no scene or result ({len(bad)} other FITS files, the first: "
            f"{bad[0] if bad else 'none'}); {_WRITES}"
        )
    rows.sort(key=lambda row: (row["scene"], row["label"]))
    columns = list(dict.fromkeys(column for row in rows for column in row["cells"]))
    columns.sort(key=lambda column: (*_SHOWN, "snr").index(column[0]))
    counts = count_flags([row["flags"] for row in rows])
    flags = [(flag.name, decode_flags(flag)[0], count) for flag, count in counts.items()]
    values = {c: np.array([row["cells"].get(c, np.nan) for row in rows]) for c in columns}
    return {
        "title": source.name or str(source.resolve()),
        "several": len(files) > 1,
        "scenes": scenes,
        "rows": rows,
        "columns": [(c, _name(c, columns), c[2], values[c].dtype.kind in "US") for c in columns],
        "flags": flags,
        "distributions": [_histogram(c, values[c]) for c in columns if c[0] in _DISTRIBUTIONS],
        "bad": bad,
        "total": total,
        "thumbnails": sum(row["strip"] is not None for row in rows),
        "pictures": min(len(scenes), PICTURES),
        "sigma": SIGMA,
    }


def _files(source):
    """Return the FITS files of a folder, or the one file."""
    if not source.exists():
        raise FileNotFoundError(f"{str(source)!r} does not exist; name a scene or a folder of them")
    if not source.is_dir():
        return [source]
    ends = tuple(f"{end}{gz}" for end in (".fits", ".fit", ".fts") for gz in ("", ".gz"))
    files = sorted(
        file
        for file in source.rglob("*")
        if file.name.lower().endswith(ends) and not file.name.startswith(".")
    )
    if not files:
        raise ValueError(
            f"{str(source)!r} holds no FITS file; name the folder that scenes were written to"
        )
    return files


def _read(path, name, side, number):
    """Return the content of a file, and a row for every source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        warnings.filterwarnings("error", "File may have been truncated", AstropyUserWarning)
        with fits.open(path, memmap=False) as hdus:
            names = [hdu.name for hdu in hdus]
            kind = next((n for n in ("CATALOG", "SOURCES") if n in names), None)
            if kind is None or "IMAGE" not in names:
                raise ValueError(
                    f"{str(path)!r} is no scene or result: it has no extensions IMAGE and CATALOG "
                    "or SOURCES"
                )
            table = Table.read(hdus, hdu=kind, unit_parse_strict="silent", mask_invalid=False)
            header = hdus["IMAGE"].header
            image = _cube(hdus["IMAGE"].data)
            part = slice(None), slice(None)
            level, noise = (_per_band(header, key, len(image)) for key in ("SKY", "NOISE"))
            picture = "FULLSCAL" in header
            if kind == "CATALOG":
                lights = [(_box(hdu), _cube(hdu.data)) for hdu in hdus if hdu.name == "COMPONENT"]
                left = _cube(hdus["RESIDUAL"].data) - level
            else:
                part = _stamp(hdus[0].header, image.shape)
                both = [_cube(hdus[n].data)[:, *part] - level for n in ("CENTRAL", "COMPANION")]
                lights = [(tuple(slice(0, n) for n in light.shape[1:]), light) for light in both]
                blend = image[:, *part] - level
                _, left = residual_of(*map(np.nan_to_num, (blend, *both)), adds=not picture)
            if len(lights) != len(table):
                raise ValueError(
                    f"{str(path)!r} has {len(lights)} components for the {len(table)} sources of "
                    "its catalogue: it was cut off"
                )
            mask = hdus["IMAGE_MASK"].data if "IMAGE_MASK" in names else None
            cards = [
                (card.keyword, card.value, card.comment)
                for part in (hdus[0].header, header)
                for card in part.cards
                if card.keyword
            ]
    hidden = ~np.isfinite(image)
    if mask is not None:
        hidden |= _cube(mask) != 0
    names = [header.get(f"BAND{k + 1}") for k in range(len(image))]
    known = {"bands": None if None in names else names}
    if picture:
        known |= {"kind": "picture", "full_scale": header["FULLSCAL"]}
    box = [(cut.start or 0, cut.stop or n) for cut, n in zip(part, image.shape[1:], strict=True)]
    sky = Sky(level, np.where(noise > 0, noise, 1), hidden, np.ones(len(image)), "image", ())
    view = View(NDData(image, meta={"astrodeblend": known}), sky, box=box)
    shown = view.as_bytes(view.pixels(view.light))
    residual = view.as_bytes(RESIDUAL((1 + view.sigma(left) / SIGMA) / 2)[..., :3])
    scene = {
        "name": name,
        "cards": cards,
        "sources": len(table),
        "channels": ", ".join(view.legend()),
        "picture": side and png_address(shrunk(shown, side)),
        "residual": side and png_address(shrunk(residual, side)),
        "size": image.shape[:0:-1],
        "shown": shown.shape[1::-1],
        "ellipses": _ellipses(table, not picture, len(shown), part) if side else [],
    }
    rows = _rows(table, [k if name is None else name for k, name in enumerate(names)], number)
    order = np.argsort([-row["snr"] for row in rows])[:THUMBNAILS]
    for k in order:
        rows[k]["strip"] = _strip(view, shown, residual, *lights[k])
    return scene, rows


def _cube(data):
    data = np.asarray(data, dtype=np.float32)
    return data[None] if data.ndim == 2 else data


def _per_band(header, key, bands):
    return np.reshape([header.get(f"{key}{k + 1}", 0.0) for k in range(bands)], (-1, 1, 1))


def _box(hdu):
    """Return the part of the image that a component covers."""
    top, left = (-int(hdu.header[key]) for key in ("LTV2", "LTV1"))
    height, width = hdu.shape[-2:]
    return slice(top, top + height), slice(left, left + width)


def _stamp(header, shape):
    """Return the part of the image inside a result's stamp."""
    half = header["STAMPWID"] / 2
    return tuple(
        slice(max(0, round(middle - half)), min(size, round(middle + half) + 1))
        for middle, size in zip((header["YPOS"], header["XPOS"]), shape[1:], strict=True)
    )


def _strip(view, shown, residual, box, light):
    """Return data, component and residual around a source, side by side."""
    height, width = shown.shape[:2]
    upward = view.look["origin"] == "lower"
    half = max(part.stop - part.start for part in box) // 2 + 2
    middle = [(part.start + part.stop) // 2 for part in box]
    (top, bottom), (left, right) = (
        (max(0, m - half), min(size, m + half))
        for m, size in zip(middle, (height, width), strict=True)
    )
    alone = np.zeros((len(light), bottom - top, right - left), np.float32)
    rows, columns = box
    alone[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
        np.nan_to_num(light)
    )
    up = slice(height - bottom, height - top) if upward else slice(top, bottom)
    part = up, slice(left, right)
    strip = Image.new("RGB", (3 * _SIDE + 4, _SIDE), "white")
    for k, pixels in enumerate((shown[part], view.as_bytes(view.pixels(alone)), residual[part])):
        panel = Image.fromarray(np.ascontiguousarray(pixels))
        scale = _SIDE / max(panel.size)
        size = [max(1, round(scale * n)) for n in panel.size]
        way = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
        strip.paste(panel.resize(size, way), (k * (_SIDE + 2), 0))
    return png_address(strip.quantize(128, Image.Quantize.MAXCOVERAGE))  # a third of the bytes


def _ellipses(table, flipped, height, part):
    """Return an ellipse of 3 semi-axes for every source, in SVG's parameters."""
    found = []
    for row in table:
        x, y, angle = row["x_centroid"], row["y_centroid"], row["orientation"]
        axes = [3 * row[f"semi{name}_axis"] for name in ("major", "minor")]
        axes = [max(float(axis), 1.0) if np.isfinite(axis) else 3.0 for axis in axes]
        if np.isfinite(x) and np.isfinite(y):
            x, y = x - (part[1].start or 0), y - (part[0].start or 0)
            x, y = x + 0.5, height - y - 0.5 if flipped else y + 0.5
            angle = np.nan_to_num(-angle if flipped else angle)
            blended = bool(row["n_blended"] > 1)
            found.append((int(row["label"]), float(x), float(y), *axes, float(angle), blended))
    return found


def _rows(table, bands, number):
    """Return a row for every source; its cells are by column (name, band, unit)."""
    columns = {}
    if "sky_centroid" in table.colnames:
        sky = table["sky_centroid"].icrs
        columns["ra", "", "deg"], columns["dec", "", "deg"] = sky.ra.deg, sky.dec.deg
    for name in table.colnames:
        if name not in _SHOWN:
            continue
        column = table[name]
        unit = "" if column.unit is None else str(column.unit)
        if column.ndim == 2:
            columns |= {(name, str(b), unit): column[:, k] for k, b in enumerate(bands)}
        else:
            columns[name, "", unit] = column
    flux, error = (
        np.asarray(table[name], float).reshape(len(table), len(bands))
        for name in ("segment_flux", "segment_flux_err")
    )
    ratio = np.divide(flux, error, out=np.zeros_like(flux), where=error > 0)
    best = np.nan_to_num(ratio).max(axis=1, initial=0)
    columns["snr", "", ""] = best
    return [
        {
            "scene": number,
            "label": int(table["label"][k]),
            "cells": {column: _plain(values[k]) for column, values in columns.items()},
            "snr": best[k],
            "flags": int(table["flags"][k]),
            "words": _words(table["flags"][k]),
            "strip": None,
        }
        for k in range(len(table))
    ]


def _words(flags):
    return [(flag.name, decode_flags(flag)[0]) for flag in Flag if int(flags) & flag]


def _plain(value):
    if isinstance(value, bytes | str):
        return value.decode() if isinstance(value, bytes) else str(value)
    return float(value)


def _name(column, columns):
    """Return the name of a column for the filter; with its unit, if the files have several."""
    name, band, unit = column
    same = [other for other in columns if other[:2] == column[:2]]
    return "_".join(filter(None, (name, band, unit if len(same) > 1 else ""))).replace(" ", "")


def _histogram(column, values):
    """Return the histogram of a quantity; of fluxes, sizes and distances, of the logarithm."""
    name, band, unit = column
    logarithmic = "flux" in name or "axis" in name or "distance" in name
    good = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
    numbers, edges = np.histogram(np.log10(good) if logarithmic else good, bins=24)
    ends = 10 ** edges[[0, -1]] if logarithmic else edges[[0, -1]]
    return {
        "title": " ".join(filter(None, (name, band, unit and f"({unit})"))),
        "logarithmic": logarithmic,
        "bars": [float(n / max(numbers.max(), 1)) for n in numbers],
        "most": int(numbers.max()),
        "ends": [f"{end:.3g}" for end in ends],
        "good": len(good),
        "other": len(values) - len(good),
    }
