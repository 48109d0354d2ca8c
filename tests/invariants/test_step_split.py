"""The update does not depend on how an optimizer step is split over micro-batches."""

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config

TERMS = {
    "lightmbert": methods.lightmbert(student_layers=2, teacher_layers=4),
    "kl of attention, logits at labels": (
        Alignment(feature="attention_probs", loss="kl", student_layer=1, teacher_layer=2),
        Alignment(feature="attention_scores", student_layer=2, teacher_layer=4),
        Alignment(feature="logits", loss="kl", temperature=2.0, positions="labels"),
    ),
    "relations, first tokens": (
        Alignment(feature="hidden_states", loss="normalized_mse", student_layer=1, teacher_layer=2, positions="first"),
        Alignment(feature="query_relation", loss="kl", student_layer=1, teacher_layer=2, relation_heads=8),
        Alignment(feature="key_relation", loss="kl", student_layer=2, teacher_layer=4),
        Alignment(feature="value_relation", loss="kl", student_layer=2, teacher_layer=4),
    ),
}


@pytest.mark.parametrize("task_weight", [0.0, 0.5])
@pytest.mark.parametrize("terms", TERMS)
def test_update_is_the_same_for_every_split(make_args, terms, task_weight):
    updates = []
    for batch_size, accumulation in ((8, 1), (4, 2), (2, 4), (1, 8)):
        teacher = tiny_model(BertForMaskedLM)
        student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
        before = flat_weights(student).clone()
        trainer = DistillationTrainer(
            model=student,
            args=make_args(
                max_steps=2,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                optim="sgd",
                learning_rate=0.1,
            ),
            teacher_model=teacher,
            alignments=TERMS[terms],
            task_weight=task_weight,
            train_dataset=ragged_examples(),
            data_collator=pad_batch,
        )
        trainer.train()
        updates.append(flat_weights(trainer.model) - before)
    for update in updates[1:]:
        assert (update - updates[0]).norm() <= 1e-5 * updates[0].norm()
    assert updates[0].norm() > 0


def test_micro_batches_without_labels_have_no_task_loss(make_args):
    examples = ragged_examples()
    for example in examples[::2]:
        example["labels"] = [-100] * len(example["labels"])
    weights = []
    for batch_size, accumulation in ((8, 1), (1, 8)):
        teacher = tiny_model(BertForMaskedLM)
        student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
        trainer = DistillationTrainer(
            model=student,
            args=make_args(
                per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, optim="sgd"
            ),
            teacher_model=teacher,
            alignments=TERMS["lightmbert"],
            task_weight=1.0,
            train_dataset=examples,
            eval_dataset=examples,
            data_collator=pad_batch,
        )
        trainer.train()
        weights.append(flat_weights(trainer.model))
    assert (weights[1] - weights[0]).norm() <= 1e-6 * weights[0].norm()
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss/task"]))


def test_padding_and_empty_rows_change_nothing(make_args):
    teacher = tiny_model(BertForMaskedLM)
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))

    def evaluate(examples, collate):
        trainer = DistillationTrainer(
            model=student,
            args=make_args(per_device_eval_batch_size=4),
            teacher_model=teacher,
            alignments=[term for terms in TERMS.values() for term in terms],
            eval_dataset=examples,
            data_collator=collate,
        )
        return {key: value for key, value in trainer.evaluate().items() if "loss" in key}

    def pad_more(examples):
        batch = pad_batch(examples)
        return {k: torch.nn.functional.pad(v, (0, 7), value=-100 if k == "labels" else 0) for k, v in batch.items()}

    examples = ragged_examples(8)
    plain = evaluate(examples, pad_batch)
    assert evaluate(examples, pad_more) == pytest.approx(plain, rel=1e-5)


def test_a_step_with_nothing_to_count_leaves_the_weights_alone(make_args):
    nothing = [{"input_ids": [5, 6], "attention_mask": [0, 0], "labels": [-100, -100]}] * 8
    examples = nothing + ragged_examples(8)  # padding alone would be refused
    teacher = tiny_model(BertForMaskedLM)
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
    before = flat_weights(student).clone()
    trainer = DistillationTrainer(
        model=student,
        args=make_args(max_steps=1, optim="sgd", train_sampling_strategy="sequential"),
        teacher_model=teacher,
        alignments=[term for terms in TERMS.values() for term in terms],
        train_dataset=examples,
        data_collator=pad_batch,
    )
    trainer.train()
    assert torch.equal(flat_weights(trainer.model), before)
    assert trainer.state.log_history[0]["loss"] == 0
