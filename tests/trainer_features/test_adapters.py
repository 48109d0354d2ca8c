"""A student with adapters (PEFT): they alone are trained and saved."""

import pytest
import torch
from conftest import flat_weights
from distilling import TERMS, distilling, logged, pair
from safetensors import safe_open

from distil_trainer import Alignment

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # that PEFT calls
RELATION = Alignment(feature="value_relation", loss="kl", student_layer=1, teacher_layer=3)
MAPPED = Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, projection=True)


def adapted(make_args, **kwargs):
    teacher, student = pair()
    config = peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=True)
    model = peft.get_peft_model(student, config)
    return distilling(make_args, model=model, teacher_model=teacher, **kwargs)


def values(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("mapped", [False, True], ids=["", "projection"])
def test_the_adapter_alone_learns_and_is_saved(make_args, tmp_path, mapped):
    alignments = (*TERMS, RELATION, *([MAPPED] if mapped else []))
    args = {"max_steps": 4, "learning_rate": 0.02, "save_strategy": "steps", "save_steps": 4}
    trainer = adapted(make_args, alignments=alignments, args=args)
    teacher = flat_weights(trainer.teacher.model).clone()
    before, loss = values(trainer.model), trainer.evaluate()["eval_loss"]
    trainer.train()
    after = values(trainer.model)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name in after if "lora" in name
    }
    assert trainer.evaluate()["eval_loss"] < loss
    assert torch.equal(flat_weights(trainer.teacher.model), teacher)
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == {
        n for n in after if "lora" in n
    }

    folder = tmp_path / "out" / "checkpoint-4"
    assert not (folder / "model.safetensors").exists()
    with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
        assert all("lora" in name for name in saved.keys())  # noqa: SIM118  # not a mapping
    _, student = pair()
    loaded = peft.PeftModel.from_pretrained(student, folder)
    assert torch.equal(flat_weights(loaded), flat_weights(trainer.model))


def test_layers_of_the_student_inside_are_meant(make_args):
    """An adapter that begins at zero changes nothing: all terms are those of the student without it."""
    plain, other = (make(make_args, alignments=(*TERMS, RELATION)) for make in (distilling, adapted))
    expected = plain.evaluate()
    found = other.evaluate()
    for key in expected:
        if "loss" in key:
            assert found[key] == pytest.approx(expected[key], rel=1e-6)


def test_a_run_goes_on_from_an_adapter(make_args, tmp_path):
    args = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "output_dir": str(tmp_path / "whole")}
    whole = adapted(make_args, args=args)
    whole.train()
    resumed = adapted(make_args, args={"max_steps": 4, "output_dir": str(tmp_path / "resumed")})
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert torch.equal(flat_weights(resumed.model), flat_weights(whole.model))


def test_gradient_checkpointing_makes_the_same_update(make_args):
    runs = [adapted(make_args, args={"optim": "sgd", "gradient_checkpointing": on}) for on in (False, True)]
    for trainer in runs:
        trainer.train()
    assert torch.allclose(*(flat_weights(trainer.model) for trainer in runs), rtol=1e-5, atol=1e-7)
    assert logged(runs[1], "loss") == pytest.approx(logged(runs[0], "loss"), rel=1e-6)
