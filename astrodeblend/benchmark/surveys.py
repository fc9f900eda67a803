"""The same blends of a survey through every deblender: linear flux, band by band."""

from dataclasses import replace

import numpy as np
from astropy.table import QTable
from tqdm import tqdm

from astrodeblend.calibration import Calibration, ask_in_turn, measure_segment
from astrodeblend.light import regained
from astrodeblend.metrics import isophote, moments, psnr
from astrodeblend.plot import in_colour
from astrodeblend.simulate import draw_psfs

from .choice import kindest
from .peers import SURVEY_PEERS, Conditions
from .runs import PeerCalls, machine, model_timing, name_apart, settings_of, versions
from .survey_result import SurveyBenchmark, SurveyEntry, Truth, summary

__all__ = ["benchmark_survey", "tune_survey"]

_BATCH = 32  # blends at once, also while a model is timed
_PANELS = 6  # blends that are drawn


def benchmark_survey(blends, *, models=(), peers=None, slow_blends=30, meta=None, progress=False):
    """Take the same blends of a survey apart with several deblenders, and score them alike.

    Parameters
    ----------
    blends : SurveyBlends
        Of two sources each, as `astrodeblend.simulate.simulate_blends` makes them.
    models : sequence of Deblender, optional
        Models for linear flux. Each source is asked for in turn, in the middle of the stamp.
    peers : sequence of Peer, optional
        Other deblenders, by default all of ``SURVEY_PEERS``. Those whose package is not installed
        are listed and passed over; one that fails on a blend is counted, and goes on with the
        next.
    slow_blends : int, optional
        On how many of the blends, the first, a slow peer is tried.
    meta : dict, optional
        What else there is to say of where the blends come from; the seed, for one.
    progress : bool, optional
        Show progress bars.

    Returns
    -------
    SurveyBenchmark

    Raises
    ------
    ValueError
        If a blend has not two sources, a model is not one for linear flux, or ``slow_blends`` is
        not positive.
    """
    peers = list(SURVEY_PEERS.values()) if peers is None else list(peers)
    if slow_blends < 1:
        raise ValueError(f"slow_blends={slow_blends}: give at least 1")
    for model in models:
        if model.card.scaling != "noise":
            raise ValueError(
                f"model {model.card.name!r} takes {model.card.scaling}s; these blends are linear "
                "flux, choose a model whose scaling is noise"
            )
    psfs = _psfs(blends)
    truth = _truth(blends)
    runs = [_Nothing()]
    runs += [_PeerRun(peer, psfs, slow_blends) for peer in peers if peer.installed]
    runs += [_ModelRun(model) for model in models]
    name_apart(runs)
    batches = range(0, len(blends), _BATCH)
    for start in tqdm(batches, "deblending", unit="batch", disable=not progress):
        batch = _Batch(blends, start)
        for run in runs:
            run.score(batch)
    return SurveyBenchmark(
        blends=str(blends),
        meta={"survey": blends.survey.name, **(meta or {})},
        truth=truth,
        entries=tuple(run.entry() for run in runs),
        missing=tuple(peer.hint for peer in peers if not peer.installed),
        machine=machine({model.device for model in models}),
        versions=versions(),
        pictures=_pictures(blends, runs),
    )


def tune_survey(peer, blends, *, slow_blends=30, progress=False):
    """Try every combination of a peer's settings on its grid, on blends of a survey.

    Parameters
    ----------
    peer : Peer
        Its ``grid_of_survey`` has the values; settings that are not in it stay as they are.
    blends : SurveyBlends
        What to try it on: not the blends of the benchmark itself.
    slow_blends : int, optional
        On how many of the blends, the first, a slow peer is tried.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    `~astropy.table.QTable`
        A row per combination, the one with the lowest ``flux_mean`` first: the settings, and of
        sources with a signal-to-noise ratio above 20 in a band, all bands together,
        ``flux_mean``, ``flux_median`` and ``psnr`` (see `SurveyBenchmark.to_table`); and
        ``failures`` and ``milliseconds``.

    Raises
    ------
    ValueError
        If the peer has no grid, or its package is not installed.
    """
    ways, psfs, truth = settings_of(peer, peer.grid_of_survey), _psfs(blends), _truth(blends)
    number = min(len(blends), slow_blends) if peer.slow else len(blends)
    rows = []
    for way in tqdm(ways, "settings", unit="setting", disable=not progress):
        run = _PeerRun(replace(peer, **way), psfs, number)
        for start in range(0, number, _BATCH):
            run.score(_Batch(blends, start))
        entry = run.entry()
        found = summary(entry.scores, truth.bright[:number])
        shown = {name: found[name] for name in ("flux_mean", "flux_median", "psnr")}
        failures = sum(entry.failures.values())
        rows.append(way | shown | {"failures": failures, "milliseconds": entry.milliseconds})
    table = QTable(rows, names=list(rows[0]), meta={"peer": peer.name, "blends": number})
    table.sort("flux_mean")
    return table


