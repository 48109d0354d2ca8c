"""Weights and temperatures that change with the progress of training."""

import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM, TrainingArguments

from distil_trainer import Alignment, DistillationTrainer, Schedule, build_student, methods, render_card, student_config
from distil_trainer.errors import AlignmentError, TrainingSetupError
from distil_trainer.run_record import record_run


def test_values():
    line = Schedule(start=2.0, end=0.0)
    assert [line(p) for p in (0, 0.25, 0.5, 1)] == [2.0, 1.5, 1.0, 0.0]
    wave = Schedule(start=0.0, end=1.0, shape="cosine")
    assert [wave(p) for p in (0, 0.5, 1)] == pytest.approx([0, 0.5, 1])
    assert wave(0.25) == pytest.approx((1 - 2**-0.5) / 2)
    jump = Schedule(start=1.0, end=0.0, begin=0.8, finish=0.8)
    assert [jump(p) for p in (0, 0.79, 0.8, 1)] == [1.0, 1.0, 0.0, 0.0]
    part = Schedule(start=0.0, end=1.0, begin=0.2, finish=0.6)
    assert [part(p) for p in (0.1, 0.2, 0.4, 0.6, 0.9)] == pytest.approx([0, 0, 0.5, 1, 1])


def test_words():
    assert str(Schedule(start=1, end=0)) == "1 → 0, linear"
    assert str(Schedule(start=1, end=0.5, shape="cosine", finish=0.5)) == "1 → 0.5, cosine from 0% to 50% of the steps"
    jump = Alignment(feature="logits", loss="kl", weight=Schedule(start=0, end=1, begin=0.8, finish=0.8))
    assert str(jump) == "student learns logits from teacher (kl, weight 0 → 1 at 80% of the steps)"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": -1, "end": 0}, "start of a schedule should be a number from 0; got -1"),
        ({"start": 1, "end": float("inf")}, "end of a schedule should be a number"),
        ({"start": 1, "end": True}, "end of a schedule should be a number"),
        ({"start": 1, "end": 0, "begin": 0.6, "finish": 0.5}, "should begin before it finishes"),
        ({"start": 1, "end": 0, "finish": 1.5}, "should begin before it finishes"),
        ({"start": 1, "end": 0, "shape": "square"}, "linear or cosine; got 'square'"),
    ],
)
def test_what_is_no_schedule(values, message):
    with pytest.raises(AlignmentError, match=message):
        Schedule(**values)


def test_weights_and_temperatures_that_cannot_be():
    for wrong in ({"weight": Schedule(start=0, end=0)}, {"temperature": Schedule(start=1, end=0)}, {"weight": "1"}):
        with pytest.raises(AlignmentError, match="should be a positive, finite number, or a Schedule"):
            Alignment(feature="logits", loss="kl", **wrong)
    with pytest.raises(TrainingSetupError, match="a number from 0, or a Schedule"):
        DistillationTrainer(tiny_model(BertForMaskedLM), task_weight="1")


@pytest.fixture
def trainer(tmp_path):
    """Makes trainers of a student with half the blocks, for four steps."""

    def make(alignments, **options):
        teacher = tiny_model(BertForMaskedLM)
        student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
        args = TrainingArguments(
            str(tmp_path / "out"),
            max_steps=4,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            logging_steps=1,
            use_cpu=True,
            report_to="none",
            dataloader_pin_memory=False,
            save_strategy="no",
            disable_tqdm=True,
        )
        return DistillationTrainer(
            student,
            args,
            teacher_model=teacher,
            alignments=alignments,
            train_dataset=ragged_examples(64),
            eval_dataset=ragged_examples(8),
            data_collator=pad_batch,
            **options,
        )

    return make


def test_each_step_has_its_weights(trainer):
    alignments = methods.tinybert(student_layers=2, teacher_layers=4, stage="both", switch=0.5)
    run = trainer(alignments, task_weight=Schedule(start=1.0, end=0.0))
    run.train()
    logs = [entry for entry in run.state.log_history if "loss" in entry]
    assert [entry["weight/logits"] for entry in logs] == [0, 0, 1, 1]
    assert [entry["weight/hidden_states_s2_t4"] for entry in logs] == [1, 1, 0, 0]
    assert [entry["weight/task"] for entry in logs] == [1.0, 0.75, 0.5, 0.25]
    for entry in logs:
        terms = {key.removeprefix("loss/"): value for key, value in entry.items() if key.startswith("loss/")}
        assert set(terms) == {a.name for a in alignments} | {"task"}
        total = sum(entry[f"weight/{name}"] * value for name, value in terms.items())
        assert entry["loss"] == pytest.approx(total, rel=1e-5)
    metrics = run.evaluate()
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_loss/logits"])  # what counts at the end
    assert not run.unreached  # the head learns later, so it is not frozen before


def test_a_schedule_that_does_not_change_is_a_number(trainer):
    losses = []
    for weight in (0.5, Schedule(start=0.5, end=0.5)):
        torch.manual_seed(0)
        run = trainer((Alignment(feature="logits", loss="kl", weight=weight, temperature=2.0),))
        run.train()
        losses.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert losses[0] == losses[1]


def test_the_temperature_follows(trainer):
    """Against runs of one temperature: the first step has that of the start, and the evaluation that of the end."""
    values = {}
    for name, temperature in {"both": Schedule(start=4.0, end=1.0), "hot": 4.0, "cold": 1.0}.items():
        torch.manual_seed(0)
        run = trainer((Alignment(feature="logits", loss="kl", temperature=temperature),))
        run.train()
        values[name] = run.state.log_history[0]["loss/logits"], run.evaluate()["eval_loss"]
        if name == "both":
            run.alignments = (Alignment(feature="logits", loss="kl", temperature=1.0),)
            assert run.evaluate()["eval_loss"] == values["both"][1]
    assert values["both"][0] == values["hot"][0] != values["cold"][0]


def test_the_page_tells_schedules(trainer):
    run = trainer(
        methods.tinybert(student_layers=2, teacher_layers=4, stage="both"), task_weight=Schedule(start=1, end=0.5)
    )
    run.train()
    record = run.state and record_run(run)
    assert record.task_weight == 0.5
    page = render_card(record)
    assert "| 0 → 1 at 80% of the steps |" in page
    assert "loss on labels has the weight 1 → 0.5, linear" in page
