import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_model
from transformers import BertForMaskedLM

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config
from distil_trainer.balance import shared_layer
from distil_trainer.errors import TrainingSetupError

LAYERS = methods.lightmbert(student_layers=2, teacher_layers=4)
LOGITS = Alignment(feature="logits", loss="kl")


def make_trainer(make_args, *, alignments=LAYERS, balance_terms=True, freeze_embeddings=False, examples=None, **args):
    teacher = tiny_model(BertForMaskedLM)
    config = student_config(teacher.config, num_hidden_layers=2)
    return DistillationTrainer(
        model=build_student(teacher, config, freeze_embeddings=freeze_embeddings),
        args=make_args(**{"max_steps": 4, "optim": "sgd", "learning_rate": 0.01, **args}),
        teacher_model=teacher,
        alignments=alignments,
        train_dataset=examples or ragged_examples(64),
        data_collator=pad_batch,
        balance_terms=balance_terms,
    )


def test_the_layer_that_all_terms_depend_on():
    assert shared_layer(LAYERS, depth=2) == 1
    assert shared_layer([LOGITS], depth=2) == 2
    published = [
        Alignment(feature="hidden_states", student_layer=5, teacher_layer=11),
        Alignment(feature="attention_probs", student_layer=6, teacher_layer=12),
        Alignment(feature="value_relation", loss="kl", student_layer=6, teacher_layer=12),
    ]
    assert shared_layer([*published, LOGITS], depth=6) == 5


def test_factors_make_the_norms_of_the_gradients_equal(make_args):
    examples = ragged_examples(8)  # one step sees all of them
    trainer = make_trainer(make_args, alignments=(*LAYERS, LOGITS), examples=examples, max_steps=1, learning_rate=0.0)
    trainer.train()
    factors = trainer._balance.factors()
    norms, shared = [], []
    trainer.model.bert.encoder.layer[0].register_forward_hook(lambda *args: shared.append(args[2]))
    trainer.model.eval()
    for name in factors:
        trainer._weights = {key: float(key == name) for key in trainer._weights}
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(pad_batch(examples)))
        norms.append(factors[name] * torch.autograd.grad(loss, shared[-1])[0].norm().item())
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-3)
    assert torch.tensor(list(factors.values())).prod().item() == pytest.approx(1.0, rel=1e-4)
    assert len({round(factor, 3) for factor in factors.values()}) == 3


def test_the_update_does_not_depend_on_the_split(make_args):
    weights = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        trainer = make_trainer(
            make_args, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation
        )
        start = flat_weights(trainer.model).clone()
        trainer.train()
        weights.append(flat_weights(trainer.model) - start)
    assert (weights[1] - weights[0]).norm() <= 1e-5 * weights[0].norm()


def test_a_resumed_run_ends_with_the_same_bits(make_args, tmp_path):
    runs = {"whole": {}, "first half": {"save_steps": 2, "save_strategy": "steps"}}
    for name, args in runs.items():
        trainer = make_trainer(make_args, output_dir=str(tmp_path / name), **args)
        trainer.train()
        runs[name] = flat_weights(trainer.model).clone()
    assert torch.equal(runs["whole"], runs["first half"])
    resumed = make_trainer(make_args, output_dir=str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "first half" / "checkpoint-2"))
    assert torch.equal(flat_weights(resumed.model), runs["whole"])
    plain = make_trainer(make_args, output_dir=str(tmp_path / "plain"), balance_terms=False)
    plain.train()
    assert not torch.equal(flat_weights(plain.model), runs["whole"])


def test_what_cannot_be_balanced_is_refused(make_args):
    with pytest.raises(TrainingSetupError, match="balance_terms and torch_compile"):
        make_trainer(make_args, torch_compile=True)
    first = methods.lightmbert(student_layers=1, teacher_layers=4)
    trainer = make_trainer(make_args, alignments=first, freeze_embeddings=True)
    with pytest.raises(TrainingSetupError, match="frozen embeddings"):
        trainer.train()
