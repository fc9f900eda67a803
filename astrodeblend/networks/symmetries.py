"""How far a network's answers differ when it is shown the same blend turned and mirrored."""

import torch

__all__ = ["symmetric_std"]


def symmetric_std(run, batch, positions=None):
    """Return the standard deviation of answers over the eight symmetries of a stamp.

    Parameters
    ----------
    run : callable
        From blends (n, bands, y, x), and positions or None, to light (n, slots, bands, y, x).
    batch : torch.Tensor
        Blends.
    positions : torch.Tensor, optional
        Of sources, shape (n, s, 2), as every generator takes them.

    Returns
    -------
    torch.Tensor
        As the light.
    """
    answers = []
    for turns in range(4):
        for flipped in ((), (-1,)):
            turned = batch.rot90(turns, (-2, -1)).flip(flipped)
            answer = run(turned, _turned(positions, batch.shape[-2:], turns, flipped))
            answers.append(answer.flip(flipped).rot90(-turns, (-2, -1)))
    return torch.stack(answers).std(dim=0)


def _turned(positions, shape, turns, flipped):
    """Return where positions are in images of a shape (y, x) that were turned and mirrored."""
    if positions is None:
        return None
    (height, width), (x, y) = shape, positions.unbind(dim=-1)
    for _ in range(turns):
        x, y, height, width = y, width - 1 - x, width, height
    return torch.stack([width - 1 - x if flipped else x, y], dim=-1)
