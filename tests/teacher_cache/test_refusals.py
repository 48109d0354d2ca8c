"""What a teacher cache cannot hold is refused, and inputs that never come again are noticed."""

import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    MPNetConfig,
    MPNetModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from distil_trainer import Alignment, DistillationTrainer, Schedule, build_student, student_config
from distil_trainer.errors import CaptureError, DataError, TrainingSetupError
from distil_trainer.teacher import Teacher
from distil_trainer.teacher_cache import CachedTeacher, TeacherCache

HIDDEN = Alignment(feature="hidden_states", student_layer=1, teacher_layer=2)
PROBS = Alignment(feature="attention_probs", student_layer=1, teacher_layer=2)
KL = Alignment(feature="logits", loss="kl")
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def cached(tmp_path, teacher, *alignments, **settings):
    return CachedTeacher(
        Teacher(teacher, alignments), alignments, TeacherCache(folder=str(tmp_path / "cache"), **settings)
    )


def trainer_of(make_args, tmp_path, *, teacher=None, alignments=(HIDDEN,), collator=pad_batch, **args):
    teacher = teacher or tiny_model(BertForMaskedLM)
    return DistillationTrainer(
        model=build_student(teacher, student_config(teacher.config, num_hidden_layers=1)),
        args=make_args(**args),
        teacher_model=teacher,
        alignments=alignments,
        teacher_cache=tmp_path / "cache",
        train_dataset=ragged_examples(16),
        eval_dataset=ragged_examples(4),
        data_collator=collator,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "float32, bfloat16, float16; got 'int8'"),
        ({"top_k": 0}, "whole number from 1, or None; got 0"),
    ],
)
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(TrainingSetupError, match=message):
        TeacherCache(folder="x", **settings)


def test_models_that_it_cannot_hold(tmp_path):
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4))
    encoder = Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, stack="encoder")
    with pytest.raises(TrainingSetupError, match="T5ForConditionalGeneration has an encoder and a decoder"):
        cached(tmp_path, t5, encoder)
    sizes = {key: value for key, value in SIZES.items() if key not in ("vocab_size", "max_position_embeddings")}
    with pytest.raises(TrainingSetupError, match="ViTModel reads pixel_values"):
        cached(tmp_path, ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)), HIDDEN)
    with pytest.raises(TrainingSetupError, match="of MPNetModel only whole attention maps"):
        cached(tmp_path, MPNetModel(MPNetConfig(**SIZES)), PROBS)
    gemma = Gemma2Model(Gemma2Config(**SIZES, head_dim=8, num_key_value_heads=2))
    with pytest.raises(CaptureError, match="attention scores that the model changes"):
        cached(tmp_path, gemma, PROBS)(pad_batch(ragged_examples(2, labels=False)))


