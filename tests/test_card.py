import re

import pytest
from card_records import BLOCKS, ONE, SPEED, distilled, metadata, tuned
from huggingface_hub import ModelCard

from distil_trainer.card import render_card
from distil_trainer.errors import RecordError
from distil_trainer.losses import LOSSES
from distil_trainer.methods import METHODS
from distil_trainer.record import Record

# The whole card as one pattern. <ANY> matches within a line; all else is literal.
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
| Åter, My set!, `simple_cased`, `test` (fine-tuned on SUCX 3.0 train) | loss |  | 2.500 |  |  |  | 7 |

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
What is compared of it was computed once, and kept in `float16`: of the logits the 64 largest of each position, and the probability of all others together.
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


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_cited(method):
    paper = re.search(r"arXiv (\d{4}\.\d{5})", METHODS[method].__doc__)[1]
    assert f"eprint = {{{paper}}}" in render_card(distilled(method=method))


def test_what_is_compared_at_the_first_token_says_so():
    term = {"name": "x", "feature": "hidden_states", "loss": "mse", "positions": "first", **BLOCKS}
    assert "(S − T)², at the first token |" in render_card(distilled(alignments=[term]))


@pytest.mark.parametrize(("projection", "words"), [(True, ""), ("shared", " that such terms share")])
def test_what_is_compared_after_a_projection_says_so(projection, words):
    term = {"name": "x", "feature": "hidden_states", "loss": "mse", "projection": projection, **BLOCKS}
    assert f"(S − T)², after a learned projection{words} |" in render_card(distilled(alignments=[term]))


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


def test_a_smaller_vocabulary_is_told():
    facts = {"teacher": "mBERT", "teacher_layers": 12, "copied_blocks": [1], "kept_pieces": 16_061}
    card = render_card(distilled(provenance={**facts, "teacher_pieces": 119_547}))
    assert "Its vocabulary holds 16,061 of the teacher's 119,547 pieces, with their vectors.\nNothing was" in card
    assert "Logits are compared among the pieces that the student has." in card
    assert "pieces" not in render_card(distilled())


def test_a_narrower_student_is_told():
    facts = {"teacher": "mBERT", "teacher_layers": 12, "copied_blocks": [1], "units_chosen_by": "importance"}
    card = render_card(distilled(provenance={**facts, "kept_units": {"hidden size": (384, 768), "heads": (6, 12)}}))
    told = (
        "Of the teacher's width it kept 384 of 768 (hidden size), 6 of 12 (heads), chosen by importance.\nNothing was"
    )
    assert told in card
    assert "width it kept" not in render_card(distilled())


def test_a_student_with_random_weights_and_a_smaller_vocabulary():
    facts = {"teacher": "mBERT", "teacher_layers": 12, "kept_pieces": 16_061, "teacher_pieces": 119_547}
    card = render_card(distilled(provenance=facts))
    assert "No block of the student was copied from the teacher.\nIts vocabulary holds 16,061 of" in card
    assert "with their vectors" not in card


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


@pytest.mark.parametrize("curve", [{"eval_loss/x": [[1, 2.0]]}, {"loss": []}, {"eval_loss": [[1, 2.0]]}])
def test_curves_with_little_in_them(curve):
    render_card(distilled(loss_curve=curve))


@pytest.mark.parametrize(
    ("licence", "meaning"),
    [("cc-by-nc-nd-4.0", "must not be shared"), ("cc-by-nc-sa-4.0", "shared alike"), ("cc-by-nc-4.0", "use; credit")],
)
def test_the_meaning_of_a_licence_is_that_of_the_whole_identifier(licence, meaning):
    line = re.search(
        r"- This model: .*", render_card(Record(stage="distill", student={"name": "s", "license": licence}))
    )[0]
    assert meaning in line


def test_times_under_other_conditions_are_not_compared():
    speed = {"teacher": [{**SPEED, "ms_per_batch": 50}], "student": [{**SPEED, "ms_per_batch": 25, "threads": 1}]}
    assert "faster" not in render_card(distilled(speed=speed))


@pytest.mark.parametrize("records", [(), (Record(stage="distill"),)])
def test_a_card_needs_a_student(records):
    with pytest.raises(RecordError, match="needs a record with a student"):
        render_card(*records)
