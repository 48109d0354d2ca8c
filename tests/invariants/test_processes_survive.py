"""Two processes decide alike about a step that is not finite on one of them, and go on from a checkpoint."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
SCRIPT = """
import os
import sys
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM, TrainingArguments
from distil_trainer import DistillationTrainer, build_student, methods, student_config
from distil_trainer.errors import NonFiniteError

torch.set_num_threads(1)
examples = ragged_examples()
examples[9]["input_ids"][1] = 4

def train(on_nonfinite, resume=None):
    teacher = tiny_model(BertForMaskedLM)
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
    with torch.no_grad():
        teacher.bert.embeddings.word_embeddings.weight[4] = torch.inf
    args = TrainingArguments(
        f"{sys.argv[1]}/{on_nonfinite}", max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        use_cpu=True, logging_steps=2, report_to="none", save_steps=3, disable_tqdm=True, dataloader_pin_memory=False,
    )
    trainer = DistillationTrainer(
        model=student, args=args, teacher_model=teacher, train_dataset=examples, data_collator=pad_batch,
        alignments=methods.lightmbert(student_layers=2, teacher_layers=4), on_nonfinite=on_nonfinite,
    )
    try:
        trainer.train(resume_from_checkpoint=resume)
    except NonFiniteError as error:
        return str(error)
    logs = [{k: v for k, v in entry.items() if k.startswith("loss")} for entry in trainer.state.log_history]
    return {"weights": flat_weights(trainer.model), "logs": logs}

found = [train("stop"), train("skip"), train("skip", f"{sys.argv[1]}/skip/checkpoint-3")]
torch.save(found, f"{sys.argv[1]}/{os.environ['RANK']}.pt")
sys.stdout.flush(), sys.stderr.flush()
os._exit(0)  # as in test_processes.py
"""


@pytest.mark.slow
def test_two_processes_stop_skip_and_go_on_alike(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [*launcher, str(tmp_path / "train.py"), str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    errors, whole, resumed = zip(
        *(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)), strict=True
    )
    named = ["not finite in the teacher: queries, keys or values of block 4" in error for error in errors]
    assert sorted(named) == [False, True]
    assert "see the error of another process" in errors[named.index(False)]
    (file,) = (tmp_path / "stop").glob("nonfinite-*")
    assert file.name.endswith(f"process-{named.index(True)}.safetensors")
    for first, second in (whole, resumed, (whole[0], resumed[0])):
        assert torch.equal(first["weights"], second["weights"])
        assert first["weights"].isfinite().all()
        assert first["logs"] == second["logs"]
