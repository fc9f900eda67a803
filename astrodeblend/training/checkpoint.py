"""The files of a training run: its state, in safetensors and written atomically, and its log."""

import csv
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from ..files import atomic_path

_COLUMNS = ("step", "learning_rate", "pixel", "std", "features", "adversarial", "discriminator",
            "gradient", "blends_per_second", "validation_psnr")  # fmt: skip


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
