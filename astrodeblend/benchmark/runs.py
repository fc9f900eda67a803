"""The same blends through every deblender, one batch after the other."""

import contextlib
import itertools
import os
import platform
import re
import time
import warnings
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from astropy.table import QTable
from tqdm import tqdm

from astrodeblend import __version__
from astrodeblend.evaluate import METRICS
from astrodeblend.metrics import flux_error, psnr
from astrodeblend.weights import check_model

from .choice import by_position, kindest
from .peers import PEERS, Found
from .result import Benchmark, Entry

__all__ = [
    "PeerCalls",
    "benchmark",
    "machine",
    "model_timing",
    "name_apart",
    "settings_of",
    "tune",
    "versions",
]

_BATCH = 32  # stamps at once, also while a model is timed
_REPEATS = 5
_PANELS = 6  # blends that are drawn
_NAMED = ("numpy", "torch", "astropy", "photutils", "sep", "scarlet2", "jax")


def benchmark(blends, *, models=(), peers=None, slow_blends=30, progress=False):
    """Take the same blends apart with several deblenders, and score them alike.

    Parameters
    ----------
    blends : BlendSet
        What to try them on.
    models : sequence of Deblender, optional
        Models for colour pictures.
    peers : sequence of Peer, optional
        Other deblenders, by default all of ``PEERS`` with their settings as they come. Those
        whose package is not installed are listed and passed over; one that fails on a blend is
        counted, and goes on with the next.
    slow_blends : int, optional
        On how many of the blends, the first, a slow peer is tried.
    progress : bool, optional
        Show progress bars.

    Returns
    -------
    Benchmark

    Raises
    ------
    ValueError
        If a model is not one for colour pictures, or ``slow_blends`` is not positive.
    """
    peers = [peer() for peer in PEERS.values()] if peers is None else list(peers)
    if slow_blends < 1:
        raise ValueError(f"slow_blends={slow_blends}: give at least 1")
    for model in models:
        check_model(model.card)
    missing = tuple(peer.hint for peer in peers if not peer.installed)
    runs = [_Nothing()]
    runs += [_PeerRun(peer, slow_blends) for peer in peers if peer.installed]
    runs += [_ModelRun(model) for model in models]
    name_apart(runs)
    truth, start, positions = [], 0, _positions(blends)
    for blend, isolated in blends.batches(_BATCH, progress=progress):
        truth.append((blend, isolated) if start < _PANELS else None)
        for run in runs:
            run.score(blend, isolated, positions[start : start + len(blend)])
        start += len(blend)
    blend, isolated = (np.concatenate(p)[:_PANELS] for p in zip(*filter(None, truth), strict=True))
    pictures = {"truth": isolated, "blend": blend}
    pictures |= {run.name: run.pictures() for run in runs[1:]}
    return Benchmark(
        blends=blends,
        entries=tuple(run.entry() for run in runs),
        missing=missing,
        machine=machine({model.device for model in models}),
        versions=versions(),
        pictures=pictures,
    )


def tune(peer, blends, *, slow_blends=30, progress=False):
    """Try every combination of a peer's settings on its grid.

    Parameters
    ----------
    peer : Peer
        Its ``grid`` has the values; settings that are not in it stay as they are.
    blends : BlendSet
        What to try it on: not the blends of the benchmark itself.
    slow_blends : int, optional
        On how many of the blends, the first, a slow peer is tried.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    `~astropy.table.QTable`
        A row per combination, the best first: the settings, ``psnr_mean`` and
        ``psnr_by_position`` (see `Benchmark.to_table`), ``failures``, ``milliseconds``.

    Raises
    ------
    ValueError
        If the peer has no grid, or its package is not installed.
    """
    ways = settings_of(peer, peer.grid)
    number = min(len(blends), slow_blends) if peer.slow else len(blends)
    batches, positions = [], _positions(blends)
    for blend, isolated in blends.batches(_BATCH):
        start = sum(len(part[0]) for part in batches)
        batches.append((blend, isolated, positions[start : start + len(blend)]))
        if start + len(blend) >= number:
            break
    rows = []
    for way in tqdm(ways, "settings", unit="setting", disable=not progress):
        run = _PeerRun(replace(peer, **way), number)
        for batch in batches:
            run.score(*batch)
        row = run.entry().summary()
        shown = ("psnr_mean", "psnr_by_position", "failures", "milliseconds")
        rows.append(way | {name: row[name] for name in shown})
    table = QTable(rows, names=list(rows[0]), meta={"peer": peer.name, "blends": number})
    table.meta |= blends.meta
    table.sort("psnr_mean", reverse=True)
    return table


