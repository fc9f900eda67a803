"""The steps from an image to its scene: sky, sources, stamps, network, light."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from astropy.nddata import NDData
from astropy.table import QTable

from astrodeblend import __version__
from astrodeblend.calibration import Calibration
from astrodeblend.detect import (
    around,
    describe_sources,
    find_sources,
    petrosian_radius,
    pixels_of,
    stamp_widths,
)
from astrodeblend.field_inference import overlap, take_apart
from astrodeblend.flags import Flag
from astrodeblend.inference import Inference
from astrodeblend.light import Component, combine, of_stamps
from astrodeblend.results import Deblended, Scene
from astrodeblend.scaling import scaling_of
from astrodeblend.sky import Sky, estimate_sky
from astrodeblend.stamps import cut_stamp, sky_at
from astrodeblend.weights import load_model

__all__ = ["Answer", "FieldTask", "Model", "StampTask", "plan"]

_AT_ONCE = 128  # stamps per call of the network
_DISK = 2.16  # Petrosian radius of an exponential disk in half-light radii
_NEAR = 16  # pixels: a source without data within is not deblended
_UNSEEN = 0.5  # probability below which a given position is flagged NO_SOURCE


def plan(image, model, positions, *, purity):
    """Prepare the deblending of an image: as one field if the model finds sources, else by stamps.

    ``positions`` are (x, y) of the sources, or None to detect them; ``purity`` is the expected
    share of true sources among those that a network finds.
    """
    if model.crowded.finds:
        return FieldTask.of(image, model.crowded, positions, purity)
    return StampTask.of(image, model, positions)


class Model:
    """A network with its card, which deblends stamps in batches; users ask for it as ``asked``."""

    def __init__(self, network, card, *, asked=None, device=None, dtype=None, batch_size="auto"):
        branches = card.network.get("branches", 2)
        if branches != 2:
            raise ValueError(
                f"model {card.name!r} has {branches} branches; a Deblender takes one with two, "
                "central and companion"
            )
        self.asked = asked or card.name
        self.card, self.calibration = card, Calibration(**card.calibration)
        self._options = {"device": device, "dtype": dtype, "batch_size": batch_size}
        self.inference = Inference(network, card, **self._options)

    @cached_property
    def crowded(self):
        """The model for scenes of several sources, which may be this one."""
        name = self.card.crowded
        return Model(*load_model(name), asked=self.asked, **self._options) if name else self

    @property
    def finds(self):
        """Whether the network finds the sources of a field and splits their light in one pass."""
        return hasattr(self.inference.network, "find")

    @property
    def arithmetic(self):
        """Name of the network's dtype, such as ``"float32"``."""
        return str(self.inference.dtype).removeprefix("torch.")

    @property
    def blend_threshold(self):
        """As `astrodeblend.Deblender.blend_threshold`."""
        scorer = self.inference.scorer
        return None if scorer is None else float(scorer.threshold)

    def answers(self, tasks, watch=lambda number: None):
        """Return the network's outputs for tasks of one class: for stamps a list for each task."""
        if self.finds:
            return [task.answer(watch) for task in tasks]
        asked = [(task, k) for task in tasks for k in range(len(task.stamps))]
        found = {}
        groups = {}
        for task, k in asked:
            stamp = task.stamps[k]
            known = tuple(stamp.known) if not self.card.bands else (True,) * len(stamp.known)
            if any(known):
                key = stamp.pixels, known, len(task.stamps) == 1
                groups.setdefault(key, []).append((task, k))
            else:
                found[id(task), k] = task.unanswered(k)
        for (_, known, single), members in groups.items():
            calibration = self.calibration if single else self.calibration.of_scenes()
            for start in range(0, len(members), _AT_ONCE):
                some = members[start : start + _AT_ONCE]
                answers = self._ask(some, np.array(known), calibration)
                for (task, k), answer in zip(some, answers, strict=True):
                    found[id(task), k] = answer
                watch(len(some))
        return [[found[id(task), k] for k in range(len(task.stamps))] for task in tasks]

    def _ask(self, members, known, calibration):
        """Run the network on stamps with the same bands."""
        blends = np.stack([task.stamps[k].blend[known] for task, k in members])
        bands, shown = blends.shape[1], len(self.card.bands) or blends.shape[1]
        batch = torch.from_numpy(np.repeat(blends, shown // bands, axis=1))
        marks = [task.marks(k) for task, k in members]
        most = max(map(len, marks))
        positions = np.full((len(marks), most, 2), np.nan, np.float32)
        for row, mark in zip(positions, marks, strict=True):
            row[: len(mark)] = mark
        where = self.inference.check_positions(positions, batch)
        components, std, distance, scores = self.inference.run(batch, *where, bare=False)
        if std is None:
            std = self.inference.spread(batch, *where)
        components, std = components.numpy(), std.numpy()
        std = calibration.std(std, components, batch.numpy()[:, None])
        if bands < shown:  # average over the model's bands, in which one was repeated
            components, std = (a.mean(axis=2, keepdims=True) for a in (components, std))
        answers = []
        for n, (task, k) in enumerate(members):
            light, spread = np.zeros((2, 2, len(known), *blends.shape[2:]), np.float32)
            light[:, known], spread[:, known] = components[n], std[n]
            flags, familiarity, score = Flag(0), None, np.nan
            if distance is not None:
                limit = float(self.inference.network.familiarity.threshold)
                familiarity = {"distance": float(distance[n]), "threshold": limit}
                if not familiarity["distance"] <= limit:  # true for NaN
                    flags |= Flag.OUT_OF_DISTRIBUTION
            if scores is not None:
                score = float(scores[n])
                if task.alone(k) and score > self.blend_threshold:
                    flags |= Flag.POSSIBLE_BLEND
            answers.append(Answer(light, spread, task.position(k), flags, score, familiarity))
        return answers


@dataclass(frozen=True, eq=False)
class Answer:
    """A network's output for a stamp: light and deviation, (2, bands, y, x), in network values."""

    light: np.ndarray
    std: np.ndarray
    position: tuple[float, float]
    flags: Flag
    blend_score: float = np.nan
    familiarity: dict | None = None


@dataclass(frozen=True, eq=False)
class _Task:
    """An image, its sky, and the model that deblends it."""

    image: NDData
    model: Model
    sky: Sky
    scaling: object
    detected: bool

    @property
    def there(self):
        """1 for each band with data, NaN for one without."""
        return np.where(self.sky.hidden.all(axis=(1, 2)), np.nan, 1)

    def _scene(self, found, sources, light, calibration):
        """Return the scene of the sources' light, with its meta data."""
        model, image, sky = self.model, self.image, self.sky
        meta = {
            "version": __version__,
            "model": model.asked,
            "network": model.card.name,
            "sha256": model.card.sha256,
            "dtype": model.arithmetic,
            "device": model.inference.device.type,
            "kind": self.scaling.kind,
            "positions": "detected" if self.detected else "given",
            "noise_from": sky.noise_from,
            "blend_threshold": model.blend_threshold,
            "calibration": calibration.of_fluxes(),
            "light": light,
            "sources": len(sources),
            "background": (self.there * np.median(sky.level, axis=(1, 2))).tolist(),
            "noise": (self.there * np.median(sky.noise, axis=(1, 2))).tolist(),
            "words": [*image.meta["astrodeblend"].get("read", ()), *sky.words],
        }
        return Scene(image, sky, found, sources, meta)

    def _deblended(
        self, scene, width, pixels, box, core, level, noise, familiarity=None, score=None
    ):
        """Return the result for the only source of a scene, with its stamp and the sky there."""
        box, core = ([[part.start, part.stop] for part in each] for each in (box, core))
        level, noise = ((self.there * each.ravel()).tolist() for each in (level, noise))
        meta = {"stamp_width": width, "stamp_pixels": pixels, "stamp_box": box, "core": core}
        meta |= {"background": level, "noise": noise}
        meta |= {"familiarity": familiarity, "blend_score": score}
        return Deblended(scene, scene.meta | meta)


@dataclass(frozen=True, eq=False)
class StampTask(_Task):
    """An image to deblend by stamps, one around each source."""

    sources: QTable
    stamps: list

    @classmethod
    def of(cls, image, model, positions):
        """Find the sources of an image, or take the given positions, and cut their stamps."""
        rule, shape = model.card.size_rule, image.data.shape[-2:]
        sky, scaling = estimate_sky(image), scaling_of(image)
        sources, _ = find_sources(image, sky, positions=positions, rest=True)
        widths = stamp_widths(sources, rule, shape)
        repeated = len(image.data) < len(model.card.bands)
        stamps, number = [], len(sources) if positions is None else len(positions)
        model = model if number == 1 else model.crowded
        for k in range(number):
            flags = Flag(int(sources["flags"][k])) | (Flag.SINGLE_BAND if repeated else Flag(0))
            place = sources["x_centroid"][k], sources["y_centroid"][k]
            x, y, width = scaling.on_grid(*place, widths[k], rule["pixels"], shape)
            if scaling.adds and width > rule["pixels"]:
                flags |= Flag.LARGE
            options = {"width": width, "pixels": rule["pixels"], "flags": flags}
            stamps.append(cut_stamp(image, sky, scaling, (x, y), **options))
        return cls(image, model, sky, scaling, positions is None, sources[: len(stamps)], stamps)

    def __len__(self):
        return len(self.stamps)

    @property
    def known(self):
        """Whether the image has data around the first source."""
        return self.stamps[0].known.any()

    @cached_property
    def positions(self):
        """Positions of the sources to deblend, shape (n, 2)."""
        return np.stack([self.sources["x_centroid"], self.sources["y_centroid"]], axis=-1)

    def position(self, k):
        """Return the position of a source, (x, y)."""
        return tuple(self.positions[k].tolist())

    @property
    def complete(self):
        """Whether these are all sources; else a single one has the rest as companion."""
        return self.detected or len(self.stamps) != 1

    def alone(self, k):
        """Return whether a source's light touches that of no other."""
        return self.sources["n_blended"][k] == 1

    def marks(self, k):
        """Return the positions of sources in a stamp, its own first, in pixels of the stamp."""
        stamp = self.stamps[k]
        places = stamp.places(self.positions)
        inside = ((places > -0.5) & (places < stamp.pixels - 0.5)).all(axis=1)
        inside[k] = False
        return np.concatenate([places[k : k + 1], places[inside]])

    def unanswered(self, k):
        """Return the output for a stamp without data: no light."""
        nothing = np.full((2, *self.stamps[k].blend.shape), np.nan, np.float32)
        return Answer(nothing, nothing, self.position(k), Flag(0))

    def scene(self, answers, light):
        """Return the scene of the network's outputs."""
        calibration = self.model.calibration
        calibration = calibration if len(answers) == 1 else calibration.of_scenes()
        parts = of_stamps(
            self.image, self.sky, self.scaling, self.stamps, answers, complete=self.complete
        )
        found = combine(self.image, self.sky, self.scaling, *parts)
        return self._scene(found, self.sources, light, calibration)

    def deblended(self, answers):
        """Return the result for the only source."""
        stamp, answer = self.stamps[0], answers[0]
        score = None if np.isnan(answer.blend_score) else answer.blend_score
        return self._deblended(
            self.scene(answers, "network"), stamp.width, stamp.pixels, stamp.slices, stamp.core,
            stamp.level, stamp.noise, answer.familiarity, score,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class FieldTask(_Task):
    """An image to deblend in one pass by a network for fields."""

    values: np.ndarray  # (bands, y, x): flux above the sky in units of its noise; NaN without data
    # (n, 2): positions; empty to find all; of a single one all other light is the rest
    given: np.ndarray
    purity: float  # expected share of true sources among those found

    @classmethod
    def of(cls, image, model, positions, purity):
        """Prepare an image."""
        sky = estimate_sky(image)
        values = np.where(sky.hidden, np.nan, (image.data - sky.level) / sky.noise)
        given = np.reshape([] if positions is None else np.array(positions, float), (-1, 2))
        pixels_of(given, values.shape[1:])  # raises for positions outside
        scaling, detected = scaling_of(image), positions is None
        return cls(image, model, sky, scaling, detected, values.astype(np.float32), given, purity)

    def __len__(self):
        return 1

    @property
    def known(self):
        """Whether the image has data around the first source."""
        near, _ = around(self.given[0], _NEAR, self.values.shape[1:])
        return np.isfinite(self.values[:, *near]).any()

    def answer(self, watch):
        """Return the network's output, a FieldAnswer."""
        psf = self.image.meta["astrodeblend"].get("psf")
        psf = np.full(len(self.values), np.nan) if psf is None else np.asarray(psf, float)
        return take_apart(
            self.model.inference, self.values, psf, positions=self.given, purity=self.purity,
            correlation=self.sky.correlation, watch=watch,
        )  # fmt: skip

    def scene(self, answer, light):
        """Return the scene of the network's output."""
        shape, sky, calibration = self.values.shape, self.sky, self.model.calibration
        number = len(answer.positions) if self.detected else len(self.given)
        own, radii = [], []
        for k, (x, y, part, *_) in enumerate(answer.windows[:number]):
            radii.append(petrosian_radius(part.sum(axis=0), answer.positions[k] - (x, y)))
            own.append(self._component(answer, k, radii[-1]))
        unclaimed, rest = np.zeros(shape), None
        if len(self.given) == 1:
            for k in range(number, len(answer.windows)):
                other = self._component(answer, k, np.nan)
                unclaimed[:, *other.box] += other.light
            rest = self._rest(own[0], unclaimed)
        found = combine(self.image, sky, self.scaling, own, rest, unclaimed)
        radii = np.where(np.isfinite(radii), radii, _DISK * answer.size[:number])
        sources = describe_sources(found.components, radii, shape[1:])
        sources["probability"] = answer.probability[:number]
        return self._scene(found, sources, light, calibration)

    def deblended(self, answer):
        """Return the result for the only source."""
        scene = self.scene(answer, "network")
        central, rest = scene.light.components[0], scene.light.rest
        return self._deblended(
            scene, central.width, round(central.width), rest.box, rest.box,
            central.sky, central.sky_noise,
        )  # fmt: skip

    def _rest(self, central, unclaimed):
        """Return all other light in the stamp of the only source, with the same errors."""
        half = max(central.width, self.model.card.size_rule["pixels"]) / 2
        box = tuple(
            slice(max(int(at - half + 0.5), 0), min(int(at + half + 0.5) + 1, side))
            for at, side in zip(central.position[::-1], self.values.shape[1:], strict=True)
        )
        light, std = np.zeros((2, *self.values.shape), np.float32)
        light[:], std[:, *central.box] = unclaimed, central.deblending
        light, std = light[:, *box], std[:, *box]
        return replace(
            central, box=box, light=light, deblending=std, noise=np.zeros_like(light),
            hidden=self.sky.hidden[:, *box], footprint=np.ones(light.shape[1:], bool),
        )  # fmt: skip

    def _component(self, answer, k, radius):
        """Return the light of a source on the image's pixels."""
        *_, light, std, flux_std = answer.windows[k]
        height, width = self.values.shape[1:]
        place, (box, inner) = answer.positions[k], overlap(answer.windows[k], (height, width))
        noise, level, hidden = (
            np.broadcast_to(each, self.values.shape)[:, *box]
            for each in (self.sky.noise, self.sky.level, self.sky.hidden)
        )
        light, std = light[:, *inner].astype(float), std[:, *inner]
        std = self.model.calibration.std(std, light, light)
        flags = Flag(0)
        if not np.isfinite(radius):
            flags, radius = Flag.UNCERTAIN_SIZE, _DISK * answer.size[k]
        if not (np.isfinite(light).all() and np.isfinite(std).all()):
            light, std, flags = np.zeros_like(light), np.zeros_like(std), flags | Flag.NOT_DEBLENDED
        if not self.detected and answer.probability[k] < _UNSEEN:
            flags |= Flag.NO_SOURCE
        low, high = place - 2 * radius, place + 2 * radius
        if (low < -0.5).any() or (high > (width - 0.5, height - 0.5)).any():
            flags |= Flag.EDGE
        near, _ = around(place, 2 * radius, (height, width))
        if self.sky.hidden[:, *near].any():
            flags |= Flag.MASKED
        white = self.scaling.saturated(self.image.meta.get("header", {}))
        if (self.image.data[:, *near] >= white).any():
            flags |= Flag.SATURATED
        level, sky_noise = sky_at(self.sky, place)
        light, std = light * noise, std * noise
        return Component(
            box, tuple(place.tolist()), 4 * radius, 1.0, light, level, std, np.zeros_like(light),
            sky_noise, hidden, np.ones(light.shape[1:], bool), flags, tuple(place.tolist()),
            flux_std=flux_std * sky_noise.ravel(),
        )  # fmt: skip
