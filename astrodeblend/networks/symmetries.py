"""How far a network's answers differ when it is shown the same blend turned and mirrored."""

import torch

__all__ = ["symmetric_std"]


def symmetric_std(run, batch):
    """Return the standard deviation of answers over the eight symmetries of a stamp.

    Parameters
    ----------
    run : callable
        From blends (n, bands, y, x) to components (n, branches, bands, y, x).
    batch : torch.Tensor
        Blends.

    Returns
    -------
    torch.Tensor
        As the components.
    """
    answers = []
    for turns in range(4):
        for flipped in ((), (-1,)):
            answer = run(batch.rot90(turns, (-2, -1)).flip(flipped))
            answers.append(answer.flip(flipped).rot90(-turns, (-2, -1)))
    return torch.stack(answers).std(dim=0)
