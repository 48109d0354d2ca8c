import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import yaml
from transformers import TrainingArguments

from distil_trainer import Alignment, Schedule, methods
from distil_trainer.errors import RecipeError
from distil_trainer.recipe import DistillRecipe, FinetuneRecipe, load_recipe

DISTILL = """
teacher: {name: org/teacher, model_class: AutoModelForMaskedLM, language: [en, "no"]}
student: {name: small, num_hidden_layers: 3, layers: [1, 3, 5], freeze_embeddings: true}
data:
  files: [data/*.txt]
  max_length: 64
alignments:
  - {feature: hidden_states, student_layer: 3, teacher_layer: 6, weight: 2}
  - {feature: logits, loss: kl, temperature: 2.0}
training:
  learning_rate: 1.0e-4
  lr_scheduler_type: linear
  eval_strategy: "no"
  num_train_epochs: 1
output_dir: out
"""
FINETUNE = """
models: {teacher: org/teacher, student: out/student}
data: {name: WikiANN, config: en, train: [train.jsonl], test: [test.jsonl]}
seeds: [100, 101]
training: {learning_rate: 5.0e-5}
output_dir: out
"""


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    many: tuple[Inner, ...] = ()
    words: list[str] | None = None
    kind: Literal["a", "b"] = "a"
    either: str | list[int] = "x"
    flag: bool = False
    table: dict[str, int] = dataclasses.field(default_factory=dict)
    free: dict[str, Any] = dataclasses.field(default_factory=dict)


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides, cls=Outer):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return load_recipe(cls, path, overrides)

    return load


def load_error(load, text, *overrides, cls=Outer):
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides, cls=cls)
    return str(caught.value)


# --- values


def test_every_kind_of_value(load):
    text = """
    inner: {size: 3, rate: 1}
    many: [{size: 1}, {size: 2, rate: 2.0e-5}]
    words: [a, b]
    kind: b
    either: [1, 2]
    flag: true
    table: {x: 1}
    free: {anything: [1, two, null]}
    """
    assert load(text) == Outer(
        inner=Inner(size=3, rate=1.0),
        many=(Inner(size=1), Inner(size=2, rate=2e-5)),
        words=["a", "b"],
        kind="b",
        either=[1, 2],
        flag=True,
        table={"x": 1},
        free={"anything": [1, "two", None]},
    )
    assert isinstance(load(text).inner.rate, float)


def test_defaults_and_null(load):
    assert load("inner: {size: 3}\nwords: null") == Outer(inner=Inner(size=3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner: {size: 3, rat: 1.0}", "recipe.yaml: inner.rat: unknown key. Did you mean rate?"),
        ("inner: {size: 3}\nzzz: 1", "recipe.yaml: zzz: unknown key. Known: ['either', "),
        ("many: [{size: 1, sise: 2}]\ninner: {size: 3}", "many[0].sise: unknown key. Did you mean size?"),
        ("kind: a", "recipe.yaml: missing inner: required"),
        ("inner: {rate: 1.0}", "inner: missing size: required"),
        ("inner: 3", "inner: expected a mapping with keys of Inner; came 3 (a whole number)."),
        ("inner: null", "inner: expected a mapping with keys of Inner; came null (nothing)."),
        ('inner: {size: "3"}', "inner.size: expected a whole number; came '3' (text). Write it without quotes."),
        ("inner: {size: true}", "inner.size: expected a whole number; came True (true or false)."),
        ("inner: {size: 3.0}", "inner.size: expected a whole number; came 3.0 (a number)."),
        ("inner: {size: 3, rate: true}", "inner.rate: expected a number; came True"),
        ("inner: {size: 3, rate: 2e-5}", "inner.rate: expected a number; came '2e-5' (text). Write 2.0e-5: "),
        ("inner: {size: 3, rate: 1.5E4}", "Write 1.5e+4: "),
        ("inner: {size: 3, rate: fast}", "inner.rate: expected a number; came 'fast' (text)."),
        ("inner: {size: 3, rate: null}", "inner.rate: expected a number; came null"),
        ("inner: {size: 3}\nwords: a", "words: expected a list of text each; came 'a' (text)."),
        ("inner: {size: 3}\nwords: [en, no]", "words[1]: expected text; came False (true or false). YAML reads yes"),
        ("inner: {size: 3}\nwords: [2024-01-02]", "words[0]: expected text; came datetime.date(2024, 1, 2) (date)."),
        ("inner: {size: 3}\nkind: c", "kind: expected one of a, b; came 'c' (text)."),
        ("inner: {size: 3}\neither: [1, b]", "either: expected text or a list of a whole number each; came [1, 'b']"),
        ("inner: {size: 3}\nflag: 1", "flag: expected true or false; came 1 (a whole number)."),
        ("inner: {size: 3}\ntable: {x: y}", "table.x: expected a whole number; came 'y'"),
        ("inner: {size: 3}\ntable: {1: 1}", "table: keys should be text; came 1 (a whole number)."),
        ("no: 3\ninner: {size: 3}", "keys should be text; came False"),
        ("inner: {size: 3, size: 4}", "line 1, column 18: this is not valid YAML: the key 'size' is given twice"),
        ("inner: {size: 3", "line 1, column 16: this is not valid YAML: "),
        ("inner: !!python/name:os.system {}", "this is not valid YAML: a tag"),
        ("inner: {size: 2024-99-01}", "this is not valid YAML: month must be in 1..12"),
        ("- 1", "recipe.yaml: expected a mapping (key: value); came [1] (a list)."),
        ("", "recipe.yaml: expected a mapping (key: value); came null"),
    ],
)  # fmt: skip
def test_what_is_refused(load, text, message):
    assert message in load_error(load, text)


