"""Blocks chosen by what the teacher is without them."""

import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import AlbertConfig, AlbertModel, BertForMaskedLM, BertModel, LlamaConfig, LlamaModel, set_seed

from distil_trainer import build_student, student_config
from distil_trainer.errors import DataError, StudentError
from distil_trainer.importance import important_blocks


def batches(**changes):
    examples = ragged_examples(24)
    return [pad_batch(examples[:8]), pad_batch(examples[8:24])]


def llama():
    set_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaModel(LlamaConfig(**sizes, intermediate_size=48, initializer_range=0.2)).eval()


def make_idle(block):
    """Takes from a block what it adds to its input."""
    idle = ("attention.output.dense", "output.dense", "o_proj", "down_proj")
    for name, module in block.named_modules():
        if name.endswith(idle):
            for parameter in module.parameters():
                torch.nn.init.zeros_(parameter)


@pytest.mark.parametrize("make", [lambda: tiny_model(BertModel).eval(), llama], ids=["bert", "llama"])
def test_blocks_that_do_nothing_go_first(make):
    teacher = make()
    stack = teacher.encoder.layer if hasattr(teacher, "encoder") else teacher.layers
    for block in (1, 3):
        make_idle(stack[block - 1])
    assert important_blocks(teacher, batches(), 2) == (2, 4)
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2), layers=[2, 4])
    batch = {name: value for name, value in batches()[0].items() if name != "labels"}
    with torch.no_grad():
        difference = (student(**batch)[0] - teacher(**batch)[0])[batch["attention_mask"].bool()]
    assert difference.abs().max() < 1e-5


def test_the_block_that_changes_the_output_least_is_left_out():
    """Against each student with one block less, built and run."""
    teacher = tiny_model(BertModel).eval()
    config = student_config(teacher.config, num_hidden_layers=3)
    changes = {}
    for block in range(1, 5):
        student = build_student(teacher, config, layers=[k for k in range(1, 5) if k != block])
        total = count = 0
        for batch in batches():
            del batch["labels"]
            mask = batch["attention_mask"].bool()
            with torch.no_grad():
                pair = teacher(**batch)[0][mask], student(**batch)[0][mask]
            total += (1 - torch.nn.functional.cosine_similarity(*pair, dim=-1)).sum()
            count += mask.sum()
        changes[block] = float(total / count)
    least = min(changes, key=changes.get)
    assert important_blocks(teacher, batches(), 3) == tuple(k for k in range(1, 5) if k != least)


def test_the_teacher_is_as_it_was_and_padding_tells_nothing():
    teacher = tiny_model(BertForMaskedLM, hidden_dropout_prob=0.5).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    state = torch.get_rng_state()
    kept = important_blocks(teacher, batches(), 2)
    assert teacher.training
    assert not any(module._forward_hooks for module in teacher.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())

    longer = [
        {name: torch.nn.functional.pad(value, (0, 5), value=0) for name, value in batch.items()} for batch in batches()
    ]
    assert important_blocks(teacher, longer, 2) == kept
    assert important_blocks(teacher, batches(), 4) == (1, 2, 3, 4)


def test_what_cannot_be():
    teacher = tiny_model(BertModel)
    for count in (0, 5, True, 2.0):
        with pytest.raises(StudentError, match="from 1 to the teacher's 4"):
            important_blocks(teacher, batches(), count)
    nothing = {name: torch.zeros_like(value) for name, value in batches()[0].items()}
    for empty in ([], [nothing]):
        with pytest.raises(DataError, match="at least one attended token"):
            important_blocks(teacher, empty, 2)


def test_no_pass_through_a_shared_block_can_be_left_out():
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    teacher = AlbertModel(AlbertConfig(**sizes, embedding_size=16, intermediate_size=48))
    with pytest.raises(StudentError, match="AlbertModel passes one block several times, so none can be left out"):
        important_blocks(teacher, batches(), 2)
