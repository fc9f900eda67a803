"""Recipes: what a simulated blend is, completely and by name."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = ["BLENDING_MODES", "DENSE", "RECIPES", "Draw", "Recipe", "get_recipe"]

#: How the isolated images of a pair become a blend; `astrodeblend.simulate.blend_images`
#: states the rule of each.
BLENDING_MODES = ("max", "sum", "max_sum")

#: Mode ``max_sum``: brightness at which a galaxy begins to cover what lies behind it, and at
#: which it covers it wholly, as fractions of full scale.
DENSE = (0.2, 0.6)


# What of a draw is about the whole blend, and the same for all its companions.
_SHARED = (
    "central",
    "mode",
    "symmetry",
    *("seeing", "zoom", "gain", "saturation", "exponent", "pedestal", "noise", "quality"),
)


@dataclass(frozen=True)
class Rendering:
    """How far a picture may be re-rendered: the same galaxies as another survey shows them.

    Every range is (low, high) and drawn uniformly (gains and the exponent log-uniformly),
    once per blend, the same for both galaxies. Levels are fractions of full scale.

    Parameters
    ----------
    fraction : float
        Share of the blends that are re-rendered; the rest stay as the survey made them.
    seeing : tuple of float
        Standard deviation of a Gaussian blur, in stamp pixels; half of the blends are spared.
    zoom : tuple of float
        Pixel scale: the factor by which both galaxies are enlarged.
    gain, band_gain : tuple of float
        Brightness, of all bands and of each on its own (colour balance).
    saturation : tuple of float
        Colour saturation: 0 is grey, 1 as it was.
    exponent : tuple of float
        Stretch: light to this power.
    pedestal : tuple of float
        Level of the sky, the same in all bands up to the colour balance.
    noise : tuple of float
        Standard deviation of Gaussian noise.
    quality : tuple of float
        JPEG quality; half of the blends are spared.
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
        What it is called.
    description : str
        One line that says what it is.
    modes : tuple of str
        Blending modes, out of ``BLENDING_MODES``; one is drawn for every blend.
    crop : int
        The middle of the image, in image pixels, that becomes the stamp.
    factor : int
        Reduction from image to stamp: the middle pixel of each factor x factor cell is taken.
    displacement : tuple of float
        Range of the companion's shift, in image pixels, in x and in y, of either sign.
    scale : tuple of float
        Range of the companion's enlargement, drawn log-uniformly.
    symmetries : bool
        Turn and flip both galaxies together by one of the eight symmetries of the square.
    rendering : Rendering or None
        Re-render the pictures, so as to learn what other surveys look like.
    companions : tuple of float
        Chances of no, one, two, ... companions, each displaced from one of the galaxies before
        it. All of them together, blended as the blend is, are the second component.
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
        """Draw the random part of a number of blends.

        Parameters
        ----------
        rng : numpy.random.Generator
            Where the randomness comes from.
        number : int
            How many blends.
        sources : int
            How many galaxies there are to choose from; at least 2.

        Returns
        -------
        Draw
            Everything that is random about the blends but the noise.
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
        """Return where the galaxies of blends are.

        Parameters
        ----------
        draw : Draw
            Of n blends, from `draw`.
        size : int
            Width of the images.

        Returns
        -------
        positions : numpy.ndarray
            Shape (n, s, 2), x and y in pixels of the stamp: of the middles of their images, the
            target first.
        present : numpy.ndarray
            Shape (n, s): whether there is such a galaxy.
        """
        index, matrices = draw.galaxies(size)
        middle = np.array([(size - 1) / 2, (size - 1) / 2, 1])
        start = (size - self.crop) // 2 + self.factor // 2
        positions = np.linalg.inv(matrices) @ middle
        positions, order = (positions[..., :2] - start) / self.factor, draw.order()
        present = np.take_along_axis(index >= 0, order, 1)
        return np.take_along_axis(positions, order[..., None], 1), present

    def _draw_pairs(self, rng, number, sources):
        """Draw the random part of blends of two."""
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
    """The random part of n blends, in arrays of length n.

    Parameters
    ----------
    central, companion : numpy.ndarray
        Which of the galaxies, as indices; -1 for no companion.
    flip_x, flip_y : numpy.ndarray
        Whether the companion is mirrored along x, along y.
    angle : numpy.ndarray
        By which angle it is turned, in radians.
    scale : numpy.ndarray
        By which factor it is enlarged.
    shift : numpy.ndarray
        Shape (n, 2): by how much it is then displaced in x and y, in image pixels.
    mode : numpy.ndarray
        Index of the blending mode among the recipe's.
    symmetry : numpy.ndarray
        Which of the eight symmetries both galaxies undergo: quarter turns, plus 4 if mirrored.
    noise_seed : numpy.ndarray
        Seed of the noise.
    seeing, zoom, gain, saturation, exponent, pedestal, noise, quality : numpy.ndarray or None
        Re-rendering (see `Rendering`); ``gain`` has the shape (n, 3), one per band. Seeing 0,
        zoom 1, quality 100, ... leave a picture as it is. None: nothing is re-rendered.
    further : tuple of Draw
        Of the same blends with further companions, a draw for each.
    target : numpy.ndarray or None
        Which galaxy is the first component, and all others the second: 0 for the central one, 1
        for the companion, then further ones. None: the central one.
    origin : numpy.ndarray or None
        Shape (n, 2): by how much everything is displaced in the end, in image pixels.
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
        """Level of the sky in the images of a blend, shape (n, bands) or (n, 1)."""
        if self.pedestal is None:
            return np.zeros((len(self), 1))
        return np.minimum(self.gain * self.pedestal[:, None], 1)

    def rendered(self, rng, rendering):
        """Return the same blends with a random re-rendering added.

        Parameters
        ----------
        rng : numpy.random.Generator
            Where the randomness comes from.
        rendering : Rendering
            The ranges to draw from.

        Returns
        -------
        Draw
            A copy; what was drawn before stays as it is.
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
        """Return which galaxies blends are of, and where each pixel of theirs comes from.

        Parameters
        ----------
        size : int
            Width of the square images.

        Returns
        -------
        index : numpy.ndarray
            Shape (n, s): the central one, then all others; -1 where there is none.
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
        """Return the galaxies of each blend, the target first, shape (n, s)."""
        order = np.tile(np.arange(2 + len(self.further)), (len(self), 1))
        if self.target is None:
            return order
        return np.argsort(np.where(order == self.target[:, None], -1, order), axis=1)

    def matrices(self, size):
        """Return where each pixel of the perturbed images comes from.

        Parameters
        ----------
        size : int
            Width of the square images, whose middle stays in place under flip, turn and zoom.

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
        # Forward: flip, turn, scale, shift; so backward the inverses in the other order.
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


# Chances of none to seven companions.
_CROWDED = (0.08, 0.3, 0.2, 0.14, 0.1, 0.08, 0.06, 0.04)

#: The recipes by name.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(),
        Recipe("sum", "as reiman2019, but light adds", ("sum",)),
        Recipe(
            "max_sum",
            "as reiman2019, but diffuse light adds and dense light covers",
            ("max_sum",),
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
            "as varied, but with none to seven companions, which come as one",
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
    """Return a recipe by name.

    Parameters
    ----------
    name : str or Recipe
        One of ``RECIPES``; a `Recipe` is returned as it is.

    Raises
    ------
    ValueError
        If there is no such recipe.
    """
    if isinstance(name, Recipe):
        return name
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r} is not known; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