def test_a_key_may_override_a_merged_one(load):
    assert load("inner: &i {size: 1, rate: 2.0}\nmany: [{<<: *i, size: 2}]").many == (Inner(size=2, rate=2.0),)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match=r"gone\.yaml: cannot be read: No such file"):
        load_recipe(Outer, tmp_path / "gone.yaml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        load_recipe(Outer, tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe5")
    with pytest.raises(RecipeError, match="expected UTF-8 text; byte 6 is not"):
        load_recipe(Outer, tmp_path / "latin.yaml")


# --- overrides


def test_overrides_come_after_the_file_and_in_turn(load):
    loaded = load("inner: {size: 3}", "inner.size=4", "inner.rate=2e-5", "words=[x]", "inner.size=5", "table.new=1")
    assert loaded == Outer(inner=Inner(size=5, rate=2e-5), words=["x"], table={"new": 1})


def test_an_override_can_replace_a_section_or_make_one(load):
    assert load("inner: {size: 3}", "inner={size: 7}").inner == Inner(size=7)
    assert load("kind: b", "inner.size=7").inner == Inner(size=7)
    assert load("inner: {size: 3}", "words=null", "either=a=b").either == "a=b"
    assert load("inner: {size: 3}", 'either="1e5"').either == "1e5"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.siz=4", "override 'inner.siz=4': inner.siz: unknown key. Did you mean size?"),
        ("iner.size=4", "override 'iner.size=4': iner: unknown key. Did you mean inner?"),
        ("inner.size=x", "override 'inner.size=x': inner.size: expected a whole number; came 'x' (text)."),
        ("inner.size=2e5", "inner.size: expected a whole number; came 200000.0 (a number)."),
        ("kind.deep=1", "override 'kind.deep=1': kind is 'b' (text), with no keys inside."),
        ("many.0.size=1", "many is [] (a list), with no keys inside. Give it as a whole."),
        ("inner.size", "override 'inner.size': expected key=value, such as training.seed=1."),
        ("=1", "expected key=value"),
        ("words=[", "override 'words=[': line 1, column 2: this is not valid YAML"),
    ],
)
def test_wrong_overrides(load, override, message):
    assert message in load_error(load, "inner: {size: 3}\nkind: b\nmany: []", override)


def test_an_error_in_the_file_is_not_blamed_on_an_override(load):
    assert load_error(load, "inner: {size: x}", "inner.rate=1").split(": ")[0].endswith("recipe.yaml")


# --- the recipes


def test_a_distillation(load):
    recipe = load(DISTILL, cls=DistillRecipe)
    assert recipe.teacher.language == ("en", "no")
    assert recipe.student.layers == (1, 3, 5)
    assert recipe.alignments[0] == Alignment(
        feature="hidden_states", student_layer=3, teacher_layer=6, loss="mse", weight=2.0
    )
    assert TrainingArguments(recipe.output_dir, use_cpu=True, **recipe.training).learning_rate == 1e-4
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.output_dir = "elsewhere"


