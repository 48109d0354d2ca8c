"""What is compared: one `Alignment` a comparison, and the printed map of which layer learns from which.

Layers are counted in blocks, one-based, for every feature: hidden states of layer 0 are the embedding output, of layer
k the output of block k; the attention of layer k is that of block k.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from distil_trainer.blocks import STACKS
from distil_trainer.errors import AlignmentError
from distil_trainer.losses import LOSSES
from distil_trainer.schedule import Schedule, Scheduled, ends, is_number

POSITIONS = ("tokens", "labels", "first")
RELATIONS = ("query_relation", "key_relation", "value_relation")
Place = int | tuple[str, int]
"""A layer of a model with one stack, or a stack and a layer of it."""
_WORDS = {
    "hidden_states": "hidden states",
    "attention_probs": "attention",
    "attention_scores": "attention scores",
    "query_relation": "query relations",
    "key_relation": "key relations",
    "value_relation": "value relations",
    "logits": "logits",
}


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """One thing that student and teacher are compared on.

    Attributes:
        feature: `hidden_states`, `attention_probs`, `attention_scores`, `logits`, or a relation: `query_relation`,
            `key_relation` or `value_relation`, how a block's queries (keys, values) relate to each other.
        student_layer: the student's block, one-based; 0 is the embedding output (hidden states only); None for logits.
        teacher_layer: the teacher's block, counted alike.
        loss: a loss that this feature accepts: see `distil_trainer.losses.LOSSES`. Relations accept `"kl"` only.
        weight: what the loss is multiplied by in the sum, a number or a `Schedule`. A term whose weight is 0
            for a while is computed all the same, so that every step has the same graph.
        temperature: divides the logits (logits only; the losses multiply by its square, so gradients keep their scale);
            a number, or a `Schedule`.
        projection: hidden states only: True compares a learned linear map of the student's with the teacher's, so their
            widths may differ; `"shared"` has one such map for all alignments that say so.
        relation_heads: relations only: put the heads of each model side by side and split them anew into so many;
            their numbers and widths may differ then. None takes the models' own heads, which must be equally many; of
            keys and values these are the key/value heads, which grouped queries share.
        stack: `"encoder"` or `"decoder"` of a model that has both, whose layers are counted apart; None for a model
            with one stack, and for logits. Of a decoder's block the attention to its own tokens is meant.
        teacher: which teacher, counted from 1, where there are several; None for the only one, and for logits that are
            compared with the mean of all teachers' (`losses.LogitMean`).
        positions: `"tokens"` counts attended positions, `"labels"` (logits only) positions whose label is not -100,
            `"first"` (hidden states only) the first attended position of each row, where BERT has [CLS].

    Raises:
        AlignmentError: on construction, when the fields do not fit together.
    """

    feature: str
    student_layer: int | None = None
    teacher_layer: int | None = None
    loss: str = "mse"
    weight: Scheduled = 1.0
    temperature: Scheduled = 1.0
    projection: Literal[True, False, "shared"] = False
    relation_heads: int | None = None
    positions: str = "tokens"
    stack: str | None = None
    teacher: int | None = None

    def __post_init__(self) -> None:
        require_choice("feature", self.feature, LOSSES)
        require_choice(f"loss for {self.feature}", self.loss, LOSSES[self.feature])
        require_choice("positions", self.positions, POSITIONS)
        for name, needs in (("weight", any), ("temperature", all)):
            value = getattr(self, name)
            if not (isinstance(value, Schedule) or is_number(value)) or not needs(v > 0 for v in ends(value)):
                raise AlignmentError(f"{name} should be a positive, finite number, or a Schedule; got {value!r}.")
        if self.projection not in (True, False, "shared") or not isinstance(self.projection, bool | str):
            raise AlignmentError(f"projection should be True, False or 'shared'; got {self.projection!r}.")
        if self.projection and self.feature != "hidden_states":
            raise AlignmentError(f"projection is for hidden_states only; {self.feature} got {self.projection!r}.")
        if self.relation_heads is not None:
            self._check_relation_heads(self.relation_heads)
        if self.stack is not None:
            require_choice("stack", self.stack, STACKS)
        if self.teacher is not None and not _is_whole(self.teacher, at_least=1):
            raise AlignmentError(f"teacher should be a whole number from 1, or None; got {self.teacher!r}.")
        if self.feature == "logits":
            self._check_logits()
        else:
            self._check_layers()

    def _check_logits(self) -> None:
        for name in ("student_layer", "teacher_layer"):
            if getattr(self, name) is not None:
                raise AlignmentError(f"logits belong to no layer, but {name}={getattr(self, name)!r}: leave it out.")
        if self.stack is not None:
            raise AlignmentError(f"logits belong to no stack, but stack={self.stack!r}: leave it out.")
        if self.positions == "first":
            raise AlignmentError("positions='first' is for hidden_states only; give logits 'tokens' or 'labels'.")
        if self.loss == "mse" and self.temperature != 1.0:
            raise AlignmentError(f"mse on logits has no temperature; got {self.temperature}. Leave it at 1.0.")

    def _check_relation_heads(self, heads: object) -> None:
        if self.feature not in RELATIONS:
            raise AlignmentError(f"relation_heads is for {', '.join(RELATIONS)} only; {self.feature} got {heads!r}.")
        if not _is_whole(heads, at_least=1):
            raise AlignmentError(f"relation_heads should be a whole number from 1, or None; got {heads!r}.")

    def _check_layers(self) -> None:
        first = 0 if self.feature == "hidden_states" else 1
        for name in ("student_layer", "teacher_layer"):
            layer = getattr(self, name)
            if not _is_whole(layer, at_least=first):
                meaning = "0 is the embedding output, k the output of block k" if first == 0 else "blocks count from 1"
                raise AlignmentError(
                    f"{name} of {self.feature} should be a whole number from {first} ({meaning}); got {layer!r}."
                )
        if self.temperature != 1.0:
            raise AlignmentError(f"temperature is for logits only; {self.feature} got {self.temperature}.")
        if self.positions == "labels":
            raise AlignmentError(f"positions='labels' is for logits only; {self.feature} counts tokens.")
        if self.positions == "first" and self.feature != "hidden_states":
            raise AlignmentError(f"positions='first' is for hidden_states only; {self.feature} counts tokens.")

    @property
    def name(self) -> str:
        """The key of this term in logs, checkpoints and the card: `hidden_states_s5_t11`, `logits`, or with a number
        of a teacher `logits_teacher2`.
        """
        which = "" if self.teacher is None else f"_teacher{self.teacher}"
        if self.feature == "logits":
            return f"logits{which}"
        feature = self.feature if self.stack is None else f"{self.feature}_{self.stack}"
        return f"{feature}_s{self.student_layer}_t{self.teacher_layer}{which}"

    @property
    def unit(self) -> str:
        """What the loss is averaged over: `"tokens"`, `"pairs"` of tokens, `"rows"` (of the batch, with positions
        `"first"`), for logits the `positions` chosen; of a decoder, `"decoder_tokens"` and so on.
        """
        unit = "rows" if self.positions == "first" else LOSSES[self.feature][self.loss].unit
        if unit == "positions":
            return self.positions
        return f"decoder_{unit}" if self.stack == "decoder" else unit

    def place(self, role: str) -> "Place":
        """The student's layer or the teacher's (`role`), with the stack that it is in where there are two."""
        layer: int = getattr(self, f"{role}_layer")
        return layer if self.stack is None else (self.stack, layer)

    def __str__(self) -> str:
        words, weight = _WORDS[self.feature], "" if self.weight == 1 else f", weight {_written(self.weight)}"
        who = "teacher" if self.teacher is None else f"teacher {self.teacher}:"
        if self.feature == "logits":
            temperature = "" if self.temperature == 1 else f", temperature {_written(self.temperature)}"
            return f"student learns logits from {who.removesuffix(':')} ({self.loss}{temperature}{weight})"
        where = "" if self.stack is None else f"{self.stack} "
        student, teacher = (f"{where}{_layer_words(layer)}" for layer in (self.student_layer, self.teacher_layer))
        heads = f", {self.relation_heads} relation heads" if self.relation_heads else ""
        shared = "shared " if self.projection == "shared" else ""
        projection = f", {shared}projection" if self.projection else ""
        first = ", first token" if self.positions == "first" else ""
        return f"student {student} learns {words} from {who} {teacher} ({self.loss}{projection}{heads}{first}{weight})"


def layer_map(alignments: Sequence[Alignment]) -> str:
    """The printed map, a line an alignment: "student block 3 learns attention from teacher block 6 (mse)"."""
    return "\n".join(str(alignment) for alignment in alignments)


def check_alignments(
    alignments: Sequence[Alignment], *, student_layers: int | None = None, teacher_layers: int | None = None
) -> None:
    """Checks a list of alignments against each other and against the depths of the two models.

    Raises:
        AlignmentError: something in the list is no `Alignment`, two have the same name, or a layer does not exist.
    """
    seen: set[str] = set()
    for alignment in alignments:
        if not isinstance(alignment, Alignment):
            raise AlignmentError(f"alignments should hold Alignment objects; got {type(alignment).__name__}.")
        if alignment.name in seen:
            raise AlignmentError(
                f"two alignments are named {alignment.name!r}. Each pair of layers can be aligned once per feature: "
                "add up their weights, or drop one."
            )
        seen.add(alignment.name)
        for role, layer, depth in (
            ("student", alignment.student_layer, student_layers),
            ("teacher", alignment.teacher_layer, teacher_layers),
        ):
            if layer is not None and depth is not None and layer > depth:
                raise AlignmentError(
                    f"{alignment.name}: the {role} has {depth} blocks, but {role}_layer={layer}. "
                    "Layers count from 1; `outputs.hidden_states[k]` is layer k, `outputs.attentions[k]` is layer k+1."
                )


def check_teachers(alignments: Sequence[Alignment], count: int, weights: Sequence[float] | None = None) -> None:
    """Checks which of `count` teachers each alignment means.

    Raises:
        AlignmentError: there is no such teacher, several could be meant, one teaches nothing, or the weights are wrong.
    """
    teacher_shares(weights, count)
    used: set[int] = set()
    for alignment in alignments:
        if alignment.teacher is None and count > 1 and alignment.feature != "logits":
            raise AlignmentError(
                f"{alignment.name}: there are {count} teachers; say whose layer is meant, with teacher=1 to {count} "
                "(see methods.of_teachers)."
            )
        if (alignment.teacher or 1) > count:
            raise AlignmentError(
                f"{alignment.name}: teacher={alignment.teacher}, but the number of teachers is {count}."
            )
        used |= {alignment.teacher} if alignment.teacher else set(range(1, count + 1))
    positions = {alignment.positions for alignment in alignments if alignment.feature == "logits"}
    if len(positions) > 1:
        raise AlignmentError(f"logits are compared at positions {' and '.join(sorted(positions))}; choose one of them.")
    if alignments and (idle := set(range(1, count + 1)) - used):
        raise AlignmentError(f"no alignment reads teacher {min(idle)}, of {count}. Add one, or leave the teacher out.")


def teacher_shares(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """The weights of so many teachers, divided by their sum; equal ones if none are given.

    Raises:
        AlignmentError: they are not a positive number for each teacher.
    """
    weights = (1.0,) * count if weights is None else tuple(weights)
    if len(weights) != count or not all(is_number(weight) and weight > 0 for weight in weights):
        raise AlignmentError(f"teacher weights should be a positive number for each of {count}; got {weights}.")
    return tuple(weight / sum(weights) for weight in weights)


def _is_whole(value: object, *, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def _layer_words(layer: int | None) -> str:
    return "embeddings" if layer == 0 else f"block {layer}"


def _written(value: Scheduled) -> str:
    return str(value) if isinstance(value, Schedule) else f"{value:g}"


def require_choice(what: str, value: object, choices: Collection[str]) -> None:
    """Raises AlignmentError unless `value` is one of the `choices`."""
    if value not in choices:
        expected = f"one of {', '.join(choices)}" if len(choices) > 1 else repr(*choices)
        raise AlignmentError(f"{what} should be {expected}; got {value!r}.")
