"""Narrower students: units chosen on a batch, cut out of the teacher; students with random weights."""

import copy
import dataclasses

import pytest
import torch
from conftest import pad_batch, ragged_examples, tiny_model
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForPreTraining,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Olmo2Config,
    Olmo2Model,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from distil_trainer import Alignment, DistillationTrainer, build_student, student_config
from distil_trainer.blocks import blocks
from distil_trainer.channels import block_channels
from distil_trainer.errors import DataError, StudentError
from distil_trainer.width import Units, important_units

DEPTH, HIDDEN, HEADS, NEURONS = 3, 32, 4, 48
SIZES = {"vocab_size": 99, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": DEPTH}
SIZES |= {"initializer_range": 0.2}
WITH = SIZES | {"intermediate_size": NEURONS}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = WITH | TOKENS | {"num_key_value_heads": 2, "rms_norm_eps": 1e-9}
MODELS = {
    "bert": (BertForMaskedLM, BertConfig(**WITH)),
    "bert-classifier": (BertForSequenceClassification, BertConfig(**WITH)),
    "roberta": (RobertaForMaskedLM, RobertaConfig(**WITH)),
    "distilbert": (DistilBertForMaskedLM, DistilBertConfig(**SIZES, hidden_dim=NEURONS, activation="relu")),
    "electra": (ElectraForPreTraining, ElectraConfig(**WITH, embedding_size=8)),
    "llama": (LlamaForCausalLM, LlamaConfig(**GROUPED)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**GROUPED, head_dim=16, tie_word_embeddings=True)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**SIZES, **TOKENS, n_inner=NEURONS)),
    "gpt-neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**WITH, **TOKENS)),
    "modernbert": (ModernBertForMaskedLM, ModernBertConfig(**WITH, **TOKENS, cls_token_id=1, sep_token_id=2)),
    "opt": (OPTForCausalLM, OPTConfig(**SIZES, **TOKENS, ffn_dim=NEURONS, word_embed_proj_dim=HIDDEN)),
}
every_model = pytest.mark.parametrize("name", MODELS)
RMS = ("llama", "qwen3")


def make(name):
    model_class, config = MODELS[name]
    torch.manual_seed(0)
    model = model_class(copy.deepcopy(config)).eval()
    with torch.no_grad():  # biases begin at zero and norms at one, which would hide what is cut wrongly
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def batches():
    examples = ragged_examples(24, labels=False)
    return [pad_batch(examples[:8]), pad_batch(examples[8:])]


def logits(model):
    with torch.no_grad():
        return model(**batches()[0])[0]


