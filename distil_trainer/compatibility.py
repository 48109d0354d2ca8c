"""Whether a student and a teacher can be compared as asked, and trained as launched: settled before any step."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TrainingArguments

from distil_trainer.alignment import Alignment, check_alignments
from distil_trainer.blocks import STACKS, depth, has_two_stacks
from distil_trainer.errors import AlignmentError, TrainingSetupError

_ONE_BY_ONE = "head counts must be equal, because heads are compared one by one"
_SIZES = {
    "hidden_states": ("hidden_size", "widths must be equal without projection=True, because the two are subtracted"),
    "attention_probs": ("num_attention_heads", _ONE_BY_ONE),
    "attention_scores": ("num_attention_heads", _ONE_BY_ONE),
    "query_relation": ("num_attention_heads", f"{_ONE_BY_ONE} without relation_heads"),
    "key_relation": ("num_key_value_heads", f"{_ONE_BY_ONE} without relation_heads"),
    "value_relation": ("num_key_value_heads", f"{_ONE_BY_ONE} without relation_heads"),
}


def refuse_data_parallel(args: TrainingArguments) -> None:
    """Raises TrainingSetupError where Trainer would use `nn.DataParallel`, whose copies of a model share no hooks."""
    if args.n_gpu > 1:
        raise TrainingSetupError(
            f"{args.n_gpu} GPUs are visible but one process runs, which means nn.DataParallel. Start one process a GPU "
            "with `accelerate launch`, or set CUDA_VISIBLE_DEVICES to one GPU."
        )


def check_pair(
    student: nn.Module, teacher: nn.Module, alignments: Sequence[Alignment], kept_ids: Sequence[int] | None = None
) -> None:
    """Checks depths, widths, head counts, relation heads and vocabularies.

    Args:
        student, teacher: the pair.
        alignments: what will be compared.
        kept_ids: the teacher's ids of the student's pieces, where the vocabulary was trimmed.

    Raises:
        AlignmentError: the first thing that does not fit, with both sizes.
    """
    if student is teacher:
        raise AlignmentError("student and teacher are the same model. Build the student with `build_student`.")
    _check_stacks(student, teacher, alignments)
    for stack in (None, *STACKS):
        check_alignments(
            [alignment for alignment in alignments if alignment.stack == stack],
            student_layers=depth(getattr(student, "config", None), stack),
            teacher_layers=depth(getattr(teacher, "config", None), stack),
        )
    pieces = _size(teacher, "vocab_size") if kept_ids is None else len(kept_ids)
    why = "if its vocabulary was trimmed, pass the kept_ids of that; if not, leave them out"
    _check_equal(None, "vocabulary size", _size(student, "vocab_size"), pieces, why)
    for alignment in alignments:
        if alignment.relation_heads is not None:
            _check_divides(alignment.relation_heads, alignment, student, teacher)
        elif alignment.feature == "logits":
            counts = _logit_count(student), _logit_count(teacher, kept_ids)
            _check_equal(alignment, "number of logits", *counts)
        elif not alignment.projection:
            key, why = _SIZES[alignment.feature]
            ours, theirs = (_size(model, key, alignment.stack) for model in (student, teacher))
            _check_equal(alignment, key, ours, theirs, why)


def check_tokenizer(teacher: str, own: Any) -> None:
    """Raises AlignmentError where the student's tokenizer gives other ids than the one beside a teacher.

    Args:
        teacher: a Hub id or a folder; if it has no tokenizer nothing is checked.
        own: the student's tokenizer; anything else is not checked.
    """
    if not isinstance(own, PreTrainedTokenizerBase):
        return
    try:
        theirs = AutoTokenizer.from_pretrained(teacher, trust_remote_code=False).get_vocab()
    except Exception:  # transformers checks little of what it reads
        return
    other = next((piece for piece, number in own.get_vocab().items() if theirs.get(piece) != number), None)
    if other is not None and len(theirs) > len(own.all_special_tokens):  # without files transformers makes an empty one
        raise AlignmentError(
            f"student and teacher read the same input ids, but {other!r} is {own.get_vocab()[other]} for the student's "
            f"tokenizer, and {theirs.get(other, 'no piece')} for that of {teacher}. Give the teacher's as "
            "processing_class, and tokenize the text with it; if the vocabulary was trimmed, pass its kept_ids."
        )


def _check_stacks(student: nn.Module, teacher: nn.Module, alignments: Sequence[Alignment]) -> None:
    for alignment in alignments:
        for role, model in (("student", student), ("teacher", teacher)):
            if alignment.feature != "logits" and has_two_stacks(model) != (alignment.stack is not None):
                has = "an encoder and a decoder" if has_two_stacks(model) else "one stack of blocks"
                raise AlignmentError(
                    f"{alignment.name}: the {role} has {has}, but stack={alignment.stack!r}. Say which stack is "
                    "compared where the models have two (see methods.for_stack), and only there."
                )


def _check_equal(
    alignment: Alignment | None, what: str, student: int | None, teacher: int | None, why: str = ""
) -> None:
    if student is None or teacher is None or student == teacher:
        return
    subject = alignment.name if alignment else "student and teacher read the same input ids"
    raise AlignmentError(
        f"{subject}: {what} of the student is {student}, of the teacher {teacher}. "
        f"{why[:1].upper() + why[1:] + '. ' if why else ''}Build the student with `student_config` from this teacher, "
        "or drop this alignment."
    )


def _check_divides(relation_heads: int, alignment: Alignment, student: nn.Module, teacher: nn.Module) -> None:
    """Raises AlignmentError unless the relation heads divide what they split, as far as the configs tell its width."""
    key, _ = _SIZES[alignment.feature]
    for role, model in (("student", student), ("teacher", teacher)):
        heads, queries, hidden = (
            _size(model, name, alignment.stack) for name in (key, "num_attention_heads", "hidden_size")
        )
        head_width = _size(model, "head_dim") or (hidden // queries if hidden and queries else None)
        if heads and head_width and heads * head_width % relation_heads:
            raise AlignmentError(
                f"{alignment.name}: relation_heads should divide the {role}'s width, {heads} heads of {head_width}; "
                f"got {relation_heads}. Choose a divisor of both models' widths."
            )


def _size(model: nn.Module, key: str, stack: str | None = None) -> int | None:
    config: Any = getattr(model, "config", None)
    if stack == "decoder" and key.endswith("heads") and hasattr(config, "decoder_attention_heads"):
        return config.decoder_attention_heads
    if key == "num_key_value_heads" and getattr(config, key, None) is None:  # every query has its own
        key = "num_attention_heads"
    return getattr(config, key, None)


def _logit_count(model: Any, kept_ids: Sequence[int] | None = None) -> int:
    """The last dimension of the model's logits: its output embeddings', of which some are kept, or its classifier's."""
    embeddings = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if embeddings is not None:
        return int(embeddings.weight.shape[0]) if kept_ids is None else len(kept_ids)
    if hasattr(model, "qa_outputs"):
        raise AlignmentError(
            f"logits are aligned, but those of {type(model).__name__} are scores of where an answer starts and ends, "
            "over positions instead of classes. Align hidden states or attention, with task_weight for the answers."
        )
    if any(hasattr(model, name) for name in ("classifier", "score")):
        return int(model.config.num_labels)
    raise AlignmentError(
        f"logits are aligned, but {type(model).__name__} has no head that gives any: load it with one "
        "(AutoModelForMaskedLM, AutoModelForSequenceClassification, ...)."
    )
