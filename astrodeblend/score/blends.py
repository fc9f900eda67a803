"""Deblend the same blends of two with every deblender, and compare quality and time."""

import contextlib
import itertools
import os
import platform
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from astropy.table import QTable
from tqdm import tqdm

from astrodeblend import __version__
from astrodeblend.metrics import moments

from . import figures
from .methods import Found, Model, Nothing, attempt
from .pairs import Pictures, Surveys
from .peers import PEERS, SURVEY_PEERS
from .report import Report, closing_lines

_REPEATS = 5  # batches that a model is timed on
_PANELS = 6  # blends that are drawn
_WINDOW = 1.5  # pixels: standard deviation of the Gaussian window of `by_position`
_NAMED = ("numpy", "torch", "astropy", "photutils", "sep", "scarlet2", "jax")  # with their versions
_REASONS = 3  # most frequent reasons of a peer's failures that are told


def benchmark(blends, *, models=(), peers=None, slow_blends=30, meta=None, progress=False):
    """Deblend the same blends of two with several deblenders, and score them alike.

    Parameters
    ----------
    blends : BlendSet or SurveyBlends
        Colour pictures (`astrodeblend.blends.draw_blends`) or, in linear flux, blends of a survey
        (`astrodeblend.simulate.simulate_blends`).
    models : sequence of Deblender, optional
        Models for such images. Of a survey each source is asked for in turn, in the middle of the
        stamp.
    peers : sequence of Method, optional
        Other deblenders, by default all of ``PEERS`` or ``SURVEY_PEERS``. Those whose package is
        not installed are listed and passed over; one that fails on a blend is counted, and goes
        on with the next.
    slow_blends : int, optional
        Number of the blends, the first, that a slow peer is tried on.
    meta : dict, optional
        Further entries that say where a survey's blends come from, such as the seed.
    progress : bool, optional
        Show progress bars.

    Returns
    -------
    Report
        Its tables are described in :ref:`score-tables`. ``measured`` has ``entries``, what each
        deblender scored (`Entry`), ``pictures`` of the first few blends, and of a survey
        ``truth`` (`Truth`).
    """
    task = _task(blends)
    if peers is None:
        pictures = isinstance(task, Pictures)
        peers = [peer() for peer in PEERS.values()] if pictures else SURVEY_PEERS.values()
    peers = list(peers)
    if slow_blends < 1:
        raise ValueError(f"slow_blends={slow_blends}: give at least 1")
    for model in models:
        task.check(model.card)
    methods = [Nothing(), *(peer for peer in peers if peer.installed), *map(Model, models)]
    runs = [_Run(method, task, slow_blends) for method in methods]
    name_apart(runs)
    for batch in task.batches(progress=progress):
        for run in runs:
            run.score(batch)
    return _report(task, runs, [peer.hint for peer in peers if not peer.installed], models, meta)


def _report(task, runs, missing, models, meta):
    """Return the `Report` on what was scored."""
    entries = tuple(run.entry() for run in runs)
    number, fewest = len(task.blends), min(map(len, entries))
    same = fewest if fewest < number else None  # that all have tried, if some tried fewer
    notes = [*task.notes, *(note for entry in entries for note in entry.notes())]
    if same:
        notes.insert(len(task.notes), f"Same blends: the first {same}, which all have tried.")
    made = platform_of({model.device for model in models}) | {"notes": notes}
    meta = task.meta | (meta or {})
    tables, lines, numbers = task.tables(entries, same, meta | made)
    first = runs[0].first
    pictures = {"truth": first.isolated[:_PANELS], "blend": first.blend[:_PANELS, None]}
    pictures |= {run.name: np.concatenate(run.drawn) for run in runs[1:]}
    pictures = {name: task.in_colour(images) for name, images in pictures.items()}
    pictures["blend"] = pictures["blend"][:, 0]
    title = f"{task.blends}" + (f" (open: the first {same}, which all have tried)" if same else "")
    scored = [[task.value(e) for e in (entry, entry.first(same))] for entry in entries]
    return Report(
        text="\n".join([*lines[0], *missing, *lines[1], *closing_lines(**made)]),
        tables=tables,
        numbers=meta | made | numbers | {"not installed": missing},
        json="benchmark",
        figures={
            "benchmark": lambda: figures.quality(entries, scored, number, title, task.quality),
            "panels": lambda: figures.compared(pictures, task.labels(entries, pictures)),
        },
        card_scores=task.card_scores(tables["benchmark"], meta),
        measured=SimpleNamespace(entries=entries, pictures=pictures, truth=task.truth),
    )


