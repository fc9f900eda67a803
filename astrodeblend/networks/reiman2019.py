"""The generator of Reiman & Goehre (2019, MNRAS 485, 2617): one root, a branch per galaxy."""

from dataclasses import dataclass

import torch
from torch import nn

from .blend_score import look_around
from .blocks import draw_marks
from .familiarity import pool
from .registry import register

__all__ = ["BranchedGenerator", "BranchedGeneratorConfig"]


@dataclass(frozen=True)
class BranchedGeneratorConfig:
    """Shape of a `BranchedGenerator`; the network is built from this alone.

    The defaults are the paper's, except ``distance``: 1.72 million parameters, 10.9 billion
    multiplications for a stamp of 80x80 pixels.

    Parameters
    ----------
    bands : int
        Number of bands of blend and components.
    width : int
        Features of every layer in between.
    root_blocks : int
        Residual blocks that all branches share, M in the paper.
    branch_blocks : int
        Residual blocks of each branch, N in the paper.
    branches : int
        Number of components: the central one first.
    distance : bool
        Whether the distance from the centre is one more input band, which the paper's has not.

    Raises
    ------
    ValueError
        If a number of blocks is below 0, or another number below 1.
    """

    bands: int = 3
    width: int = 64
    root_blocks: int = 10
    branch_blocks: int = 6
    branches: int = 2
    distance: bool = True

    def __post_init__(self):
        for name, value in vars(self).items():
            least = 0 if name.endswith("_blocks") or name == "distance" else 1
            if value < least:
                raise ValueError(f"{name}={value} is too few; give {least} or more")


class _ResidualBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            # Batch normalisation subtracts the mean, so a bias before it would have no effect.
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width, init=0.0),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return x + self.layers(x)


@register("reiman2019", BranchedGeneratorConfig)
class BranchedGenerator(nn.Module):
    """The paper's branched residual generator, derived from SRGAN (Ledig et al. 2017).

    Parameters
    ----------
    config : BranchedGeneratorConfig
        The shape of the network.

    Attributes
    ----------
    familiarity : Familiarity or None
        Flags blends that differ from those of training, if fitted.
    blend_score : BlendScore or None
        Estimates the probability of more than one galaxy, if fitted.

    Notes
    -----
    The blend is in [0, 1]. The paper's outputs t are in [-1, 1] (tanh); here they are (t + 1) / 2,
    so the paper's pixel loss is four times the mean squared error of these outputs. Weights
    start as in the published code (Glorot & Bengio 2010, uniform; biases and the slopes of the
    PReLUs at zero).

    The published code has a PReLU slope for every pixel of an 80x80 grid, nine million in all,
    which also encode the position of the middle. Here there is one per feature, as in SRGAN, so
    that the network takes any size, and the distance from the centre is one more input band.
    With neither (``distance=False``), both branches were equal after 500 updates of 16 blends
    and improved no further.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.familiarity = self.blend_score = None
        width = config.width
        self.first = nn.Sequential(
            nn.Conv2d(config.bands + config.distance, width, 9, padding=4),
            nn.PReLU(width, init=0.0),
        )
        self.root = nn.Sequential(
            *(_ResidualBlock(width) for _ in range(config.root_blocks)),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(_ResidualBlock(width) for _ in range(config.branch_blocks)),
                nn.Conv2d(width, config.bands, 9, padding=4),
                nn.Tanh(),
            )
            for _ in range(config.branches)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, blend, positions=None, present=None, *, with_features=False, with_blend_score=False
    ):
        """Take a blend apart.

        Parameters
        ----------
        blend : torch.Tensor
            Shape (n, bands, y, x), values in [0, 1].
        positions, present : torch.Tensor, optional
            Positions of sources, shape (n, s, 2); only the first is used.
        with_features : bool, optional
            Also return the features that `Familiarity` takes.
        with_blend_score : bool, optional
            Also return the ``blend_score`` of `blend_features`.

        Returns
        -------
        components : torch.Tensor
            Shape (n, branches, bands, y, x), values in [0, 1].
        std : None
            This network does not estimate its errors.
        features : torch.Tensor
            Shape (n, features), if asked for.
        score : torch.Tensor
            Shape (n,), if asked for.
        """
        shallow = self._shallow(blend, positions)  # (n, width, y, x)
        x = shallow + self.root(shallow)
        more = (pool(shallow, x),) if with_features else ()
        more += (self.blend_score(look_around(blend, shallow, x)),) if with_blend_score else ()
        components = torch.stack([branch(x) for branch in self.branches], dim=1)
        return (components.float() + 1) / 2, None, *more

    def blend_features(self, blend, positions=None, present=None):
        """Return the features that `BlendScore` takes, without deblending.

        Parameters
        ----------
        blend : torch.Tensor
            Shape (n, bands, y, x), as in `forward`.
        positions, present : torch.Tensor, optional
            As in `forward`.

        Returns
        -------
        torch.Tensor
            Shape (n, features).
        """
        shallow = self._shallow(blend, positions)
        return look_around(blend, shallow, shallow + self.root(shallow))

    def _shallow(self, blend, positions):
        """Return the first features; distance is in half widths of the paper's 80-pixel stamps."""
        if self.config.distance:
            blend = torch.cat([blend, draw_marks(blend, positions)[0] / 40], dim=1)
        return self.first(blend)
