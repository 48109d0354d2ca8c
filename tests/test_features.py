import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import (
    BertForMaskedLM,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    GptOssConfig,
    GptOssModel,
    LlamaConfig,
    LlamaModel,
    RobertaConfig,
    RobertaModel,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from distil_trainer import Alignment
from distil_trainer.blocks import blocks
from distil_trainer.errors import CaptureError
from distil_trainer.features import FeatureReader
from distil_trainer.losses import Heads
from distil_trainer.teacher import reader_for

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
MODELS = {
    "bert": lambda: tiny_model(BertModel, num_hidden_layers=3),
    "roberta": lambda: RobertaModel(RobertaConfig(**SIZES)),
    "electra": lambda: ElectraModel(ElectraConfig(**SIZES, embedding_size=16)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(vocab_size=99, dim=32, n_layers=3, n_heads=4, hidden_dim=48)
    ),
}


def batch():
    return pad_batch(ragged_examples(4, labels=False))


def attention_probs(heads: Heads, mask: torch.Tensor) -> torch.Tensor:
    scores = heads.scaling * heads.query @ heads.key.mT
    visible = mask[:, None, None, :] if heads.visible is None else heads.visible
    return scores.masked_fill(~visible, -torch.inf).softmax(-1)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_features_equal_what_transformers_returns(name, backend):
    torch.manual_seed(0)
    model, inputs = MODELS[name]().eval(), batch()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True, output_attentions=True)
    model.set_attn_implementation(backend)
    reader = FeatureReader(model, hidden_layers=[0, 1, 3], attention_layers=[1, 3])
    with torch.no_grad(), reader.reading() as features:
        model(**inputs)
    mask = inputs["attention_mask"].bool()
    assert set(features.hidden_states) == {0, 1, 3}
    for layer, states in features.hidden_states.items():
        torch.testing.assert_close(states[mask], expected.hidden_states[layer][mask], rtol=1e-5, atol=1e-5)
    for layer, heads in features.heads.items():
        probs = attention_probs(heads, mask).transpose(1, 2)[mask]
        torch.testing.assert_close(probs, expected.attentions[layer - 1].transpose(1, 2)[mask], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_that_the_map_mixes(name, backend):
    torch.manual_seed(0)
    model, inputs = MODELS[name]().eval(), batch()
    model.set_attn_implementation(backend)
    projections = {"bert": "value", "roberta": "value", "electra": "value", "distilbert": "v_lin"}
    (linear,) = (
        module for path, module in blocks(model)[1].named_modules() if path.split(".")[-1] == projections[name]
    )
    seen = []
    linear.register_forward_hook(lambda module, args, output: seen.append(output))
    reader = FeatureReader(model, hidden_layers=[], attention_layers=[2])
    with torch.no_grad(), reader.reading() as features:
        model(**inputs)
    assert torch.equal(features.heads[2].value.transpose(1, 2).flatten(2), seen[0])


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_shared_keys_and_values_are_read_as_they_are(backend):
    model = LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()
    model.set_attn_implementation(backend)
    reader = FeatureReader(model, hidden_layers=[], attention_layers=[2])
    with torch.no_grad(), reader.reading() as features:
        model(**batch())
    heads = features.heads[2]
    assert [x.size(1) for x in (heads.query, heads.key, heads.value)] == [4, 2, 2]


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_the_model_computes_the_same_and_is_left_as_it_was(backend):
    model, inputs = tiny_model(BertModel).eval(), batch()
    model.set_attn_implementation(backend)
    functions = dict(ALL_ATTENTION_FUNCTIONS)
    with torch.no_grad():
        before = model(**inputs).last_hidden_state
        with FeatureReader(model, hidden_layers=[4], attention_layers=[4]).reading():
            during = model(**inputs).last_hidden_state
    assert torch.equal(before, during)
    assert model.config._attn_implementation == backend
    assert dict(ALL_ATTENTION_FUNCTIONS) == functions
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_everything_is_taken_off_after_an_error():
    model = tiny_model(BertModel)
    functions = dict(ALL_ATTENTION_FUNCTIONS)
    with (
        pytest.raises(ValueError, match="exactly one"),
        FeatureReader(model, hidden_layers=[1], attention_layers=[1]).reading(),
    ):
        model(input_ids=None)
    assert dict(ALL_ATTENTION_FUNCTIONS) == functions
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_attention_is_read_before_dropout():
    model, inputs = tiny_model(BertModel, attention_probs_dropout_prob=0.5).train(), batch()
    reader = FeatureReader(model, hidden_layers=[], attention_layers=[1])
    with reader.reading() as features:
        model(**inputs)
    probs = attention_probs(features.heads[1], inputs["attention_mask"].bool())
    torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:-1]))


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_gradient_checkpointing_gives_the_same_gradients_and_reads_once(backend):
    inputs, gradients, reads = batch(), [], []
    for checkpointing in (False, True):
        model = tiny_model(BertModel).train()
        model.set_attn_implementation(backend)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        reader = FeatureReader(model, hidden_layers=[2, 4], attention_layers=[3])
        with reader.reading() as features:
            model(**inputs)
        heads = features.heads[3]
        loss = features.hidden_states[4].square().sum() + (heads.query * heads.key).sum()
        held = [*features.hidden_states.values(), heads.query]
        loss.backward()
        reads.append(
            all(a is b for a, b in zip(held, [*features.hidden_states.values(), features.heads[3].query], strict=True))
        )
        gradients.append([p.grad.clone() for p in model.encoder.parameters()])
    assert reads == [True, True]
    for without, with_checkpointing in zip(*gradients, strict=True):
        torch.testing.assert_close(without, with_checkpointing)


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing_enable:FutureWarning")
def test_reentrant_checkpointing_is_refused():
    model = tiny_model(BertModel).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    reader = FeatureReader(model, hidden_layers=[], attention_layers=[2])
    with pytest.raises(CaptureError, match="use_reentrant"), reader.reading():
        model(**batch())


