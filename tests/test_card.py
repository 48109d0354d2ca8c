import contextlib
import io
import re
import warnings

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    PreTrainedTokenizerFast,
)

from distil_trainer.card import render_card
from distil_trainer.errors import RecordError
from distil_trainer.facts import model_facts
from distil_trainer.kept import kept_sections
from distil_trainer.losses import LOSSES
from distil_trainer.markdown import escape_markdown
from distil_trainer.metadata import check_metadata
from distil_trainer.record import Evaluation, Record

SPEED = {"batch_size": 8, "length": 128, "threads": 2, "dtype": "float32", "hardware": "AMD EPYC"}
ONE = {**SPEED, "batch_size": 1}
SHAPE = {"class_name": "BertForMaskedLM", "hidden_size": 768, "heads": 12, "vocabulary": 119547, "max_length": 512}
BLOCKS = {"student_layer": 3, "teacher_layer": 6}
EVALUATION = {
    "task_type": "token-classification",
    "dataset_name": "SUCX 3.0",
    "dataset_id": "KBLab/sucx3_ner",
    "dataset_config": "simple_cased",
    "dataset_split": "test",
    "dataset_revision": "abc",
    "metric_type": "f1",
    "metric_name": "F1",
}


def evaluation(role, values, **changes):
    return Evaluation(**{**EVALUATION, "role": role, "values": values, **changes})


def distilled(**changes):
    facts = {
        "stage": "distill",
        "student": {
            **SHAPE,
            "name": "swedish-mbert",
            "id": "me/swedish-mbert",
            "license": "apache-2.0",
            "language": ["sv"],
            "layers": 6,
            "parameters": 100_000_000,
            "embedding_parameters": 60_000_000,
            "bytes_on_disk": 400_000_000,
        },
        "teacher": {
            **SHAPE,
            "name": "mBERT",
            "id": "google-bert/bert-base-multilingual-cased",
            "revision": "3f076fdb1ab68d5b2880cb87a0886f315b8146f8",
            "license": "apache-2.0",
            "language": ["multilingual"],
            "layers": 12,
            "parameters": 150_000_000,
            "embedding_parameters": 60_000_000,
            "citation": "@misc{teacher}",
        },
        "provenance": {"teacher": "mBERT", "teacher_layers": 12, "copied_blocks": [1, 3], "frozen": ["embeddings"]},
        "method": "lightmbert",
        "alignments": [
            {"name": "hidden_states_s3_t6", "feature": "hidden_states", **BLOCKS, "loss": "mse"},
            {"name": "attention_probs_s3_t6", "feature": "attention_probs", **BLOCKS, "loss": "kl"},
            {"name": "logits", "feature": "logits", "loss": "kl", "temperature": 2, "weight": 0.5,
             "positions": "labels"},
        ],
        "task_weight": 0,
        "balanced": True,
        "teacher_dtype": "bfloat16",
        "never_trained": {"cls.bias": 0.01},
        "data": [
            {"name": "Gigaword", "role": "train", "url": "https://example.org/g w", "license": "cc-by-4.0",
             "language": ["sv"], "tokens": 2000, "size_bytes": 9_000_000, "description": "Years 2010 to 2015.",
             "filtering": "News only."},
            {"name": "Wiki", "role": "train", "hub_id": "me/wiki", "config": "sv", "revision": "r2", "language": ["sv"],
             "examples": 1000},
            {"name": "SUCX 3.0", "role": "evaluation", "hub_id": "KBLab/sucx3_ner", "split": "test"},
        ],
        "hyperparameters": {"learning_rate": 1e-4, "lr_scheduler_kwargs": {"a": [1]}},
        "versions": {"distil_trainer": "0.1.0", "torch": "2.13"},
        "hardware": {"cpu": "AMD EPYC", "cores": 2, "memory_gib": 7.5, "gpus": ["H200"], "processes": 1},
        "date": "2026-01-31T12:00:00+00:00",
        "seconds": 3725,
        "steps": 1000,
        "tokens": 2_048_000,
        "command": "python distill.py recipe.yaml",
        "seeds": [100],
        "arguments": {"learning_rate": 1e-4, "max_steps": 1000, "bf16": False},
        "peak_memory_gib": 3.5,
        "emissions": {"co2_grams": 12.3456, "energy_kwh": 0.5, "country": "Sweden"},
        "git_commit": "0123abc-dirty",
        "loss_curve": {
            "loss": [[1, 4.0], [2, 2.0], [3, 1.0]],
            "loss/logits": [[1, 3.0], [2, 1.5], [3, 0.5]],
            "eval_loss": [[2, 2.25], [3, 1.23456]],
        },
        "best_step": 3,
        "speed": {"teacher": [{**ONE, "ms_per_batch": 30}, {**SPEED, "ms_per_batch": 50}],
                  "student": [{**ONE, "ms_per_batch": 10}, {**SPEED, "ms_per_batch": 25}]},
    }  # fmt: skip
    return Record(**{**facts, **changes})


