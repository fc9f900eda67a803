"""What networks are built of."""

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Attention", "ResidualBlock", "distance_from_centre"]


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


def distance_from_centre(blend):
    """Return how far each pixel of stamps is from their middle, which tells who is central.

    Parameters
    ----------
    blend : torch.Tensor
        Shape (n, bands, y, x).

    Returns
    -------
    torch.Tensor
        Shape (n, 1, y, x), in pixels, of the same type.
    """
    n, _, height, width = blend.shape
    y, x = (torch.arange(side, device=blend.device) - (side - 1) / 2 for side in (height, width))
    return torch.hypot(y[:, None], x[None, :]).to(blend.dtype).expand(n, 1, height, width)
