"""Examples that teachers label: which are taken, and what their labels are."""

import json
from pathlib import Path

import pytest
import torch
from conftest import word_tokenizer
from datasets import Dataset
from forked import run_forked
from torch import nn
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding, TrainingArguments
from transformers.modeling_outputs import TokenClassifierOutput

from distil_trainer.errors import DataError
from distil_trainer.recipe import UnlabelledData
from distil_trainer.record import DataFacts
from distil_trainer.tasks.splits import Split, read_unlabelled
from distil_trainer.tasks.unlabelled import with_labels, with_placeholders, without_known

WORDS = [f"w{i}" for i in range(9)]


class Says(nn.Module):
    """A teacher whose scores are a table's: a row for each piece, or of a text the sum over its pieces."""

    def __init__(self, table, of_texts=False):
        super().__init__()
        self.table, self.of_texts = nn.Parameter(table), of_texts

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        scores = self.table[input_ids]
        if self.of_texts:
            scores = (scores * attention_mask[..., None]).sum(1)
        return TokenClassifierOutput(logits=scores)


def split(*columns, name="Text", **rows):
    facts = DataFacts(name=name, role="unlabelled", examples=len(rows[columns[0]]))
    return Split(rows=Dataset.from_dict(rows), columns=columns, facts=facts)


@pytest.fixture
def args(tmp_path):
    return TrainingArguments(
        output_dir=str(tmp_path), per_device_eval_batch_size=2, use_cpu=True, report_to="none", disable_tqdm=True
    )


def test_a_data_set_of_the_hub_is_read_without_its_labels(tmp_path, monkeypatch):
    """A folder laid out as a data set is at refs/convert/parquet, in its place."""
    monkeypatch.chdir(tmp_path)
    for part, number in (("train", 3), ("test", 2)):
        folder = tmp_path / "org" / "name" / "default" / part
        folder.mkdir(parents=True)
        Dataset.from_dict({"tokens": [[part]] * number, "ner_tags": [["O"]] * number}).to_parquet(
            folder / "0000.parquet"
        )
    source = {"name": "Name", "hub_id": "org/name", "config": "default", "revision": "refs/convert/parquet"}
    both = read_unlabelled(UnlabelledData(**source, splits=("train", "test")), words=True)
    assert both.rows["tokens"] == [["train"]] * 3 + [["test"]] * 2
    assert both.rows.column_names == ["tokens"]
    assert (both.facts.role, both.facts.split, both.facts.examples) == ("unlabelled", "train+test", 5)
    some = read_unlabelled(UnlabelledData(**source, max_examples=2), words=True)
    assert (len(some.rows), some.facts.filtering) == (2, "2 of its 3 examples, drawn at random.")


def test_what_is_in_another_split_is_left_out():
    ours = split("tokens", tokens=[["a"], ["b", "c"], ["d"]])
    train = split("tokens", "tags", tokens=[["b", "c"], ["e"]], tags=[["O", "O"], ["O"]])
    left = without_known(ours, [train])
    assert left.rows["tokens"] == [["a"], ["d"]]
    assert (left.facts.examples, left.facts.filtering) == (
        2,
        "Left out, because they are labelled or scored on: 1.",
    )
    assert without_known(ours, [split("tokens", "tags", tokens=[["x"]], tags=[["O"]])]) is ours
    with pytest.raises(DataError, match="expected examples in Text that are in no other split, got none"):
        without_known(ours, [ours])


def test_pairs_are_the_same_only_if_both_texts_are():
    ours = split("one", "two", one=["a", "a"], two=["b", "c"])
    train = split("one", "two", "score", one=["a"], two=["b"], score=[1.0])
    assert without_known(ours, [train]).rows["two"] == ["c"]


@pytest.mark.parametrize(("names", "first"), [(["yes", "no"], "yes"), ([], 0.0)])
def test_texts_have_one_placeholder(names, first):
    given = with_placeholders(split("text", text=["a", "b"]), names, words=False)
    assert given.rows[given.columns[-1]] == [first, first]


def test_words_have_a_placeholder_each():
    given = with_placeholders(split("tokens", tokens=[["a"], ["b", "c"]]), ["O", "B-PER"], words=True)
    assert given.rows[given.columns[-1]] == [["O"], ["O", "O"]]