class _Batch:
    """Some of the blends, in units of the sky's noise in each band."""

    def __init__(self, blends, start):
        part = slice(start, start + _BATCH)
        noise = blends.noise[part, :, None, None].astype(np.float32)
        self.blend = blends.blend[part] / noise
        self.isolated = blends.isolated[part] / noise[:, None]
        self.variance = blends.variance[part] / noise**2
        self.positions = blends.position[part]
        self.bands = tuple(band.name for band in blends.survey.bands)

    def __len__(self):
        return len(self.blend)


class _Nothing:
    """The blend itself, taken for both sources; what the other runs are made of."""

    name, version, kind, given = "the blend itself", "", "nothing", "the blend"

    def __init__(self):
        self.settings, self.failures, self.done = {}, {}, 0
        self.parts, self.drawn = [], []

    def score(self, batch):
        """Score one batch."""
        components, std = self.components(batch)
        if not len(components):
            return
        isolated = batch.isolated[: len(components)]
        footprint = isophote(isolated)
        scores = _scores(components, isolated, footprint)
        if std is not None:
            scores |= self.coverage(components, std, isolated, footprint)
        self.parts.append(scores)
        self.drawn.append(components[: max(0, _PANELS - self.done)])
        self.done += len(components)

    def components(self, batch):
        """Return the components, shape (n, 2, bands, y, x), and their deviations or None."""
        return np.broadcast_to(batch.blend[:, None], batch.isolated.shape), None

    def timing(self):
        """Return milliseconds per blend, and how they were measured."""
        return np.nan, "not at all"

    def entry(self):
        scores = {name: np.concatenate([p[name] for p in self.parts]) for name in self.parts[0]}
        return SurveyEntry(
            self.name, self.version, self.kind, self.given, self.settings, scores,
            self.failures, *self.timing(),
        )  # fmt: skip


class _PeerRun(_Nothing):
    """A peer, blend by blend."""

    kind = "peer"

    def __init__(self, peer, psfs, slow_blends):
        super().__init__()
        self.calls, self.psfs = PeerCalls(peer), psfs
        self.most = slow_blends if peer.slow else np.inf
        self.name, self.version = peer.name, peer.version
        self.given, self.settings = peer.given_of_survey, peer.settings
        self.failures, self.timing = self.calls.failures, self.calls.timing

    def components(self, batch):
        number = int(min(len(batch), self.most - self.done))
        images = np.empty_like(batch.isolated[:number])
        for k in range(number):
            conditions = Conditions(batch.variance[k], self.psfs, batch.bands)
            found = self.calls(batch.blend[k], batch.positions[k], conditions)
            images[k] = kindest(found, batch.blend[k], batch.isolated[k])
        return images, None


