"""With a float32 cache every loss is what it is without one, in any order, batch and padding."""

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    set_seed,
)

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config
from distil_trainer.errors import TrainingSetupError
from distil_trainer.teacher_cache import TeacherCache

LAYER = {"student_layer": 2, "teacher_layer": 4}
ALIGNMENTS = {
    "hidden": [Alignment(feature="hidden_states", **LAYER)],
    "embeddings": [Alignment(feature="hidden_states", student_layer=0, teacher_layer=0, loss="cosine")],
    "first": [Alignment(feature="hidden_states", **LAYER, positions="first", loss="normalized_mse")],
    "first and all": [
        Alignment(feature="hidden_states", student_layer=1, teacher_layer=4),
        Alignment(feature="hidden_states", **LAYER, positions="first"),
    ],
    "probs": [Alignment(feature="attention_probs", **LAYER)],
    "probs, kl": [Alignment(feature="attention_probs", **LAYER, loss="kl")],
    "scores": [Alignment(feature="attention_scores", **LAYER)],
    "relations": list(methods.minilmv2(student_layers=2, teacher_layers=4, relation_heads=8)),
    "values": [Alignment(feature="value_relation", **LAYER, loss="kl")],
    "minilm": list(methods.minilm(student_layers=2, teacher_layers=4)),
    "logits": [Alignment(feature="logits", loss="kl", temperature=2.0)],
    "logits, labels": [Alignment(feature="logits", loss="js", positions="labels")],
    "logits, mse": [Alignment(feature="logits")],
    "everything": [
        Alignment(feature="hidden_states", **LAYER),
        Alignment(feature="attention_probs", **LAYER),
        Alignment(feature="query_relation", **LAYER, loss="kl"),
        Alignment(feature="logits", loss="soft_cross_entropy"),
    ],
}
ROWS = 12
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


def bert(model_class=BertForMaskedLM, **overrides):
    return tiny_model(model_class, **overrides)


def llama():
    set_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2))


def modern_bert():
    set_seed(0)
    special = {f"{name}_token_id": i for i, name in enumerate(("pad", "cls", "sep", "bos", "eos"))}
    return ModernBertModel(ModernBertConfig(**SIZES, local_attention=8, global_attn_every_n_layers=2, **special))


def of_rows(examples):
    """The examples as rows of a collator, with the number of the example in the place of `labels`."""
    return [{**example, "labels": len(example["input_ids"]) % 3} for example in examples]


def collate_rows(batch):
    labels = torch.tensor([example["labels"] for example in batch])
    return {**pad_batch([{k: v for k, v in ex.items() if k != "labels"} for ex in batch]), "labels": labels}


def trainer_of(make_args, teacher, alignments, *, cache=None, args=None, student=None, **kwargs):
    student = student or build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
    examples = ragged_examples(ROWS)
    defaults = {"train_dataset": examples, "eval_dataset": examples, "data_collator": pad_batch}
    return DistillationTrainer(
        model=student,
        args=make_args(**{"per_device_eval_batch_size": 5, **(args or {})}),
        teacher_model=teacher,
        alignments=alignments,
        teacher_cache=cache,
        **defaults | kwargs,
    )


def float32(tmp_path):
    return TeacherCache(folder=str(tmp_path / "cache"), dtype="float32")


def forwards(trainer):
    """A list that gets the size of every batch that the teacher computes."""
    seen = []
    embeddings = trainer.teacher.reader.model.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


def check_evaluation(make_args, tmp_path, teacher, alignments, **kwargs):
    """Evaluates without a cache, while it is filled, and from it: in another order, in other batches."""
    plain = trainer_of(make_args, teacher, alignments, **kwargs)
    student = plain.model
    expected = plain.evaluate()
    filling = trainer_of(make_args, teacher, alignments, cache=float32(tmp_path), student=student, **kwargs)
    filled = filling.evaluate()
    mixed = list(reversed(filling.eval_dataset))
    for batch_size in (1, ROWS):
        args = {"per_device_eval_batch_size": batch_size}
        kwargs |= {"eval_dataset": mixed}
        reading = trainer_of(
            make_args, teacher, alignments, cache=float32(tmp_path), args=args, student=student, **kwargs
        )
        seen = forwards(reading)
        found = reading.evaluate()
        assert not seen
        for name in expected:
            if "loss" in name:
                assert filled[name] == pytest.approx(expected[name], rel=2e-6, abs=1e-9)
                assert found[name] == pytest.approx(expected[name], rel=2e-6, abs=1e-9)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_of_an_encoder(make_args, tmp_path, name):
    check_evaluation(make_args, tmp_path, bert(), ALIGNMENTS[name])


