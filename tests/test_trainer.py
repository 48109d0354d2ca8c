import copy
import json

import numpy as np
import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from datasets import Dataset
from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    TrainerCallback,
)

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config
from distil_trainer.errors import AlignmentError, DataError, TrainingSetupError
from distil_trainer.teacher import fast_dtype

LAYERS = methods.lightmbert(student_layers=2, teacher_layers=4)
HIDDEN, ATTENTION = (alignment.name for alignment in LAYERS)
KL = Alignment(feature="logits", loss="kl", temperature=2.0, weight=0.5)


def pair(model_class=BertForMaskedLM, **overrides):
    teacher = tiny_model(model_class, **overrides)
    return teacher, build_student(teacher, student_config(teacher.config, num_hidden_layers=2))


def make_trainer(make_args, *, model_class=BertForMaskedLM, labels=True, alignments=LAYERS, args=None, **kwargs):
    teacher, student = pair(model_class)
    examples = ragged_examples(labels=labels)
    defaults = {
        "model": student,
        "args": make_args(**args or {}),
        "teacher_model": teacher,
        "alignments": alignments,
        "train_dataset": examples,
        "eval_dataset": examples[:10],
        "data_collator": pad_batch,
    }
    return DistillationTrainer(**defaults | kwargs)


def reference_terms(student, teacher, examples):
    """Hidden states and attention of the last blocks, averaged over all examples one by one, with eager attention."""
    student, teacher = copy.deepcopy(student).eval(), copy.deepcopy(teacher).eval()
    hidden, attention, tokens, pairs = 0.0, 0.0, 0, 0
    for example in examples:
        outputs = []
        for model in (student, teacher):
            model.set_attn_implementation("eager")
            batch = {k: v for k, v in pad_batch([example]).items() if k != "labels"}
            with torch.no_grad():
                outputs.append(model(**batch, output_hidden_states=True, output_attentions=True))
        s, t = outputs
        hidden += (s.hidden_states[2] - t.hidden_states[4]).square().mean(-1).sum().item()
        attention += (s.attentions[1] - t.attentions[3]).square().mean(1).sum().item()
        tokens += len(example["input_ids"])
        pairs += len(example["input_ids"]) ** 2
    return {HIDDEN: hidden / tokens, ATTENTION: attention / pairs}


