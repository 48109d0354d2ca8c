"""What is said of a teacher that the Hub does not give."""

import json

import pytest
from client import run_client
from server import HubServer

SCRIPT = """
import json
from distil_trainer.errors import RecipeError
from distil_trainer.recipe import TeacherSource, load_model

def told(name):
    try:
        load_model(TeacherSource(name=name))
    except RecipeError as error:
        return str(error)

print(json.dumps([told(name) for name in ("me/gone", "other/gated", "me/pickle", "me/damaged")]))
"""
CONFIG = json.dumps({"model_type": "bert", "hidden_size": 8, "num_attention_heads": 1}).encode()


@pytest.fixture
def hub():
    with HubServer() as server:
        server.add("model", "other/gated", {"config.json": CONFIG}, gated="auto")
        server.add("model", "me/pickle", {"config.json": CONFIG, "pytorch_model.bin": b"\x80\x04."})
        server.add("model", "me/damaged", {"config.json": CONFIG, "model.safetensors": b"damaged"})
        yield server


def test_a_teacher_that_cannot_be_had_is_refused_with_a_remedy(hub, tmp_path):
    remedies = (
        "Check the id, and log in with `hf auth login` if it is private.",
        "Ask for access on its page on the Hub, and log in with `hf auth login`.",
        "only safetensors are read, no pickles.",
        "Its weights are damaged: download or save them again.",
    )
    # else transformers asks another host to convert the pickle
    messages = json.loads(run_client(hub, tmp_path, SCRIPT, timeout=120, DISABLE_SAFETENSORS_CONVERSION="1"))
    for message, remedy in zip(messages, remedies, strict=True):
        assert "cannot be loaded as a model: " in message
        assert message.endswith(remedy)
