"""The table of teacher against student."""

import torch
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import BertModel, DistilBertConfig, DistilBertModel

from distil_trainer import build_student, student_config
from distil_trainer.plan import student_plan
from distil_trainer.width import important_units


def test_the_plan_of_a_narrow_student():
    teacher = tiny_model(BertModel)
    config = student_config(
        teacher.config, num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=24
    )
    batches = [pad_batch(ragged_examples(8))]
    units = important_units(teacher, batches, config)
    student = build_student(teacher, config, "spread", units=units, freeze_embeddings=True)
    tables = (99 + 64 + 2) * 16
    block = 4 * (16 * 16 + 16) + (16 * 24 + 24) + (24 * 16 + 16) + 4 * 16
    rest = 2 * 16 + 16 * 16 + 16
    assert student_plan(teacher, student).splitlines() == [
        "                   teacher  student",
        "blocks                   4        2",
        "hidden size             32       16",
        "heads                    4        2",
        "intermediate size       48       24",
        "vocabulary              99       99",
        f"parameters          {sum(p.numel() for p in teacher.parameters()):,}    {tables + 2 * block + rest:,}",
        f"- embeddings         5,280    {tables:,}",
        f"- blocks            30,016    {2 * block:,}",
        f"- rest               1,120      {rest}",
        "student block 1 <- teacher block 2",
        "student block 2 <- teacher block 4",
        f"hidden size: 16 of the teacher's 32, chosen by {units.chosen_by}",
        f"heads: 2 of the teacher's 4, chosen by {units.chosen_by}",
        f"intermediate size: 24 of the teacher's 48, chosen by {units.chosen_by}",
        "frozen: embeddings",
    ]


def test_a_student_of_other_origin_and_another_name_of_a_size():
    torch.manual_seed(0)
    models = [DistilBertModel(DistilBertConfig(vocab_size=9, dim=8, n_heads=2, hidden_dim=n)) for n in (8, 1234)]
    lines = student_plan(*models).splitlines()
    assert "intermediate size        8    1,234" in lines
    assert lines[-1].startswith("- rest")
