import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "quickstart"))
docstrings = importlib.import_module("docstrings")
entities = importlib.import_module("entities")
prose = importlib.import_module("prose")

SOURCE = '''
"""Tools for a shop. They are used by the other modules of the package."""
import no_such_module_is_ever_imported
LIMIT_OF_ITEMS = 3

class ShoppingBasket:
    """Keep the items in a `ShoppingBasket` until they are paid for.

    Parameters
    ----------
    size : int
        The largest number of items that the `size` of a basket allows.
    """
    def __init__(self, size):
        raise RuntimeError("never run")

    @property
    def weight(self):
        """Return the `weight` of what is in the basket."""

def pay(total, how="cash", copy=False):
    """Pay the ``total`` at the counter with :func:`pay` or by card.

    Parameters
    ----------
    total : float
        The amount that is to be paid by the customer.
    how : {'cash', 'card'}
        If 'cash', the money is counted; see :class:`~shop.ShoppingBasket` for the rest.
    copy : bool
        If copy is True, a copy of the bill is printed by the till.

    Examples
    --------
    The example that follows is not prose but code.

    >>> pay(3)
    None
    """
    if how == "cash":
        return LIMIT_OF_ITEMS
'''


def labelled(source, package=None):
    module = entities.read_module("shop.till", source)
    out = {}
    for paragraph in module.paragraphs:
        result = entities.label(paragraph, module, package or module.names)
        out[paragraph.text] = result and [
            (token, tag.removeprefix("B-")) for token, tag in zip(*result, strict=True) if tag != "O"
        ]
    return out


def test_labels_follow_the_rules():
    assert labelled(SOURCE) == {
        "Tools for a shop. They are used by the other modules of the package.": [],
        "Keep the items in a ShoppingBasket until they are paid for.": [("ShoppingBasket", "CLASS")],
        "The largest number of items that the size of a basket allows.": [("size", "PARAM")],
        "Return the weight of what is in the basket.": None,  # a property: none of the four types explains it
        "Pay the total at the counter with pay or by card.": [("total", "PARAM"), ("pay", "FUNC")],
        "The amount that is to be paid by the customer.": [],
        "If cash, the money is counted; see ShoppingBasket for the rest.": [
            ("cash", "CONST"),
            ("ShoppingBasket", "CLASS"),
        ],
        "If copy is True, a copy of the bill is printed by the till.": [("copy", "PARAM")],
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("The sum of `x` and x is the result of it.", [("x", "PARAM"), ("x", "PARAM")]),
        ("The sum of `a` is a number that is used.", [("a", "PARAM")]),
        ("It is a number that is larger than x is.", [("x", "PARAM")]),
        ("The order is that of n_items in the list.", [("n_items", "PARAM")]),
        ("The order is that of n_goods in the list.", None),
        ("This is the value of ``what + ever`` for it.", None),
        ("It can raise a ValueError if it is not used.", [("ValueError", "CLASS")]),
        ("It can be used in PyTorch and by the others.", []),
        ("It is the LIMIT_OF_ITEMS that is in the way.", [("LIMIT_OF_ITEMS", "CONST")]),
        ("This is *really* the way that it can be done.", []),
        ("It is the same as the *order* of the others.", [("order", "PARAM")]),
        ("This is not the 'cash' that is in the code.", None),
        ("If `x` is `None` it is as if it were False.", [("x", "PARAM")]),
    ],
)
def test_one_rule_at_a_time(words, expected):
    source = f'LIMIT_OF_ITEMS = 1\ndef f(x, a, order, n_items):\n    """{words}"""\n'
    assert list(labelled(source).values()) == [expected]


def test_where_a_word_ends_does_not_tell_that_it_was_marked():
    source = 'def f(x):\n    """{}"""\n'
    marked = entities.read_module("m", source.format("The `ValueError`'s message is that of a `list`-like."))
    unmarked = entities.read_module("m", source.format("The ValueError's message is that of a list-like."))
    texts = [entities._tokens(module.paragraphs[0].parts) for module in (marked, unmarked)]
    assert [token for token, _ in texts[0]] == [token for token, _ in texts[1]]


def test_methods_may_mention_the_parameters_of_their_class():
    source = 'class A:\n    size: int\n    def m(self):\n        """Return the `size` that is used for it."""\n'
    assert labelled(source) == {"Return the size that is used for it.": [("size", "PARAM")]}


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One line\nthat goes on.\n\nAnother one.", ["One line that goes on.", "Another one."]),
        ("Text.\n\n>>> code\nresult\n\nMore.", ["Text.", "More."]),
        ("So, the text::\n\n    code\n\nMore.", ["So, the text:", "More."]),
        ("Text.\n\n```python\ncode\n\nmore code\n```\nMore.", ["Text.", "More."]),
        ("Text.\n\n.. math::\n    x = 1\n\n.. note:: Mind\n    this.\n\n.. plot::\n   x\n", ["Text.", "Mind this."]),
        ("Text.\n\nReferences\n----------\nA book.\n\nNotes\n-----\nA note.", ["Text.", "A note."]),
        ("Args:\n    x (int): The x\n        of it.\n    y: The y.\n", ["The x of it.", "The y."]),
        ("Args:\n    x (`int`, *optional*, defaults to 1):\n        The x.\n", ["The x."]),
        (":param int x: The x.\n:returns: The y.", ["The x.", "The y."]),
        ("- One\n  item.\n- Another.\n\n1. Third.", ["One item.", "Another.", "Third."]),
        ("== ==\na   b\n== ==\n\n| a | b |\n\nText.", ["a   b", "Text."]),
    ],
)
def test_paragraphs(docstring, expected):
    assert prose.paragraphs(docstring) == expected


