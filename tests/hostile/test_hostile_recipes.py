"""Recipes of strangers: nothing runs, nothing grows, and every refusal is a RecipeError."""

import time

import pytest
from hostile_input import ACTIVE, fuzz, message_of
from hypothesis import given
from hypothesis import strategies as st
from test_bad_input import RECIPE

from distil_trainer.errors import RecipeError
from distil_trainer.recipe import DistillRecipe, PrepareRecipe, PublishRecipe, TeacherSource, load_model, load_recipe

LAUGHS = "a0: &a0 [ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
TAG = r"a tag \(!\)\. Write the value itself"
TEXTS = {
    "code": ("x: !!python/object/apply:os.system ['touch ran']", TAG),
    "name": ("x: !!python/name:os.system", TAG),
    "number of nothing": ("x: !!int ''", TAG),
    "truth of nothing": ("x: !!bool maybe", TAG),
    "time of nothing": ("x: !!timestamp now", TAG),
    "billion laughs": (LAUGHS, "more than 10,000 values, with aliases"),
    "itself": ("training: &t {a: *t}", "an alias .* inside of what it stands for"),
    "merged": (
        "x: &x {" + ", ".join(f"k{i}: 1" for i in range(99)) + f"}}\ny: {{<<: [{'*x, ' * 99}]}}",
        "10,000 values",
    ),
    "deep list": ("x: " + "[" * 500, "more than 50 lists and mappings in each other"),
    "deep mapping": ("x: " + "{a: " * 10_000, "more than 50 lists and mappings in each other"),
    "long number": ("training: {learning_rate: " + "9" * 5000 + "}", "a number of more than 100 digits"),
    "long hexadecimal": ("training: {learning_rate: 0x" + "f" * 5000 + "}", "a number of more than 100 digits"),
    "long sexagesimal": ("training: {learning_rate: 1" + ":59" * 5000 + "}", "a number of more than 100 digits"),
    "long": ("x: " + "y" * 10_000_000, "expected a recipe of at most 200,000 bytes; came more"),
    "no day": ("x: 2026-02-30", "day is out of range"),
    "no list key": ("? [a]\n: 1", "unhashable"),
    "two documents": ("---\na: 1", "another document"),
    "escape": ("x: \x1b[2J", "special characters are not allowed"),
    "escape in a key": (r'"\e[2J": 1', r"\\x1b\[2J: unknown key"),
    "escape in a value": (r'balance_terms: "\e[2J\u202e"', r"came '\\x1b\[2J\\u202e' \(text\)"),
    "half a character": (r'"student": {"name": "\ud800", num_hidden_layers: 2}', "twice"),
    "extends null": (r'extends: "a\0b"', "extends: expected the path of another recipe; came 'a.x00b'"),
    "extends an endless file": ("extends: /dev/zero", "/dev/zero: expected a recipe of at most 200,000 bytes"),
    "extends a folder": ("extends: /", "/: cannot be read: Is a directory"),
    "extends what is no recipe": ("extends: /etc/passwd", "/etc/passwd: "),
    "extends an escape": (r'extends: "\e[2J"', r"\\x1b\[2J: cannot be read"),
    "another revision": ("teacher: {name: a/b, revision: ../../x}", "twice"),
}


def load(folder, text, cls=DistillRecipe, overrides=()):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(cls, path, overrides)