def tune(peer, blends, *, slow_blends=30, progress=False):
    """Try every combination of a peer's settings on its grid.

    Parameters
    ----------
    peer : Method
        Its ``grid``, or ``grid_of_survey``, has the values; settings that are not in it stay as
        they are.
    blends : BlendSet or SurveyBlends
        Blends to try it on: not those of the benchmark itself.
    slow_blends : int, optional
        Number of the blends, the first, that a slow peer is tried on.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    `~astropy.table.QTable`
        A row per combination, the best first: the settings, ``failures`` and ``milliseconds``; of
        pictures ``psnr_mean``, which decides, and ``psnr_by_position``; of surveys ``flux_mean``,
        which decides, ``flux_median`` and ``psnr``, all bands together, of sources with a
        signal-to-noise ratio above 20 in a band.
    """
    task = _task(blends)
    grid = getattr(peer, task.grid)
    if not peer.installed:
        raise ValueError(peer.hint)
    if not grid:
        raise ValueError(f"peer {peer.name!r} has no grid of settings to try")
    ways = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    number = min(len(blends), slow_blends) if peer.slow else len(blends)
    batches, start = [], 0
    for batch in task.batches():
        batches.append(batch)
        start += len(batch.blend)
        if start >= number:
            break
    rows = []
    for way in tqdm(ways, "settings", unit="setting", disable=not progress):
        run = _Run(replace(peer, **way), task, number)
        for batch in batches:
            run.score(batch)
        entry = run.entry()
        failures = {"failures": entry.failed, "milliseconds": entry.milliseconds}
        rows.append(way | task.tuned(entry) | failures)
    meta = {"peer": peer.name, "blends": number, **getattr(blends, "meta", {})}
    table = QTable(rows, names=list(rows[0]), meta=meta)
    table.sort(task.best, reverse=task.best == "psnr_mean")
    return table


def _task(blends):
    """Return the `Pictures` or `Surveys` of blends."""
    return (Surveys if hasattr(blends, "survey") else Pictures)(blends)


@dataclass(frozen=True, eq=False)
class Entry:
    """Scores of one deblender.

    ``scores`` are arrays with a value for every component, central first. Of pictures, shape
    (blends, 2): ``psnr`` (dB), ``ssim_reiman2019``, ``ssim``, ``flux_error`` (relative, with its
    sign), and ``by_position``, the PSNR if nothing but the galaxies' positions is used to tell the
    components apart. Of a survey, shape (blends, 2, bands): ``flux`` in the footprint and ``total``
    flux (relative errors with their sign), errors of ``centroid`` (pixels) and ``ellipticity``,
    ``psnr`` (dB), and of shape (blends, 2, bands - 1) errors of the ``colour`` of adjacent bands
    (mag). Where errors are stated, also the number of ``pixels`` in the footprint, how many of them
    are within the 68.3 % and the 95.4 % interval (``pixels_68``, ``pixels_95``), and whether the
    flux is (``fluxes_68``, ``fluxes_95``).
    """

    name: str
    version: str
    kind: str  # "nothing", "peer" or "model"
    given: str  # what it was told
    settings: dict  # of a peer
    failures: dict  # number of blends by the reason why they were not separated
    milliseconds: float  # per blend; NaN for doing nothing
    timed: str  # how, in words
    scores: dict

    def __len__(self):
        return len(next(iter(self.scores.values())))

    def first(self, number):
        """Return the entry with the scores of the first blends only."""
        return replace(self, scores={name: each[:number] for name, each in self.scores.items()})

    @property
    def failed(self):
        """Number of blends that were not separated."""
        return sum(self.failures.values())

    def notes(self):
        """Return sentences: what it was given, how it was timed, and why it failed."""
        if self.kind == "nothing":
            return []
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        settings = f" Settings: {settings}." if settings else ""
        reasons = Counter(self.failures).most_common(_REASONS)
        return [
            f"{self.name}: given {self.given}. Timed {self.timed}.{settings}",
            *(f"{self.name}, {number} of {len(self)} blends: {why}." for why, number in reasons),
        ]


