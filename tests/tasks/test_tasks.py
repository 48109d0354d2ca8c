import pytest
import torch
from conftest import tiny_config, tiny_model
from datasets import ClassLabel, Dataset, Features, List, Value
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from distil_trainer.errors import DataError, DistilTrainerError
from distil_trainer.metadata.lists import TASKS as HUB_TASKS
from distil_trainer.tasks import TASKS, load_for_task

WORDS, TEXTS, NUMBERS = (TASKS[n] for n in ("token-classification", "text-classification", "sentence-similarity"))
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"]
TAGS = ["O", "B-X", "I-X"]


@pytest.fixture
def tokenizer():
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_input_names=inputs
    )


@pytest.fixture
def saved(tmp_path):
    def save(model_class, dtype=torch.float32, **overrides):
        tiny_model(model_class, **overrides).to(dtype).save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def pairs(labels, **columns):
    return Dataset.from_dict({"one": ["a b", "c"], "two": ["c", "b b b"], **columns, "label": labels})


def test_the_hub_knows_the_tasks():
    assert set(TASKS) <= HUB_TASKS


def test_words_are_tagged(tokenizer):
    data = Dataset.from_dict({"tokens": [["a", "b"]], "tags": [["O", "B-X"]]})
    assert WORDS.labels(data, "tags") == ["O", "B-X"]
    encoded = WORDS.encode(data, tokenizer, ["O", "B-X"], ("tokens", "tags"), 8)
    assert encoded["labels"][:] == [[-100, 0, 1, -100]]


def tagged(tags, tokens=("a", "b")):
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=TAGS))})
    return Dataset.from_dict({"tokens": [["a", "b"], tokens], "tags": [[0, 1], tags]}, features=features)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tagged([0, -1]), "expected class ids from 0 to 2, got -1"),  # Python would take it as the last of them
        (tagged([0, None]), "got None"),
        (tagged(None), "got None in row 1"),
        (tagged([0, 1], None), "got None in row 1"),
        (tagged([0, 1], ["a", None]), "got None in row 1"),
    ],
)
def test_words_that_cannot_be_tagged(tokenizer, data, message):
    assert WORDS.labels(data, "tags") == TAGS
    with pytest.raises(DataError, match=message):
        WORDS.encode(data, tokenizer, TAGS, ("tokens", "tags"), 8)


@pytest.mark.parametrize("adds_space", [False, True])
def test_words_are_the_tokens_that_they_are_in_a_text(adds_space):
    """In the byte-level BPE of RoBERTa and ModernBERT a token at the beginning of a word holds the space before it."""
    bytes_ = Tokenizer(BPE({"a": 0, "b": 1, "Ġ": 2, "Ġa": 3, "Ġb": 4, "ab": 5, "Ġab": 6}, [("Ġ", "a"), ("Ġa", "b")]))
    bytes_.pre_tokenizer = ByteLevel(add_prefix_space=adds_space)
    read = PreTrainedTokenizerFast(tokenizer_object=bytes_)
    data = Dataset.from_dict({"tokens": [["ab", "a", "ab"]], "tags": [["O", "B-X", "O"]]})
    encoded = WORDS.encode(data, read, TAGS, ("tokens", "tags"), 8)
    assert encoded["input_ids"][0] == [6, 3, 6] == read(" ab a ab")["input_ids"]
    assert encoded["labels"][0] == [0, 1, 0]


def test_one_text_and_two(tokenizer):
    data = pairs(["yes", "no"])
    names = TEXTS.labels(data, "label")
    assert names == ["no", "yes"]
    single = TEXTS.encode(data, tokenizer, names, ("one", "label"), 8)
    assert single["input_ids"][:] == [[2, 4, 5, 3], [2, 6, 3]]
    assert single["labels"][:] == [1, 0]
    double = TEXTS.encode(data, tokenizer, names, ("one", "two", "label"), 6)
    assert double["input_ids"][:] == [[2, 4, 5, 3, 6, 3], [2, 6, 3, 5, 5, 3]]
    assert double["token_type_ids"][:] == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]
    batch = TEXTS.collator(tokenizer)([single[0], single[1]])
    assert batch["labels"].tolist() == [1, 0]
    assert batch["input_ids"].shape == (2, 4)


def test_classes_by_number_and_by_name(tokenizer):
    assert TEXTS.labels(pairs([10, 9]), "label") == ["9", "10"]
    assert TEXTS.encode(pairs([10, 9]), tokenizer, ["9", "10"], ("one", "label"), 8)["labels"][:] == [1, 0]
    features = Features({"one": Value("string"), "two": Value("string"), "label": ClassLabel(names=["z", "y", "x"])})
    named = pairs([0, 2]).cast(features)
    assert TEXTS.labels(named, "label") == ["z", "y", "x"]
    assert TEXTS.encode(named, tokenizer, ["x", "y", "z"], ("one", "label"), 8)["labels"][:] == [2, 0]


