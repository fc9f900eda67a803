"""Building blocks of the networks."""

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

_SIGMA = 1.5  # pixels: standard deviation of a mark
_HEAD_WIDTH = 32  # features of a head of attention
_TILE, _NEAR = 8, 4  # cells: side of a tile of local attention, and its reach in x and y
# Whether torch exports a program for images of any size, for which some operations differ.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to the input; untrained, the block returns the input.

    There is no batch normalisation: the result must not depend on the rest of the batch.
    """

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x):
        """Return the input plus the residual."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class Attention(nn.Module):
    """Self-attention over all positions, with a residual connection."""

    def __init__(self, width):
        super().__init__()
        self.heads = max(1, width // _HEAD_WIDTH)
        self.norm = nn.GroupNorm(1, width)
        self.query_key_value = nn.Conv2d(width, 3 * width, 1)
        self.project = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x):
        """Apply attention to maps of shape (n, width, y, x)."""
        n, width, height, length = x.shape
        qkv = self.query_key_value(self.norm(x)).flatten(2).transpose(1, 2)
        qkv = qkv.reshape(n, height * length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # On a CPU the fused backward pass is several times slower than the plain one.
        slow = x.device.type == "cpu" and torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
            mixed = F.scaled_dot_product_attention(*qkv)  # (n, heads, positions, head_width)
        mixed = mixed.transpose(1, 2).reshape(n, height, length, width).permute(0, 3, 1, 2)
        return x + self.project(mixed)


class LocalAttention(Attention):
    """Attention of every position to the 9x9 positions around it only.

    It has the weights of `Attention` and equals it on maps of 5x5, except that every position is
    normalised on its own.
    """

    def forward(self, x):
        """Apply local attention to maps of shape (n, width, y, x)."""
        n, width, height, length = x.shape
        normed = F.layer_norm(x.movedim(1, -1), (width,), self.norm.weight, self.norm.bias)
        qkv = self.query_key_value(normed.movedim(-1, 1))
        query, key, value = qkv.unflatten(1, (3, self.heads, -1)).unbind(dim=1)
        if _is_exporting():  # all cells at once, since the number of tiles would be fixed
            every = (each.flatten(3).transpose(2, 3) for each in (query, key, value))
            mixed = F.scaled_dot_product_attention(*every, attn_mask=_near_all(height, length))
            return x + self.project(mixed.transpose(2, 3).reshape(x.shape))
        down, right = -height % _TILE, -length % _TILE
        side = _TILE + 2 * _NEAR
        query = _tiles(F.pad(query.flatten(1, 2), (0, right, 0, down)), _TILE, self.heads)
        around = (_NEAR, _NEAR + right, _NEAR, _NEAR + down)
        key, value = (
            _tiles(F.pad(each.flatten(1, 2), around), side, self.heads) for each in (key, value)
        )
        rows, columns = (_near(extent, x.device) for extent in (height, length))
        near = (rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]).reshape(
            -1, 1, _TILE**2, side**2
        )
        # A position beyond the edge attends to itself only.
        near = near | ~near.any(dim=-1, keepdim=True)
        slow = x.device.type == "cpu" and torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=near.repeat(n, 1, 1, 1)
            )
        tiles = (len(rows), len(columns))
        mixed = mixed.unflatten(0, (n, *tiles)).unflatten(-2, (_TILE, _TILE))
        # (n, tiles, tiles, heads, rows, columns, head_width) to (n, width, y, x)
        mixed = mixed.permute(0, 3, 6, 1, 4, 2, 5).reshape(n, width, height + down, length + right)
        return x + self.project(mixed[..., :height, :length])


def _tiles(x, side, heads):
    """Cut (n, width, y, x) into tiles, (n tiles, heads, side^2, head width)."""
    tiles = x.unfold(2, side, _TILE).unfold(3, side, _TILE)
    tiles = tiles.unflatten(1, (heads, -1)).permute(0, 3, 4, 1, 5, 6, 2)
    return tiles.flatten(4, 5).flatten(0, 2)


def _near(extent, device):
    """Return which cells of an axis attend to which: (tiles, cell of the tile, cell around it)."""
    start = torch.arange(0, extent, _TILE, device=device)[:, None]
    asking = (start + torch.arange(_TILE, device=device))[:, :, None]
    asked = (start + torch.arange(-_NEAR, _TILE + _NEAR, device=device))[:, None]
    return ((asking - asked).abs() <= _NEAR) & (asked >= 0) & (asked < extent) & (asking < extent)


def _near_all(height, length):
    """Return which cells of a map see which, (cells, cells)."""
    rows, columns = (
        (torch.arange(side)[:, None] - torch.arange(side)).abs() <= _NEAR
        for side in (height, length)
    )
    return (rows[:, None, :, None] & columns[None, :, None]).flatten(2).flatten(0, 1)