def test_a_layer_that_never_ran_is_an_error():
    model = tiny_model(BertForMaskedLM)
    reader = FeatureReader(model, hidden_layers=[1, 2], attention_layers=[])
    with (
        pytest.raises(CaptureError, match=r"never computed the hidden states of layer\(s\) \[1, 2\]"),
        reader.reading(),
    ):
        pass


def deberta(**dropout):
    config = DebertaV2Config(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **dropout)
    return DebertaV2Model(config)


def test_queries_of_models_without_the_interface_are_refused_before_they_run():
    model = deberta()
    with pytest.raises(CaptureError, match=r"does not dispatch its attention.*Align attention_probs"):
        FeatureReader(model, hidden_layers=[], attention_layers=[1])
    FeatureReader(model, hidden_layers=[1], attention_layers=[])


def test_probabilities_after_dropout_are_refused_for_the_student_alone():
    alignments = (Alignment(feature="attention_probs", student_layer=1, teacher_layer=1),)
    with pytest.raises(CaptureError, match=r"only after dropout.*dropout has 0.1"):
        reader_for(deberta(), alignments, role="student")
    reader_for(deberta(), alignments, role="teacher")
    reader_for(deberta(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), alignments, role="student")


def test_what_may_change_the_probabilities_unknown_to_us_is_refused():
    config = GptOssConfig(**SIZES, head_dim=8, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1)
    model = GptOssModel(config).eval()
    reader = FeatureReader(model, hidden_layers=[], attention_layers=[1])
    with pytest.raises(CaptureError, match="computes its attention with 's_aux'"), reader.reading():
        model(**batch())


def test_plain_modules_are_refused_when_layers_are_wanted():
    with pytest.raises(CaptureError, match=r"Linear has no `config\.num_hidden_layers`"):
        FeatureReader(torch.nn.Linear(1, 1), hidden_layers=[1], attention_layers=[])


def test_a_causal_model_sees_no_later_key():
    model = tiny_model(BertModel, is_decoder=True).eval()
    model.set_attn_implementation("sdpa")
    ids = torch.randint(5, 99, (2, 6))
    reader = FeatureReader(model, hidden_layers=[], attention_layers=[1])
    with torch.no_grad(), reader.reading() as features:
        model(input_ids=ids)
    heads = features.heads[1]
    visible = torch.ones(6, 6, dtype=torch.bool) if heads.visible is None else heads.visible.expand(2, 1, 6, 6)[0, 0]
    visible = visible.tril() if heads.causal else visible
    assert torch.equal(visible, torch.ones(6, 6, dtype=torch.bool).tril())


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_a_forward_that_ends_early_gives_the_same_bits_and_does_no_more(name, backend):
    torch.manual_seed(0)
    model, inputs = MODELS[name]().eval(), batch()
    model.set_attn_implementation(backend)
    ran = []
    for k, block in enumerate(blocks(model), start=1):
        block.register_forward_hook(lambda *_, k=k: ran.append(k))
    for hidden_layers, attention_layers, whole_blocks in (([0, 1], [2], [1]), ([2], [2], [1, 2]), ([], [1], [])):
        reader = FeatureReader(model, hidden_layers=hidden_layers, attention_layers=attention_layers)
        with torch.no_grad(), reader.reading() as whole:
            model(**inputs)
        ran.clear()
        with torch.no_grad(), reader.reading(ends_early=True) as cut:
            output = model(**inputs)
        assert ran == whole_blocks
        assert not output
        for layer, states in whole.hidden_states.items():
            assert torch.equal(cut.hidden_states[layer], states)
        for layer, heads in whole.heads.items():
            assert torch.equal(cut.heads[layer].query, heads.query)
            assert torch.equal(cut.heads[layer].key, heads.key)
    assert "forward" not in vars(model)


def test_the_output_of_a_block_is_read_before_the_final_norm():
    config = LlamaConfig(**SIZES, num_key_value_heads=2)
    model, inputs = LlamaModel(config).eval(), batch()
    reader = FeatureReader(model, hidden_layers=[3], attention_layers=[])
    with torch.no_grad(), reader.reading() as whole:
        expected = model(**inputs).last_hidden_state
    with torch.no_grad(), reader.reading(ends_early=True) as cut:
        model(**inputs)
    assert torch.equal(cut.hidden_states[3], whole.hidden_states[3])
    assert torch.equal(model.norm(cut.hidden_states[3]), expected)


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_a_forward_that_ends_early(checkpointing):
    gradients, inputs = [], batch()
    for ends_early in (False, True):
        model = tiny_model(BertModel).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        reader = FeatureReader(model, hidden_layers=[2], attention_layers=[3])
        with reader.reading(ends_early=ends_early) as features:
            model(**inputs)
        loss = features.hidden_states[2].square().sum() + (features.heads[3].query * features.heads[3].key).sum()
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
