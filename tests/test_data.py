import json

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, disable_caching, enable_caching
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from distil_trainer.data import (
    check_tags,
    group_tokens,
    label_list,
    sample_rows,
    tokenize_and_label,
    tokenize_text,
)
from distil_trainer.errors import DataError
from distil_trainer.text.files import load_text

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat", "##s", "##ting", "."]


@pytest.fixture
def tokenizer():
    wordpiece = Tokenizer(WordPiece({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    wordpiece.normalizer = BertNormalizer()
    wordpiece.pre_tokenizer = BertPreTokenizer()
    wordpiece.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=wordpiece, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(params=["cached", "uncached"])
def caching(request):
    if request.param == "uncached":
        disable_caching()
    yield
    enable_caching()


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def words(tags, tokens=None):
    return Dataset.from_dict({"tokens": tokens or [["a", "cats", "."] for _ in tags], "ner_tags": tags})


def test_text_from_both_kinds_of_file(write, tmp_path, caching):
    lines = write("a.jsonl", '{"text": "a cat", "id": 1}\n{"text": " ", "id": 2}\n')
    plain = write("b.txt", "sat .\n\na\n")
    loaded = load_text([lines, str(plain)], cache_dir=tmp_path / "cache")
    assert loaded.column_names == ["text"]
    assert loaded["text"][:] == ["a cat", "sat .", "a"]
    assert load_text(plain, cache_dir=tmp_path / "cache")["text"][:] == ["sat .", "a"]


def test_text_of_another_column(write, tmp_path):
    path = write("a.jsonl", '{"body": "a cat", "text": 1}\n')
    assert load_text(path, column="body", cache_dir=tmp_path / "cache")["text"][:] == ["a cat"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.jsonl", None, "there is none"),
        ("a.csv", "text", "expected a .jsonl or .txt"),
        ("empty.txt", "", "is empty"),
        ("blank.txt", "\n \n", "all of them are blank"),
        ("broken.jsonl", '{"text": ', "cannot be read"),
        ("other.jsonl", '{"body": "a"}\n', "expected a column 'text'.*body"),
        ("numbers.jsonl", '{"text": 1}\n', "expected strings"),
    ],
)
def test_files_that_cannot_be_used(write, tmp_path, name, text, message):
    path = tmp_path / name if text is None else write(name, text)
    with pytest.raises(DataError, match=message):
        load_text(path, cache_dir=tmp_path / "cache")


def test_no_files():
    with pytest.raises(DataError, match="got none"):
        load_text([])


def test_tokenize_text(tokenizer, caching):
    texts = Dataset.from_dict({"text": ["A cat sat.", "\u200b", "a a a a a a"], "id": [1, 2, 3]})
    tokenized = tokenize_text(texts, tokenizer, 5)
    assert set(tokenized.column_names) == set(tokenizer.model_input_names)
    assert tokenized["input_ids"][:] == [[2, 4, 5, 6, 3], [2, 4, 4, 4, 3]]
    assert tokenized["attention_mask"][:] == [[1] * 5, [1] * 5]


def test_tokenize_text_with_nothing_left(tokenizer):
    with pytest.raises(DataError, match="the tokenizer left none"):
        tokenize_text(Dataset.from_dict({"text": ["", "\u200b"]}), tokenizer, 5)
    with pytest.raises(DataError, match="got an empty one"):
        tokenize_text(Dataset.from_dict({"text": []}), tokenizer, 5)
    with pytest.raises(DataError, match="missing"):
        tokenize_text(Dataset.from_dict({"body": ["a"]}), tokenizer, 5)


def test_label_list():
    assert label_list(words([["O", "B-X", "I-X"], ["B-A", "O", "O"]])) == ["O", "B-A", "B-X", "I-X"]
    with pytest.raises(DataError, match=r"expected BIO tags.*'X'"):
        label_list(words([["O", "X", "O"]]))
    with pytest.raises(DataError, match="empty"):
        label_list(words([]))


def test_first_sub_token_is_labelled(tokenizer, caching):
    labelled = tokenize_and_label(words([["O", "B-X", "I-X"]]), tokenizer, ["O", "B-X", "I-X"], 16)
    assert labelled["input_ids"][0] == [2, 4, 5, 7, 9, 3]  # a cat ##s .
    assert labelled["labels"][0] == [-100, 0, 1, -100, 2, -100]
    assert set(labelled.column_names) == {*tokenizer.model_input_names, "labels"}


def test_a_word_twice_in_a_row_is_two_words(tokenizer):
    twice = words([["B-X", "B-X", "O"]], [["cats", "cats", "a"]])
    assert tokenize_and_label(twice, tokenizer, ["O", "B-X"], 16)["labels"][0] == [-100, 1, -100, 1, -100, 0, -100]


def test_truncation_and_rows_without_words(tokenizer):
    data = words([["B-X", "O", "O"], []], [["sitting", "a", "cat"], []])
    labelled = tokenize_and_label(data, tokenizer, ["O", "B-X"], 4)
    assert labelled["labels"][:] == [[-100, 1, 0, -100]]


def test_class_ids_are_read_as_names(tokenizer):
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-X", "B-A"]))})
    data = Dataset.from_dict({"tokens": [["a", "cat"]], "ner_tags": [[1, 2]]}, features=features)
    assert label_list(data) == ["O", "B-A", "B-X"]
    assert tokenize_and_label(data, tokenizer, label_list(data), 8)["labels"][0] == [-100, 2, 1, -100]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([["O", "O", "O"], ["O", "O"]], "got 3 words, 2 tags in row 1"),
        ([["O", "B-NEW", "O"]], r"got \['B-NEW'\] in row 0"),
        ([["O", "B_X", "O"]], "expected BIO tags"),
    ],
)
def test_rows_that_cannot_be_labelled(tokenizer, tags, message):
    with pytest.raises(DataError, match=message):
        tokenize_and_label(words(tags), tokenizer, ["O", "B-X"], 16)


