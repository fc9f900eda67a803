"""The fast simulator of pictures: whole batches in torch, on the CPU or a GPU.

It equals `astrodeblend.simulate.blend_pair` to rounding, but computes only the pixels of the stamp,
at which the perturbation samples the images; all images stay in memory as bytes.
"""

import numpy as np
import torch
from torch.nn import functional as F

from .recipes import DENSE, get_recipe

# Quantisation tables of the JPEG standard (ITU-T T.81, tables K.1 and K.2).
_LUMINANCE = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99
"""
_COLOUR = (
    """
17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
"""
    + 32 * " 99"
)
# RGB to YCbCr (ITU-T T.871); the offsets of the colour planes cancel here.
_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)


class Simulator:
    """Makes batches of blends.

    Parameters
    ----------
    images : numpy.ndarray
        Shape (n, bands, y, x), y = x, uint8 (0 to 255) or float (0 to 1): isolated galaxies.
    recipe : str or Recipe
        Recipe of the blends.
    device : str or torch.device
        Device for the images and the computation.
    """

    def __init__(self, images, recipe, *, device="cpu"):
        self.recipe = get_recipe(recipe)
        if images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images has shape {images.shape}; it takes (n, bands, y, x), y = x")
        if images.shape[2] < self.recipe.crop:
            raise ValueError(
                f"images are {images.shape[2]} pixels wide; recipe {self.recipe.name!r} needs "
                f"at least {self.recipe.crop}"
            )
        if self.recipe.rendering is not None and images.shape[1] != 3:
            raise ValueError(
                f"images have {images.shape[1]} bands; recipe {self.recipe.name!r} re-renders "
                "colour pictures, which have 3"
            )
        self.device = torch.device(device)
        self.size = images.shape[2]
        self.bands = images.shape[1]
        images = torch.as_tensor(images, device=self.device)
        self.full_scale = 255.0 if images.dtype == torch.uint8 else 1.0
        self.number = len(images)
        # One row per pixel, so that a gather reads all bands of a pixel at once.
        self.pixels = images.movedim(1, -1).reshape(-1, self.bands)

    def __call__(self, draw):
        """Make blends.

        Parameters
        ----------
        draw : Draw
            Random numbers of the blends, from ``recipe.draw``.

        Returns
        -------
        blend, isolated : torch.Tensor
            Shapes (n, bands, s, s) and (n, 2, bands, s, s), float32 from 0 to 1; ``isolated``
            holds the truth: the target (the central galaxy unless ``draw`` has another), then the
            blend of all others; the sky if there are none.
        """
        index, matrices = draw.galaxies(self.size)
        sky = self._tensor(draw.sky)[..., None, None]
        galaxies = []
        for k, each in enumerate((draw, draw, *draw.further)):
            chosen = (index[:, k] >= 0).nonzero()[0]
            alone = self._sample(index[chosen, k], matrices[chosen, k])
            if draw.seeing is not None:
                alone = self._render(alone, each[chosen], min(k, 1))
            image = sky.expand(-1, self.bands, *alone.shape[2:]).clone()
            image[to_device(chosen, self.device)] = alone.float()
            galaxies.append(image)
        order = draw.order()
        there = to_device(np.take_along_axis(index >= 0, order, 1), self.device)
        order, rows = (to_device(a, self.device) for a in (order, np.ogrid[: len(draw)]))
        galaxies = torch.stack(galaxies, dim=1)[rows[:, None], order]
        target, rest = galaxies[:, 0], galaxies[:, 1]
        for k in range(2, galaxies.shape[1]):
            both = self._blend(torch.stack([rest, galaxies[:, k]], dim=1), draw.mode, sky)
            both = _where(there[:, 1:k].any(dim=1), both, galaxies[:, k])
            rest = _where(there[:, k], both, rest)
        isolated = torch.stack([target, rest], dim=1)
        blend = self._blend(isolated, draw.mode, sky)
        return _where(there[:, 1:].any(dim=1), blend, target), isolated

    def _tensor(self, values):
        return to_device(values, self.device, torch.float32)

    def _sample(self, index, matrix):
        """Sample images at the stamp's pixels, bilinearly, zero outside: (n, bands, s, s)."""
        crop, factor, size = self.recipe.crop, self.recipe.factor, self.size
        start = (size - crop) // 2 + factor // 2
        grid = start + factor * torch.arange(self.recipe.stamp, device=self.device)
        grid = grid.to(torch.float32)
        m = self._tensor(matrix)[:, :2, :, None, None]
        x, y = (m[:, k, 0] * grid[None, None] + m[:, k, 1] * grid[None, :, None] + m[:, k, 2]
                for k in (0, 1))  # fmt: skip
        x0, y0 = x.floor(), y.floor()
        base = to_device(index, self.device).view(-1, 1, 1) * size**2
        out = 0.0
        for dy in (0, 1):
            for dx in (0, 1):
                xk, yk = x0 + dx, y0 + dy
                weight = (1 - (x - xk).abs()) * (1 - (y - yk).abs()) / self.full_scale
                weight = weight * ((xk >= 0) & (xk < size) & (yk >= 0) & (yk < size))
                where = base + (yk.clamp(0, size - 1) * size + xk.clamp(0, size - 1)).long()
                values = self.pixels.index_select(0, where.flatten())
                out = out + weight[..., None] * values.view(*where.shape, self.bands)
        return out.movedim(-1, 1)

    def _render(self, images, draw, which):
        """Re-render galaxies as from another survey, with the first or the second noise drawn."""
        shape = (-1, 1, 1, 1)
        x = _apart(_blur, images, self._tensor(draw.seeing), neutral=0)
        grey = x.mean(dim=1, keepdim=True)
        x = (grey + self._tensor(draw.saturation).view(shape) * (x - grey)).clamp(min=0)
        x = x.pow(self._tensor(draw.exponent).view(shape))
        gain = self._tensor(draw.gain)[..., None, None]
        sky = self._tensor(draw.pedestal).view(shape)
        x = gain * ((1 - sky) * x + sky)
        for k in draw.noise.nonzero()[0]:
            (noise,) = white_noise(draw.noise_seed[[k]], (2, *x.shape[1:]), self.device)
            x[k] += float(draw.noise[k]) * noise[which]
        return _apart(_jpeg, x.clamp(0, 1), self._tensor(draw.quality), neutral=100)

    def _blend(self, isolated, mode, sky):
        """Blend by the mode of each blend, as `astrodeblend.simulate.blend_images` states."""
        names = [self.recipe.modes[k] for k in mode]
        adds = self._tensor([name != "max" for name in names]).view(-1, 1, 1, 1)
        covers = self._tensor([name == "max_sum" for name in names]).view(-1, 1, 1, 1)
        brightness = (isolated - sky[:, None]).mean(dim=2, keepdim=True).amax(dim=1)
        low, high = DENSE
        ramp = ((brightness - low) / (high - low)).clamp(0, 1)
        opacity = covers * ramp * ramp * (3 - 2 * ramp)
        fainter = (isolated.amin(dim=1) - sky).clamp(min=0)
        return (isolated.amax(dim=1) + adds * (1 - opacity) * fainter).clamp(max=1)