class _ModelRun(_Nothing):
    """A model, batch by batch."""

    kind = "model"
    given = "the blend, the noise of its sky and the true positions"

    def __init__(self, deblender):
        super().__init__()
        self.deblender, self.first = deblender, None
        self.calibration = Calibration(**deblender.card.calibration).of_scenes()
        self.name = deblender.card.name
        self.version = deblender.card.sha256[:8]

    def components(self, batch):
        if self.first is None:
            self.first = batch
        return self.deblend(batch)

    def deblend(self, batch):
        """Ask for every source in turn, in the middle of the stamp, as scenes do."""
        components, std = ask_in_turn(self._answer, batch.blend, batch.positions)
        return components * regained(batch.blend, components.sum(axis=1), 1.0)[:, None], std

    def _answer(self, stamps, positions):
        options = {"positions": positions, "std": "predicted"}
        components, std = self.deblender.deblend_arrays(stamps, **options)
        return components, self.calibration.std(std, components, stamps[:, None])

    def coverage(self, components, std, isolated, footprint):
        """Say which pixels and fluxes are within the error bars, and how many pixels there are."""
        inside = footprint[:, :, None]
        error = np.abs(components - isolated)
        beyond = self.calibration.interval_95
        flux_off = np.full(components.shape[:3], np.inf)  # in deviations, where it is measured
        for k in np.ndindex(components.shape[:2]):
            fluxes = measure_segment(components[k], isolated[k], noise=1.0)
            if fluxes is not None:
                light = fluxes.light, std[k], fluxes.segment, fluxes.noise
                flux_off[k] = np.abs(fluxes.error) / self.calibration.flux_std(*light)
        return {
            "pixels": np.broadcast_to(inside.sum(axis=(-2, -1)), flux_off.shape),
            "pixels_68": (inside & (error <= std)).sum(axis=(-2, -1)),
            "pixels_95": (inside & (error <= beyond["pixel"] * std)).sum(axis=(-2, -1)),
            "fluxes_68": flux_off <= 1,
            "fluxes_95": flux_off <= beyond["flux"],
        }

    def timing(self):
        return model_timing(self.deblender, lambda: self.deblend(self.first), len(self.first))


def _scores(components, isolated, footprint):
    """Score every component band by band, shape (n, 2, bands); colours (n, 2, bands - 1)."""
    # each band as an image of its own
    found, true = (each[..., None, :, :] for each in (components, isolated))
    inside = footprint[:, :, None]
    have, should = moments(found, inside), moments(true, inside)
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = -2.5 * np.log10(have.flux / should.flux)
        colour = magnitude[..., :-1] - magnitude[..., 1:]
    scores = {
        "flux": have.flux / should.flux - 1,
        "total": components.sum(axis=(-2, -1), dtype=float)
        / isolated.sum(axis=(-2, -1), dtype=float)
        - 1,
        "centroid": np.hypot(*np.moveaxis(have.centroid - should.centroid, -1, 0)),
        "ellipticity": np.abs(have.distortion - should.distortion),
        "colour": colour,
        "psnr": psnr(found, true, data_range=isolated.max(axis=(-2, -1))),
    }
    # what cannot be measured, as there is no light, is as wrong as can be
    for name in ("centroid", "ellipticity", "colour"):
        scores[name] = np.where(np.isnan(scores[name]), np.inf, scores[name])
    return scores


def _truth(blends):
    """Return what the scores are told apart by."""
    if blends.isolated.shape[1] != 2 or not blends.present.all():
        raise ValueError(
            f"there are {blends}; the benchmark takes blends of two: give sources=2 to "
            "simulate_blends"
        )
    magnitude = blends.sources.magnitude.reshape(-1, 2)
    distance = np.hypot(*(blends.position[:, 1] - blends.position[:, 0]).T)
    signal = np.square(blends.isolated, dtype=float) / blends.variance[:, None]
    return Truth(
        bands=tuple(band.name for band in blends.survey.bands),
        pixel_scale=blends.survey.pixel_scale,
        separation=distance * blends.survey.pixel_scale,
        fainter=magnitude - magnitude[:, ::-1],
        snr=np.sqrt(signal.sum(axis=(-2, -1))),
    )


def _psfs(blends):
    """Return the PSFs, as wide as the stamps, with a pixel in the middle."""
    return draw_psfs(blends.survey, width=blends.blend.shape[-1] // 2 * 2 - 1)


def _pictures(blends, runs):
    """Return the first blends and what was made of them in colour."""
    noise = blends.noise[:_PANELS]
    flux = {"truth": blends.isolated[:_PANELS], "blend": blends.blend[:_PANELS, None]}
    for run in runs[1:]:
        drawn = np.concatenate(run.drawn)
        flux[run.name] = drawn * noise[: len(drawn), None, :, None, None]
    wavelength = [band.wavelength for band in blends.survey.bands]
    shown = {name: in_colour(each, noise[: len(each)], wavelength) for name, each in flux.items()}
    return shown | {"blend": shown["blend"][:, 0]}
