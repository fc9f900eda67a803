"""The network for fields: it finds sources and splits light among any number of them."""

import math
from dataclasses import dataclass, replace
from functools import wraps

import torch
from torch import nn
from torch.nn import functional as F

from .band_unet import BandUNet, BandUNetConfig
from .blocks import LocalAttention, cut, for_each, gather_rows, sample, window_grid, window_pixels
from .centres import UNCALIBRATED

__all__ = ["FieldNet", "FieldNetConfig", "Pixels", "Seen", "Sources"]

#: Widths in pixels of the windows in which light is split; none is wider than the image.
WINDOWS = (32, 64, 128, 256, 512, 1024)

_PLANES = 4  # flux; no data there; width of the PSF; whether it is stated
_FINE = 2  # pixels of the image along each side of one of the finest level
_FEATURES = 16  # of each pixel of a band
_KEY, _STD_KEY, _HIDDEN, _FLUX_HIDDEN, _TOLD = 16, 4, 16, 64, 64
_LIMIT = 20.0  # largest absolute value of a logit
_SLOPE = 1.678  # half-light radius of an exponential disk in scale lengths
_SOURCE_LIMIT = (
    3.0  # noise limit of a Gaussian source in units of its half-light radius and the noise
)
_FAINTEST = 0.1  # in units of the sky noise: light at which a window ends
_ELEMENTS = 2**21  # pixels of windows computed at a time
_REACH = 3.0  # sums of two half-light radii: distance from which on two sources are no neighbours
_PAIRS = 2**14  # neighbours computed at a time


@dataclass(frozen=True)
class FieldNetConfig:
    """Shape of a `FieldNet`; the network is built from this alone.

    Parameters
    ----------
    band_widths, widths : tuple of int
        Features of each band by itself, from half of the resolution down, and of all bands
        together, from a quarter down, as in `BandUNetConfig`.
    attention : int
        Blocks of local self-attention at the coarsest level.
    """

    band_widths: tuple[int, ...] = (32, 48)
    widths: tuple[int, ...] = (128, 192)
    attention: int = 2


