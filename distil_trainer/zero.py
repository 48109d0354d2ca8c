"""DeepSpeed's ZeRO: stages 1 and 2 share gradients and moments out, stage 3 the student's weights too, by modules.

The teacher stays whole in each process.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import deepspeed

from distil_trainer.errors import TrainingSetupError

_GATHERED = "stage3_gather_16bit_weights_on_model_save"


def is_partitioned(model: nn.Module) -> bool:
    """Whether ZeRO-3 shared the weights of the model out: each is there in the forward of its own module only."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def zero_of(outputs: Mapping[str, Any]) -> Tensor:
    """0 as a sum over nothing of a forward's outputs, so that its backward passes every module from the end on.

    ZeRO-3 gathers a module's weights when the gradient of its output comes, and lets them go with that of its input: a
    gradient that began inside the module, at its queries say, would find none to let go.
    """
    tensors = [value for value in outputs.values() if isinstance(value, Tensor) and value.requires_grad]
    return sum((value.flatten()[:0].float().sum() for value in tensors), torch.zeros(()))


def check_zero(config: Any, *, balances: bool) -> None:
    """Checks how DeepSpeed is to share the student out.

    Args:
        config: DeepSpeed's, as a dict.
        balances: whether `balance_terms` is on.

    Raises:
        TrainingSetupError: a setting with which what no loss reaches would be decayed, or the exported student would
            lack its weights, or that takes gradients where stage 3 counts on one backward.
    """
    if "optimizer" in config:
        raise TrainingSetupError(
            "DeepSpeed's own optimizer also decays the parameters that no loss reaches. Leave `optimizer` out of its "
            "config; the one of TrainingArguments (optim, learning_rate, weight_decay) is used."
        )
    zero = config.get("zero_optimization", {})
    if zero.get("stage") != 3:
        return
    if zero.get(_GATHERED) is not True:
        raise TrainingSetupError(
            f"{_GATHERED} should be true: without it the student is not saved as one file; got {zero.get(_GATHERED)}. "
            "Set zero3_save_16bit_model: true in the file of `accelerate launch` (as "
            f"recipes/accelerate/deepspeed_zero3.yaml does), or {_GATHERED} in DeepSpeed's own."
        )
    if balances:
        raise TrainingSetupError(
            "balance_terms takes the gradient of each term by itself, while ZeRO-3 has a weight for one backward only. "
            "Leave balance_terms out, or take ZeRO-2, DDP or FSDP2."
        )


@contextmanager
def loaded_whole() -> Iterator[None]:
    """Inside this context `from_pretrained` loads whole weights, also where ZeRO-3 would share them out."""
    found = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = found


def check_whole_weights(model: nn.Module, role: str) -> None:
    """Raises TrainingSetupError if a model was shared out while it was made or loaded: nothing gathers its weights."""
    if is_partitioned(model):
        raise TrainingSetupError(
            f"expected a {role} with whole weights, but DeepSpeed shared them out while it was loaded. Set "
            "zero3_init_flag: false in the file of `accelerate launch`, or load the model before TrainingArguments are "
            "made; the trainer shares the student out."
        )
