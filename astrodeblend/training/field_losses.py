"""Losses of networks for fields, and the positions that these are given in training."""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from ..networks import HOLE, find_centres
from ..networks.blocks import draw_spots, sample
from .losses import std_loss

__all__ = [
    "FAINT",
    "Question",
    "ask",
    "field_losses",
    "interval_loss",
    "log_ratio",
    "match",
    "shown",
    "snr",
]

#: Signal to noise in all bands together below which a source may be missed without loss.
FAINT = 3.0

_SCATTER = 0.3  # pixels: standard deviation of positions along each axis
_DROPPED, _DOUBLED = 0.07, 0.02  # probability to omit a source, or add a false one beside it
_GUESS = 0.2  # standard deviation of ln size
_FOUND = 0.5  # share of fields whose positions are those that the network finds
_SURE = 0.5  # smallest probability of a source found there
_READ = 0.5  # share of the other fields in which the network tells the sizes
_GAIN = 4.0  # noise variances: tolerance of the squared error of a source's light
_DENSE = 4.0  # weight of the squared error, in noise variances, of all light in a pixel
_SMALL, _MANY = 2.0, 10.0  # half-light radius in pixels of weight 1; largest weight
_WIDE = 8.0  # a source's half-light radius over the reach of pixels that learn offset and size
_WITHIN = 0.683  # share of fluxes within their errors
_NOTHING = 6.0  # units of the sky noise: noise limit of false sources
_EXACT = 0.02  # relative tolerance of light and flux
_LEAST = 1e-3  # ratio of light to truth below which sources learn no more from it
_FAIR = 5.0  # signal to noise at which the ratio of a source's light has half of its weight
_HOPELESS = 10.0  # error, in tolerances, beyond which the loss grows as its logarithm


@dataclass(frozen=True)
class Question:
    """Sources as given to a network in training.

    Attributes
    ----------
    positions, sizes, present : torch.Tensor
        Shapes (n, s, 2), (n, s) and (n, s).
    truth : torch.Tensor
        Shape (n, s): index of the source in the field; -1 for a false source.
    found, read : torch.Tensor
        Shape (n,): whether the network's own detections replace them, or the sizes alone.
    """

    positions: torch.Tensor
    sizes: torch.Tensor
    present: torch.Tensor
    truth: torch.Tensor
    found: torch.Tensor
    read: torch.Tensor


def snr(fields):
    """Return the signal to noise of sources in all bands together, (n, s)."""
    return (fields.flux / fields.limit).square().sum(dim=2).sqrt()


def shown(fields):
    """Return a network's input: blends (n, b, y, x) and FWHM of PSFs in pixels (n, b)."""
    image = fields.image.masked_fill(fields.mask, torch.nan)
    return image, fields.psf.masked_fill(~fields.stated, torch.nan)


def ask(fields, seed):
    """Draw positions and sizes with errors: scattered, omitted and doubled.

    Parameters
    ----------
    fields : astrodeblend.simulate.Fields
        The truth, in units of the noise.
    seed : int
        Seed of the random numbers.

    Returns
    -------
    Question
    """
    generator = torch.Generator().manual_seed(seed)
    device, (n, s) = fields.image.device, fields.present.shape

    def rand(*shape):
        return torch.rand(shape, generator=generator).to(device)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(device)

    kept = fields.inside & (snr(fields) > FAINT) & (rand(n, s) > _DROPPED)
    doubled = kept & (rand(n, s) < _DOUBLED)
    position = fields.position + _SCATTER * normal(n, s, 2)
    angle = 6.2832 * rand(n, s)
    away = fields.size * (0.5 + 1.5 * rand(n, s)) + 1
    beside = position + away[..., None] * torch.stack([angle.cos(), angle.sin()], dim=2)
    which = torch.arange(s, device=device).expand(n, s)
    return Question(
        torch.cat([position, beside], dim=1),
        (fields.size.clamp(min=0.5).log() + _GUESS * normal(n, s)).exp().repeat(1, 2),
        torch.cat([kept, doubled], dim=1),
        torch.cat([which, torch.full_like(which, -1)], dim=1),
        rand(n) < _FOUND,
        rand(n) < _READ,
    )


def match(fields, field, positions):
    """Match positions to the sources of a field: mutual nearest neighbours within a radius.

    Parameters
    ----------
    fields : astrodeblend.simulate.Fields
        The truth.
    field : int
        Index of the field.
    positions : torch.Tensor
        Shape (m, 2).

    Returns
    -------
    torch.Tensor
        Shape (m,): index of the source; -1 for none.
    """
    there = fields.present[field].nonzero()[:, 0]
    none = torch.full((len(positions),), -1, device=positions.device)
    if not len(there) or not len(positions):
        return none
    distance = torch.cdist(positions.float(), fields.position[field, there])
    near = (fields.psf[field].mean() / 2).clamp(min=2).maximum(fields.size[field, there] / 4)
    distance = distance.masked_fill(distance > near, torch.inf)
    closest, mine = distance.min(dim=1)
    mutual = distance.argmin(dim=0)[mine] == torch.arange(len(positions), device=mine.device)
    return torch.where(closest.isfinite() & mutual, there[mine], none)


