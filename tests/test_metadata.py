"""Metadata of a card: what the Hub would refuse is refused here, and every problem is told at once."""

import re
import time
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_trainer.card import render_card
from distil_trainer.errors import CardError
from distil_trainer.metadata import LICENSES, check_metadata, is_language
from distil_trainer.record import DataFacts, Evaluation, ModelFacts, Provenance, Record


def card(text: str) -> str:
    return f"---\n{text}\n---\n\n# A student\n\n---\n"


def dumped(metadata: dict[str, Any]) -> str:
    return card(yaml.safe_dump(metadata, allow_unicode=True, sort_keys=False))


def problems(text: str) -> list[str]:
    with pytest.raises(CardError) as caught:
        check_metadata(text)
    return str(caught.value).splitlines()


def result(**changes: Any) -> dict[str, Any]:
    whole = {
        "task": {"type": "fill-mask"},
        "dataset": {"type": "scandeval/suc3", "name": "SUC 3"},
        "metrics": [{"type": "f1", "value": 0.9}],
    }
    return whole | changes


def index(*results: Any) -> str:
    return dumped({"model-index": [{"name": "student", "results": list(results)}]})


FULL = {
    "language": ["sv", "nob", "no", "multilingual", "code"],
    "license": "other",
    "license_name": "my-license-1.0",
    "license_link": "LICENSE",
    "library_name": "transformers",
    "pipeline_tag": "token-classification",
    "tags": ["distillation", "1.0"],
    "datasets": ["wikipedia", "uonlp/CulturaX"],
    "base_model": ["KB/bert-base-swedish-cased", "bert-base-cased"],
    "base_model_relation": "merge",
    "new_version": "KB/student-2",
    "metrics": ["f1", "seqeval"],
    "model-index": [
        {
            "name": "student",
            "results": [
                {
                    "task": {"type": "token-classification", "name": "NER"},
                    "dataset": {"type": "conll2003", "name": "CoNLL", "config": "en", "split": "test", "revision": "1"},
                    "metrics": [
                        {"type": "f1", "value": 0.91, "name": "F1"},
                        {"type": "f1", "value": 91, "config": "macro"},
                        {"type": "accuracy", "value": "20.0 ± 1.2"},
                    ],
                    "source": {"name": "A leaderboard", "url": "https://example.org"},
                },
                result(dataset={"type": "conll2003", "name": "CoNLL", "config": "en", "split": "validation"}),
                result(dataset={"type": "conll2003", "name": "CoNLL", "config": "de", "split": "validation"}),
            ],
        }
    ],
    "co2_eq_emissions": {
        "emissions": 12.5,
        "source": "codecarbon",
        "training_type": "distillation",
        "geographical_location": "Uppsala, Sweden",
        "hardware_used": "1 H200",
    },
    "widget": [{"text": "Jag är [MASK]."}],
    "thumbnail": "https://example.org/picture.png",
    "inference": False,
}


@pytest.mark.parametrize(
    "metadata",
    [
        FULL,
        {"language": "sv", "license": "apache-2.0", "base_model": "gpt2", "base_model_relation": "finetune"},
        {"license": ["mit", "apache-2.0"], "base_model": ["a/b"], "co2_eq_emissions": 0},
        {"license": "openrail++", "base_model": ["a/b", "c/d"]},
        {"license": "other", "license_name": "x", "license_link": "https://example.org/license"},
        {"key": "that nobody knows", "nested": {"on": [1, 2.5, True, ["deep"]]}},
    ],
)
def test_good_metadata_is_returned_as_the_hub_client_reads_it(metadata):
    text = dumped(metadata)
    assert check_metadata(text) == metadata
    assert check_metadata(text.replace("\n", "\r\n")) == metadata
    assert yaml.safe_load(ModelCard(text).data.to_yaml()) == metadata


def test_a_card_of_the_hub_client_passes():
    scores = [EvalResult("fill-mask", f"set-{i}", f"Set {i}", "perplexity", 12.5 + i) for i in range(3)]
    data = ModelCardData(language="no", license="mit", model_name="student", eval_results=scores)
    assert check_metadata(f"---\n{data.to_yaml()}\n---\n")["language"] == "no"


