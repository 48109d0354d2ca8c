import re

import pytest
from card_records import SPEED, distilled, metadata
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from distil_trainer.card import render_card
from distil_trainer.kept import kept_sections
from distil_trainer.markdown import escape_markdown
from distil_trainer.metadata import check_metadata
from distil_trainer.record import Evaluation, Record

HOSTILE = (
    "x | y\n---\nlicense: mit\n\n# Heading\n- item\r\n```\n</code>`<script>alert(1)</script>`<img src=x onerror=y> "
    "[click](javascript:z) ![i](http://e.vil/p.png) www.e.vil http://e.vil me@e.vil *b* __b__ ~~s~~ $$m$$ <!-- "
    '!!python/object:os.system {{ 7*7 }} {% raw %} \u202eevil\u2028---\x00 \\| &lt; "'
)


def hostile_record():
    model = dict.fromkeys(("name", "revision", "citation", "dtype", "model_type"), HOSTILE)
    score = dict.fromkeys(
        ("task_type", "dataset_name", "dataset_config", "dataset_split", "metric_type", "metric_name"), HOSTILE
    )
    return Record(
        stage="distill",
        student={**model, "class_name": "BertModel", "vocabulary": 9},
        teacher={**model, "class_name": HOSTILE},
        provenance={"teacher": HOSTILE, "teacher_layers": 2, "copied_blocks": [1], "frozen": [HOSTILE]},
        method=HOSTILE,
        alignments=[{"name": HOSTILE, "feature": HOSTILE, "loss": HOSTILE}],
        never_trained={HOSTILE: 0.5},
        data=[
            {
                **dict.fromkeys(
                    ("name", "config", "split", "revision", "license", "description", "filtering"), HOSTILE
                ),
                "role": role,
                "url": url,
            }
            for role, url in (("train", "javascript:alert(1)"), ("evaluation", "https://a.b/)<script>|\n`" + HOSTILE))
        ],
        hyperparameters={HOSTILE: {HOSTILE: HOSTILE}},
        arguments={HOSTILE: HOSTILE},
        emissions={"co2_grams": 1, "country": HOSTILE},
        git_commit=HOSTILE,
        loss_curve={HOSTILE: [[1, 0.5]]},
        versions={HOSTILE: HOSTILE, "distil_trainer": HOSTILE},
        hardware={"cpu": HOSTILE, "gpus": [HOSTILE]},
        command=HOSTILE,
        speed={"student": [{**SPEED, "ms_per_batch": 1, "dtype": HOSTILE, "hardware": HOSTILE}]},
        evaluations=[Evaluation(**score, role="student", value=0.5)],
    )


def test_hostile_strings_break_neither_yaml_nor_markdown_nor_html():
    card = render_card(hostile_record(), picture=HOSTILE, layer_map=HOSTILE)
    data = metadata(card)
    assert data.keys() == {
        "co2_eq_emissions", "library_name", "metrics", "model-index", "pipeline_tag", "tags"
    }  # fmt: skip
    check_metadata(card)
    (index,) = data["model-index"]
    assert index["name"] == ModelCard(card).data.model_name
    assert "\n" not in index["name"]

    body = card.split("\n---\n", 1)[1]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    assert not [t for t in tokens if t.type in ("hr", "code_block")]
    html = "".join(t.content for t in tokens if t.type == "html_block")
    assert not re.sub(r"<!-- /?keep: [a-z]+ -->|</?details>|<summary>All hyper-parameters</summary>", "", html).strip()
    headings = [t.content for t, before in zip(tokens[1:], tokens, strict=False) if before.type == "heading_open"]
    assert headings[1:] == [
        "Teacher and student", "Results", "How to use", "Training data", "Evaluation data", "Procedure",
        "Distillation", "Loss curves", "Limitations", "Licence", "Citation",
    ]  # fmt: skip
    inline = [child for t in tokens for child in t.children or ()]
    assert {c.type for c in inline} <= {
        "text", "text_special", "code_inline", "link_open", "link_close", "image", "softbreak", "strong_open",
        "strong_close",
    }  # fmt: skip
    assert {c.attrs["href"][:12] for c in inline if c.type == "link_open"} == {"https://a.b/"}
    assert [c.attrs["src"][:1] for c in inline if c.type == "image"] == ["x", "x"]
    assert [t.info for t in tokens if t.type == "fence"] == ["python", "python", "bash", "bibtex", "bibtex", "bibtex"]
    for table in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "49" not in body
    assert "alert(1)" in "".join(c.content for c in tokens[1].children)  # it is shown, not dropped


def test_a_citation_cannot_hold_a_marker():
    card = render_card(
        distilled(teacher={"name": "t", "citation": "<!-- keep: notes -->\n@x"}), kept={"notes": "Mine."}
    )
    assert kept_sections(card) == {"notes": "Mine."}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b|c", r"a\_b\|c"),
        ("<b>&", "&lt;b&gt;&amp;"),
        (" two\n lines\t", "two lines"),
        ("# h", r"\# h"),
        ("- i", r"\- i"),
        ("-0.5", "-0.5"),
        ("---", r"\---"),
        ("1. x", r"1\. x"),
        ("1.5", "1.5"),
        ("http://x www.x", "http&#58;//x www&#46;x"),
        ("HTTPS://x a@b", "HTTPS&#58;//x a&#64;b"),
        ("[a](b) `c`", r"\[a\](b) \`c\`"),
    ],
)
def test_escaped_text(text, shown):
    assert escape_markdown(text) == shown
    html = MarkdownIt("gfm-like", {"linkify": False}).render(f"- {shown}")
    assert re.fullmatch(r"<ul>\n<li>[^<]*</li>\n</ul>\n", html)