@pytest.mark.parametrize(
    ("marked", "text"),
    [
        ("See :class:`~numpy.ma.MaskedArray` and :func:`np.dot`.", "See MaskedArray and dot."),
        ("Uses ``axis=0``, `copy` and *order*, **not** 'mean'.", "Uses axis=0, copy and order, not mean."),
        ("Calls foo() and [`Trainer.train`] or [this](https://a.b/c).", "Calls foo and train or this."),
        ("A `link <https://a.b>`_ and np.linalg.norm, as in [1]_.", "A link and norm, as in."),
        ("It's the user's \"name\", don't 'a b'.", "It's the user's name, don't 'a b'."),
    ],
)
def test_marks_are_removed(marked, text):
    assert prose.plain(prose.pieces(marked)) == text


@pytest.mark.parametrize(
    "text",
    [
        "Too short a text.",
        "No full stop is at the end of this",
        "See https://example.org for the rest of it.",
        "x = 1 + 2 * 3 / 4 - 5 in the 1 2 3 4.",
        "Estimator features samples targets weights outputs.",
        "It is {format} that is in the way of it.",
    ],
)
def test_what_is_not_prose(text):
    assert not prose.is_prose(text)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """An installed package of thirty modules, of which only the first two say anything of their own."""
    package = tmp_path / "site" / "shop"
    (package / "tests").mkdir(parents=True)
    (package / "tests" / "test_it.py").write_text('"""This is not to be read by anyone at all."""\n')
    (package / "__init__.py").write_text('raise RuntimeError("imported")\n')
    (package / "broken.py").write_text("def (:\n")
    for number in range(30):
        name = chr(ord("a") + number // 26) + chr(ord("a") + number % 26)
        words = f"This is the story of the {name} that is sold, and of the `price` of it."
        (package / f"m{number}.py").write_text(
            f'def f(price):\n    """{words}\n\n    It is the same in all of them."""\n'
        )
    info = tmp_path / "site" / "shop-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: shop\nVersion: 1.5\nLicense-Expression: MIT\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return {"shop": "shop", "not_installed_anywhere": "not-installed-anywhere"}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files(shop, tmp_path):
    facts = docstrings.write(tmp_path / "out", packages=shop, processes=1)
    files = {p.stem: read(p) for p in (tmp_path / "out").glob("*.jsonl")}
    assert sorted(files) == ["ner_test", "ner_train", "ner_validation", "text_train", "text_validation"]
    assert len(list((tmp_path / "out").iterdir())) == 6  # and facts.json: nothing temporary is left
    assert json.loads((tmp_path / "out" / "facts.json").read_text()) == facts
    assert facts["packages"] == {"shop": {"version": "1.5", "licence": "MIT"}}
    assert facts["files"]["text_train"]["paragraphs"] == len(files["text_train"])
    tags = [tag for row in files["ner_train"] for tag in row["ner_tags"]]
    assert facts["files"]["ner_train"]["entities"] == {"PARAM": tags.count("B-PARAM")}
    row = next(row for row in files["ner_train"] if "B-PARAM" in row["ner_tags"])
    assert [token for token, tag in zip(row["tokens"], row["ner_tags"], strict=True) if tag != "O"] == ["price"]
    assert "not to be read" not in str(files)


def test_nothing_leaks(shop, tmp_path):
    docstrings.write(tmp_path / "out", packages=shop, processes=1)
    files = {p.stem: read(p) for p in (tmp_path / "out").glob("*.jsonl")}
    modules = {split: {r["id"].rpartition("-")[0] for r in files[f"ner_{split}"]} for split in docstrings.SPLITS}
    assert all(docstrings.split_of(name) == split for split, names in modules.items() for name in names)
    assert modules["test"]
    assert modules["validation"]
    words = {split: {" ".join(r["tokens"]) for r in files[f"ner_{split}"]} for split in docstrings.SPLITS}
    assert not words["train"] & (words["test"] | words["validation"])
    assert not words["test"] & words["validation"]
    distilled = {r["text"].replace(".", "").replace(",", "") for r in files["text_train"]}
    assert not distilled & {text.replace(" .", "").replace(" ,", "") for text in words["test"] | words["validation"]}
    assert sum("the same in all" in r["text"] for r in files["text_train"] + files["text_validation"]) == 1


def test_paragraphs_that_differ_by_names_and_numbers_count_once():
    def row(split, text):
        return docstrings.Row("m", split, text, None)

    rows = [row("test", "Load the BertModel of 2018."), row("train", "Load the RobertaModel of 2019.")]
    assert docstrings.unique(rows) == rows[1:]


def test_equal_seeds_give_equal_files(shop, tmp_path):
    sizes = {"paragraphs": 12, "ner_train": 10, "ner_eval": 2}
    for name, seed, processes in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        docstrings.write(tmp_path / name, **sizes, seed=seed, packages=shop, processes=processes)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert len(read(tmp_path / "a" / "text_train.jsonl")) == 12
    assert len(read(tmp_path / "a" / "ner_train.jsonl")) <= 10
    assert read(tmp_path / "a" / "text_train.jsonl") != read(tmp_path / "c" / "text_train.jsonl")


def test_the_readers_import_only_what_they_need():
    for path in (Path(m.__file__) for m in (prose, entities)):
        imported = {
            name.name if isinstance(node, ast.Import) else node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in node.names
        }
        assert imported <= {*sys.stdlib_module_names, "collections.abc", "prose"}


def test_command_line(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(docstrings.write, "__kwdefaults__", {**docstrings.write.__kwdefaults__, "packages": shop})
    docstrings.main([str(tmp_path / "out"), "--paragraphs", "3", "--ner-train", "4", "--ner-eval", "1", "--seed", "5"])
    assert json.loads(capsys.readouterr().out)["text_train"]["paragraphs"] == 3
