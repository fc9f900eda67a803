"""A U-shaped generator for linear flux in any number of bands, in any order."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import Attention, ResidualBlock, crop, draw_marks, for_each, pad


@dataclass(frozen=True)
class BandUNetConfig:
    """Shape of a `BandUNet`; the network is built from this alone.

    Parameters
    ----------
    branches : int
        Number of components: the central one first.
    band_widths : tuple of int
        Features of each band by itself at each level, from full resolution down; every level
        halves the grid.
    widths : tuple of int
        Features of all bands together at each level below the first; the number of levels is at
        least that of ``band_widths`` less one.
    attention : int
        Self-attention blocks at the coarsest level.
    marks : bool
        Whether the input has marks: spots at the target and at the other sources.
    """

    branches: int = 2
    band_widths: tuple[int, ...] = (16, 32, 64)
    widths: tuple[int, ...] = (64, 128, 192)
    attention: int = 1
    marks: bool = False

    def __post_init__(self):
        if not 1 < len(self.band_widths) <= len(self.widths) + 1:
            raise ValueError(
                f"band_widths={self.band_widths!r} has {len(self.band_widths)} levels; give "
                f"2 to {len(self.widths) + 1}, one more than widths at most"
            )


class BandUNet(nn.Module):
    """Branched generator for linear flux in any number of bands, in any order.

    Every band passes through the same weights; bands exchange information through their mean and
    maximum (Zaheer et al. 2017, "Deep sets", equation 4). The output bands have the order of the
    input bands.

    Flux is in units of the standard deviation of each band's sky noise; inside the network it is
    compressed by asinh. The components are fractions of a total, the weighted mean (in asinh) of
    the measured flux and the network's estimate. No component is negative.

    Parameters
    ----------
    config : BandUNetConfig
        The shape of the network.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.familiarity = None
        own, shared = config.band_widths, config.widths
        self.stem = nn.Conv2d(2 + 2 * config.marks, own[0], 3, padding=1)
        self.encoder = nn.ModuleList(map(ResidualBlock, own))
        self.decoder = nn.ModuleList(map(ResidualBlock, own))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(own))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(own))
        # From single bands to the features of all bands together, and back.
        both = list(zip(own[1:], shared, strict=False))
        self.meet = nn.ModuleList(nn.Conv2d(2 * a, b, 1) for a, b in both)
        self.tell = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in both)
        self.shared_encoder = nn.ModuleList(map(ResidualBlock, shared))
        self.shared_decoder = nn.ModuleList(map(ResidualBlock, shared[:-1]))
        self.shared_down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(shared))
        self.shared_up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(shared)
        )
        self.bottom = nn.Sequential(
            *(Attention(shared[-1]) for _ in range(config.attention)), ResidualBlock(shared[-1])
        )
        self.light = nn.Conv2d(own[0], 2 + config.branches, 3, padding=1)
        self.log_std = nn.Sequential(
            nn.Conv2d(own[0], own[0], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(own[0], config.branches, 1),
        )
        nn.init.zeros_(self.light.weight)
        with torch.no_grad():
            self.light.bias.copy_(torch.tensor([0.0, -3.0, *config.branches * [0.0]]))

    def forward(self, blend, positions=None, present=None):
        """Take blends apart, as `astrodeblend.networks` states.

        The blend is sky-subtracted flux in units of each band's sky noise.

        Parameters
        ----------
        blend, positions, present : torch.Tensor
            As every generator takes them.
        """
        n, bands = blend.shape[:2]
        compressed = torch.asinh(blend.flatten(0, 1))[:, None]
        distance, spots = draw_marks(blend, positions, present)
        marks = torch.cat([distance / 24, *([spots] if self.config.marks else [])], dim=1)
        own = torch.cat([compressed, for_each(marks, bands)], dim=1)
        own = pad(own, 2 ** len(self.shared_encoder)).to(memory_format=torch.channels_last)

        own, _ = self._features(own, bands)
        own = F.relu(crop(own, blend))

        light = self.light(own).float()
        # The gate weighs the measured flux, exact where it is bright, against the estimate.
        gate, expected = light[:, :1].sigmoid(), F.softplus(light[:, 1:2])
        total = gate * compressed.clamp(min=0) + (1 - gate) * expected
        components = total.clamp(max=12).sinh() * light[:, 2:].softmax(dim=1)
        # Detached: the loss of the errors must not change the components.
        log_std = self.log_std(own.detach()).float().clamp(-6, 4)
        std = log_std.exp() * (0.1 + 0.03 * components.detach())
        return tuple(part.unflatten(0, (n, bands)).transpose(1, 2) for part in (components, std))

    def _features(self, own, bands):
        """Return features of each band, (n bands, f, y, x), and of all bands, at half the size."""
        own = self.encoder[0](self.stem(own))
        skips, shared_skips = [own], []
        for k, encoder in enumerate(self.shared_encoder):
            shared = self.shared_down[k - 1](shared_skips[-1]) if k else 0
            if k < len(self.meet):
                own = self.encoder[k + 1](self.down[k](own))
                skips.append(own)
                shared = shared + self.meet[k](_pooled(own, bands))
            shared_skips.append(encoder(shared))
        shared = self.bottom(shared_skips.pop())
        own = None
        for k in reversed(range(len(self.shared_encoder))):
            if k < len(self.shared_decoder):
                shared = self.shared_decoder[k](self.shared_up[k](shared) + shared_skips.pop())
            if k < len(self.tell):
                told = for_each(self.tell[k](shared), bands) + skips.pop()
                own = self.decoder[k + 1](told if own is None else told + self.up[k + 1](own))
        return self.decoder[0](skips.pop() + self.up[0](own)), shared


def _pooled(own, bands):
    """Return mean and maximum of features over bands, (n, 2 features, y, x)."""
    own = own.unflatten(0, (-1, bands))
    return torch.cat([own.mean(dim=1), own.amax(dim=1)], dim=1)
