"""With no alignments, task_weight=1.0 and no teacher, DistillationTrainer is Trainer, bit for bit."""

import filecmp
import json

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM, Trainer, set_seed

from distil_trainer import DistillationTrainer


class Regression(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)

    def forward(self, x, labels=None):
        prediction = self.linear(x).squeeze(-1)
        return ((prediction - labels).square().mean() if labels is not None else None, prediction)


def plain_module():
    set_seed(0)
    examples = [{"x": torch.randn(4), "labels": torch.randn(())} for _ in range(40)]
    return {"model": Regression(), "train_dataset": examples, "eval_dataset": examples[:8]}


def masked_lm():
    examples = ragged_examples(40)
    model = tiny_model(BertForMaskedLM, hidden_dropout_prob=0.1)
    return {"model": model, "train_dataset": examples, "eval_dataset": examples[:8], "data_collator": pad_batch}


TIMES = ("train_runtime", "samples_per_second", "steps_per_second", "runtime", "preparation_time")


def untimed(log_history):
    return [{k: v for k, v in entry.items() if not k.endswith(TIMES)} for entry in log_history]


@pytest.mark.parametrize("setup", [masked_lm, plain_module])
def test_weights_logs_and_files_are_identical(make_args, tmp_path, setup):
    folders, trainers = [tmp_path / "theirs", tmp_path / "ours"], []
    for folder, make in zip(folders, (Trainer, lambda **kw: DistillationTrainer(task_weight=1.0, **kw)), strict=True):
        args = make_args(
            output_dir=str(folder),
            max_steps=6,
            gradient_accumulation_steps=2,
            eval_strategy="steps",
            eval_steps=3,
            save_strategy="steps",
            save_steps=3,
        )
        trainer = make(args=args, **setup())
        trainer.train()
        trainer.save_model()
        trainers.append(trainer)
    theirs, ours = trainers
    assert torch.equal(flat_weights(theirs.model), flat_weights(ours.model))
    assert untimed(theirs.state.log_history) == untimed(ours.state.log_history)

    names = [sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        one, two = (folder / name for folder in folders)
        if name.endswith("trainer_state.json"):
            states = [json.loads(path.read_text()) for path in (one, two)]
            for state in states:
                state["log_history"] = untimed(state["log_history"])
                state["stateful_callbacks"].pop("SurvivingTrainer", None)  # which files make the checkpoint whole
            assert states[0] == states[1]
        elif not name.endswith("training_args.bin"):  # holds the output folder
            assert filecmp.cmp(one, two, shallow=False), name
