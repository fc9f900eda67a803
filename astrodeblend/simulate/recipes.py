"""Recipes: named, complete descriptions of simulated blends."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np

#: Names of the rules by which isolated images become a blend; see
#: `astrodeblend.simulate.blend_images`.
BLENDING_MODES = ("max", "sum", "max_sum")

#: Mode ``max_sum``: light, in fractions of full scale, up to which a galaxy is transparent, and
#: from which on it is opaque.
DENSE = (0.2, 0.6)


# Fields of a draw that all companions of a blend share.
_SHARED = (
    "central",
    "mode",
    "symmetry",
    *("seeing", "zoom", "gain", "saturation", "exponent", "pedestal", "noise", "quality"),
)


@dataclass(frozen=True)
class Rendering:
    """Ranges for re-rendering pictures as from another survey.

    Every range (low, high) is drawn from uniformly (gains and the exponent log-uniformly), once
    per blend, for both galaxies alike. Levels are fractions of full scale.

    Parameters
    ----------
    fraction : float
        Share of the blends that are re-rendered.
    seeing : tuple of float
        Standard deviation of a Gaussian blur, in stamp pixels, in half of these blends.
    zoom : tuple of float
        Factor by which both galaxies are enlarged.
    gain, band_gain : tuple of float
        Brightness, of all bands and of each on its own (colour balance).
    saturation : tuple of float
        Colour saturation: 0 is grey, 1 unchanged.
    exponent : tuple of float
        Stretch: the power that light is raised to.
    pedestal : tuple of float
        Level of the sky, the same in all bands up to the colour balance.
    noise : tuple of float
        Standard deviation of Gaussian noise.
    quality : tuple of float
        JPEG quality, in half of these blends.
    """

    fraction: float = 0.5
    seeing: tuple[float, float] = (0.0, 1.2)
    zoom: tuple[float, float] = (0.7, 1.4)
    gain: tuple[float, float] = (0.6, 1.7)
    band_gain: tuple[float, float] = (0.8, 1.25)
    saturation: tuple[float, float] = (0.0, 1.6)
    exponent: tuple[float, float] = (0.45, 1.5)
    pedestal: tuple[float, float] = (0.0, 0.25)
    noise: tuple[float, float] = (0.0, 0.04)
    quality: tuple[float, float] = (50.0, 98.0)


@dataclass(frozen=True)
class Recipe:
    """A complete description of simulated blends.

    The defaults are those of the data that Reiman & Goehre (2019) published.

    Parameters
    ----------
    name : str
        Name of the recipe.
    description : str
        Description in one line.
    modes : tuple of str
        Blending modes, of ``BLENDING_MODES``; one is drawn for every blend.
    crop : int
        Width in image pixels of the middle of the image that becomes the stamp.
    factor : int
        Reduction from image to stamp: the middle pixel of each factor x factor cell is taken.
    displacement : tuple of float
        Range of the companion's shift in x and in y, in image pixels, of either sign.
    scale : tuple of float
        Range of the companion's enlargement, drawn log-uniformly.
    symmetries : bool
        Rotate and mirror both galaxies together by one of the eight symmetries of the square.
    rendering : Rendering or None
        Ranges for re-rendering the pictures as from other surveys.
    companions : tuple of float
        Probabilities of 0, 1, 2, ... companions, each displaced from one of the galaxies before
        it. The second component is the blend of all of them.
    """

    name: str = "reiman2019"
    description: str = "the published data of Reiman & Goehre (2019): pixelwise maximum"
    modes: tuple[str, ...] = ("max",)
    crop: int = 240
    factor: int = 3
    displacement: tuple[float, float] = (10.0, 50.0)
    scale: tuple[float, float] = (math.exp(-1), math.exp(0.5))
    symmetries: bool = False
    rendering: Rendering | None = None
    companions: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self):
        wrong = [mode for mode in self.modes if mode not in BLENDING_MODES]
        if wrong or not self.modes:
            raise ValueError(f"modes={self.modes!r}: choose from {', '.join(BLENDING_MODES)}")
        if self.crop % self.factor:
            raise ValueError(f"crop={self.crop} is not a multiple of factor={self.factor}")
        chances = self.companions
        if len(chances) < 2 or min(chances) < 0 or not math.isclose(sum(chances), 1):
            raise ValueError(
                f"companions={chances!r}: give the chances of none, one, ..., whose sum is 1"
            )

    @property
    def stamp(self):
        """Width of a stamp in pixels."""
        return self.crop // self.factor

    def draw(self, rng, number, sources):
        """Draw the random numbers of blends.

        Parameters
        ----------
        rng : numpy.random.Generator
            Generator of random numbers.
        number : int
            Number of blends.
        sources : int
            Number of galaxies to choose from, at least 2.

        Returns
        -------
        Draw
            Random numbers of the blends, without those of the noise.
        """
        if sources < 2:
            raise ValueError(f"sources={sources}: a blend takes two galaxies, give at least 2")
        drawn = self._draw_pairs(rng, number, sources)
        if self.companions == (0.0, 1.0):
            return drawn
        count = rng.choice(len(self.companions), size=number, p=self.companions)
        shifts, further = [np.zeros((number, 2)), drawn.shift], []
        for k in range(2, len(self.companions)):
            more = self._draw_pairs(rng, number, sources)
            before = rng.integers(len(shifts), size=number)
            shifts.append(np.stack(shifts)[before, np.arange(number)] + more.shift)
            companion = np.where(count >= k, more.companion, -1)
            shared = {name: getattr(drawn, name) for name in _SHARED}
            further.append(replace(more, companion=companion, shift=shifts[-1], **shared))
        companion = np.where(count >= 1, drawn.companion, -1)
        return replace(drawn, companion=companion, further=tuple(further))

    def positions(self, draw, size):
        """Return the positions of the galaxies of blends.

        Parameters
        ----------
        draw : Draw
            Random numbers of n blends, from `draw`.
        size : int
            Width of the images in pixels.

        Returns
        -------
        positions : numpy.ndarray
            Shape (n, s, 2): x and y of the middle of each galaxy's image, in stamp pixels, the
            target first.
        present : numpy.ndarray
            Shape (n, s): whether the galaxy exists.
        """
        index, matrices = draw.galaxies(size)
        middle = np.array([(size - 1) / 2, (size - 1) / 2, 1])
        start = (size - self.crop) // 2 + self.factor // 2
        positions = np.linalg.inv(matrices) @ middle
        positions, order = (positions[..., :2] - start) / self.factor, draw.order()
        present = np.take_along_axis(index >= 0, order, 1)
        return np.take_along_axis(positions, order[..., None], 1), present

    def _draw_pairs(self, rng, number, sources):
        """Draw the random numbers of blends of two galaxies."""
        central = rng.integers(sources, size=number)
        companion = (central + rng.integers(1, sources, size=number)) % sources
        signs = rng.choice([-1.0, 1.0], size=(number, 2))
        drawn = Draw(
            central=central,
            companion=companion,
            flip_x=rng.random(number) < 0.5,
            flip_y=rng.random(number) < 0.5,
            angle=rng.uniform(0, 2 * np.pi, number),
            scale=np.exp(rng.uniform(*np.log(self.scale), number)),
            shift=signs * rng.uniform(*self.displacement, (number, 2)),
            mode=rng.integers(len(self.modes), size=number),
            symmetry=rng.integers(8, size=number) if self.symmetries else np.zeros(number, int),
            noise_seed=rng.integers(2**62, size=number),
        )
        if self.rendering is None:
            return drawn
        return drawn.rendered(rng, self.rendering)


@dataclass(frozen=True)
class Draw:
    """Random numbers of n blends, in arrays of length n.

    Parameters
    ----------
    central, companion : numpy.ndarray
        Indices of the galaxies; -1 for no companion.
    flip_x, flip_y : numpy.ndarray
        Whether the companion is mirrored along x and along y.
    angle : numpy.ndarray
        Angle in radians by which it is rotated.
    scale : numpy.ndarray
        Factor by which it is enlarged.
    shift : numpy.ndarray
        Shape (n, 2): its displacement in x and y, in image pixels.
    mode : numpy.ndarray
        Index of the blending mode in the recipe's ``modes``.
    symmetry : numpy.ndarray
        Symmetry applied to both galaxies: number of quarter turns, plus 4 if mirrored.
    noise_seed : numpy.ndarray
        Seed of the noise.
    seeing, zoom, gain, saturation, exponent, pedestal, noise, quality : numpy.ndarray or None
        Re-rendering (see `Rendering`); ``gain`` has the shape (n, 3), one per band. Seeing 0, zoom
        1, quality 100, ... leave a picture unchanged. None: no re-rendering.
    further : tuple of Draw
        Draws of the second, third, ... companions of the same blends.
    target : numpy.ndarray or None
        Index of the galaxy that is the first component: 0 for the central one, 1 for the
        companion, then further ones. None: the central one.
    origin : numpy.ndarray or None
        Shape (n, 2): final displacement of all galaxies, in image pixels.
    """

    central: np.ndarray
    companion: np.ndarray
    flip_x: np.ndarray
    flip_y: np.ndarray
    angle: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    mode: np.ndarray
    symmetry: np.ndarray
    noise_seed: np.ndarray
    seeing: np.ndarray | None = None
    zoom: np.ndarray | None = None
    gain: np.ndarray | None = None
    saturation: np.ndarray | None = None
    exponent: np.ndarray | None = None
    pedestal: np.ndarray | None = None
    noise: np.ndarray | None = None
    quality: np.ndarray | None = None
    further: tuple = ()
    target: np.ndarray | None = None
    origin: np.ndarray | None = None

    def __len__(self):
        return len(self.central)

    def __getitem__(self, key):
        """Select some of the blends by a slice or an index array."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        further = tuple(each[key] for each in values.pop("further"))
        parts = {k: v if v is None else v[key] for k, v in values.items()}
        return Draw(**parts, further=further)

    @property
    def sky(self):
        """Sky level of the images of a blend, shape (n, bands) or (n, 1)."""
        if self.pedestal is None:
            return np.zeros((len(self), 1))
        return np.minimum(self.gain * self.pedestal[:, None], 1)

    def rendered(self, rng, rendering):
        """Return the blends with a random re-rendering.

        Parameters
        ----------
        rng : numpy.random.Generator
            Generator of random numbers.
        rendering : Rendering
            The ranges to draw from.

        Returns
        -------
        Draw
            A copy with the fields of re-rendering filled in.
        """
        n = len(self)
        chosen = rng.random(n) < rendering.fraction

        def uniform(limits, neutral, share=1.0):
            value = rng.uniform(*limits, n)
            return np.where(chosen & (rng.random(n) < share), value, neutral)

        gain = np.exp(rng.uniform(*np.log(rendering.gain), (n, 1)))
        gain = gain * np.exp(rng.uniform(*np.log(rendering.band_gain), (n, 3)))
        return replace(
            self,
            seeing=uniform(rendering.seeing, 0.0, share=0.5),
            zoom=np.exp(uniform(np.log(rendering.zoom), 0.0)),
            gain=np.where(chosen[:, None], gain, 1.0),
            saturation=uniform(rendering.saturation, 1.0),
            exponent=np.exp(uniform(np.log(rendering.exponent), 0.0)),
            pedestal=uniform(rendering.pedestal, 0.0, share=0.8),
            noise=uniform(rendering.noise, 0.0, share=0.8),
            quality=uniform(rendering.quality, 100.0, share=0.5),
        )

    def galaxies(self, size):
        """Return the galaxies of blends, and the maps from their pixels to the original images.

        Parameters
        ----------
        size : int
            Width of the square images in pixels.

        Returns
        -------
        index : numpy.ndarray
            Shape (n, s): indices of the central galaxy, then all others; -1 for none.
        matrices : numpy.ndarray
            Shape (n, s, 3, 3), as `matrices` returns them.
        """
        central, companion = self.matrices(size)
        others = [more.matrices(size)[1] for more in self.further]
        matrices = np.stack([central, companion, *others], axis=1)
        index = [self.central, self.companion, *(more.companion for more in self.further)]
        index = np.stack(index, axis=1)
        if self.origin is not None:
            matrices = matrices @ _translation(len(self), -self.origin)[:, None]
        return index, matrices

    def order(self):
        """Return the slots of each blend's galaxies, the target first, shape (n, s)."""
        order = np.tile(np.arange(2 + len(self.further)), (len(self), 1))
        if self.target is None:
            return order
        return np.argsort(np.where(order == self.target[:, None], -1, order), axis=1)

    def matrices(self, size):
        """Return the maps from pixels of the perturbed images to the original ones.

        Parameters
        ----------
        size : int
            Width of the square images in pixels; mirroring, rotation and zoom keep their middle.

        Returns
        -------
        central, companion : numpy.ndarray
            Shape (n, 3, 3) each: the homogeneous matrix that takes a position (x, y, 1) in the
            perturbed image to that in the original one (the inverse map that
            `skimage.transform.warp` takes).
        """
        n = len(self)
        middle = (size - 1) / 2
        to_middle, from_middle = _translation(n, -middle), _translation(n, middle)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turn = np.zeros((n, 3, 3))
        turn[:, 0, 0], turn[:, 0, 1] = cos, sin
        turn[:, 1, 0], turn[:, 1, 1] = -sin, cos
        turn[:, 2, 2] = 1
        flip = _diagonal(1 - 2.0 * self.flip_x, 1 - 2.0 * self.flip_y)
        unscale = _diagonal(1 / self.scale, 1 / self.scale)
        unshift = _translation(n, -self.shift)
        # Forward: mirror, rotate, scale, shift; backward: the inverses in reverse order.
        perturb = flip @ turn @ unscale @ unshift
        zoom = np.ones(n) if self.zoom is None else self.zoom
        common = _symmetry(self.symmetry) @ _diagonal(1 / zoom, 1 / zoom)
        return from_middle @ common @ to_middle, from_middle @ perturb @ common @ to_middle