def test_our_own_card_passes():
    record = Record(
        stage="distill",
        student=ModelFacts(name="student", license="mit", language=("sv", "no"), class_name="BertForMaskedLM"),
        teacher=ModelFacts(name="teacher", id="KB/teacher"),
        provenance=Provenance(teacher="KB/teacher", teacher_layers=12, copied_blocks=(1, 4)),
        data=(DataFacts(name="Wikipedia", role="train", hub_id="wikimedia/wikipedia"),),
        evaluations=(
            Evaluation(
                role="student", task_type="fill-mask", dataset_name="Set", metric_type="accuracy", values={1: 0.5}
            ),
        ),
    )
    metadata = check_metadata(render_card(record))
    assert metadata["base_model"] == "KB/teacher"
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5


BAD = [
    # where, what stands there, a part of the message
    ("language", "language: Swedish", "expected an ISO 639-1 or 639-3 code, .*; came 'Swedish'. Write 'sv'"),
    ("language", "language: es-ES", "came 'es-ES'. Write 'es'"),
    ("language[1]", "language: [en, pt_BR]", "Write 'pt'"),
    ("language", "language: SV", "Write 'sv'"),
    ("language", "language: fre", "Write 'fr'"),  # ISO 639-2/B
    ("language", "language: ber", "see https://huggingface.co/languages"),  # a collection of ISO 639-5
    ("language", "language: dek", "Write 'sqm'"),  # retired
    ("language", "language: sh", "Write 'hbs'"),  # deprecated
    ("language", "language: isv", "expected an ISO"),  # newer than the list of the Hub
    ("language[0]", "language: [no]", "came False. Write 'no' in quotes"),
    ("language", "language: no", "Write 'no' in quotes"),
    ("language", "language: {en: sv}", "expected an ISO"),
    ("language", "language: []", "expected a list that is not empty; came .*Leave the key out"),
    ("license", "license: Apache-2.0", "Did you mean 'apache-2.0'.*license_name"),
    ("license", "license: apache 2.0", "Did you mean 'apache-2.0'"),
    ("license", "license: my-own", "came 'my-own'. Others are 'other'"),
    ("license", "license: 2.0", "came 2.0"),
    ("license[1]", "license: [mit, MIT]", "Did you mean 'mit'"),
    ("license_name", "license: other\nlicense_link: LICENSE", "came nothing. Add it"),
    ("license_link", "license: [other]\nlicense_name: mine", "expected LICENSE, LICENSE.md or a URL; came nothing"),
    ("license_name", "license_name: My License", "my-license-1.0; came 'My License'"),
    ("license_link", "license_link: docs/terms.txt", "LICENSE.md or a URL"),
    ("datasets", "datasets: wikipedia", "expected a list"),
    ("datasets", "datasets:", "expected a value; came null. Leave the key out"),
    ("datasets[0]", "datasets: [null]", "expected a value"),
    ("datasets[0]", "datasets: [Swedish Wikipedia]", "expected a Hub id such as namespace/name"),
    ("base_model", "base_model: /home/someone/teacher", "A local path is none"),
    ("base_model[1]", "base_model: [a/b, a/b/c]", "expected a Hub id"),
    ("base_model", "base_model: 3", "came 3"),
    ("new_version", "new_version: [a/b]", "expected a Hub id"),
    ("base_model_relation", "base_model: a/b\nbase_model_relation: distilled", "one of adapter, merge, quantized"),
    ("base_model_relation", "base_model: a/b\nbase_model_relation: finetuned", "Did you mean 'finetune'"),
    ("base_model_relation", "base_model: [a/b, c/d]\nbase_model_relation: finetune", "'merge' for several models"),
    ("base_model_relation", "base_model: [a/b]\nbase_model_relation: merge", "'merge' for several models"),
    ("base_model_relation", "base_model_relation: finetune", "expected a base_model"),
    ("library_name", "library_name: [transformers]", "expected text"),
    ("pipeline_tag", "pipeline_tag: token classification", "Did you mean 'token-classification'"),
    ("pipeline_tag", "pipeline_tag: NER", "expected a task of the Hub; came 'NER'. See"),
    ("tags", "tags: distillation", "expected a list"),
    ("tags[1]", "tags: [a, 1.0]", "expected text that is not empty; came 1.0. Put text in quotes"),
    ("tags[0]", "tags: ['']", "expected text that is not empty; came ''"),
    ("metrics[0]", "metrics: [{f1: 0.9}]", "expected text"),
    ("co2_eq_emissions", "co2_eq_emissions: 12 kg", "expected a number, grams of CO2; came '12 kg'"),
    ("co2_eq_emissions", "co2_eq_emissions: -1", "came -1"),
    ("co2_eq_emissions", "co2_eq_emissions: true", "came True"),
    ("co2_eq_emissions.emissions", "co2_eq_emissions: {source: codecarbon}", "came nothing. Add it"),
    ("co2_eq_emissions.source", "co2_eq_emissions: {emissions: 1, source: 2}", "expected text"),
    ("widget", "widget: {text: hej}", "expected a list"),
    ("a.b[1]", "a: {b: [1, null]}", "expected a value"),
    ("a", "a: .nan", "expected a finite number; came nan. Leave out"),
    ("a[0]", "a: [-.inf]", "came -inf"),
    ("a", "a: 2024-01-31", "came datetime.date.2024, 1, 31.. Put text in quotes"),
    ("1", "1: a", "expected a key that is text; came 1"),
    ("a.'b c'", "a: {b c: null}", "expected a value"),
    ("line 4, license", "license: mit\na: 1\nlicense: mit", "expected every key once; came 'license'"),
    ("line 2, b", "a: {b: 1, b: 2}", "every key once"),
    ("line 3", "a: 1\nb: !!python/object:object {}", "a tag"),
    ("line 2", "a: !!python/object/apply:numpy._core.multiarray.scalar []", "cast numpy scalars"),
    ("line 2", "a: !!timestamp soon", "a tag"),
    ("line 2", "a: &b [*b]", "an anchor"),
    ("line 3", "a: 1\nb: c: d", "expected plain YAML; came this: mapping values are not allowed here"),
    ("line 2", "a: [1", "expected plain YAML"),
    ("line 2", "? {a: 1}\n: 2", "expected plain YAML"),
    ("metadata", "a: 2024-02-30", "expected plain YAML"),
    ("metadata", "a: \x07", "expected plain YAML"),
    ("line 2", "[" * 1_000, "expected plain YAML"),
    ("metadata", "- a\n- b", "expected a mapping"),
    ("metadata", "", "expected a mapping; came null"),
    ("metadata", "just text", "expected a mapping"),
]


