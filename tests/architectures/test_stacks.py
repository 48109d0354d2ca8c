"""Encoder-decoders, images and sounds: what is counted, what is copied, what is refused."""

from typing import Any

import pytest
import torch
from conftest import flat_weights, tiny_model
from rows import ROWS
from transformers import BertModel

from distil_trainer import Alignment, DistillationTrainer, build_student, layer_map, methods, student_config
from distil_trainer.blocks import blocks
from distil_trainer.compatibility import check_pair
from distil_trainer.errors import AlignmentError, CaptureError, DataError, StudentError, TrainingSetupError
from distil_trainer.run_record import record_run

NAMED = {row.name: row for row in ROWS}
LAST = {"student_layer": 2, "teacher_layer": 4}


def cut(row, layers="bottom", *, backend="sdpa", **depths) -> tuple[Any, Any]:
    teacher = row.model(backend)
    if row.stack and not depths:
        depths = {"num_decoder_layers" if "T5" in row.name else "decoder_layers": 2}
    return build_student(teacher, student_config(teacher.config, num_hidden_layers=2, **depths), layers), teacher


ALIGNED = {
    "T5, decoder": [
        Alignment(feature="hidden_states", **LAST, stack="decoder"),
        Alignment(feature="attention_probs", **LAST, stack="decoder"),
        Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, stack="decoder", positions="first"),
        Alignment(feature="value_relation", **LAST, stack="encoder", loss="kl"),
        Alignment(feature="logits", loss="kl"),
    ],
    "Whisper, encoder": [
        Alignment(feature="attention_scores", **LAST, stack="encoder"),
        Alignment(feature="hidden_states", **LAST, stack="decoder"),
        Alignment(feature="logits", loss="kl", positions="labels"),
    ],
    "ViT": [
        Alignment(feature="hidden_states", **LAST),
        Alignment(feature="attention_probs", **LAST),
        Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, positions="first"),
        Alignment(feature="logits", loss="kl"),
    ],
}


@pytest.mark.parametrize("name", ALIGNED)
def test_the_update_does_not_depend_on_how_a_step_is_split(make_args, name):
    row, updates = NAMED[name], []
    for size in (8, 4, 1):
        student, teacher = cut(row)
        trainer = DistillationTrainer(
            student,
            make_args(
                max_steps=1,
                optim="sgd",
                learning_rate=0.1,
                max_grad_norm=0.0,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=8 // size,
            ),
            teacher_model=teacher,
            alignments=ALIGNED[name],
            task_weight=0.5,
            train_dataset=row.examples(),
            data_collator=row.collate,
        )
        before = flat_weights(student).clone()
        trainer.train()
        updates.append(flat_weights(student) - before)
    scale = updates[0].abs().max()
    for update in updates[1:]:
        torch.testing.assert_close(update / scale, updates[0] / scale, rtol=0, atol=1e-5)


def test_terms_of_images_are_means_over_all_patches(make_args):
    row = NAMED["ViT"]
    student, teacher = cut(row, backend="eager")
    alignments = methods.lightmbert(student_layers=2, teacher_layers=4)
    data = {"eval_dataset": row.examples(), "data_collator": row.collate}
    trainer = DistillationTrainer(student, make_args(), teacher_model=teacher, alignments=alignments, **data)
    metrics, inputs = trainer.evaluate(), row.batch()
    with torch.no_grad():
        ours, theirs = (
            model(pixel_values=inputs["pixel_values"], output_hidden_states=True, output_attentions=True)
            for model in (student, teacher)
        )
    hidden = (ours.hidden_states[2] - theirs.hidden_states[4]).square().mean().item()
    attention = (ours.attentions[1] - theirs.attentions[3]).square().mean().item()
    assert metrics["eval_loss/hidden_states_s2_t4"] == pytest.approx(hidden, rel=1e-5)
    assert metrics["eval_loss/attention_probs_s2_t4"] == pytest.approx(attention, rel=1e-5)
    with torch.no_grad():  # what training divides by is counted from the inputs alone
        assert trainer.compute_loss(student, inputs).item() == pytest.approx(hidden + attention, rel=1e-5)


def test_terms_of_a_decoder_are_means_over_its_own_tokens(make_args):
    row = NAMED["BART, decoder"]
    student, teacher = cut(row, backend="eager")
    alignments = methods.for_stack(methods.lightmbert(student_layers=2, teacher_layers=4), "decoder")
    assert [a.name for a in alignments] == ["hidden_states_decoder_s2_t4", "attention_probs_decoder_s2_t4"]
    assert [a.unit for a in alignments] == ["decoder_tokens", "decoder_pairs"]
    data = {"eval_dataset": row.examples(), "data_collator": row.collate}
    trainer = DistillationTrainer(student, make_args(), teacher_model=teacher, alignments=alignments, **data)
    inputs = row.batch()
    with torch.no_grad():
        ours, theirs = (
            model(**inputs, output_hidden_states=True, output_attentions=True) for model in (student, teacher)
        )
    counted = inputs["labels"] != -100
    pairs = counted[:, :, None] & counted[:, None, :]
    hidden = (ours.decoder_hidden_states[2] - theirs.decoder_hidden_states[4]).square().mean(-1)
    attention = (ours.decoder_attentions[1] - theirs.decoder_attentions[3]).square().mean(1)
    metrics = trainer.evaluate()
    assert metrics["eval_loss/hidden_states_decoder_s2_t4"] == pytest.approx(hidden[counted].mean().item(), rel=1e-5)
    assert metrics["eval_loss/attention_probs_decoder_s2_t4"] == pytest.approx(attention[pairs].mean().item(), rel=1e-5)
    with torch.no_grad():  # what training divides by is counted from the inputs alone
        loss = trainer.compute_loss(student, inputs).item()
    assert loss == pytest.approx(hidden[counted].mean().item() + attention[pairs].mean().item(), rel=1e-5)


