"""What callbacks see, and when: the state, the logs, the student."""

import numbers

import pytest
from conftest import ragged_examples
from distilling import LAYERS, distilling, logged
from transformers import TrainerCallback

NAMES = {*(alignment.name for alignment in LAYERS), "logits", "task"}


class Diary(TrainerCallback):
    def __init__(self):
        self.events, self.logs, self.steps, self.models = [], [], [], set()

    def __getattribute__(self, name):
        if name in ("on_train_begin", "on_step_end", "on_evaluate", "on_save", "on_train_end", "on_substep_end"):
            self.events.append(name.removeprefix("on_"))
        return super().__getattribute__(name)

    def on_step_end(self, args, state, control, model, optimizer, lr_scheduler, train_dataloader, **kwargs):
        self.steps.append((state.global_step, round(state.epoch, 3), state.max_steps))
        self.models.add(model)

    def on_log(self, args, state, control, logs, **kwargs):
        self.logs.append((state.global_step, dict(logs)))

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.metrics = dict(metrics)


def test_a_callback_sees_steps_logs_and_the_student(make_args):
    diary = Diary()
    args = {
        "max_steps": 4,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 4,
    }
    trainer = distilling(make_args, args=args, callbacks=[diary])
    trainer.train()
    step = ["substep_end", "step_end"]
    assert diary.events == ["train_begin", *step, *step, "evaluate", *step, *step, "evaluate", "save", "train_end"]
    assert diary.steps == [(1, 0.25, 4), (2, 0.5, 4), (3, 0.75, 4), (4, 1.0, 4)]
    assert diary.models == {trainer.model}
    training = [(step, logs) for step, logs in diary.logs if "loss" in logs]
    assert [step for step, _ in training] == [1, 2, 3, 4]
    for _, logs in training:
        assert {key.removeprefix("loss/") for key in logs if "/" in key} == NAMES
        assert all(isinstance(value, numbers.Real) for value in logs.values())  # what every reporter can write
    assert {key.removeprefix("eval_loss/") for key in diary.metrics if "/" in key} == NAMES


def test_callbacks_can_stop_log_and_evaluate(make_args):
    class Orders(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_log = state.global_step == 2
            control.should_evaluate = state.global_step == 3
            control.should_training_stop = state.global_step == 3

    trainer = distilling(make_args, args={"max_steps": 9, "logging_steps": 100}, callbacks=[Orders()])
    trainer.train()
    assert trainer.state.global_step == 3
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [2]
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [3]


def test_the_start_is_evaluated(make_args):
    trainer = distilling(make_args, args={"eval_on_start": True, "max_steps": 1, "eval_strategy": "epoch"})
    expected = trainer.evaluate()["eval_loss"]
    trainer.train()
    first = next(entry for entry in trainer.state.log_history if entry["step"] == 0 and "eval_loss" in entry)
    assert first["eval_loss"] == pytest.approx(expected, rel=1e-6)
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1]


@pytest.mark.parametrize(("which", "padding"), [("non_padding", False), ("all", True)])
def test_tokens_are_counted(make_args, which, padding):
    args = {"include_num_input_tokens_seen": which, "max_steps": 4, "train_sampling_strategy": "sequential"}
    trainer = distilling(make_args, args=args)
    trainer.train()
    lengths = [len(example["input_ids"]) for example in ragged_examples()]
    padded = sum(8 * max(lengths[first : first + 8]) for first in range(0, 32, 8))
    assert trainer.state.num_input_tokens_seen == (padded if padding else sum(lengths))


def test_epochs_and_steps(make_args):
    by_epochs = distilling(make_args, args={"max_steps": -1, "num_train_epochs": 1.5})
    by_epochs.train()
    assert (by_epochs.state.global_step, by_epochs.state.epoch) == (6, 1.5)
    by_steps = distilling(make_args, args={"max_steps": 6, "num_train_epochs": 9})
    by_steps.train()
    assert (by_steps.state.global_step, by_steps.progress) == (6, 1.0)
    assert logged(by_steps, "loss") == logged(by_epochs, "loss")
