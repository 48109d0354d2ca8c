"""YAML that can only be read: no tags, which may run code, and no aliases, or few, which else fill the memory."""

from typing import Any, NoReturn

import yaml

MAX_DEPTH = 50  # of lists and mappings in each other
MAX_VALUES = 10_000  # when every alias is written out


class PlainLoader(yaml.SafeLoader):
    """The safe loader, for plain YAML only. What it refuses is a `yaml.MarkedYAMLError`, like YAML that is not valid.

    Attributes:
        takes_aliases: whether anchors (&) and aliases (*) are read.
        instead: what to write instead of what is not read.
    """

    takes_aliases = False
    instead = "Write the value itself"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}  # id of a node that is whole -> values in it

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None):
            self._refuse(f"a tag (!). {self.instead}", event)
        if event.anchor and not self.takes_aliases:
            self._refuse(f"an anchor (&) or an alias (*). {self.instead}", event)
        if self._depth > MAX_DEPTH:
            self._refuse(f"more than {MAX_DEPTH} lists and mappings in each other", event)
        self._depth += 1
        before = self._values
        self._values += 1
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                self._refuse("an alias (*) inside of what it stands for", event)
            self._values += self._sizes[id(node)]
        else:
            self._sizes[id(node)] = self._values - before
        self._depth -= 1
        if self._values > MAX_VALUES:
            self._refuse(f"more than {MAX_VALUES:,} values, with aliases (*) written out", event)
        return node

    def _refuse(self, problem: str, event: Any) -> NoReturn:
        raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
