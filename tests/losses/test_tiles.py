"""The attention losses tile by tile, against whole maps: values, gradients, and what is held."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from distil_trainer.losses import Heads, attention
from distil_trainer.losses.attention import probs_kl, probs_mse, probs_row_mse, scores_mse

LOSSES = [probs_mse, probs_row_mse, probs_kl, scores_mse]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=[loss.__name__ for loss in LOSSES])


def whole_maps(loss, student, teacher, mask):
    """The sum of a loss, written with maps of [B, H, T, T] in float64."""
    heads, tokens = student.query.shape[1:3]
    scores, read = [], []
    for side in (student, teacher):
        key = side.key.double().repeat_interleave(heads // side.key.size(1), 1)
        scores.append(side.query.double() @ key.mT * side.scaling)
        readable = mask[:, None, None, :].expand(-1, heads, tokens, -1)
        readable = readable if side.visible is None else readable & side.visible
        read.append(readable.tril() if side.causal else readable)
    rows = mask[:, None, :, None] & read[0].any(-1, keepdim=True) & read[1].any(-1, keepdim=True)
    if loss is scores_mse:
        return ((scores[0] - scores[1])[rows & read[0] & read[1]] ** 2).sum() / heads
    log_q, log_p = (s.masked_fill(rows & ~r, -torch.inf).log_softmax(-1) for s, r in zip(scores, read, strict=True))
    if loss is probs_kl:
        p = log_p.exp()
        return (p * torch.where((p > 0) & rows, log_p - log_q, 0.0)).sum() / heads
    return torch.where(rows, log_q.exp() - log_p.exp(), 0.0).square().sum() / heads


def value_and_gradients(function, student, teacher, mask):
    query, key = student.query.clone().requires_grad_(), student.key.clone().requires_grad_()
    total = function(student._replace(query=query, key=key), teacher, mask)
    total = total[0] if isinstance(total, tuple) else total
    return total.detach(), *torch.autograd.grad(total, (query, key))


@st.composite
def batches(draw):
    batch, tokens, key_heads, groups = (draw(st.integers(1, high)) for high in (3, 9, 3, 2))
    heads = key_heads * groups
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16]))
    positions = torch.arange(tokens)
    window = (positions[:, None] - positions).abs() <= draw(st.integers(0, 3))

    def bits(*shape):
        return torch.rand(shape, generator=generator) < 0.7

    def side():
        width = draw(st.integers(1, 6))
        hk = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
        query, key = (
            torch.randn(batch, tokens, n, width, generator=generator).to(dtype).transpose(1, 2) for n in (heads, hk)
        )
        visible = draw(
            st.sampled_from(
                [
                    None,
                    window,
                    bits(tokens),
                    bits(batch, 1, 1, tokens),
                    bits(batch, 1, 1, tokens).expand(-1, -1, tokens, -1),
                    bits(batch, 1, tokens, 1),
                    bits(batch, 1, tokens, tokens),
                    bits(heads, tokens, tokens),
                ]
            )
        )
        return Heads(query, key, draw(st.sampled_from([0.3, 1.0])), visible, draw(st.booleans()))

    return side(), side(), bits(batch, tokens), draw(st.sampled_from([1, 40, 200, 2**20]))


@every_loss
@settings(deadline=None, max_examples=60, derandomize=True)
@given(batches())
def test_equal_to_whole_maps(loss, drawn):
    student, teacher, mask, tile = drawn
    tolerance = 1e-5 if student.query.dtype == torch.float32 else 1e-2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "TILE", tile)
        actual = value_and_gradients(loss, student, teacher, mask)
    expected = value_and_gradients(lambda *x: whole_maps(loss, *x), student, teacher, mask)
    for ours, theirs in zip(actual, expected, strict=True):
        if theirs.isinf().any():  # KL; its gradients are compared all the same
            assert ours == theirs
        else:
            assert (ours.double() - theirs.double()).norm() <= tolerance * theirs.double().norm() + 1e-6


def make(seed, *, tokens=64, heads=2, width=4, dtype=torch.float32, **fields):
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, 1, heads, tokens, width, generator=generator, dtype=torch.float64).to(dtype)
    return Heads(query, key, 0.5, **fields)


class Watch(TorchDispatchMode):
    """The largest tensor that any operation made (views aside), and how many batched products there were."""

    def __init__(self):
        super().__init__()
        self.largest = self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.largest = max(self.largest, result.numel())
        self.products += func is torch.ops.aten.bmm.default
        return result


MASK = torch.ones(1, 64, dtype=torch.bool)
NOT_KEYS_ALONE = {"causal": {"causal": True}, "visible": {"visible": torch.ones(64, 64, dtype=torch.bool).tril()}}


@every_loss
@pytest.mark.parametrize("hidden", NOT_KEYS_ALONE)
def test_no_map_is_held(loss, hidden, monkeypatch):
    monkeypatch.setattr(attention, "TILE", 2 * 64 * 8)  # eight rows of the two heads
    student, teacher = (make(seed, **NOT_KEYS_ALONE[hidden]) for seed in (1, 2))
    with Watch() as watch:
        value_and_gradients(loss, student, teacher, MASK)
    assert watch.largest == 2 * 64 * 8


@pytest.mark.parametrize("keys", [(64,), (1, 1, 64, 64)], ids=["keys", "keys expanded over the queries"])
def test_scores_that_hide_the_same_keys_from_all_queries_are_never_computed(keys):
    visible = (torch.arange(64) % 3 > 0).expand(keys)
    student, teacher = make(1, visible=visible), make(2)
    with Watch() as watch:
        value_and_gradients(scores_mse, student, teacher, MASK)
    assert watch.largest == student.query.numel()


@every_loss
def test_evaluation_does_not_differentiate(loss):
    student, teacher = make(1, causal=True), make(2)
    expected = value_and_gradients(loss, student, teacher, MASK)[0]
    student.query.requires_grad_()
    with Watch() as watch, torch.no_grad():
        total, _ = loss(student, teacher, MASK)
    assert watch.products == 2  # the scores of the two models
    assert torch.equal(total, expected)


@every_loss
def test_backward_twice(loss):
    student, teacher = make(1), make(2)
    expected = value_and_gradients(loss, student, teacher, MASK)[1]
    student.query.requires_grad_()
    total = loss(student, teacher, MASK)[0]
    total.backward(retain_graph=True)
    (total * 2).backward()
    torch.testing.assert_close(student.query.grad, 3 * expected)


@every_loss
def test_causal_is_a_triangle(loss):
    triangle = {"visible": NOT_KEYS_ALONE["visible"]["visible"]}
    flagged, shown = (
        value_and_gradients(loss, make(1, **kind), make(2, **kind), MASK) for kind in ({"causal": True}, triangle)
    )
    torch.testing.assert_close(flagged, shown)


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-5])
def test_scores_close_to_the_teacher_lose_nothing(noise):
    """In float32 the textbook closed form keeps no digit of these."""
    teacher, other = make(1, width=16), make(2, width=16)
    student = teacher._replace(query=teacher.query + noise * other.query, key=teacher.key + noise * other.key)
    actual = value_and_gradients(scores_mse, student, teacher, MASK)
    expected = value_and_gradients(lambda *x: whole_maps(scores_mse, *x), student, teacher, MASK)
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
