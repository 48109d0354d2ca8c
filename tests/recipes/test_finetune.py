"""Fine-tuning through its script, with tiny models: every recipe, every task, and what is kept of finished runs."""

import json
import weakref

import pytest
import yaml
from conftest import word_tokenizer
from datasets import Dataset
from tiny_runs import QUIET, ROOT, WORDS, save_model, script, write_lines
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertForPreTraining, Trainer

from distil_trainer import Record, build_student, render_card
from distil_trainer.errors import DataError, RecipeError
from distil_trainer.metadata import check_metadata
from distil_trainer.recipe import FinetuneRecipe, load_recipe
from distil_trainer.record import ModelFacts
from distil_trainer.vocabulary import trim_vocabulary

FINETUNE = sorted((ROOT / "recipes").rglob("finetune*.yaml"))
SHORT = (*QUIET, "training.max_steps=1", "training.save_strategy='no'", "max_length=32")

LESSON = {"alignments": [{"feature": "logits", "loss": "kl", "positions": "labels"}]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def sentences(tmp_path):
    """Sentences of which two words are entities, of two types."""
    tags = [{"copy": "B-PER", "order": "B-LOC"}.get(word, "O") for word in WORDS]
    rows = [{"id": str(i), "tokens": WORDS[i % 5 :], "ner_tags": tags[i % 5 :]} for i in range(40)]
    return write_lines(tmp_path / "ner.jsonl", rows)


@pytest.fixture
def pairs(tmp_path):
    """Pairs of texts with a class and a score."""
    rows = [
        {"one": " ".join(WORDS[i % 9 :]), "two": " ".join(WORDS[i % 7 :]), "label": "ab"[i % 2], "score": i / 8}
        for i in range(40)
    ]
    return write_lines(tmp_path / "pairs.jsonl", rows)


@pytest.fixture
def finetune(tmp_path):
    """Calls the script on a recipe with two models, and gives the record."""
    models = {role: str(save_model(tmp_path / role, blocks=2)) for role in ("teacher", "student")}

    def call(recipe, *overrides):
        path = tmp_path / "finetune.yaml"
        folder = tmp_path / "runs"
        path.write_text(yaml.safe_dump({"models": models, "seeds": [1, 2], "output_dir": str(folder), **recipe}))
        script("finetune").main(str(path), [*SHORT, *overrides])
        return Record.load(folder / "finetune.json")

    return call


def ner(sentences, **data):
    return {"data": {"name": "Sentences", "train": [str(sentences)], "test": [str(sentences)], **data}}


@pytest.mark.parametrize("path", FINETUNE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_runs(path, tmp_path, sentences, capsys):
    recipe = load_recipe(FinetuneRecipe, path)
    models = {role: str(save_model(tmp_path / role, blocks=2)) for role in recipe.models}
    file = sentences
    if recipe.task != "token-classification":
        texts = dict.fromkeys(recipe.data.text_columns, WORDS[0])
        file = write_lines(tmp_path / "texts.jsonl", [{**texts, recipe.data.label_column: i % 2} for i in range(40)])
    overrides = [f"models={json.dumps(models)}", f"data.train=[{file}]", f"data.test=[{file}]"]
    overrides += ["also_test=[]", "seeds=[1]", f"output_dir={tmp_path / 'out'}"]
    if recipe.task_stage is not None and recipe.task_stage.unlabelled is not None:
        others = write_lines(tmp_path / "others.jsonl", [{"tokens": WORDS[:4]}])
        overrides.append(f"task_stage.unlabelled.files=[{others}]")
    if recipe.task_stage is not None and recipe.task_stage.teacher_cache is not None:
        overrides.append(f"task_stage.teacher_cache.folder={tmp_path / 'kept'}")
    script("finetune").main(str(path), [*overrides, *SHORT])
    record = Record.load(tmp_path / "out" / "finetune.json")
    assert [evaluation.role for evaluation in record.evaluations][: len(models)] == list(models)
    assert all(set(evaluation.values) == {1} for evaluation in record.evaluations)
    # All folders hold the same weights: what differs between models is the models alone.
    assert len({(e.metric_name, *e.values.values()) for e in record.evaluations}) * len(models) == len(
        record.evaluations
    )
    assert set(record.speed) == set(models)
    assert f"teacher, seed 1: {record.evaluations[0].metric_name}" in capsys.readouterr().out


def test_the_hubs_conversion_to_parquet_is_read(tmp_path, monkeypatch):
    """A folder laid out as KBLab/sucx3_ner is at refs/convert/parquet, in its place."""
    monkeypatch.chdir(tmp_path)
    for config in ("original_cased", "simple_cased"):
        for split, count in (("train", 20), ("validation", 10), ("test", 5)):
            folder = tmp_path / "KBLab" / "sucx3_ner" / config / split
            folder.mkdir(parents=True)
            rows = {"tokens": [WORDS] * count, "ner_tags": [["B-person"] + ["O"] * (len(WORDS) - 1)] * count}
            Dataset.from_dict(rows).to_parquet(folder / "0000.parquet")
    models = {"student": str(save_model(tmp_path / "student", blocks=1))}
    overrides = [f"models={json.dumps(models)}", "seeds=[1]", f"output_dir={tmp_path / 'out'}"]
    script("finetune").main(str(ROOT / "recipes" / "swedish_mbert" / "finetune_sucx3.yaml"), [*overrides, *SHORT])
    record = Record.load(tmp_path / "out" / "finetune.json")
    assert [(facts.split, facts.examples) for facts in record.data] == [("train+validation", 30), ("test", 5)]
    assert record.evaluations[0].dataset_revision == "refs/convert/parquet"  # the commit, where the Hub can be asked


def test_finished_runs_are_taken_over_when_asked_and_unchanged(finetune, sentences, tmp_path, capsys):
    recipe, scores = ner(sentences), tmp_path / "runs" / "scores"
    full = finetune(recipe)
    with pytest.raises(RecipeError, match="resume=true"):
        finetune(recipe)

    (scores / "student-2.json").unlink()  # as if interrupted in the last run
    capsys.readouterr()
    resumed = finetune(recipe, "resume=true", "training.logging_steps=1")
    out = capsys.readouterr().out
    assert out.count("taken over from") == 3
    assert out.count("train_runtime") == 1
    assert resumed.evaluations == full.evaluations
    assert resumed.seeds == (1, 2)

    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "student")
    model.bert.embeddings.word_embeddings.weight.data[0] += 1
    model.save_pretrained(tmp_path / "student")
    capsys.readouterr()
    finetune(recipe, "resume=true")
    out = capsys.readouterr().out
    assert out.count("taken over from") == 2
    assert f"student, seed 1: trained again; this is not as it was for {scores / 'student-1.json'}: weights" in out

    changed = ("resume=true", "seeds=[1]", "training.learning_rate=1.0e-3", "max_length=9")
    finetune(recipe, *changed)
    out = capsys.readouterr().out
    assert out.count("data of train, data of test, training.learning_rate\n") == 2

    finetune(recipe, *changed, "save_models=true")
    assert capsys.readouterr().out.count(": the saved model (there is none)\n") == 2
    assert (tmp_path / "runs" / "teacher-1" / "model.safetensors").exists()


def test_other_data_is_scored_with_types_of_its_own(finetune, sentences, tmp_path):
    rows = [{"words": WORDS[:12], "tags": ["O"] * 9 + ["B-person", "I-person", "B-work"]}]
    other = write_lines(tmp_path / "other.jsonl", rows)
    also = {"name": "Other", "test": [str(other)], "tokens_column": "words", "tags_column": "tags", "license": "mit"}
    recipe = ner(sentences, validation=[str(sentences)], max_train_examples=30, train_splits=["train", "validation"])
    with pytest.raises(DataError, match=r"also_test Other of Other: expected tags of \['O', 'B-LOC', 'B-PER'\]"):
        finetune(recipe | {"also_test": [also]})

    tags = [{**json.loads(line)} for line in sentences.read_text().splitlines()]
    write_lines(sentences, [row | {"ner_tags": [*row["ner_tags"][:-1], "I-PER"]} for row in tags])
    also |= {"rename_types": {"person": "PER"}, "keep_types": ["PER"]}
    record = finetune(recipe | {"also_test": [also]}, "training.eval_strategy=epoch", "seeds=[1]")
    names = [(e.dataset_name, e.dataset_split, e.metric_name) for e in record.evaluations]
    assert names[::2] == [
        ("Sentences", "test", "F1 (seqeval)"),
        ("Sentences", "validation", "F1 (seqeval)"),
        ("Other", "test", "F1 (seqeval), PER only"),
    ]
    train, *_, last = record.data
    assert (train.role, train.split, train.examples) == ("train", "train+validation", 30)
    assert train.filtering == "30 of its 40 examples, drawn at random."
    assert last.filtering == "Entity types: person counts as PER; only PER count."
    assert [facts.role for facts in record.data] == ["train"] + ["evaluation"] * 3


@pytest.mark.parametrize(
    ("task", "data", "metrics"),
    [
        ("text-classification", {"text_columns": ["one"]}, [("accuracy", "Accuracy"), ("f1", "F1 (macro)")]),
        ("text-classification", {"text_columns": ["one", "two"]}, [("accuracy", "Accuracy"), ("f1", "F1 (macro)")]),
        (
            "sentence-similarity",
            {"text_columns": ["one", "two"], "label_column": "score"},
            [("spearmanr", "Spearman's correlation")],
        ),
    ],
)
def test_tasks_on_texts(finetune, pairs, tmp_path, task, data, metrics):
    data |= {"name": "Pairs", "train": [str(pairs)], "test": [str(pairs)]}
    record = finetune({"task": task, "data": data}, "save_models=true", "seeds=[1]")
    assert [(e.metric_type, e.metric_name) for e in record.evaluations if e.role == "teacher"] == metrics
    assert {e.task_type for e in record.evaluations} == {task}
    check_metadata(render_card(Record(stage="distill", student=ModelFacts(name="small")), record))
    config = json.loads((tmp_path / "runs" / "teacher-1" / "config.json").read_text())
    if task == "sentence-similarity":
        assert config["problem_type"] == "regression"
    else:
        assert config["id2label"] == {"0": "a", "1": "b"}


def test_a_model_with_other_heads_is_fine_tuned(finetune, sentences, tmp_path, capsys):
    save_model(tmp_path / "teacher", BertForPreTraining, blocks=2)
    record = finetune(ner(sentences, validation_split="dev"), "seeds=[1]")  # no files of that split
    assert [facts.split for facts in record.data] == ["train", "test"]
    captured = capsys.readouterr()
    assert "teacher: " in captured.out
    assert captured.out.count("starts from random weights: classifier.bias, classifier.weight\n") == 2
    assert "LOAD REPORT" not in captured.out + captured.err


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_all_models_see_the_data_in_the_same_order(finetune, sentences, tmp_path, monkeypatch, strategy):
    save_model(tmp_path / "teacher", blocks=4)
    for role in ("teacher", "student"):  # the deeper one draws more random numbers
        config = tmp_path / role / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_dropout_prob": 0.1}))
    seen, step = [], Trainer.training_step

    def watched(trainer, model, inputs, *args):
        seen[-1].append(inputs["input_ids"].tolist())
        return step(trainer, model, inputs, *args)

    train = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda trainer, *args: seen.append([]) or train(trainer, *args))
    monkeypatch.setattr(Trainer, "training_step", watched)
    finetune(ner(sentences), "training.max_steps=15", f"training.train_sampling_strategy={strategy}")
    one, same, other, _ = seen  # three epochs of five steps; the seeds 1, 1, 2, 2
    assert one == same
    assert one != other
    assert one[:5] != one[5:10] != one[10:]


