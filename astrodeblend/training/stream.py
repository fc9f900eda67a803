"""Streams of training blends: every batch depends on the seed and its index only."""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from ..simulate.batched import Simulator, share_of, to_device, white_noise
from ..simulate.populations import get_chances
from ..simulate.recipes import get_recipe
from ..simulate.survey_batches import SurveyStream

__all__ = ["BlendStream", "FluxStream", "StampStream", "scatter"]

_SYMMETRIES = 8  # number of symmetries of the square
# Widths of pictures with marks, in widths of the stamp, and their probabilities.
_WIDTHS, _CHANCES = (1.0, 0.94, 0.83), (0.6, 0.2, 0.2)
_OFF = 5.0  # pixels: largest offset of a target from the middle in x and y
_REACH = 0.3  # widths of the stamp: largest distance of a target from the middle in x and y
# Probability of no marks but the target's, in blends of up to two and of more sources.
_UNMARKED = (0.55, 0.15)
_SCATTER, _OWN_SCATTER = 0.3, 0.15  # pixels: standard deviation of marks, and of the target's
_LOST, _ALL_LOST = 0.1, 0.1  # probability that a mark is missing, or all but the target's
_FALSE = 2 * (0.1,)  # probabilities of marks without a source


def stream_of(config, images, device, rank=0, world=1):
    """Return the stream of training blends of a configuration."""
    options = {"batch": config.batch, "seed": config.seed, "device": device}
    options |= {"rank": rank, "world": world, "marks": config.network.get("marks", False)}
    if config.surveys and isinstance(images, np.ndarray):
        return StampStream(images, **_survey_options(config), **options)
    if config.surveys:
        return FluxStream(config.surveys, images, **_survey_options(config), **options)
    return BlendStream(
        images, config.recipe, final_recipe=config.final_recipe, final=first_final(config),
        whole=config.adversarial != "none", **options,
    )  # fmt: skip


def first_final(config):
    """Return the first update with the final recipe."""
    return round((1 - config.decay) * config.steps)


def _survey_options(config):
    """Return the options of blends of surveys, with keys as numbers where JSON has text."""
    options = {
        key: tuple(v) if isinstance(v, list) else v for key, v in config.survey_options.items()
    }
    for name in ("sources", "bands", "widths"):
        if isinstance(options.get(name), dict):
            options[name] = {int(number): chance for number, chance in options[name].items()}
    return options


class BlendStream:
    """Stream of blends of pictures; batch ``k`` is the same whenever it is read.

    Batches do not depend on each other, so a resumed run continues with the same blends, and the
    processes of a distributed run divide each batch among themselves.

    Parameters
    ----------
    images : numpy.ndarray
        Galaxies, (n, bands, y, x), as in `astrodeblend.simulate.Simulator`.
    recipe : str or Recipe
        Recipe of the blends.
    batch : int
        Blends per batch, over all processes.
    seed : int
        Seed of the random numbers.
    device : str or torch.device, optional
        Device of the blends.
    rank, world : int, optional
        Index of this process, and number of processes.
    final_recipe : str or Recipe, optional
        Recipe from batch ``final`` on, with stamps of the same size.
    final : int, optional
        The first batch of that recipe.
    marks : bool, optional
        Make blends for networks with marks (see ``scatter``): the target is any galaxy, some
        pixels off the middle, in pictures of several widths. Default: the central galaxy.
    whole : bool, optional
        With marks: pictures of one width.
    """

    def __init__(
        self, images, recipe, *, batch, seed, device="cpu", rank=0, world=1, final_recipe=None,
        final=0, marks=False, whole=False,
    ):  # fmt: skip
        if len(images) < 2:
            raise ValueError(f"images holds {len(images)}; a blend takes two galaxies")
        self.simulator = self.final_simulator = Simulator(images, recipe, device=device)
        self.final = final
        if final_recipe is not None:  # with the galaxies in memory once
            self.final_simulator = copy.copy(self.simulator)
            self.final_simulator.recipe = get_recipe(final_recipe)
        self.batch = batch
        self.seed = seed
        self.marks, self.whole = marks, whole
        self.share = share_of(batch, rank, world)

    def __getitem__(self, number):
        """Return batch ``number``.

        Returns
        -------
        blend, isolated : torch.Tensor
            Shapes (n, bands, y, x) and (n, 2, bands, y, x), the latter the target and the rest.
        positions, present : torch.Tensor
            Shapes (n, s, 2) and (n, s), as networks take them.
        """
        rng = np.random.default_rng([self.seed, number])
        simulator = self.simulator if number < self.final else self.final_simulator
        recipe, size = simulator.recipe, simulator.size
        draw = recipe.draw(rng, self.batch, simulator.number)
        positions, present = recipe.positions(draw, size)
        width = recipe.stamp
        if self.marks:
            rng = np.random.default_rng([self.seed, number, 1])
            middle = (width - 1) / 2
            near = present & (np.abs(positions - middle) < _REACH * width).all(axis=2)
            unmarked = _draw_unmarked(rng, present)
            target = np.where(unmarked, 0, (rng.random(near.shape) * near).argmax(axis=1))
            off = middle + rng.uniform(-_OFF, _OFF, (self.batch, 2))
            origin = recipe.factor * (off - positions[np.arange(self.batch), target])
            draw = replace(draw, target=target, origin=np.where(unmarked[:, None], 0, origin))
            positions, present = recipe.positions(draw, size)
            if not self.whole:
                width = max(16, round(width * rng.choice(_WIDTHS, p=_CHANCES)))
            positions, present = scatter(rng, positions, present, unmarked, recipe.stamp)
        blend, isolated = simulator(draw[self.share])
        return _cropped(blend, isolated, positions[self.share], present[self.share], width)


