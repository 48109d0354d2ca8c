"""A student in fewer pieces learns what it would learn with all of them from texts that hold no others."""

import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config
from distil_trainer.errors import AlignmentError, StudentError
from distil_trainer.losses import LOSSES
from distil_trainer.run_record import record_run

KEPT = (*range(6), *range(7, 80, 4), 90, 98)
LAYERS = methods.lightmbert(student_layers=2, teacher_layers=4)
KL = Alignment(feature="logits", loss="kl", temperature=2.0, positions="labels")


def examples(*, of_student):
    """The same texts, in the ids of either."""
    rows = []
    for example in ragged_examples(24):
        own = [5 + number % (len(KEPT) - 5) for number in example["input_ids"]]
        ids = own if of_student else [KEPT[number] for number in own]
        labels = [-100 if label == -100 else ids[i] for i, label in enumerate(example["labels"])]
        rows.append({**example, "input_ids": ids, "labels": labels})
    return rows


def make_trainer(make_args, kept, alignments=LAYERS, teacher=None, **options):
    teacher = teacher or tiny_model(BertForMaskedLM)
    config = student_config(teacher.config, num_hidden_layers=2)
    rows = examples(of_student=kept is not None)
    defaults = {
        "model": build_student(teacher, config, kept_ids=kept),
        "args": make_args(learning_rate=1e-3, gradient_accumulation_steps=2, per_device_train_batch_size=4),
        "teacher_model": teacher,
        "alignments": alignments,
        "kept_ids": kept,
        "train_dataset": rows,
        "eval_dataset": rows[:10],
        "data_collator": pad_batch,
    }
    return DistillationTrainer(**defaults | options)


def test_the_update_is_the_same_but_for_the_pieces_that_are_gone(make_args):
    few, all_pieces = make_trainer(make_args, KEPT), make_trainer(make_args, None)
    for trainer in (few, all_pieces):
        trainer.train()
    ours, theirs = few.model.state_dict(), all_pieces.model.state_dict()
    for name, tensor in ours.items():
        expected = theirs[name] if tensor.shape == theirs[name].shape else theirs[name][list(KEPT)]
        torch.testing.assert_close(tensor, expected, atol=1e-7, rtol=0)
    assert few.evaluate()["eval_loss"] == pytest.approx(all_pieces.evaluate()["eval_loss"], rel=1e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_logits_are_compared_among_the_kept_pieces(make_args, whole):
    trainer = make_trainer(make_args, KEPT, (KL,), task_weight=0.5)
    batch, theirs = pad_batch(examples(of_student=True)[:6]), pad_batch(examples(of_student=False)[:6])
    teacher = trainer.teacher.model
    with torch.no_grad():
        student_logits = trainer.model.eval()(batch["input_ids"], batch["attention_mask"]).logits
        logits = teacher(theirs["input_ids"], theirs["attention_mask"]).logits[..., list(KEPT)]
        found = trainer.compute_loss(trainer.model, batch, return_outputs=whole)
    labelled = batch["labels"] != -100
    total, count = LOSSES["logits"]["kl"].function(student_logits, logits, labelled, 2.0)
    own = torch.nn.functional.cross_entropy(student_logits[labelled], batch["labels"][labelled])
    torch.testing.assert_close(found[0] if whole else found, total / count + 0.5 * own)


def test_the_teacher_stays_as_it_was_and_is_told_so(make_args):
    teacher = tiny_model(BertForMaskedLM)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer = make_trainer(make_args, KEPT, (*LAYERS, KL), teacher)
    trainer.train()
    assert trainer.teacher.model is teacher
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    record = record_run(trainer)
    assert (record.teacher.vocabulary, record.student.vocabulary) == (99, len(KEPT))
    assert (record.provenance.kept_pieces, record.provenance.teacher_pieces) == (len(KEPT), 99)
    assert record.teacher.embedding_parameters - record.student.embedding_parameters == 32 * (99 - len(KEPT))


def test_a_teacher_by_its_path(make_args, tmp_path):
    teacher = tiny_model(BertForMaskedLM)
    teacher.save_pretrained(tmp_path / "teacher")
    expected = make_trainer(make_args, KEPT, (*LAYERS, KL)).evaluate()["eval_loss"]
    trainer = make_trainer(
        make_args, KEPT, (*LAYERS, KL), teacher_model=str(tmp_path / "teacher"), teacher_dtype=torch.float32
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("alignments", [LAYERS, (KL,)])
def test_ids_that_do_not_belong_to_the_student(make_args, alignments):
    with pytest.raises(
        AlignmentError, match=r"of the student is 27, of the teacher 99\. If its vocabulary was trimmed"
    ):
        make_trainer(make_args, KEPT, alignments, kept_ids=None)
    with pytest.raises(AlignmentError, match="of the student is 27, of the teacher 26"):
        make_trainer(make_args, KEPT, alignments, kept_ids=KEPT[1:])
    with pytest.raises(StudentError, match="from 0 to 98; got 27"):
        make_trainer(make_args, KEPT, alignments, kept_ids=[*KEPT[:-1], 99])