def test_scores_are_numbers(tokenizer):
    data = pairs([1, 4])
    assert NUMBERS.labels(data, "label") == []
    encoded = NUMBERS.encode(data, tokenizer, [], ("one", "two", "label"), 8)
    assert encoded["labels"][:] == [1.0, 4.0]
    assert NUMBERS.collator(tokenizer)([encoded[0]])["labels"].dtype == torch.float32


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        (TEXTS, pairs(["x", "y"]), r"expected one of the classes \['x'\], got 'y' in row 1"),
        (TEXTS, pairs(["x", None]), "got None in row 1"),
        (TEXTS, pairs(["x", "x"], two=["a", None]), "expected text under 'two', got None in row 1"),
        (NUMBERS, pairs([1.0, None]), "expected a number under 'label', got None in row 1"),
        (NUMBERS, pairs([1.0, float("nan")]), "expected a number under 'label', got nan in row 1"),
        (NUMBERS, pairs(["1", "2"]), "expected a number under 'label', got '1' in row 0"),
    ],
)
def test_rows_that_cannot_be_used(tokenizer, task, data, message):
    with pytest.raises(DataError, match=message):
        task.encode(data, tokenizer, [] if task is NUMBERS else ["x"], ("one", "two", "label"), 8)


@pytest.mark.parametrize("labels", [[1.5, 2.0], ["a", None], ["a", "a"]])
def test_what_is_no_class(labels):
    with pytest.raises(DataError, match=r"expected (a class|two classes)"):
        TEXTS.labels(pairs(labels), "label")


def test_an_unlabelled_split_is_refused(tokenizer):
    features = Features({"one": Value("string"), "two": Value("string"), "label": ClassLabel(names=["x"])})
    with pytest.raises(DataError, match="got -1 in row 1"):
        TEXTS.encode(pairs([0, -1]).cast(features), tokenizer, ["x"], ("one", "label"), 8)


@pytest.mark.parametrize("model_class", [BertModel, BertForMaskedLM, BertForPreTraining])
def test_a_new_head_depends_on_the_seed_alone(saved, model_class, capfd):
    folder = saved(model_class, dtype=torch.bfloat16)
    capfd.readouterr()
    heads = []
    for seed in (1, 1, 2):
        set_seed(seed)
        model, new = load_for_task(folder, WORDS, TAGS)
        assert new == ["classifier.bias", "classifier.weight"]
        assert model.dtype == torch.float32
        assert model.config.id2label == dict(enumerate(TAGS))
        heads.append(model.classifier.weight.detach())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert capfd.readouterr() == ("", "")


def test_heads_for_texts(saved):
    folder = saved(BertForMaskedLM)  # without a pooler
    model, new = load_for_task(folder, TEXTS, ["x", "y", "z"])
    assert [name for name in new if "pooler" not in name] == ["classifier.bias", "classifier.weight"]
    assert model.num_labels == 3
    model, _ = load_for_task(folder, NUMBERS, [])
    assert (model.num_labels, model.config.problem_type) == (1, "regression")


@pytest.mark.parametrize(("problem", "size"), [("regression", 1), ("regression", 3), ("multi_label_classification", 3)])
def test_classes_are_learned_as_classes_whatever_was_before(saved, problem, size):
    folder = saved(BertForSequenceClassification, num_labels=size, problem_type=problem)
    model, _ = load_for_task(folder, TEXTS, ["x", "y", "z"])
    model(input_ids=torch.tensor([[2, 4], [2, 5]]), labels=torch.tensor([0, 2])).loss.backward()
    assert model.config.problem_type == "single_label_classification"


def head(model):
    return model.classifier.weight.detach()


def test_a_head_for_the_same_labels_is_kept(saved):
    folder = saved(BertForTokenClassification, **WORDS.head(TAGS))
    kept, new = load_for_task(folder, WORDS, TAGS)
    assert new == []
    assert torch.equal(head(kept), head(BertForTokenClassification.from_pretrained(folder)))


@pytest.mark.parametrize(
    ("model_class", "names"),
    [
        (BertForTokenClassification, ["O", "B-Y", "I-Y"]),  # of the same size
        (BertForTokenClassification, ["O", "B-X"]),
        (BertForSequenceClassification, TAGS),  # the same labels, of another task
    ],
)
def test_a_head_for_anything_else_is_left_out(saved, model_class, names):
    folder = saved(model_class, **WORDS.head(names))
    before = model_class.from_pretrained(folder)
    model, new = load_for_task(folder, WORDS, TAGS)
    assert new == ["classifier.bias", "classifier.weight"]
    assert not torch.equal(head(model), head(before)[:3]) if len(names) == 3 else head(model).shape == (3, 32)
    body = before.bert.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in model.bert.state_dict().items())


def test_missing_weights_are_refused(saved, tmp_path):
    folder = saved(BertModel)
    tiny_config(num_hidden_layers=5).save_pretrained(folder)
    with pytest.raises(DistilTrainerError, match=r"without its head in .*, but 16 of them are missing .*bert.encoder"):
        load_for_task(folder, WORDS, TAGS)