class FluxStream:
    """Stream of simulated blends of surveys, in units of each band's noise.

    The two components are the central galaxy and all others together.

    Parameters
    ----------
    surveys, images
        As in `astrodeblend.simulate.SurveyStream`.
    widths : int, sequence of int, or mapping of int to float, optional
        Width in pixels of the middle of the stamps that is cut out: a number, several of equal
        probability, or their probabilities. A network trained on one width only depends on the
        distance of the edges. Default: whole stamps.
    marks : bool, optional
        Make blends for networks with marks (see ``scatter``): the target is any source, some
        pixels off the middle. Default: the first one, in the middle.
    **options
        Further parameters of `astrodeblend.simulate.SurveyStream`.
    """

    def __init__(self, surveys, images=None, *, widths=None, marks=False, **options):
        self.stream = SurveyStream(surveys, images, **options)
        stamp = self.stream.stamp
        self.widths = get_chances(stamp if widths is None else widths, "widths")
        self.marks = marks
        if max(self.widths[0]) > stamp:
            raise ValueError(
                f"widths={widths!r}: {max(self.widths[0])} is more than {stamp}, the width of the "
                "stamps"
            )

    def __getitem__(self, number):
        """Return batch ``number`` as `BlendStream` does."""
        stream = self.stream
        draw = stream.draw(number)
        rng = np.random.default_rng([stream.seed, number, 1])
        width = rng.choice(self.widths[0], p=self.widths[1])
        positions, present = draw.position, draw.present
        if self.marks:
            n, middle = len(draw), (stream.stamp - 1) / 2
            unmarked = _draw_unmarked(rng, present)
            target = np.where(unmarked, 0, (rng.random(n) * present.sum(axis=1)).astype(int))
            off = middle + rng.uniform(-_OFF, _OFF, (n, 2))
            draw = draw.aimed(
                target, np.where(unmarked[:, None], positions[:, 0], off), stream.stamp
            )
            positions = draw.position.copy()
            positions[unmarked, 0] = middle
            positions, present = scatter(rng, positions, draw.present, unmarked, stream.stamp)
        blend, isolated, noise = stream.render(draw[stream.share])
        isolated = torch.stack([isolated[:, 0], isolated[:, 1:].sum(dim=1)], dim=1)
        blend, isolated = blend / noise[..., None, None], isolated / noise[:, None, :, None, None]
        positions, present = positions[stream.share], present[stream.share]
        return _cropped(blend, isolated, positions, present, width)