@pytest.mark.parametrize("side", ["right", "left"])
def test_words_get_the_class_that_the_teachers_together_hold_for_likeliest(args, side):
    tokenizer = word_tokenizer(WORDS)
    tokenizer.padding_side = side
    sure, torn = torch.tensor([4.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 1.9])
    table = torch.stack([sure.roll(i % 3) for i in range(len(tokenizer))])
    other = torn.repeat(len(tokenizer), 1)
    rows = Dataset.from_dict(
        {
            "input_ids": [[5, 6, 7], [8], [9, 10]],
            "attention_mask": [[1, 1, 1], [1], [1, 1]],
            "labels": [[0, -100, 0], [0], [-100, 0]],
        }
    )
    train = Dataset.from_dict({"input_ids": [[5]], "attention_mask": [[1]], "labels": [[2]]})
    collator = DataCollatorForTokenClassification(tokenizer)
    both = with_labels(train, rows, [Says(table), Says(other)], collator, args)
    mean = [(table[i].softmax(0) + torn.softmax(0)).argmax().item() for i in range(len(tokenizer))]
    assert both["labels"] == [[2], [mean[5], -100, mean[7]], [mean[8]], [-100, mean[10]]]
    assert both["input_ids"] == [[5], [5, 6, 7], [8], [9, 10]]
    assert len(set(mean)) > 1


def test_pieces_are_named_as_the_teacher_knows_them(args):
    tokenizer = word_tokenizer(WORDS)
    table = torch.eye(3)[torch.arange(20) % 3]
    rows = Dataset.from_dict({"input_ids": [[5, 6]], "attention_mask": [[1, 1]], "labels": [[0, 0]]})
    kept_ids = [2 * i for i in range(9)]
    collator = DataCollatorForTokenClassification(tokenizer)
    both = with_labels(rows, rows, [Says(table)], collator, args, kept_ids)
    assert both["labels"][1] == [10 % 3, 12 % 3]
    assert both["input_ids"][1] == [5, 6]


@pytest.mark.parametrize("classes", [1, 3])
def test_texts_get_a_class_or_a_number(args, classes):
    tokenizer = word_tokenizer(WORDS)
    table = torch.arange(20.0).view(20, 1) if classes == 1 else torch.eye(3)[torch.arange(20) % 3]
    label = 0.0 if classes == 1 else 0
    rows = Dataset.from_dict(
        {
            "input_ids": [[5, 6], [7, 7, 7], [8]],
            "attention_mask": [[1, 1], [1, 1, 1], [1]],
            "labels": [label] * 3,
        }
    )
    both = with_labels(rows, rows, [Says(table, True), Says(table, True)], DataCollatorWithPadding(tokenizer), args)
    expected = [11.0, 21.0, 8.0] if classes == 1 else [0, 1, 2]
    found = both["labels"][3:]
    if classes == 1:
        assert found == expected
    else:
        assert [table[ids].sum(0)[label].item() for ids, label in zip(rows["input_ids"], found, strict=True)] == [
            table[ids].sum(0).max().item() for ids in rows["input_ids"]
        ]


def label_in_each_process(folder):
    """Leaves what this process has of one row, and of five."""
    args = TrainingArguments(output_dir=str(folder), per_device_eval_batch_size=2, use_cpu=True, report_to="none")
    teacher, collator = (
        Says(torch.eye(3)[torch.arange(20) % 3]),
        DataCollatorForTokenClassification(word_tokenizer(WORDS)),
    )
    found = []
    for number in (1, 5):
        ids = [[5 + row] * (row + 1) for row in range(number)]
        rows = Dataset.from_dict(
            {
                "input_ids": ids,
                "attention_mask": [[1] * len(row) for row in ids],
                "labels": [[0] * len(row) for row in ids],
            }
        )
        found.append(with_labels(rows, rows, [teacher], collator, args)["labels"][number:])
    (Path(folder) / f"{args.process_index}.json").write_text(json.dumps(found))


def test_processes_share_the_work_and_have_all_of_it(tmp_path):
    run_forked("tasks.test_unlabelled", "label_in_each_process", tmp_path)
    expected = [[[(5 + row) % 3] * (row + 1) for row in range(number)] for number in (1, 5)]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [expected] * 2