def tuned(**changes):
    facts = {
        "stage": "finetune",
        "data": [{"name": "SUCX 3.0", "role": "train", "hub_id": "KBLab/sucx3_ner", "split": "train"}],
        "hyperparameters": {"num_train_epochs": 3.0, "seed": 100},
        "seeds": [100, 101],
        "evaluations": [
            evaluation("teacher", {100: 0.5, 101: 0.75}),
            evaluation("student", {100: 0.5, 101: 0.5}),
            evaluation("undistilled", {100: 0.25, 101: 0.25}),
            evaluation("student", {7: 2.5}, dataset_name="Åter, My set!", dataset_id=None, metric_type="loss",
                       metric_name=None, higher_is_better=False),
        ],
    }  # fmt: skip
    return Record(**{**facts, **changes})


def metadata(card):
    return yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))


# House rule 12: the whole card as one pattern. <ANY> matches within a line; all else is literal.
WHOLE_CARD = """\
---
base_model: google-bert/bert-base-multilingual-cased
datasets:
- me/wiki
language:
- sv
library_name: transformers
license: apache-2.0
metrics:
- f1
- loss
pipeline_tag: fill-mask
tags:
- distillation
- lightmbert
base_model_relation: finetune
co2_eq_emissions:
  emissions: 12.3456
  source: codecarbon
model-index:
- name: swedish-mbert
  results:
  - task:
      type: token-classification
    dataset:
      name: SUCX 3.0
      type: KBLab/sucx3_ner
      config: simple_cased
      split: test
      revision: abc
    metrics:
    - type: f1
      value: 0.5
      name: F1
  - task:
      type: token-classification
    dataset:
      name: Åter, My set!
      type: ter-my-set
      config: simple_cased
      split: test
      revision: abc
    metrics:
    - type: loss
      value: 2.5
---

# swedish-mbert

<!-- keep: introduction -->
<!-- /keep: introduction -->

A student of [google-bert/bert-base-multilingual-cased](https://huggingface.co/google-bert/bert-base-multilingual-cased) (revision `3f076fdb1ab68d5b2880cb87a0886f315b8146f8`), made by knowledge distillation with the method `lightmbert`.

**google-bert/bert-base-multilingual-cased@3f076fd → swedish-mbert: 1.50× smaller · 2.00× faster · keeps 80.0% of the teacher's F1 on SUCX 3.0**

## Teacher and student

| | Teacher | Student |
|:---|---:|---:|
| Class | `BertForMaskedLM` | `BertForMaskedLM` |
| Blocks | 12 | 6 |
| Width | 768 | 768 |
| Attention heads | 12 | 12 |
| Vocabulary | 119,547 | 119,547 |
| Maximum length in tokens | 512 | 512 |
| Parameters | 150,000,000 | 100,000,000 |
| … of these in embeddings | 60,000,000 | 60,000,000 |
| Size on disk |  | 400.0 MB |
| Latency, 1 × 128 tokens | 30.0 ms | 10.0 ms |
| Throughput, 8 × 128 tokens | 20,480 tokens/s | 40,960 tokens/s |

Speed: median of forward passes without padding, both models in turns, in float32, 2 threads, AMD EPYC.

## Results

| Data | Metric | Teacher | Student | Undistilled | Difference | Retention | Seeds |
|:---|:---|---:|---:|---:|---:|---:|:---|
| [SUCX 3.0](https://huggingface.co/datasets/KBLab/sucx3_ner), `simple_cased`, `test` | F1 | 0.625 ± 0.177 | 0.500 ± 0.000 | 0.250 ± 0.000 | -0.125 | 80.0% | 100, 101 |
| Åter, My set!, `simple_cased`, `test` | loss |  | 2.500 |  |  |  | 7 |

Scores of several seeds are given as mean ± sample standard deviation. Difference is student minus teacher; retention is student divided by teacher, with the same data, fine-tuning and seeds.
Undistilled is the student as it was before distillation.
The models were fine-tuned alike, on the data named below, before they were scored.

## How to use

```python
from transformers import pipeline

fill = pipeline("fill-mask", model="me/swedish-mbert")
print(fill(f"Stockholm är {fill.tokenizer.mask_token} i Sverige."))
```

To fine-tune it, load it with a new head, and train that on your labels:

```python
from transformers import AutoModelForTokenClassification, AutoTokenizer

name = "me/swedish-mbert"
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForTokenClassification.from_pretrained(name, num_labels=9)
print(model.num_labels)
```

<!-- keep: usage -->
<!-- /keep: usage -->

## Training data

- [Gigaword](https://example.org/g%20w); 2,000 tokens; 9.0 MB of text; language: Swedish (sv); licence: `cc-by-4.0`. Years 2010 to 2015. Filtering: News only.
- [Wiki](https://huggingface.co/datasets/me/wiki), configuration `sv`, revision `r2`; 1,000 examples; language: Swedish (sv).

## Evaluation data

- [SUCX 3.0](https://huggingface.co/datasets/KBLab/sucx3_ner), split `train`; for fine-tuning before the evaluation.
- [SUCX 3.0](https://huggingface.co/datasets/KBLab/sucx3_ner), split `test`.

## Procedure

The student began as a copy of the teacher, with 2 of its 12 blocks: 1 ← 1, 2 ← 3 (student block ← teacher block).
Frozen: `embeddings`.

![Which layer of the student learns what from which layer of the teacher](layer_map.png)

### Distillation

The loss is the sum of these terms, each multiplied by its weight and averaged over the positions that count:

| Term | Student | learns | from teacher | Loss per position | Weight |
|:---|:---|:---|:---|:---|---:|
| `hidden_states_s3_t6` | block 3 | hidden states | block 6 | `mse`: mean over width of (S − T)² | 1.0 |
| `attention_probs_s3_t6` | block 3 | attention probabilities | block 6 | `kl`: mean over heads of KL(T ‖ S), over tokens | 1.0 |
| `logits` | output | logits | output | `kl`: τ² KL(softmax(T/τ) ‖ softmax(S/τ)), τ = 2.0, at labelled positions | 0.5 |

Besides its weight each term has a factor, measured as the run goes, that gives all of them gradients of one norm.
The teacher computed in `bfloat16`.
Labels are not used.

These parameters got no gradient: `cls.bias`.

Hyper-parameters that differ from the default of `TrainingArguments`:

| Name | Value |
|:---|:---|
| `learning_rate` | `0.0001` |
| `lr_scheduler_kwargs` | `{"a": [1]}` |

<details>
<summary>All hyper-parameters</summary>

| Name | Value |
|:---|:---|
| `bf16` | `false` |
| `learning_rate` | `0.0001` |
| `max_steps` | `1000` |

</details>

- Date: 2026-01-31T12:00:00+00:00
- Time: 1 h 2 min
- Optimizer steps: 1,000
- Tokens seen: 2,048,000
- Seeds: 100
- Peak memory: 3.5 GiB
- Energy and emissions, by codecarbon: 0.5 kWh, 12.35 g CO₂e, with the electricity of Sweden
- Hardware: H200, AMD EPYC, 2 threads, 7.5 GiB of memory, 1 process
- Versions: distil\\_trainer 0.1.0, torch 2.13
- Git commit: `0123abc-dirty`

```bash
python distill.py recipe.yaml
```

### Fine-tuning for the evaluation

Hyper-parameters that differ from the default of `TrainingArguments`:

| Name | Value |
|:---|:---|
| `num_train_epochs` | `3.0` |
| `seed` | `100` |

- Seeds: 100, 101

### Loss curves

![Loss of each term by optimizer step](loss_curves.png)

| Step | `loss` | `loss/logits` | `eval_loss` |
|---:|---:|---:|---:|
| 1 | 4 | 3 | |
| 2 | 2 | 1.5 | 2.25 |
| 3 (kept) | 1 | 0.5 | 1.235 |

## Limitations

- What the teacher does wrong, its biases included, the student has probably learned; distillation can make them stronger.
- The text that it learned from is in Swedish (sv); the teacher is for many languages. Languages without training text may have become worse.
- It reads at most 512 tokens at once.
- It is meant to be fine-tuned for a task; as it is, it only fills in words.
- 1.0% of its parameters got no gradient and are as they were at the start.
- Some scores come from fewer than three seeds: small differences may be chance.
- Test it on data of your own before you rely on it.

<!-- keep: limitations -->
<!-- /keep: limitations -->

## Licence

- This model: `apache-2.0` (may be used, changed and shared, also commercially, with its notices kept).
- The teacher: `apache-2.0` (may be used, changed and shared, also commercially, with its notices kept).
- The training data Gigaword: `cc-by-4.0` (credit is due).

The student holds weights of the teacher: the teacher's licence applies to it, too.

## Citation

The teacher:

```bibtex
@misc{teacher}
```

The method:

```bibtex
@misc{jiao2021lightmbert,
  title = {{LightMBERT}: A Simple Yet Effective Method for Multilingual {BERT} Distillation},
  author = {Jiao, <ANY>
  year = {2021},
  eprint = {2103.06418},
  archivePrefix = {arXiv}
}
```

The library:

```bibtex
@software{distil_trainer,
  title = {distil\\_trainer: Knowledge distillation of Transformers with the Hugging Face Trainer},
  author = {{The distil\\_trainer authors}},
  version = {0.1.0}
}
```

<!-- keep: notes -->
By *hand*.
<!-- /keep: notes -->
"""  # noqa: E501


