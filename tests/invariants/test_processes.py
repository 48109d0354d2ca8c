"""Two processes (gloo, DDP) make the update that one process makes, and end with identical weights."""

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import os
import sys
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM, BertModel, TrainingArguments
from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config

folder, accumulation, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
headless = name == "headless"
teacher = tiny_model(BertModel if headless else BertForMaskedLM)
student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
alignments = methods.lightmbert(student_layers=2, teacher_layers=4)
if name == "projection":
    student = tiny_model(BertForMaskedLM, num_hidden_layers=2, hidden_size=24, seed=1)
    alignments = methods.tinybert(student_layers=2, teacher_layers=4, projection=True)
if name == "task":
    alignments += (Alignment(feature="logits", loss="kl", temperature=2.0, positions="labels"),)
world = int(os.environ.get("WORLD_SIZE", 1))
args = TrainingArguments(
    folder, max_steps=3, per_device_train_batch_size=8 // world // accumulation,
    gradient_accumulation_steps=accumulation, optim="sgd", learning_rate=0.1, max_grad_norm=0, use_cpu=True,
    logging_steps=3, report_to="none", save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
)
trainer = DistillationTrainer(
    model=student, args=args, teacher_model=teacher, alignments=alignments, task_weight=0.5 if name == "task" else 0.0,
    train_dataset=ragged_examples(labels=not headless), eval_dataset=ragged_examples(16, seed=2, labels=not headless),
    data_collator=pad_batch,
)
trainer.train()
logs = {key: value for key, value in trainer.state.log_history[0].items() if "loss" in key}
logs |= {key: value for key, value in trainer.evaluate().items() if "loss" in key}
weights = flat_weights(trainer.model)
if name == "projection":
    weights = torch.cat([weights, flat_weights(trainer.projections)])
torch.save({"weights": weights, "logs": logs}, f"{folder}/{world}_{trainer.args.process_index}.pt")
# Everything is computed and saved. Taking two gloo processes down in the usual way, with trainer.end() or without, now
# and then aborts one of them ("terminate called without an active exception"): they end here and now.
sys.stdout.flush(), sys.stderr.flush()
os._exit(0)
"""


def run(tmp_path, name, *, processes, accumulation):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*(launcher if processes > 1 else [sys.executable]), str(script), str(tmp_path), str(accumulation), name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    return [torch.load(tmp_path / f"{processes}_{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.mark.parametrize(("name", "accumulation"), [("hidden", 1), ("task", 2), ("headless", 1), ("projection", 2)])
def test_two_processes_make_the_update_of_one(tmp_path, name, accumulation):
    (tmp_path / "out").mkdir()
    (one,) = run(tmp_path, name, processes=1, accumulation=1)
    first, second = run(tmp_path, name, processes=2, accumulation=accumulation)
    assert torch.equal(first["weights"], second["weights"])
    assert (first["weights"] - one["weights"]).norm() <= 1e-5 * one["weights"].norm()
    assert first["logs"] == pytest.approx(one["logs"], rel=1e-4)
    assert first["logs"] == second["logs"]