def test_both_stacks_are_cut_each_by_its_rule():
    student, teacher = cut(NAMED["BART, encoder"], {"encoder": [2, 4], "decoder": "top"}, decoder_layers=3)
    ours, theirs = (blocks(model, "encoder") for model in (student, teacher))
    assert [torch.equal(flat_weights(ours[k]), flat_weights(theirs[n])) for k, n in ((0, 1), (1, 3))] == [True, True]
    ours, theirs = (blocks(model, "decoder") for model in (student, teacher))
    assert all(torch.equal(flat_weights(a), flat_weights(b)) for a, b in zip(ours, list(theirs)[1:], strict=True))
    assert student.provenance.copied_blocks == (2, 4)
    assert student.provenance.copied_decoder_blocks == (2, 3, 4)
    assert "student decoder block 3 <- teacher decoder block 4" in str(student.provenance)


def test_what_belongs_to_no_stack_is_refused(make_args):
    row = NAMED["T5, encoder"]
    student, teacher = cut(row)
    plain = methods.logits() + methods.lightmbert(student_layers=2, teacher_layers=4)
    with pytest.raises(AlignmentError, match=r"the student has an encoder and a decoder, but stack=None.*for_stack"):
        check_pair(student, teacher, plain)
    check_pair(student, teacher, methods.for_stack(plain, "decoder"))
    bert = tiny_model(BertModel, num_hidden_layers=2)
    with pytest.raises(AlignmentError, match="the student has one stack of blocks, but stack='encoder'"):
        check_pair(bert, tiny_model(BertModel), methods.for_stack(plain[1:], "encoder"))
    with pytest.raises(AlignmentError, match="the student has 2 blocks, but student_layer=3"):
        check_pair(student, teacher, methods.for_stack(methods.pkd(student_layers=4, teacher_layers=4), "decoder"))
    with pytest.raises(CaptureError, match="has an encoder and a decoder: say which"):
        blocks(teacher)
    with pytest.raises(StudentError, match="layers may be a dict of 'encoder' and 'decoder'"):
        cut(row, {"encoder": "bottom"})
    with pytest.raises(StudentError, match="layers may be a dict"):
        build_student(bert, bert.config, {"encoder": "bottom", "decoder": "bottom"})
    with pytest.raises(TrainingSetupError, match="balance_terms needs hidden states that all terms share"):
        DistillationTrainer(
            student, make_args(), teacher_model=teacher, alignments=methods.logits(), balance_terms=True
        )
    trainer = DistillationTrainer(
        student, make_args(), teacher_model=teacher, alignments=methods.for_stack(plain, "decoder")
    )
    unlabelled = {key: value for key, value in row.batch().items() if key != "labels"}
    with pytest.raises(DataError, match="for a decoder should have `labels` or `decoder_input_ids`; got input_ids"):
        trainer.compute_loss(student, unlabelled)
    encoder = methods.for_stack(plain[1:], "encoder")  # needs no decoder
    trainer = DistillationTrainer(student, make_args(), teacher_model=teacher, alignments=encoder)
    assert trainer.compute_loss(student, unlabelled) > 0


def test_the_record_tells_the_blocks_of_both_stacks(make_args):
    row = NAMED["T5, decoder"]
    student, teacher = cut(row, {"encoder": "bottom", "decoder": [1, 4]}, num_decoder_layers=2)
    trainer = DistillationTrainer(student, make_args(), teacher_model=teacher, alignments=ALIGNED["T5, decoder"])
    record = record_run(trainer)
    assert [(m.layers, m.decoder_layers) for m in (record.student, record.teacher)] == [(2, 2), (4, 4)]
    assert record.provenance.copied_decoder_blocks == (1, 4)


def test_stacks_are_named_where_they_are_given():
    alignments = [Alignment(feature="attention_probs", **LAST, stack="encoder")]
    assert layer_map(alignments) == "student encoder block 2 learns attention from teacher encoder block 4 (mse)"
    with pytest.raises(AlignmentError, match="stack should be one of encoder, decoder; got 'middle'"):
        Alignment(feature="hidden_states", **LAST, stack="middle")
    with pytest.raises(AlignmentError, match="logits belong to no stack"):
        Alignment(feature="logits", loss="kl", stack="decoder")
