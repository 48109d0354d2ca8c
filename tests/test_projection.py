"""Learned projections: a part of the student while it is trained, and of nothing that is saved of it."""

import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples, tiny_config, tiny_model
from safetensors.torch import load_file
from transformers import BertForMaskedLM, TrainerCallback

from distil_trainer import Alignment, DistillationTrainer, Record
from distil_trainer.errors import TrainingSetupError
from distil_trainer.projection import FILE, PLACE, Projections


def hidden(student_layer, teacher_layer, projection=True):
    return Alignment(
        feature="hidden_states", student_layer=student_layer, teacher_layer=teacher_layer, projection=projection
    )


OWN = (hidden(1, 2), hidden(2, 4))
SHARED = (hidden(0, 0, "shared"), hidden(1, 2, "shared"), hidden(2, 4, "shared"))


def narrow_student():
    return tiny_model(BertForMaskedLM, num_hidden_layers=2, hidden_size=24, num_attention_heads=2, seed=1)


def make_trainer(make_args, alignments=OWN, student=None, **settings):
    return DistillationTrainer(
        model=student or narrow_student(),
        args=make_args(**settings),
        teacher_model=tiny_model(BertForMaskedLM),
        alignments=alignments,
        train_dataset=ragged_examples(),
        eval_dataset=ragged_examples(8),
        data_collator=pad_batch,
    )


def flat(projections):
    return torch.cat([weight.detach().flatten() for weight in projections.parameters()])


def test_a_map_for_each_alignment_or_one_for_all():
    own = Projections(OWN, student_width=24, teacher_widths=[32], seed=1)
    shared = Projections((*SHARED, hidden(1, 3)), student_width=24, teacher_widths=[32], seed=1)
    assert [name for name, _ in own.named_parameters()] == ["hidden_states_s1_t2", "hidden_states_s2_t4"]
    assert [name for name, _ in shared.named_parameters()] == ["shared", "hidden_states_s1_t3"]
    states = {layer: torch.randn(2, 3, 24) for layer in range(3)}
    projected = shared(states)
    assert projected.keys() == {
        "hidden_states_s0_t0",
        "hidden_states_s1_t2",
        "hidden_states_s2_t4",
        "hidden_states_s1_t3",
    }
    torch.testing.assert_close(projected["hidden_states_s2_t4"], states[2] @ shared.shared.T)
    assert not torch.equal(projected["hidden_states_s1_t2"], projected["hidden_states_s1_t3"])
    assert torch.equal(flat(Projections(OWN, student_width=24, teacher_widths=[32], seed=1)), flat(own))


@pytest.mark.parametrize("alignments", [OWN, SHARED], ids=["own", "shared"])
def test_the_loss_is_that_of_the_mapped_states(make_args, alignments):
    trainer = make_trainer(make_args, alignments, per_device_eval_batch_size=3)
    values = trainer.evaluate()
    batch = pad_batch(ragged_examples(8))
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        student = trainer.model.eval()(**batch, output_hidden_states=True).hidden_states
        teacher = trainer.teacher.model(**batch, output_hidden_states=True).hidden_states
    for a in alignments:
        weight = getattr(trainer.projections, "shared" if a.projection == "shared" else a.name)
        expected = (student[a.student_layer] @ weight.T - teacher[a.teacher_layer])[mask].square().mean()
        assert values[f"eval_loss/{a.name}"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning")
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"bf16": True}, {"max_grad_norm": 1e-12}])
def test_they_learn_with_the_student(make_args, settings):
    trainer = make_trainer(make_args, optim="sgd", learning_rate=0.1, **settings)
    before, student = flat(trainer.projections), flat_weights(trainer.model)
    trainer.train()
    moved = (flat(trainer.projections) - before).norm(), (flat_weights(trainer.model) - student).norm()
    if "max_grad_norm" in settings:  # they are clipped together
        assert max(moved) < 1e-6
    else:
        assert min(moved) > 1e-3


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning")
def test_gradient_checkpointing_changes_nothing(make_args):
    ends = []
    for checkpointing in (False, True):
        trainer = make_trainer(make_args, optim="sgd", gradient_checkpointing=checkpointing)
        trainer.train()
        ends.append(torch.cat([flat(trainer.projections), flat_weights(trainer.model)]))
    torch.testing.assert_close(*ends)