@dataclass(frozen=True)
class Seen:
    """The output of the shared layers for n images in b bands.

    Attributes
    ----------
    own : torch.Tensor
        Shape (n b, f, y / 2, x / 2): features of each band.
    fine : torch.Tensor
        Shape (n b, h, y, x): features of each pixel of a band.
    shared : torch.Tensor
        Shape (n, g, y / 4, x / 4): features of all bands together.
    total : torch.Tensor
        Shape (n, b, y, x): the noiseless light of all sources and of the diffuse rest.
    """

    own: torch.Tensor
    fine: torch.Tensor
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
    shape, query, std_query, flux_query : torch.Tensor
        From the features at the position: shape of the profile; queries for light, its error, and
        the error of the flux.
    """

    source: torch.Tensor
    image: torch.Tensor
    at: torch.Tensor
    size: torch.Tensor
    peak: torch.Tensor
    shape: torch.Tensor
    query: torch.Tensor
    std_query: torch.Tensor
    flux_query: torch.Tensor


def _exactly(method):
    """Compute in single precision, whatever the context: light has more than three digits."""

    @wraps(method)
    def exact(self, *args):
        device = self.key.weight.device.type
        if not torch.is_autocast_enabled(device):
            return method(self, *args)
        with torch.autocast(device, enabled=False):
            return method(self, *args)

    return exact


class FieldNet(BandUNet):
    """Finds sources in linear flux and splits the light among any number of them.

    The shared layers are those of `BandUNet` with a reach of some hundred pixels: attention is
    local, and nothing is normalised over the image. So blocks of an image with a margin give the
    result of the whole image, if they start at multiples of 8 pixels.

    Each source has a weight in every pixel of a window around it, from its query, its size and the
    pixel's key. A softmax over all sources that reach the pixel, and the light of no source, splits
    the pixel's light. Untrained, sources are exponential disks with the peak of the image there.
    Before that, each source is told of its neighbours: their positions, sizes and brightness, and
    their weights in its own middle.

    NaN in a blend marks missing data.

    Parameters
    ----------
    config : FieldNetConfig
        The shape of the network.

    Attributes
    ----------
    calibration : torch.Tensor
        Shape (2,), as `centre_probability` takes it.
    """

    # layers that estimate errors, on which light does not depend; and with them all that split it
    errors = ("std_query", "log_std", "flux_query", "flux_sums", "flux_told", "log_flux_std")
    splitting = (
        "key", "nobody", "query", "shape", "place", "neighbour", "requery", "reshape", *errors,
    )  # fmt: skip
    mixed_precision = True  # layers that need single precision compute in it in any context

    def __init__(self, config):
        own, shared = config.band_widths, config.widths
        super().__init__(BandUNetConfig(1, own, shared, config.attention))
        self.config = config
        self.stem = nn.Conv2d(_PLANES * _FINE**2, own[0], 3, padding=1)
        for k in range(config.attention):
            self.bottom[k] = LocalAttention(shared[-1])
        self.fine = nn.Conv2d(own[0], _FEATURES * _FINE**2, 3, padding=1)
        self.light = nn.Conv2d(_FEATURES, 2, 1)
        self.log_std = nn.Sequential(
            nn.Conv2d(own[0], own[0], 1), nn.ReLU(),
            nn.Conv2d(own[0], _STD_KEY * _FINE**2, 1), nn.PixelShuffle(_FINE),
        )  # fmt: skip
        self.centres = nn.Sequential(
            nn.Conv2d(2 * own[0], 64, 3, padding=1), nn.ReLU(),
            nn.Conv2d(64, 4 * _FINE**2, 1), nn.PixelShuffle(_FINE),
        )  # fmt: skip
        self.key = nn.Conv2d(_FEATURES, _KEY, 1)
        self.nobody = nn.Conv2d(_FEATURES, 1, 1)
        known = shared[0] + own[0] + 1
        self.query = _mlp(known, _KEY)
        self.std_query = _mlp(known, _STD_KEY)
        self.flux_query = nn.Linear(known, _FLUX_HIDDEN)
        self.flux_sums = nn.Linear(3, _FLUX_HIDDEN)
        self.log_flux_std = nn.Linear(_FLUX_HIDDEN, 1)
        self.shape = _mlp(shared[0] + 1, 2 * _HIDDEN + 1)
        self.place = nn.Linear(4, _HIDDEN)
        self.neighbour = nn.Sequential(
            nn.Linear(7, _TOLD), nn.ReLU(), nn.Linear(_TOLD, _TOLD), nn.ReLU()
        )
        self.requery = _mlp(_TOLD + _KEY, 1 + _KEY)
        self.reshape = nn.Linear(_TOLD, 2 * _HIDDEN + 1)
        self.flux_told = nn.Linear(_TOLD, _FLUX_HIDDEN, bias=False)
        self.register_buffer("calibration", torch.tensor(UNCALIBRATED))
        with torch.no_grad():
            for layer in (self.light, self.nobody, self.centres[-2], self.log_flux_std):
                layer.weight.zero_()
            for part in (self.reshape, self.flux_told):
                part.weight.zero_()
            self.reshape.bias.zero_()
            self.log_flux_std.bias.zero_()
            self.light.bias.copy_(torch.tensor([0.0, -3.0]))
            self.nobody.bias.fill_(math.log(_FAINTEST))
            start = torch.tensor([-4.6, 0.0, 0.0, math.log(3)])
            self.centres[-2].bias.copy_(start.repeat_interleave(_FINE**2))

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
        seen = self.look(blend, psf=psf)
        light, std = (part[:, 0] for part in self.share_whole(seen, positions, present))
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
        multiple = _FINE * 2 ** len(self.shared_encoder)
        beyond = (0, -width % multiple, 0, -height % multiple)
        planes = [
            F.pad(plane.to(blend.dtype).expand_as(blend), beyond, value=float(plane is missing))
            for plane in planes
        ]  # beyond the edge there are no data
        planes = torch.stack(planes, dim=2).flatten(0, 1)
        # As pixel_unshuffle, which programs for any size cannot have.
        parts = [planes[..., i::_FINE, j::_FINE] for i in range(_FINE) for j in range(_FINE)]
        planes = torch.stack(parts, dim=2).flatten(1, 2).to(memory_format=torch.channels_last)
        own, shared = self._features(planes, bands)
        own = F.relu(own)
        fine = F.relu(cut(F.pixel_shuffle(self.fine(own), _FINE), 0, 0, height, width))
        gate, expected = self._gate(fine).unflatten(0, (n, bands)).unbind(dim=2)
        gate = gate.sigmoid() * ~missing
        total = gate * compressed.clamp(min=0) + (1 - gate) * F.softplus(expected)
        return Seen(own, fine, shared, total.clamp(max=12).sinh())

    @_exactly
    def _gate(self, fine):
        """Return the part of the light that is the image's, and what it is otherwise."""
        return self.light(fine.float())

    @_exactly
    def heat(self, seen):
        """Return heat map, offsets and sizes, as `find` does, from the shared layers.

        Parameters
        ----------
        seen : Seen
            As `look` returns it.
        """
        n, bands, height, width = seen.total.shape
        own = seen.own.float().unflatten(0, (n, bands))
        maps = self.centres(torch.cat([own.mean(dim=1), own.amax(dim=1)], dim=1))
        maps = cut(maps, 0, 0, height, width)
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
        return self.share_whole(self.look(blend, psf=psf), positions, present, sizes)

    @_exactly
    def share_whole(self, seen, positions, present=None, sizes=None):
        """Split light as `share` does, without windows.

        Parameters
        ----------
        seen : Seen
            As `look` returns it.
        positions, present, sizes : torch.Tensor
            As for `split`.

        Returns
        -------
        light, std : torch.Tensor
            As `split` returns them.
        """
        height, width = seen.total.shape[2:]
        if sizes is None:
            sizes = self._sizes(seen, positions)
        pixels, at, size = self.pixels(seen), positions.float(), sizes.float()
        if present is None:
            present = torch.ones_like(size, dtype=torch.bool)
        own, shared, peak = self._there(seen, positions)
        shape, query, std_query, _ = self._questions(own, shared, size)
        rows = _rows_at(torch.arange(at.shape[0], device=at.device)[:, None], at, pixels.key.shape)
        known = at, size, peak, shape, query, gather_rows(pixels.key.flatten(0, 3), rows).float()
        told = self._told(*([part.unsqueeze(dim) for part in known] for dim in (2, 1)))
        every = torch.arange(at.shape[1], device=at.device)
        met = present[:, None] & (every[:, None] != every)
        told = (told * met[..., None, None]).sum(dim=2)
        peak, shape, query = self._changed(peak, shape, query, told)
        y, x = torch.meshgrid(
            *(torch.arange(side, device=peak.device) for side in (height, width)), indexing="ij"
        )
        grid = torch.stack([x.flatten(), y.flatten()], dim=1)  # (p, 2)
        which = _which_window(size, peak)
        side = torch.tensor(WINDOWS, device=peak.device)[which]
        side = side.clamp(max=torch.sym_max(height, width))
        first = _corner(at, side, height, width)[:, :, None]
        inside = ((grid >= first) & (grid < first + side[..., None, None])).all(dim=3)
        inside = inside & present[..., None]
        away = (grid - at[:, :, None]) / size[..., None, None]
        mine = self._mine(away, shape[:, :, None])[:, :, None] + peak.log()[..., None]
        match = torch.einsum("nbpk,nsbk->nsbp", pixels.key.flatten(2, 3), query)
        claim = _bounded(mine + match / math.sqrt(_KEY)).exp() * inside[:, :, None]
        share = claim / (claim.sum(dim=1) + pixels.nobody.exp().flatten(2))[:, None]
        log_std = torch.einsum("nbpk,nsbk->nsbp", pixels.std_key.flatten(2, 3), std_query)
        parts = _light(pixels.total.flatten(2)[:, None], share, log_std, inside[:, :, None])
        return tuple(part.unflatten(3, (height, width)) for part in parts)

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
        list of (source, corner, (light, std, flux_std))
            One entry for each width w: index of the sources, (m,), s times that of the image plus
            slot; x and y of the window's first pixel, (m, 2); light and deviation, (m, bands, w, w)
            each, 0 outside of the image; and the standard deviation of the flux, (m, bands).
        """
        if sizes is None:
            sizes = self._sizes(seen, positions)
        return self.share(self.pixels(seen), self.sources(seen, positions, present, sizes))

    @_exactly
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
        image, slot = present.nonzero(as_tuple=True)
        own, shared, peak = (each[image, slot] for each in self._there(seen, positions))
        at, size = positions[image, slot].float(), sizes[image, slot].float()
        source = image * present.shape[1] + slot
        return Sources(source, image, at, size, peak, *self._questions(own, shared, size))

    def _sizes(self, seen, positions):
        """Return half-light radii (n, s) as the network estimates them."""
        return sample(self.heat(seen)[2].detach(), positions)[..., 0].exp()

    def _there(self, seen, positions):
        """Return features of each band and of all, and peaks, at positions (n, s, 2)."""
        n, bands = seen.total.shape[:2]
        own = sample(seen.own, (for_each(positions, bands) - 0.5) / _FINE)
        own = own.unflatten(0, (n, bands)).transpose(1, 2)  # (n, s, bands, f)
        peak = sample(seen.total, positions).clamp(min=_FAINTEST)  # (n, s, bands)
        return own, sample(seen.shared, (positions - 1.5) / 4), peak

    def _questions(self, own, shared, size):
        """Return shape, query, std_query and flux_query of sources."""
        known = torch.cat([shared, size.log()[..., None]], dim=-1)
        shape = self.shape(known)
        known = known[..., None, :].expand(*own.shape[:-1], known.shape[-1])
        known = torch.cat([own, known], dim=-1)
        query, known = self.query(known), known.detach()
        return shape, query, self.std_query(known), self.flux_query(known)

    @_exactly
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
        n, bands, height, width = seen.total.shape
        fine, own = seen.fine.float(), seen.own.detach().float()
        answers = self.key(fine), cut(self.log_std(own), 0, 0, height, width), self.nobody(fine)
        key, std_key, nobody = (a.unflatten(0, (n, bands)).movedim(2, -1) for a in answers)
        return Pixels(seen.total, key, std_key, _bounded(nobody[..., 0]))

    @_exactly
    def share(self, pixels, sources):
        """Split light among sources, each in its window.

        Parameters
        ----------
        pixels : Pixels
        sources : Sources

        Returns
        -------
        list of (source, corner, (light, std, flux_std))
            As `windows` does.
        """
        bands, height, width = pixels.total.shape[1:]
        sources = self._met(pixels, sources)
        at, size, peak = sources.at, sources.size, sources.peak
        keys, std_keys = (each.flatten(0, 3) for each in (pixels.key, pixels.std_key))
        claimed = pixels.nobody.exp().flatten()
        which = _which_window(size, peak)
        elements = _ELEMENTS * (1 if at.device.type == "cpu" else 16)
        groups = []
        for k, side in enumerate(WINDOWS):
            side = min(side, max(width, height))
            for of in (which == k).nonzero()[:, 0].split(max(1, elements // (bands * side**2))):
                if not len(of):
                    continue
                corner = _corner(at[of], torch.full_like(of, side), height, width)
                pixel, inside = window_pixels(corner, side, (height, width))
                plane = sources.image[of, None] * bands + torch.arange(bands, device=of.device)
                index = plane[..., None] * (height * width) + pixel[:, None]  # (m, bands, w^2)
                away = (window_grid(corner, side) - at[of, None]) / size[of, None, None]
                mine = self._mine(away, sources.shape[of, None])[:, None]
                mine = mine + peak[of].log()[..., None]
                query = sources.query[of]
                key = gather_rows(keys, index).float()
                match = torch.einsum("mbpk,mbk->mbp", key, query)
                claim = _bounded(mine + match / math.sqrt(_KEY)).exp() * inside[:, None]
                claimed = claimed.index_add(0, index.flatten(), claim.flatten())
                groups.append((of, corner, side, index, inside, claim))

        total, windows = pixels.total.flatten(), []
        for of, corner, side, index, inside, claim in groups:
            share = claim / gather_rows(claimed, index)
            log_std = torch.einsum(
                "mbpk,mbk->mbp", gather_rows(std_keys, index).float(), sources.std_query[of]
            )
            light, std = _light(gather_rows(total, index), share, log_std, inside[:, None])
            flux_std = self._flux_std(sources, of, light.detach(), share.detach(), std.detach())
            parts = tuple(part.unflatten(2, (side, side)) for part in (light, std))
            windows.append((sources.source[of], corner, (*parts, flux_std)))
        return windows

    def _met(self, pixels, sources):
        """Return sources told of their neighbours."""
        rows = _rows_at(sources.image, sources.at, pixels.key.shape)
        known = (
            sources.at, sources.size, sources.peak, sources.shape, sources.query,
            gather_rows(pixels.key.flatten(0, 3), rows).float(),
        )  # fmt: skip
        told = sources.peak.new_zeros(*sources.peak.shape, _TOLD)
        for pairs in _neighbours(sources).split(_PAIRS):
            one, other = ([part[k] for part in known] for k in pairs.unbind(dim=1))
            told = told.index_add(0, pairs[:, 0], self._told(one, other))
        peak, shape, query = self._changed(sources.peak, sources.shape, sources.query, told)
        flux_query = sources.flux_query + self.flux_told(told.detach())
        return replace(sources, peak=peak, shape=shape, query=query, flux_query=flux_query)

    def _told(self, one, other):
        """Return what sources are told of others, (..., bands, features).

        Both are lists: position, size, peak, shape, query, and key of the pixel at the position.
        """

        def claim(of, by):
            (at, *_, key), (centre, size, peak, shape, query, _) = of, by
            mine = self._mine((at - centre) / size[..., None], shape)[..., None] + peak.log()
            return _bounded(mine + (key * query).sum(dim=-1) / math.sqrt(_KEY))

        (at, size, peak, *_), (its_at, its_size, its_peak, *_) = one, other
        apart = its_at - at
        reach = _REACH * (size + its_size)
        near = (1 - apart.square().sum(dim=-1) / reach.square()).clamp(min=0).square()
        apart = apart / size[..., None]
        both = [
            *apart.unbind(dim=-1), apart.square().sum(dim=-1).add(1e-2).sqrt(),
            (its_size / size).log(),
        ]  # fmt: skip
        each = [
            (its_peak / peak).log(),
            claim(one, other) - claim(one, one), claim(other, one) - claim(other, other),
        ]  # fmt: skip
        known = torch.stack([*(b[..., None].expand_as(each[0]) for b in both), *each], dim=-1)
        return near[..., None, None] * self.neighbour(known.asinh())

    def _changed(self, peak, shape, query, told):
        """Return peaks, shapes and queries of sources that were told things."""
        change = self.requery(torch.cat([told, query], dim=-1))
        peak = peak * change[..., 0].clamp(-6, 3).exp()
        return peak, shape + self.reshape(told.mean(dim=-2)), query + change[..., 1:]

    def _mine(self, away, shape):
        """Return the logarithm of what sources claim at places (..., 2), in half-light radii."""
        r = (away.square().sum(dim=-1) + 1e-2).sqrt()
        place = torch.cat([away, r[..., None], r[..., None].log1p()], dim=-1)
        bias, weight, more = shape.split([_HIDDEN, _HIDDEN, 1], dim=-1)
        mine = ((self.place(place) + bias).relu() * weight + more / _HIDDEN).sum(dim=-1)
        return mine - _SLOPE * r

    def _flux_std(self, sources, of, light, share, std):
        """Return the standard deviation of fluxes."""
        flux = light.sum(dim=2)
        shared = (light * (1 - share)).sum(dim=2) / (flux + _FAINTEST)
        noise = std.square().sum(dim=2).sqrt()
        sums = torch.stack([(flux + 1).log() / 4, shared, (noise + _FAINTEST).log() / 2], dim=2)
        hidden = (sources.flux_query[of] + self.flux_sums(sums)).relu()
        log_ratio = self.log_flux_std(hidden)[..., 0].clamp(-4, 6)
        return log_ratio.exp() * _SOURCE_LIMIT * sources.size[of, None]


def _rows_at(image, at, shape):
    """Return the rows (..., bands) of pixels (n, bands, y, x, k) at positions (..., 2)."""
    bands, height, width = shape[1:4]
    x, y = (at + 0.5).floor().long().unbind(dim=-1)
    pixel = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    plane = image[..., None] * bands + torch.arange(bands, device=at.device)
    return plane * (height * width) + pixel[..., None]


def _neighbours(sources):
    """Return the pairs (p, 2) of sources of an image that are told of one another."""
    rows = []
    at, size, image = sources.at, sources.size, sources.image
    for some in torch.arange(len(at), device=at.device).split(1024):
        reach = _REACH * (size[some, None] + size)
        pairs = (torch.cdist(at[some], at) < reach) & (image[some, None] == image)
        one, other = pairs.nonzero(as_tuple=True)
        rows.append(torch.stack([some[one], other], dim=1))
    pairs = torch.cat(rows) if rows else at.new_zeros(0, 2, dtype=torch.long)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _which_window(size, peak):
    """Return which of ``WINDOWS`` is wide enough for a source of a size and peaks (..., bands)."""
    reach = size * (peak.detach().amax(dim=-1) / _FAINTEST / 2).log().clamp(min=4)
    return (2 * reach[..., None] > reach.new_tensor(WINDOWS[:-1])).sum(dim=-1)


def _corner(at, side, height, width):
    """Return x and y of the first pixel of windows around positions, inside an image."""
    low, side = (at + 0.5).floor().long() - side[..., None] // 2, side[..., None]
    most = torch.cat([width - side, height - side], dim=-1).clamp(min=0)
    return low.clamp(min=0).minimum(most)


def _light(total, share, log_std, inside):
    """Return light and its standard deviation from shares of the total."""
    light = total * share
    # Detached: the loss of the errors must not change the light.
    known = light.detach() * (0.03 + 0.2 * (1 - share.detach())) + 0.1 * share.detach()
    return light, log_std.clamp(-6, 4).exp() * (known + 0.01) * inside


def _mlp(inputs, outputs):
    """Return two layers whose output starts at 0."""
    layers = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))
    nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(layers[-1].bias)
    return layers


def _bounded(logits):
    """Bound logits smoothly, so that exponentials do not overflow."""
    return _LIMIT * torch.tanh(logits / _LIMIT)
