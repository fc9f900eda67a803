"""The walk of images: sky, sources, stamps, what a network says of them, light."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from astropy.nddata import NDData
from astropy.table import QTable

from astrodeblend import __version__
from astrodeblend.calibration import Calibration
from astrodeblend.detect import find_sources, stamp_widths
from astrodeblend.flags import Flag
from astrodeblend.inference import Inference
from astrodeblend.light import combine
from astrodeblend.results import Deblended, Scene
from astrodeblend.scaling import scaling_of
from astrodeblend.sky import Sky, estimate_sky
from astrodeblend.stamps import cut_stamp
from astrodeblend.weights import load_model

__all__ = ["Answer", "Model", "Task"]

_AT_ONCE = 128  # stamps in memory


class Model:
    """A network with its card, and how it answers about stamps."""

    def __init__(self, network, card, *, device=None, dtype=None, batch_size="auto"):
        branches = card.network.get("branches", 2)
        if branches != 2:
            raise ValueError(
                f"model {card.name!r} has {branches} branches; a Deblender takes one with two, "
                "central and companion"
            )
        self.card, self.calibration = card, Calibration(**card.calibration)
        self._options = {"device": device, "dtype": dtype, "batch_size": batch_size}
        self.inference = Inference(network, card, **self._options)

    @cached_property
    def crowded(self):
        """The model for scenes of several sources, which may be this one."""
        name = self.card.crowded
        return Model(*load_model(name), **self._options) if name else self

    @property
    def arithmetic(self):
        """Of the network, such as ``"float32"``."""
        return str(self.inference.dtype).removeprefix("torch.")

    @property
    def blend_threshold(self):
        """As `astrodeblend.Deblender.blend_threshold`."""
        scorer = self.inference.scorer
        return None if scorer is None else float(scorer.threshold)

    def answers(self, tasks, watch=lambda number: None):
        """Return what the network says of the stamps of tasks: a list of answers for each."""
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
        """Ask about stamps that have the same bands."""
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
        if bands < shown:  # repeated in the model's bands: average
            components, std = (a.mean(axis=2, keepdims=True) for a in (components, std))
        answers = []
        for n, (task, k) in enumerate(members):
            light, spread = np.zeros((2, 2, len(known), *blends.shape[2:]), np.float32)
            light[:, known], spread[:, known] = components[n], std[n]
            flags, familiarity, score = Flag(0), None, np.nan
            if distance is not None:
                limit = float(self.inference.network.familiarity.threshold)
                familiarity = {"distance": float(distance[n]), "threshold": limit}
                if not familiarity["distance"] <= limit:  # what is no number is not small
                    flags |= Flag.OUT_OF_DISTRIBUTION
            if scores is not None:
                score = float(scores[n])
                if task.alone(k) and score > self.blend_threshold:
                    flags |= Flag.POSSIBLE_BLEND
            answers.append(Answer(light, spread, task.position(k), flags, score, familiarity))
        return answers


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network says of a stamp: light and deviation, (2, bands, y, x) in its own values."""

    light: np.ndarray
    std: np.ndarray
    position: tuple[float, float]
    flags: Flag
    blend_score: float = np.nan
    familiarity: dict | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """An image, what was found in it, and the stamps of the sources to be taken apart."""

    image: NDData
    model: Model
    sky: Sky
    scaling: object
    sources: QTable
    stamps: list
    detected: bool

    @classmethod
    def of(cls, image, model, positions):
        """Find the sources of an image, or take those at positions, and cut their stamps."""
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
        return cls(image, model, sky, scaling, sources[: len(stamps)], stamps, positions is None)

    @cached_property
    def positions(self):
        """Of the sources to be taken apart, shape (n, 2)."""
        return np.stack([self.sources["x_centroid"], self.sources["y_centroid"]], axis=-1)

    def position(self, k):
        """Return the position of a source, (x, y)."""
        return tuple(self.positions[k].tolist())

    @property
    def complete(self):
        """Whether these are all sources; what else there is, is the companion of a single one."""
        return self.detected or len(self.stamps) != 1

    def alone(self, k):
        """Say whether a source's light touches that of no other."""
        return self.sources["n_blended"][k] == 1

    def marks(self, k):
        """Return where the sources in a stamp are, its own first, in its pixels."""
        stamp = self.stamps[k]
        places = stamp.places(self.positions)
        inside = ((places > -0.5) & (places < stamp.pixels - 0.5)).all(axis=1)
        inside[k] = False
        return np.concatenate([places[k : k + 1], places[inside]])

    def unanswered(self, k):
        """Return the answer about a stamp without data: none."""
        nothing = np.full((2, *self.stamps[k].blend.shape), np.nan, np.float32)
        return Answer(nothing, nothing, self.position(k), Flag(0))

    def scene(self, answers, light):
        """Put the answers together."""
        model, image, sky = self.model, self.image, self.sky
        calibration = model.calibration if len(answers) == 1 else model.calibration.of_scenes()
        meta = {
            "version": __version__,
            "model": model.card.name,
            "sha256": model.card.sha256,
            "dtype": model.arithmetic,
            "device": model.inference.device.type,
            "kind": self.scaling.kind,
            "positions": "detected" if self.detected else "given",
            "noise_from": sky.noise_from,
            "blend_threshold": model.blend_threshold,
            "calibration": calibration.of_fluxes(),
            "light": light,
            "sources": len(answers),
            "background": np.median(sky.level, axis=(1, 2)).tolist(),
            "noise": np.median(sky.noise, axis=(1, 2)).tolist(),
            "words": [*image.meta["astrodeblend"].get("read", ()), *sky.words],
        }
        found = combine(image, sky, self.scaling, self.stamps, answers, complete=self.complete)
        return Scene(image, sky, found, self.sources, meta)

    def deblended(self, answers):
        """Put the answer about the only source together."""
        scene, stamp, answer = self.scene(answers, "network"), self.stamps[0], answers[0]
        meta = scene.meta | {
            "stamp_width": stamp.width,
            "stamp_pixels": stamp.pixels,
            "stamp_box": [[part.start, part.stop] for part in stamp.slices],
            "core": [[part.start, part.stop] for part in stamp.core],
            "background": stamp.level.ravel().tolist(),
            "noise": stamp.noise.ravel().tolist(),
            "familiarity": answer.familiarity,
            "blend_score": None if np.isnan(answer.blend_score) else answer.blend_score,
        }
        return Deblended(scene, meta)