class _Run:
    """A deblender that is scored batch by batch; no failure of a peer stops the run."""

    def __init__(self, method, task, slow_blends):
        self.method, self.task, self.name = method, task, method.name
        self.most = slow_blends if method.slow else np.inf
        self.failures, self.seconds, self.done, self.first = Counter(), [], 0, None
        self.parts, self.drawn = [], []

    def score(self, batch):
        """Deblend one batch and keep its scores."""
        self.first = self.first or batch
        number = int(min(len(batch.blend), self.most - self.done))
        if not number:
            return
        batch = batch._replace(blend=batch.blend[:number], isolated=batch.isolated[:number])
        if self.method.kind == "peer":
            (images, placed), std = self._chosen(batch), None
        else:
            images, std = self.method.components(batch)
            placed = images
        self.parts.append(self.task.scores(batch, images, placed, std, self.method))
        self.drawn.append(images[: max(0, _PANELS - self.done)])
        self.done += number

    def _chosen(self, batch):
        """Return a peer's components of blends, chosen in its favour and by position."""
        images, placed = np.empty((2, *batch.isolated.shape), dtype=np.float32)
        for k, blend in enumerate(batch.blend):
            known = [batch.positions[k], *([batch.conditions[k]] if batch.conditions else [])]
            if not self.seconds:  # one to warm up: imports, compilation
                self._found(blend, known)
            start = time.perf_counter()
            found, why = self._found(blend, known)
            self.seconds.append(time.perf_counter() - start)
            if len(found.light) < 2:
                self.failures[" ".join(why.split())[:200]] += 1
            images[k] = kindest(found, blend, batch.isolated[k]).clip(*self.task.limits)
            placed[k] = by_position(found, blend, known[0]).clip(*self.task.limits)
        return images, placed

    def _found(self, blend, known):
        """Return what a peer finds, nothing if it fails, and why there are not two sources."""
        found, why = attempt(lambda: checked(self.method.split(blend, *known), blend.shape))
        if why:
            return Found(blend, np.empty((0, *blend.shape))), why
        return found, "fewer than two sources"

    def timing(self):
        """Return milliseconds per blend, and how they were measured."""
        if self.method.kind == "nothing":
            return np.nan, "not at all"
        if self.method.kind == "peer":
            how = f"one blend at a time, median of {len(self.seconds)}, after one to warm up"
            return 1000 * float(np.median(self.seconds)), how
        deblender, number = self.method.deblender, len(self.first.blend)
        threads, seconds = torch.get_num_threads(), []
        torch.set_num_threads(1)
        try:
            for _ in range(1 + _REPEATS):
                start = time.perf_counter()
                self.method.components(self.first)
                seconds.append(time.perf_counter() - start)
        finally:
            torch.set_num_threads(threads)
        where = "on the GPU" if deblender.device.type == "cuda" else "in one thread"
        batches = f"median of {_REPEATS} batches of {number}, after one to warm up"
        how = f"{where}, {deblender.arithmetic}, {batches}"
        return 1000 * float(np.median(seconds[1:])) / number, how

    def entry(self):
        """Return the scores of all blends."""
        scores = {name: np.concatenate([p[name] for p in self.parts]) for name in self.parts[0]}
        method = self.method
        return Entry(
            self.name, method.version, method.kind, getattr(method, self.task.given),
            method.settings, dict(self.failures), *self.timing(), scores,
        )  # fmt: skip


def checked(found, shape):
    """Return what a peer found in a blend of that shape; ValueError if it is of no use."""
    sky, light = np.asarray(found.sky), np.asarray(found.light)
    if sky.shape != shape or light.shape != (len(light), *shape):
        raise ValueError(f"sky has shape {sky.shape} and light {light.shape} in a blend of {shape}")
    if not (np.isfinite(sky).all() and np.isfinite(light).all()):
        raise ValueError("there are values that are not finite")
    return Found(sky, light)


