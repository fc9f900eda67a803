"""The start of a training run: its processes, its compiler, the model whose weights it takes."""

import atexit
import os
from contextlib import contextmanager
from operator import ge

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ..networks import build, describe
from ..weights import load_model, read_card


@contextmanager
def processes(device):
    """Join the other processes if ``torchrun`` started some; yield rank, world and device."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device='cuda': torch sees no GPU here; use device='cpu'")
        if world > 1:
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
    if world == 1:
        yield 0, 1, device
        return
    if not dist.is_initialized():  # once a process: leaving and joining again may hang
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    yield dist.get_rank(), world, device
    dist.barrier()  # when one returns, the model is written


def parallel(module, world):
    """Return a module whose gradients are averaged over processes."""
    if world == 1:
        return module
    shared = DistributedDataParallel(module)
    # Buffers are each process's own: they only hold running statistics, and syncing them
    # between the discriminator's two passes would change what its gradient needs. (Set here,
    # because torch renames the argument.)
    shared.broadcast_buffers = False
    return shared


def check_compiler(device):
    """Raise ValueError if torch finds no compiler that works for a device."""
    try:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.zeros(2, device=device))
    except RuntimeError as error:
        raise ValueError(
            "compile=True takes a C++ compiler, or Triton on a GPU, and torch finds none that "
            f"works ({type(error).__name__}); install one, or leave --compile out"
        ) from error


def load_parent(model, network, *, weights):
    """Load the weights of a model into a network, and return the name and sha256 of the model.

    The network may have more residual blocks, or marks. These additional weights start at 0, so
    that its output is that of the model.

    Parameters
    ----------
    model : str or path-like
        As `astrodeblend.weights.load_model` takes it.
    network : torch.nn.Module
        Network of the run; its weights are set.
    weights : bool
        Whether to load the weights, or only to check that they fit.

    Returns
    -------
    dict
        Name and sha256 of the model.
    """
    card = read_card(model)
    theirs, ours = describe(build(**card.network)), describe(network)
    if not _holds(ours, theirs):
        names = ["kind"] if theirs["kind"] != ours["kind"] else theirs
        differing = [
            f"{k}={ours[k]!r} (it has {theirs[k]!r})" for k in names if ours[k] != theirs[k]
        ]
        raise ValueError(
            f"start={str(model)!r} has another network than the one to train: "
            f"{', '.join(differing)}; configure the same network, or start from another model"
        )
    if weights:
        parent, _ = load_model(model)
        # They describe the blends of its own training, not those of this run.
        parent.familiarity = parent.blend_score = None
        weights = parent.state_dict()
        for name, ours in network.state_dict().items():
            missing = ours.shape[1] - weights[name].shape[1] if name == "stem.weight" else 0
            if missing:  # the input planes of marks
                weights[name] = F.pad(weights[name], (0, 0, 0, 0, 0, missing))
        network.load_state_dict(network.state_dict() | weights)
    return {"name": card.name, "sha256": card.sha256}


def _holds(ours, theirs):
    """Return whether a network equals another one, up to more residual blocks, or marks."""
    blocks = [tuple(each.get("blocks", ())) for each in (ours, theirs)]
    marks = theirs.get("marks", False), ours.get("marks", False)
    theirs, ours = ({**each, "blocks": (), "marks": None} for each in (theirs, ours))
    return (
        theirs == ours
        and marks != (True, False)
        and len(blocks[0]) == len(blocks[1])
        and all(map(ge, *blocks))
    )


def check_parent(saved, given):
    """Return the saved model that a run started from; raise ValueError if another one is given."""
    if given is not None and given != saved:
        was = "random weights" if saved is None else f"{saved['name']!r} ({saved['sha256'][:12]})"
        raise ValueError(
            f"start is {given['name']!r} ({given['sha256'][:12]}), but the run in this folder "
            f"started from {was}; leave start (--from) out to go on, or choose another folder"
        )
    return saved