def test_training_lowers_the_loss_and_leaves_the_teacher_alone(make_args):
    trainer = make_trainer(make_args, args={"max_steps": 30, "learning_rate": 3e-3})
    before = flat_weights(trainer.teacher.model).clone()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(flat_weights(trainer.teacher.model), before)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_evaluation_averages_every_term_over_the_whole_set(make_args, batch_size):
    trainer = make_trainer(make_args, args={"per_device_eval_batch_size": batch_size})
    metrics = trainer.evaluate()
    expected = reference_terms(trainer.model, trainer.teacher.model, ragged_examples()[:10])
    for name, value in expected.items():
        assert metrics[f"eval_loss/{name}"] == pytest.approx(value, rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(sum(expected.values()), rel=1e-5)


def test_logged_terms_are_averages_over_the_logging_interval_and_sum_to_the_loss(make_args):
    weights = {HIDDEN: 1.0, ATTENTION: 1.0, "logits": 0.5, "task": 0.25}
    runs = {}
    for every in (1, 4):
        args = {"max_steps": 4, "logging_steps": every, "gradient_accumulation_steps": 2}
        trainer = make_trainer(make_args, args=args, alignments=(*LAYERS, KL), task_weight=0.25)
        trainer.train()
        runs[every] = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [len(entries) for entries in runs.values()] == [4, 1]
    for entry in runs[1] + runs[4]:
        total = sum(weight * entry[f"loss/{name}"] for name, weight in weights.items())
        assert entry["loss"] == pytest.approx(total, rel=1e-5)
    for name in weights:
        mean = np.mean([entry[f"loss/{name}"] for entry in runs[1]])
        assert runs[4][0][f"loss/{name}"] == pytest.approx(mean, rel=1e-6)


def test_compute_metrics_gets_the_students_logits(make_args):
    seen = {}

    def keep(prediction):
        seen["logits"], seen["labels"] = prediction.predictions, prediction.label_ids
        return {"accuracy": 0.5}

    trainer = make_trainer(make_args, compute_metrics=keep, args={"per_device_eval_batch_size": 10})
    metrics = trainer.evaluate()
    batch = pad_batch(ragged_examples()[:10])
    with torch.no_grad():
        logits = trainer.model.eval()(batch["input_ids"], batch["attention_mask"]).logits
    assert metrics["eval_accuracy"] == 0.5
    np.testing.assert_allclose(seen["logits"], logits.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen["labels"], batch["labels"].numpy())


def test_evaluation_and_prediction_work_without_labels(make_args):
    trainer = make_trainer(make_args, model_class=BertModel, labels=False)
    assert trainer.evaluate()["eval_loss"] > 0
    assert trainer.predict(trainer.eval_dataset).metrics["test_loss"] > 0


def test_without_a_teacher_the_students_own_loss_is_evaluated(make_args):
    trainer = make_trainer(make_args, teacher_model=None)
    with torch.no_grad():
        expected = trainer.model.eval()(**pad_batch(trainer.eval_dataset[:8])).loss.item()
    metrics = trainer.evaluate(trainer.eval_dataset[:8])
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(TrainingSetupError, match="alignments need a teacher"):
        trainer.train()


def test_both_heads_of_a_pretraining_model_stay_usable(make_args):
    trainer = make_trainer(make_args, model_class=BertForPreTraining, alignments=(*LAYERS, KL))
    trainer.train()
    assert {"prediction_logits", "seq_relationship_logits"} <= set(trainer.model(**pad_batch(trainer.eval_dataset)))


def test_classifier_logits_count_examples(make_args):
    examples = [{**ex, "labels": i % 3} for i, ex in enumerate(ragged_examples(12, labels=False))]

    def collate(batch):
        labels = torch.tensor([example["labels"] for example in batch])
        return {**pad_batch([{k: v for k, v in ex.items() if k != "labels"} for ex in batch]), "labels": labels}

    teacher, student = pair(BertForSequenceClassification, num_labels=3)
    alignment = Alignment(feature="logits", loss="mse")
    trainer = DistillationTrainer(
        model=student,
        args=make_args(per_device_eval_batch_size=5),
        teacher_model=teacher,
        alignments=[alignment],
        train_dataset=examples,
        eval_dataset=examples,
        data_collator=collate,
    )
    batch = {k: v for k, v in collate(examples).items() if k != "labels"}
    with torch.no_grad():
        expected = (student.eval()(**batch).logits - teacher(**batch).logits).square().mean().item()
    assert trainer.evaluate()["eval_loss/logits"] == pytest.approx(expected, rel=1e-4)
    trainer.train()


def test_the_task_loss_of_question_answering_counts_examples(make_args):
    # Of one length: the model's own loss is a softmax over positions, padding among them.
    examples = [{"input_ids": [5 + i, 6, 7, 8], "attention_mask": [1] * 4} for i in range(12)]
    examples = [{**example, "start_positions": 0, "end_positions": 1} for example in examples]

    def collate(batch):
        ends = {key: torch.tensor([ex[key] for ex in batch]) for key in ("start_positions", "end_positions")}
        return pad_batch([{k: ex[k] for k in ("input_ids", "attention_mask")} for ex in batch]) | ends

    trainer = make_trainer(
        make_args,
        model_class=BertForQuestionAnswering,
        task_weight=1.0,
        args={"per_device_eval_batch_size": 5},
        eval_dataset=examples,
        data_collator=collate,
    )
    with torch.no_grad():
        expected = trainer.model.eval()(**collate(examples)).loss.item()
    assert trainer.evaluate()["eval_loss/task"] == pytest.approx(expected, rel=1e-4)


def test_columns_that_only_the_teacher_reads_are_kept(make_args):
    class NoTypes(BertModel):
        def forward(self, input_ids, attention_mask=None, **kwargs):
            return super().forward(input_ids, attention_mask)

    teacher, student = tiny_model(BertModel), tiny_model(NoTypes, num_hidden_layers=2)
    examples = [
        {**ex, "token_type_ids": [1] * len(ex["input_ids"]), "text": "x"} for ex in ragged_examples(labels=False)
    ]
    seen = []
    teacher.embeddings.token_type_embeddings.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    trainer = make_trainer(
        make_args,
        model=student,
        teacher_model=teacher,
        train_dataset=Dataset.from_list(examples),
        eval_dataset=Dataset.from_list(examples),
    )
    trainer.train()
    assert seen
    assert all((types == 1).any() for types in seen)


def test_a_teacher_is_loaded_by_path(make_args, tmp_path):
    teacher, student = pair()
    teacher.save_pretrained(tmp_path / "teacher")
    path = str(tmp_path / "teacher")
    trainer = make_trainer(make_args, model=student, teacher_model=path, teacher_dtype=torch.float32)
    by_model = make_trainer(make_args, model=student, teacher_model=teacher)
    assert trainer.evaluate()["eval_loss"] == by_model.evaluate()["eval_loss"]
    fast = make_trainer(make_args, model=student, teacher_model=path)
    assert fast.teacher.model.dtype == fast_dtype(torch.device("cpu"))
    assert fast.evaluate()["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], rel=0.02)


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning")
@pytest.mark.parametrize("precision", [{"bf16": True}, {"gradient_checkpointing": True}])
def test_bf16_and_gradient_checkpointing_train(make_args, precision):
    plain, other = (make_trainer(make_args, args=args) for args in ({}, precision))
    plain.train()
    other.train()
    first, second = (trainer.state.log_history[0]["loss"] for trainer in (plain, other))
    assert second == pytest.approx(first, rel=0.05 if "bf16" in precision else 1e-6)


def test_only_the_student_is_saved(make_args, tmp_path):
    trainer = make_trainer(make_args, args={"save_strategy": "steps", "save_steps": 2})
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-2"):
        _, info = BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert f"loss/{HIDDEN}" in state["log_history"][0]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"task_weight": -1.0}, TrainingSetupError, "task_weight should be a number from 0"),
        ({"task_weight": "1"}, TrainingSetupError, "got '1'"),
        ({"model_class": BertForPreTraining, "task_weight": 0.5}, TrainingSetupError, "labels, next_sentence_label"),
        ({"alignments": ["hidden"]}, AlignmentError, "should hold Alignment objects"),
        (
            {"alignments": methods.lightmbert(student_layers=3, teacher_layers=4)},
            AlignmentError,
            "student has 2 blocks",
        ),
    ],
)
def test_bad_arguments_are_refused_before_any_work(make_args, kwargs, error, message):
    with pytest.raises(error, match=message):
        make_trainer(make_args, **kwargs)


