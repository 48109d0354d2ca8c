"""FSDP2: a student that is shared out over the processes, block by block. The teacher stays whole on each."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from distil_trainer.blocks import STACKS, blocks, has_two_stacks
from distil_trainer.errors import TrainingSetupError


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of the model are shared out by FSDP2."""
    return isinstance(model, FSDPModule)


def whole(value: Any) -> Any:
    """A tensor that FSDP2 shared out, put together by all processes; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def check_sharding(plugin: Any, *, compiles: bool = False, balances: bool = False) -> None:
    """Checks how accelerate is to share the student out (its `fsdp_plugin`).

    Args:
        plugin: accelerate's `fsdp_plugin`.
        compiles: whether `torch_compile` is on.
        balances: whether `balance_terms` is on.

    Raises:
        TrainingSetupError: a setting with which the teacher or the exported student would be wrong, or nothing could be
            read.
    """
    for setting, is_on, why in (
        ("torch_compile", compiles, "what is compiled hides the blocks that are shared out one by one"),
        ("balance_terms", balances, "it walks back through blocks whose weights have been let go"),
    ):
        if is_on:
            raise TrainingSetupError(f"{setting} does not go with FSDP2: {why}. Leave it out, or take DDP (ddp.yaml).")
    for setting, found, wanted, why in (
        ("fsdp_version", plugin.fsdp_version, 2, "FSDP1 flattens the weights, so no block can be read by itself"),
        (
            "fsdp_cpu_ram_efficient_loading",
            plugin.cpu_ram_efficient_loading,
            False,
            "with it a teacher that is loaded by its id or path has its weights in the first process only",
        ),
        (
            "fsdp_state_dict_type",
            str(plugin.state_dict_type).rsplit(".", maxsplit=1)[-1],
            "FULL_STATE_DICT",
            "the student is saved as one file",
        ),
    ):
        if found != wanted:
            raise TrainingSetupError(
                f"{setting} should be {wanted}: {why}; got {found}. Set it in the file of `accelerate launch` (as "
                "recipes/accelerate/fsdp2.yaml does)."
            )


@contextmanager
def shared_out_by_blocks(model: Any, plugin: Any) -> Iterator[None]:
    """Inside this context accelerate puts each block of `model` into a group of its own, and the rest into one.

    By itself it makes groups of the embeddings and of the head, too. Where these share a weight or a bias (BERT), torch
    refuses that; and a loss that takes the head's weight to form logits in chunks (`losses.LogitRows`) needs it to stay
    whole after the head has run, which it does in the group that goes with the whole model.

    Args:
        model: the student, not shared out yet.
        plugin: accelerate's `fsdp_plugin`; the classes of the blocks are set in it.
    """
    stacks = STACKS if has_two_stacks(model) else (None,)
    # What is read of attention are views; nothing changes them in place.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    plugin.transformer_cls_names_to_wrap = sorted({type(block).__name__ for s in stacks for block in blocks(model, s)})
    model.get_input_embeddings = model.get_output_embeddings = _none
    try:
        yield
    finally:
        del model.get_input_embeddings, model.get_output_embeddings


def tied_again(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole weights that were put together from all processes; what is one parameter of `model` is one tensor."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}
    return {name: state[names.get(name, name)] for name in state}


def _none() -> None:
    return None
