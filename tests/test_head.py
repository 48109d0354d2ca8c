"""The head run on some rows gives the logits and the loss that the whole head gives."""

import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from torch.nn.functional import linear
from transformers import (
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from distil_trainer.head import HeadRows, LanguageModelHead
from distil_trainer.losses import LogitRows

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
MASKED = {
    "bert": lambda: tiny_model(BertForMaskedLM),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)),
    "distilbert": lambda: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=48)
    ),
}
CAUSAL = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4)),
    "gemma2 (capped)": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.1)
    ),
}


@pytest.mark.parametrize("reads_task", [False, True])
@pytest.mark.parametrize("name", MASKED | CAUSAL)
def test_rows_are_those_of_the_whole_head(name, reads_task):
    torch.manual_seed(0)
    model, inputs = (MASKED | CAUSAL)[name]().eval(), pad_batch(ragged_examples(4))
    labels = inputs.pop("labels")
    mask = inputs["attention_mask"].bool() & (torch.arange(labels.shape[1]) % 2 == 0)
    head = LanguageModelHead(model)
    whole = model(**inputs, labels=labels)
    rows = HeadRows.read_by(aligned=mask, labels=labels if reads_task else None, shifts_labels=name in CAUSAL)
    plain = head.is_plain(inputs)
    assert plain == ("capped" not in name)
    assert head.reads_rows_alone == (name != "gpt2")  # which leaves its loss to transformers' default
    if reads_task:
        inputs["labels"] = rows.labels_for(plain=plain)
    with head.on(rows, plain=plain):
        outputs = model(**inputs)
        aligned = head.aligned(outputs)
    if plain:
        assert isinstance(aligned, LogitRows)
        assert outputs.logits.shape[1] == len(rows.task)
        aligned = linear(aligned.hidden, aligned.weight, aligned.bias)
    torch.testing.assert_close(aligned[0], whole.logits[mask])
    if reads_task:
        torch.testing.assert_close(outputs.loss, whole.loss)
        whole.loss.backward()
        expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        outputs.loss.backward()
        for n, gradient in expected.items():
            torch.testing.assert_close(model.get_parameter(n).grad, gradient)
    torch.testing.assert_close(model(**{k: v for k, v in inputs.items() if k != "labels"}).logits, whole.logits)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_no_row_at_all(name):
    model, inputs = (MASKED | CAUSAL)[name]().eval(), pad_batch(ragged_examples(2, labels=False))
    nothing = torch.zeros_like(inputs["attention_mask"]).bool()
    head = LanguageModelHead(model)
    with head.on(HeadRows.read_by(aligned=nothing, labels=None, shifts_labels=False), plain=False):
        assert model(**inputs).logits.shape == (1, 0, 99)


def test_which_models_have_such_a_head():
    assert LanguageModelHead.is_in(tiny_model(BertForMaskedLM))
    assert not LanguageModelHead.is_in(tiny_model(BertModel))
    assert not LanguageModelHead.is_in(torch.nn.Linear(1, 1))


def test_an_output_layer_of_another_kind_is_not_plain():
    class Scaled(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x)

    model = MASKED["bert"]()
    model.set_output_embeddings(Scaled(32, 99))
    assert not LanguageModelHead(model).is_plain(pad_batch(ragged_examples(2, labels=False)))


@pytest.mark.parametrize("name", MASKED)
def test_labelled_rows_alone_give_the_loss_and_gradients_of_all_rows(name):
    torch.manual_seed(0)
    model, inputs = MASKED[name]().eval(), pad_batch(ragged_examples(4))
    loss = model(**inputs).loss
    expected = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    with LanguageModelHead(model).on_labels():
        outputs = model(**inputs)
    found = torch.autograd.grad(outputs.loss, list(model.parameters()), allow_unused=True)
    assert outputs.logits.shape == (1, int((inputs["labels"] != -100).sum()), 99)
    torch.testing.assert_close(outputs.loss, loss)
    torch.testing.assert_close(found, expected)
    assert model(**inputs).logits.shape[:2] == inputs["labels"].shape  # and then it is as it was