def _translation(n, shift):
    matrix = np.tile(np.eye(3), (n, 1, 1))
    matrix[:, :2, 2] = shift
    return matrix


def _diagonal(x, y):
    matrix = np.zeros((len(x), 3, 3))
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = x, y, 1
    return matrix


def _symmetry(code):
    quarter = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mirror = np.diag([-1.0, 1.0, 1.0])
    table = [np.linalg.matrix_power(quarter, k) for k in range(4)]
    return np.array([*table, *(mirror @ m for m in table)])[code]


# Probabilities of 0 to 7 companions.
_CROWDED = (0.08, 0.3, 0.2, 0.14, 0.1, 0.08, 0.06, 0.04)

#: The recipes by name.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(),
        Recipe("sum", "as reiman2019, but light adds", ("sum",)),
        Recipe(
            "max_sum", "as reiman2019, but diffuse light adds and dense light covers", ("max_sum",)
        ),
        Recipe(
            "varied",
            "all blending modes, all symmetries, re-rendered as other surveys would show it",
            ("max", "max", "sum", "max_sum"),
            symmetries=True,
            rendering=Rendering(),
        ),
        Recipe(
            "mostly_reiman2019",
            "as varied, but three in four blends are of mode max, and four in five as they were",
            (*6 * ("max",), "sum", "max_sum"),
            symmetries=True,
            rendering=Rendering(fraction=0.2),
        ),
        Recipe(
            "rerendered",
            "as reiman2019, but every blend re-rendered as another survey would show it",
            rendering=Rendering(
                fraction=1.0,
                seeing=(0.0, 1.0),
                zoom=(1.0, 1.0),
                gain=(0.7, 1.4),
                band_gain=(0.85, 1.18),
                saturation=(0.5, 1.5),
                exponent=(0.7, 1.4),
                pedestal=(0.0, 0.2),
                noise=(0.0, 0.02),
                quality=(100.0, 100.0),
            ),
        ),
        Recipe(
            "crowded",
            "as varied, but with none to seven companions, all in one component",
            ("max", "max", "sum", "max_sum"),
            symmetries=True,
            rendering=Rendering(),
            companions=_CROWDED,
        ),
        Recipe(
            "crowded_max",
            "as mostly_reiman2019, but two blends in five with none or two to seven companions",
            (*6 * ("max",), "sum", "max_sum"),
            symmetries=True,
            rendering=Rendering(fraction=0.2),
            companions=(0.04, 0.6, 0.12, 0.08, 0.06, 0.04, 0.03, 0.03),
        ),
    )
}


def get_recipe(name):
    """Return a recipe by its name.

    Parameters
    ----------
    name : str or Recipe
        One of ``RECIPES``; a `Recipe` is returned unchanged.
    """
    if isinstance(name, Recipe):
        return name
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r} is not known; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