def settings_of(peer, grid):
    """Return every combination of a peer's settings on a grid, a list of dictionaries.

    Parameters
    ----------
    peer : Peer
        Which has to be installed.
    grid : dict of str to tuple
        The values of each setting.
    """
    if not peer.installed:
        raise ValueError(peer.hint)
    if not grid:
        raise ValueError(f"peer {peer.name!r} has no grid of settings to try")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def name_apart(runs):
    """Give runs of the same name numbers.

    Parameters
    ----------
    runs : list
        Each with a ``name``, which is changed.
    """
    for run in runs:
        same = [other for other in runs if other.name == run.name]
        if len(same) > 1:
            for number, other in enumerate(same, 1):
                other.name = f"{other.name} ({number})"


class PeerCalls:
    """A peer, called blend by blend and timed; nothing that it does stops the run.

    Parameters
    ----------
    peer : Peer
        Its ``failures`` are counted.
    """

    def __init__(self, peer):
        self.peer, self.failures, self.seconds = peer, {}, []

    def __call__(self, blend, *known):
        """Return what the peer finds in a blend."""
        if not self.seconds:  # one to warm up: imports, compilation
            self._found(blend, *known)
        start = time.perf_counter()
        found, why = self._found(blend, *known)
        self.seconds.append(time.perf_counter() - start)
        if len(found.light) < 2:
            why = " ".join(why.split())[:200]
            self.failures[why] = self.failures.get(why, 0) + 1
        return found

    def _found(self, blend, *known):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = _checked(self.peer(blend, *known), blend.shape)
        except Exception as error:  # noqa: BLE001
            # whatever goes wrong in another's code is counted, and the run goes on
            return Found(blend, np.empty((0, *blend.shape))), f"{type(error).__name__}: {error}"
        return found, "fewer than two sources"

    def timing(self):
        """Return milliseconds per blend, and how they were measured."""
        how = f"one blend at a time, median of {len(self.seconds)}, after one to warm up"
        return 1000 * float(np.median(self.seconds)), how


def model_timing(deblender, deblend, number):
    """Measure what a model takes for a batch.

    Parameters
    ----------
    deblender : Deblender
    deblend : callable
        Takes the batch apart.
    number : int
        Of blends in it.

    Returns
    -------
    milliseconds : float
        Per blend.
    how : str
        In words.
    """
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(1 + _REPEATS):
            start = time.perf_counter()
            deblend()
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    where = "on the GPU" if deblender.device.type == "cuda" else "in one thread"
    batches = f"median of {_REPEATS} batches of {number}, after one to warm up"
    how = f"{where}, {deblender.arithmetic}, {batches}"
    return 1000 * float(np.median(seconds[1:])) / number, how