@pytest.mark.parametrize(("line", "message"), TEXTS.values(), ids=TEXTS)
def test_hostile_yaml_is_refused(tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    with pytest.raises(RecipeError, match=message) as error:
        load(tmp_path, f"{RECIPE}{line}\n")
    assert time.perf_counter() - start < 5
    assert not ACTIVE.search(str(error.value))
    assert len(str(error.value)) < 11_000
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("override", ["x=!!python/name:os.system", "x=&a [*a]", "x=" + "[" * 100, "x=\x1b[2J"])
def test_hostile_overrides_are_refused(tmp_path, override):
    with pytest.raises(RecipeError) as error:
        load(tmp_path, RECIPE, overrides=[override])
    assert not ACTIVE.search(str(error.value))


REVISIONS = ["../../x", "a/../b", "/etc/passwd", "a\\b", "a\0b", "a b", "-x", "\x1b[2J", "a//b", "@{u}"]
PLACES = {
    "teacher.revision": DistillRecipe,
    "data.revision": DistillRecipe,
    "tokenizer_revision": PrepareRecipe,
    "revision": PublishRecipe,
}


@pytest.mark.parametrize("revision", REVISIONS, ids=ascii)
@pytest.mark.parametrize(("place", "cls"), PLACES.items(), ids=PLACES)
def test_a_revision_leads_nowhere_else(tmp_path, place, cls, revision):
    quoted = '"' + "".join(f"\\u{ord(c):04x}" for c in revision) + '"'
    start = {
        DistillRecipe: RECIPE,
        PrepareRecipe: "tokenizer: t\ndata: {files: [a.txt]}\noutput_dir: out\n",
        PublishRecipe: "folder: out\nrepo_id: me/it\n",
    }[cls]
    with pytest.raises(RecipeError, match=f"{place.split('.')[-1]}: expected a branch, tag or commit"):
        load(tmp_path, start, cls, [f"{place}={quoted}"])
    load(tmp_path, start, cls, [f"{place}=refs/convert/parquet"])


HUB_IDS = ["../x", "/x", "a/b/c", "a\\b", "a\0b", "a..b/c", "\x1b[2J", "", "~/x", "http://a.b/c"]


@pytest.mark.parametrize("hub_id", HUB_IDS, ids=ascii)
@pytest.mark.parametrize("place", ["teacher.hub_id", "teacher.base_model", "data.hub_id"])
def test_an_id_leads_nowhere_else(tmp_path, place, hub_id):
    quoted = '"' + "".join(f"\\u{ord(c):04x}" for c in hub_id) + '"'
    with pytest.raises(RecipeError, match=r"expected a Hub id|files: expected"):
        load(
            tmp_path,
            RECIPE,
            overrides=["data.files=[]" if place == "data.hub_id" else "resume=true", f"{place}={quoted}"],
        )


@pytest.mark.parametrize("name", ["..", "../x", "os.path", "this.x", "__main__", "a\0b", ""], ids=ascii)
def test_a_package_that_is_looked_for_does_not_run(capsys, name):
    with pytest.raises(RecipeError, match="is not installed"):
        load_model(TeacherSource(name=f"package:{name}"))
    assert not capsys.readouterr().out  # `import this` prints


words = st.sampled_from(
    [
        *("a", "teacher", "x: ", "- ", "? ", "[", "]", "{", "}", ", ", "\n", "\n  ", "&a ", "*a", "!!int ", "!x "),
        *(
            "!!python/name:os.system",
            "<<: ",
            "'",
            '"',
            "|",
            ">",
            "%YAML 1.2\n",
            "---",
            "...",
            "0x",
            "1:59",
            "1e5",
            ".5",
        ),
        *(
            "~",
            "2026-13-01",
            "=",
            "\\e",
            "\\ud800",
            "\t",
            "\x00",
            "\x1b",
            "\u202e",
            "@",
            "`",
            "#",
            "extends: ",
            "a.yaml",
        ),
    ]
)
pieces = st.lists(st.one_of(words, st.text(max_size=3)), max_size=8).map("".join)


@fuzz(60)
@given(st.integers(0, len(RECIPE)), st.integers(0, 30), pieces)
def test_any_recipe_is_one_or_a_recipe_error(tmp_path_factory, at, length, inserted):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes((RECIPE[:at] + inserted + RECIPE[at + length :]).encode("utf-8", "surrogatepass"))
    message = message_of(RecipeError, load_recipe, DistillRecipe, path)
    assert message.startswith(str(path.parent)) or not message  # an `extends` may name another file
    assert not ACTIVE.search(message)


@fuzz(20)
@given(pieces)
def test_any_override_is_one_or_a_recipe_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "whole.yaml"
    path.write_text(RECIPE)
    for override in (f"training.seed={text}", f"{text}=1", text):
        assert not ACTIVE.search(message_of(RecipeError, load_recipe, DistillRecipe, path, [override]))