def test_a_published_method_by_name(load):
    recipe = load(DISTILL, "alignments=[]", "method=lightmbert", "training.learning_rate=3e-4", cls=DistillRecipe)
    assert (recipe.method, recipe.alignments, recipe.training["learning_rate"]) == ("lightmbert", (), 3e-4)


def test_schedules_are_written_as_mappings(load):
    change = "alignments=[{feature: logits, loss: kl, weight: {start: 0, end: 1, shape: cosine}}]"
    recipe = load(DISTILL, change, "task_weight={start: 1, end: 0.5, begin: 0.5}", cls=DistillRecipe)
    assert recipe.alignments[0].weight == Schedule(start=0.0, end=1.0, shape="cosine")
    assert recipe.terms(6)[1] == Schedule(start=1.0, end=0.5, begin=0.5)


def test_a_fine_tuning(load):
    recipe = load(FINETUNE, cls=FinetuneRecipe)
    assert recipe.models == {"teacher": "org/teacher", "student": "out/student"}
    assert recipe.seeds == (100, 101)


@pytest.mark.parametrize(("text", "cls"), [(DISTILL, DistillRecipe), (FINETUNE, FinetuneRecipe)])
def test_a_recipe_written_out_is_the_same_recipe(load, text, cls):
    recipe = load(text, cls=cls)
    assert load(yaml.safe_dump(dataclasses.asdict(recipe)), cls=cls) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rat=1.0", "training.learning_rat: unknown key. Did you mean learning_rate?"),
        ("training.learning_rate='1e-4'", "learning_rate: expected a number; came '1e-4' (text). Write 1.0e-4: "),
        ("training.max_steps='5'", "max_steps: expected a whole number; came '5' (text). Write it without"),
        ("training.bf16=1", "training.bf16: expected true or false; came 1"),
        ("training.eval_strategy=no", "training.eval_strategy: expected one of no, steps, epoch; came False"),
        ("training.lr_scheduler_type=lineer", "training.lr_scheduler_type: expected one of linear, cosine"),
        ("training.output_dir=x", "training.output_dir: this is output_dir at the top of the recipe"),
        ("method=lightmbert", "came both (alignments: [] or method: null takes away what `extends` brings)."),
        ("alignments=[]", "expected either method or alignments; came neither. Methods: lightmbert"),
        ("alignments=[{feature: logits, loss: huber}]", "alignments[0]: loss for logits should be one of"),
        ("alignments=[{feature: logits, tempature: 2}]", "[0].tempature: unknown key. Did you mean temperature?"),
        ("student.num_hidden_layers=2", "the student has 2 blocks, but student_layer=3"),
        ("student.num_hidden_layers=0", "student.num_hidden_layers: expected at least 1; came 0."),
        ("student.layers=middle", "student.layers: expected one of bottom, top, spread, importance or a list of"),
        ("student.hidden_size=0", "student.hidden_size: expected at least 1; came 0."),
        ("student.init=zeros", "student.init: expected one of copy, random"),
        (
            "student={name: s, num_hidden_layers: 3, layers: top, init: random}",
            "student.layers: expected bottom, its default, with init=random; came 'top'.",
        ),
        (
            "student={name: s, num_hidden_layers: 3, freeze_embeddings: true, init: random}",
            "student.freeze_embeddings: expected false with init=random; came True.",
        ),
        ("student.dropout=1.0", "student.dropout: expected from 0 to below 1; came 1.0."),
        ("student.vocabulary={}", "student.vocabulary.coverage: expected coverage, min_count or max_size; came None."),
        ("student.vocabulary.coverage=1.5", "student.vocabulary.coverage: expected above 0 and at most 1; came 1.5."),
        (
            "student.vocabulary={prepared: true, coverage: 0.9}",
            "student.vocabulary.prepared: expected false with coverage, min_count or max_size; came True.",
        ),
        (
            "student.vocabulary.prepared=true",
            "student.vocabulary.prepared: expected false without data.prepared; came True.",
        ),
        ("student.vocabulary={max_size: 0}", "student.vocabulary.max_size: expected at least 1; came 0."),
        ("teacher.model_class=AutoModelForCTC", "teacher.model_class: expected one of AutoModel, "),
        ("teacher.attn_implementation=fast", "teacher.attn_implementation: expected one of eager, "),
        ("teacher_weights=[1, 2]", "a positive number for each of 1; got (1.0, 2.0)"),
        ("other_teachers=[{name: b}]", "say whose layer is meant, with teacher=1 to 2"),
        ("data.files=[]", "data.files: expected files, hub_id or prepared; came ()."),
        ("data.mlm_probability=15", "data.mlm_probability: expected between 0 and 1; came 15.0."),
        ("data.max_examples=0", "data.max_examples: expected at least 1, or null for all; came 0."),
        ("task_weight=-1", "task_weight: expected 0 or more; came -1.0."),
        ("data={prepared: p, max_length: 512}", "data.max_length: expected nothing with prepared, whose rows are as"),
        ("data={prepared: p, validation_split: test}", "data.validation_split: expected nothing with prepared"),
        ("data.language=[Swedish]", "data: DataFacts.language: expected ISO 639 codes"),
        ("data.hub_id=./texts", "data: DataFacts.hub_id: expected a Hub id"),
        ("teacher.license=CC BY", "teacher: ModelFacts.license: expected the Hub's identifier of a licence"),
        ("student.language=[Swedish]", "student: ModelFacts.language: expected ISO 639 codes"),
    ],
)  # fmt: skip
def test_distillations_that_are_refused(load, override, message):
    assert message in load_error(load, DISTILL, override, cls=DistillRecipe)