class _Nothing:
    """The blend itself, taken for both galaxies; what the other runs are made of."""

    name, version, kind, given = "the blend itself", "", "nothing", "the blend"

    def __init__(self):
        self.settings, self.failures, self.done = {}, {}, 0
        self.parts, self.placed, self.drawn = [], [], []

    def score(self, blend, isolated, positions):
        """Score one batch."""
        images, placed = self.components(blend, isolated, positions)
        if not len(images):
            return
        isolated = isolated[: len(images)]
        scores = {name: metric(images, isolated) for name, metric in METRICS.items()}
        self.parts.append(scores | {"flux_error": flux_error(images, isolated)})
        self.placed.append(psnr(placed, isolated))
        self.drawn.append(images[: max(0, _PANELS - self.done)])
        self.done += len(images)

    def components(self, blend, isolated, positions):
        """Return the components as they are scored, and by position: (n, 2, bands, y, x)."""
        same = np.broadcast_to(blend[:, None], isolated.shape)
        return same, same

    def timing(self):
        """Return milliseconds per blend, and how they were measured."""
        return np.nan, "not at all"

    def pictures(self):
        return np.concatenate(self.drawn)

    def entry(self):
        scores = {name: np.concatenate([p[name] for p in self.parts]) for name in self.parts[0]}
        return Entry(
            self.name, self.version, self.kind, self.given, self.settings, scores,
            np.concatenate(self.placed), self.failures, *self.timing(),
        )  # fmt: skip


class _PeerRun(_Nothing):
    """A peer, blend by blend."""

    kind = "peer"

    def __init__(self, peer, slow_blends):
        super().__init__()
        self.calls = PeerCalls(peer)
        self.most = slow_blends if peer.slow else np.inf
        self.name, self.version = peer.name, peer.version
        self.given, self.settings = peer.given, peer.settings
        self.failures, self.timing = self.calls.failures, self.calls.timing

    def components(self, blend, isolated, positions):
        number = int(min(len(blend), self.most - self.done))
        images, placed = np.empty((2, number, *isolated.shape[1:]), dtype=np.float32)
        for k in range(number):
            found = self.calls(blend[k], positions[k])
            images[k] = kindest(found, blend[k], isolated[k]).clip(0, 1)
            placed[k] = by_position(found, blend[k], positions[k]).clip(0, 1)
        return images, placed


class _ModelRun(_Nothing):
    """A model, batch by batch."""

    kind = "model"

    def __init__(self, deblender):
        super().__init__()
        self.deblender, self.stamps = deblender, None
        self.name = deblender.card.name
        self.version = deblender.card.sha256[:8]

    def components(self, blend, isolated, positions):
        if self.stamps is None:
            self.stamps = blend
        components = np.asarray(self.deblender.deblend_arrays(blend))
        return components, components

    def timing(self):
        return model_timing(
            self.deblender, lambda: self.deblender.deblend_arrays(self.stamps), len(self.stamps)
        )


def _checked(found, shape):
    """Return what a peer has found, or raise if it is of no use."""
    sky, light = np.asarray(found.sky), np.asarray(found.light)
    if sky.shape != shape or light.shape != (len(light), *shape):
        raise ValueError(f"sky has shape {sky.shape} and light {light.shape} in a blend of {shape}")
    if not (np.isfinite(sky).all() and np.isfinite(light).all()):
        raise ValueError("there are values that are not finite")
    return Found(sky, light)


def _positions(blends):
    """Return where the two galaxies of each blend are, (n, 2, 2): x and y in stamp pixels."""
    recipe, draw = blends.recipe, blends.draw
    middle = np.array([(recipe.crop - 1) / 2] * 2 + [1])
    # where a pixel comes from, inverted: where the middle of a galaxy's image goes to
    moved = [np.linalg.inv(matrix) @ middle for matrix in draw.matrices(recipe.crop)]
    return (np.stack(moved, axis=1)[..., :2] - recipe.factor // 2) / recipe.factor


def machine(devices):
    """Say what this is run on.

    Parameters
    ----------
    devices : set of torch.device
        Of the models.
    """
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # where there is no such file
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    gpus = sorted({torch.cuda.get_device_name(each) for each in devices if each.type == "cuda"})
    return {"CPU": cpu, "cores": os.cpu_count(), "GPU": ", ".join(gpus) or "none used"}


def versions():
    """Name the versions of what is installed."""
    found = {"astrodeblend": __version__, "python": platform.python_version()}
    for name in _NAMED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