@pytest.mark.parametrize("name", ["probs", "scores", "relations", "logits", "logits, labels"])
def test_of_a_causal_model_with_grouped_queries(make_args, tmp_path, name):
    check_evaluation(make_args, tmp_path, llama(), ALIGNMENTS[name])


@pytest.mark.parametrize("layer", [1, 2, 3])  # 3 looks at all tokens
def test_of_a_model_with_sliding_windows(make_args, tmp_path, layer):
    alignment = Alignment(feature="attention_probs", student_layer=1, teacher_layer=layer, loss="kl")
    examples = ragged_examples(ROWS, labels=False)
    check_evaluation(make_args, tmp_path, modern_bert(), [alignment], eval_dataset=examples, train_dataset=examples)


def test_of_a_classifier_of_rows(make_args, tmp_path):
    examples = of_rows(ragged_examples(ROWS, labels=False))
    for positions in ("tokens", "labels"):
        alignment = Alignment(feature="logits", loss="kl", positions=positions)
        teacher = bert(BertForSequenceClassification, num_labels=3)
        data = {"eval_dataset": examples, "train_dataset": examples, "data_collator": collate_rows}
        check_evaluation(make_args, tmp_path / positions, teacher, [alignment], **data)


@pytest.mark.parametrize("positions", ["tokens", "labels"])
def test_of_a_classifier_of_tokens(make_args, tmp_path, positions):
    alignment = Alignment(feature="logits", positions=positions)
    check_evaluation(make_args, tmp_path, bert(BertForTokenClassification, num_labels=99), [alignment])


def test_where_the_whole_logits_are_asked_for(make_args, tmp_path):
    measured = {"compute_metrics": lambda prediction: {"size": prediction.predictions.shape[-1]}}
    check_evaluation(make_args, tmp_path, bert(), ALIGNMENTS["logits, labels"], **measured)


def test_training_makes_the_same_student_and_runs_the_teacher_in_the_first_epoch_only(make_args, tmp_path):
    alignments = ALIGNMENTS["everything"]
    args = {"max_steps": -1, "num_train_epochs": 3, "gradient_accumulation_steps": 2}
    args |= {"per_device_train_batch_size": 3, "optim": "sgd", "learning_rate": 0.1}
    runs = []
    for cache in (None, float32(tmp_path)):
        trainer = trainer_of(make_args, bert(), alignments, cache=cache, args=args, task_weight=0.5)
        seen = forwards(trainer)
        trainer.train()
        runs.append(flat_weights(trainer.model))
    assert (runs[1] - runs[0]).norm() <= 1e-6 * runs[0].norm()
    assert trainer.cached_teachers[0].misses == ROWS
    assert sum(seen) == ROWS + 1  # the first example also tells what the head is
    again = trainer_of(make_args, bert(), alignments, cache=float32(tmp_path), args=args, task_weight=0.5)
    seen = forwards(again)
    again.train()
    assert not seen
    assert torch.equal(flat_weights(again.model), runs[1])


@pytest.mark.parametrize("model_class", [BertForMaskedLM, BertForTokenClassification])
def test_several_teachers_are_kept_apart(make_args, tmp_path, model_class):
    """Logits against the mean of both, and a layer of the second; each has a folder of its own."""
    sizes = {"num_labels": 99} if model_class is BertForTokenClassification else {}
    teachers = [bert(model_class, seed=seed, **sizes) for seed in (1, 2)]
    layer = Alignment(feature="hidden_states", student_layer=2, teacher_layer=3, teacher=2)
    student = build_student(teachers[0], student_config(teachers[0].config, num_hidden_layers=2))
    losses = []
    for cache in (None, float32(tmp_path), float32(tmp_path)):
        alignments = [*ALIGNMENTS["logits, labels"], layer]
        trainer = trainer_of(make_args, teachers, alignments, cache=cache, student=student)
        found = trainer.evaluate()
        losses.append({name: value for name, value in found.items() if "loss" in name})
    for kept in losses[1:]:
        assert kept == pytest.approx(losses[0], rel=2e-6, abs=1e-9)
    assert [(answer.hits, answer.misses) for answer in trainer.cached_teachers] == [(ROWS, 0)] * 2
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["teacher-1", "teacher-2"]
    top = TeacherCache(folder=str(tmp_path / "top"), top_k=3)
    with pytest.raises(TrainingSetupError, match="the mean of 2 is one of all logits"):
        trainer_of(make_args, teachers, alignments, cache=top, student=student)


