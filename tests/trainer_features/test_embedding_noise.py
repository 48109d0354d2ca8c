"""`neftune_noise_alpha`: noise on the student's embeddings while it is trained, and nowhere else."""

import torch
from conftest import flat_weights, pad_batch, ragged_examples
from distilling import distilling


def test_the_student_gets_noise_and_the_teacher_none(make_args):
    plain, noisy = (distilling(make_args, args={"neftune_noise_alpha": alpha}) for alpha in (None, 5.0))
    batch = {key: value for key, value in pad_batch(ragged_examples(4)).items() if key != "labels"}
    teacher, expected = noisy.teacher.model, {}
    given = {"student": [], "teacher": []}
    for name, model in (("student", noisy.model), ("teacher", teacher)):
        expected[name] = model.get_input_embeddings().weight.detach().clone()
        model.bert.encoder.layer[0].register_forward_pre_hook(
            lambda block, args, name=name: given[name].append((block.training, args[0].detach()))
        )
    with torch.no_grad():
        before = teacher(**batch).logits
    for trainer in (plain, noisy):
        trainer.train()
    assert not torch.equal(flat_weights(noisy.model), flat_weights(plain.model))
    assert torch.equal(teacher(**batch).logits, before)
    assert not any(training for training, _ in given["teacher"])
    assert torch.equal(teacher.get_input_embeddings().weight, expected["teacher"])
    for model in (noisy.model, teacher):
        embeddings = model.get_input_embeddings()
        assert not embeddings._forward_hooks
        assert not hasattr(embeddings, "neftune_noise_alpha")
    noisy.model.train()
    assert torch.equal(noisy.model(**batch).logits, noisy.model(**batch).logits)


def test_evaluation_is_without_noise(make_args):
    args = {"neftune_noise_alpha": 5.0, "eval_strategy": "steps", "eval_steps": 3, "max_steps": 3}
    trainer = distilling(make_args, args=args)
    trainer.train()
    during = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert during == [trainer.evaluate()["eval_loss"]]
