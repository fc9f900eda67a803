"""The stream of training blends: every batch follows from the seed and its number alone."""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from ..simulate.batched import Simulator, to_device
from ..simulate.populations import get_chances
from ..simulate.recipes import get_recipe
from ..simulate.survey_batches import SurveyStream

__all__ = ["BlendStream", "FluxStream", "StampStream", "scatter"]

_SYMMETRIES = 8
# Widths of pictures with marks, as shares of a stamp, and their chances.
_WIDTHS, _CHANCES = (1.0, 0.94, 0.83), (0.6, 0.2, 0.2)
_OFF = 5.0  # pixels, in x and y, by which a target is at most off the middle
_REACH = 0.3  # widths of a stamp, in x and y, from the middle; no galaxy farther off is a target
# Chances that no mark is given, in blends of up to two and of more sources.
_UNMARKED = (0.55, 0.15)
_SCATTER, _OWN_SCATTER = 0.3, 0.15  # pixels: of the marks of others, and of the target
_LOST, _ALL_LOST = 0.1, 0.1  # chances that a mark is missing, or all but the target's
_FALSE = 2 * (0.1,)  # chances of marks where no source is


class BlendStream:
    """Blends by the batch, the same whenever and wherever batch ``k`` is asked for.

    Nothing is remembered from batch to batch, so a run that is taken up again goes on with the
    very blends it would have seen, and the processes of a distributed run share each batch out
    among themselves.

    Parameters
    ----------
    images : numpy.ndarray
        Shape (n, bands, y, x), as `astrodeblend.simulate.Simulator` takes them.
    recipe : str or Recipe
        What blends to make.
    batch : int
        Blends per batch, over all processes.
    seed : int
        Where the randomness starts from.
    device : str or torch.device, optional
        Where the blends are made and stay.
    rank, world : int, optional
        Which process this is, out of how many.
    final_recipe : str or Recipe, optional
        What blends to make from batch ``final`` on; the size of a stamp has to be the same.
    final : int, optional
        The first batch of that recipe.
    marks : bool, optional
        Whether it is for a network that takes marks, see ``scatter``: any galaxy is a target, some
        pixels off the middle of pictures of several widths. Default: the central one.
    whole : bool, optional
        With marks: of one width.

    Raises
    ------
    ValueError
        If there are fewer than two galaxies, or the batch cannot be shared out evenly.
    """

    def __init__(
        self, images, recipe, *, batch, seed, device="cpu", rank=0, world=1, final_recipe=None,
        final=0, marks=False, whole=False,
    ):  # fmt: skip
        if len(images) < 2:
            raise ValueError(f"images holds {len(images)}; a blend takes two galaxies")
        if batch % world:
            raise ValueError(
                f"batch={batch} cannot be shared by {world} processes; give a multiple of {world}"
            )
        self.simulator = self.final_simulator = Simulator(images, recipe, device=device)
        self.final = final
        if final_recipe is not None:  # of the same galaxies in the same memory
            self.final_simulator = copy.copy(self.simulator)
            self.final_simulator.recipe = get_recipe(final_recipe)
        self.batch = batch
        self.seed = seed
        self.marks, self.whole = marks, whole
        self.share = slice(rank * batch // world, (rank + 1) * batch // world)

    def __getitem__(self, number):
        """Return batch ``number``.

        Returns
        -------
        blend, isolated : torch.Tensor
            Shapes (n, bands, y, x) and (n, 2, bands, y, x): the target, and the rest.
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
    """Blends of surveys by the batch, as a network takes them.

    In units of each band's noise; the central galaxy, and all others together.

    Parameters
    ----------
    surveys, images
        As `astrodeblend.simulate.SurveyStream` takes them.
    widths : int, sequence of int, or mapping of int to float, optional
        How many pixels of the middle of its stamps are shown along each side: a number, some
        with equal chances, or their chances. A network that knows stamps of one width only
        knows where their edges are, and is lost without them. Default: whole stamps.
    marks : bool, optional
        Whether it is for a network that takes marks, see ``scatter``: any source is a target, some
        pixels off the middle. Default: the first one, in the middle.
    **options
        As `astrodeblend.simulate.SurveyStream` takes them.

    Raises
    ------
    ValueError
        If a width is more than that of the stamps, and as for
        `astrodeblend.simulate.SurveyStream`.
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
    """Blends of isolated sources of one's own survey, in linear flux.

    Of each blend the first source is in the middle; the others are somewhere around it, each
    turned and mirrored as it comes. Light adds, and there is new noise.

    Parameters
    ----------
    light : numpy.ndarray, shape (n, bands, y, x)
        Of isolated sources in the middle of their stamps, without noise, in units of the noise of
        each band.
    batch, seed, device, rank, world
        As for `BlendStream`.
    sources : int, sequence of int, or mapping of int to float, optional
        How many sources a blend has, as `astrodeblend.simulate.SurveyStream` takes it.
    separations : tuple of int, optional
        Range of the distance from the first source, in pixels.
    marks : bool, optional
        Whether it is for a network that takes marks, see `scatter`.

    Raises
    ------
    ValueError
        If there are fewer than two stamps, or the batch cannot be shared out evenly.
    """

    def __init__(
        self, light, *, batch, seed, sources=2, separations=(2, 16), marks=False, device="cpu",
        rank=0, world=1,
    ):  # fmt: skip
        if len(light) < 2:
            raise ValueError(f"light holds {len(light)} stamps; a blend takes two")
        if batch % world:
            raise ValueError(
                f"batch={batch} cannot be shared by {world} processes; give a multiple of {world}"
            )
        self.light = torch.as_tensor(np.asarray(light, np.float32), device=device)
        self.sources = get_chances(sources, "sources")
        self.separations, self.batch, self.seed, self.marks = separations, batch, seed, marks
        self.share = slice(rank * batch // world, (rank + 1) * batch // world)

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
            noise = torch.randn(
                others.shape,
                generator=torch.Generator(others.device).manual_seed(int(seeds[k])),
                device=others.device,
            )
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
        """Return a source's light, turned and then moved by whole pixels."""
        light = torch.rot90(self.light[index], int(symmetry % 4), (1, 2))
        light = light.mT if symmetry >= 4 else light
        margin = [abs(int(by)) for by in shift]
        light = F.pad(light, (margin[1], margin[1], margin[0], margin[0]))
        light = light.roll(tuple(int(by) for by in shift), (1, 2))
        rows, columns = (slice(m, n - m) for m, n in zip(margin, light.shape[1:], strict=True))
        return light[:, rows, columns]


def scatter(rng, positions, present, unmarked, width):
    """Return positions of sources as a network meets them in use: found, not known.

    They are scattered by 0.3 pixels, the target's by half of that; one in ten is missing, and in
    one blend of ten all but the target's; one blend in five has a false one.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the randomness comes from.
    positions, present : numpy.ndarray
        Shapes (n, s, 2) and (n, s): where sources are, the target first, and which there are.
    unmarked : numpy.ndarray
        Shape (n,): blends of which only the target is known, and that exactly.
    width : int
        Of the stamp, in pixels.

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
    """Draw which blends have no marks but the target's, shape (n,)."""
    return rng.random(len(present)) < np.where(present.sum(axis=1) <= 2, *_UNMARKED)


def _cropped(blend, isolated, positions, present, width):
    """Return a batch with the middle of its stamps, positions as tensors."""
    start = [(side - min(width, side)) // 2 for side in blend.shape[-2:]]
    rows, columns = (slice(k, k + width) for k in start)
    positions = to_device(positions - start[::-1], blend.device, torch.float32)
    present = to_device(present, blend.device)
    return blend[..., rows, columns], isolated[..., rows, columns], positions, present