def _with_found(question, fields, maps, calibration):
    """Replace positions, or sizes, in some of the fields by those that the network finds."""
    sizes = sample(maps[2].detach(), question.positions)[..., 0].exp()
    question = replace(question, sizes=torch.where(question.read[:, None], sizes, question.sizes))
    some = question.found.nonzero()[:, 0].tolist()
    if not some:
        return question
    most = question.present.shape[1]
    found = find_centres(*(each[some].detach() for each in maps), calibration, least=_SURE)
    positions, sizes, present, truth = (
        each.clone()
        for each in (question.positions, question.sizes, question.present, question.truth)
    )
    for k, (at, _, size) in zip(some, found, strict=True):
        at, size = at[:most].to(positions.dtype), size[:most]
        present[k] = torch.arange(most, device=at.device) < len(at)
        positions[k, : len(at)], sizes[k, : len(at)] = at, size.to(sizes.dtype)
        truth[k, : len(at)] = match(fields, k, at)
    return replace(question, positions=positions, sizes=sizes, present=present, truth=truth)


def field_losses(network, fields, seed, *, autocast, asked=1, seen=None):
    """Return the losses of a network on fields, by name; each is a number.

    Parameters
    ----------
    network : FieldNet
        The network in training.
    fields : astrodeblend.simulate.Fields
        On the device of the network.
    seed : int
        Seed of the errors of positions.
    autocast : callable
        Returns the context in which the network runs.
    asked : int, optional
        Sets of positions among which the light is split.
    seen : Seen, optional
        What the network's shared layers see of the fields, if they are held.

    Returns
    -------
    dict of str to torch.Tensor
    """
    if seen is None:
        with autocast():
            seen = network.look(*shown(fields))
    maps = network.heat(seen)
    losses = _finding_losses(maps, fields) | {"total": _total_loss(seen.total, fields)}
    for k in range(asked):
        question = ask(fields, asked * seed + k)
        question = _with_found(question, fields, maps, network.calibration)
        windows = network.windows(seen, question.positions, question.present, question.sizes)
        for name, loss in _splitting_losses(windows, fields, question).items():
            losses[name] = losses.get(name, 0) + loss / asked
    return losses


def _finding_losses(maps, fields):
    """Return losses of heat map, offsets and sizes."""
    heat, offset, log_size = (each.float() for each in maps)
    height, width = heat.shape[2:]
    bright = fields.inside & (snr(fields) > FAINT)
    target = draw_spots(fields.position, bright, (height, width),
                        (0.2 * fields.size).clamp(0.8, 6))  # fmt: skip
    field, source = bright.nonzero(as_tuple=True)
    at = fields.position[field, source]
    pixel = at.round().long()
    target[field, 0, pixel[:, 1], pixel[:, 0]] = 1
    faint = draw_spots(fields.position, fields.inside & ~bright, (height, width), 1.0) > 0.3
    left_out = faint | _unseen(fields.mask.all(dim=1, keepdim=True))
    # Focal loss (Zhou et al. 2019, "Objects as points", equation 1), without ignored pixels.
    weight = (~left_out).float()
    chance = heat.sigmoid()
    true = (target == 1) * (1 - chance).square() * F.logsigmoid(heat)
    false = (1 - target) ** 4 * chance.square() * F.logsigmoid(-heat)
    number = (weight * (target == 1)).sum().clamp(min=1)
    losses = {"heat": -(weight * (true + false)).sum() / number}
    # Offsets and sizes around a source too: there its maximum may be, or a position given.
    step = torch.arange(-1, 2, device=at.device)
    wide = (fields.size[field, source] / _WIDE).clamp(1, 6).round().long()
    near = pixel[:, None] + wide[:, None, None] * torch.cartesian_prod(step, step)  # (m, 9, 2)
    inside = ((near >= 0) & (near < torch.tensor([width, height], device=at.device))).all(dim=2)
    x, y = near.unbind(dim=2)
    x, y, field = x.clamp(0, width - 1), y.clamp(0, height - 1), field[:, None]
    away = (offset[field, :, y, x] - (at[:, None] - near)).abs().sum(dim=2)
    losses["offset"] = (away * inside).sum() / inside.sum().clamp(min=1)
    size = fields.size[field[:, 0], source][:, None]
    away = (log_size[field, 0, y, x] - size.clamp(min=0.5).log()).abs()
    weight = inside * _weight(size)
    losses["size"] = (away * weight).sum() / weight.sum().clamp(min=1)
    return losses


def _unseen(mask):
    """Return the pixels (n, bands, y, x) with no data near, either."""
    return F.max_pool2d((~mask).float(), 2 * HOLE + 1, stride=1, padding=HOLE) == 0