def test_nothing_to_learn_from_is_refused(make_args):
    trainer = make_trainer(make_args, alignments=(), teacher_model=None)
    with pytest.raises(TrainingSetupError, match="nothing to learn from"):
        trainer.train()


def test_labelled_positions_need_labels(make_args):
    alignment = Alignment(feature="logits", loss="kl", positions="labels")
    trainer = make_trainer(make_args, alignments=[alignment], labels=False)
    with pytest.raises(DataError, match="the batch has no `labels`"):
        trainer.train()


def test_the_head_runs_on_no_more_rows_than_the_task_reads(make_args):
    trainer = make_trainer(make_args, alignments=(*LAYERS, KL), task_weight=1.0, args={"max_steps": 2})
    heads = [model.cls.predictions.decoder for model in (trainer.model, trainer.teacher.model)]
    batch = trainer._prepare_inputs(pad_batch(ragged_examples(8)))
    trainer.compute_loss(trainer.model, batch)  # finds out what the heads are
    rows = []
    for head in heads:
        head.register_forward_hook(lambda *args: rows.append(args[2].shape[:-1].numel()))
    trainer.compute_loss(trainer.model, batch)
    assert rows == [0, int((batch["labels"] != -100).sum())]  # the teacher's first


def test_a_student_whose_outputs_nothing_reads_ends_early(make_args):
    alignments = methods.lightmbert(student_layers=1, teacher_layers=4)
    trainer, ran = make_trainer(make_args, alignments=alignments), []
    trainer.model.bert.encoder.layer[1].register_forward_hook(lambda *_: ran.append(True))
    trainer.train()
    assert not ran
    trainer.evaluate()
    assert not ran
    assert trainer.predict(trainer.eval_dataset).predictions.shape[-1] == 99
    assert ran


def test_parameters_that_no_loss_reaches_are_frozen_while_training(make_args):
    alignments = (
        Alignment(feature="hidden_states", student_layer=1, teacher_layer=3),
        Alignment(feature="attention_probs", student_layer=2, teacher_layer=4),
    )
    args = {"weight_decay": 0.5, "learning_rate": 1e-2}
    trainer = make_trainer(make_args, alignments=alignments, args=args)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            seen.append({name for name, p in model.named_parameters() if not p.requires_grad})

    trainer.add_callback(Look())
    trainer.train()
    unreached = {
        name for name in before if name.startswith("cls.") or ("layer.1." in name and "self.query" not in name)
    } - {"bert.encoder.layer.1.attention.self.key.weight", "bert.encoder.layer.1.attention.self.key.bias"}
    assert seen == [unreached] * 3
    assert set(trainer.unreached) == unreached
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == before.keys() - unreached
    assert all(p.requires_grad for p in trainer.model.parameters())


def test_looking_for_them_does_not_change_the_order_of_the_data(make_args):
    batches = []

    def collate(examples):
        batches.append([example["input_ids"] for example in examples])
        return pad_batch(examples)

    make_trainer(make_args, data_collator=collate).train()
    looked_at, first, *_ = batches
    assert first == looked_at


MAPPED = (
    Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, projection=True),
    Alignment(feature="value_relation", loss="kl", student_layer=2, teacher_layer=4, relation_heads=8),
)


@pytest.mark.filterwarnings("ignore")  # of torch's compiler
@pytest.mark.parametrize("alignments", [LAYERS, (*LAYERS, KL), MAPPED], ids=["layers", "logits", "mapped"])
def test_torch_compile_gives_the_same_losses_without_graph_breaks(make_args, alignments):
    logs = []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        args = {"max_steps": 6, "torch_compile": compiled, "torch_compile_backend": "aot_eager" if compiled else None}
        trainer = make_trainer(make_args, alignments=alignments, args=args)
        trainer.train()
        logs.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert 0 < counters["stats"]["unique_graphs"] <= 8  # six ragged batches: one fixed and one dynamic shape each
