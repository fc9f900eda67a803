"""The U-shaped branched generator: each component is a fraction of the blend."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import Attention, ResidualBlock, crop, draw_marks, pad
from .heads import look_around, pool


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a `UNet`; the network is built from this alone.

    Parameters
    ----------
    bands : int
        Number of bands of blend and components.
    branches : int
        Number of components: the central one first.
    widths : tuple of int
        Features at each level, from full resolution down; every level halves the grid.
    blocks : tuple of int
        Residual blocks at each level, on the way down and again on the way up.
    attention : int
        Self-attention blocks at the coarsest level, which relate every part of the stamp to
        every other.
    marks : bool
        Whether the input has marks: spots at the target and at the other sources.
    """

    bands: int = 3
    branches: int = 2
    widths: tuple[int, ...] = (32, 96, 192, 256)
    blocks: tuple[int, ...] = (1, 1, 2, 3)
    attention: int = 2
    marks: bool = False

    def __post_init__(self):
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths has {len(self.widths)} levels and blocks has {len(self.blocks)}; "
                "give one number of each per level"
            )


class UNet(nn.Module):
    """Branched U-shaped generator: each component is a fraction of the blend.

    Every component is the blend times a number between 0 and 1, per pixel and band. So no
    galaxy is brighter than the blend (true in every blending mode) and none has light where the
    blend has none. Scaling the blend scales the components: the network's input is normalised to
    the level and contrast of the stamp.

    Parameters
    ----------
    config : UNetConfig
        The shape of the network.

    Attributes
    ----------
    familiarity : Familiarity or None
        Flags blends that differ from those of training, if fitted.
    blend_score : BlendScore or None
        Estimates the probability of more than one galaxy, if fitted.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.familiarity = self.blend_score = None
        widths = config.widths
        self.stem = nn.Conv2d(2 * config.bands + 1 + 2 * config.marks, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.encoder = nn.ModuleList(map(_blocks, widths[:-1], config.blocks[:-1]))
        self.bottom = nn.Sequential(
            _blocks(widths[-1], config.blocks[-1] - config.blocks[-1] // 2),
            *(Attention(widths[-1]) for _ in range(config.attention)),
            _blocks(widths[-1], config.blocks[-1] // 2),
        )
        self.decoder = nn.ModuleList(map(_blocks, widths[:-1], config.blocks[:-1]))
        outputs = config.branches * config.bands
        self.fraction = nn.Conv2d(widths[0], outputs, 3, padding=1)
        self.log_std = nn.Sequential(
            nn.Conv2d(widths[0], widths[0], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(widths[0], outputs, 1),
        )

    def forward(
        self, blend, positions=None, present=None, *, with_features=False, with_blend_score=False
    ):
        """Take blends apart, as `astrodeblend.networks` states.

        The blend is not negative.

        Parameters
        ----------
        blend, positions, present : torch.Tensor
            As every generator takes them.
        with_features, with_blend_score : bool, optional
            Also return features, and the probability of more than one galaxy.
        """
        height, width = blend.shape[-2:]
        seen, skips, x, scale = self._encode(blend, positions, present)
        more = (pool((*skips, x)[0], x),) if with_features else ()
        more += (self.blend_score(_around(seen, skips, x)),) if with_blend_score else ()
        for blocks, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            x = blocks(up(x) + skips.pop())
        x = F.relu(crop(x, blend))
        shape = (-1, self.config.branches, self.config.bands, height, width)
        fraction = self.fraction(x).view(shape).float().sigmoid()
        # Detached: the loss of the errors must not change the components.
        log_std = self.log_std(x.detach()).view(shape).float().clamp(-8, 2)
        return blend[:, None] * fraction, scale[:, None] * log_std.exp(), *more

    def blend_features(self, blend, positions=None, present=None):
        """Return the features that `BlendScore` takes, at half the cost of deblending.

        Parameters
        ----------
        blend, positions, present : torch.Tensor
            As every generator takes them.
        """
        return _around(*self._encode(blend, positions, present)[:-1])

    def _encode(self, blend, positions, present):
        """Return the normalised views, features of upper levels and of the last, and the mean."""
        views, scale = _normalised(blend)
        distance, spots = draw_marks(blend, positions, present)
        seen = [views, distance / 40, *([spots] if self.config.marks else [])]
        x = self.stem(pad(torch.cat(seen, dim=1), 2 ** len(self.down)))
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            x = blocks(x)
            skips.append(x)
            x = down(x)
        return views, skips, self.bottom(x), scale


def _around(views, skips, deepest):
    """Pool the second level, which resolves structure, and the last."""
    return look_around(views, (*skips, deepest)[min(1, len(skips))], deepest)


def _blocks(width, number):
    return nn.Sequential(*(ResidualBlock(width) for _ in range(number)))


def _normalised(blend):
    """Return the network's input, which does not change with the scale of the blend.

    Two views of every band, both compressed by asinh: the light above the median, in units of the
    stamp's contrast; and the whole light in units of the stamp's mean, which shows the sky level.
    """
    level = blend.flatten(2).median(dim=2).values[..., None, None]
    above = blend - level
    contrast = above.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    mean = blend.mean(dim=(1, 2, 3), keepdim=True)
    # The floor keeps a blank stamp, without contrast or mean, at zero.
    tiny = torch.finfo(torch.float32).tiny
    views = [
        torch.asinh(4 * above / contrast.clamp(min=tiny)),
        torch.asinh(blend / mean.clamp(min=tiny)),
    ]
    return torch.cat(views, dim=1), mean