def test_only_missing_rows_are_computed_and_equal_ones_once(make_args, tmp_path):
    trainer = trainer_of(make_args, bert(), ALIGNMENTS["hidden"], cache=float32(tmp_path))
    first, second, third = ragged_examples(3, seed=5)
    seen = forwards(trainer)
    answer = trainer.cached_teachers[0]
    answer(pad_batch([first, second]))
    features = answer(pad_batch([third, second, third, first]))
    assert seen == [2, 1]
    assert (answer.hits, answer.misses) == (3, 3)
    assert torch.equal(features.hidden_states[4][0], features.hidden_states[4][2])
    expected = trainer.teacher(pad_batch([third, second, third, first]))
    mask = pad_batch([third, second, third, first])["attention_mask"].bool()
    torch.testing.assert_close(features.hidden_states[4][mask], expected.hidden_states[4][mask])


def test_what_is_not_finite_is_not_kept(make_args, tmp_path):
    teacher = bert()
    trainer = trainer_of(make_args, teacher, ALIGNMENTS["hidden"], cache=float32(tmp_path))
    sound, broken = ([{"input_ids": ids, "attention_mask": [1, 1, 1]}] for ids in ([5, 6, 7], [5, 9, 7]))
    teacher.get_input_embeddings().weight[9] = torch.nan
    answer = trainer.cached_teachers[0]
    for _ in range(2):
        assert answer(pad_batch(sound + broken)).hidden_states[4].isnan().any(-1).tolist() == [[False] * 3, [True] * 3]
    assert (answer.hits, answer.misses) == (1, 3)  # the broken row is computed again


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_dtypes_round_and_give_the_same_whether_a_row_was_there_or_not(make_args, tmp_path, dtype):
    cache = TeacherCache(folder=str(tmp_path / "cache"), dtype=dtype)
    teacher, alignments = bert(), ALIGNMENTS["everything"]
    plain = trainer_of(make_args, teacher, alignments)
    expected = plain.evaluate()
    filled, found = (
        trainer_of(make_args, teacher, alignments, cache=cache, student=plain.model).evaluate() for _ in range(2)
    )
    for name in expected:
        if "loss" in name:
            assert found[name] == filled[name] == pytest.approx(expected[name], rel=0.02)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("positions", ["tokens", "labels"])
def test_the_largest_logits(make_args, tmp_path, positions, temperature):
    alignment = Alignment(feature="logits", loss="kl", temperature=temperature, positions=positions)
    teacher = bert()
    cache = TeacherCache(folder=str(tmp_path / "cache"), dtype="float32", top_k=5)
    trainer = trainer_of(make_args, teacher, [alignment], cache=cache)
    found = [trainer.evaluate()["eval_loss"]]
    whole = {"compute_metrics": lambda prediction: {"size": prediction.predictions.shape[-1]}}
    found.append(trainer_of(make_args, teacher, [alignment], cache=cache, student=trainer.model, **whole).evaluate())
    batch = pad_batch(ragged_examples(ROWS))
    mask = (batch["labels"] != -100) if positions == "labels" else batch["attention_mask"].bool()
    with torch.no_grad():
        s, t = (
            model.eval()(batch["input_ids"], batch["attention_mask"]).logits[mask] for model in (trainer.model, teacher)
        )
    places = t.topk(5).indices
    events = []
    for logits in (s, t):
        p = (logits.double() / temperature).softmax(-1).gather(-1, places)
        events.append(torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1))
    by_hand = temperature**2 * (events[1] * (events[1] / events[0]).log()).sum(-1).mean().item()
    assert found[0] == pytest.approx(by_hand, rel=1e-5)
    assert found[1]["eval_loss"] == pytest.approx(by_hand, rel=1e-5)
