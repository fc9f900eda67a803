"""The stream of training blends: every batch follows from the seed and its number alone."""

import copy

import numpy as np
import torch
from torch.nn import functional as F

from ..simulate.batched import Simulator
from ..simulate.populations import get_chances
from ..simulate.recipes import get_recipe
from ..simulate.survey_batches import SurveyStream

__all__ = ["BlendStream", "FluxStream", "StampStream"]

_SYMMETRIES = 8


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

    Raises
    ------
    ValueError
        If there are fewer than two galaxies, or the batch cannot be shared out evenly.
    """

    def __init__(
        self, images, recipe, *, batch, seed, device="cpu", rank=0, world=1, final_recipe=None,
        final=0,
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
        self.share = slice(rank * batch // world, (rank + 1) * batch // world)

    def __getitem__(self, number):
        """Return batch ``number``: blend (n, bands, s, s) and isolated (n, 2, bands, s, s)."""
        rng = np.random.default_rng([self.seed, number])
        simulator = self.simulator if number < self.final else self.final_simulator
        draw = simulator.recipe.draw(rng, self.batch, simulator.number)
        return simulator(draw[self.share])


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
    **options
        As `astrodeblend.simulate.SurveyStream` takes them.

    Raises
    ------
    ValueError
        If a width is not that of the stamps less an even number, and as for
        `astrodeblend.simulate.SurveyStream`.
    """

    def __init__(self, surveys, images=None, *, widths=None, **options):
        self.stream = SurveyStream(surveys, images, **options)
        stamp = self.stream.stamp
        self.widths = get_chances(stamp if widths is None else widths, "widths")
        for width in self.widths[0]:
            if width > stamp or (stamp - width) % 2:
                raise ValueError(
                    f"widths={widths!r}: {width} is not {stamp}, the width of the stamps, less an "
                    "even number"
                )

    def __getitem__(self, number):
        """Return batch ``number``: blend (n, bands, s, s) and isolated (n, 2, bands, s, s)."""
        blend, isolated, noise = self.stream[number]
        isolated = torch.stack([isolated[:, 0], isolated[:, 1:].sum(dim=1)], dim=1)
        rng = np.random.default_rng([self.stream.seed, number, 1])
        outside = (self.stream.stamp - rng.choice(self.widths[0], p=self.widths[1])) // 2
        part = slice(outside, self.stream.stamp - outside)
        blend, isolated = blend[..., part, part], isolated[..., part, part]
        return blend / noise[..., None, None], isolated / noise[:, None, :, None, None]


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

    Raises
    ------
    ValueError
        If there are fewer than two stamps, or the batch cannot be shared out evenly.
    """

    def __init__(
        self, light, *, batch, seed, sources=2, separations=(2, 16), device="cpu", rank=0, world=1
    ):
        if len(light) < 2:
            raise ValueError(f"light holds {len(light)} stamps; a blend takes two")
        if batch % world:
            raise ValueError(
                f"batch={batch} cannot be shared by {world} processes; give a multiple of {world}"
            )
        self.light = torch.as_tensor(np.asarray(light, np.float32), device=device)
        self.sources = get_chances(sources, "sources")
        self.separations, self.batch, self.seed = separations, batch, seed
        self.share = slice(rank * batch // world, (rank + 1) * batch // world)

    def __getitem__(self, number):
        """Return batch ``number``: blend (n, bands, y, x) and isolated (n, 2, bands, y, x)."""
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
        return torch.stack(blends), torch.stack(isolated)

    def _placed(self, index, symmetry, shift):
        """Return a source's light, turned and then moved by whole pixels."""
        light = torch.rot90(self.light[index], int(symmetry % 4), (1, 2))
        light = light.mT if symmetry >= 4 else light
        margin = [abs(int(by)) for by in shift]
        light = F.pad(light, (margin[1], margin[1], margin[0], margin[0]))
        light = light.roll(tuple(int(by) for by in shift), (1, 2))
        rows, columns = (slice(m, n - m) for m, n in zip(margin, light.shape[1:], strict=True))
        return light[:, rows, columns]
