"""What networks are built of."""

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Attention", "ResidualBlock", "crop", "draw_marks", "pad"]

_SIGMA = 1.5  # of a spot, in pixels


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose sum with the input starts as the input.

    No batch normalisation: a galaxy must come out the same whatever else is in the batch.
    """

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x):
        """Add what the block makes of its input to it."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class Attention(nn.Module):
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
        """Let every position, (n, width, y, x), take from all others what it asks for."""
        n, width, height, length = x.shape
        qkv = self.query_key_value(self.norm(x)).flatten(2).transpose(1, 2)
        qkv = qkv.reshape(n, height * length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # On a CPU the fused backward pass is several times slower than the plain one.
        slow = x.device.type == "cpu" and torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
            mixed = F.scaled_dot_product_attention(*qkv)  # (n, heads, positions, head_width)
        mixed = mixed.transpose(1, 2).reshape(n, height, length, width).permute(0, 3, 1, 2)
        return x + self.project(mixed)


def draw_marks(blend, positions=None, present=None):
    """Draw what tells a network where sources are.

    Parameters
    ----------
    blend : torch.Tensor
        Shape (n, bands, y, x).
    positions, present : torch.Tensor, optional
        As every generator takes them.

    Returns
    -------
    distance : torch.Tensor
        Shape (n, 1, y, x), float32: of each pixel from the target.
    spots : torch.Tensor
        Shape (n, 2, y, x): a Gaussian of height 1 at the target, and the maximum of those at all
        others.
    """
    n, (height, width) = len(blend), blend.shape[-2:]
    if positions is None:
        positions = blend.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(n, 1, 2)
    x, y = positions.float().nan_to_num()[..., None].unbind(dim=2)  # (n, s, 1) each
    column, row = (torch.arange(side, device=blend.device) for side in (width, height))
    distance = torch.hypot((row - y)[..., None], (column - x)[:, :, None])
    spots = torch.exp(-0.5 * (distance / _SIGMA).square())
    if present is not None:
        spots = spots * present[..., None, None]
    others = spots[:, 1:].amax(dim=1, keepdim=True) if spots.shape[1] > 1 else spots * 0
    return distance[:, :1], torch.cat([spots[:, :1], others], dim=1)


def pad(x, multiple):
    """Repeat the edges of images, alike on opposite sides, up to multiples of a width."""
    up, left = (-side % multiple // 2 for side in x.shape[-2:])
    down, right = (
        -side % multiple - before for side, before in zip(x.shape[-2:], (up, left), strict=True)
    )
    return F.pad(x, (left, right, up, down), mode="replicate")


def crop(x, blend):
    """Undo `pad`: return the middle of a map that is as wide as a blend."""
    (height, width), rows, columns = blend.shape[-2:], *x.shape[-2:]
    up, left = (rows - height) // 2, (columns - width) // 2
    return x[..., up : up + height, left : left + width]
