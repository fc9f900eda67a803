"""The network for fields: it finds sources and splits light among any number of them."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .band_unet import BandUNet, BandUNetConfig
from .blocks import (
    LocalAttention,
    gather_rows,
    sample,
    window_grid,
    window_pixels,
)
from .centres import PURITIES
from .registry import register

__all__ = ["FieldNet", "FieldNetConfig", "Pixels", "Seen", "Sources"]

#: Widths in pixels of the windows in which light is split; none is wider than the image.
WINDOWS = (32, 64, 128, 256, 512, 1024)

_PLANES = 4  # flux; no data there; width of the PSF; whether it is stated
_KEY, _STD_KEY, _HIDDEN = 16, 4, 16
_LIMIT = 20.0  # largest absolute value of a logit
_SLOPE = 1.678  # half-light radius of an exponential disk in scale lengths
_FAINTEST = 0.1  # in units of the sky noise: light at which a window ends
_ELEMENTS = 2**21  # pixels of windows computed at a time


@dataclass(frozen=True)
class FieldNetConfig:
    """Shape of a `FieldNet`; the network is built from this alone.

    Parameters
    ----------
    band_widths, widths : tuple of int
        Features of each band by itself, and of all bands together, as in `BandUNetConfig`.
    attention : int
        Blocks of local self-attention at the coarsest level.
    """

    band_widths: tuple[int, ...] = (24, 48, 96)
    widths: tuple[int, ...] = (96, 192, 288)
    attention: int = 2


@dataclass(frozen=True)
class Seen:
    """The output of the shared layers for n images in b bands.

    Attributes
    ----------
    own : torch.Tensor
        Shape (n b, f, y, x): features of each band.
    shared : torch.Tensor
        Shape (n, g, y / 2, x / 2): features of all bands together.
    total : torch.Tensor
        Shape (n, b, y, x): the noiseless light of all sources and of the diffuse rest.
    """

    own: torch.Tensor
    shared: torch.Tensor
    total: torch.Tensor


@dataclass(frozen=True)
class Pixels:
    """The keys of the pixels of n images in b bands, to which the queries of sources are matched.

    Attributes
    ----------
    total : torch.Tensor
        As in `Seen`.
    key, std_key : torch.Tensor
        Shape (n, b, y, x, k): keys for light and for its error.
    nobody : torch.Tensor
        Shape (n, b, y, x): logarithm of the weight of the light that belongs to no source.
    """

    total: torch.Tensor
    key: torch.Tensor
    std_key: torch.Tensor
    nobody: torch.Tensor


@dataclass(frozen=True)
class Sources:
    """The queries of m sources, which are matched to the keys of pixels.

    Attributes
    ----------
    source, image : torch.Tensor
        Shape (m,): index of the source, counted through all images, and of its image.
    at, size : torch.Tensor
        Shapes (m, 2) and (m,): position and half-light radius in pixels.
    peak : torch.Tensor
        Shape (m, b): light at the position.
    shape, query, std_query : torch.Tensor
        From the features at the position: shape of the profile, queries for light and error.
    """

    source: torch.Tensor
    image: torch.Tensor
    at: torch.Tensor
    size: torch.Tensor
    peak: torch.Tensor
    shape: torch.Tensor
    query: torch.Tensor
    std_query: torch.Tensor


@register("field", FieldNetConfig)
class FieldNet(BandUNet):
    """Finds sources in linear flux and splits the light among any number of them.

    The shared layers are those of `BandUNet` with a reach of some hundred pixels: attention is
    local, and nothing is normalised over the image. So blocks of an image with a margin give the
    result of the whole image, if they start at multiples of 8 pixels.

    Each source has a weight in every pixel of a window around it, from its query, its size and the
    pixel's key. A softmax over all sources that reach the pixel, and the light of no source, splits
    the pixel's light. Untrained, sources are exponential disks with the peak of the image there.

    NaN in a blend marks missing data.

    Parameters
    ----------
    config : FieldNetConfig
        The shape of the network.

    Attributes
    ----------
    calibration : torch.Tensor
        Slope and offset that turn logits of the heat map into logits of probabilities.
    thresholds : torch.Tensor
        Thresholds of probability, as `purity_thresholds` returns them.
    """

    def __init__(self, config):
        own, shared = config.band_widths, config.widths
        super().__init__(BandUNetConfig(1, own, shared, config.attention))
        self.config = config
        self.stem = nn.Conv2d(_PLANES, own[0], 3, padding=1)
        for k in range(config.attention):
            self.bottom[k] = LocalAttention(shared[-1])
        self.light = nn.Conv2d(own[0], 2, 3, padding=1)
        self.log_std = nn.Sequential(
            nn.Conv2d(own[0], own[0], 3, padding=1), nn.ReLU(), nn.Conv2d(own[0], _STD_KEY, 1)
        )
        self.centres = nn.Sequential(
            nn.Conv2d(2 * own[0], 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 1)
        )
        self.key = nn.Conv2d(own[0], _KEY, 1)
        self.nobody = nn.Conv2d(own[0], 1, 1)
        known = shared[0] + own[0] + 1
        self.query = _mlp(known, _KEY)
        self.std_query = _mlp(known, _STD_KEY)
        self.shape = _mlp(shared[0] + 1, 2 * _HIDDEN + 1)
        self.place = nn.Linear(4, _HIDDEN)
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        self.register_buffer("thresholds", torch.tensor(PURITIES))
        with torch.no_grad():
            for layer in (self.light, self.nobody, self.centres[-1]):
                layer.weight.zero_()
            self.light.bias.copy_(torch.tensor([0.0, -3.0]))
            self.nobody.bias.fill_(math.log(_FAINTEST))
            self.centres[-1].bias.copy_(torch.tensor([-4.6, 0.0, 0.0, math.log(3)]))

    def forward(self, blend, positions=None, present=None, *, psf=None):
        """Split a blend into the first source and the rest, as every generator does.

        Parameters
        ----------
        blend, positions, present : torch.Tensor
            As for every generator; see `astrodeblend.networks`.
        psf : torch.Tensor, optional
            As in `look`.
        """
        if positions is None:
            middle = [(side - 1) / 2 for side in blend.shape[:-3:-1]]
            positions = torch.tensor(middle, device=blend.device).expand(len(blend), 1, 2)
        if present is None:
            present = positions.new_ones(positions.shape[:2], dtype=torch.bool)
        seen = self.look(blend, psf=psf)
        light, std = (part[:, 0] for part in self._whole(seen, positions, present))
        return torch.stack([light, (seen.total - light).clamp(min=0)], 1), std[:, None].repeat(
            1, 2, 1, 1, 1
        )

    def look(self, blend, psf=None):
        """Run the shared layers.

        Parameters
        ----------
        blend : torch.Tensor
            Shape (n, bands, y, x), in units of each band's noise; NaN where there are no data.
        psf : torch.Tensor, optional
            Shape (n, bands): full width at half maximum in pixels; NaN where it is not known.

        Returns
        -------
        Seen
        """
        n, bands, height, width = blend.shape
        missing = blend.isnan()
        compressed = torch.asinh(blend.nan_to_num())
        known = blend.new_full((n, bands), torch.nan) if psf is None else psf
        stated = known.isfinite()
        known = torch.where(stated, known / 4, 1).log()
        planes = (compressed, missing, known, stated)
        planes = [p if p.ndim == 4 else p[..., None, None] for p in planes]
        planes = torch.stack([p.to(blend.dtype).expand_as(blend) for p in planes], dim=2)
        planes = planes.flatten(0, 1)
        # Beyond the edge there are no data.
        multiple = 2 ** len(self.shared_encoder)
        beyond = (0, -width % multiple, 0, -height % multiple)
        if any(beyond):
            planes = F.pad(planes, beyond)
            planes[:, 1, height:] = planes[:, 1, :, width:] = 1
        own, shared = self._features(planes.to(memory_format=torch.channels_last), bands)
        own = F.relu(own[..., :height, :width])
        gate, expected = self.light(own).float().unflatten(0, (n, bands)).unbind(dim=2)
        gate = gate.sigmoid() * ~missing
        total = gate * compressed.clamp(min=0) + (1 - gate) * F.softplus(expected)
        return Seen(own, shared, total.clamp(max=12).sinh())

    def heat(self, seen):
        """Return heat map, offsets and sizes, as `find` does, from the shared layers.

        Parameters
        ----------
        seen : Seen
            As `look` returns it.
        """
        n, bands = seen.total.shape[:2]
        with torch.autocast(seen.own.device.type, enabled=False):  # neighbours must not tie
            own = seen.own.float().unflatten(0, (n, bands))
            maps = self.centres(torch.cat([own.mean(dim=1), own.amax(dim=1)], dim=1))
        return maps[:, :1], maps[:, 1:3], maps[:, 3:].clamp(-1, 6)

    def find(self, blend, psf=None):
        """Return maps of sources, from which `find_centres` makes positions.

        Parameters
        ----------
        blend, psf : torch.Tensor
            As for `look`.

        Returns
        -------
        heat : torch.Tensor
            Shape (n, 1, y, x): logits of the probability that a pixel holds a source's centre.
        offset : torch.Tensor
            Shape (n, 2, y, x): x and y of the centre less those of the pixel, in pixels.
        log_size : torch.Tensor
            Shape (n, 1, y, x): logarithm of its half-light radius in pixels.
        """
        return self.heat(self.look(blend, psf))

    def split(self, blend, positions, present=None, psf=None, sizes=None):
        """Split light among sources, each on the whole image; for many sources use `windows`.

        Parameters
        ----------
        blend : torch.Tensor
            As for `look`.
        positions, present : torch.Tensor
            Shapes (n, s, 2), x and y of sources in pixels, and (n, s), which of them exist.
        psf : torch.Tensor, optional
            As for `look`.
        sizes : torch.Tensor, optional
            Shape (n, s): half-light radii in pixels. By default the network estimates them.

        Returns
        -------
        light, std : torch.Tensor
            Shape (n, s, bands, y, x): light, and the standard deviation of its error.
        """
        if present is None:
            present = positions.new_ones(positions.shape[:2], dtype=torch.bool)
        seen = self.look(blend, psf=psf)
        return self._whole(seen, positions, present, sizes)

    def _whole(self, seen, positions, present, sizes=None):
        """Return light and deviations on whole images instead of windows."""
        n, s = present.shape
        bands, height, width = seen.total.shape[1:]
        light, std = (
            seen.total.new_zeros(n * s, bands, height * width + 1, dtype=torch.float32)
            for _ in "ls"
        )
        for source, corner, parts in self.windows(seen, positions, present, sizes):
            pixel, inside = window_pixels(corner, parts[0].shape[-1], (height, width))
            index = torch.where(inside, pixel, height * width)[:, None].expand(-1, bands, -1)
            for whole, part in zip((light, std), parts, strict=True):
                whole[source] = whole[source].scatter(2, index, part.flatten(2))
        return tuple(w[..., :-1].view(n, s, bands, height, width) for w in (light, std))

    def windows(self, seen, positions, present, sizes=None):
        """Split light among sources, each in a window whose width follows from size and brightness.

        Parameters
        ----------
        seen : Seen
            As `look` returns it.
        positions, present, sizes : torch.Tensor
            As for `split`.

        Returns
        -------
        list of (source, corner, (light, std))
            One entry for each width w: index of the sources, (m,), s times that of the image plus
            slot; x and y of the window's first pixel, (m, 2); light and deviation, (m, bands, w, w)
            each, 0 outside of the image.
        """
        if sizes is None:
            sizes = sample(self.heat(seen)[2].detach(), positions)[..., 0].exp()
        return self.share(self.pixels(seen), self.sources(seen, positions, present, sizes))

    def sources(self, seen, positions, present, sizes):
        """Return the queries of sources.

        Parameters
        ----------
        seen : Seen
            As `look` returns it.
        positions, present, sizes : torch.Tensor
            As for `split`.

        Returns
        -------
        Sources
        """
        n, bands = seen.total.shape[:2]
        image, slot = present.nonzero(as_tuple=True)
        at, size = positions[image, slot].float(), sizes[image, slot].float()
        own = sample(seen.own, positions.repeat_interleave(bands, dim=0))
        own = own.unflatten(0, (n, bands)).transpose(1, 2)[image, slot]  # (m, bands, f)
        shared = sample(seen.shared, (positions - 0.5) / 2)[image, slot]  # (m, g)
        peak = sample(seen.total, positions)[image, slot].clamp(min=_FAINTEST)  # (m, bands)
        known = torch.cat([shared, size.log()[:, None]], dim=1)
        shape = self.shape(known).float()
        known = torch.cat([own, known[:, None].expand(-1, bands, -1)], dim=2)
        source = image * present.shape[1] + slot
        query, std_query = self.query(known), self.std_query(known.detach()).float()
        return Sources(source, image, at, size, peak, shape, query, std_query)

    def pixels(self, seen):
        """Return the keys of pixels.

        Parameters
        ----------
        seen : Seen
            As `look` returns it.

        Returns
        -------
        Pixels
        """
        n, bands = seen.total.shape[:2]
        answers = self.key(seen.own), self.log_std(seen.own.detach()), self.nobody(seen.own)
        key, std_key, nobody = (a.unflatten(0, (n, bands)).movedim(2, -1) for a in answers)
        return Pixels(seen.total, key, std_key, _bounded(nobody[..., 0].float()))

    def share(self, pixels, sources):
        """Split light among sources, each in its window.

        Parameters
        ----------
        pixels : Pixels
        sources : Sources

        Returns
        -------
        list of (source, corner, (light, std))
            As `windows` does.
        """
        bands, height, width = pixels.total.shape[1:]
        at, size, peak = sources.at, sources.size, sources.peak
        keys, std_keys = (each.flatten(0, 3) for each in (pixels.key, pixels.std_key))
        claimed = pixels.nobody.exp().flatten()
        reach = size * (peak.detach().amax(dim=1) / _FAINTEST / 2).log().clamp(min=4)
        which = torch.bucketize(2 * reach, reach.new_tensor(WINDOWS[:-1]))
        extent = torch.tensor([width, height], device=at.device)
        groups = []
        for k, side in enumerate(WINDOWS):
            side = min(side, max(width, height))
            for of in (which == k).nonzero()[:, 0].split(max(1, _ELEMENTS // (bands * side**2))):
                if not len(of):
                    continue
                corner = (at[of] + 0.5).floor().long() - side // 2
                corner = corner.clamp(min=0).minimum((extent - side).clamp(min=0))
                pixel, inside = window_pixels(corner, side, (height, width))
                plane = sources.image[of, None] * bands + torch.arange(bands, device=of.device)
                index = plane[..., None] * (height * width) + pixel[:, None]  # (m, bands, w^2)
                away = (window_grid(corner, side) - at[of, None]) / size[of, None, None]
                r = (away.square().sum(dim=2) + 1e-2).sqrt()
                place = torch.cat([away, r[..., None], r[..., None].log1p()], dim=2)
                bias, weight, more = sources.shape[of, None].split([_HIDDEN, _HIDDEN, 1], dim=2)
                mine = ((self.place(place) + bias).relu() * weight + more / _HIDDEN).sum(dim=2)
                mine = (mine - _SLOPE * r)[:, None] + peak[of].log()[..., None]
                query = sources.query[of]
                match = torch.einsum(
                    "mbpk,mbk->mbp", gather_rows(keys, index).to(query), query
                ).float()
                claim = _bounded(mine + match / math.sqrt(_KEY)).exp() * inside[:, None]
                claimed = claimed.index_add(0, index.flatten(), claim.flatten())
                groups.append((of, corner, side, index, inside, claim))

        total, windows = pixels.total.flatten(), []
        for of, corner, side, index, inside, claim in groups:
            share = claim / gather_rows(claimed, index)
            light = gather_rows(total, index) * share
            # Detached: the loss of the errors must not change the light.
            log_std = torch.einsum(
                "mbpk,mbk->mbp", gather_rows(std_keys, index).float(), sources.std_query[of]
            )
            known = light.detach() * (0.03 + 0.2 * (1 - share.detach())) + 0.1 * share.detach()
            std = log_std.clamp(-6, 4).exp() * (known + 0.01) * inside[:, None]
            parts = tuple(part.unflatten(2, (side, side)) for part in (light, std))
            windows.append((sources.source[of], corner, parts))
        return windows


def _mlp(inputs, outputs):
    """Return two layers whose output starts at 0."""
    layers = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))
    nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(layers[-1].bias)
    return layers


def _bounded(logits):
    """Bound logits smoothly, so that exponentials do not overflow."""
    return _LIMIT * torch.tanh(logits / _LIMIT)
