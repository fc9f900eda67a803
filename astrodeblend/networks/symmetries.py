"""The scatter of a network's output over rotations and reflections of its input."""

import torch

__all__ = ["symmetric_std"]


def symmetric_std(run, batch, positions=None):
    """Return the standard deviation of light over the eight symmetries of a stamp.

    Parameters
    ----------
    run : callable
        Takes blends (n, bands, y, x) and positions or None; returns (n, slots, bands, y, x).
    batch : torch.Tensor
        Blends.
    positions : torch.Tensor, optional
        Positions of sources, shape (n, s, 2), as for every generator.

    Returns
    -------
    torch.Tensor
        The shape of the light.
    """
    answers = []
    for turns in range(4):
        for flipped in ((), (-1,)):
            turned = batch.rot90(turns, (-2, -1)).flip(flipped)
            answer = run(turned, _turned(positions, batch.shape[-2:], turns, flipped))
            answers.append(answer.flip(flipped).rot90(-turns, (-2, -1)))
    return torch.stack(answers).std(dim=0)


def _turned(positions, shape, turns, flipped):
    """Return positions in images of shape (y, x) after rotation and reflection."""
    if positions is None:
        return None
    (height, width), (x, y) = shape, positions.unbind(dim=-1)
    for _ in range(turns):
        x, y, height, width = y, width - 1 - x, width, height
    return torch.stack([width - 1 - x if flipped else x, y], dim=-1)