def test_all_models_compute_attention_as_the_recipe_says(finetune, sentences, monkeypatch):
    found, train = [], Trainer.train

    def watched(trainer, *args):
        taught = [] if getattr(trainer, "teacher", None) is None else [trainer.teacher.model]
        found.extend(model.config._attn_implementation for model in (trainer.model, *taught))
        return train(trainer, *args)

    monkeypatch.setattr(Trainer, "train", watched)
    recipe = {**ner(sentences), "save_models": True, "task_stage": LESSON, "attn_implementation": "eager"}
    finetune(recipe, "seeds=[1]")
    assert found == ["eager"] * 3  # the teacher; the student, and the teacher again
    with pytest.raises(RecipeError, match="resume=true"):
        finetune(recipe, "seeds=[1]")
    finetune(recipe, "seeds=[1]", "resume=true", "attn_implementation=sdpa")
    assert found[3:] == ["sdpa"] * 3  # another rounding: nothing is taken over


def test_a_run_is_gone_when_the_next_begins(finetune, sentences, monkeypatch):
    runs, train = [], Trainer.train

    def watched(trainer, *args):
        assert all(run() is None for run in runs)
        runs.append(weakref.ref(trainer.model))
        return train(trainer, *args)

    monkeypatch.setattr(Trainer, "train", watched)
    finetune(ner(sentences))
    assert len(runs) == 4


