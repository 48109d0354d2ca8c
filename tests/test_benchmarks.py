import importlib
import json
from pathlib import Path

import pytest
import torch
from conftest import ragged_examples, tiny_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForMaskedLM

from distil_trainer import Alignment, DistillationTrainer, build_student, student_config

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Imports modules of the folder, with everything in this process."""
    monkeypatch.syspath_prepend(str(FOLDER))
    measure = importlib.import_module("measure")
    monkeypatch.setattr(measure, "launch", lambda function, *args, threads=None: function(*args))
    return importlib.import_module


def test_the_command_saves_what_it_prints(load, tmp_path, capsys):
    path = tmp_path / "peers.json"
    load("peers").main(["--size", "tiny", "--only", "ours", "matrix-products", "--out", str(path)])
    saved = json.loads(path.read_text())
    assert list(saved["contenders"]) == ["ours", "matrix-products"]
    ours = saved["contenders"]["ours"]
    assert len(ours["seconds"]) == saved["rounds"] == 1
    assert ours["seconds"][0][0] > 0
    assert ours["peak_bytes"][0] > 2**20
    assert ours["norm_ratio"] == pytest.approx(1, abs=1e-4)
    assert ours["difference"] < 1e-4
    assert 0 <= ours["never_updated"] < ours["tensors"]
    assert saved["times_the_matrix_products"]["ours"][0] > 1
    assert {"date", "cpu", "versions"} <= set(saved)
    printed = capsys.readouterr().out
    assert "| ours, dropout 0 | float32 |" in printed
    assert "| matrix products only |" in printed

    pytest.importorskip("matplotlib")
    memory = tmp_path / "memory.json"
    curves = {"ours, attention mse": [{"length": 128, "bytes": 2**20}, {"length": 256, "left_out": "too much"}]}
    memory.write_text(json.dumps({**saved, "curves": curves}))
    picture = tmp_path / "both.png"
    load("picture").main(["--peers", str(path), "--memory", str(memory), "--out", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_pipeline_is_measured_from_the_corpus_to_the_batches(load, tmp_path, capsys):
    path = tmp_path / "pipeline.json"
    sizes = ["--files", "2", "--megabytes", "1", "--length", "64", "--rounds", "1"]
    load("pipeline").main(["--out", str(path), *sizes])
    saved = json.loads(path.read_text())
    parts = ("reading", "tokenising", "grouping", "prepared, together")
    prepared = [(part, processes) for processes in (1, 2) for part in parts]
    batches = [(f"batches of {rows}", workers) for rows in ("prepared rows", "the stream") for workers in (0, 2)]
    assert [(row["what"], row["workers"]) for row in saved["pipeline"]] == prepared + batches
    assert all(row["seconds"] > 0 for row in saved["pipeline"])
    tokens = [row["tokens"] / (10 if "prepared rows" in row["what"] else 1) for row in saved["pipeline"]]
    whole = tokens[0]
    assert whole > 5_000
    assert all(whole - 3 * 64 < count <= whole for count in tokens)  # a worker drops what does not fill its last row
    assert {"date", "cpu", "versions"} <= set(saved)
    assert len(capsys.readouterr().out.splitlines()) == 2 + 12


def test_the_overhead_is_measured_in_three_ways(load, tmp_path, capsys):
    path = tmp_path / "overhead.json"
    threads = torch.get_num_threads()
    load("overhead").main(["--out", str(path), "--size", "tiny", "--steps", "2"])
    torch.set_num_threads(threads)
    saved = json.loads(path.read_text())
    ways = ["a loop of one's own", "Trainer", "DistillationTrainer"]
    assert len(saved["turns"]) == 2
    assert all(sorted(turn[kind]) == sorted(ways) for turn in saved["turns"] for kind in ("clock", "cpu"))
    assert saved["over the loop"][ways[0]] == {"clock": [0.0] * 3, "cpu": [0.0] * 3}
    assert "| DistillationTrainer | 0.0" in capsys.readouterr().out


def test_the_three_ways_are_the_same_training(load, monkeypatch):
    overhead, job = load("overhead"), load("job")
    students, models = [], overhead.models

    def keep(*args, **kwargs):
        teacher, student = models(*args, **kwargs)
        students.append(student)
        return teacher, student

    monkeypatch.setattr(overhead, "models", keep)
    plan = job.Plan(job=job.SIZES["tiny"], steps=3, learning_rate=1e-3)
    for way in overhead.WAYS.values():
        way(plan, lambda: None)
    first, *others = [torch.cat([p.detach().flatten() for p in student.parameters()]) for student in students]
    for other in others:
        assert torch.allclose(other, first, rtol=1e-4, atol=1e-5)


def test_one_that_fails_costs_the_others_nothing(load, monkeypatch, capsys):
    peers, job = load("peers"), load("job")

    def launch(function, name, *args, threads=None):
        if name == "ours":
            raise RuntimeError("no memory")
        return {"seconds": [2.0], "peak_bytes": 1, "threads": 1}

    monkeypatch.setattr(peers.measure, "launch", launch)
    plan = job.Plan(job=job.SIZES["tiny"], steps=1)
    found = peers.take_turns(["ours", "matrix-products"], plan, 2, None)
    assert found["ours"]["error"] == "RuntimeError: no memory"
    assert found["matrix-products"]["seconds"] == [[2.0], [2.0]]
    assert "ours" not in peers.table(found, plan)
    assert "ours failed" in capsys.readouterr().out


def test_bf16_and_dropout_run_too(load):
    job, measure = load("job"), load("measure")
    plan = job.Plan(job=job.SIZES["tiny"], steps=2)
    for name in ("ours-bf16", "ours-dropout"):
        assert len(measure.seconds_and_peak(name, plan)["seconds"]) == 2


def test_a_point_beyond_the_budget_is_left_out(load, monkeypatch):
    memory = load("memory")
    monkeypatch.setattr(memory.measure, "launch", lambda f, name, plan, threads: plan.job.length**2)
    points = memory.curve("ours", "mse", (2, 4, 8, 16), 100, "cpu", None)
    assert points[:3] == [{"length": 2, "bytes": 4}, {"length": 4, "bytes": 16}, {"length": 8, "bytes": 64}]
    assert list(points[3]) == ["length", "left_out"]


def test_needed_flops_are_those_of_the_formula(load):
    job = load("job")
    sizes = job.SIZES["reference"]
    width, length = sizes.width, sizes.length
    block = 2 * (4 * width**2 + 2 * width * sizes.intermediate) + 4 * length * width
    last = 2 * 2 * width**2 + 2 * length * width
    teacher, student = (block * (layers - 1) + last for layers in (12, 6))
    assert job.needed_flops(sizes) == sizes.tokens * (teacher + 3 * student)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", ["textbrewer", "textbrewer-tuned"])
def test_textbrewer_does_the_same_job(load, peer):
    pytest.importorskip("textbrewer")
    contenders, job = load("contenders"), load("job")
    plan = job.Plan(job=job.SIZES["tiny"], steps=1, dropout=0.0, optimizer="sgd", learning_rate=1.0)
    updates = []
    for name in ("ours", peer):
        student, train = contenders.CONTENDERS[name].build(plan)
        parameters = list(student.base_model.parameters())
        before = [p.detach().clone() for p in parameters]
        train(lambda: None)
        updates.append(torch.cat([(p.detach() - old).flatten() for p, old in zip(parameters, before, strict=True)]))
    assert (updates[1] - updates[0]).norm() < 1e-5 * updates[0].norm()


def test_the_arithmetic_of_scale_is_that_of_a_real_step(load, make_args):
    """The matrix products that torch counts in a step of a small job, with attention written out."""
    scale = load("scale")
    teacher = tiny_model(BertForMaskedLM, attn_implementation="eager")
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
    student.set_attn_implementation("eager")
    trainer = DistillationTrainer(
        model=student,
        args=make_args(),
        teacher_model=teacher,
        alignments=[
            Alignment(feature="hidden_states", student_layer=1, teacher_layer=3),
            Alignment(feature="attention_probs", student_layer=2, teacher_layer=4),
        ],
        train_dataset=ragged_examples(),
    )
    batch = {"input_ids": torch.full((3, 16), 7), "attention_mask": torch.ones(3, 16, dtype=torch.long)}
    with FlopCounterMode(display=False) as counter:
        trainer.compute_loss(student, batch).backward()
    sizes = {"width": 32, "intermediate": 48, "vocabulary": 99, "length": 16}
    size = scale.Size(teacher_layers=4, student_layers=2, **sizes)
    expected = sum(scale.operations(size).values()) * batch["input_ids"].numel()
    assert counter.get_total_flops() == expected
    assert size.block_parameters == sum(p.numel() for p in student.bert.encoder.layer[0].parameters())
    whole = scale.Size()
    assert whole.embedding_parameters + 6 * whole.block_parameters == pytest.approx(134.7e6, rel=1e-3)


def test_the_tables_of_scale(load, tmp_path, capsys):
    load("scale").main(["--out", str(tmp_path / "scale.json")])
    printed = capsys.readouterr().out
    assert "| MFLOP a token | teacher, forward |" in printed
    saved = json.loads((tmp_path / "scale.json").read_text())
    one, eight = (saved["jobs"][name] for name in ("9 GB, 1 GPU", "9 GB, 8 GPUs, NVLink at 200 GB/s"))
    assert eight["hours at worst"] < one["hours at worst"]
    assert eight["gpu hours at worst"] > one["gpu hours at worst"]
    assert (
        saved["memory"]["FSDP2, 8"]["student, gradients, AdamW"] * 8
        == saved["memory"]["DDP, 1"]["student, gradients, AdamW"]
    )


def test_a_step_of_two_processes_beside_what_it_is_made_of(load):
    processes = load("processes")
    plan = load("job").Plan(job=load("job").SIZES["tiny"], steps=2)
    steps = processes.train(plan, 1)
    assert len(steps) == 2
    assert all(wall > 0 for wall, _ in steps)
    seconds = dict(zip(processes.ROWS_OF_TABLE, (0.4, 0.3, 0.25, 0.2, 0.04), strict=True))
    told = processes.told({name: [(least, 0.1), (2 * least, 0.1)] for name, least in seconds.items()})
    assert "| 2 processes of 1 thread | 250 | 375 |" in told
    assert told.endswith("gradients' way together: 240 ms; two processes took 250 ms (1.04 times).")
