"""Published recipes: each is a function from the two depths to a tuple of alignments.

What else belongs to a method - which blocks the student starts from, what is frozen, the weight of the labels - is in
`SETTINGS`, to be given to `build_student` and `DistillationTrainer`.

Every term is a mean over the positions of the whole optimizer step that count. Where the authors' code averages over
something else, the docstring says so.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from distil_trainer.alignment import RELATIONS, Alignment, check_alignments, require_choice, teacher_shares
from distil_trainer.errors import AlignmentError
from distil_trainer.schedule import Schedule, scaled


def lightmbert(*, student_layers: int, teacher_layers: int) -> tuple[Alignment, ...]:
    """LightMBERT (Jiao et al. 2021, arXiv 2103.06418): the student's last block learns from the teacher's last.

    `loss = MSE(hidden states) + MSE(attention probabilities)`, both of the last block, weights 1. The paper starts the
    student from the teacher's embeddings and bottom blocks (`build_student(..., layers="bottom")`) and freezes the
    embeddings (`freeze_embeddings=True`).

    Args:
        student_layers: blocks of the student.
        teacher_layers: blocks of the teacher.

    Raises:
        AlignmentError: a depth is not a positive whole number, or the student is deeper than the teacher.

    Source: the paper, from memory and not verified; the abstract of its successor (arXiv 2212.11456) says that it
        distils the top layer.
    """
    _check_depths(student_layers, teacher_layers)
    alignments = (
        _pair("hidden_states", student_layers, teacher_layers),
        _pair("attention_probs", student_layers, teacher_layers),
    )
    return _checked(alignments, student_layers, teacher_layers)


def tinybert(
    *,
    student_layers: int,
    teacher_layers: int,
    stage: Literal["layers", "logits", "both"] = "layers",
    temperature: float = 1.0,
    switch: float = 0.8,
    projection: bool = False,
) -> tuple[Alignment, ...]:
    """TinyBERT (Jiao et al. 2020, arXiv 1909.10351): every block of the student learns from every n-th of the teacher.

    `"layers"`: `loss = sum over k = 1..M of MSE(attention scores k, g(k)) + sum over k = 0..M of MSE(W hidden k, g(k))`
    with M = student_layers, g(k) = k * teacher_layers / M, and one learned W for all k (`projection=True`) or none: all
    of the general stage, and the first part of the task stage (with a teacher that was fine-tuned on the task).
    `"logits"`: the second part, soft cross entropy. `"both"` has the two in one run: the layers until `switch`, the
    logits after. Weights 1. The general stage starts from random weights, the task stage from its student.

    Without W the widths must be equal; the authors' W has a bias, here it has none. Their code averages the squared
    differences over padding too (where both scores are 0), and the cross entropy over the classes too; here padding
    does not count and the cross entropy is that of the paper, times temperature^2.

    Args:
        student_layers: blocks of the student; must divide `teacher_layers`.
        teacher_layers: blocks of the teacher.
        stage: what is compared.
        temperature: of the logits.
        switch: the share of the optimizer steps that the layers get (`"both"` only).
        projection: whether the hidden states are compared after W.

    Raises:
        AlignmentError: as `lightmbert`; or `student_layers` does not divide `teacher_layers`, or `stage` is unknown.

    Source: section 3; the authors' `general_distill.py` and `task_distill.py`.
    """
    step = _step(student_layers, teacher_layers)
    require_choice("stage", stage, ("layers", "logits", "both"))
    first: dict[str, Any] = {}
    then: dict[str, Any] = {}
    if stage == "both":
        first["weight"] = Schedule(start=1.0, end=0.0, begin=switch, finish=switch)
        then["weight"] = Schedule(start=0.0, end=1.0, begin=switch, finish=switch)
    layers = (
        *(_pair("attention_scores", k, k * step, **first) for k in range(1, student_layers + 1)),
        *(
            _pair("hidden_states", k, k * step, projection="shared" if projection else False, **first)
            for k in range(student_layers + 1)
        ),
    )
    logits = Alignment(feature="logits", loss="soft_cross_entropy", temperature=temperature, **then)
    alignments = {"layers": layers, "logits": (logits,), "both": (*layers, logits)}[stage]
    return _checked(alignments, student_layers, teacher_layers)


def distilbert(
    *, student_layers: int, teacher_layers: int, positions: Literal["tokens", "labels"] = "tokens"
) -> tuple[Alignment, ...]:
    """DistilBERT (Sanh et al. 2019, arXiv 1910.01108): logits and the direction of the last hidden states.

    `loss = 5 * T^2 KL(teacher || student) with T = 2 + 1 * cosine distance(last hidden states) + 2 * the student's own
    loss on masked tokens` (`task_weight=2.0`). The student starts from the blocks [1, 3, 5, 8, 10, 12] of 12. The paper
    freezes the position embeddings; `build_student` freezes all embeddings or none, so that is left to the caller.

    Args:
        student_layers: blocks of the student.
        teacher_layers: blocks of the teacher.
        positions: where the logits are compared: at all tokens, or at the masked ones (`restrict_ce_to_mask`).

    Raises:
        AlignmentError: as `lightmbert`.

    Source: the authors' `distiller.py` (formula, averages) and the command in their README (weights).
    """
    _check_depths(student_layers, teacher_layers)
    alignments = (
        Alignment(feature="logits", loss="kl", temperature=2.0, weight=5.0, positions=positions),
        _pair("hidden_states", student_layers, teacher_layers, loss="cosine"),
    )
    return _checked(alignments, student_layers, teacher_layers)


def pkd(
    *,
    student_layers: int,
    teacher_layers: int,
    strategy: Literal["skip", "last"] = "skip",
    alpha: float = 0.7,
    beta: float = 0.13,
    temperature: float = 10.0,
) -> tuple[Alignment, ...]:
    """Patient Knowledge Distillation (Sun et al. 2019, arXiv 1908.09355): first tokens of many layers, for a task.

    `loss = (1 - alpha) * the student's own loss + alpha * T^2 KL(teacher || student) + beta * sum over layers j of
    || s_j / ||s_j|| - t_j / ||t_j|| ||^2`, where s_j and t_j are hidden states of the first token. All of the student's
    blocks but the last learn: from every n-th of the teacher (`"skip"`: 2, 4, 6, 8, 10 for 12 to 6) or from the last
    ones before the last (`"last"`: 7 to 11). Give the trainer `task_weight=1 - alpha`, which is 0.3.

    The defaults are what the authors' code sets for RTE: alpha 0.7, T = 10, and beta 500 times the mean over the 5
    layers and 768 dimensions, which is 0.13 times this sum. They searched alpha 0.2, 0.5, 0.7, T 5, 10, 20 and beta 10,
    100, 500, 1000. (The code also averages the KL over the classes; here it is
    the paper's sum.) The student starts from the first blocks of BERT before fine-tuning, not of the teacher.

    Args:
        student_layers: blocks of the student, at least 2; for `"skip"` it must divide `teacher_layers`.
        teacher_layers: blocks of the teacher.
        strategy: which blocks of the teacher are compared.
        alpha: weight of the logits.
        beta: weight of each layer.
        temperature: of the logits.

    Raises:
        AlignmentError: as `lightmbert`; or `strategy` is unknown, or the depths do not fit it.

    Source: the authors' `KD_loss.py`, `NLI_KD_training.py`, `argument_parser.py` and `run_student_patience.py` (blocks
        1, 3, 5, 7, 9, counted from 0); `"last"` from the abstract. Which blocks the last ones are, and the start from
        the first blocks: section 3 of the paper, not verified.
    """
    _check_depths(student_layers, teacher_layers)
    require_choice("strategy", strategy, ("skip", "last"))
    if student_layers < 2:
        raise AlignmentError(
            "pkd compares all blocks of the student but the last, so it should have at least 2; got 1."
        )
    if strategy == "skip":
        step = _step(student_layers, teacher_layers)
        layer_map = {k: k * step for k in range(1, student_layers)}
    else:
        layer_map = {k: teacher_layers - student_layers + k for k in range(1, student_layers)}
    alignments = (
        Alignment(feature="logits", loss="kl", temperature=temperature, weight=alpha),
        *(
            _pair("hidden_states", k, layer, loss="normalized_mse", weight=beta, positions="first")
            for k, layer in layer_map.items()
        ),
    )
    return _checked(alignments, student_layers, teacher_layers)


def minilm(*, student_layers: int, teacher_layers: int) -> tuple[Alignment, ...]:
    """MiniLM (Wang et al. 2020, arXiv 2002.10957): the last attention, and how its values relate.

    `loss = KL(attention probabilities) + KL(softmax(V V^T / sqrt(d)))`, teacher first, means over heads and tokens,
    both of the last block, weights 1. Widths may differ, numbers of heads may not. The paper's student starts from
    random weights. (Its teacher assistant, for much smaller students, is a second run.)

    Args:
        student_layers: blocks of the student.
        teacher_layers: blocks of the teacher.

    Raises:
        AlignmentError: as `lightmbert`.

    Source: sections 3.1 and 3.2. The authors published models but no code of the distillation, so nothing else was
        verified; the papers have no padding, and here it does not count.
    """
    _check_depths(student_layers, teacher_layers)
    alignments = tuple(
        _pair(feature, student_layers, teacher_layers, loss="kl") for feature in ("attention_probs", "value_relation")
    )
    return _checked(alignments, student_layers, teacher_layers)


def minilmv2(
    *, student_layers: int, teacher_layers: int, teacher_layer: int | None = None, relation_heads: int = 48
) -> tuple[Alignment, ...]:
    """MiniLMv2 (Wang et al. 2021, arXiv 2012.15828): how queries, keys and values relate, each to themselves.

    `loss = KL(Q-Q) + KL(K-K) + KL(V-V)`, where X-X is softmax(X X^T / sqrt(d)) of each relation head, of width d;
    teacher first, means over heads and tokens, weights 1; from one block of the teacher to the student's last. Widths
    and numbers of heads may differ. The paper's student starts from random weights.

    Args:
        student_layers: blocks of the student.
        teacher_layers: blocks of the teacher.
        teacher_layer: the block that teaches; None is the last, as for teachers of base size. For large ones the paper
            takes 21 of 24 (BERT) or 19 of 24 (RoBERTa, XLM-R): from memory, not verified.
        relation_heads: so many heads both models' are split into; must divide both widths. 48 for teachers of base size
            and 64 for large ones, as two re-implementations say of the paper.

    Raises:
        AlignmentError: as `lightmbert`; or there is no such `teacher_layer`.

    Source: section 3. The authors published models but no code of the distillation; the formula was compared with
        Bloomberg's re-implementation (`minilmv2.bb`), which averages every sequence by itself, then the sequences; here
        every token counts alike.
    """
    _check_depths(student_layers, teacher_layers)
    teaching = teacher_layers if teacher_layer is None else teacher_layer
    alignments = tuple(
        _pair(relation, student_layers, teaching, loss="kl", relation_heads=relation_heads) for relation in RELATIONS
    )
    return _checked(alignments, student_layers, teacher_layers)


def logits(
    *,
    student_layers: int | None = None,
    teacher_layers: int | None = None,
    temperature: float = 2.0,
    positions: Literal["tokens", "labels"] = "tokens",
) -> tuple[Alignment, ...]:
    """Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): the predictions alone.

    `loss = T^2 KL(softmax(teacher / T) || softmax(student / T))`, plus `task_weight` times the student's own loss. The
    default T = 2 and weights are this library's: the paper tries several.

    Args:
        student_layers: not read; every method can be called with both depths.
        teacher_layers: not read.
        temperature: T.
        positions: where the logits are compared: at all tokens, or at labelled ones. A classifier has one row an
            example.

    Raises:
        AlignmentError: an option is out of its range.

    Source: section 2.
    """
    return (Alignment(feature="logits", loss="kl", temperature=temperature, positions=positions),)


def for_stack(alignments: Iterable[Alignment], stack: Literal["encoder", "decoder"]) -> tuple[Alignment, ...]:
    """A method for one stack of a model with an encoder and a decoder, whose depths it was given; logits stay as they
    are. Both stacks: `for_stack(lightmbert(...), "encoder") + for_stack(lightmbert(...), "decoder")`.

    Args:
        alignments: what a method gave.
        stack: `"encoder"` or `"decoder"`.

    Raises:
        AlignmentError: there is no such stack.
    """
    return tuple(a if a.feature == "logits" else replace(a, stack=stack) for a in alignments)


def of_teachers(
    method: Callable[..., tuple[Alignment, ...]],
    *,
    student_layers: int,
    teacher_layers: Sequence[int],
    weights: Sequence[float] | None = None,
    **options: Any,
) -> tuple[Alignment, ...]:
    """A method with several teachers: the layers of each, times its weight, and the logits of all together.

    With one depth it is the method itself. Logits are compared with the weighted mean of the teachers' (give
    `DistillationTrainer` the same `teacher_weights`), so there they are one term, of the weight that the method says.

    Args:
        method: a function of this module, such as `lightmbert`.
        student_layers: blocks of the student.
        teacher_layers: blocks of each teacher, which may be different numbers.
        weights: of the teachers; None for equal ones. They are divided by their sum.
        options: of the method.

    Raises:
        AlignmentError: of the method; or the weights are not a positive number for each teacher.
    """
    shares = teacher_shares(weights, len(teacher_layers))
    if len(teacher_layers) == 1:
        return method(student_layers=student_layers, teacher_layers=teacher_layers[0], **options)
    alignments: dict[str, Alignment] = {}
    for number, (depth, share) in enumerate(zip(teacher_layers, shares, strict=True), start=1):
        for a in method(student_layers=student_layers, teacher_layers=depth, **options):
            if a.feature != "logits":
                a = replace(a, teacher=number, weight=scaled(a.weight, share))
            alignments.setdefault(a.name, a)
    return tuple(alignments.values())


METHODS: dict[str, Callable[..., tuple[Alignment, ...]]] = {
    "lightmbert": lightmbert,
    "tinybert": tinybert,
    "distilbert": distilbert,
    "pkd": pkd,
    "minilm": minilm,
    "minilmv2": minilmv2,
    "logits": logits,
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What belongs to a method besides its alignments.

    Attributes:
        layers: the blocks that the student starts from, as `build_student` takes them (numbers: of 12, for 6); None:
            from random weights (`AutoModel.from_config`).
        freeze_embeddings: as `build_student` takes it.
        task_weight: as `DistillationTrainer` takes it.
    """

    layers: str | tuple[int, ...] | None
    freeze_embeddings: bool = False
    task_weight: float = 0.0