class StampStream:
    """Stream of blends of stamps of isolated sources, in linear flux.

    The first source of a blend is in the middle, the others are around it, each rotated and
    mirrored at random. The light is summed, and noise is added.

    Parameters
    ----------
    light : numpy.ndarray, shape (n, bands, y, x)
        Noiseless light of isolated sources in the middle of their stamps, in units of each band's
        noise.
    batch, seed, device, rank, world
        As in `BlendStream`.
    sources : int, sequence of int, or mapping of int to float, optional
        Sources per blend, as in `astrodeblend.simulate.SurveyStream`.
    separations : tuple of int, optional
        Range of the distance from the first source, in pixels.
    marks : bool, optional
        Make blends for networks with marks (see ``scatter``).
    """

    def __init__(
        self, light, *, batch, seed, sources=2, separations=(2, 16), marks=False, device="cpu",
        rank=0, world=1,
    ):  # fmt: skip
        if len(light) < 2:
            raise ValueError(f"light holds {len(light)} stamps; a blend takes two")
        self.light = torch.as_tensor(np.asarray(light, np.float32), device=device)
        self.sources = get_chances(sources, "sources")
        self.separations, self.batch, self.seed, self.marks = separations, batch, seed, marks
        self.share = share_of(batch, rank, world)

    def __getitem__(self, number):
        """Return batch ``number`` as `BlendStream` does."""
        rng = np.random.default_rng([self.seed, number])
        most = self.sources[0].max()
        total = rng.choice(self.sources[0], self.batch, p=self.sources[1])
        which = rng.integers(len(self.light), size=(self.batch, most))
        turned = rng.integers(_SYMMETRIES, size=which.shape)
        away, angle = rng.uniform(*self.separations, which.shape), rng.uniform(0, 7, which.shape)
        shift = np.stack([away * np.sin(angle), away * np.cos(angle)], axis=-1).round().astype(int)
        seeds = rng.integers(2**62, size=self.batch)
        blends, isolated = [], []
        for k in range(self.batch)[self.share]:
            sources = [
                self._placed(which[k, j], turned[k, j], shift[k, j] if j else (0, 0))
                for j in range(total[k])
            ]
            others = sum(sources[1:], torch.zeros_like(sources[0]))
            (noise,) = white_noise(seeds[[k]], others.shape, others.device)
            blends.append(sources[0] + others + noise)
            isolated.append(torch.stack([sources[0], others]))
        middle = (np.array(self.light.shape[:1:-1]) - 1) / 2
        shift[:, 0] = 0
        positions, present = middle + shift[..., ::-1], np.arange(most) < total[:, None]
        if self.marks:
            unmarked = _draw_unmarked(rng, present)
            width = self.light.shape[-1]
            positions, present = scatter(rng, positions, present, unmarked, width)
        positions, present = positions[self.share], present[self.share]
        return _cropped(
            torch.stack(blends), torch.stack(isolated), positions, present, self.light.shape[-1]
        )

    def _placed(self, index, symmetry, shift):
        """Return a source's light, rotated or mirrored, then shifted by whole pixels."""
        light = torch.rot90(self.light[index], int(symmetry % 4), (1, 2))
        light = light.mT if symmetry >= 4 else light
        margin = [abs(int(by)) for by in shift]
        light = F.pad(light, (margin[1], margin[1], margin[0], margin[0]))
        light = light.roll(tuple(int(by) for by in shift), (1, 2))
        rows, columns = (slice(m, n - m) for m, n in zip(margin, light.shape[1:], strict=True))
        return light[:, rows, columns]


def scatter(rng, positions, present, unmarked, width):
    """Return positions with the errors of detected ones.

    They are scattered by 0.3 pixels, the target's by 0.15; one in ten is missing, and in one blend
    of ten all but the target's; one blend in five has a false one.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the randomness comes from.
    positions, present : numpy.ndarray
        Shapes (n, s, 2) and (n, s): positions of sources, the target first, and which exist.
    unmarked : numpy.ndarray
        Shape (n,): blends of which only the target's position is given, without error.
    width : int
        Width of the stamp in pixels.

    Returns
    -------
    positions, present : numpy.ndarray
        Shapes (n, s + 2, 2) and (n, s + 2).
    """
    n, s = present.shape
    sigma = np.where(np.arange(s) == 0, _OWN_SCATTER, _SCATTER)[:, None]
    sigma = sigma * ~unmarked[:, None, None]
    positions = positions + sigma * rng.standard_normal(positions.shape)
    false = rng.uniform(0, width - 1, (n, len(_FALSE), 2))
    present = np.concatenate([present, rng.random((n, len(_FALSE))) < _FALSE], axis=1)
    present &= rng.random(present.shape) >= _LOST
    present[unmarked | (rng.random(n) < _ALL_LOST)] = False
    present[:, 0] = True
    return np.concatenate([positions, false], axis=1), present


def _draw_unmarked(rng, present):
    """Draw the blends without marks but the target's, shape (n,)."""
    return rng.random(len(present)) < np.where(present.sum(axis=1) <= 2, *_UNMARKED)


def _cropped(blend, isolated, positions, present, width):
    """Return a batch cropped to the middle of its stamps, positions as tensors."""
    start = [(side - min(width, side)) // 2 for side in blend.shape[-2:]]
    rows, columns = (slice(k, k + width) for k in start)
    positions = to_device(positions - start[::-1], blend.device, torch.float32)
    present = to_device(present, blend.device)
    return blend[..., rows, columns], isolated[..., rows, columns], positions, present