def test_the_whole_card():
    pattern = ".*".join(map(re.escape, WHOLE_CARD.split("<ANY>")))
    card = render_card(
        distilled(), tuned(), picture="loss_curves.png", layer_map="layer_map.png", kept={"notes": "By *hand*."}
    )
    assert re.fullmatch(pattern, card), card


@pytest.mark.parametrize(("feature", "loss"), [(feature, loss) for feature in LOSSES for loss in LOSSES[feature]])
def test_every_loss_has_its_formula(feature, loss):
    layers = {} if feature == "logits" else BLOCKS
    card = render_card(distilled(alignments=[{"name": "x", "feature": feature, "loss": loss, **layers}]))
    assert f"| `{loss}`: " in card


def table(curve, **facts):
    card = render_card(distilled(loss_curve=curve, **facts), picture=None)
    return re.findall(r"^\| (\d[\d,]*(?: \(kept\))?) \|", card.split("### Loss curves")[1].split("##")[0], re.MULTILINE)


def test_the_table_of_losses_has_the_evaluations_or_some_steps():
    logged = [[10 * i, 1 / i] for i in range(1, 101)]
    assert table({"loss": logged}) == ["10", "120", "230", "340", "450", "560", "670", "780", "890", "1,000"]
    evaluated = [[200, 1.0], [400, 0.5], [1000, 0.25]]
    assert table({"loss": logged, "eval_loss": evaluated}, best_step=400) == ["200", "400 (kept)", "1,000"]
    assert len(table({"loss": logged, "eval_loss": evaluated[-1:]})) == 10
    assert table({"loss": [[1, 2.0]]}) == ["1"]


