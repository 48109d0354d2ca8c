"""Two families that read the same ids, and the heads of tasks."""

import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from rows import ROWS
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from distil_trainer import Alignment, DistillationTrainer, build_student, student_config
from distil_trainer.errors import AlignmentError

LOGITS = Alignment(feature="logits", loss="kl")
LAST = {"student_layer": 2, "teacher_layer": 4}


def trained(student, teacher, alignments, make_args, examples=None, collate=pad_batch, **options):
    trainer = DistillationTrainer(
        student,
        make_args(max_steps=1),
        teacher_model=teacher,
        alignments=alignments,
        train_dataset=examples or ragged_examples(8),
        data_collator=collate,
        **options,
    )
    trainer.train()
    return trainer.state.log_history[0]


def test_bert_teaches_modernbert(make_args):
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    student = ModernBertForMaskedLM(ModernBertConfig(**sizes, **special, num_hidden_layers=2))
    alignments = [
        LOGITS,
        Alignment(feature="hidden_states", **LAST),
        Alignment(feature="attention_probs", **LAST, loss="kl"),
        Alignment(feature="value_relation", **LAST, loss="kl", relation_heads=8),
    ]
    log = trained(student, tiny_model(BertForMaskedLM), alignments, make_args)
    assert all(0 < log[f"loss/{alignment.name}"] < float("inf") for alignment in alignments)


def classified(examples):
    return [{**example, "labels": len(example["input_ids"]) % 3} for example in examples]


def pad_classified(examples):
    labels = torch.tensor([example["labels"] for example in examples])
    return pad_batch([{k: v for k, v in ex.items() if k != "labels"} for ex in examples]) | {"labels": labels}


def llama():
    row = next(row for row in ROWS if row.name == "Llama")
    return LlamaForSequenceClassification(LlamaConfig(**row.sizes, num_labels=3))


@pytest.mark.parametrize(
    ("make_teacher", "examples", "collate"),
    [
        (
            lambda: tiny_model(BertForSequenceClassification, num_labels=3),
            classified(ragged_examples(8)),
            pad_classified,
        ),
        (llama, classified(ragged_examples(8)), pad_classified),
        (
            lambda: tiny_model(BertForTokenClassification, num_labels=3),
            [{**example, "labels": [i % 3 for i in example["input_ids"]]} for example in ragged_examples(8)],
            pad_batch,
        ),
    ],
    ids=["sequences", "sequences, causal", "tokens"],
)
def test_heads_of_tasks(make_args, make_teacher, examples, collate):
    teacher = make_teacher()
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
    log = trained(student, teacher, [LOGITS], make_args, examples, collate, task_weight=0.5)
    assert log["loss/logits"] > 0
    assert log["loss/task"] > 0


def test_starts_and_ends_of_answers_are_refused_as_logits_but_not_hidden_states(make_args):
    teacher = tiny_model(BertForQuestionAnswering)
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
    with pytest.raises(AlignmentError, match="where an answer starts and ends, over positions instead of classes"):
        trained(student, teacher, [LOGITS], make_args)
    log = trained(
        student, teacher, [Alignment(feature="hidden_states", **LAST)], make_args, ragged_examples(8, labels=False)
    )
    assert log["loss/hidden_states_s2_t4"] > 0