class LooksAtTheModel(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert {id(p) for p in getattr(model, PLACE).parameters()} <= optimised
        assert not any(PLACE in name for name in model.state_dict())


def test_they_are_saved_in_checkpoints_and_with_nothing_else(make_args, tmp_path):
    trainer = make_trainer(make_args, save_strategy="steps", save_steps=3, output_dir=str(tmp_path / "out"))
    trainer.add_callback(LooksAtTheModel())
    trainer.train()
    trainer.save_model()
    assert not hasattr(trainer.model, PLACE)
    expected = narrow_student()
    expected.save_pretrained(tmp_path / "expected")
    names = load_file(tmp_path / "expected" / "model.safetensors").keys()
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-3"):
        assert load_file(folder / "model.safetensors").keys() == names
    assert not (tmp_path / "out" / FILE).exists()
    saved = load_file(tmp_path / "out" / "checkpoint-3" / FILE)
    assert {name: w.shape for name, w in saved.items()} == dict.fromkeys([a.name for a in OWN], (32, 24))
    assert torch.equal(torch.cat([saved[a.name].flatten() for a in OWN]), flat(trainer.projections))
    _, info = BertForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


class WritesThePage(TrainerCallback):
    def __init__(self, folder):
        self.folder, self.trainer = folder, None

    def on_step_end(self, *args, **kwargs):
        self.trainer.write_page(self.folder)
        assert hasattr(self.trainer.model, PLACE)


def test_a_page_written_while_they_are_trained_does_not_count_them(make_args, tmp_path):
    trainer, writer = make_trainer(make_args, max_steps=1), WritesThePage(tmp_path / "page")
    writer.trainer = trainer
    trainer.add_callback(writer)
    trainer.train()
    record = Record.load(tmp_path / "page" / "distillation.json")
    assert record.student.parameters == sum(weight.numel() for weight in narrow_student().parameters())
    assert [a.projection for a in record.alignments] == [True, True]


def test_a_run_that_goes_on_ends_with_the_same_bits(make_args, tmp_path, caplog):
    ends = []
    for folder, resume in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-3"))):
        settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "output_dir": str(tmp_path / folder)}
        trainer = make_trainer(make_args, SHARED, **settings)
        trainer.train(resume_from_checkpoint=resume)
        ends.append(torch.cat([flat(trainer.projections), flat_weights(trainer.model)]))
    assert torch.equal(*ends)
    assert PLACE not in caplog.text  # as missing keys


def test_the_best_student_comes_back_with_its_projections(make_args, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer = make_trainer(
        make_args, learning_rate=10.0, load_best_model_at_end=True, output_dir=str(tmp_path / "out"), **settings
    )
    trainer.train()
    best = tmp_path / "out" / f"checkpoint-{trainer.state.best_global_step}" / FILE
    assert torch.equal(torch.cat([load_file(best)[a.name].flatten() for a in OWN]), flat(trainer.projections))


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    own = Projections(OWN, student_width=24, teacher_widths=[32], seed=1)
    with pytest.raises(TrainingSetupError, match=r"has no projections\.safetensors"):
        own.load(tmp_path)
    own.save(tmp_path)
    with pytest.raises(
        TrainingSetupError, match=r"should hold the projections \{'shared'.*it holds \{'hidden_states_s1"
    ):
        Projections(SHARED, student_width=24, teacher_widths=[32], seed=1).load(tmp_path)


def test_what_cannot_train_them_is_refused(make_args):
    with pytest.raises(TrainingSetupError, match="no model_init"):
        DistillationTrainer(
            args=make_args(),
            model_init=narrow_student,
            teacher_model=tiny_model(BertForMaskedLM),
            alignments=OWN,
        )


def test_equal_widths_may_be_projected_too(make_args):
    student = BertForMaskedLM(tiny_config(num_hidden_layers=2))
    assert make_trainer(make_args, student=student).projections.hidden_states_s1_t2.shape == (32, 32)