def to_device(values, device, dtype=None):
    """Return values as a tensor on a device, without waiting for pending work of a GPU."""
    values = torch.as_tensor(values, dtype=dtype)
    gpu = device.type == "cuda"
    return (values.pin_memory() if gpu else values).to(device, non_blocking=gpu)


def share_of(batch, rank, world):
    """Return the slice of a batch that one of several processes makes."""
    if batch % world:
        raise ValueError(
            f"batch={batch} cannot be shared by {world} processes; give a multiple of {world}"
        )
    return slice(rank * batch // world, (rank + 1) * batch // world)


def white_noise(seeds, shape, device):
    """Return noise of standard deviation 1, (n, *shape), each of its own seed."""
    return torch.stack(
        [
            torch.randn(
                shape, generator=torch.Generator(device).manual_seed(int(seed)), device=device
            )
            for seed in seeds
        ]
    )


def _where(chosen, images, others):
    return torch.where(chosen[:, None, None, None], images, others)


def _apart(function, x, values, *, neutral):
    """Apply a function only to blends whose value is not the neutral one."""
    chosen = (values != neutral).nonzero()[:, 0]
    return x.index_copy(0, chosen, function(x[chosen], values[chosen])) if len(chosen) else x


def _blur(x, sigma, radius=4):
    """Blur each blend by a Gaussian of its own width; edges are repeated."""
    offset = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).view(len(x), -1, 1, 1, 1)
    for padding, axis in (((0, 0, radius, radius), -2), ((radius, radius, 0, 0), -1)):
        length = x.shape[axis]
        padded = F.pad(x, padding, mode="replicate")
        x = sum(kernel[:, k] * padded.narrow(axis, k, length) for k in range(2 * radius + 1))
    return x


def _jpeg(x, quality):
    """Apply the losses of JPEG compression: YCbCr, 8x8 cosine transform, rounding, and back."""
    height, width = x.shape[-2:]
    planes = 255 * F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
    colour = planes.shape[1] == 3
    if colour:
        to_ycc = _YCC.to(x.device)
        planes = torch.einsum("ij,njyx->niyx", to_ycc, planes)
    k = torch.arange(8, device=x.device, dtype=x.dtype)
    cosine = torch.cos(torch.pi * (2 * k[None] + 1) * k[:, None] / 16) / 2
    cosine[0] /= 2**0.5
    # "quality" as libjpeg defines it
    percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).view(-1, 1, 1, 1)
    tables = [_LUMINANCE, _COLOUR, _COLOUR] if colour else [_LUMINANCE]
    tables = [[int(v) for v in table.split()] for table in tables]
    table = torch.tensor(tables, device=x.device).view(-1, 8, 8)
    table = ((table * percent + 50) / 100).floor().clamp(1, 255)[:, :, None, None]
    blocks = planes.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-2, -3)
    frequencies = cosine @ blocks @ cosine.T
    blocks = cosine.T @ (table * (frequencies / table).round()) @ cosine
    planes = blocks.transpose(-2, -3).flatten(-2).flatten(-3, -2)
    if colour:
        planes = torch.einsum("ij,njyx->niyx", to_ycc.inverse(), planes)
    return (planes[..., :height, :width] / 255).clamp(0, 1)