def half(teacher, **changes):
    """The config of a student that is half as wide in all respects, but where told otherwise."""
    sizes = {"hidden_size": HIDDEN // 2, "num_attention_heads": HEADS // 2, "intermediate_size": NEURONS // 2}
    if getattr(teacher.config, "num_key_value_heads", None) == 2:
        sizes |= {"num_key_value_heads": 1}
    if isinstance(teacher.config, OPTConfig):
        sizes |= {"word_embed_proj_dim": HIDDEN // 2}
    return student_config(teacher.config, num_hidden_layers=DEPTH, **{**sizes, **changes})


def all_units(**changes):
    every = {"heads": (tuple(range(HEADS)),) * DEPTH, "neurons": (tuple(range(NEURONS)),) * DEPTH}
    return Units(**{"hidden": tuple(range(HIDDEN)), **every, **changes})


def silence(teacher, kept_heads, kept_neurons):
    """Takes from the teacher what other heads and neurons write to the residual stream."""
    with torch.no_grad():
        for found, heads, neurons in zip(block_channels(teacher), kept_heads, kept_neurons, strict=True):
            for columns, kept in ((found.head_columns, heads), (found.neuron_columns, neurons)):
                for name, numbers in columns.items():
                    module = teacher.get_submodule(name)
                    weight = module.weight if isinstance(module, torch.nn.Linear) else module.weight.T
                    weight[:, ~torch.isin(numbers, torch.tensor(kept))] = 0


# --- what is cut


@every_model
def test_all_units_are_the_teacher_bit_for_bit(name):
    teacher = make(name)
    student = build_student(teacher, student_config(teacher.config, num_hidden_layers=DEPTH), units=all_units())
    assert torch.equal(logits(student), logits(teacher))
    assert student.provenance.kept_units == {}


@every_model
def test_heads_and_neurons_that_do_nothing_can_go(name):
    """And are found to be those that do nothing."""
    teacher = make(name)
    heads, neurons = ((0, 1), (2, 3), (0, 1)), (tuple(range(24)), tuple(range(1, 48, 2)), tuple(range(20, 44)))
    silence(teacher, heads, neurons)
    changes = {"hidden_size": HIDDEN, "num_attention_heads": HEADS // 2}
    coupled = name not in (*RMS,)  # without a head_dim of its own fewer heads are a smaller hidden size
    config = half(teacher, **changes | ({"num_attention_heads": HEADS} if coupled else {}))
    if isinstance(config, OPTConfig):
        config.word_embed_proj_dim = HIDDEN
    units = important_units(teacher, batches(), config)
    if name not in ("distilbert", "opt"):  # behind a ReLU a neuron may be silent on all of the text by itself
        assert units.neurons == neurons
    student = build_student(teacher, config, units=units)
    assert torch.allclose(logits(student), logits(teacher), atol=1e-5)
    if coupled:
        assert important_units(teacher, batches(), half(teacher)).heads == heads
    else:
        assert units.heads == heads
        assert blocks(student)[0].self_attn.k_proj.weight.size(0) == student.config.head_dim


def mirrored(numbers, mirror):
    """Which rows take whose place when each unit changes places with its mirror image."""
    index = torch.empty_like(numbers)
    for unit in numbers.unique():
        index[numbers == unit] = (numbers == mirror(unit)).nonzero()[:, 0]
    return index


@every_model
def test_the_order_of_heads_and_neurons_does_not_matter(name):
    """A teacher in which they change places is the same function: each row and column is what it is taken for."""
    teacher = make(name)
    twin = copy.deepcopy(teacher)
    with torch.no_grad():
        for found in block_channels(twin):

            def head(unit, heads=found.heads, groups=found.groups):
                return heads - 1 - unit if unit < heads else 2 * heads + groups - 1 - unit

            def neuron(unit, neurons=found.neurons):
                return neurons - 1 - unit

            for rows, columns, mirror in (
                (found.head_rows, found.head_columns, head),
                (found.neuron_rows, found.neuron_columns, neuron),
            ):
                for places, dimension in ((rows, 0), (columns, 1)):
                    for linear, numbers in places.items():
                        module, index = twin.get_submodule(linear), mirrored(numbers, mirror)
                        dim = dimension if isinstance(module, torch.nn.Linear) else 1 - dimension
                        module.weight.copy_(module.weight.index_select(dim, index))
                        if dimension == 0 and module.bias is not None:
                            module.bias.copy_(module.bias[index])
    assert torch.allclose(logits(twin), logits(teacher), atol=1e-4)
    assert not torch.equal(logits(twin), logits(teacher))
    ours, theirs = (important_units(model, batches(), half(teacher)) for model in (twin, teacher))
    assert [tuple(NEURONS - 1 - n for n in reversed(kept)) for kept in ours.neurons] == list(theirs.neurons)
    assert [tuple(HEADS - 1 - h for h in reversed(kept)) for kept in ours.heads] == list(theirs.heads)


@pytest.mark.parametrize("name", RMS)
def test_channels_that_are_always_zero_can_go_where_norms_are_root_mean_squares(name):
    teacher = make(name)
    kept = (*range(3, 30, 2), 30, 31)
    dead = [channel for channel in range(HIDDEN) if channel not in kept]
    with torch.no_grad():
        teacher.get_input_embeddings().weight[:, dead] = 0
        for found in block_channels(teacher):
            for reader in (*found.head_columns, *found.neuron_columns):
                teacher.get_submodule(reader).weight[dead] = 0
    config = half(teacher, hidden_size=len(kept), num_attention_heads=HEADS, num_key_value_heads=2)
    config.intermediate_size = NEURONS
    units = important_units(teacher, batches(), config)
    assert units.hidden[: len(kept)] == kept
    student = build_student(teacher, config, units=units)
    assert torch.allclose(logits(student), logits(teacher), atol=1e-4)


def test_every_weight_of_bert_has_the_rows_and_columns_of_its_units():
    teacher = make("bert")
    units = important_units(teacher, batches(), half(teacher))
    student = build_student(teacher, student_config(half(teacher), num_hidden_layers=2), layers=[1, 3], units=units)
    hidden, heads, neurons = list(units.hidden), units.heads[2], list(units.neurons[2])
    rows = [head * 8 + k for head in heads for k in range(8)]
    ours, theirs = blocks(student)[1], blocks(teacher)[2]
    for name in ("query", "key", "value"):
        own, whole = getattr(ours.attention.self, name), getattr(theirs.attention.self, name)
        assert torch.equal(own.weight, whole.weight[rows][:, hidden])
        assert torch.equal(own.bias, whole.bias[rows])
    assert torch.equal(ours.attention.output.dense.weight, theirs.attention.output.dense.weight[hidden][:, rows])
    assert torch.equal(ours.intermediate.dense.weight, theirs.intermediate.dense.weight[neurons][:, hidden])
    assert torch.equal(ours.intermediate.dense.bias, theirs.intermediate.dense.bias[neurons])
    assert torch.equal(ours.output.dense.weight, theirs.output.dense.weight[hidden][:, neurons])
    assert torch.equal(ours.output.LayerNorm.bias, theirs.output.LayerNorm.bias[hidden])
    assert torch.allclose(ours.output.LayerNorm.weight, theirs.output.LayerNorm.weight[hidden] * 2**0.5)
    words = student.get_input_embeddings().weight
    assert torch.equal(words, teacher.get_input_embeddings().weight[:, hidden])
    assert student.get_output_embeddings().weight is words
    transform = student.cls.predictions.transform.dense.weight
    assert torch.equal(transform, teacher.cls.predictions.transform.dense.weight[hidden][:, hidden])


def test_sizes_that_happen_to_be_equal_are_not_taken_for_each_other():
    sizes = dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"), 32)
    torch.manual_seed(0)
    teacher = BertForMaskedLM(BertConfig(**WITH | sizes)).eval()
    config = half(teacher, intermediate_size=16)
    batch = [{"input_ids": torch.arange(20).reshape(2, 10)}]
    units = important_units(teacher, batch, config)
    student = build_student(teacher, config, units=units)
    for ours, theirs in (
        (student.bert.embeddings.word_embeddings, teacher.bert.embeddings.word_embeddings),
        (student.bert.embeddings.position_embeddings, teacher.bert.embeddings.position_embeddings),
    ):
        assert torch.equal(ours.weight, theirs.weight[:, list(units.hidden)])
    ours, theirs = (blocks(model)[0].intermediate.dense.weight for model in (student, teacher))
    assert units.neurons[0] != units.hidden
    assert torch.equal(ours, theirs[list(units.neurons[0])][:, list(units.hidden)])


def test_norms_that_multiply_by_one_more_than_their_weight():
    sizes = {**GROUPED, "intermediate_size": NEURONS}
    torch.manual_seed(0)
    teacher = GemmaForCausalLM(GemmaConfig(**sizes, head_dim=8)).eval()
    units = important_units(teacher, batches(), half(teacher))
    student = build_student(teacher, half(teacher), units=units)
    assert torch.allclose(student.model.norm.weight + 1, (teacher.model.norm.weight[list(units.hidden)] + 1) * 2**0.5)


@every_model
def test_a_narrow_student_learns_is_saved_and_loaded(name, tmp_path):
    teacher = make(name)
    config = half(teacher)
    student = build_student(teacher, config, units=important_units(teacher, batches(), config))
    assert sum(p.numel() for p in student.parameters()) < 0.6 * sum(p.numel() for p in teacher.parameters())
    logits(student)
    student.save_pretrained(tmp_path)
    loaded, info = type(teacher).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(logits(loaded), logits(student))
    student(**batches()[0])[0].square().mean().backward()
    assert any(parameter.grad is not None for parameter in student.parameters())


def test_a_narrow_student_in_a_smaller_vocabulary():
    teacher, kept = make("bert"), tuple(range(0, 99, 2))
    units = important_units(teacher, batches(), half(teacher))
    student = build_student(teacher, half(teacher), units=units, kept_ids=kept)
    words = teacher.get_input_embeddings().weight[list(kept)][:, list(units.hidden)]
    assert torch.equal(student.get_input_embeddings().weight, words)


def test_the_teacher_and_the_random_state_are_as_they_were():
    teacher = tiny_model(BertForMaskedLM, hidden_dropout_prob=0.5).train()
    before, state = copy.deepcopy(teacher.state_dict()), torch.get_rng_state()
    config = student_config(teacher.config, num_hidden_layers=4, hidden_size=16, num_attention_heads=2)
    units = important_units(teacher, batches(), config)
    build_student(teacher, config, units=units)
    assert teacher.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    longer = [{key: torch.nn.functional.pad(x, (0, 5)) for key, x in batch.items()} for batch in batches()]
    assert important_units(teacher, longer, config).hidden == units.hidden  # padding tells nothing


def test_half_precision_teachers():
    teacher = make("llama").to(torch.bfloat16)
    student = build_student(teacher, half(teacher), units=important_units(teacher, batches(), half(teacher)))
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}


def test_relations_and_logits_teach_a_narrow_student(make_args):
    teacher = tiny_model(BertForMaskedLM)
    config = student_config(
        teacher.config, num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=24
    )
    student = build_student(teacher, config, "spread", units=important_units(teacher, batches(), config))
    trainer = DistillationTrainer(
        model=student,
        args=make_args(learning_rate=3e-3, max_steps=30),
        teacher_model=teacher,
        alignments=[
            Alignment(feature="logits", loss="kl"),
            Alignment(feature="value_relation", student_layer=2, teacher_layer=4, loss="kl", relation_heads=4),
        ],
        train_dataset=ragged_examples(32, labels=False),
        data_collator=pad_batch,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


# --- provenance


def test_provenance_says_what_was_cut():
    teacher = make("llama")
    config = half(teacher)
    provenance = build_student(teacher, config, units=important_units(teacher, batches(), config)).provenance
    assert provenance.kept_units == {
        "hidden size": (16, 32),
        "heads": (2, 4),
        "key/value heads": (1, 2),
        "intermediate size": (24, 48),
    }
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches())
    assert provenance.units_chosen_by == f"importance on {tokens} tokens"
    assert f"heads: 2 of the teacher's 4, chosen by importance on {tokens} tokens" in str(provenance)


# --- random weights


def test_random_weights_are_the_callers_and_have_any_width():
    teacher = make("bert")
    config = student_config(teacher.config, num_hidden_layers=2, hidden_size=40, num_attention_heads=5)
    students = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        students.append(build_student(teacher, config, init="random"))
    one, same, other = (student.get_input_embeddings().weight for student in students)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one[1:].std().item() == pytest.approx(0.2, rel=0.1)  # the config's initializer
    assert not students[0].training
    assert students[0].get_output_embeddings().weight is one
    assert students[0].provenance.copied_blocks == ()
    assert str(students[0].provenance) == "student <- random weights"
    assert build_student(teacher.bfloat16(), config, init="random").dtype == torch.bfloat16


def test_random_weights_take_nothing_from_the_teacher():
    teacher = make("bert")
    for wrong in ({"units": all_units()}, {"layers": "top"}, {"freeze_embeddings": True}):
        with pytest.raises(StudentError, match="takes nothing from the teacher"):
            build_student(teacher, teacher.config, init="random", **wrong)
    with pytest.raises(StudentError, match="'copy' or 'random'; got 'xavier'"):
        build_student(teacher, teacher.config, init="xavier")


# --- what is refused


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bert", {"hidden_size": 16, "num_attention_heads": 4}, "heads are kept whole: .* 32 channels .* got 16"),
        ("bert", {"hidden_size": 64, "num_attention_heads": 8}, "at most .*hidden=32"),
        ("bert", {"intermediate_size": 64}, "at most .*neurons=48"),
        ("llama", {"num_attention_heads": 2, "num_key_value_heads": 4}, "at most"),
        ("llama", {"num_attention_heads": 4, "num_key_value_heads": 1}, r"num_key_value_heads=2\)"),
    ],
)
def test_widths_that_cannot_be_cut(name, change, message):
    teacher = make(name)
    config = student_config(teacher.config, num_hidden_layers=DEPTH, **change)
    with pytest.raises(StudentError, match=message):
        important_units(teacher, batches(), config)
    with pytest.raises(StudentError, match=message):
        build_student(teacher, config, units=all_units())


