"""A tiny distillation with every kind of term, for tests of what `Trainer` offers besides."""

import gc

import torch
from conftest import pad_batch, ragged_examples, tiny_model
from torch._subclasses import FakeTensor
from transformers import BertForMaskedLM

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config

LAYERS = methods.lightmbert(student_layers=2, teacher_layers=4)  # hidden states and attention probabilities
LOGITS = Alignment(feature="logits", loss="kl", temperature=2.0, positions="labels")
TERMS = (*LAYERS, LOGITS)


def pair(**overrides):
    """A teacher of 4 blocks, and a student of its bottom 2."""
    teacher = tiny_model(BertForMaskedLM)
    return teacher, build_student(teacher, student_config(teacher.config, num_hidden_layers=2, **overrides))


def distilling(make_args, *, args=None, **kwargs):
    """A trainer of these two; with `task_weight`, so that all there is takes part."""
    teacher, student = pair()
    defaults = {
        "model": student,
        "args": make_args(**{"learning_rate": 1e-3, **(args or {})}),
        "teacher_model": teacher,
        "alignments": TERMS,
        "task_weight": 0.5,
        "train_dataset": ragged_examples(),
        "eval_dataset": ragged_examples(10, seed=2),
        "data_collator": pad_batch,
    }
    if "model_init" in kwargs:
        del defaults["model"]
    return DistillationTrainer(**defaults | kwargs)


def logged(trainer, key):
    """What was logged under a name, in order."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def tensors_in_memory():
    """All that are alive, and how many of them are in a graph; not those that compiled graphs of other tests keep."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    real = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor)]
    return real, sum(tensor.grad_fn is not None for tensor in real)
