"""A smaller vocabulary for a student: of the teacher's pieces those that the texts of a language need.

A multilingual teacher spends most of its parameters on words of other languages: of mBERT's 178 million 92 million are
the rows of its word table. The pieces that are kept keep their vectors, so nothing is learned anew.

    trimmed = trim_vocabulary(tokenizer, texts, coverage=0.999)
    student = build_student(teacher, config, kept_ids=trimmed.kept_ids)
    DistillationTrainer(student, teacher_model=teacher, kept_ids=trimmed.kept_ids, processing_class=trimmed.tokenizer)

Texts are tokenised with the student's tokenizer. Each of its pieces is one of the teacher's, which sees the same pieces
under its own ids. A text whose pieces are all known and kept is cut as it was; in others the words with a dropped piece
are cut into smaller pieces. (A word that a WordPiece did not know may become known: it takes the longest piece that
fits, also into a dead end, and that piece may be gone.)

Source: Load What You Need: Smaller Versions of Multilingual BERT (arXiv 2010.05609) section 2.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import tqdm

from distil_trainer.errors import VocabularyError
from distil_trainer.pieces import Pieces

_IGNORED = -100  # a label that no loss reads
_BATCH = 1000  # texts that are tokenised at a time


@dataclass(frozen=True, kw_only=True)
class TrimmedVocabulary:
    """The pieces that a student keeps. `str()` of it tells how many, and what they cover.

    Attributes:
        tokenizer: the student's.
        kept_ids: for each of the student's ids the teacher's id of the same piece; ascending.
        teacher_pieces: how many the teacher has.
        texts: how many were counted.
        tokens: tokens of the teacher's tokenizer in them, without those it adds to a text.
        covered: tokens of which the piece was kept.
        unknown: tokens of which the teacher's tokenizer does not know the text.
    """

    tokenizer: PreTrainedTokenizerBase
    kept_ids: tuple[int, ...]
    teacher_pieces: int
    texts: int
    tokens: int
    covered: int
    unknown: int

    @property
    def coverage(self) -> float:
        """The share of the tokens of which the piece was kept."""
        return self.covered / self.tokens

    def student_ids(self, ids: Tensor) -> Tensor:
        """The student's ids for what the teacher's tokenizer gave: int64, the shape of `ids`.

        A piece that was dropped becomes the unknown token; -100, of a label that no loss reads, stays.

        Raises:
            VocabularyError: an id that the teacher does not have, or a dropped piece where there is no unknown token.
        """
        table = torch.full((self.teacher_pieces,), -1, device=ids.device)
        table[torch.tensor(self.kept_ids, device=ids.device)] = torch.arange(len(self.kept_ids), device=ids.device)
        is_label, unknown = ids != _IGNORED, self.tokenizer.unk_token_id
        outside = is_label & ((ids < 0) | (ids >= self.teacher_pieces))
        if outside.any():
            raise VocabularyError(
                f"expected ids from 0 to {self.teacher_pieces - 1}, got {ids[outside][0]}; take the teacher's tokenizer"
            )
        found = table[ids.where(is_label, 0)]
        if unknown is None and (is_label & (found < 0)).any():
            dropped = int(ids[is_label & (found < 0)][0])
            raise VocabularyError(
                f"expected kept pieces, for there is no unknown token, got the teacher's {dropped}; tokenise the texts "
                "with the student's tokenizer"
            )
        return found.where(found >= 0, -1 if unknown is None else unknown).where(is_label, _IGNORED)

    def __str__(self) -> str:
        return (
            f"{len(self.kept_ids):,} of {self.teacher_pieces:,} pieces are kept, and with them {self.coverage:.4%} of "
            f"{self.tokens:,} tokens in {self.texts:,} texts; {self.unknown / self.tokens:.4%} were unknown before"
        )


def trim_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    coverage: float | None = None,
    min_count: int | None = None,
    max_size: int | None = None,
    multiple_of: int = 1,
    always: Iterable[str] = (),
) -> TrimmedVocabulary:
    """Counts the pieces in the texts and keeps the most frequent ones.

    Kept in any case: special and added tokens, single characters that occur in the texts or are ASCII, the bytes of a
    tokenizer that falls back on bytes or works on them, and for every kept piece of a BPE the pieces that it is merged
    from (in a BPE they count each time they are merged, too).

    Args:
        tokenizer: the teacher's, a fast one; it stays as it is.
        texts: texts of the language, read once, a thousand at a time.
        coverage: keep as few pieces as make up this share of the tokens, above 0 and at most 1.
        min_count: keep no piece that occurs less often.
        max_size: keep at most so many.
        multiple_of: keep further pieces, in order of frequency, until their number is a multiple of this (if `max_size`
            forbids that, fewer): some hardware multiplies matrices of such sizes faster.
        always: pieces to keep, spelled as in the vocabulary (`##en`, `▁en`, `Ġen`).

    Raises:
        VocabularyError: no limit is given or one is out of range, `always` names no piece, there is no text, or the
            tokenizer is none that can be trimmed.
    """
    _check_limits(coverage, min_count, max_size, multiple_of)
    pieces = Pieces(tokenizer)
    always = list(always)
    if strangers := [piece for piece in always if piece not in pieces.ids]:
        raise VocabularyError(f"always: expected pieces of the tokenizer, got {strangers[:5]}; spell them as there")
    size = max(pieces.ids.values()) + 1
    texts_read, counts = _count(tokenizer, texts, size)
    if not counts.any():
        raise VocabularyError(
            f"expected texts with at least one token, got {texts_read} texts without; check the texts"
        )

    names = {number: piece for piece, number in pieces.ids.items()}
    seen = [names[number] for number in np.flatnonzero(counts).tolist() if number not in pieces.added]
    base = pieces.needed() | pieces.characters(seen) | _with_parts(pieces, names, (pieces.ids[p] for p in always))
    uses = _uses(pieces, names, counts)
    # a part is used as often as the whole at least, and it is shorter: it comes first
    ranking = sorted(names.keys() - base, key=lambda number: (-uses[number], len(names[number]), number))

    number = len(ranking)
    if min_count is not None:
        number = int((uses[ranking] >= min_count).sum())
    if coverage is not None:
        so_far = counts[list(base)].sum() + np.concatenate([[0], counts[ranking].cumsum()])
        number = min(number, int(np.searchsorted(so_far, coverage * counts.sum())))
    most = len(names) if max_size is None else min(max_size, len(names))
    number = _rounded(min(number, most - len(base)), len(base), most, multiple_of)
    kept = sorted(base | set(ranking[:number]))
    return TrimmedVocabulary(
        tokenizer=pieces.without_others(kept),
        kept_ids=tuple(kept),
        teacher_pieces=size,
        texts=texts_read,
        tokens=int(counts.sum()),
        covered=int(counts[kept].sum()),
        unknown=0 if tokenizer.unk_token_id is None else int(counts[tokenizer.unk_token_id]),
    )


def match_pieces(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """For each id of the student's tokenizer the teacher's id of the same piece: `TrimmedVocabulary.kept_ids` again.

    Raises:
        VocabularyError: the student has a piece that the teacher has not, or has them in another order.
    """
    theirs, ours = teacher.get_vocab(), student.get_vocab()
    pieces = sorted(ours, key=ours.__getitem__)
    kept = [theirs[piece] for piece in pieces if piece in theirs]
    if len(kept) < len(pieces) or kept != sorted(kept):
        strangers = [piece for piece in pieces if piece not in theirs][:5]
        came = f"one with pieces of its own: {strangers}" if strangers else "one with its pieces in another order"
        raise VocabularyError(
            f"expected a tokenizer trimmed from the teacher's, got {came}; make it with trim_vocabulary"
        )
    return tuple(kept)


def _check_limits(coverage: float | None, min_count: int | None, max_size: int | None, multiple_of: int) -> None:
    if coverage is None and min_count is None and max_size is None:
        raise VocabularyError("expected coverage, min_count or max_size, got none; coverage=0.999 is a start")
    if coverage is not None and not 0 < coverage <= 1:
        raise VocabularyError(f"coverage: expected a share above 0 and at most 1, got {coverage}")
    for name, value in (("min_count", min_count), ("max_size", max_size), ("multiple_of", multiple_of)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise VocabularyError(f"{name}: expected a whole number from 1, got {value!r}")


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    if isinstance(texts, str):
        raise VocabularyError("texts: expected an iterable of texts, got one text; put it in a list")
    rest = iter(texts)
    while batch := list(islice(rest, _BATCH)):
        if wrong := [text for text in batch if not isinstance(text, str)]:
            raise VocabularyError(f"texts: expected str, got {type(wrong[0]).__name__}")
        yield batch


def _count(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], size: int) -> tuple[int, np.ndarray]:
    """How many texts there are, and int64 [size]: how often each piece occurs in them."""
    read, counts = 0, np.zeros(size, np.int64)
    with tqdm(desc="Counting pieces", unit=" texts") as bar:
        for batch in _batches(texts):
            rows = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
            counts += np.bincount(np.fromiter(chain.from_iterable(rows), np.int64), minlength=size)
            read += len(batch)
            bar.update(len(batch))
    return read, counts


def _uses(pieces: Pieces, names: dict[int, str], counts: np.ndarray) -> np.ndarray:
    """int64, as `counts`: how often each piece occurs, or is merged into one that does."""
    uses = counts.copy()
    longest_first = sorted(names, key=lambda number: -len(names[number]))
    for number in longest_first:
        if uses[number] and number not in pieces.added:
            for part in pieces.parts(names[number]):
                uses[part] += uses[number]
    return uses


def _with_parts(pieces: Pieces, names: dict[int, str], numbers: Iterable[int]) -> set[int]:
    found: set[int] = set()
    waiting = list(numbers)
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += pieces.parts(names[number])
    return found


def _rounded(number: int, base: int, most: int, multiple_of: int) -> int:
    """How many pieces besides the `base` to keep: `number` or a few more or less, a multiple together."""
    if number < 0:
        raise VocabularyError(f"max_size: expected at least {base:,}, the pieces kept in any case, got {most:,}")
    total = math.ceil((base + number) / multiple_of) * multiple_of
    if total > most:
        total = most // multiple_of * multiple_of
    if total < base:
        raise VocabularyError(
            f"multiple_of: expected a number with a multiple from {base:,}, the pieces kept in any case, to {most:,}, "
            f"got {multiple_of:,}"
        )
    return total - base
