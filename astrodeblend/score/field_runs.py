"""Deblenders asked for the sources of fields, and which detection is which source."""

import time
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import cdist

from astrodeblend.training.field_losses import FAINT, match

from .methods import Catalogue, Method, attempt
from .shares import ellipticity_of

__all__ = ["Field", "FieldEntry", "FieldRun", "FieldTruth"]


class FieldTruth(NamedTuple):
    """What is true of n sources, an array each."""

    field: np.ndarray  # which one each is in
    position: np.ndarray  # this and the next two as `astrodeblend.simulate.Fields` has them
    flux: np.ndarray
    limit: np.ndarray
    ellipticity: np.ndarray  # as `Catalogue` has it
    size: np.ndarray  # half-light radius in pixels
    away: np.ndarray  # distance to the nearest other source, in pixels


@dataclass(frozen=True, eq=False)
class FieldEntry:
    """What one deblender made of the first fields."""

    method: Method
    name: str  # which no other has
    positions: str  # "detected" or "given"
    found: np.ndarray  # whether it has found a source of the truth, of the fields that it tried
    sources: Catalogue  # what it says of these; NaN for those that it did not find
    # (d, 4), of every detection where there are data, none of given positions: signal to noise,
    # distance to the nearest other one in pixels, whether it is true, and its field
    detections: np.ndarray
    seconds: np.ndarray  # of each field that it tried
    processor_seconds: np.ndarray
    failures: dict  # why it failed, and on how many fields


class Field:
    """One field: what is shown, what is true, and which detection is what."""

    def __init__(self, fields, k, band):
        bad = fields.mask[k] | fields.saturated[k]
        self.data, self.error = np.where(bad, 0, fields.image[k]), np.sqrt(fields.variance[k])
        self.bad, self.band = bad, band
        position, snr = fields.position[k], fields.snr[k]
        strong = fields.present[k] & (np.sqrt(np.square(snr).sum(axis=1)) > FAINT)
        of = {name: torch.as_tensor(getattr(fields, name)[[k]]) for name in ("size", "psf")}
        self.every, self.strong = (
            SimpleNamespace(
                present=torch.as_tensor(there[None]), position=torch.as_tensor(position[None]), **of
            )
            for there in (fields.present[k], strong)
        )
        judged = fields.inside[k] & ~self.hidden(position) & np.isfinite(fields.limit[k, :, band])
        self.judged = np.flatnonzero(judged)
        away = cdist(position, position)
        np.fill_diagonal(away, np.inf)
        away[:, ~strong] = np.inf
        values = (
            np.full(len(position), k), position, fields.flux[k], fields.limit[k],
            _ellipticities(fields, k), fields.size[k], away.min(axis=1),
        )  # fmt: skip
        self.truth = FieldTruth(*(each[judged] for each in values))
        # positions to give: of two in one pixel that of the brighter one
        told = np.flatnonzero(judged & strong)
        told = told[np.argsort(-snr[told, band], kind="stable")]
        pixels = np.floor(position[told] + 0.5)
        self.told = told[np.sort(np.unique(pixels, axis=0, return_index=True)[1])]
        self.position = position

    def hidden(self, position):
        """Return whether positions are where a band has no data or is saturated."""
        bad = self.bad.any(axis=0)
        x, y = np.round(np.nan_to_num(position)).astype(int).T
        return bad[y.clip(0, len(bad) - 1), x.clip(0, bad.shape[1] - 1)]

    def match(self, position):
        """Return which source each detection is, -1 for none; and whether it counts."""
        places = torch.as_tensor(np.nan_to_num(position, nan=-1e6))
        which = match(self.strong, 0, places).numpy()
        faint = match(self.every, 0, places).numpy() >= 0
        return which, ~self.hidden(position) & ((which >= 0) | ~faint)

    def aligned(self, which, catalogue):
        """Return which of the sources to be judged were found, and what is said of them."""
        known = which >= 0
        rows = Catalogue.empty(len(self.position), len(self.data))
        found = np.zeros(len(self.position), bool)
        found[which[known]] = True
        for mine, theirs in zip(rows, catalogue, strict=True):
            mine[which[known]] = theirs[known]
        return found[self.judged], Catalogue(*(each[self.judged] for each in rows))


class FieldRun:
    """A deblender, field by field, of detected and of given positions."""

    def __init__(self, method, most):
        self.method, self.most, self.name = method, most, method.name
        kinds = ("detected", "given") if method.takes_positions else ("detected",)
        self.parts = {kind: [] for kind in kinds}
        self.failures = {kind: Counter() for kind in kinds}

    def score(self, one, seen, detected):
        """Ask for the sources of a field; return where they were detected."""
        positions = None if self.method.detects else detected
        catalogue, *times = self.ask("detected", seen, positions)
        which, counts = one.match(catalogue.position)
        away = cdist(catalogue.position, catalogue.position)
        np.fill_diagonal(away, np.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            strength = (catalogue.flux / catalogue.error)[:, one.band]
        away = away.min(axis=1, initial=np.inf)
        field = np.full(len(which), len(self.parts["detected"]))
        detections = np.stack([strength, away, which >= 0, field], axis=1)
        self.parts["detected"].append((*one.aligned(which, catalogue), detections[counts], *times))
        found = catalogue.position[np.isfinite(catalogue.position).all(axis=1)]
        if "given" in self.parts:
            catalogue, *times = self.ask("given", seen, one.position[one.told])
            which = one.told if len(catalogue.flux) else one.told[:0]  # none if it has failed
            self.parts["given"].append((*one.aligned(which, catalogue), np.empty((0, 4)), *times))
        return found

    def ask(self, kind, seen, positions):
        """Return a catalogue, and the seconds and processor seconds that it took."""
        start = time.perf_counter(), time.process_time()

        def find():
            found = self.method.find(seen, positions)
            if kind == "given" and len(found.flux) != len(positions):
                raise ValueError(f"{len(found.flux)} sources for {len(positions)} positions")
            return found

        catalogue, why = attempt(find, strict=self.method.kind == "model")
        if why:
            self.failures[kind][why[:200]] += 1
            catalogue = Catalogue.empty(0, len(seen.data))
        return catalogue, time.perf_counter() - start[0], time.process_time() - start[1]

    def entries(self):
        """Yield what was found of all fields."""
        for kind, parts in self.parts.items():
            found, sources, detections, *times = zip(*parts, strict=True)
            yield FieldEntry(
                self.method, self.name, kind, np.concatenate(found),
                Catalogue(*map(np.concatenate, zip(*sources, strict=True))),
                np.concatenate(detections), *map(np.array, times), dict(self.failures[kind]),
            )  # fmt: skip


def _ellipticities(fields, k):
    """Return the ellipticities of all sources of a field; NaN for those without light on it."""
    most = fields.present.shape[1]
    found = np.full(most, np.nan, complex)
    for source, _, stamps in fields.light.groups:
        of = source // most == k
        if of.any():
            found[source[of] % most] = ellipticity_of(stamps[of], fields.noise[k])
    return found
