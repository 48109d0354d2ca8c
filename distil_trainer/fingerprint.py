"""What a model is, as hashes: two models with the same ones compute the same."""

import hashlib
import json
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

_FROM_WHERE = ("_name_or_path", "transformers_version")  # of a config, and no part of the model
_OF_LOADING = ("architectures", "dtype", "torch_dtype")  # how it came into memory; its weights say what they are


def weights_hash(model: nn.Module, *, without: Collection[str] = ()) -> str:
    """A hash of the weights of a model, by name, leaving out the modules on top of it that are called `without`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.split(".")[0] not in without:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def config_values(model: Any) -> dict[str, Any]:
    """The config of a model, without where it came from."""
    return {key: value for key, value in model.config.to_dict().items() if key not in _FROM_WHERE}


def model_hash(model: Any, *, without: Collection[str] = ()) -> str:
    """A hash of what a model computes: its class, its config and its weights, in the dtype that they have."""
    config = {key: value for key, value in config_values(model).items() if key not in _OF_LOADING}
    about = json.dumps([type(model).__name__, str(model.dtype), config], sort_keys=True, default=str)
    return hashlib.sha256(f"{about}{weights_hash(model, without=without)}".encode()).hexdigest()
