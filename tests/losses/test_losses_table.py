"""What holds for every loss of the table. The values themselves are checked in the tests of each file."""

import pytest
import torch

from distil_trainer.losses import LOSSES, Heads

ALL = [(feature, name) for feature, losses in LOSSES.items() for name in losses]
every_loss = pytest.mark.parametrize(("feature", "name"), ALL, ids=[f"{feature}-{name}" for feature, name in ALL])

# the second row of the batch has a gap, the third one token
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]], dtype=torch.bool)


def make(feature, seed, dtype=torch.float64):
    """The tensors of one model: (states,), (logits,), (vectors,) or (query, key). Tokens are dimension -2 of each."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"hidden_states": [(3, 4, 5)], "logits": [(3, 4, 7)]}.get(
        feature, [(3, 2, 4, 3)] * (2 if feature.startswith("attention") else 1)
    )
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)


def compute(feature, name, student, teacher, mask):
    function = LOSSES[feature][name].function
    if feature.startswith("attention"):
        return function(Heads(*student, scaling=0.7), Heads(*teacher, scaling=0.7), mask)
    return function(*student, *teacher, mask)


def value_and_gradients(feature, name, student, teacher, mask, autocast=False):
    student = tuple(tensor.clone().requires_grad_() for tensor in student)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # the forward only, as trainers do
        total, count = compute(feature, name, student, teacher, mask)
    return total.detach(), count, torch.autograd.grad(total, student)


def test_table():
    assert {feature: {name: loss.unit for name, loss in losses.items()} for feature, losses in LOSSES.items()} == {
        "hidden_states": {"mse": "tokens", "cosine": "tokens", "normalized_mse": "tokens"},
        "attention_scores": {"mse": "pairs"},
        "attention_probs": {"mse": "pairs", "row_mse": "tokens", "kl": "tokens"},
        "query_relation": {"kl": "tokens"},
        "key_relation": {"kl": "tokens"},
        "value_relation": {"kl": "tokens"},
        "logits": dict.fromkeys(["kl", "reverse_kl", "js", "mse", "soft_cross_entropy"], "positions"),
    }


@every_loss
def test_count_has_the_unit_of_the_table(feature, name):
    total, count = compute(feature, name, make(feature, 1), make(feature, 2), MASK)
    assert count == (16 + 4 + 1 if LOSSES[feature][name].unit == "pairs" else 4 + 2 + 1)
    assert total.shape == count.shape == ()
    assert total.dtype == count.dtype == torch.float64


@every_loss
def test_gradcheck(feature, name):
    teacher = make(feature, 2)
    student = tuple(tensor.requires_grad_() for tensor in make(feature, 1))
    assert torch.autograd.gradcheck(lambda *x: compute(feature, name, x, teacher, MASK)[0], student, fast_mode=True)


@every_loss
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e30])
def test_uncounted_positions_contribute_nothing(feature, name, garbage):
    student, teacher = make(feature, 1), make(feature, 2)
    total, count, gradients = value_and_gradients(feature, name, student, teacher, MASK)

    def pad(tensor, value):  # two positions in the middle and one at the end
        middle, end = (tensor.new_full((*tensor.shape[:-2], n, tensor.shape[-1]), value) for n in (2, 1))
        return torch.cat([tensor[..., :1, :], middle, tensor[..., 1:, :], end], -2)

    mask = pad(MASK[..., None], False)[..., 0]
    padded = [tuple(pad(tensor, garbage) for tensor in tensors) for tensors in (student, teacher)]
    for tensor in (*padded[0], *padded[1]):  # and the positions that MASK leaves out
        tensor.masked_fill_(~mask.view(3, *(1,) * (tensor.ndim - 3), 7, 1), garbage)

    padded_total, padded_count, padded_gradients = value_and_gradients(feature, name, *padded, mask)
    torch.testing.assert_close(padded_total, total)
    assert padded_count == count
    for padded_gradient, gradient in zip(padded_gradients, gradients, strict=True):
        torch.testing.assert_close(padded_gradient, pad(gradient, 0.0))


@every_loss
@pytest.mark.parametrize("garbage", [1.0, torch.nan])
def test_nothing_counted_is_zero_with_a_zero_gradient(feature, name, garbage):
    student, teacher = ([tensor * garbage for tensor in make(feature, seed)] for seed in (1, 2))
    total, count, gradients = value_and_gradients(feature, name, student, teacher, torch.zeros_like(MASK))
    assert total == 0
    assert count == 0
    assert all(not gradient.any() for gradient in gradients)


@every_loss
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_computed_in_float32(feature, name, dtype, autocast):
    student, teacher = make(feature, 1, dtype), make(feature, 2, dtype)
    wide = [tuple(tensor.float() for tensor in tensors) for tensors in (student, teacher)]
    expected, _, expected_gradients = value_and_gradients(feature, name, *wide, MASK)
    total, count, gradients = value_and_gradients(feature, name, student, teacher, MASK, autocast)
    assert total.dtype == count.dtype == torch.float32
    assert total == expected
    for gradient, wide_gradient in zip(gradients, expected_gradients, strict=True):
        assert torch.equal(gradient, wide_gradient.to(dtype))


@every_loss
def test_teacher_gets_no_gradient(feature, name):
    student, teacher = (tuple(tensor.requires_grad_() for tensor in make(feature, seed)) for seed in (1, 2))
    compute(feature, name, student, teacher, MASK)[0].backward()
    assert all(tensor.grad is not None for tensor in student)
    assert all(tensor.grad is None for tensor in teacher)


@every_loss
def test_whole_is_the_sum_of_its_parts(feature, name):
    student, teacher = make(feature, 1), make(feature, 2)
    whole = torch.stack(compute(feature, name, student, teacher, MASK))
    parts = [
        torch.stack(compute(feature, name, [t[rows] for t in student], [t[rows] for t in teacher], MASK[rows]))
        for rows in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)


@pytest.mark.parametrize(("feature", "name"), [pair for pair in ALL if pair != ("logits", "soft_cross_entropy")])
def test_identical_inputs_give_zero(feature, name):
    tensors = make(feature, 1)
    total, _, gradients = value_and_gradients(feature, name, tensors, tensors, MASK)
    assert total.abs() < 1e-12
    assert all(gradient.abs().max() < 1e-12 for gradient in gradients)


@every_loss
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK.long(), r"torch\.bool, got torch\.int64: pass `mask\.bool\(\)`"),
        (MASK[:, :3], r"mask of shape \(3, 4\).*got \(3, 3\)"),
        (MASK[..., None], r"mask of shape \(3, 4\).*got \(3, 4, 1\)"),
    ],
)
def test_wrong_masks_are_refused(feature, name, mask, message):
    with pytest.raises(ValueError, match=message):
        compute(feature, name, make(feature, 1), make(feature, 2), mask)


@every_loss
def test_different_shapes_are_refused(feature, name):
    shorter = tuple(tensor[..., :3, :] for tensor in make(feature, 2))
    with pytest.raises(ValueError, match=r"(?s)Expected.*same.*got.*4.*3.*: (compare|run)"):
        compute(feature, name, make(feature, 1), shorter, MASK)