def test_labels_that_the_drawn_examples_lack(finetune, sentences, tmp_path, capsys):
    rare = write_lines(tmp_path / "rare.jsonl", [{"tokens": WORDS[:2], "ner_tags": ["B-RARE", "O"]}])
    finetune(ner(sentences, train=[str(sentences), str(rare)], test=[str(rare)], max_train_examples=2), "seeds=[1]")
    assert "2 examples; labels: O, B-LOC, B-PER, B-RARE\n" in capsys.readouterr().out


def test_what_cannot_work_is_refused_before_anything_is_trained(finetune, sentences, tmp_path, capsys):
    with pytest.raises(DataError, match="no file matches nowhere/"):
        finetune(ner(sentences, test=["nowhere/*.jsonl"]))
    with pytest.raises(RecipeError, match=r"data\.validation: expected examples"):
        finetune(ner(sentences), "training.eval_strategy=epoch")
    with pytest.raises(RecipeError, match=r"models\.student: \S+ has no tokenizer"):
        finetune(ner(sentences), f"models.student={tmp_path / 'gone'}")
    with pytest.raises(RecipeError, match="max_length: expected at most 64, as teacher takes; came 65"):
        finetune(ner(sentences), "max_length=65")
    config = tmp_path / "student" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 20}))
    with pytest.raises(RecipeError, match="max_length: expected at most 20"):
        finetune(ner(sentences))
    for file in (tmp_path / "student").glob("token*"):
        file.unlink()  # transformers makes an empty tokenizer of that
    with pytest.raises(RecipeError, match=r"models\.student: \S+ has no tokenizer that can be loaded"):
        finetune(ner(sentences))
    assert "train_runtime" not in capsys.readouterr().out


