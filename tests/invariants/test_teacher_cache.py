"""A teacher cache survives the processes that fill it: two at once, or one that is killed while it writes."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM

from distil_trainer import DistillationTrainer, build_student, methods, student_config
from distil_trainer.teacher_cache import TeacherCache

HEAD = """
import os
import signal
import sys
import torch
from test_teacher_cache import distil, forwards
from transformers import TrainingArguments
from distil_trainer.teacher_cache import store

folder = sys.argv[1]
torch.set_num_threads(1)
world = int(os.environ.get("WORLD_SIZE", 1))
args = TrainingArguments(
    folder, num_train_epochs=2, per_device_train_batch_size=8 // world, optim="sgd", learning_rate=0.1,
    max_grad_norm=0, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
    dataloader_pin_memory=False,
)
"""
TWO = """
runs = []
for _ in range(2):
    trainer = distil(args, folder)
    seen = forwards(trainer)
    trainer.train()
    runs.append((trainer.cached_teachers[0].misses, sum(seen)))
weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
torch.save({"weights": weights, "runs": runs}, f"{folder}/{args.process_index}.pt")
os._exit(0)  # see test_processes.py
"""
KILLED = """
store.SHARD_BYTES, replace, done = 20_000, os.replace, []

def kill_at_the_third(source, target):
    if target.name.startswith("shard-"):
        done.append(target)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = kill_at_the_third
distil(args, folder).train()
"""


def distil(args, folder=None):
    """A trainer whose teacher is kept in the folder, if there is one."""
    teacher = tiny_model(BertForMaskedLM)
    return DistillationTrainer(
        model=build_student(teacher, student_config(teacher.config, num_hidden_layers=2)),
        args=args,
        teacher_model=teacher,
        alignments=methods.lightmbert(student_layers=2, teacher_layers=4),
        train_dataset=ragged_examples(),
        data_collator=pad_batch,
        teacher_cache=None if folder is None else TeacherCache(folder=f"{folder}/cache", dtype="float32"),
    )


def forwards(trainer):
    """A list that gets the size of every batch that the teacher computes."""
    seen = []
    embeddings = trainer.teacher.model.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


def run(tmp_path, script, launcher):
    path = tmp_path / "run.py"
    path.write_text(HEAD + script)
    here = os.path.dirname(__file__)
    python_path = os.pathsep.join([here, os.path.dirname(here), os.path.dirname(os.path.dirname(here))])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}
    command = [sys.executable, *launcher, str(path), str(tmp_path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def plain_args(make_args):
    options = {"max_steps": -1, "num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0}
    return make_args(**options)


@pytest.mark.slow
def test_two_processes_share_a_cache(make_args, tmp_path):
    expected = distil(plain_args(make_args))
    expected.train()
    result = run(tmp_path, TWO, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"])
    assert result.returncode == 0, result.stderr[-4000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["weights"], second["weights"])
    plain = flat_weights(expected.model)
    assert (first["weights"] - plain).norm() <= 1e-5 * plain.norm()
    for found in (first, second):
        filling, reading = found["runs"]
        assert 16 <= filling[0] <= 32
        assert reading == (0, 0)
    reader = distil(plain_args(make_args), tmp_path)
    seen = forwards(reader)
    reader.train()
    assert not seen


def test_a_run_that_is_killed_while_it_writes_leaves_whole_shards(make_args, tmp_path):
    result = run(tmp_path, KILLED, [])
    assert result.returncode == -signal.SIGKILL, result.stderr[-4000:]
    assert len(list((tmp_path / "cache").glob("shard-*"))) == 2
    assert list((tmp_path / "cache").glob(".shard-*.tmp"))
    expected, resumed = distil(plain_args(make_args)), distil(plain_args(make_args), tmp_path)
    expected.train()
    seen = forwards(resumed)
    resumed.train()
    assert 0 < sum(seen) < 32
    plain = flat_weights(expected.model)
    assert (flat_weights(resumed.model) - plain).norm() <= 1e-6 * plain.norm()
