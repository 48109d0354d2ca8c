import json
import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
from datasets.fingerprint import Hasher
from tiny_tokenizers import (
    KINDS,
    SPECIAL,
    TEXTS,
    bert,
    gpt2,
    letters,
    llama2,
    random_bpe,
    random_unigram,
    random_wordpiece,
    roberta,
    sentences,
    t5,
    words,
    xlmr,
)
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from distil_trainer.errors import DistilTrainerError, VocabularyError
from distil_trainer.vocabulary import match_pieces, trim_vocabulary

LANGUAGE, OTHER = TEXTS[:300], TEXTS[300:]
UNSEEN = sentences(200, seed=9)

every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


def old_ids(trimmed, text, **options):
    """What the student's tokenizer makes of a text, as the teacher's ids."""
    return [trimmed.kept_ids[number] for number in trimmed.tokenizer(text, **options)["input_ids"]]


def file_of(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str())


# --- what is kept means what it meant


@every_kind
@pytest.mark.parametrize("coverage", [0.7, 0.9, 0.97, 1.0])
def test_a_text_whose_pieces_are_all_kept_is_cut_as_it_was(make, coverage):
    teacher = make()
    trimmed = trim_vocabulary(teacher, LANGUAGE, coverage=coverage)
    kept, cut = set(trimmed.kept_ids), 0
    single_words = " ".join(TEXTS[:50]).split()
    for text in [*TEXTS, *UNSEEN, "", "Tvåspråkig! 1984 ☃", *single_words]:
        before = teacher(text)["input_ids"]
        if kept.issuperset(before):
            cut += 1
            assert old_ids(trimmed, text) == before
    assert cut > 40


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("make", [random_unigram, random_bpe, random_wordpiece])
def test_that_holds_for_random_pieces(make, seed):
    draw = random.Random(seed)
    teacher = make(draw)
    texts = [" ".join(letters(draw, draw.randint(1, 12)) for _ in range(draw.randint(1, 4))) for _ in range(200)]
    cut = 0
    for coverage in (0.4, 0.8, 1.0):
        trimmed = trim_vocabulary(teacher, texts[:40], coverage=coverage)
        kept = set(trimmed.kept_ids)
        for text in texts:
            before = teacher(text)["input_ids"]
            if kept.issuperset(before) and not (make is random_wordpiece and teacher.unk_token_id in before):
                cut += 1
                assert old_ids(trimmed, text) == before
    assert cut > 40


@every_kind
def test_a_piece_by_itself_is_one_piece_as_it_was(make):
    # Of a BPE: the pieces that a kept one is merged from are kept, too.
    teacher = make()
    trimmed = trim_vocabulary(teacher, LANGUAGE, coverage=0.9)
    model, other = teacher.backend_tokenizer.model, trimmed.tokenizer.backend_tokenizer.model
    whole = 0
    for piece, old in teacher.get_vocab().items():
        if old in trimmed.kept_ids and model.token_to_id(piece) is not None:
            before = [token.value for token in model.tokenize(piece)]
            if before == [piece]:
                whole += 1
                assert [token.value for token in other.tokenize(piece)] == before
    assert whole > 50


@every_kind
def test_all_texts_of_the_language_are_still_known(make):
    trimmed = trim_vocabulary(make(), LANGUAGE, coverage=0.7)
    unknown = trimmed.tokenizer.unk_token_id
    if make is not words:
        assert not any(unknown in trimmed.tokenizer(text)["input_ids"] for text in LANGUAGE if unknown is not None)
    for text in LANGUAGE:
        if make in (gpt2, roberta, llama2, t5):
            assert trimmed.tokenizer.decode(trimmed.tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_score_of_unknown_characters_does_not_change():
    # "ab" (-6) beats unknown + "bc" while unknown costs what the rarest piece costs and 10 more.
    vocabulary = [("<unk>", 0.0), ("ab", -6.0), ("c", -6.0), ("bc", -1.0), ("rare", -9.0), ("x", -2.0)]
    teacher = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.Unigram(vocabulary, unk_id=0)), unk_token="<unk>"
    )
    trimmed = trim_vocabulary(teacher, ["ab c", "xx"], coverage=1.0)
    assert "rare" in trimmed.tokenizer.get_vocab()
    assert "bc" not in trimmed.tokenizer.get_vocab()
    assert {piece: score for piece, score in vocabulary if piece != "bc"} == dict(
        file_of(trimmed.tokenizer)["model"]["vocab"]
    )


# --- the new tokenizer as a whole


