import pytest
from torch import nn
from transformers import AlbertConfig, AlbertModel, BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertModel

from distil_trainer.blocks import blocks
from distil_trainer.errors import CaptureError

TINY = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 11}


def test_blocks_are_found_by_their_number():
    model = BertForMaskedLM(BertConfig(num_hidden_layers=3, **TINY))
    assert blocks(model) is model.bert.encoder.layer


def test_other_names_for_the_depth_are_understood():
    model = DistilBertModel(DistilBertConfig(dim=16, n_heads=2, n_layers=2, hidden_dim=16, vocab_size=11))
    assert blocks(model) is model.transformer.layer


def test_a_list_inside_a_block_is_not_the_stack():
    model = BertForMaskedLM(BertConfig(num_hidden_layers=2, **TINY))
    for block in model.bert.encoder.layer:
        block.experts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    assert blocks(model) is model.bert.encoder.layer


def test_two_stacks_are_refused_by_name():
    model = BertForMaskedLM(BertConfig(num_hidden_layers=2, **TINY))
    model.more = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    with pytest.raises(CaptureError, match=r"bert\.encoder\.layer, more"):
        blocks(model)


def test_a_shared_block_is_there_once_a_pass():
    model = AlbertModel(AlbertConfig(num_hidden_layers=3, embedding_size=16, **TINY))
    assert list(blocks(model)) == [model.encoder.albert_layer_groups[0]] * 3


@pytest.mark.parametrize("groups", [{"num_hidden_groups": 2}, {"inner_group_num": 2}])
def test_several_groups_of_shared_blocks_are_refused(groups):
    model = AlbertModel(AlbertConfig(num_hidden_layers=4, embedding_size=16, **TINY | groups))
    with pytest.raises(CaptureError, match=r"has \d groups of \d, in: .*One shared block alone is read"):
        blocks(model)


def test_a_plain_module_has_no_blocks_to_count():
    with pytest.raises(CaptureError, match=r"Linear has no `config\.num_hidden_layers`"):
        blocks(nn.Linear(2, 2))
