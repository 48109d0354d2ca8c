"""How the results of an evaluation are gathered changes nothing in them."""

import numpy as np
import pytest
from distilling import distilling

LEFT_OUT = ("runtime", "samples_per_second", "steps_per_second", "preparation_time", "epoch")


def accuracy(prediction, compute_result=None):
    labels = np.asarray(prediction.label_ids)
    right = (np.asarray(prediction.predictions).argmax(-1) == labels)[labels != -100]
    COUNTED.append((int(right.sum()), right.size))
    hits, total = map(sum, zip(*COUNTED, strict=True))
    if compute_result is not False:
        COUNTED.clear()
        return {"accuracy": hits / total}
    return None


COUNTED = []


def evaluated(make_args, args, **kwargs):
    trainer = distilling(make_args, args={"per_device_eval_batch_size": 3, **args}, compute_metrics=accuracy, **kwargs)
    return {key: value for key, value in trainer.evaluate().items() if not key.endswith(LEFT_OUT)}


@pytest.mark.parametrize(
    "args",
    [{"eval_accumulation_steps": 1}, {"batch_eval_metrics": True}, {"include_for_metrics": ["inputs", "loss"]}],
    ids=lambda args: next(iter(args)),
)
def test_the_metrics_are_the_same(make_args, args):
    plain = evaluated(make_args, {})
    assert {"eval_loss", "eval_loss/logits", "eval_loss/task", "eval_accuracy"} <= plain.keys()
    assert evaluated(make_args, args) == plain


def test_the_loss_alone(make_args):
    plain = evaluated(make_args, {})
    assert plain.pop("eval_accuracy") >= 0
    alone = evaluated(make_args, {"prediction_loss_only": True})
    assert alone == pytest.approx(plain, rel=1e-5)


def test_several_sets_each_have_their_terms(make_args):
    rows = distilling(make_args).eval_dataset
    metrics = evaluated(make_args, {}, eval_dataset={"first": rows[:5], "second": rows[5:]})
    first = evaluated(make_args, {}, eval_dataset=rows[:5])
    assert {key.replace("first_", ""): value for key, value in metrics.items() if "first" in key} == first
    assert metrics["eval_second_loss/logits"] != metrics["eval_first_loss/logits"]


def test_the_student_alone_is_evaluated_in_bfloat16(make_args):
    plain = evaluated(make_args, {})
    trainer = distilling(make_args, args={"bf16_full_eval": True, "per_device_eval_batch_size": 3})
    teacher = trainer.teacher.model.dtype
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain["eval_loss"], rel=0.02)
    assert trainer.teacher.model.dtype == teacher
