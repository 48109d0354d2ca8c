"""Tokenizers of every kind that can be trimmed, trained on a few made sentences."""

import json
import random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

SYLLABLES = "ba de ki lo mu ra se ti vo ny gå hö än fjä str sk kj".split()  # noqa: SIM905
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def sentences(count, *, seed, syllables=SYLLABLES):
    """Made-up words of one to four syllables, some of them much more often than others."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(500)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return [" ".join(draw.choices(words, weights, k=draw.randint(3, 9))).capitalize() + "." for _ in range(count)]


TEXTS = sentences(300, seed=1) + sentences(300, seed=2, syllables=[s[::-1] for s in SYLLABLES])


def _trained(model, trainer, pre_tokenizer, **parts):
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def _vocabulary(backend):
    return sorted(backend.get_vocab(), key=backend.get_vocab().__getitem__)


def bert():
    """WordPiece, whose special tokens are in the middle, as in mBERT."""
    trainer = trainers.WordPieceTrainer(vocab_size=300, show_progress=False)
    pieces = _vocabulary(_trained(models.WordPiece(unk_token="[UNK]"), trainer, pre_tokenizers.BertPreTokenizer()))
    pieces = ["[PAD]", *pieces[:50], *SPECIAL[1:], *pieces[50:]]
    return BertTokenizer({piece: number for number, piece in enumerate(pieces)}, do_lower_case=False)


def _byte_level(special):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend = _trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))
    backend.decoder = decoders.ByteLevel()
    return backend


def _merges(backend):
    return [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]


def _entries(backend):
    return [tuple(entry) for entry in json.loads(backend.to_str())["model"]["vocab"]]


def gpt2():
    """Byte-level BPE without an unknown token of its own."""
    backend = _byte_level([])
    return GPT2Tokenizer({**backend.get_vocab(), "<|endoftext|>": len(backend.get_vocab())}, _merges(backend))


def roberta():
    """Byte-level BPE, and an added token."""
    backend = _byte_level(ROBERTA[:4])
    vocabulary = {**backend.get_vocab(), "<mask>": len(backend.get_vocab())}
    tokenizer = RobertaTokenizer(vocabulary, _merges(backend))
    tokenizer.add_tokens(["<entity>", "badehus"])
    return tokenizer


def llama3():
    """Byte-level BPE in which a word that is a piece is not merged, and special tokens that are no part of it."""
    backend = _byte_level([])
    backend.model.ignore_merges = True
    backend.add_special_tokens(["<|begin|>", "<|end|>"])
    begin = backend.token_to_id("<|begin|>")
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|end|>")


def llama2():
    """BPE of characters that falls back on bytes, with every pair of pieces that makes a piece among its merges."""
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    learned = _vocabulary(_trained(models.BPE(), trainer, pre_tokenizers.Metaspace()))
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    ids = {piece: number for number, piece in enumerate(pieces)}
    splits = [(piece[:k], piece[k:]) for piece in learned for k in range(1, len(piece))]
    merges = [pair for pair in splits if pair[0] in ids and pair[1] in ids]
    return LlamaTokenizer(ids, merges)


def xlmr():
    """Unigram."""
    trainer = trainers.UnigramTrainer(
        vocab_size=300, show_progress=False, unk_token="<unk>", special_tokens=ROBERTA[:4]
    )
    backend = _trained(models.Unigram(), trainer, pre_tokenizers.Metaspace())

    return XLMRobertaTokenizer([*_entries(backend), ("<mask>", 0.0)])


def t5():
    """Unigram that falls back on bytes."""
    learned = [entry for entry in _entries(xlmr().backend_tokenizer) if entry[0] not in ROBERTA]
    vocabulary = [("<pad>", 0.0), ("<unk>", 0.0), *((f"<0x{byte:02X}>", -20.0) for byte in range(256)), *learned]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=1, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.normalizer = normalizers.NFKC()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")


def words():
    """Whole words, and a post-processor of BERT's own kind."""
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    backend = _trained(models.WordLevel(unk_token="[UNK]"), trainer, pre_tokenizers.Whitespace())
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def _of_random_pieces(model, unknown):
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown)


def random_unigram(draw):
    """Few different scores, so that many cuts of a word are equally good, and not every character by itself."""
    pieces = {letters(draw, draw.randint(2, 6)) for _ in range(40)}
    entries = [(piece, -float(draw.randint(1, 9))) for piece in sorted(pieces)]
    entries += [(letter, -float(draw.randint(3, 9))) for letter in LETTERS[:-1]]
    draw.shuffle(entries)
    return _of_random_pieces(models.Unigram([("<unk>", 0.0), *entries], unk_id=0), "<unk>")


def random_bpe(draw):
    """Several merges that make the same piece, tried in any order."""
    ids = {"<unk>": 0} | {letter: number for number, letter in enumerate(LETTERS, start=1)}
    merges = {}
    for _ in range(120):
        left, right = draw.choices(list(ids)[1:], k=2)
        if len(left + right) <= 7:
            merges[left, right] = ids.setdefault(left + right, len(ids))
    order = list(merges)
    draw.shuffle(order)
    return _of_random_pieces(models.BPE(ids, order, unk_token="<unk>", ignore_merges=draw.random() < 0.5), "<unk>")


def random_wordpiece(draw):
    """Not every character at every place, so that words may be unknown."""
    forms = [form for letter in LETTERS for form in (letter, "##" + letter)][:-1]
    pieces = [prefix + letters(draw, draw.randint(2, 6)) for prefix in ("", "##") for _ in range(30)]
    ids = {piece: number for number, piece in enumerate(dict.fromkeys(["[UNK]", *forms, *pieces]))}
    return _of_random_pieces(models.WordPiece(ids, unk_token="[UNK]"), "[UNK]")


LETTERS = "abcd"


def letters(draw, count):
    """A word of these letters."""
    return "".join(draw.choices(LETTERS, k=count))


KINDS = {make.__name__: make for make in (bert, gpt2, roberta, llama3, llama2, xlmr, t5, words)}
