"""What is refused of DeepSpeed's settings, and the 0 that its third stage needs; neither needs DeepSpeed."""

import pytest
import torch
from conftest import tiny_model
from transformers import BertForMaskedLM

from distil_trainer.errors import TrainingSetupError
from distil_trainer.zero import check_whole_weights, check_zero, is_partitioned, zero_of

STAGE_3 = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}


@pytest.mark.parametrize(
    ("config", "balances", "message"),
    [
        ({"optimizer": {"type": "AdamW"}}, False, "DeepSpeed's own optimizer also decays"),
        ({"zero_optimization": {"stage": 3}}, False, "stage3_gather_16bit_weights_on_model_save should be true"),
        ({"zero_optimization": STAGE_3}, True, "balance_terms takes the gradient of each term by itself"),
    ],
)
def test_settings_with_which_something_would_be_wrong(config, balances, message):
    with pytest.raises(TrainingSetupError, match=message):
        check_zero(config, balances=balances)


def test_settings_that_are_right():
    check_zero({"zero_optimization": STAGE_3}, balances=False)
    check_zero({"zero_optimization": {"stage": 2}}, balances=True)


def test_weights_that_were_shared_out_by_others():
    model = tiny_model(BertForMaskedLM)
    assert not is_partitioned(model)
    check_whole_weights(model, "teacher")
    model.cls.predictions.bias.ds_id = 1  # as deepspeed.zero.Init marks parameters
    with pytest.raises(TrainingSetupError, match="expected a teacher with whole weights"):
        check_whole_weights(model, "teacher")


def test_zero_of_outputs_is_0_whatever_they_are_and_passes_their_gradient():
    states = torch.full((2, 3), torch.inf, requires_grad=True)
    zero = zero_of({"logits": states * 1, "mask": torch.ones(2), "hidden_states": (states,)})
    zero.backward()
    assert zero.item() == 0
    assert torch.equal(states.grad, torch.zeros(2, 3))