def test_the_fine_tuned_teacher_teaches(finetune, sentences, tmp_path, capsys):
    recipe = ner(sentences) | {"save_models": True, "seeds": [1]}
    plain = finetune(recipe)
    layers = {"feature": "hidden_states", "student_layer": 2, "teacher_layer": 2}
    taught = recipe | {"task_stage": {"alignments": [*LESSON["alignments"], layers], "task_weight": 0.5}}
    capsys.readouterr()
    record = finetune(taught, "resume=true", "training.logging_steps=1")
    out = capsys.readouterr().out
    assert "teacher, seed 1: F1" in out
    assert out.count("taken over from") == 1
    assert "student-1.json: task_stage, teachers\n" in out
    assert "'loss/logits'" in out
    assert "'loss/hidden_states_s2_t2'" in out
    assert (record.taught, record.task_weight) == (("student",), 0.5)
    assert [facts.name for facts in record.alignments] == ["logits", "hidden_states_s2_t2"]
    assert (plain.taught, plain.alignments, plain.task_weight) == ((), (), None)
    finetune(taught, "resume=true")
    assert capsys.readouterr().out.count("taken over from") == 2

    student = Record(stage="distill", student=ModelFacts(name="student"), teacher=ModelFacts(name="teacher"))
    page = render_card(student, record)
    assert "learned from the fine-tuned teacher while it was fine-tuned itself" in page
    assert "The teacher that was fine-tuned with the same seed taught the student." in page
    assert "learned from the fine-tuned teacher" not in render_card(student, plain)
    both = render_card(student, plain, record)
    assert "taught default)" in both
    assert "taught student: logits, " in both


