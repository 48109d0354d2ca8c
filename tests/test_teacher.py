import copy

import pytest
import torch
from accelerate import dispatch_model
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM, BertModel

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config
from distil_trainer.attention_calls import ScoreChange
from distil_trainer.errors import TrainingSetupError
from distil_trainer.features import Features
from distil_trainer.head import HeadRows
from distil_trainer.losses import Heads, LogitRows
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
    with pytest.raises(TrainingSetupError, match="Only safetensors are read: a pickle such as pytorch_model"):
        load_teacher(str(tmp_path), like=model, alignments=LAYERS)


def test_a_dtype_casts_the_weights_in_place_and_none_leaves_them():
    model = tiny_model(BertModel)
    assert Teacher(model, LAYERS)(pad_batch(ragged_examples(2))).hidden_states[4].dtype == torch.float32
    cast = Teacher(model, LAYERS, dtype=torch.bfloat16)
    assert cast(pad_batch(ragged_examples(2))).hidden_states[4].dtype == torch.bfloat16
    assert cast.model is model
    assert model.dtype == torch.bfloat16


def test_the_last_block_ends_at_what_is_captured():
    model = tiny_model(BertModel)
    last, ran = model.encoder.layer[3], []
    for name in ("attention.self.query", "attention.self.key", "attention.output.dense", "output.dense"):
        last.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    reference_job = (
        Alignment(feature="hidden_states", student_layer=1, teacher_layer=3),
        Alignment(feature="attention_probs", student_layer=2, teacher_layer=4),
    )
    Teacher(model, reference_job)(pad_batch(ragged_examples(2)))
    assert sorted(ran) == ["attention.self.key", "attention.self.query"]


def test_logits_are_formed_from_the_wanted_rows_only():
    model, inputs = tiny_model(BertForMaskedLM), pad_batch(ragged_examples(3))
    with torch.no_grad():
        expected = model.eval()(inputs["input_ids"], inputs["attention_mask"]).logits
    mask, widths = inputs["labels"] != -100, []
    teacher = Teacher(model, LOGITS)
    teacher(inputs, HeadRows.read_by(aligned=mask, labels=None, shifts_labels=False))  # finds out what the head is
    model.cls.predictions.decoder.register_forward_hook(lambda *args: widths.append(args[2].shape[1]))
    features = teacher(inputs, HeadRows.read_by(aligned=mask, labels=None, shifts_labels=False))
    assert widths == [0]
    logits = torch.nn.functional.linear(*features.logits)
    torch.testing.assert_close(logits[0], expected[mask])


@pytest.mark.parametrize("place", [{"": "cpu"}, {"bert.embeddings": "cpu", "bert.encoder": "disk", "cls": "disk"}])
def test_a_teacher_that_accelerate_spread_out_stays_where_it_is(make_args, tmp_path, place):
    whole = tiny_model(BertForMaskedLM, tie_word_embeddings=False)
    alignments = (
        *methods.lightmbert(student_layers=2, teacher_layers=4),
        Alignment(feature="logits", loss="kl", positions="labels"),
    )

    def losses(teacher):
        trainer = DistillationTrainer(
            model=build_student(whole, student_config(whole.config, num_hidden_layers=2)),
            args=make_args(),
            teacher_model=teacher,
            alignments=alignments,
            train_dataset=ragged_examples(),
            eval_dataset=ragged_examples(8),
            data_collator=pad_batch,
        )
        trainer.train()
        return {key: value for key, value in trainer.evaluate().items() if "loss" in key}

    spread = dispatch_model(copy.deepcopy(whole), place, main_device="cpu", offload_dir=tmp_path / "disk")
    spread.to = None  # neither moved nor cast
    assert losses(spread) == pytest.approx(losses(whole), rel=1e-6)
    with pytest.raises(TrainingSetupError, match="stays as it is; got teacher_dtype"):
        Teacher(spread, alignments, dtype=torch.bfloat16)


def test_features_move_with_all_their_tensors():
    heads = Heads(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 0.5, torch.ones(1, 1, 3, 3, dtype=torch.bool))
    rows = LogitRows(torch.ones(1, 3, 4), torch.ones(5, 4))
    features = Features(
        {1: torch.ones(1, 3, 4)}, {}, {("decoder", 1): heads}, {1: ScoreChange(None, rows.weight)}, rows
    )
    moved = features.moved_to(torch.device("meta"))
    assert moved.heads[("decoder", 1)].scaling == 0.5
    assert moved.heads[("decoder", 1)].visible.device.type == moved.changes[1].bias.device.type == "meta"
    assert all(tensor.device.type == "meta" for tensor in moved.tensors())
