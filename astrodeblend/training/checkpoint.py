"""The state of a training run in one safetensors file, written atomically."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from ..files import atomic_path

__all__ = ["load_checkpoint", "read_state", "save_checkpoint"]


def save_checkpoint(path, *, modules, optimizers, **state):
    """Save networks, optimisers and plain values.

    Parameters
    ----------
    path : str or path-like
        The file; an existing one is replaced.
    modules : dict of str to torch.nn.Module
        By name.
    optimizers : dict of str to torch.optim.Optimizer
        By name.
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

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or is of another run.
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
    """Return the plain values of a checkpoint without loading tensors.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"the checkpoint {str(path)!r} cannot be read: {error}") from error


def _below(tensors, name):
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