def test_the_same_records_give_the_same_card(tmp_path):
    distilled().save(tmp_path / "r.json")
    assert render_card(Record.load(tmp_path / "r.json"), tuned()) == render_card(distilled(), tuned())


def test_the_hub_client_reads_the_metadata():
    card = ModelCard(render_card(distilled(), tuned()))
    assert card.data.model_name == "swedish-mbert"
    assert [(e.dataset_type, e.metric_type, e.metric_value, e.verified) for e in card.data.eval_results] == [
        ("KBLab/sucx3_ner", "f1", 0.5, None),
        ("ter-my-set", "loss", 2.5, None),
    ]
    assert card.data.datasets == ["me/wiki"]


@pytest.mark.parametrize("stage", ["distill", "finetune"])
def test_of_a_minimal_record_only_facts_are_said(stage):
    card = render_card(Record(stage=stage, student={"name": "small"}))
    tags = {"tags": ["distillation"]} if stage == "distill" else {}
    assert metadata(card) == {"library_name": "transformers", **tags}
    assert not re.search(r"none|nan\b|n/a|todo|needed|unknown|\{\{|\{%", card, re.IGNORECASE)
    assert re.findall("^#.*", card, re.MULTILINE) == ["# small", "## Limitations"]
    ModelCard(card)


