"""The cells of docs/architectures.md, found by running what they speak of."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from rows import CUT, DEPTH, Row
from torch import Tensor

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config
from distil_trainer.alignment import Place
from distil_trainer.errors import DistilTrainerError
from distil_trainer.features import FeatureReader, Features
from distil_trainer.losses import Heads

COLUMNS = ("hidden states", "probabilities", "relations", "full copy", *methods.METHODS)
LAYERS = range(1, DEPTH + 1)
CLOSE = {"rtol": 0, "atol": 1e-5}


def cells(row: Row, make_args: Callable[..., Any]) -> list[str]:
    """The cells of a row: `yes`, or the first words of the error that came before training."""
    inputs = row.batch()
    found = [
        _cell(lambda: _hidden_states_are_the_models_own(row, inputs)),
        _cell(lambda: _probabilities_are_the_models_own(row, inputs)),
        _cell(lambda: _relations_are_the_models_own(row, inputs)),
        _cell(lambda: _full_copy_has_nothing_to_learn(row, inputs, make_args)),
    ]
    return found + [_cell(lambda m=method: _one_step(row, m, make_args)) for method in methods.METHODS]


def _cell(check: Callable[[], None]) -> str:
    try:
        check()
    except DistilTrainerError as error:
        return f"`{type(error).__name__}`: {' '.join(str(error).split()[:6])} ..."
    return "yes"


def _backend(row: Row) -> str:
    return "sdpa" if row.model("eager")._supports_sdpa else "eager"


def _expected(row: Row, inputs: dict[str, Tensor], field: str) -> Any:
    """`hidden_states` or `attentions` of the model's own outputs, of the row's stack."""
    with torch.no_grad():
        outputs = row.model("eager")(**inputs, output_hidden_states=True, output_attentions=True)
    return outputs[field if row.stack is None else f"{row.stack}_{field}"]


def _place(row: Row, layer: int) -> Place:
    return layer if row.stack is None else (row.stack, layer)


def _read(
    row: Row, inputs: dict[str, Tensor], *, hidden: Iterable[int] = (), attention: Iterable[int] = (), **options: Any
) -> Features:
    model = row.model(_backend(row))
    reader = FeatureReader(
        model,
        hidden_layers=[_place(row, layer) for layer in hidden],
        attention_layers=[_place(row, layer) for layer in attention],
        **options,
    )
    with torch.no_grad(), reader.reading() as features:
        model(**inputs)
    return features


def _hidden_states_are_the_models_own(row: Row, inputs: dict[str, Tensor]) -> None:
    expected = _expected(row, inputs, "hidden_states")
    features = _read(row, inputs, hidden=range(DEPTH + 1))
    found = [features.hidden_states[_place(row, layer)] for layer in range(DEPTH + 1)]
    assert len(expected) == len(found)
    mask = row.mask(inputs, found[0].size(1))
    if row.final_norm:
        model = row.model("eager")
        part = getattr(model, f"get_{row.stack}")() if row.stack else model.base_model
        with torch.no_grad():
            found[DEPTH] = getattr(part, row.final_norm)(found[DEPTH])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[mask], theirs[mask], **CLOSE)


def _probabilities_are_the_models_own(row: Row, inputs: dict[str, Tensor]) -> None:
    features = _read(row, inputs, attention=LAYERS, only_probs=True)
    for layer, expected in zip(LAYERS, _expected(row, inputs, "attentions"), strict=True):
        mask = row.mask(inputs, expected.size(2))
        found = _map(features.attention(_place(row, layer)), mask)
        torch.testing.assert_close(found.transpose(1, 2)[mask], expected.transpose(1, 2)[mask], **CLOSE)


def _map(heads: Heads, mask: Tensor) -> Tensor:
    key = heads.key.repeat_interleave(heads.query.size(1) // heads.key.size(1), dim=1)
    scores = heads.scaling * heads.query @ key.mT
    visible = mask[:, None, None, :] if heads.visible is None else heads.visible & mask[:, None, None, :]
    if heads.causal:
        visible = visible & torch.ones_like(scores, dtype=torch.bool).tril()
    return scores.masked_fill(~visible, -torch.inf).softmax(-1)


def _relations_are_the_models_own(row: Row, inputs: dict[str, Tensor]) -> None:
    features = _read(row, inputs, attention=LAYERS)
    model = row.model("eager")
    with _eager_calls(model) as calls, torch.no_grad():
        model(**inputs)
    part = getattr(model, f"get_{row.stack}")() if row.stack else model
    own = [vectors for module, *vectors in calls if module in set(part.modules())]
    if row.stack == "decoder":
        own = own[::2]  # every other is an attention to the encoder
    for layer, vectors in zip(LAYERS, own, strict=True):
        heads = features.heads[_place(row, layer)]
        mask = row.mask(inputs, heads.query.size(2))
        for found, expected in zip((heads.query, heads.key, heads.value), vectors, strict=True):
            torch.testing.assert_close(found.transpose(1, 2)[mask], expected.transpose(1, 2)[mask], **CLOSE)


@contextmanager
def _eager_calls(model: Any) -> Iterator[list[tuple[Any, ...]]]:
    """Inside this context module, queries, keys and values of every call of the model's own eager function."""
    calls: list[tuple[Any, ...]] = []
    source = sys.modules[type(model).__module__]
    own = source.eager_attention_forward

    def note(module: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((module, *args[:3]))
        return own(module, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "eager_attention_forward", note)
        yield calls


def _full_copy_has_nothing_to_learn(row: Row, inputs: dict[str, Tensor], make_args: Callable[..., Any]) -> None:
    teacher = row.model(_backend(row))
    student = build_student(teacher, teacher.config)
    features = ["attention_probs", "attention_scores", "query_relation", "key_relation", "value_relation"]
    try:
        FeatureReader(teacher, hidden_layers=[], attention_layers=[_place(row, 1)])
    except DistilTrainerError:
        del features[1:]  # its cells tell
    alignments = [Alignment(feature="logits", loss="kl")]
    for feature in ("hidden_states", *features):
        loss = "kl" if feature.endswith("relation") else "mse"
        if feature == "hidden_states":
            loss = "normalized_mse"  # those of T5 are large, and so is their rounding
        alignments += [
            Alignment(feature=feature, student_layer=k, teacher_layer=k, loss=loss, stack=row.stack) for k in (1, DEPTH)
        ]
    trainer = DistillationTrainer(student, make_args(), teacher_model=teacher, alignments=alignments)
    loss = trainer.compute_loss(student, inputs)
    loss.backward()
    assert abs(loss.item()) <= 1e-6
    rounding = 1e-6 * len(alignments) ** 0.5  # of each term its own; which, depends on the processor
    assert all(p.grad is None or p.grad.abs().max() <= rounding for p in student.parameters())


def _one_step(row: Row, method: str, make_args: Callable[..., Any]) -> None:
    teacher = row.model(_backend(row))
    kinds = getattr(teacher.config, "layer_types", None)
    kept: dict[str, Any] = {"layer_types": [kinds[block - 1] for block in CUT]} if kinds else {}
    if row.stack:
        name = "num_decoder_layers" if hasattr(teacher.config, "num_decoder_layers") else "decoder_layers"
        kept[name] = len(CUT)
    config = student_config(teacher.config, num_hidden_layers=len(CUT), **kept)
    student = build_student(teacher, config, CUT)
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    options = {"relation_heads": 8} if method == "minilmv2" else {}
    alignments = methods.METHODS[method](student_layers=len(CUT), teacher_layers=DEPTH, **options)
    trainer = DistillationTrainer(
        student,
        make_args(max_steps=1, learning_rate=1e-3),
        teacher_model=teacher,
        alignments=methods.for_stack(alignments, row.stack) if row.stack else alignments,
        task_weight=methods.SETTINGS[method].task_weight,
        train_dataset=row.examples(),
        data_collator=row.collate,
    )
    try:
        result = trainer.train()
    except DistilTrainerError as error:
        raise AssertionError(f"{error} This should have been said before training.") from error
    assert 0 < result.training_loss < float("inf")
    assert any(not torch.equal(before[name], parameter) for name, parameter in student.named_parameters())
