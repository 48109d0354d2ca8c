"""A run that was stopped and resumed ends with the same bits as one that was not."""

import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM

from distil_trainer import DistillationTrainer, build_student, methods, student_config


def run(make_args, folder, resume=None):
    teacher = tiny_model(BertForMaskedLM)
    config = student_config(teacher.config, num_hidden_layers=2, hidden_dropout_prob=0.1)
    trainer = DistillationTrainer(
        model=build_student(teacher, config),
        args=make_args(
            output_dir=str(folder),
            max_steps=6,
            save_strategy="steps",
            save_steps=3,
            logging_steps=2,
            gradient_accumulation_steps=2,
            per_device_train_batch_size=2,
        ),
        teacher_model=teacher,
        alignments=methods.lightmbert(student_layers=2, teacher_layers=4),
        train_dataset=ragged_examples(),
        data_collator=pad_batch,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_resumed_weights_are_bit_identical(make_args, tmp_path):
    whole = run(make_args, tmp_path / "whole")
    resumed = run(make_args, tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoint-3"))
    assert torch.equal(flat_weights(whole.model), flat_weights(resumed.model))
    assert resumed.state.log_history[-2]["loss"] == whole.state.log_history[-2]["loss"]