@every_kind
def test_it_is_saved_and_loaded_as_it_is(make, tmp_path):
    teacher = make()
    trimmed = trim_vocabulary(teacher, LANGUAGE, coverage=0.9)
    trimmed.tokenizer.save_pretrained(tmp_path / "student")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "student")
    assert type(loaded) is type(teacher)
    assert loaded.get_vocab() == trimmed.tokenizer.get_vocab()
    for text in TEXTS[::20]:
        assert loaded(text, text)["input_ids"] == trimmed.tokenizer(text, text)["input_ids"]
    again = trim_vocabulary(teacher, LANGUAGE, coverage=0.9)
    assert Hasher.hash(again.tokenizer) == Hasher.hash(trimmed.tokenizer)  # what `datasets` caches by
    options = ("is_fast", "model_max_length", "padding_side", "model_input_names", "special_tokens_map")
    assert all(getattr(loaded, name) == getattr(teacher, name) for name in options)
    assert "/tmp" not in (tmp_path / "student" / "tokenizer_config.json").read_text()


@every_kind
def test_special_and_added_tokens_are_kept_with_their_new_ids(make):
    teacher = make()
    before = file_of(teacher)
    trimmed = trim_vocabulary(teacher, LANGUAGE, coverage=0.9)
    student, ids = trimmed.tokenizer, trimmed.tokenizer.get_vocab()
    names = [name for name in teacher.special_tokens_map if isinstance(getattr(teacher, name), str)]
    assert names
    for name in names:
        assert trimmed.kept_ids[getattr(student, f"{name}_id")] == getattr(teacher, f"{name}_id")
    assert {t.content: (n, t.special, t.lstrip) for n, t in student.added_tokens_decoder.items()} == {
        t.content: (ids[t.content], t.special, t.lstrip) for t in teacher.added_tokens_decoder.values()
    }
    assert old_ids(trimmed, "", add_special_tokens=True) == teacher("")["input_ids"]
    assert file_of(teacher) == before  # the teacher's own stays as it is


def test_special_tokens_between_words_and_added_tokens_are_found_in_texts():
    teacher = roberta()
    trimmed = trim_vocabulary(teacher, LANGUAGE, coverage=0.8)
    text = f"{LANGUAGE[0]} <entity> badehus<mask>"
    found = trimmed.tokenizer.convert_ids_to_tokens(trimmed.tokenizer(text)["input_ids"])
    assert {"<entity>", "badehus", "<mask>"} <= set(found)


def test_padding_that_the_tokenizer_does_by_itself():
    pieces = {word: number for number, word in enumerate(["never", "seen", "at", "all", "[PAD]", "[UNK]", "here"])}
    backend = Tokenizer(models.WordLevel(pieces, unk_token="[UNK]"))
    backend.enable_padding(pad_id=4, pad_token="[PAD]")
    teacher = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    trimmed = trim_vocabulary(teacher, ["here"], coverage=1.0)
    assert trimmed.kept_ids == (4, 5, 6)
    assert file_of(trimmed.tokenizer)["padding"]["pad_id"] == 0


# --- how much is kept


@every_kind
def test_counts_and_coverage(make):
    teacher = make()
    trimmed = trim_vocabulary(teacher, iter(LANGUAGE), coverage=0.9)
    counts = Counter(number for text in LANGUAGE for number in teacher(text, add_special_tokens=False)["input_ids"])
    assert (trimmed.texts, trimmed.tokens, trimmed.teacher_pieces) == (300, counts.total(), len(teacher))
    assert trimmed.covered == sum(counts[number] for number in trimmed.kept_ids)
    assert 0.9 <= trimmed.coverage == trimmed.covered / trimmed.tokens
    assert list(trimmed.kept_ids) == sorted(set(trimmed.kept_ids))
    assert match_pieces(teacher, trimmed.tokenizer) == trimmed.kept_ids


@every_kind
def test_more_coverage_only_adds_pieces(make):
    teacher = make()
    kept = [set(trim_vocabulary(teacher, LANGUAGE, coverage=c).kept_ids) for c in (0.6, 0.8, 0.95, 1.0)]
    assert all(fewer < more for fewer, more in pairwise(kept))


def test_as_few_pieces_as_cover_the_share():
    teacher = words()
    trimmed = trim_vocabulary(teacher, LANGUAGE, coverage=0.9)
    counts = Counter(number for text in LANGUAGE for number in teacher(text, add_special_tokens=False)["input_ids"])
    chosen = [number for number in trimmed.kept_ids if number not in teacher.all_special_ids and counts[number]]
    characters = {number for number in chosen if len(teacher.convert_ids_to_tokens(number)) == 1}  # kept anyway
    rarest = min(counts[number] for number in chosen if number not in characters)
    assert trimmed.covered - rarest < 0.9 * trimmed.tokens
    assert rarest >= max(counts[number] for number in counts if number not in trimmed.kept_ids)


