"""Several teachers of one student: each with layers of its own, and their logits together."""

import copy
import math

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM

from distil_trainer import Alignment, DistillationTrainer, Record, build_student, methods, student_config
from distil_trainer.alignment import check_teachers, layer_map
from distil_trainer.errors import AlignmentError, TrainingSetupError
from distil_trainer.losses import LogitMean
from distil_trainer.losses import logits as logit_losses

LAYERS = methods.of_teachers(methods.lightmbert, student_layers=2, teacher_layers=(4, 3), weights=(3, 1))
KL = Alignment(feature="logits", loss="kl", temperature=2.0, positions="labels")


def hidden(teacher, **options):
    return Alignment(feature="hidden_states", student_layer=2, teacher_layer=3, teacher=teacher, **options)


def make_teachers(**second):
    return [tiny_model(BertForMaskedLM), tiny_model(BertForMaskedLM, num_hidden_layers=3, seed=1, **second)]


def make_trainer(make_args, alignments, teachers, *, student=None, weights=None, examples=None, **settings):
    first = teachers[0] if isinstance(teachers, list) else teachers
    student = student or build_student(first, student_config(first.config, num_hidden_layers=2))
    return DistillationTrainer(
        model=student,
        args=make_args(**settings),
        teacher_model=teachers,
        teacher_weights=weights,
        alignments=alignments,
        train_dataset=examples or ragged_examples(),
        eval_dataset=ragged_examples(10),
        data_collator=pad_batch,
    )


def test_a_method_with_several_teachers():
    assert [(a.name, a.weight) for a in LAYERS] == [
        ("hidden_states_s2_t4_teacher1", 0.75),
        ("attention_probs_s2_t4_teacher1", 0.75),
        ("hidden_states_s2_t3_teacher2", 0.25),
        ("attention_probs_s2_t3_teacher2", 0.25),
    ]
    both = methods.of_teachers(methods.tinybert, student_layers=2, teacher_layers=(2, 4), stage="both", switch=0.5)
    assert [a.name for a in both].count("logits") == 1
    assert {a.weight.start for a in both if a.feature != "logits"} == {0.5}
    assert next(a.weight for a in both if a.feature == "logits").end == 1
    alone = methods.of_teachers(methods.lightmbert, student_layers=2, teacher_layers=[4])
    assert alone == methods.lightmbert(student_layers=2, teacher_layers=4)
    assert "student block 2 learns attention from teacher 2: block 3 (mse, weight 0.25)" in layer_map(LAYERS)
    assert str(Alignment(feature="logits", loss="kl", teacher=2)) == "student learns logits from teacher 2 (kl)"
    with pytest.raises(AlignmentError, match="a positive number for each of 2; got \\(1, 0\\)"):
        methods.of_teachers(methods.lightmbert, student_layers=2, teacher_layers=(4, 3), weights=(1, 0))


def test_the_terms_are_those_of_each_teacher_alone(make_args):
    """Of different depths and widths: relations need no projection."""
    teachers = make_teachers(hidden_size=48)
    relation = {"feature": "value_relation", "student_layer": 2, "loss": "kl", "relation_heads": 4}
    pairs = [Alignment(**relation, teacher_layer=layer, teacher=k) for k, layer in ((1, 4), (2, 3))]
    both = make_trainer(make_args, pairs, teachers)
    found = both.evaluate()
    for alignment, teacher in zip(pairs, teachers, strict=True):
        alone = Alignment(**relation, teacher_layer=alignment.teacher_layer)
        expected = make_trainer(make_args, [alone], teacher, student=copy.deepcopy(both.model)).evaluate()
        assert found[f"eval_loss/{alignment.name}"] == pytest.approx(expected[f"eval_loss/{alone.name}"], rel=1e-6)
    assert found["eval_loss"] == pytest.approx(sum(found[f"eval_loss/{a.name}"] for a in pairs))


@pytest.mark.parametrize("positions", ["labels", "tokens"])
def test_logits_are_compared_with_the_mean_of_the_teachers(make_args, positions):
    teachers, examples = make_teachers(hidden_size=48), ragged_examples(10)
    alignment = Alignment(feature="logits", loss="kl", temperature=2.0, positions=positions)
    trainer = make_trainer(make_args, [alignment], teachers, weights=(3, 1))
    total = count = 0.0
    with torch.no_grad():
        for example in examples:
            batch = pad_batch([example])
            mask = batch.pop("labels") != -100 if positions == "labels" else batch["attention_mask"].bool()
            student, *taught = (model.eval()(**batch).logits for model in (trainer.model, *teachers))
            one, number = logit_losses.kl(student, LogitMean(tuple(taught), (0.75, 0.25)), mask, 2.0)
            total, count = total + one.item(), count + number.item()
    assert trainer.evaluate()["eval_loss/logits"] == pytest.approx(total / count, rel=1e-5)


