"""A training run beside its updates: processes, compiler, model to start from, state, log."""

import atexit
import csv
import json
import os
from contextlib import contextmanager
from operator import ge
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ..files import atomic_path
from ..networks import build, describe
from ..weights import load_model, read_card

_COLUMNS = ("step", "learning_rate", "pixel", "std", "features", "adversarial", "discriminator",
            "gradient", "blends_per_second", "validation_psnr")  # fmt: skip


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


def save_checkpoint(path, *, modules, optimizers, **state):
    """Save networks, optimisers and plain values.

    Parameters
    ----------
    path : str or path-like
        The file; an existing one is replaced.
    modules, optimizers : dict
        Modules and optimisers of torch by name.
    **state
        Values that JSON can hold.
    """
    tensors = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"{name}/{key}"] = value
    for name, optimizer in optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                tensors[f"{name}/{index}/{key}"] = value
    # Contiguous copies: safetensors refuses tensors that share memory.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_bytes(to_bytes(tensors, metadata={"state": json.dumps(state)}))


def load_checkpoint(path, *, modules, optimizers):
    """Load a checkpoint into networks and optimisers.

    Parameters
    ----------
    path : str or path-like
        The file that `save_checkpoint` wrote.
    modules, optimizers : dict
        As in `save_checkpoint`; their state is set.

    Returns
    -------
    dict
        The plain values.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}; train without resume first")
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for name, module in modules.items():
            module.load_state_dict(_below(tensors, name))
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"the checkpoint {str(path)!r} does not fit: {error}") from error
    for name, optimizer in optimizers.items():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        values = {}
        for key, value in _below(tensors, name).items():
            index, _, what = key.partition("/")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # In the memory layout of the parameter, on which fused optimisers rely.
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            values.setdefault(int(index), {})[what] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": values})
    return state


def read_state(path):
    """Return the plain values of a checkpoint without loading tensors."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"the checkpoint {str(path)!r} cannot be read: {error}") from error


def _below(tensors, name):
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class Log:
    """The log of losses and scores as CSV, and in TensorBoard's format where that is installed."""

    def __init__(self, out, step):
        path = out / "log.csv"
        rows = []
        if step and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        with (
            atomic_path(path, overwrite=True) as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self.file = path.open("a", newline="")
        self.writer = csv.DictWriter(self.file, _COLUMNS)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(out / "tensorboard", purge_step=step)

    def write(self, step, row):
        """Add a row of values by name."""
        self.writer.writerow({"step": step, **{k: f"{v:.6g}" for k, v in row.items()}})
        self.file.flush()
        if self.board:
            for name, value in row.items():
                self.board.add_scalar(name, value, step)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()
        if self.board:
            self.board.close()
