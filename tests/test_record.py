import dataclasses
import json
import os
import re
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaModel, TrainingArguments
from transformers.integrations import CodeCarbonCallback

from distil_trainer import Alignment
from distil_trainer.errors import RecordError
from distil_trainer.facts import (
    alignment_facts,
    all_arguments,
    changed_arguments,
    command,
    git_commit,
    hardware,
    hub_id,
    loss_curve,
    measured_emissions,
    model_facts,
    now,
    peak_memory_gib,
    versions,
)
from distil_trainer.plain import without_paths
from distil_trainer.record import Emissions, Evaluation, ModelFacts, Record

# Put together here, so that no scanner takes this file for a leak.
TOKEN = "hf_" + "aB3" * 10


def evaluation(**changes):
    facts = {"role": "student", "task_type": "token-classification", "dataset_name": "SUCX", "metric_type": "f1"}
    return Evaluation(**{**facts, "values": {100: 0.8, 101: 0.9}, **changes})


def full_record(**changes):
    model = {"name": "m", "id": "me/m", "revision": "abc", "license": "mit", "language": ["sv"], "layers": 2}
    facts = {
        "stage": "distill",
        "student": model,
        "teacher": ModelFacts(name="t", layers=4),
        "provenance": {
            "teacher": "t",
            "revision": None,
            "teacher_layers": 4,
            "copied_blocks": (1, 2),
            "frozen": (),
            "kept_pieces": 5,
            "teacher_pieces": 9,
            "kept_units": {"heads": (2, 4)},
            "units_chosen_by": "importance on 36 tokens",
        },
        "method": "lightmbert",
        "alignments": [{"name": "logits", "feature": "logits", "loss": "kl", "temperature": 2}],
        "task_weight": 0,
        "balanced": True,
        "teacher_dtype": "bfloat16",
        "teacher_cache": "float16",
        "top_logits": 64,
        "never_trained": {"cls.bias": 0.01},
        "data": [{"name": "Åäö", "role": "train", "hub_id": "me/text", "language": ("sv",), "tokens": 5}],
        "hyperparameters": {"learning_rate": np.float32(0.5), "list": [1, (2, None)], "nested": {"a": True}},
        "versions": {"torch": "2"},
        "hardware": {"cpu": "c", "gpus": ["g"]},
        "date": "2026-01-31T12:00:00+00:00",
        "seconds": np.float64(1.5),
        "steps": np.int64(10),
        "loss_curve": {"loss": [[1, 0.5], [2, 0.25]]},
        "seeds": [100],
        "evaluations": [evaluation()],
        "speed": {
            "student": [
                {
                    "ms_per_batch": 1,
                    "batch_size": 8,
                    "length": 128,
                    "threads": 2,
                    "dtype": "float32",
                    "hardware": "c",
                }
            ]
        },
    }
    return Record(**{**facts, **changes})


def test_a_record_comes_back_as_it_was_saved(tmp_path):
    record = full_record()
    record.save(tmp_path / "new" / "record.json")
    assert Record.load(tmp_path / "new" / "record.json") == record
    assert record.evaluations[0].values == {100: 0.8, 101: 0.9}


def test_the_file_is_sorted_strict_json_with_a_schema(tmp_path):
    full_record().save(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert content["schema"] == 1
    assert text == json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert "Åäö" in text


def test_numbers_are_plain_python():
    record = full_record()
    assert [type(v) for v in (record.seconds, record.steps, record.task_weight)] == [float, int, float]
    assert type(record.hyperparameters["learning_rate"]) is float
    assert record.hyperparameters["list"] == [1, [2, None]]


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    full_record().save(tmp_path / "r.json")
    before = (tmp_path / "r.json").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        full_record(steps=11).save(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["r.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stpes": 1}, r"unknown field 'stpes'; expected stage, student"),
        ({"steps": "10"}, r"Record\.steps: expected a whole number; came '10' \(str\)"),
        ({"steps": 1.0}, r"Record\.steps: expected a whole number"),
        ({"steps": True}, r"Record\.steps: expected a whole number"),
        ({"student": {"name": "x", "layers": "6"}}, r"Record\.student\.layers: expected a whole number; came '6'"),
        ({"student": {}}, r"Record\.student: the field 'name' is missing"),
        ({"stage": "other"}, r"Record\.stage: expected 'adapt' or 'distill' or 'finetune' or 'prepare'; came 'other'"),
        ({"schema": 2}, r"schema: expected .*`schema` 1.*; came 2"),
        (
            {"data": [{"name": "x", "role": "test"}]},
            r"Record\.data\[0\]\.role: expected 'train' or 'unlabelled' or 'evaluation'",
        ),
        ({"loss_curve": {"loss": [[1]]}}, r"Record\.loss_curve\['loss'\]\[0\]"),
    ],
)
def test_load_names_file_field_and_what_came(tmp_path, change, message):
    full_record().save(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(RecordError, match=rf"r\.json cannot be read as a record: .*{message}"):
        Record.load(tmp_path / "r.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", '{"schema": 1, "stage": "distill", "seconds": NaN}'])