def test_the_teachers_of_all_seeds_teach_together_and_for_longer(finetune, sentences, monkeypatch, capsys):
    runs, train = [], Trainer.train

    def watched(trainer, *args):
        runs.append((trainer.args.output_dir[-9:], len(getattr(trainer, "teachers", ())), trainer.args.max_steps))
        return train(trainer, *args)

    monkeypatch.setattr(Trainer, "train", watched)
    stage = LESSON | {"teachers": "all_seeds", "training": {"max_steps": 5}}
    taught = ner(sentences) | {"save_models": True, "task_stage": stage}
    record = finetune(taught)
    assert runs == [("teacher-1", 0, 1), ("teacher-2", 0, 1), ("student-1", 2, 5), ("student-2", 2, 5)]
    assert (record.taught_by, record.taught_arguments) == ("all_seeds", {"max_steps": 5})
    assert record.arguments["max_steps"] == 1
    capsys.readouterr()
    finetune(taught, "resume=true", "task_stage.training.max_steps=6", "task_stage.teachers=same_seed")
    said = "trained again; this is not as it was for"
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines() if said in line] == [
        "student, seed 1",
        "student, seed 2",
    ]

    student = Record(stage="distill", student=ModelFacts(name="student"), teacher=ModelFacts(name="teacher"))
    page = render_card(student, record)
    assert (
        "learned from the fine-tuned teachers of all seeds while it was fine-tuned itself, with other settings" in page
    )
    assert "The models were fine-tuned, on the data named below" in page
    assert "with each of the seeds together taught the student, where `max_steps` was `5`." in page


def test_what_the_teachers_predict_is_kept_for_each_seed(finetune, sentences, tmp_path, capsys):
    stage = LESSON | {"teacher_cache": {"folder": str(tmp_path / "kept")}}
    recipe = ner(sentences) | {"save_models": True, "task_stage": stage}
    record = finetune(recipe)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["teacher-1", "teacher-2"]
    assert all(list(folder.glob("shard-*.safetensors")) for folder in (tmp_path / "kept").iterdir())
    assert record.teacher_cache == "bfloat16"
    capsys.readouterr()
    elsewhere = f"task_stage.teacher_cache.folder={tmp_path / 'elsewhere'}"
    finetune(recipe, "resume=true", elsewhere)
    assert capsys.readouterr().out.count("taken over from") == 4
    finetune(recipe, "seeds=[1]", "resume=true", elsewhere, "task_stage.teacher_cache.dtype=float32")
    assert "student-1.json: task_stage\n" in capsys.readouterr().out
    finetune(recipe, "resume=true", "task_stage.teachers=all_seeds")
    together = tmp_path / "kept" / "teacher-1-2"
    assert sorted(path.name for path in together.iterdir()) == ["teacher-1", "teacher-2"]


def test_the_student_learns_from_what_the_teachers_say_of_unlabelled_text(finetune, sentences, tmp_path, capsys):
    """Of the words the labelled sentences have only those that are no entity; that others are, only teachers know."""
    others = [{"tokens": [*WORDS[i % 7 :], "order", "copy"], "ner_tags": "nonsense"} for i in range(40)]
    known = json.loads(sentences.read_text().splitlines()[0])["tokens"]
    file = write_lines(tmp_path / "others.jsonl", [*others, {"tokens": known, "ner_tags": "nonsense"}])
    unlabelled = {"name": "Others", "files": [str(file)]}
    stage = LESSON | {"task_weight": 1.0, "unlabelled": unlabelled, "teachers": "all_seeds"}
    recipe = ner(sentences) | {"save_models": True}
    finetune(recipe | {"task_stage": LESSON})
    capsys.readouterr()
    taught = recipe | {"task_stage": stage}
    record = finetune(taught, "resume=true", "training.logging_steps=1")
    out = capsys.readouterr().out
    assert out.count("taken over from") == 2  # the teachers do not depend on it
    assert "student-1.json: task_stage, teachers, unlabelled\n" in out
    facts = {d.role: d for d in record.data}["unlabelled"]
    assert (facts.name, facts.examples) == ("Others", 40)
    assert facts.filtering == "Left out, because they are labelled or scored on: 1."
    assert {e.dataset_split for e in record.evaluations} == {"test"}
    finetune(taught, "resume=true")
    assert capsys.readouterr().out.count("taken over from") == 4
    fewer = "task_stage.unlabelled.max_examples=30"
    assert {d.role: d for d in finetune(taught, "resume=true", fewer).data}["unlabelled"].examples == 30
    assert "student-1.json: unlabelled\n" in capsys.readouterr().out

    student = Record(stage="distill", student=ModelFacts(name="student"), teacher=ModelFacts(name="teacher"))
    page = render_card(student, record)
    assert "it learned from 40 of Others, with the labels that these teachers together gave them." in page
    assert (
        "- Others, split `train`; 40 examples; labelled by the teacher; for fine-tuning before the evaluation." in page
    )
    assert "also on Others (40)" in render_card(student, finetune(recipe, "resume=true"), record)


