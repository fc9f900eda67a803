"""Running a network for fields over an image: finding on three scales, splitting by blocks."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import KDTree
from torch.nn import functional as F

from astrodeblend.networks import (
    HOLE,
    Pixels,
    Sources,
    centre_probability,
    find_centres,
    least_probability,
)

__all__ = ["FieldAnswer", "overlap", "take_apart"]

_COARSER = (4, 2)  # widths in image pixels of the pixels on which large sources are found
_LARGE = 3.0  # pixels: half-light radius from which on a galaxy is resolved
_LEAST = 1e-3  # units of the noise: least light that is scaled
_SURE = 0.5  # least probability of a source found on coarser pixels
_BLOCK, _MARGIN = 640, 64  # pixels: width of a block and its margin, multiples of ``_GRID``
_GRID = 8  # pixels: cell of the network's coarsest level


@dataclass(frozen=True, eq=False)
class FieldAnswer:
    """The output of a network for fields for an image.

    Attributes
    ----------
    positions, probability, size : numpy.ndarray
        Of all sources, given ones first: x and y in pixels, shape (n, 2); probability of being a
        source, (n,); half-light radius in pixels, (n,).
    total : numpy.ndarray, shape (bands, y, x)
        Noiseless light of all sources and of the diffuse rest.
    windows : list of (x, y, light, std, flux_std)
        For each source the first pixel of its window; light and its standard deviation, shape
        (bands, height, width), 0 outside of the image; and the standard deviation of its flux,
        (bands,).
    """

    positions: np.ndarray
    probability: np.ndarray
    size: np.ndarray
    total: np.ndarray
    windows: list


def take_apart(
    inference, values, psf, *, positions=None, correlation=1.0, purity=0.95,
    watch=lambda number: None,
):  # fmt: skip
    """Find the sources of an image, and split its light among them.

    Large galaxies are found on coarser pixels, on which they are seen whole: a source is taken from
    the coarsest scale on which it is well resolved, and detections at its position on finer scales
    are dropped. The probability of any other source is that on the scale that shows it best. Light
    is split on each scale, from fine to coarse: what smaller sources leave is shared between larger
    ones and nobody.

    Parameters
    ----------
    inference : astrodeblend.inference.Inference
        A `astrodeblend.networks.FieldNet` on its device.
    values : numpy.ndarray, shape (bands, y, x)
        Sky-subtracted flux in units of each band's noise; NaN where there are no data.
    psf : numpy.ndarray, shape (bands,)
        Full width at half maximum in pixels; NaN where it is not known.
    positions : numpy.ndarray, shape (n, 2), optional
        Positions of sources, (x, y) in pixels. Two or more are taken as all sources; with a
        single one, all others are found.
    correlation : numpy.ndarray, shape (bands,), optional
        Correlation of the noise, as in `astrodeblend.sky.Sky`.
    purity : float, optional
        Expected share of true sources among those found; given ones count as true.
    watch : callable, optional
        Called with 1 when a block is done.

    Returns
    -------
    FieldAnswer
    """
    network, shape = inference.network, values.shape[1:]
    given = np.reshape([] if positions is None else np.asarray(positions, float), (-1, 2))
    finds = len(given) < 2
    # Rows of x, y, probability, size and scale, the last three of given positions filled in later.
    known, small = np.pad(given, [(0, 0), (0, 3)], constant_values=np.nan), np.empty((0, 5))
    with inference.arithmetic():
        for times in _COARSER if min(shape) >= 16 * _COARSER[0] else ():
            maps = _maps(inference, *_coarser(values, psf, correlation, times))
            _read(known[: len(given)], maps, network.calibration.cpu(), times)
            if finds:
                found = _centres(maps, network.calibration.cpu(), times)
                found[:, :2] = np.clip(found[:, :2], 0, np.array(shape[::-1]) - 1)
                large = found[:, 3] >= times * _LARGE
                known = np.concatenate([known, found[large]])
                small = np.concatenate([small, found[~large]])
        rows, sources, pixels = _look(inference, values, psf, known, finds=finds, watch=watch)
        _raise(rows[len(known) :], small)
        certain = np.append(np.ones(len(given)), rows[len(given) :, 2])
        least = least_probability(torch.from_numpy(certain), purity)
        rows = rows[chosen := _chosen(rows, len(given), len(known), values, least)]
        windows = _share(inference, sources, pixels, chosen)
        total = pixels["total"][0].numpy()
        for times in sorted(set(rows[:, 4]) - {1}):
            windows = _share_on_coarser(
                inference, values, psf, correlation, rows, windows, total, int(times)
            )
    x, y, chance, size, _ = rows.T
    return FieldAnswer(np.stack([x, y], 1), chance, size, total, windows)


def _look(inference, values, psf, known, *, finds=False, watch=lambda number: None):
    """Run the shared layers block by block.

    Return rows, those of known sources filled in and followed by those found; the queries of these
    sources, and the keys of pixels, as dictionaries of tensors on the CPU.
    """
    network, calibration = inference.network, inference.network.calibration.cpu()
    whole, asked, rows = None, [], [known]
    for block, inner, core in _blocks(values.shape[1:]):
        seen = network.look(*_tensors(inference, values[:, *block], psf))
        maps = [each.float().cpu() for each in network.heat(seen)]
        start = np.array([block[1].start, block[0].start, 0, 0, 0])
        number = np.flatnonzero(_within(known, core))
        here = known[number] - start
        _read(here, maps, calibration, 1)
        known[number] = here + start
        if finds:
            fine = _centres(maps, calibration, 1)
            fine = fine[_within(fine, inner)]
            number = np.append(number, sum(map(len, rows)) + np.arange(len(fine)))
            rows.append(fine + start)
            here = np.concatenate([here, fine])
        sources = _asked(inference, seen, here)
        sources["source"] = torch.from_numpy(number)
        sources["at"] += torch.as_tensor(start[:2], dtype=torch.float32)
        asked.append(sources)
        parts = dict(vars(network.pixels(seen)))
        parts |= {name: parts[name].half() for name in ("key", "std_key")}
        if whole is None:
            whole = {k: v.new_empty(*v.shape[:2], *values.shape[1:], *v.shape[4:], device="cpu")
                     for k, v in parts.items()}  # fmt: skip
        for name, part in parts.items():
            whole[name][:, :, *core] = part[:, :, *inner].cpu()
        watch(1)
    return (
        np.concatenate(rows),
        {k: torch.cat([each[k] for each in asked]) for k in asked[0]},
        whole,
    )


def _share(inference, sources, pixels, chosen):
    """Split light among the chosen sources; return the windows of `FieldAnswer`."""
    order = sources["source"].argsort()[torch.from_numpy(chosen)]
    sources = {k: v[order].to(inference.device) for k, v in sources.items()}
    sources["source"] = torch.arange(len(chosen))
    pixels = Pixels(**{k: v.to(inference.device) for k, v in pixels.items()})
    windows = [None] * len(chosen)
    for source, corner, parts in inference.network.share(pixels, Sources(**sources)):
        parts = (part.float().cpu().numpy() for part in parts)
        for k, (x, y), *of_source in zip(source.tolist(), corner.tolist(), *parts, strict=True):
            windows[k] = x, y, *of_source
    return windows


def _share_on_coarser(inference, values, psf, correlation, rows, windows, total, times):
    """Split the light of large galaxies on pixels ``times`` as wide, on which they are seen whole.

    What the sources of finer scales leave of the light is shared among the others and nobody.
    """
    large = rows[:, 4] >= times
    left, rest = values.copy(), total.copy()
    for k in np.flatnonzero(~large):
        box, inner = overlap(windows[k], total.shape[1:])
        light = windows[k][2][:, *inner]
        left[:, *box] -= light
        rest[:, *box] -= light
    coarse, psf = _coarser(left, psf, correlation, times)
    here = rows[large] / [1, 1, 1, times, 1]
    here[:, :2] = (here[:, :2] + 0.5) / times - 0.5
    _, sources, pixels = _look(inference, coarse, psf, here)
    unit = np.reshape(np.broadcast_to(correlation, len(values)), (-1, 1, 1))
    windows, every = list(windows), pixels["total"][0].numpy()
    # Of faint light finer pixels tell less: its level is that of coarser ones.
    known = _coarser(rest.clip(0), psf, correlation, times)[0]
    level = np.nan_to_num((every / known.clip(_LEAST)).clip(0, 2), nan=1.0)  # at the edges
    level = _finer(level, times)
    rest = rest.clip(0) * level[:, : rest.shape[1], : rest.shape[2]]
    shared = _share(inference, sources, pixels, np.arange(len(here)))
    for k, window in zip(np.flatnonzero(large), shared, strict=True):
        box, inner = overlap(window, every.shape[1:])
        x, y = (times * part.start for part in box[::-1])
        share, std = (
            _finer(part, times)[:, : total.shape[1] - y, : total.shape[2] - x]
            for part in (window[2][:, *inner] / every[:, *box].clip(1e-6), window[3][:, *inner])
        )
        there = slice(y, y + share.shape[1]), slice(x, x + share.shape[2])
        light = rest[:, *there] * share
        windows[k] = x, y, light, std * unit / times, window[4] * unit.ravel() * times
    return windows


def _finer(planes, times):
    """Return planes on pixels ``times`` as narrow, between which values are interpolated."""
    planes = torch.from_numpy(planes)[None]
    return F.interpolate(planes, scale_factor=times, mode="bilinear")[0].numpy()


def overlap(window, shape):
    """Return the part of an image that a window covers, and the part of the window inside of it."""
    x, y, light, *_ = window
    box = tuple(
        slice(max(low, 0), min(low + side, most))
        for low, side, most in zip((y, x), light.shape[1:], shape, strict=True)
    )
    return box, tuple(
        slice(b.start - low, b.stop - low) for b, low in zip(box, (y, x), strict=True)
    )


def _centres(maps, calibration, times):
    """Return sources found on pixels ``times`` as wide, as rows of `take_apart`."""
    ((at, chance, size),) = find_centres(*maps, calibration)
    at = (at.double() + 0.5) * times - 0.5
    scale = torch.full_like(size, times)
    return np.column_stack([each.numpy() for each in (at, chance, size * times, scale)])


def _read(rows, maps, calibration, times):
    """Fill in missing probabilities and sizes; on coarser pixels only those of large sources."""
    heat, _, log_size = maps
    at = _pixel((rows[:, :2] + 0.5) / times - 0.5, heat.shape[:1:-1])
    chance = centre_probability(heat, calibration)
    chance = F.max_pool2d(chance, 3, stride=1, padding=1)[0, 0][at].numpy()
    size = log_size[0, 0][at].exp().numpy()
    unread = np.isnan(rows[:, 3])
    if times > 1:
        unread &= (size >= _LARGE) & (chance > _SURE)
    scale = np.full_like(size, times)
    rows[unread, 2:] = np.column_stack([chance, size * times, scale])[unread]


def _raise(rows, others):
    """Raise the probabilities of sources to those of the same ones on coarser pixels."""
    apart, nearest = KDTree(rows[:, :2]).query(others[:, :2])
    same = apart <= np.maximum(2.0, others[:, 3] / 4)
    np.maximum.at(rows[:, 2], nearest[same], others[same, 2])


def _chosen(rows, given, large, values, least):
    """Return the rows to keep: given ones, then those of probability ``least``, without duplicates.

    The first ``given`` rows are given positions; rows up to ``large`` are from coarser pixels.
    """
    extent = np.array(values.shape[:0:-1])
    near = ndimage.maximum_filter(np.isfinite(values).any(axis=0), 2 * HOLE + 1)
    chosen = list(range(given))
    order = np.append(np.arange(given, large), large + np.argsort(-rows[large:, 2], kind="stable"))
    for k in order[rows[order, 2] >= least]:
        apart = np.hypot(*(rows[chosen, :2] - rows[k, :2]).T)
        seen = near[_pixel(rows[k, :2], extent)]
        if seen and not (apart <= np.maximum(2.0, rows[chosen, 3] / 4)).any():
            chosen.append(k)
    return np.array(chosen, int)


def _asked(inference, seen, rows):
    """Return the queries of sources, on the CPU."""
    at, size = (torch.from_numpy(rows[None, :, k]).float() for k in (slice(2), 3))
    present = torch.ones(size.shape, dtype=torch.bool)
    given = (each.to(inference.device) for each in (at, present, size))
    return {k: v.cpu() for k, v in vars(inference.network.sources(seen, *given)).items()}


def _within(rows, box):
    """Return the mask of rows in a part (y, x) of an image; pixels are half open."""
    inside = [
        (rows[:, k].clip(0) > part.start - 0.5) & (rows[:, k] <= part.stop - 0.5)
        for k, part in zip((1, 0), box, strict=True)
    ]
    return inside[0] & inside[1]


def _maps(inference, values, psf):
    """Return heat map, offsets and sizes, computed block by block."""
    maps = None
    for block, inner, core in _blocks(values.shape[1:]):
        found = inference.network.find(*_tensors(inference, values[:, *block], psf))
        if maps is None:
            maps = [torch.empty(1, each.shape[1], *values.shape[1:]) for each in found]
        for full, part in zip(maps, found, strict=True):
            full[:, :, *core] = part[:, :, *inner].float().cpu()
    return maps


def _tensors(inference, values, psf):
    """Return one image and its PSF as tensors for the network."""
    values, psf = (np.ascontiguousarray(each, np.float32)[None] for each in (values, psf))
    return torch.from_numpy(values).to(inference.device), torch.from_numpy(psf).to(inference.device)


def _blocks(shape):
    """Yield blocks of an image: the block with its margin; its inside, in the block and image."""
    axes = []
    for side in shape:
        number = math.ceil(max(side - 2 * _MARGIN, 1) / _BLOCK)
        step = math.ceil(side / number / _GRID) * _GRID
        axes.append(
            [
                (slice(max(start - _MARGIN, 0), min(start + step + _MARGIN, side)),
                 slice(start, min(start + step, side)))
                for start in range(0, side, step)
            ]
        )  # fmt: skip
    for block_y, core_y in axes[0]:
        for block_x, core_x in axes[1]:
            block, core = (block_y, block_x), (core_y, core_x)
            inner = tuple(
                slice(c.start - b.start, c.stop - b.start) for b, c in zip(block, core, strict=True)
            )
            yield block, inner, core


def _coarser(values, psf, correlation, times):
    """Return an image on pixels ``times`` as wide, in units of their noise, and its PSF."""
    bands, *shape = values.shape
    pad = [(0, 0), *((0, -side % times) for side in shape)]
    values = np.pad(values, pad, constant_values=np.nan)
    tiles = values.reshape(bands, values.shape[1] // times, times, -1, times)
    known = np.isfinite(tiles)
    number = known.sum(axis=(2, 4))
    mean = np.where(known, tiles, 0).sum(axis=(2, 4)) / np.maximum(number, 1)
    mean = mean * times / np.reshape(np.broadcast_to(correlation, bands), (-1, 1, 1))
    return np.where(number >= times**2 / 2, mean, np.nan), psf / times


def _pixel(place, extent):
    """Return rows and columns of the pixels that contain positions (..., 2), x and y."""
    pixel = np.clip(np.floor(np.asarray(place) + 0.5), 0, np.asarray(extent) - 1).astype(int)
    return pixel[..., 1], pixel[..., 0]