def test_min_count_and_max_size():
    teacher = words()
    counts = Counter(number for text in LANGUAGE for number in teacher(text, add_special_tokens=False)["input_ids"])
    trimmed = trim_vocabulary(teacher, LANGUAGE, min_count=10)
    assert {n for n, count in counts.items() if count >= 10} == {n for n in trimmed.kept_ids if counts[n] >= 10}
    rare = teacher.convert_ids_to_tokens([number for number in trimmed.kept_ids if counts[number] < 10])
    assert {piece for piece in rare if len(piece) > 1} == set(SPECIAL)
    assert len(trim_vocabulary(teacher, LANGUAGE, max_size=100).kept_ids) == 100
    both = trim_vocabulary(teacher, LANGUAGE, min_count=10, coverage=1.0, max_size=100)
    assert len(both.kept_ids) == min(100, len(trimmed.kept_ids))


@every_kind
def test_a_multiple_is_filled_with_the_next_pieces(make):
    teacher = make()
    exact = trim_vocabulary(teacher, LANGUAGE, coverage=0.9)
    padded = trim_vocabulary(teacher, LANGUAGE, coverage=0.9, multiple_of=64)
    assert len(padded.kept_ids) % 64 == 0
    assert len(exact.kept_ids) <= len(padded.kept_ids) < len(exact.kept_ids) + 64
    assert set(exact.kept_ids) <= set(padded.kept_ids)
    size = len(exact.kept_ids)
    fewer = trim_vocabulary(teacher, LANGUAGE, coverage=0.9, multiple_of=size - 1, max_size=size + 1)
    assert len(fewer.kept_ids) == size - 1


def test_a_multiple_may_need_pieces_that_no_text_has():
    teacher = gpt2()
    trimmed = trim_vocabulary(teacher, ["ba"], coverage=1.0, multiple_of=len(teacher) - 1)
    assert len(trimmed.kept_ids) == len(teacher) - 1
    kept = set(trimmed.kept_ids)
    for text in TEXTS:
        if kept.issuperset(before := teacher(text)["input_ids"]):
            assert old_ids(trimmed, text) == before


def test_pieces_that_are_always_kept():
    teacher = bert()
    rare = [piece for piece in teacher.get_vocab() if piece.startswith("##") and len(piece) > 5][-2:]
    assert not set(rare) & set(trim_vocabulary(teacher, OTHER[:1], min_count=99).tokenizer.get_vocab())
    assert set(rare) <= set(trim_vocabulary(teacher, OTHER[:1], min_count=99, always=rare).tokenizer.get_vocab())
    teacher = gpt2()
    longest = max(teacher.get_vocab(), key=lambda piece: len(piece) * ("<" not in piece))
    trimmed = trim_vocabulary(teacher, OTHER[:1], min_count=99, always=[longest])
    assert [token.value for token in trimmed.tokenizer.backend_tokenizer.model.tokenize(longest)] == [longest]


def test_characters_of_the_texts_and_of_ascii_are_kept():
    teacher = bert()
    ids = teacher.get_vocab()
    trimmed = trim_vocabulary(teacher, ["ölmu"], min_count=99)
    assert {"a", "##a", "l", "##l", "."} & ids.keys() <= trimmed.tokenizer.get_vocab().keys()
    assert "##ö" in trimmed.tokenizer.get_vocab() or "##ö" not in ids
    assert "å" not in trimmed.tokenizer.get_vocab()
    teacher = xlmr()
    assert "ö" in trim_vocabulary(teacher, ["ölmu"], min_count=99).tokenizer.get_vocab()


@pytest.mark.parametrize("make", [llama2, t5])
def test_all_bytes_are_kept_where_they_are_fallen_back_on(make):
    trimmed = trim_vocabulary(make(), LANGUAGE, coverage=0.7)
    assert {f"<0x{byte:02X}>" for byte in range(256)} <= trimmed.tokenizer.get_vocab().keys()
    assert trimmed.tokenizer.decode(trimmed.tokenizer("☃", add_special_tokens=False)["input_ids"]).strip() == "☃"


def test_what_people_are_told():
    trimmed = trim_vocabulary(words(), ["lo lo lo zz"], coverage=0.5)
    facts = {"tokens": 4, "covered": trimmed.covered, "unknown": trimmed.unknown}
    assert {name: getattr(trimmed, name) for name in facts} == facts
    assert str(trimmed) == (
        f"{len(trimmed.kept_ids)} of {trimmed.teacher_pieces} pieces are kept, and with them {trimmed.coverage:.4%} of "
        f"4 tokens in 1 texts; {trimmed.unknown / 4:.4%} were unknown before"
    )


# --- ids of rows that the teacher's tokenizer made