def _weight(size):
    """Return the weight of a source: a large galaxy has that of the small ones that it covers."""
    return (size / _SMALL).clamp(1, _MANY)


def _total_loss(total, fields):
    """Return the loss of the light of all sources together, on and near pixels with data."""
    use = ~(_unseen(fields.mask) | fields.saturated)
    error = ((total.float() - fields.light.paint()) * use).square() / fields.variance
    return _robust(_DENSE * error).sum() / use.sum().clamp(min=1)


def _splitting_losses(windows, fields, question):
    """Return losses of each source's light, its flux, their ratio, and standard deviations."""
    bands, height, width = fields.image.shape[1:]
    slots, most = question.present.shape[1], fields.present.shape[1]
    good = F.pad(~(fields.mask | fields.saturated), 4 * (1,))  # with a border of False
    variance = F.pad(fields.variance, 4 * (1,), value=1)
    names = ("ratio", "pixel", "flux", "std", "flux_std")
    sums = {name: fields.image.new_zeros(()) for name in names}
    number = judges = 0
    for source, corner, (light, std, flux_std) in windows:
        field, slot = source // slots, source % slots
        which = question.truth[field, slot]
        known = which >= 0
        side = light.shape[-1]
        truth = fields.light.windows(torch.where(known, field * most + which, -1), corner, side)
        step = torch.arange(side, device=corner.device)
        x = (corner[:, :1] + step + 1).clamp(0, width + 1)[:, None, None]
        y = (corner[:, 1:] + step + 1).clamp(0, height + 1)[:, None, :, None]
        at = (field[:, None, None, None], torch.arange(bands, device=x.device)[:, None, None], y, x)
        use, noise = good[at], variance[at]
        error = (light.float() - truth) * use
        limit = torch.where(known[:, None], fields.limit[field, which], _NOTHING)
        flux_of = torch.where(known[:, None], fields.flux[field, which], 0).clamp(min=1e-9)
        large = _weight(question.sizes[field, slot])[:, None]
        here = (use.sum(dim=(2, 3)) > 0) * large
        unit = _GAIN + _EXACT**2 * ((truth * use).square() / noise).sum(dim=(2, 3))
        pixel = (error.square() / noise).sum(dim=(2, 3)) / unit
        significance = known[:, None] / (1 + (_FAIR * limit / flux_of).square())
        ratio = log_ratio(light.float() * use, truth * use) * significance
        unit = limit.square() + (_EXACT * (truth * use).sum(dim=(2, 3))).square()
        off = error.sum(dim=(2, 3))
        flux = off.square() / unit
        # of positions as they are found: those that are drawn have larger errors
        judged = here * (known & question.found[field])[:, None] / large
        expects = interval_loss(off.detach(), flux_std)
        sums["flux_std"] = sums["flux_std"] + (expects * judged).sum()
        judges = judges + judged.sum()
        expected = std_loss(light.float() * use, torch.where(use, std.float(), 1), truth * use)
        sums["ratio"] = sums["ratio"] + (ratio * here).sum()
        for name, loss in (("pixel", pixel), ("flux", flux)):
            sums[name] = sums[name] + (_robust(loss) * here).sum()
        sums["std"] = sums["std"] + expected * here.sum()
        number = number + here.sum()
    if not windows:
        return sums
    return {name: loss / (judges if name == "flux_std" else number).clamp(min=1)
            for name, loss in sums.items()}  # fmt: skip


def interval_loss(error, std):
    """Return a loss that is least if 68.3 % of errors are within the standard deviation.

    The quantile loss (Koenker & Bassett 1978, Econometrica 46, 33) of the logarithm of their ratio.

    Parameters
    ----------
    error, std : torch.Tensor
        Errors of fluxes and their standard deviations, in units of the sky noise.

    Returns
    -------
    torch.Tensor
        For each error.
    """
    off = (error.abs() + 0.01).log() - std.log()
    return torch.where(off > 0, _WITHIN, _WITHIN - 1) * off


def log_ratio(light, truth):
    """Return the absolute logarithm of the ratio of light to truth, weighted by the truth.

    Its minimum for uncertain light is the median. A source that gets next to nothing of a pixel's
    light learns from it, where the gradient of its error vanishes.

    Parameters
    ----------
    light, truth : torch.Tensor
        Shape (m, b, y, x).

    Returns
    -------
    torch.Tensor
        Shape (m, b); 0 where there is no true light.
    """
    right = truth.square().sum(dim=(2, 3))
    least = _LEAST * right + 1e-9
    return ((((light * truth).sum(dim=(2, 3)) + least) / (right + least)).log()).abs()


def _robust(square):
    """Return a loss of a squared error: half of it, then the error, then its logarithm.

    Its minimum for an uncertain flux is about the median; that of ``log(1 + square)`` is the mode,
    which is fainter.
    """
    return _HOPELESS * (((1 + 2 * square).sqrt() - 1) / _HOPELESS).log1p()
