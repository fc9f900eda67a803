"""The U-shaped branched generator: each component is a fraction of the blend."""

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .familiarity import pool

__all__ = ["UNet", "UNetConfig"]


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a `UNet`; the network is built from this alone.

    Parameters
    ----------
    bands : int
        Number of bands of blend and components.
    branches : int
        Number of components: the central one, then the companions.
    widths : tuple of int
        Features at each level, from full resolution down; every level halves the grid.
    blocks : tuple of int
        Residual blocks at each level, on the way down and again on the way up.
    attention : int
        Self-attention blocks at the coarsest level, where every part of the stamp can ask
        every other which galaxy it belongs to.
    """

    bands: int = 3
    branches: int = 2
    widths: tuple[int, ...] = (32, 96, 192, 256)
    blocks: tuple[int, ...] = (1, 1, 2, 3)
    attention: int = 2

    def __post_init__(self):
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths has {len(self.widths)} levels and blocks has {len(self.blocks)}; "
                "give one number of each per level"
            )


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose sum with the input starts as the input.

    No batch normalisation: a galaxy must come out the same whatever else is in the batch.
    """

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x):
        return x + self.second(F.relu(self.first(F.relu(x))))


class _Attention(nn.Module):
    """Self-attention over all positions, with a residual connection."""

    def __init__(self, width, head_width=32):
        super().__init__()
        self.heads = max(1, width // head_width)
        self.norm = nn.GroupNorm(1, width)
        self.query_key_value = nn.Conv2d(width, 3 * width, 1)
        self.project = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x):
        n, width, height, length = x.shape
        qkv = self.query_key_value(self.norm(x)).flatten(2).transpose(1, 2)
        qkv = qkv.reshape(n, height * length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # On a CPU the fused backward pass is several times slower than the plain one.
        slow = x.device.type == "cpu" and torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
            mixed = F.scaled_dot_product_attention(*qkv)  # (n, heads, positions, head_width)
        mixed = mixed.transpose(1, 2).reshape(n, height, length, width).permute(0, 3, 1, 2)
        return x + self.project(mixed)


class UNet(nn.Module):
    """Branched U-shaped generator of bounded fractions.

    Every component is the blend times a number between 0 and 1, per pixel and band. So no
    galaxy is ever brighter than the blend (true in every blending mode), nothing can be drawn
    where there is no light, and scaling the blend scales the components: what the network
    sees is normalised to the level and contrast of the stamp itself.

    Parameters
    ----------
    config : UNetConfig
        The shape of the network.

    Attributes
    ----------
    familiarity : Familiarity or None
        What tells blends apart that are unlike those of training, if that was fitted.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.familiarity = None
        widths = config.widths
        self.stem = nn.Conv2d(2 * config.bands + 1, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.encoder = nn.ModuleList(map(_blocks, widths[:-1], config.blocks[:-1]))
        self.bottom = nn.Sequential(
            _blocks(widths[-1], config.blocks[-1] - config.blocks[-1] // 2),
            *(_Attention(widths[-1]) for _ in range(config.attention)),
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

    def forward(self, blend, *, with_features=False):
        """Take a blend apart.

        Parameters
        ----------
        blend : torch.Tensor
            Shape (n, bands, y, x), not negative, any y and x of at least 16.
        with_features : bool, optional
            Return the features that `Familiarity` judges, too.

        Returns
        -------
        components, std : torch.Tensor
            Shape (n, branches, bands, y, x) each, in the units of the blend: the components
            and the standard deviation expected of their error.
        features : torch.Tensor
            Shape (n, features); only if they are asked for.
        """
        height, width = blend.shape[-2:]
        features, scale = _normalised(blend)
        multiple = 2 ** len(self.down)
        padding = (0, -width % multiple, 0, -height % multiple)
        x = self.stem(F.pad(features, padding, mode="replicate"))
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            x = blocks(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        pooled = (pool(skips[0] if skips else x, x),) if with_features else ()
        for blocks, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            x = blocks(up(x) + skips.pop())
        x = F.relu(x[..., :height, :width])
        shape = (-1, self.config.branches, self.config.bands, height, width)
        fraction = self.fraction(x).view(shape).float().sigmoid()
        # Detached: learning how large the errors are must not change the components.
        log_std = self.log_std(x.detach()).view(shape).float().clamp(-8, 2)
        return blend[:, None] * fraction, scale[:, None] * log_std.exp(), *pooled


def _blocks(width, number):
    return nn.Sequential(*(_ResidualBlock(width) for _ in range(number)))


def _normalised(blend):
    """Return what the network sees, the same for a blend and any multiple of it.

    Two views of every band: the light above the stamp's own level (its median), in units of
    the stamp's contrast, compressed; and the whole light in units of the stamp's mean, which
    tells how high the sky stands. Then the distance from the centre, which says which galaxy
    is the central one.
    """
    n, _, height, width = blend.shape
    level = blend.flatten(2).median(dim=2).values[..., None, None]
    above = blend - level
    contrast = above.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    mean = blend.mean(dim=(1, 2, 3), keepdim=True)
    # A blank stamp has neither contrast nor mean: the floor keeps it at zero.
    tiny = torch.finfo(torch.float32).tiny
    y = torch.arange(height, device=blend.device, dtype=blend.dtype) - (height - 1) / 2
    x = torch.arange(width, device=blend.device, dtype=blend.dtype) - (width - 1) / 2
    radius = torch.hypot(y[:, None], x[None, :]) / 40
    features = [
        torch.asinh(4 * above / contrast.clamp(min=tiny)),
        torch.asinh(blend / mean.clamp(min=tiny)),
        radius.expand(n, 1, height, width),
    ]
    return torch.cat(features, dim=1), mean