def test_ids_are_looked_up():
    teacher = bert()
    trimmed = trim_vocabulary(teacher, LANGUAGE, coverage=0.9)
    rows = teacher(OTHER[:8], padding=True, return_tensors="pt")["input_ids"]
    labels = rows.masked_fill(torch.arange(rows.shape[1]) % 3 > 0, -100)
    found, kept = trimmed.student_ids(rows), set(trimmed.kept_ids)
    unknown = trimmed.tokenizer.unk_token_id
    expected = [[trimmed.kept_ids.index(n) if n in kept else unknown for n in row] for row in rows.tolist()]
    assert found.tolist() == expected
    assert (found == unknown).any()
    assert torch.equal(trimmed.student_ids(labels), found.masked_fill(labels == -100, -100))
    with pytest.raises(VocabularyError, match=f"from 0 to {len(teacher) - 1}, got {len(teacher)}"):
        trimmed.student_ids(torch.tensor([0, len(teacher)]))


def test_a_dropped_piece_without_an_unknown_token():
    trimmed = trim_vocabulary(KINDS["llama3"](), LANGUAGE, coverage=0.9)
    dropped = next(number for number in range(trimmed.teacher_pieces) if number not in trimmed.kept_ids)
    assert trimmed.student_ids(torch.tensor([-100, trimmed.kept_ids[3]])).tolist() == [-100, 3]
    with pytest.raises(VocabularyError, match=f"no unknown token, got the teacher's {dropped}"):
        trimmed.student_ids(torch.tensor([dropped]))


def test_tokenizers_that_do_not_belong_together():
    trimmed = trim_vocabulary(bert(), LANGUAGE, coverage=0.9)
    with pytest.raises(VocabularyError, match="trimmed from the teacher's, got one with pieces of its own"):
        match_pieces(trimmed.tokenizer, bert())
    ids = bert().get_vocab()
    turned = BertTokenizer({piece: len(ids) - 1 - number for piece, number in ids.items()}, do_lower_case=False)
    with pytest.raises(VocabularyError, match="got one with its pieces in another order"):
        match_pieces(bert(), turned)


# --- what is refused


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "coverage, min_count or max_size, got none"),
        ({"coverage": 0}, "above 0 and at most 1, got 0"),
        ({"coverage": 1.5}, "above 0 and at most 1, got 1.5"),
        ({"min_count": 0}, "min_count: expected a whole number from 1, got 0"),
        ({"max_size": 3.0}, "max_size: expected a whole number from 1, got 3.0"),
        ({"max_size": 9, "multiple_of": True}, "multiple_of: expected a whole number from 1, got True"),
    ],
)
def test_wrong_limits_are_refused_before_a_text_is_read(limits, message):
    def texts():
        raise AssertionError("a text was read")
        yield

    with pytest.raises(VocabularyError, match=message):
        trim_vocabulary(bert(), texts(), **limits)


def test_limits_that_nothing_fulfils():
    with pytest.raises(VocabularyError, match=r"max_size: expected at least \d+, the pieces kept in any case, got 20"):
        trim_vocabulary(bert(), LANGUAGE, max_size=20)
    with pytest.raises(VocabularyError, match="multiple_of: expected a number with a multiple from"):
        trim_vocabulary(bert(), LANGUAGE, coverage=0.9, multiple_of=100_000)
    with pytest.raises(VocabularyError, match=r"always: expected pieces of the tokenizer, got \['##nej tack'\]"):
        trim_vocabulary(bert(), LANGUAGE, coverage=0.9, always=["##nej tack"])
    assert issubclass(VocabularyError, DistilTrainerError)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["", "  "], "at least one token, got 2 texts without"),
        ([], "got 0 texts"),
        ("ett", "got one text; put it in a list"),
        ([["ett"]], "expected str, got list"),
    ],
)
def test_wrong_texts(texts, message):
    with pytest.raises(VocabularyError, match=message):
        trim_vocabulary(bert(), texts, coverage=0.9)


def test_other_tokenizers_are_refused():
    class Slow:
        pass

    with pytest.raises(VocabularyError, match=r"expected a fast tokenizer, got Slow; convert it"):
        trim_vocabulary(Slow(), LANGUAGE, coverage=0.9)
    backend = Tokenizer(models.BPE({"a": 0, "b</w>": 1}, [], end_of_word_suffix="</w>"))
    with pytest.raises(VocabularyError, match="BPE with marks inside or at the end of words"):
        trim_vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend), LANGUAGE, coverage=0.9)


def test_a_class_that_has_pieces_of_its_own_is_refused():
    class Stubborn(BertTokenizer):
        def __init__(self, vocab=None, **kwargs):
            super().__init__({**vocab, "never": vocab.get("never", len(vocab))}, **kwargs)

    teacher = Stubborn(bert().get_vocab())
    with pytest.raises(VocabularyError, match=r"expected Stubborn to take the pieces.*'never'.*cannot be trimmed"):
        trim_vocabulary(teacher, LANGUAGE, coverage=0.9)