def test_check_tags():
    check_tags(["O", "B-PER", "I-some-thing"])
    for tag in ("", "B-", "o", "L-PER", "B-a b"):
        with pytest.raises(DataError, match="expected BIO tags"):
            check_tags([tag])


def test_samples_repeat(write, tmp_path):
    path = write("a.jsonl", "".join(json.dumps({"text": f"a {i}"}) + "\n" for i in range(50)))
    data = load_text(path, cache_dir=tmp_path / "cache")
    drawn = sample_rows(data, 5, seed=3)["text"][:]
    assert drawn == sample_rows(data, 5, seed=3)["text"][:] != sample_rows(data, 5, seed=4)["text"][:]
    assert len(set(drawn)) == 5
    assert len(sample_rows(data, 500)) == 50
    with pytest.raises(DataError, match="at least 1"):
        sample_rows(data, 0)


def test_grouped_rows_are_full_and_keep_the_order(tokenizer):
    texts = Dataset.from_dict({"text": ["a cat", "a cat sat .", "sits", "a ."]})
    tokenized = tokenize_text(texts, tokenizer, None)
    joined = [token for row in tokenized["input_ids"] for token in row]
    grouped = group_tokens(tokenized, 5)
    assert grouped["input_ids"] == [joined[i : i + 5] for i in range(0, len(joined) - 4, 5)]
    assert all(len(row) == 5 for column in grouped.column_names for row in grouped[column])


def test_grouping_needs_enough_tokens(tokenizer):
    tokenized = tokenize_text(Dataset.from_dict({"text": ["a cat"]}), tokenizer, None)
    with pytest.raises(DataError, match="at least 100 tokens to fill a row"):
        group_tokens(tokenized, 100)
    with pytest.raises(DataError, match="length=0"):
        group_tokens(tokenized, 0)