def test_a_card_without_evaluations_has_no_model_index():
    assert metadata(render_card(distilled())).keys().isdisjoint({"model-index", "model_name", "metrics"})


def test_the_base_model_is_a_hub_id_whose_weights_were_copied():
    assert metadata(render_card(distilled()))["base_model"] == "google-bert/bert-base-multilingual-cased"
    random = {"teacher": "mBERT", "teacher_layers": 12, "copied_blocks": []}
    local = distilled(teacher={"name": "/home/me/teacher"})
    for card in (
        render_card(distilled(provenance=None)),
        render_card(distilled(provenance=random)),
        render_card(local),
    ):
        assert metadata(card).keys().isdisjoint({"base_model", "base_model_relation"})
        assert "/home" not in card


def test_a_fine_tuned_student_starts_from_the_distilled_one():
    record = tuned(student={"name": "ner", "class_name": "BertForTokenClassification"}, evaluations=[])
    data = metadata(render_card(record, distilled()))
    assert (data["base_model"], data["pipeline_tag"]) == ("me/swedish-mbert", "token-classification")
    assert data["datasets"] == ["KBLab/sucx3_ner", "me/wiki"]


def summary(*evaluations, **changes):
    card = render_card(distilled(teacher=None, speed={}), tuned(evaluations=evaluations, **changes))
    return re.findall(r"keeps ([\d.]+%)", card)


def test_retention_compares_only_what_can_be_compared():
    teacher, student = evaluation("teacher", {1: 0.8}), evaluation("student", {1: 0.6})
    assert summary(teacher, student) == ["75.0%"]
    assert summary(teacher, evaluation("student", {2: 0.6})) == []
    assert summary(teacher, evaluation("student", {1: 0.6}, dataset_split="validation")) == []
    assert summary(evaluation("teacher", {1: 0.0}), student) == []
    worse = [evaluation(role, {1: 0.5}, higher_is_better=False) for role in ("teacher", "student")]
    assert summary(*worse) == []
    assert summary(*(evaluation(r, {}, value=v) for r, v in (("teacher", 0.866), ("student", 0.859)))) == ["99.2%"]