def test_load_refuses_what_is_no_record(tmp_path, text):
    (tmp_path / "r.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RecordError, match=r"r\.json cannot be read"):
        Record.load(tmp_path / "r.json")


def test_load_of_a_missing_file_is_our_error(tmp_path):
    with pytest.raises(RecordError, match=r"none\.json cannot be read"):
        Record.load(tmp_path / "none.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
@pytest.mark.parametrize(
    "field",
    [lambda v: {"seconds": v}, lambda v: {"hyperparameters": {"a": [v]}}, lambda v: {"loss_curve": {"l": [[1, v]]}}],
)
def test_numbers_that_json_cannot_hold_are_refused(field, value):
    with pytest.raises(RecordError, match=r"expected a finite number; came (nan|inf)"):
        full_record(**field(value))


@pytest.mark.parametrize(
    "change",
    [
        {"command": f"python x.py --token={TOKEN}"},
        {"hyperparameters": {"a": {"b": ["x", TOKEN]}}},
        {"hyperparameters": {TOKEN: 1}},
        {"versions": {"torch": TOKEN}},
        {"data": [{"name": "x", "role": "train", "description": f"read with {TOKEN}"}]},
        {"loss_curve": {TOKEN: []}},
    ],
)
def test_a_token_never_gets_in_and_is_not_repeated(change):
    with pytest.raises(RecordError, match="access token") as caught:
        full_record(**change)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("python /home/me/run.py model=/data/x/teacher,~/a/b", "python run.py model=teacher,b"),
        ("/home/me", "~"),
        ("file:///srv/me/x", "x"),
        (r"C:\Users\me\x.txt", "x.txt"),
        (
            "google/bert loss/task https://a.b/c/d and/or 3 / 4 ./x/y",
            "google/bert loss/task https://a.b/c/d and/or 3 / 4 ./x/y",
        ),
    ],
)
def test_absolute_paths_are_cut(text, public):
    assert without_paths(text) == public
    assert full_record(command=text).command == public


def test_a_home_anywhere_is_cut_like_one_under_home(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/anna")
    assert without_paths("read /srv/people/anna, /srv/people/anna/x") == "read ~, x"
    assert command(["run.py", "out=/srv/people/anna"]) == "python run.py 'out=~'"


@pytest.mark.parametrize("bad", ["/a/b", "./a", "a/b/c", "a b", "", "a--b"])
def test_a_hub_id_must_be_one(bad):
    with pytest.raises(RecordError, match="expected a Hub id"):
        ModelFacts(name="x", id=bad)


def test_languages_are_codes():
    assert ModelFacts(name="x", language=["sv", "multilingual"]).language == ("sv", "multilingual")
    with pytest.raises(RecordError, match="came 'Swedish'"):
        ModelFacts(name="x", language=["Swedish"])


def test_a_licence_is_an_identifier():
    with pytest.raises(RecordError, match="came 'Apache 2'"):
        ModelFacts(name="x", license="Apache 2")


@pytest.mark.parametrize("date", ["yesterday", "2026-01-31T12:00:00", "2026-01-31T12:00:00+01:00"])
def test_the_date_is_utc(date):
    with pytest.raises(RecordError, match="UTC"):
        full_record(date=date)


def test_mean_and_sample_deviation():
    assert evaluation().mean == pytest.approx(0.85)
    assert evaluation().sd == pytest.approx(0.0707106781)
    assert evaluation(values={1: 0.5}).sd is None
    assert evaluation(values={}, value=0.25).mean == 0.25
    for wrong in ({"values": {}}, {"value": 0.5}):
        with pytest.raises(RecordError, match="either `values` per seed or one `value`"):
            evaluation(**wrong)


def test_only_changed_arguments_and_nothing_private(tmp_path):
    args = TrainingArguments(
        output_dir=str(tmp_path),
        run_name="secret run",
        learning_rate=1e-4,
        lr_scheduler_type="cosine",
        lr_scheduler_kwargs={"num_cycles": 1},
        seed=100,
        use_cpu=True,
        hub_token=TOKEN,
        hub_model_id="me/private",
        report_to=[],
    )
    assert changed_arguments(args) == {
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 1},
        "seed": 100,
        "use_cpu": True,
    }
    assert Record(stage="distill", hyperparameters=changed_arguments(args)).hyperparameters["seed"] == 100


def test_all_arguments_are_those_that_are_set_and_nothing_private(tmp_path):
    arguments = all_arguments(TrainingArguments(output_dir=str(tmp_path), hub_token=TOKEN, use_cpu=True))
    assert arguments["learning_rate"] == 5e-5
    assert None not in arguments.values()
    assert not {"output_dir", "hub_token", "run_name", "report_to"} & arguments.keys()
    assert Record(stage="distill", arguments=arguments).arguments == arguments


