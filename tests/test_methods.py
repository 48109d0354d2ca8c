"""The alignments of each method, and its loss against the paper's formula, written out on whole outputs."""

import math

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from torch.nn import functional as F
from transformers import BertForMaskedLM, BertForSequenceClassification

from distil_trainer import DistillationTrainer, build_student, layer_map, methods, student_config
from distil_trainer.errors import AlignmentError

DEPTHS = {"student_layers": 2, "teacher_layers": 4}


def names(alignments):
    return [(a.name, a.loss, a.weight) for a in alignments]


def test_lightmbert_aligns_the_last_blocks():
    alignments = methods.lightmbert(student_layers=6, teacher_layers=12)
    assert names(alignments) == [("hidden_states_s6_t12", "mse", 1.0), ("attention_probs_s6_t12", "mse", 1.0)]


def test_tinybert_aligns_every_block_and_the_embeddings():
    blocks = [f"attention_scores_s{k}_t{2 * k}" for k in range(1, 7)] + [
        f"hidden_states_s{k}_t{2 * k}" for k in range(7)
    ]
    alignments = methods.tinybert(student_layers=6, teacher_layers=12)
    assert names(alignments) == [(name, "mse", 1.0) for name in blocks]
    projected = methods.tinybert(student_layers=6, teacher_layers=12, projection=True)
    assert {(a.feature, a.projection) for a in projected} == {("attention_scores", False), ("hidden_states", "shared")}
    alignments = methods.tinybert(student_layers=6, teacher_layers=12, stage="logits")
    assert names(alignments) == [("logits", "soft_cross_entropy", 1.0)]


def test_distilbert_aligns_logits_and_the_last_hidden_states():
    alignments = methods.distilbert(student_layers=6, teacher_layers=12)
    assert names(alignments) == [("logits", "kl", 5.0), ("hidden_states_s6_t12", "cosine", 1.0)]
    assert (alignments[0].temperature, alignments[0].positions) == (2.0, "tokens")


@pytest.mark.parametrize(("strategy", "blocks"), [("skip", [2, 4, 6, 8, 10]), ("last", [7, 8, 9, 10, 11])])
def test_pkd_aligns_all_blocks_but_the_last(strategy, blocks):
    alignments = methods.pkd(student_layers=6, teacher_layers=12, strategy=strategy)
    assert [a.teacher_layer for a in alignments] == [None, *blocks]
    assert [a.student_layer for a in alignments] == [None, 1, 2, 3, 4, 5]
    assert {a.positions for a in alignments[1:]} == {"first"}


def test_minilm_and_minilmv2_align_one_block():
    last = methods.minilm(student_layers=6, teacher_layers=12)
    assert names(last) == [("attention_probs_s6_t12", "kl", 1.0), ("value_relation_s6_t12", "kl", 1.0)]
    relations = methods.minilmv2(student_layers=6, teacher_layers=24, teacher_layer=21, relation_heads=64)
    assert layer_map(relations).splitlines()[0] == (
        "student block 6 learns query relations from teacher block 21 (kl, 64 relation heads)"
    )
    assert names(relations) == [(f"{x}_relation_s6_t21", "kl", 1.0) for x in ("query", "key", "value")]


@pytest.mark.parametrize("method", sorted(set(methods.METHODS) - {"logits"}))
@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [(0, 12, "student_layers"), (6, 12.0, "teacher_layers"), (13, 12, "at most as many blocks as the teacher")],
)
def test_impossible_depths_are_refused(method, student, teacher, message):
    with pytest.raises(AlignmentError, match=message):
        methods.METHODS[method](student_layers=student, teacher_layers=teacher)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tinybert", {"student_layers": 5}, "should divide the teacher's 12; got 5"),
        ("tinybert", {"stage": "task"}, "stage should be one of layers, logits, both; got 'task'"),
        ("pkd", {"student_layers": 5}, "should divide the teacher's 12; got 5"),
        ("pkd", {"student_layers": 1}, "at least 2; got 1"),
        ("pkd", {"strategy": "first"}, "strategy should be one of skip, last; got 'first'"),
        ("pkd", {"beta": 0}, "weight should be a positive"),
        ("minilmv2", {"teacher_layer": 13}, "the teacher has 12 blocks, but teacher_layer=13"),
        ("logits", {"temperature": -1.0}, "temperature should be a positive"),
    ],
)
def test_impossible_options_are_refused(method, options, message):
    with pytest.raises(AlignmentError, match=message):
        methods.METHODS[method](**{"student_layers": 6, "teacher_layers": 12} | options)


def test_every_method_has_its_place_and_its_settings():
    assert list(methods.METHODS) == list(methods.SETTINGS)
    assert all(function is getattr(methods, name) for name, function in methods.METHODS.items())


# Whole outputs of both models on one padded batch, from which each formula is written out.


class Whole:
    """What a model computes of a batch: everything that the formulas read."""

    def __init__(self, model, batch):
        model = model.eval()
        implementation = model.config._attn_implementation
        model.set_attn_implementation("eager")
        with torch.no_grad():
            outputs = model(**batch, output_hidden_states=True, output_attentions=True)
            self.hidden, self.attentions = outputs.hidden_states, outputs.attentions
            self.logits, self.task_loss = outputs.logits, outputs.loss
            self.projected = [
                {part: getattr(block.attention.self, part)(states) for part in ("query", "key", "value")}
                for block, states in zip(model.bert.encoder.layer, self.hidden, strict=False)
            ]
        model.set_attn_implementation(implementation)

    def heads(self, part, block, row, length, count):
        """[count, length, width]: one row's queries, keys or values, without its padding, split into so many heads."""
        return torch.stack(self.projected[block - 1][part][row, :length].chunk(count, -1))