def test_runs_are_joined_by_seed_and_kept_apart_by_settings():
    runs = [
        tuned(evaluations=[evaluation(role, {seed: score})], hyperparameters={"learning_rate": rate, "seed": seed})
        for role, seed, score, rate in [
            ("teacher", 1, 0.5, 1.0),
            ("teacher", 2, 0.5, 1.0),
            ("student", 1, 0.25, 1.0),
            ("student", 2, 0.5, 1.0),
            ("student", 3, 1.0, 2.0),
        ]
    ]
    lines = [line for line in render_card(distilled(), *runs).split("\n") if line.startswith("| [SUCX")]
    assert [line.split(" | F1 ")[1] for line in lines] == [
        "| 0.500 ± 0.000 | 0.375 ± 0.177 | -0.125 | 75.0% | 1, 2 |",
        "|  | 1.000 |  |  | 3 |",
    ]
    clash = tuned(evaluations=[evaluation("teacher", {1: 0.75})], hyperparameters={"learning_rate": 1.0})
    with pytest.raises(RecordError, match=r"different f1 of the teacher on SUCX 3\.0"):
        render_card(distilled(), *runs, clash)


def test_rows_that_differ_by_their_fine_tuning_alone_say_so():
    both = [evaluation("teacher", {1: 0.5}), evaluation("student", {1: 0.4})]
    runs = [tuned(evaluations=both, hyperparameters={"learning_rate": rate, "bf16": True}) for rate in (0.1, 0.2)]
    card = render_card(distilled(), *runs)
    assert "`test` (learning\\_rate 0.1) | F1" in card
    assert "on SUCX 3.0 (learning\\_rate 0.2)" in card
    assert "fine-tuned, on the data named below" in card
    assert "fine-tuned alike" in render_card(distilled(), runs[0])
    assert len([r for i in metadata(card)["model-index"] for r in i["results"]]) == 1
    check_metadata(card)


def test_how_the_student_came_about_is_its_own_story():
    teacher = distilled(
        student={"name": "middle"},
        teacher={"name": "huge"},
        provenance={"teacher": "huge", "teacher_layers": 24, "copied_blocks": [7]},
        never_trained={"x": 0.5},
        data=[],
    )
    card = render_card(distilled(never_trained=None), teacher)
    assert "with 2 of its 12 blocks" in card
    assert "got no gradient and are" not in card
    random = {"teacher": "mBERT", "teacher_layers": 12, "copied_blocks": []}
    assert "base_model" not in metadata(render_card(distilled(provenance=random), teacher))


def test_a_record_that_is_given_twice_counts_once():
    assert render_card(distilled(), tuned(), distilled(), tuned()) == render_card(distilled(), tuned())


@pytest.mark.parametrize(
    ("parameters", "milliseconds", "said"),
    [(200_000_000, 25, "1.33× larger · 2.00× faster"), (100_000_000, 100, "1.50× smaller · 2.00× slower")],
)
def test_what_got_worse_is_called_so(parameters, milliseconds, said):
    student = {"name": "s", "parameters": parameters}
    speed = {"teacher": [{**SPEED, "ms_per_batch": 50}], "student": [{**SPEED, "ms_per_batch": milliseconds}]}
    assert said in render_card(distilled(student=student, speed=speed))


def test_the_sentence_about_speed_holds_for_every_row():
    other = [{**ONE, "ms_per_batch": 30, "dtype": "bfloat16"}, {**SPEED, "ms_per_batch": 50}]
    card = render_card(distilled(speed={"teacher": other, "student": other}))
    assert "Latency, 8 × 128 tokens | 50.0 ms" in card
    assert "30.0 ms" not in card


@pytest.mark.parametrize(("share", "shown"), [(0.0001, "less than 0.1%"), (0.25, "25.0%")])
def test_small_shares_are_not_rounded_away(share, shown):
    assert f"- {shown} of its parameters got no gradient" in render_card(distilled(never_trained={"x": share}))