def test_widths_without_units_are_refused_by_name():
    teacher = make("bert")
    with pytest.raises(StudentError, match=r"width\.important_units\(teacher, batches, config\).* hidden_size"):
        build_student(teacher, half(teacher))


def test_units_of_another_config_are_refused():
    teacher = make("llama")
    for units, message in (
        (all_units(), "units.hidden should be 16 of the teacher's 32.* got 32"),
        (all_units(hidden=tuple(range(16)), heads=((0, 1),) * 2, neurons=((0,),) * 2), "3 blocks; got 2"),
        (
            all_units(hidden=tuple(range(16)), heads=((0, 2),) * 3, neurons=(tuple(range(24)),) * 3),
            "2 heads of each group",
        ),
    ):
        with pytest.raises(StudentError, match=message):
            build_student(teacher, half(teacher), units=units)
    for wrong in ({"hidden": ()}, {"hidden": (3, 1)}, {"hidden": (-1, 0)}):
        with pytest.raises(StudentError, match="different numbers from 0 on, ascending"):
            all_units(**wrong)
    with pytest.raises(StudentError, match="got 3 and 2 blocks"):
        all_units(neurons=((0,),) * 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        all_units().hidden = (0,)


def test_models_whose_units_cannot_be_told_apart():
    config = Olmo2Config(**WITH, **TOKENS)
    with pytest.raises(StudentError, match="mixes the heads"):
        block_channels(Olmo2Model(config))
    config = DebertaV2Config(**WITH)
    with pytest.raises(StudentError, match="AttentionInterface"):
        block_channels(DebertaV2Model(config))


def test_no_text():
    teacher = tiny_model(BertModel)
    config = student_config(teacher.config, num_hidden_layers=4, intermediate_size=24)
    with pytest.raises(DataError, match="at least one attended token"):
        important_units(teacher, [], config)


def test_the_intermediate_size_has_one_name():
    for name, own in (("distilbert", "hidden_dim"), ("gpt2", "n_inner"), ("opt", "ffn_dim")):
        config = student_config(MODELS[name][1], num_hidden_layers=2, intermediate_size=24)
        assert getattr(config, own) == 24