def test_top_k_is_for_two_losses_of_a_language_model_at_one_temperature(tmp_path):
    model = tiny_model(BertForMaskedLM)
    for alignments, message in (
        ([HIDDEN], "no alignment compares logits"),
        ([Alignment(feature="logits", loss="reverse_kl")], "reverse_kl needs all logits"),
        (
            [Alignment(feature="logits", loss="kl", temperature=Schedule(start=4.0, end=1.0))],
            "temperature, but that of logits is",
        ),
    ):
        with pytest.raises(TrainingSetupError, match=message):
            cached(tmp_path, model, *alignments, top_k=5)
    with pytest.raises(TrainingSetupError, match="BertForSequenceClassification has none"):
        cached(tmp_path, tiny_model(BertForSequenceClassification), KL, top_k=1)
    with pytest.raises(ValueError, match="k from 1 to below 99"):
        cached(tmp_path, model, KL, top_k=99)(pad_batch(ragged_examples(2)))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"inputs_embeds": torch.ones(2, 3, 32)}, "finds rows by `input_ids`; the batch has inputs_embeds"),
        ({"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 1, 3, 3)}, r"'attention_mask', \(2, 1"),
    ],
)
def test_columns_that_are_not_given_by_token(tmp_path, batch, message):
    with pytest.raises(DataError, match=message):
        cached(tmp_path, tiny_model(BertModel), HIDDEN)(batch)


def test_labels_on_padding(tmp_path):
    batch = pad_batch(ragged_examples(2))
    batch["labels"] = batch["input_ids"]
    labelled = Alignment(feature="logits", loss="kl", positions="labels")
    with pytest.raises(DataError, match="labels at positions that are padding"):
        cached(tmp_path, tiny_model(BertForMaskedLM), labelled)(batch)


def test_numbers_beyond_float16(tmp_path):
    model = tiny_model(BertModel)
    torch.nn.init.constant_(model.encoder.layer[1].output.LayerNorm.bias, 1e6)
    with pytest.raises(TrainingSetupError, match="above 65504, which float16 cannot hold"):
        cached(tmp_path, model, HIDDEN, dtype="float16")(pad_batch(ragged_examples(2)))


def test_a_cache_without_a_teacher(make_args, tmp_path):
    options = {"model": tiny_model(BertModel), "args": make_args(), "teacher_cache": tmp_path / "cache"}
    with pytest.raises(TrainingSetupError, match=r"read of a teacher; there is none\. Pass a"):
        DistillationTrainer(**options, alignments=[HIDDEN])


def test_a_cache_of_other_teachers_or_features_is_refused_before_training(make_args, tmp_path):
    trainer_of(make_args, tmp_path).evaluate()
    trainer_of(make_args, tmp_path)
    with pytest.raises(TrainingSetupError, match=r"teacher '[0-9a-f]{64}' there, '[0-9a-f]{64}' here\. Choose"):
        trainer_of(make_args, tmp_path, teacher=tiny_model(BertForMaskedLM, seed=1))
    with pytest.raises(TrainingSetupError, match="teacher"):
        trainer_of(make_args, tmp_path, teacher=tiny_model(BertForMaskedLM, hidden_act="relu"))
    with pytest.raises(TrainingSetupError, match="features"):
        trainer_of(make_args, tmp_path, alignments=[PROBS])
    with pytest.raises(TrainingSetupError, match="dtype 'bfloat16' there, 'float32' here"):
        cached(tmp_path, tiny_model(BertForMaskedLM), HIDDEN, dtype="float32")


def test_a_pooler_that_is_drawn_anew_is_no_other_teacher(tmp_path):
    first, second = tiny_model(BertModel), tiny_model(BertModel)
    torch.nn.init.ones_(second.pooler.dense.weight)
    cached(tmp_path, first, HIDDEN)
    cached(tmp_path, second, HIDDEN)
    torch.nn.init.ones_(second.embeddings.word_embeddings.weight)
    with pytest.raises(TrainingSetupError, match="teacher"):
        cached(tmp_path, second, HIDDEN)


def test_padding_in_front_is_another_row_where_the_model_counts_from_there(tmp_path):
    teacher = cached(tmp_path, tiny_model(BertModel), HIDDEN, dtype="float32")
    (example,) = ragged_examples(1, labels=False)
    plain = pad_batch([example])
    behind, front = (
        {name: torch.nn.functional.pad(column, pad) for name, column in plain.items()} for pad in ((0, 2), (2, 0))
    )
    outputs = [teacher(batch).hidden_states[2] for batch in (plain, behind, front)]
    assert (teacher.hits, teacher.misses) == (1, 2)
    torch.testing.assert_close(outputs[1][:, :-2], outputs[0])
    torch.testing.assert_close(outputs[2][:, 2:], teacher.teacher(front).hidden_states[2][:, 2:])
    assert not torch.allclose(outputs[2][:, 2:], outputs[0])


def test_token_types_are_part_of_the_row(tmp_path):
    teacher = cached(tmp_path, tiny_model(BertModel), HIDDEN)
    batch = pad_batch(ragged_examples(2, labels=False))
    teacher(batch)
    teacher({**batch, "token_type_ids": batch["attention_mask"]})
    teacher({**batch, "labels": batch["input_ids"], "unknown": None})
    assert (teacher.hits, teacher.misses) == (2, 4)


def test_inputs_that_never_come_again_are_noticed_once(make_args, tmp_path, caplog):
    generator = torch.Generator().manual_seed(0)

    def masked(examples):
        batch = pad_batch(examples)
        drawn = torch.randint(5, 99, batch["input_ids"].shape, generator=generator)
        return {**batch, "input_ids": torch.where(batch["attention_mask"].bool(), drawn, 0)}

    epochs = {"max_steps": -1, "num_train_epochs": 3}
    trainer_of(make_args, tmp_path, collator=masked, **epochs).train()
    (record,) = [record for record in caplog.records if "teacher cache" in record.message]
    assert "In epoch 2 0 of 16 rows were in the teacher cache" in record.message
    caplog.clear()
    trainer_of(make_args, tmp_path, alignments=(HIDDEN,), **epochs).train()
    assert not [record for record in caplog.records if "teacher cache" in record.message]
