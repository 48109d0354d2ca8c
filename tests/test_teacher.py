import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM, BertModel

from distil_trainer import Alignment, methods
from distil_trainer.errors import TrainingSetupError
from distil_trainer.teacher import Teacher, load_teacher

LOGITS = (Alignment(feature="logits", loss="kl"),)
LAYERS = methods.lightmbert(student_layers=2, teacher_layers=4)


def test_the_teacher_is_frozen_and_in_eval_mode():
    model = tiny_model(BertForMaskedLM, hidden_dropout_prob=0.5).train()
    teacher = Teacher(model, LAYERS)
    inputs = pad_batch(ragged_examples(3))
    first, second = teacher(inputs), teacher(inputs)
    assert torch.equal(first.hidden_states[4], second.hidden_states[4])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not first.hidden_states[4].requires_grad


def test_the_head_runs_only_for_logits():
    model = tiny_model(BertForMaskedLM)
    ran = []
    model.cls.register_forward_hook(lambda *_: ran.append(True))
    inputs = pad_batch(ragged_examples(3))
    assert Teacher(model, LAYERS)(inputs).logits is None
    assert not ran
    logits = Teacher(model, LOGITS)(inputs).logits
    assert ran
    assert logits.shape == (*inputs["input_ids"].shape, 99)


def test_features_are_those_of_the_whole_model():
    model, inputs = tiny_model(BertForMaskedLM).eval(), pad_batch(ragged_examples(3, labels=False))
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True).hidden_states[4]
    assert torch.equal(Teacher(model, LAYERS)(inputs).hidden_states[4], expected)


def test_loading_by_path_takes_the_head_only_for_logits(tmp_path):
    student = tiny_model(BertForMaskedLM, num_hidden_layers=2)
    tiny_model(BertForMaskedLM).save_pretrained(tmp_path)
    assert type(load_teacher(str(tmp_path), like=student, alignments=LAYERS)) is BertModel
    assert type(load_teacher(str(tmp_path), like=student, alignments=LOGITS)) is BertForMaskedLM
    with pytest.raises(TrainingSetupError, match="which head"):
        load_teacher(str(tmp_path), like=torch.nn.Linear(1, 1), alignments=LOGITS)


def test_pickled_weights_are_never_read(tmp_path):
    model = tiny_model(BertModel)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_teacher(str(tmp_path), like=model, alignments=LAYERS)