def draw_spots(positions, present, size, sigma=_SIGMA):
    """Draw Gaussians of height 1; where they overlap, their maximum.

    Parameters
    ----------
    positions, present : torch.Tensor
        Shapes (n, s, 2) and (n, s).
    size : (int, int)
        Size of the image in pixels, y and x.
    sigma : float or torch.Tensor, optional
        Standard deviation in pixels, at most 6; a tensor has shape (n, s), one for each.

    Returns
    -------
    torch.Tensor
        Shape (n, 1, y, x), float32.
    """
    n, (height, width) = len(positions), size
    field, slot = present.nonzero(as_tuple=True)
    at = positions[field, slot].float()
    sigma = torch.as_tensor(sigma, device=at.device).expand(present.shape)[field, slot]
    step = torch.arange(-18, 19, device=at.device)
    column, row = (at[:, k, None].round().long() + step for k in (0, 1))
    x, y = (torch.exp(-0.5 * ((c - a[:, None]) / sigma[:, None]).square())
            for c, a in ((column, at[:, 0]), (row, at[:, 1])))  # fmt: skip
    inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None]
    index = (field[:, None, None] * height + row[:, :, None]) * width + column[:, None]
    spots = torch.zeros(n * height * width, device=at.device)
    value = (y[:, :, None] * x[:, None])[inside]
    return spots.scatter_reduce(0, index[inside], value, "amax").view(n, 1, height, width)


def draw_marks(blend, positions=None, present=None):
    """Draw the input planes that give a network the positions of sources.

    Parameters
    ----------
    blend : torch.Tensor
        Shape (n, bands, y, x).
    positions, present : torch.Tensor, optional
        As for every generator; see `astrodeblend.networks`.

    Returns
    -------
    distance : torch.Tensor
        Shape (n, 1, y, x), float32: distance of each pixel from the target, in pixels.
    spots : torch.Tensor
        Shape (n, 2, y, x): a Gaussian of height 1 at the target, and the maximum of those at all
        others.
    """
    n, _, height, width = blend.shape
    if positions is None:
        positions = blend.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(n, 1, 2)
    x, y = positions.float().nan_to_num()[..., None].unbind(dim=2)  # (n, s, 1) each
    column, row = (torch.arange(side, device=blend.device) for side in (width, height))
    distance = torch.hypot((row - y)[..., None], (column - x)[:, :, None])
    spots = torch.exp(-0.5 * (distance / _SIGMA).square())
    if present is not None:
        spots = spots * present[..., None, None]
    other = torch.arange(spots.shape[1], device=blend.device) > 0
    others = (spots * other[:, None, None]).amax(dim=1, keepdim=True)
    return distance[:, :1], torch.cat([spots[:, :1], others], dim=1)


def pad(x, multiple):
    """Pad images to multiples of a width by repeating their edges, evenly on opposite sides."""
    up, left = (-side % multiple // 2 for side in x.shape[-2:])
    down, right = (
        -side % multiple - before for side, before in zip(x.shape[-2:], (up, left), strict=True)
    )
    return F.pad(x, (left, right, up, down), mode="replicate")


def crop(x, blend):
    """Undo `pad`: return the middle of a map, as wide as the blend."""
    (height, width), rows, columns = blend.shape[-2:], *x.shape[-2:]
    return cut(x, (rows - height) // 2, (columns - width) // 2, height, width)


def cut(x, up, left, height, width):
    """Return a part of maps (..., y, x)."""
    if _is_exporting():  # a slice would fix the size
        rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
        return x.index_select(-2, rows + up).index_select(-1, columns + left)
    return x[..., up : up + height, left : left + width]


def for_each(x, number):
    """Repeat each part of (n, ...) so often, (n number, ...)."""
    return x[:, None].expand(-1, number, *x.shape[1:]).flatten(0, 1)


def sample(maps, positions):
    """Interpolate maps (n, f, y, x) at positions (n, s, 2): (n, s, f), float32."""
    extent = torch.tensor(maps.shape[:-3:-1], device=maps.device)
    grid = ((2 * positions.float() + 1) / extent - 1)[:, :, None]
    with torch.autocast(maps.device.type, enabled=False):
        sampled = F.grid_sample(
            maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
        )
    return sampled[..., 0].transpose(1, 2)


def gather_rows(values, index):
    """Gather rows; on a GPU the backward pass is faster than that of indexing."""
    return values.index_select(0, index.flatten()).view(*index.shape, *values.shape[1:])


def window_grid(corner, side):
    """Return x and y of the pixels of windows, (m, w^2, 2)."""
    step = torch.arange(side, device=corner.device)
    y, x = torch.meshgrid(step, step, indexing="ij")
    return corner[:, None] + torch.stack([x.flatten(), y.flatten()], dim=1)


def window_pixels(corner, side, size):
    """Return clipped indices in the image of the pixels of windows, and whether they are inside."""
    height, width = size
    x, y = window_grid(corner, side).unbind(dim=2)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return y.clamp(0, height - 1) * width + x.clamp(0, width - 1), inside
