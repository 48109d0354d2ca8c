"""Names of strangers on the page of a model: shown as they are, and nothing else."""

import re

import pytest
from card_records import metadata
from hostile_input import ACTIVE, fuzz
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from distil_trainer.card import render_card
from distil_trainer.errors import RecordError
from distil_trainer.kept import kept_sections
from distil_trainer.markdown import one_line
from distil_trainer.metadata import check_metadata
from distil_trainer.page import write_page
from distil_trainer.plain import without_paths
from distil_trainer.record import DataFacts, ModelFacts, Record

MARKUP = [
    *("# ", "- ", "1. ", "> ", "| ", "---", "===", "```", "~~~", "`", "*", "**", "_", "~~", "\n", "\r\n", "    ", "\t"),
    *("[a](javascript:b)", "![a](http://a.b/c.png)", "<http://a.b>", "http://a.b/c", "www.a.b", "me@a.b", "@me", "#1"),
    *("<script>", "</code>", "<img src=x onerror=y>", "<!--", "-->", "<!-- keep: notes -->", "<!-- /keep: notes -->"),
    *("&lt;", "&#60;", "&", "\\", "$$", "$x$", "{{ 7*7 }}", "{% raw %}", "{# a #}", "{%- include 'card.md.j2' %}"),
    *("!!python/object:os.system", "*a", "&a", "? ", ": ", "license: mit", "%YAML", "null", "no", "1e5", "2026-01-01"),
    *("\x00", "\x1b[2J", "\x7f", "\x9b", "\u202e", "\u2066", "\u061c", "\u2028", "\ufeff", "\ufffe", "\U0001f600", "ö"),
]
names = (
    st.lists(st.one_of(st.sampled_from(MARKUP), st.text(max_size=4)), min_size=1, max_size=6)
    .map("".join)
    .filter(lambda name: one_line(without_paths(name)))
)
FIELDS = (
    *("student", "teacher", "class_name", "revision", "method", "data", "config", "split", "description", "filtering"),
    *("license", "dataset", "task", "metric_type", "metric_name", "citation", "command", "argument", "cpu", "country"),
)


def record(field):
    model = {"name": field["student"], "class_name": "BertForMaskedLM", "layers": 2, "citation": field["citation"]}
    return Record(
        stage="distill",
        student=model,
        teacher={**model, "name": field["teacher"], "class_name": field["class_name"], "revision": field["revision"]},
        method=field["method"],
        data=[
            {
                "role": "train",
                "name": field["data"],
                **{name: field[name] for name in ("config", "split", "description", "filtering", "license")},
            }
        ],
        evaluations=[
            {
                "role": "student",
                "task_type": field["task"],
                "dataset_name": field["dataset"],
                "dataset_config": field["config"],
                "dataset_split": field["split"],
                "dataset_revision": field["revision"],
                "metric_type": field["metric_type"],
                "metric_name": field["metric_name"],
                "value": 0.5,
            }
        ],
        arguments={"a": field["argument"]},
        hyperparameters={"a": field["argument"]},
        hardware={"cpu": field["cpu"]},
        emissions={"co2_grams": 1, "country": field["country"]},
        command=field["command"],
    )


def blocks(card):
    """The kinds of blocks of the page; markup of a field would add one."""
    body = card.split("\n---\n", 1)[1]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    return tokens, [(token.type, token.tag, token.info) for token in tokens]


PLAIN = blocks(render_card(record(dict.fromkeys(FIELDS, "x"))))[1]


@fuzz(6)
@given(st.fixed_dictionaries(dict.fromkeys(FIELDS, names)))
def test_any_text_is_shown_as_it_is(field):
    facts = record(field)
    card = render_card(facts)
    assert not ACTIVE.search(card)
    _check_yaml(facts, metadata(card))
    check_metadata(card)
    tokens, kinds = blocks(card)
    assert kinds == PLAIN
    html = "".join(token.content for token in tokens if token.type == "html_block")
    assert not re.sub(r"<!-- /?keep: [a-z]+ -->|</?details>|<summary>All hyper-parameters</summary>", "", html).strip()
    inline = {child.type for token in tokens for child in token.children or ()}
    assert inline <= {"text", "text_special", "code_inline", "softbreak", "strong_open", "strong_close"}
    assert kept_sections(card) == {}  # and the page can be written again


def _check_yaml(facts, data):
    (index,) = data["model-index"]
    (result,) = index["results"]
    (metric,) = result["metrics"]
    (score,) = facts.evaluations
    found = {
        index["name"]: facts.student.name,
        result["task"]["type"]: score.task_type,
        result["dataset"]["name"]: score.dataset_name,
        result["dataset"]["config"]: score.dataset_config,
        result["dataset"]["split"]: score.dataset_split,
        result["dataset"]["revision"]: score.dataset_revision,
        metric["type"]: score.metric_type,
        metric["name"]: score.metric_name,
    }
    assert all(shown == one_line(name) for shown, name in found.items())
    assert set(data) <= {"library_name", "pipeline_tag", "tags", "metrics", "model-index", "co2_eq_emissions"}


@pytest.mark.parametrize("text", ["{{ 7*7 }}", "{% for a in b %}", "{{ ''.__class__ }}", "{# gone #}", "${7*7}"])
def test_a_name_is_no_template(text):
    card = render_card(record(dict.fromkeys(FIELDS, f"a {text} b")))
    assert "49" not in card
    assert metadata(card)["model-index"][0]["name"] == f"a {text} b"


def test_a_page_whose_names_look_like_markers_is_written_twice(tmp_path):
    facts = record(dict.fromkeys(FIELDS, "<!-- keep: notes -->"))
    first = write_page(tmp_path, [facts]).read_text()
    assert write_page(tmp_path, [facts]).read_text() == first


def test_half_a_character_is_refused_before_anything_is_written():
    for make in (lambda: ModelFacts(name="\ud800"), lambda: DataFacts(name="a", role="train", license="\udfff")):
        with pytest.raises(RecordError, match=r"expected text that UTF-8 can write.*came '\\ud"):
            make()


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 20_000, '{"schema": 1e999}', "\0", "[]", '"a"'], ids=range(6)
)
def test_a_strange_record_is_an_error_of_ours(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(RecordError, match=r"record\.json cannot be read as a record"):
        Record.load(tmp_path / "record.json")