@pytest.mark.parametrize(("where", "text", "message"), BAD, ids=lambda value: str(value)[:40].replace("\n", "|"))
def test_what_the_hub_refuses_is_refused_with_its_place(where, text, message):
    (told,) = [line for line in problems(card(text)) if not line.startswith("The Hub would refuse")]
    assert told.startswith(f"{where}: expected "), told
    assert re.search(message, told, re.IGNORECASE), told


BAD_RESULTS = [
    ("results[0]", ["text"], "expected a mapping"),
    ("results[0].task", [result(task="fill-mask")], "expected a mapping"),
    ("results[0].task.type", [result(task={"name": "Masks"})], "came nothing. Add it"),
    ("results[0].dataset.name", [result(dataset={"type": "a/b"})], "came nothing"),
    ("results[0].dataset.type", [result(dataset={"name": "Set"})], "came nothing"),
    ("results[0].dataset.config", [result(dataset={"type": "a/b", "name": "Set", "config": 1})], "expected text"),
    ("results[0].source.url", [result(source={"name": "Board"})], "came nothing"),
    ("results[0].metrics", [result(metrics=[])], "a list that is not empty"),
    ("results[0].metrics", [{key: value for key, value in result().items() if key != "metrics"}], "came nothing"),
    ("results[0].metrics[0].type", [result(metrics=[{"value": 1}])], "came nothing"),
    ("results[0].metrics[0].value", [result(metrics=[{"type": "f1"}])], "expected a number; came nothing"),
    ("results[0].metrics[0].value", [result(metrics=[{"type": "f1", "value": [0.9]}])], "expected a number"),
    ("results[0].metrics[0].value", [result(metrics=[{"type": "f1", "value": True}])], "expected a number"),
    ("results[0].metrics[0].value", [result(metrics=[{"type": "f1", "value": float("nan")}])], "a finite number"),
    ("results[0].metrics[0].value", [result(metrics=[{"type": "f1", "value": None}])], "expected a value"),
    ("results[0].metrics[0].verified", [result(metrics=[{"type": "f1", "value": 1, "verified": True}])], "Remove it"),
    ("results[0].metrics[0].verifyToken", [result(metrics=[{"type": "f1", "value": 1, "verifyToken": "e"}])], "Remove"),
    (
        "results[1].metrics[0]",
        [result(), result()],
        "something else than model-index.0..results.0..metrics.0.; came 0.9",
    ),
    ("results[0].metrics[1]", [result(metrics=[{"type": "f1", "value": v} for v in (1, 2)])], "something else than"),
]