def test_the_same_teacher_twice_is_that_teacher(make_args):
    teacher = tiny_model(BertForMaskedLM)
    one = make_trainer(make_args, (*methods.lightmbert(student_layers=2, teacher_layers=4), KL), teacher)
    twice = methods.of_teachers(methods.lightmbert, student_layers=2, teacher_layers=(4, 4))
    two = make_trainer(make_args, (*twice, KL), [teacher, copy.deepcopy(teacher)])
    for trainer in (one, two):
        trainer.train()
    torch.testing.assert_close(flat_weights(one.model), flat_weights(two.model), rtol=0, atol=2e-5)
    assert {"loss/hidden_states_s2_t4_teacher2", "loss/logits"} <= two.state.log_history[0].keys()


def test_a_step_may_be_split(make_args):
    weights = []
    for rows in (8, 2):
        split = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 8 // rows, "max_steps": 2}
        trainer = make_trainer(make_args, (*LAYERS, KL), make_teachers(), optim="sgd", learning_rate=0.1, **split)
        trainer.train()
        weights.append(flat_weights(trainer.model))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)


def test_projections_have_the_width_of_their_teacher(make_args):
    teachers = make_teachers(hidden_size=48)
    pair = (hidden(1, projection=True), hidden(2, projection=True))
    trainer = make_trainer(make_args, pair, teachers)
    assert {name: tuple(w.shape) for name, w in trainer.projections.named_parameters()} == {
        "hidden_states_s2_t3_teacher1": (32, 32),
        "hidden_states_s2_t3_teacher2": (48, 32),
    }
    trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    with pytest.raises(TrainingSetupError, match=r"teachers are 32 and 48 wide\. Give the alignments projection=True"):
        make_trainer(make_args, (hidden(1, projection="shared"), hidden(2, projection="shared")), teachers)


def test_the_page_names_all_teachers(make_args, tmp_path):
    teachers = make_teachers()
    trainer = make_trainer(make_args, (*LAYERS, KL), teachers, weights=(3, 1))
    trainer.page_facts = {
        "teacher": {"name": "First", "id": "some/first"},
        "other_teachers": [{"name": "Second", "id": "some/second", "revision": "abc"}],
    }
    trainer.train()
    trainer.create_model_card()
    record = Record.load(tmp_path / "out" / "distillation.json")
    assert [teacher.layers for teacher in (record.teacher, *record.other_teachers)] == [4, 3]
    assert record.teacher_weights == (0.75, 0.25)
    assert [a.teacher for a in record.alignments] == [1, 1, 2, 2, None]
    page = (tmp_path / "out" / "README.md").read_text()
    assert "taught also by [some/second](https://huggingface.co/some/second), made by" in page
    assert "1. [some/first](https://huggingface.co/some/first), 4 blocks, weight 0.75, 2. [some/second]" in page
    assert (
        "(revision `abc`), 3 blocks, weight 0.25. Logits are compared with the mean of all, by these weights." in page
    )
    assert "| `hidden_states_s2_t3_teacher2` | block 2 | hidden states | 2: block 3 |" in page
    assert "](layer_map.png)" in page


@pytest.mark.parametrize(
    ("alignments", "options", "message"),
    [
        ([Alignment(feature="hidden_states", student_layer=2, teacher_layer=3)], {}, "say whose layer is meant, with"),
        ([hidden(1), hidden(3)], {}, "hidden_states_s2_t3_teacher3: teacher=3, but the number of teachers is 2."),
        ([hidden(1)], {}, "no alignment reads teacher 2, of 2. Add one, or leave the teacher out."),
        ([KL, Alignment(feature="logits", loss="kl", teacher=2)], {}, "at positions labels and tokens; choose one"),
        ([KL], {"weights": (1, 2, 3)}, "a positive number for each of 2; got \\(1, 2, 3\\)"),
        ([KL], {"weights": (1, -1)}, "a positive number for each of 2"),
        ([hidden(1), Alignment(feature="hidden_states", student_layer=2, teacher_layer=4, teacher=2)], {}, "3 blocks"),
    ],
)
def test_what_does_not_fit_is_refused(make_args, alignments, options, message):
    with pytest.raises(AlignmentError, match=message):
        make_trainer(make_args, alignments, make_teachers(), **options)


def test_a_number_where_there_is_one_teacher(make_args):
    check_teachers([hidden(1)], 1)
    with pytest.raises(AlignmentError, match="teacher=2, but the number of teachers is 1"):
        make_trainer(make_args, [hidden(2)], tiny_model(BertForMaskedLM))
    for wrong in (0, True, "2"):
        with pytest.raises(AlignmentError, match="teacher should be a whole number from 1, or None"):
            hidden(wrong)
