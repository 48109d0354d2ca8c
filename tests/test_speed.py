import pytest
import torch
from transformers import BertConfig, BertModel

from distil_trainer import speed
from distil_trainer.errors import DistilTrainerError
from distil_trainer.record import SpeedFacts
from distil_trainer.speed import measure_speed, measure_speeds


def model(layers=1):
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16,
    )  # fmt: skip
    return BertModel(config)


def test_a_speed_is_a_fact_with_its_conditions():
    one_row, facts = measure_speed(model(), batch_sizes=(1, 2), length=4, repeats=2, warmup=0)
    assert one_row.batch_size == 1
    assert isinstance(facts, SpeedFacts)
    assert facts.ms_per_batch > 0
    assert (facts.batch_size, facts.length, facts.dtype) == (2, 4, "float32")
    assert facts.threads == torch.get_num_threads()
    assert facts.hardware


def test_models_take_turns_in_evaluation_mode_and_the_median_counts(monkeypatch):
    models = {"teacher": model(2).train(), "student": model().train()}
    models["teacher"].pooler.eval()
    clock = {"teacher": iter([90, 90, 1, 10, 2, 20, 60, 60]), "student": iter([90, 90, 3, 30, 4, 40, 5, 50])}
    order = []

    def forward(one, batch_size, length):
        name = next(name for name, m in models.items() if m is one)
        assert not any(m.training for m in one.modules())
        order.append((name, batch_size))
        return next(clock[name]) / 1000

    monkeypatch.setattr(speed, "_forward", forward)
    facts = measure_speeds(models, batch_sizes=(1, 8), repeats=3, warmup=1, length=16)
    assert order == [("teacher", 1), ("teacher", 8), ("student", 1), ("student", 8)] * 4
    assert [[f.ms_per_batch for f in facts[name]] for name in models] == [[2.0, 20.0], [4.0, 40.0]]
    assert models["teacher"].training
    assert models["teacher"].encoder.training
    assert not models["teacher"].pooler.training


def test_no_gradient_and_no_random_state_is_used():
    one = model()
    grads = []
    one.register_forward_hook(lambda *_: grads.append(torch.is_grad_enabled()))
    state = torch.get_rng_state()
    measure_speed(one, batch_sizes=(1,), length=4, repeats=1, warmup=1)
    assert grads == [False, False]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 17}, "at most 16 tokens; came length=17"),
        ({"repeats": 0, "length": 4}, "at least 1"),
        ({"batch_sizes": (), "length": 4}, "at least 1"),
    ],
)
def test_what_cannot_be_measured(arguments, message):
    one = model().train()
    with pytest.raises(DistilTrainerError, match=message):
        measure_speed(one, **arguments)
    assert one.training


def test_the_mode_comes_back_after_a_failure():
    one = model().train()
    one.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure_speed(one, length=4)
    assert all(m.training for m in one.modules())