@pytest.mark.parametrize(("where", "results", "message"), BAD_RESULTS)
def test_a_result_needs_its_task_data_set_and_value_and_comes_once(where, results, message):
    (_, told) = problems(index(*results))
    assert told.startswith(f"model-index[0].{where}: expected "), told
    assert re.search(message, told), told


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "line 1"),
        ("# A student\n", "line 1"),
        ("\n---\nlicense: mit\n---\n", "line 1"),
        ("\ufeff---\nlicense: mit\n---\n", "line 1"),
        (" ---\nlicense: mit\n---\n", "line 1"),
        ("--- \nlicense: mit\n---\n", "line 1"),
        ("---license: mit\n---\n", "line 1"),
        ("---\nlicense: mit\n", "end of the metadata"),
        ("---\nlicense: mit\n ---\n", "end of the metadata"),
        ("---\nlicense: mit\n----\n", "end of the metadata"),
        ("---\nlicense: mit---\n", "end of the metadata"),
    ],
)
def test_the_metadata_stands_between_two_lines_of_dashes(text, where):
    (told,) = problems(text)
    assert told.startswith(f"{where}: expected a line `---`; came ")


def test_the_second_line_of_dashes_may_end_the_card():
    assert check_metadata("---\nlicense: mit\n---") == {"license": "mit"}
    assert check_metadata("---\nlicense: mit\n---  \ntext") == {"license": "mit"}


def test_every_problem_is_told_at_once():
    text = "license: MIT\nlanguage: [Swedish, sv]\nlicense: MIT\ndatasets: [null]\nx: .nan\ntags: [1]\nmodel-index: [a]"
    told = problems(card(text))
    assert told[0] == "The Hub would refuse the metadata of this card:"
    wheres = [line.partition(": ")[0] for line in told[1:]]
    assert set(wheres) == {
        "line 4, license",
        "license",
        "language[0]",
        "datasets[0]",
        "x",
        "tags[0]",
        "model-index[0]",
    }
    assert len(wheres) == len(set(wheres))


def test_one_problem_is_one_line_whatever_it_holds():
    (_, told) = problems(dumped({"a\nb": {"c": None}, "license": "mit"}))
    assert told.startswith(r"'a\nb'.c: expected a value")
    (_, told) = problems(dumped({"base_model": "a\n" + "b" * 10_000}))
    assert len(told) < 300
    assert "too long to print" in problems(card(f"license: 0x{'f' * 5000}"))[1]


def test_nested_aliases_do_not_explode():
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]
    start = time.perf_counter()
    problems(card("\n".join(lines)))
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("code", ["sv", "swe", "no", "nb", "zh", "fra", "mul", "multilingual", "code", "gsw"])
def test_codes_of_languages(code):
    assert is_language(code)


@pytest.mark.parametrize("code", ["", "SV", "xx", "qaa", "fre", "ger", "bh", "iw", "sh", "yol", "roa", "sv-SE", "sv\n"])
def test_what_is_no_code_of_a_language(code):
    assert not is_language(code)


def test_licences_are_those_of_the_hub():
    assert len(LICENSES) == 83
    assert {"apache-2.0", "mit", "other", "unknown", "llama3.1", "openrail++", "openmdw-1.1"} <= LICENSES


KEYS = st.sampled_from([*FULL, "name", "results", "task", "dataset", "type", "value", "emissions", "verified"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.sampled_from(["other", "merge", "mit", "sv", "a/b", "Swedish", "0x" + "f" * 5000]),
)
VALUES = st.recursive(
    SCALARS | st.sampled_from([FULL["model-index"], result(), FULL["base_model"]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
YAML_TEXT = st.text(alphabet="ab:1-. \n\t'\"[]{},#&*!|>?%@`\\~<=_xe+\r\u2028", max_size=60)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.one_of(
        st.text(max_size=60),
        st.text(max_size=60).map(card),
        YAML_TEXT.map(card),
        st.dictionaries(KEYS, VALUES, max_size=5).map(dumped),
    )
)
def test_any_text_is_metadata_or_a_card_error(text):
    try:
        metadata = check_metadata(text)
    except CardError as error:
        lines = str(error).splitlines()
        assert all(": expected " in line for line in lines[1:] or lines)
    else:
        assert metadata == check_metadata(dumped(metadata))