SETTINGS = {
    "lightmbert": Setting(layers="bottom", freeze_embeddings=True),
    "tinybert": Setting(layers=None),
    "distilbert": Setting(layers=(1, 3, 5, 8, 10, 12), task_weight=2.0),
    "pkd": Setting(layers="bottom", task_weight=0.3),
    "minilm": Setting(layers=None),
    "minilmv2": Setting(layers=None),
    "logits": Setting(layers="bottom"),
}


def _pair(feature: str, student_layer: int, teacher_layer: int, **options: Any) -> Alignment:
    return Alignment(feature=feature, student_layer=student_layer, teacher_layer=teacher_layer, **options)


def _checked(alignments: tuple[Alignment, ...], student_layers: int, teacher_layers: int) -> tuple[Alignment, ...]:
    check_alignments(alignments, student_layers=student_layers, teacher_layers=teacher_layers)
    return alignments


def _step(student_layers: int, teacher_layers: int) -> int:
    """How many blocks of the teacher one of the student stands for."""
    _check_depths(student_layers, teacher_layers)
    if teacher_layers % student_layers:
        raise AlignmentError(
            f"the student's blocks should divide the teacher's {teacher_layers}; got {student_layers}. Choose another "
            "depth, or give alignments of your own."
        )
    return teacher_layers // student_layers


def _check_depths(student_layers: int, teacher_layers: int) -> None:
    for name, depth in (("student_layers", student_layers), ("teacher_layers", teacher_layers)):
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise AlignmentError(f"{name} should be a whole number of blocks, at least 1; got {depth!r}.")
    if student_layers > teacher_layers:
        raise AlignmentError(
            f"the student should have at most as many blocks as the teacher ({teacher_layers}); got {student_layers}."
        )