def test_the_teacher_alone_is_enough(finetune, sentences, capsys):
    """Without a weight of its labels the student learns the task from what the teacher predicts."""
    stage = {"task_stage": LESSON | {"task_weight": 0.0}, "save_models": True, "seeds": [1]}
    long = ("training.max_steps=60", "training.learning_rate=1.0e-2", "training.logging_steps=60")
    record = finetune(ner(sentences) | stage, *long)
    out = capsys.readouterr().out
    assert "'loss/logits'" in out
    assert "'loss/task'" not in out
    scores = {e.role: e.mean for e in record.evaluations if e.metric_type == "f1"}
    assert scores["teacher"] > 0.9
    assert scores["student"] > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"save_models": False}, r"save_models: expected true: task_stage reads the fine-tuned teacher; came False"),
        ({"models": {"student": "S"}}, r"models: expected teacher too, as task_stage says; came \['student'\]"),
        ({"task_stage": {"alignments": []}}, r"task_stage\.alignments: expected at least one"),
        (
            {"task_stage": LESSON | {"training": {"seed": 3}}},
            r"task_stage\.training\.seed: this is seeds at the top of the recipe; give it there only",
        ),
        (
            {
                "task_stage": {
                    "teachers": "all_seeds",
                    "alignments": [{"feature": "hidden_states", "student_layer": 1, "teacher_layer": 2}],
                }
            },
            r"hidden_states_s1_t2: there are 2 teachers; say whose layer is meant",
        ),
        (
            {"task_stage": LESSON | {"unlabelled": {"name": "Others"}}},
            r"task_stage\.unlabelled\.files: expected at least one path, or a hub_id; came",
        ),
        (
            {"task_stage": LESSON | {"unlabelled": {"name": "Others", "files": ["x.jsonl"], "max_examples": 0}}},
            r"task_stage\.unlabelled\.max_examples: expected at least 1, or null; came 0",
        ),
        (
            {"task": "sentence-similarity", "task_stage": LESSON | {"unlabelled": {"name": "Others", "hub_id": "a/b"}}},
            r"text_columns: expected two columns; came \('text',\)",
        ),
        ({"task_stage": LESSON | {"roles": []}}, r"task_stage\.roles: expected student, undistilled or both"),
        ({"task_stage": LESSON | {"roles": ["teacher"]}}, r"task_stage\.roles\[0\]: expected one of student, undis"),
        ({"task_stage": LESSON | {"task_weight": -1}}, r"task_stage\.task_weight: expected 0 or more; came -1"),
        (
            {"task_stage": {"alignments": [{"feature": "hidden_states", "student_layer": 3, "teacher_layer": 2}]}},
            r"task_stage: student: hidden_states_s3_t2: the student has 2 blocks",
        ),
    ],
)
def test_a_task_stage_that_cannot_be(finetune, sentences, tmp_path, change, message):
    with pytest.raises(RecipeError, match=message):
        finetune(ner(sentences) | {"save_models": True, "task_stage": LESSON} | change)
    assert not (tmp_path / "runs").exists()


def test_a_student_in_a_smaller_vocabulary_is_taught_in_it(finetune, sentences, tmp_path, capsys):
    teacher = AutoModelForTokenClassification.from_pretrained(tmp_path / "teacher")
    trimmed = trim_vocabulary(AutoTokenizer.from_pretrained(tmp_path / "teacher"), [" ".join(WORDS[2:])], coverage=1.0)
    assert len(trimmed.kept_ids) < len(WORDS) + 5
    build_student(teacher, teacher.config, kept_ids=trimmed.kept_ids).save_pretrained(tmp_path / "student")
    trimmed.tokenizer.save_pretrained(tmp_path / "student")
    finetune(ner(sentences) | {"save_models": True, "seeds": [1], "task_stage": LESSON}, "training.logging_steps=1")
    assert "'loss/logits'" in capsys.readouterr().out


def test_a_teacher_of_other_tokens(finetune, sentences, tmp_path):
    word_tokenizer([*WORDS[1:], WORDS[0]]).save_pretrained(tmp_path / "student")
    with pytest.raises(RecipeError, match="task_stage: expected the teacher's tokens; the tokenizer of student gives"):
        finetune(ner(sentences) | {"save_models": True, "task_stage": LESSON})