def kindest(found, blend, isolated):
    """Return the images of the two galaxies that score highest, chosen with the truth in hand.

    Of all pairs of sources, in either order, and with the other sources either dropped or each
    added to the nearer of the pair (by their centroids), the one with the highest sum of the two
    PSNR is taken. If there are fewer than two sources: the blend for both galaxies, or the one
    source and the sky, whichever scores higher.

    ``found`` is a `Found` of the ``blend`` (bands, y, x), and ``isolated`` the truth (2, bands, y,
    x), whose order the images have.
    """
    sky, light = found
    number = len(light)
    if number < 2:
        images = [np.stack([blend, blend])]
        if number == 1:
            pair = np.stack([sky + light[0], sky])
            images += [pair, pair[::-1]]
        squared = np.square(np.subtract(images, isolated, dtype=float)).sum(axis=(2, 3, 4))
        return images[np.argmin(_log_error(squared))]
    one, other = np.triu_indices(number, 1)
    alone = np.eye(number, dtype=bool)
    middles = moments(np.abs(light), np.ones(light.shape[2:], bool)).centroid
    distance = np.linalg.norm(middles[:, None] - middles, axis=-1)
    nearer = distance[one] <= distance[other]  # (pairs, sources): to the first of the pair
    nearer[np.arange(len(one)), other] = False  # even if both are in the same place
    firsts = np.concatenate([alone[one], nearer])
    seconds = np.concatenate([alone[other], ~nearer])
    ways = np.stack(  # (ways, 2, sources): which sources each galaxy gets
        [np.concatenate([firsts, seconds]), np.concatenate([seconds, firsts])], axis=1
    ).astype(float)
    # The squared error of a sum of sources, from scalar products: no image is made for it.
    flat = light.reshape(number, -1).astype(float)
    left = (sky - isolated).reshape(2, -1).astype(float)
    squared = (
        np.square(left).sum(axis=1)
        + 2 * np.einsum("wgs,gs->wg", ways, left @ flat.T)
        + np.einsum("wgs,sr,wgr->wg", ways, flat @ flat.T, ways, optimize=True)
    )
    best = ways[np.argmin(_log_error(squared))]
    return sky + np.tensordot(best, light, axes=1)


def _log_error(squared):
    """Return the sum of the logarithms of two errors: lowest where the sum of PSNR is highest."""
    return np.log(np.maximum(squared, 1e-12)).sum(axis=-1)


def by_position(found, blend, positions):
    """Return the images of the two galaxies, chosen by where they are, without the truth.

    Each galaxy gets the source with the most light around its position (a Gaussian window of 1.5
    pixels); if both get the same one, it has not been deblended: both get the blend. ``positions``
    (2, 2) are x and y in pixels, central first; other parameters are those of `kindest`.
    """
    sky, light = found
    if len(light) > 1:
        y, x = np.indices(blend.shape[1:])
        squared = [(x - px) ** 2 + (y - py) ** 2 for px, py in positions]
        window = np.exp(-np.array(squared) / (2 * _WINDOW**2))
        central, companion = np.einsum("gyx,sbyx->gs", window, light).argmax(axis=1)
        if central != companion:
            return sky + light[[central, companion]]
    return np.stack([blend, blend])


def name_apart(runs):
    """Add numbers to the names of runs that have the same one."""
    for run in runs:
        same = [other for other in runs if other.name == run.name]
        if len(same) > 1:
            for number, other in enumerate(same, 1):
                other.name = f"{other.name} ({number})"


def platform_of(devices):
    """Return ``machine`` and ``versions`` of a run with models on these devices."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # where there is no such file
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    gpus = sorted({torch.cuda.get_device_name(each) for each in devices if each.type == "cuda"})
    machine = {"CPU": cpu, "cores": os.cpu_count(), "GPU": ", ".join(gpus) or "none used"}
    versions = {"astrodeblend": __version__, "python": platform.python_version()}
    for name in _NAMED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"machine": machine, "versions": versions}
