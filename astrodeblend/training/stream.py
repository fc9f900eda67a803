"""The stream of training blends: every batch follows from the seed and its number alone."""

import copy

import numpy as np

from ..simulate.batched import Simulator
from ..simulate.recipes import get_recipe

__all__ = ["BlendStream"]


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