def kl(teacher, student):
    """Of two arrays of distributions, over the last dimension; 0 log 0 = 0."""
    return torch.where(teacher > 0, teacher * (teacher.log() - student.log()), 0.0).sum(-1)


def lightmbert(s, t, lengths, batch):
    mask = batch["attention_mask"].bool()
    hidden = (s.hidden[2] - t.hidden[4])[mask].square().mean()
    squares = sum(
        (s.attentions[1] - t.attentions[3])[row, :, :n, :n].square().sum() / 4 for row, n in enumerate(lengths)
    )
    return hidden + squares / sum(n * n for n in lengths)


def tinybert(s, t, lengths, batch):
    mask = batch["attention_mask"].bool()
    loss = sum((s.hidden[k] - t.hidden[2 * k])[mask].square().mean() for k in range(3))
    for k in (1, 2):
        squares = 0.0
        for row, n in enumerate(lengths):
            scores = [
                model.heads("query", block, row, n, 4) @ model.heads("key", block, row, n, 4).mT / math.sqrt(8)
                for model, block in ((s, k), (t, 2 * k))
            ]
            squares = squares + (scores[0] - scores[1]).square().sum() / 4
        loss = loss + squares / sum(n * n for n in lengths)
    return loss


def distilbert(s, t, lengths, batch):
    mask = batch["attention_mask"].bool()
    soft = 4 * kl((t.logits / 2).softmax(-1), (s.logits / 2).softmax(-1))[mask].mean()
    cosine = 1 - F.cosine_similarity(s.hidden[2], t.hidden[4], dim=-1)[mask].mean()
    return 5 * soft + cosine + 2 * s.task_loss


def pkd(s, t, lengths, batch):
    soft = 100 * kl((t.logits / 10).softmax(-1), (s.logits / 10).softmax(-1)).mean()
    first = F.normalize(s.hidden[1][:, 0], dim=-1) - F.normalize(t.hidden[2][:, 0], dim=-1)
    return 0.3 * s.task_loss + 0.7 * soft + 0.13 * first.square().sum(-1).mean()


def relation(part, s, t, lengths, count):
    divergence = 0.0
    for row, n in enumerate(lengths):
        maps = []
        for model, block in ((s, 2), (t, 4)):
            x = model.heads(part, block, row, n, count)
            maps.append((x @ x.mT / math.sqrt(x.size(-1))).softmax(-1))
        divergence = divergence + kl(maps[1], maps[0]).mean(0).sum()
    return divergence / sum(lengths)


def minilm(s, t, lengths, batch):
    attention = sum(
        kl(t.attentions[3][row, :, :n, :n], s.attentions[1][row, :, :n, :n]).mean(0).sum()
        for row, n in enumerate(lengths)
    )
    return attention / sum(lengths) + relation("value", s, t, lengths, 4)


def minilmv2(s, t, lengths, batch):
    return sum(relation(part, s, t, lengths, 8) for part in ("query", "key", "value"))


def logits(s, t, lengths, batch):
    return 4 * kl((t.logits / 2).softmax(-1), (s.logits / 2).softmax(-1))[batch["attention_mask"].bool()].mean()


CASES = {
    "lightmbert": (lightmbert, BertForMaskedLM, {}),
    "tinybert": (tinybert, BertForMaskedLM, {}),
    "distilbert": (distilbert, BertForMaskedLM, {}),
    "pkd": (pkd, BertForSequenceClassification, {}),
    "minilm": (minilm, BertForMaskedLM, {}),
    "minilmv2": (minilmv2, BertForMaskedLM, {"relation_heads": 8}),
    "logits": (logits, BertForMaskedLM, {}),
}


def test_every_method_is_compared_with_its_formula():
    assert CASES.keys() == methods.METHODS.keys()


def examples_for(model_class):
    examples = ragged_examples(8)
    if model_class is BertForSequenceClassification:
        for row, example in enumerate(examples):
            example["labels"] = row % 3
    return examples


def collate(examples):
    if isinstance(examples[0]["labels"], list):
        return pad_batch(examples)
    rows = pad_batch([{key: value for key, value in ex.items() if key != "labels"} for ex in examples])
    return rows | {"labels": torch.tensor([ex["labels"] for ex in examples])}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_that_of_the_formula(make_args, name):
    formula, model_class, options = CASES[name]
    teacher = tiny_model(model_class, num_labels=3)
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=2))
    examples = examples_for(model_class)
    trainer = DistillationTrainer(
        model=student,
        args=make_args(per_device_eval_batch_size=3),  # a mean over the whole set, not of means of batches
        teacher_model=teacher,
        alignments=methods.METHODS[name](**DEPTHS, **options),
        task_weight=methods.SETTINGS[name].task_weight,
        eval_dataset=examples,
        data_collator=collate,
    )
    loss = trainer.evaluate()["eval_loss"]
    batch, lengths = collate(examples), [len(example["input_ids"]) for example in examples]
    expected = formula(Whole(student, batch), Whole(teacher, batch), lengths, batch)
    assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_minilmv2_teaches_a_student_of_another_width_with_other_heads(make_args):
    teacher = tiny_model(BertForMaskedLM)
    student = tiny_model(BertForMaskedLM, num_hidden_layers=2, hidden_size=24, num_attention_heads=2, seed=1)
    before = flat_weights(student).clone()
    trainer = DistillationTrainer(
        model=student,
        args=make_args(max_steps=60, learning_rate=3e-3),
        teacher_model=teacher,
        alignments=methods.minilmv2(**DEPTHS, relation_heads=8),
        train_dataset=ragged_examples(),
        data_collator=pad_batch,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert not torch.equal(flat_weights(student), before)
    assert losses[-1] < 0.5 * losses[0]