def test_several_teachers(load):
    taught = "alignments=[{feature: logits, loss: kl}]"
    recipe = load(DISTILL, taught, "other_teachers=[{name: org/other}]", "teacher_weights=[3, 1]", cls=DistillRecipe)
    assert [source.name for source in recipe.teachers] == ["org/teacher", "org/other"]
    other = "other_teachers=[{name: org/other, dtype: float32}]"
    assert "other_teachers[0].dtype: expected null, or" in load_error(load, DISTILL, taught, other, cls=DistillRecipe)
    by_name = ("alignments=[]", "method=lightmbert", "other_teachers=[{name: org/other}]", "teacher_weights=[3, 1]")
    alignments, _ = load(DISTILL, *by_name, cls=DistillRecipe).terms(6, 4)
    assert alignments == methods.of_teachers(
        methods.lightmbert, student_layers=3, teacher_layers=(6, 4), weights=(3, 1)
    )


def test_projections_are_true_false_or_shared(load):
    lines = "[{feature: hidden_states, student_layer: 3, teacher_layer: 6, projection: %s}]"
    for text, value in (("true", True), ("shared", "shared"), ("false", False)):
        recipe = load(DISTILL, f"alignments={lines % text}", cls=DistillRecipe)
        assert recipe.alignments[0].projection is value or recipe.alignments[0].projection == value
    message = load_error(load, DISTILL, f"alignments={lines % 'own'}", cls=DistillRecipe)
    assert "alignments[0].projection: expected one of True, False, shared; came 'own' (text)." in message


def test_a_method_brings_its_task_weight_and_takes_options(load):
    options = "method_options={relation_heads: 8, teacher_layer: 5}"
    recipe = load(DISTILL, "alignments=[]", "method=minilmv2", options, cls=DistillRecipe)
    alignments, task_weight = recipe.terms(6)
    assert [(a.name, a.relation_heads) for a in alignments] == [
        (f"{feature}_relation_s3_t5", 8) for feature in ("query", "key", "value")
    ]
    assert task_weight == 0
    recipe = load(DISTILL, "alignments=[]", "method=distilbert", cls=DistillRecipe)
    assert recipe.terms(6)[1] == 2
    recipe = load(DISTILL, "alignments=[]", "method=distilbert", "task_weight=0.5", cls=DistillRecipe)
    assert recipe.terms(6)[1] == 0.5
    recipe = load(DISTILL, cls=DistillRecipe)
    assert recipe.terms(6) == (recipe.alignments, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{relation_head: 8}", "method_options.relation_head: unknown key. Did you mean relation_heads?"),
        ("{student_layers: 8}", "method_options.student_layers: unknown key."),
        ("{relation_heads: many}", "method_options.relation_heads: expected a whole number; came 'many' (text)."),
    ],
)
def test_options_that_the_method_does_not_take_are_refused(load, options, message):
    overrides = ("alignments=[]", "method=minilmv2", f"method_options={options}")
    assert message in load_error(load, DISTILL, *overrides, cls=DistillRecipe)


def test_alignments_have_no_options_of_a_method(load):
    message = load_error(load, DISTILL, "method_options={alpha: 0.5}", cls=DistillRecipe)
    assert "method_options: expected none without a method; came {'alpha': 0.5}." in message