def test_a_retention_below_nothing_stays_visible():
    scores = [evaluation("teacher", {1: 0.5}), evaluation("student", {1: -0.1})]
    assert "keeps -20.0% of" in render_card(distilled(), tuned(evaluations=scores))


@pytest.mark.parametrize("curve", [{"eval_loss/x": [[1, 2.0]]}, {"loss": []}, {"eval_loss": [[1, 2.0]]}])
def test_curves_with_little_in_them(curve):
    render_card(distilled(loss_curve=curve))


def test_a_citation_cannot_hold_a_marker():
    card = render_card(
        distilled(teacher={"name": "t", "citation": "<!-- keep: notes -->\n@x"}), kept={"notes": "Mine."}
    )
    assert kept_sections(card) == {"notes": "Mine."}


@pytest.mark.parametrize(
    ("licence", "meaning"),
    [("cc-by-nc-nd-4.0", "must not be shared"), ("cc-by-nc-sa-4.0", "shared alike"), ("cc-by-nc-4.0", "use; credit")],
)
def test_the_meaning_of_a_licence_is_that_of_the_whole_identifier(licence, meaning):
    line = re.search(
        r"- This model: .*", render_card(Record(stage="distill", student={"name": "s", "license": licence}))
    )[0]
    assert meaning in line


@pytest.mark.parametrize("name", ["ViTModel", "GPT2DoubleHeadsModel", "PeftModel"])
def test_no_snippet_is_better_than_one_that_does_not_run(name):
    card = render_card(Record(stage="distill", student={"name": "s", "class_name": name}))
    assert "How to use" not in card
    assert metadata(card)["library_name"] == ("peft" if name == "PeftModel" else "transformers")


def test_times_under_other_conditions_are_not_compared():
    speed = {"teacher": [{**SPEED, "ms_per_batch": 50}], "student": [{**SPEED, "ms_per_batch": 25, "threads": 1}]}
    assert "faster" not in render_card(distilled(speed=speed))


def test_more_than_three_retentions_are_a_range():
    scores = [
        evaluation(r, {1: v}, dataset_name=str(n))
        for n in range(4)
        for r, v in (("teacher", 1), ("student", 0.9 + n / 100))
    ]
    assert "keeps 90.0% to 93.0% of the teacher's scores" in render_card(
        tuned(student={"name": "x"}, evaluations=scores)
    )


@pytest.mark.parametrize("records", [(), (Record(stage="distill"),)])
def test_a_card_needs_a_student(records):
    with pytest.raises(RecordError, match="needs a record with a student"):
        render_card(*records)


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


CONFIG = BertConfig(
    vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
    max_position_embeddings=64,
)  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Stockholm", "is", "the", "of", "Sweden", "."]


def tokenizer():
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokens, **special)


def gpt2(_):
    special = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=64, **special)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("build", "task"),
    [
        (BertModel, "feature-extraction"),
        (BertForMaskedLM, "fill-mask"),
        (BertForPreTraining, "fill-mask"),
        (BertForTokenClassification, "token-classification"),
        (BertForSequenceClassification, "text-classification"),
        (BertForQuestionAnswering, "question-answering"),
        (gpt2, "text-generation"),
    ],
)
def test_the_snippet_runs_as_it_stands(tmp_path, monkeypatch, build, task):
    torch.manual_seed(0)
    model = build(CONFIG)
    model.save_pretrained(tmp_path / "my-student")
    tokenizer().save_pretrained(tmp_path / "my-student")
    card = render_card(Record(stage="distill", student=model_facts(model, name="my-student")))
    assert metadata(card)["pipeline_tag"] == task
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == {"feature-extraction": 2, "fill-mask": 2 + (build is BertForPreTraining)}.get(task, 1)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about itself here
        for snippet in snippets:
            exec(snippet, {})
    assert printed.getvalue()  # an untrained question answerer may print an empty line
    if task == "feature-extraction":
        assert printed.getvalue() == "torch.Size([1, 9, 8])\n9\n"
