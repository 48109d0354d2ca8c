"""What decides the ids of a fast tokenizer: its pieces, what makes them, and who else names them; read and rewritten.

All of it is in the JSON of a `tokenizers.Tokenizer`, which is what a tokenizer.json holds.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

from distil_trainer.errors import VocabularyError

_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ASCII = [chr(code) for code in range(0x21, 0x7F)]
_FILE = "tokenizer.json"


class Pieces:
    """The pieces of a fast tokenizer.

    Args:
        tokenizer: a tokenizer of transformers with a model of `tokenizers` behind it.

    Attributes:
        ids: piece -> id, added tokens too.

    Raises:
        VocabularyError: a slow tokenizer, or one of another kind than BPE, Unigram, WordPiece and WordLevel.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise VocabularyError(
                f"expected a fast tokenizer, got {type(tokenizer).__name__}; convert it to tokenizer.json first"
            )
        self._tokenizer = tokenizer
        self._file: dict[str, Any] = json.loads(backend.to_str())
        self._model: dict[str, Any] = self._file["model"]
        affixes = self._kind == "BPE" and any(map(self._model.get, ("continuing_subword_prefix", "end_of_word_suffix")))
        if self._kind not in _MODELS or affixes:
            came = "BPE with marks inside or at the end of words" if affixes else self._kind
            raise VocabularyError(f"expected a tokenizer of one of the kinds {', '.join(_MODELS)}, got {came}")
        self.ids: dict[str, int] = tokenizer.get_vocab()

    @property
    def _kind(self) -> str:
        return str(self._model["type"])

    @cached_property
    def _of_model(self) -> set[str]:
        """The pieces that texts are cut into; added tokens need not be among them."""
        vocabulary = self._model["vocab"]
        return set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}

    @cached_property
    def added(self) -> set[int]:
        """The ids of the added tokens, which are found in a text before the model sees it."""
        return {token["id"] for token in self._file["added_tokens"]}

    def needed(self) -> set[int]:
        """The ids that a tokenizer cannot do without, whatever the texts: added tokens and those that other parts name,
        bytes, the characters of ASCII, and what the score of unknown characters is taken from.
        """
        found = self.added | set(self._tokenizer.all_special_ids)
        names: list[Any] = [self._model.get("unk_token")]
        if self._file["padding"]:
            names.append(self._file["padding"]["pad_token"])
        for processor in _each(self._file["post_processor"], "processors"):
            names += [token for entry in processor.get("special_tokens", {}).values() for token in entry["tokens"]]
            names += [processor[key][0] for key in ("sep", "cls") if key in processor]
        if self._reads_bytes:
            names += pre_tokenizers.ByteLevel.alphabet()
        else:
            names += [form for character in _ASCII for form in self._forms(character)]
            names += filter(_BYTE.fullmatch, self._of_model)
        if self._kind == "Unigram":
            if self._model["unk_id"] is not None:
                names.append(self._model["vocab"][self._model["unk_id"]][0])
            names.append(min(self._model["vocab"], key=lambda entry: entry[1])[0])
        return found | {self.ids[name] for name in names if name in self.ids}

    def characters(self, pieces: Sequence[str]) -> set[int]:
        """The ids of the single characters in these pieces, at the start of a word and inside it."""
        if self._kind == "WordLevel":
            return set()
        prefix = self._model.get("continuing_subword_prefix") or ""
        characters = {character for piece in pieces for character in piece.removeprefix(prefix)}
        return {self.ids[form] for c in characters for form in self._forms(c) if form in self.ids}

    def _forms(self, character: str) -> tuple[str, ...]:
        prefix = self._model.get("continuing_subword_prefix") or ""
        return (character, prefix + character) if prefix else (character,)

    @property
    def _reads_bytes(self) -> bool:
        before = _each(self._file["pre_tokenizer"], "pretokenizers")
        return self._kind == "BPE" and any(part["type"] == "ByteLevel" for part in before)

    def parts(self, piece: str) -> tuple[int, ...]:
        """The ids of the two pieces that this one is made of by the last merge of a BPE; else nothing.

        A piece is made by the same merges in every text: none that reaches over its ends was ever the next one, or
        it would not be there. So these two, their parts, and so on, are all that it needs.
        """
        symbols = list(piece)
        while len(symbols) > 2:
            rank, place = min((self._ranks.get(pair, len(self._ranks)), i) for i, pair in enumerate(pairwise(symbols)))
            if rank == len(self._ranks):
                return ()
            symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
        return tuple(self.ids[symbol] for symbol in symbols) if tuple(symbols) in self._ranks else ()

    @cached_property
    def _ranks(self) -> dict[tuple[str, ...], int]:
        """The merges of a BPE, in the order in which they are tried."""
        merges = self._model.get("merges", ())
        return {tuple(m.split(" ") if isinstance(m, str) else m): rank for rank, m in enumerate(merges)}

    def without_others(self, kept: Sequence[int]) -> PreTrainedTokenizerBase:
        """A tokenizer of the same class with these pieces only, numbered in this order.

        Raises:
            VocabularyError: the class numbers them in another way.
        """
        names = {number: piece for piece, number in self.ids.items()}
        new = {names[old]: number for number, old in enumerate(kept)}
        with TemporaryDirectory() as folder:  # as users will do: some classes make parts of a tokenizer anew
            self._tokenizer.save_pretrained(folder)
            (Path(folder) / _FILE).write_text(json.dumps(self._rewritten(new), ensure_ascii=False), encoding="utf-8")
            tokenizer: PreTrainedTokenizerBase = type(self._tokenizer).from_pretrained(folder)
        tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = self._tokenizer.name_or_path
        if tokenizer.get_vocab() != new:
            differing = sorted(set(tokenizer.get_vocab().items()) ^ set(new.items()))[:3]
            raise VocabularyError(
                f"expected {type(tokenizer).__name__} to take the pieces as they are numbered here, but these differ: "
                f"{differing}; its vocabulary cannot be trimmed"
            )
        return tokenizer

    def _rewritten(self, new: Mapping[str, int]) -> dict[str, Any]:
        file = copy.deepcopy(self._file)
        model, vocabulary = file["model"], file["model"]["vocab"]
        if self._kind == "Unigram":
            if model["unk_id"] is not None:
                model["unk_id"] = new[vocabulary[model["unk_id"]][0]]
            model["vocab"] = [entry for entry in vocabulary if entry[0] in new]
        else:
            model["vocab"] = {piece: new[piece] for piece in vocabulary if piece in new}
        if self._kind == "BPE":
            made = [(*pair, "".join(pair)) for pair in self._ranks]
            model["merges"] = [[left, right] for left, right, whole in made if {left, right, whole} <= new.keys()]
        for token in file["added_tokens"]:
            token["id"] = new[token["content"]]
        if file["padding"]:
            file["padding"]["pad_id"] = new[file["padding"]["pad_token"]]
        for processor in _each(file["post_processor"], "processors"):
            for entry in processor.get("special_tokens", {}).values():
                entry["ids"] = [new[token] for token in entry["tokens"]]
            for key in ("sep", "cls"):
                if key in processor:
                    processor[key][1] = new[processor[key][0]]
        return file


def _each(part: dict[str, Any] | None, inside: str) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer, or the parts of a sequence of them."""
    if part is not None and part["type"] == "Sequence":
        for each in part[inside]:
            yield from _each(each, inside)
    elif part is not None:
        yield part