def test_an_unknown_method_is_refused(load):
    message = load_error(load, DISTILL, "alignments=[]", "method=lightbert", cls=DistillRecipe)
    assert "override 'method=lightbert': method: expected one of lightmbert" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=[]", "seeds: expected at least one; came ()."),
        ("seeds=[1, 1]", "seeds: expected different numbers; came (1, 1)."),
        ("training.seed=1", "training.seed: this is seeds at the top of the recipe"),
        ("models={}", "models: expected at least one name: path; came {}."),
        ("models.student=1", "models.student: expected text; came 1"),
        ("task=summarization", "task: expected one of token-classification, text-classification, sentence-similarity"),
        ("data.test=[]", "data.test: expected at least one path"),
        ("data.hub_id=/data/sucx3", "data.hub_id: expected an id on the Hub"),
        ("data.train=[]", "data.train: expected at least one path"),
        ("data={name: x, hub_id: a/b, test: [t]}", "data.test: expected paths for both train and test"),
        ("data={name: x, hub_id: a/b, validation: [t]}", "data.validation: expected validation_split"),
        ("data={name: x, hub_id: a/b, train_splits: [train, test]}", "data.train_splits: expected splits that are not"),
        ("data={name: x, hub_id: a/b, revision: refs/convert/parquet}", "data.config: expected a folder of that"),
        ("data.text_columns=[a, b, c]", "data.text_columns: expected one column or two"),
        ("data.keep_types=[]", "data.keep_types: expected at least one type"),
        ("data.max_train_examples=0", "data.max_train_examples: expected at least 1"),
        ("task=sentence-similarity", "data.text_columns: expected two columns; came ('text',)."),
        ("also_test=[{name: WikiANN, test: [t]}]", "also_test: expected a name of its own for each data set"),
        ("also_test=[{name: x}]", "also_test[0].test: expected at least one path, or a hub_id"),
        ("attn_implementation=fast", "attn_implementation: expected one of eager, "),
        ("training.eval_strategy=epoch", "data.validation: expected examples to score on while training"),
    ],
)
def test_fine_tunings_that_are_refused(load, override, message):
    assert message in load_error(load, FINETUNE, override, cls=FinetuneRecipe)


def test_types_of_entities_are_for_tags_only(load):
    overrides = ["task=text-classification", "also_test=[{name: x, test: [t], keep_types: [PER]}]"]
    message = load_error(load, FINETUNE, *overrides, cls=FinetuneRecipe)
    assert "also_test[0].keep_types: expected no mapping of entity types with text-classification" in message


FAKE_TOKEN = "hf_" + "x" * 30


@pytest.mark.parametrize(
    "override",
    [
        f"training.hub_token={FAKE_TOKEN}",
        "training.hub_token=null",
        f"training.run_name={FAKE_TOKEN}",
        f"data.files=[{FAKE_TOKEN}]",
        "password=hunter2",
        f"training.hub_token=[{FAKE_TOKEN}",
    ],
)
def test_secrets_are_refused_and_not_printed(load, override):
    message = load_error(load, DISTILL, override, cls=DistillRecipe)
    assert FAKE_TOKEN not in message
    assert "hunter2" not in message
    assert "hf auth login" in message or "not valid YAML" in message


def test_a_recipe_extends_another_key_by_key(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "base.yaml").write_text(DISTILL)
    (tmp_path / "folder" / "middle.yaml").write_text("extends: ../base.yaml\nstudent: {name: other}\n")
    (tmp_path / "top.yaml").write_text("extends: folder/middle.yaml\ntraining: {seed: 7}\n")
    base = load_recipe(DistillRecipe, tmp_path / "base.yaml")
    recipe = load_recipe(DistillRecipe, tmp_path / "top.yaml", ["training.max_steps=3"])
    assert recipe.student == dataclasses.replace(base.student, name="other")
    assert recipe.training == {**base.training, "seed": 7, "max_steps": 3}
    assert recipe.teacher == base.teacher


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: 3\n", "expected the path of another recipe; came 3"),
        ("extends: none.yaml\n", "none.yaml: cannot be read"),
        ("extends: top.yaml\n", "extended by itself"),
    ],
)
def test_what_cannot_be_extended_is_told(tmp_path, text, message):
    (tmp_path / "top.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(DistillRecipe, tmp_path / "top.yaml")
