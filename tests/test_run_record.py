import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import BertModel

from distil_trainer import DistillationTrainer, Record, build_student, methods, student_config
from distil_trainer.page import write_page
from distil_trainer.run_record import record_run
from distil_trainer.teacher_cache import TeacherCache
from distil_trainer.width import important_units


@pytest.fixture
def trainer(make_args):
    teacher = tiny_model(BertModel)
    student = build_student(
        teacher, student_config(teacher.config, num_hidden_layers=2), layers=[1, 4], freeze_embeddings=True
    )
    trainer = DistillationTrainer(
        model=student,
        args=make_args(learning_rate=2e-3, include_num_input_tokens_seen="non_padding"),
        teacher_model=teacher,
        alignments=methods.lightmbert(student_layers=2, teacher_layers=4),
        train_dataset=ragged_examples(24, labels=False),
        data_collator=pad_batch,
    )
    trainer.train()
    return trainer


def test_a_record_holds_the_facts_of_the_run(trainer):
    record = record_run(trainer, student={"name": "small", "license": "mit"}, teacher={"name": "big", "id": "org/big"})
    assert (record.student.name, record.student.license, record.student.layers) == ("small", "mit", 2)
    assert (record.teacher.id, record.teacher.layers) == ("org/big", 4)
    assert record.provenance.copied_blocks == (1, 4)
    assert record.provenance.frozen == ("embeddings",)
    assert [term.name for term in record.alignments] == ["hidden_states_s2_t4", "attention_probs_s2_t4"]
    assert record.hyperparameters["learning_rate"] == 2e-3
    assert (record.balanced, record.teacher_dtype, record.teacher_cache) == (None, "float32", None)
    assert record.steps == 3
    assert record.tokens == sum(len(example["input_ids"]) for example in ragged_examples(24))
    assert len(record.loss_curve["loss/hidden_states_s2_t4"]) == 3
    assert record.seconds > 0
    assert record.arguments.keys() >= record.hyperparameters.keys()
    assert record.peak_memory_gib > 0
    assert record.best_step is None


def test_parameters_that_got_no_gradient_are_named(trainer):
    # Embeddings are frozen on purpose, which the provenance says; nothing reads the pooler.
    assert set(record_run(trainer).never_trained) == {"pooler.dense.weight", "pooler.dense.bias"}


def test_the_teacher_is_as_it_is_stored_whatever_it_computed_and_is_kept_in(make_args, tmp_path):
    teacher = tiny_model(BertModel)
    trainer = DistillationTrainer(
        model=build_student(teacher, student_config(teacher.config, num_hidden_layers=2)),
        args=make_args(),
        teacher_model=teacher,
        teacher_dtype=torch.bfloat16,
        alignments=methods.lightmbert(student_layers=2, teacher_layers=4),
        teacher_cache=TeacherCache(folder=str(tmp_path / "cache"), dtype="float16"),
    )
    record = record_run(trainer)
    assert (record.teacher.dtype, record.teacher_dtype) == ("float32", "bfloat16")
    assert (record.teacher_cache, record.top_logits) == ("float16", None)


def test_a_page_without_matplotlib_has_no_picture(trainer, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("distil_trainer.page.find_spec", lambda name: None)
    page = write_page(tmp_path, [record_run(trainer)])
    assert "matplotlib is not installed" in caplog.text
    assert not (tmp_path / "layer_map.png").exists()
    assert "loss_curves.png" not in page.read_text()
    assert not (tmp_path / "loss_curves.png").exists()


def test_create_model_card_writes_the_whole_page(trainer, tmp_path):
    trainer.create_model_card(language="sv", license="apache-2.0", model_name="small-sv")
    folder = tmp_path / "out"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert "# small-sv" in card
    assert "student block" in card
    assert (folder / "loss_curves.png").exists()
    assert Record.load(folder / "distillation.json").student.language == ("sv",)


def test_what_was_cut_is_in_the_record(make_args):
    teacher = tiny_model(BertModel)
    config = student_config(teacher.config, num_hidden_layers=2, hidden_size=16, num_attention_heads=2)
    units = important_units(teacher, [pad_batch(ragged_examples(8))], config)
    trainer = DistillationTrainer(
        model=build_student(teacher, config, units=units),
        args=make_args(max_steps=1),
        teacher_model=teacher,
        alignments=methods.minilmv2(student_layers=2, teacher_layers=4, relation_heads=4),
        train_dataset=ragged_examples(8, labels=False),
        data_collator=pad_batch,
    )
    trainer.train()
    provenance = record_run(trainer).provenance
    assert provenance.kept_units == {"hidden size": (16, 32), "heads": (2, 4)}
    assert provenance.units_chosen_by == units.chosen_by