def test_what_differs_is_found_without_making_other_arguments(tmp_path, monkeypatch):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    # Making an instance resets the state of accelerate, which a run that is being recorded still needs.
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: pytest.fail("an instance was made"))
    assert changed_arguments(args) == {"use_cpu": True}


def test_the_commit_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None
    (tmp_path / "a").write_text("1")
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "a"], [*who, "commit", "-qm", "c"]):
        subprocess.run(["git", *words], check=True)
    commit = git_commit()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "untracked").write_text("2")
    assert git_commit() == commit
    (tmp_path / "a").write_text("2")
    assert git_commit() == f"{commit}-dirty"


def test_the_peak_of_memory_is_of_this_process():
    assert 0.05 < peak_memory_gib() < 100


def test_emissions_are_those_that_codecarbon_measured():
    class Tracker:
        final_emissions_data = SimpleNamespace(emissions=0.0125, energy_consumed=0.5, country_name="Sweden")

    callback = CodeCarbonCallback.__new__(CodeCarbonCallback)  # codecarbon itself is not installed
    callback.tracker = Tracker()
    assert measured_emissions([object(), callback]) == Emissions(co2_grams=12.5, energy_kwh=0.5, country="Sweden")
    callback.tracker = None
    assert measured_emissions([callback]) is None


def test_facts_of_a_model(tmp_path):
    config = BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    model.save_pretrained(tmp_path)
    facts = model_facts(model, name="tiny", id="me/tiny", license="mit", folder=tmp_path)
    assert facts == ModelFacts(
        name="tiny",
        id="me/tiny",
        license="mit",
        class_name="BertForMaskedLM",
        model_type="bert",
        layers=2,
        hidden_size=8,
        heads=2,
        vocabulary=50,
        max_length=32,
        parameters=sum(p.numel() for p in model.parameters()),
        embedding_parameters=(50 + 32 + 2) * 8,
        block_parameters=sum(p.numel() for p in model.bert.encoder.layer.parameters()),
        dtype="float32",
        bytes_on_disk=(tmp_path / "model.safetensors").stat().st_size,
    )


def test_maximum_length_leaves_out_the_padding_rows():
    config = RobertaConfig(
        vocab_size=20, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4,
        max_position_embeddings=34,
    )  # fmt: skip
    assert model_facts(RobertaModel(config), name="r").max_length == 32


def test_facts_of_the_machine_hold_no_names(monkeypatch):
    record = Record(stage="distill", versions=versions(), hardware=hardware(), date=now())
    assert record.versions.keys() >= {"python", "torch", "transformers"}
    assert record.hardware.cores >= 1
    text = json.dumps(dataclasses.asdict(record))
    assert os.uname().nodename not in text


def test_the_command_shows_no_secret():
    words = ["/home/me/distil/recipes/distill.py", f"hub_token={TOKEN}", "--token", TOKEN, "lr=1e-4", "api_key=abc"]
    assert command(words) == "python distill.py hub_token=REDACTED --token REDACTED lr=1e-4 api_key=REDACTED"
    words = ["recipes/distill.py", "task=token-classification", "recipes/a b.yaml", "max_tokens=5", "seeds=[1, 2]"]
    assert command(words) == (
        "python recipes/distill.py task=token-classification 'recipes/a b.yaml' max_tokens=5 'seeds=[1, 2]'"
    )


def test_a_path_with_spaces_leaves_no_name_behind_in_the_command():
    words = ["run.py", "/home/anna smith/my data/f.yaml", "out=C:\\Users\\anna smith\\x y", "data=['/home/anna/a.txt']"]
    shown = command(words)
    assert "anna" not in shown
    assert shown == "python run.py f.yaml 'out=x y' 'data=['\"'\"'a.txt'\"'\"']'"


def test_the_loss_curve_is_read_from_the_log():
    history = [
        {"loss": 0.5, "loss/hidden_states_s1_t2": 0.25, "grad_norm": 1.0, "step": 1},
        {"loss": float("nan"), "loss/hidden_states_s1_t2": 0.125, "step": 2},
        {"eval_loss": 0.75, "eval_runtime": 1.0, "step": 2},
    ]
    curve = loss_curve(history)
    term = "loss/hidden_states_s1_t2"
    assert curve == {"loss": ((1, 0.5),), term: ((1, 0.25), (2, 0.125)), "eval_loss": ((2, 0.75),)}
    assert Record(stage="distill", loss_curve=curve).loss_curve["loss"] == ((1, 0.5),)


def test_a_folder_is_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "runs" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert [hub_id(n) for n in ("google/bert", "runs/teacher", str(tmp_path), None)] == [
        "google/bert",
        None,
        None,
        None,
    ]


def test_alignments_are_recorded_with_their_names():
    assert (
        Record(stage="distill", alignments=alignment_facts([Alignment(feature="logits", loss="kl")])).alignments[0].name
        == "logits"
    )
