"""Scenes with known truth, drawn from a folder of galaxies so that anyone can repeat them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astrodeblend.simulate import SCENE_MODES, find_images, read_images, simulate_scene

_FEWEST, MOST = 2, 8  # galaxies in a scene


@dataclass(frozen=True, eq=False)
class SceneSet:
    """A list of scenes; iterating simulates them, one at a time."""

    folder: Path  # folder of the pictures
    paths: tuple[Path, ...]  # pictures to draw from
    split: str | None  # part of the folder they are; None: all
    mode: str  # blending mode, "max" or "sum"
    seed: int  # seed of the random numbers
    members: tuple[np.ndarray, ...]  # indices of ``paths``, for every scene

    def __len__(self):
        return len(self.members)

    def __iter__(self):
        for k, members in enumerate(self.members):
            images = [read_images([self.paths[j]])[0] for j in members]
            yield simulate_scene(images, mode=self.mode, rng=_rng(self.seed, k, "perturbation"))

    def names(self, scene):
        """Return the files of a scene's galaxies, relative to the folder."""
        return [self.paths[k].relative_to(self.folder).as_posix() for k in self.members[scene]]

    @property
    def meta(self):
        """The entries ``recipe``, ``split`` and ``seed`` of tables of these scenes."""
        return {"recipe": self.mode, "split": self.split or "all", "seed": self.seed}

    def __str__(self):
        used = np.concatenate(self.members)
        part = "all images" if self.split is None else f"split {self.split!r}"
        return (
            f"{len(self)} scenes with {len(used)} galaxies from {len(np.unique(used))} pictures; "
            f"{part} of {self.folder}, recipe {self.mode}, seed {self.seed}"
        )


def draw_scenes(folder, *, split=None, mode="max", number=200, seed=1):
    """Draw galaxies for scenes of two to eight that overlap.

    All numbers from two to eight are equally likely, as far as there are galaxies. If
    ``splits.csv`` has a column ``isolated``, the galaxies are those with 1 in it.

    Parameters
    ----------
    folder : str or path-like
        Pictures of isolated galaxies, as `astrodeblend.simulate.find_images` takes them.
    split : str, optional
        Part of the pictures, by the table ``splits.csv`` in the folder. Default: all.
    mode : {'max', 'sum'}, optional
        Blending mode.
    number : int, optional
        Number of scenes.
    seed : int, optional
        Seed of the random numbers; the same seed and images give the same scenes.

    Returns
    -------
    SceneSet
    """
    folder = Path(folder)
    if mode not in SCENE_MODES:
        raise ValueError(f"mode={mode!r} is not known; choose {' or '.join(SCENE_MODES)}")
    if number < 1:
        raise ValueError(f"number={number}: give at least 1 scene")
    paths = find_images(folder, split=split, isolated=True)
    if len(paths) < _FEWEST:
        raise ValueError(
            f"{str(folder)!r} holds {len(paths)} isolated galaxies; a scene takes at least "
            f"{_FEWEST}"
        )
    members = []
    for k in range(number):
        rng = _rng(seed, k, "galaxies")
        count = rng.integers(_FEWEST, min(MOST, len(paths)) + 1)
        members.append(rng.choice(len(paths), count, replace=False))
    return SceneSet(folder, tuple(paths), split, mode, seed, tuple(members))


def _rng(seed, scene, what):
    return np.random.default_rng([seed, scene, ("galaxies", "perturbation").index(what)])
