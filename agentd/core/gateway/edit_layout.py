"""Where in a YAML text a value is put, and how: block or flow, indentation, line ends."""

from __future__ import annotations

from agentd.core.gateway.tree import Node
from agentd.core.gateway.yaml_text import dump, one_line

_FLOW = ("{", "[")


class Layout:
    """The methods return a whole new text; whether it says what was wanted is for the caller to check."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._newline = "\r\n" if "\r\n" in text else "\n"

    def replaced(self, parent: Node, node: Node, value: object) -> str:
        """`node`, a value in `parent`, becomes `value`."""
        start, end = node.span
        before, after = self._text[:start], self._text[end:]
        written = one_line(value, flow=self._is_flow(parent))
        if start == end:  # Empty: "key:" with nothing behind it.
            return before + (" " if not before.endswith((" ", "\n")) else "") + written + after
        if self._text[end - 1] == "\n":  # A block of text ends with its last line.
            after = self._newline + after
        key = next((key for key, inner in parent.pairs if inner is node), None)
        if key is not None and self._own_line(node):
            before = self._text[: self._text.index(":", key.span[1]) + 1] + " "
        return before + written + after

    def added(self, parent: Node, name: str, value: object, *, key: Node | None, block: bool = False) -> str:
        """`name` at the end of the mapping `parent`; `key`: the one before it. `block`: over several lines, where the
        mapping is not written on one."""
        if self._is_flow(parent):
            return self._added_to_flow(parent, name, value)
        if parent.kind == "mapping" and parent.pairs:
            indent = min(pair[0].place.column for pair in parent.pairs[:1]) - 1
            return self._inserted(self._end_of_line(self._last(parent)), indent, name, value, block)
        if key is None:
            end = len(self._text)
            return self._inserted(end, 0, name, value, block)
        return self._inserted(
            self._end_of_line(max(key.span[1], parent.span[1])), key.place.column + 1, name, value, block
        )

    def removed(self, parent: Node, step: str) -> str:
        """Without the entry `step` (a key, or the number in a list)."""
        if parent.kind == "list":
            start, end = parent.items[int(step)].span
            neighbours = [item.span for item in parent.items]
        else:
            spans = [(key.span[0], max(key.span[1], value.span[1])) for key, value in parent.pairs]
            number = next(n for n, (key, _) in enumerate(parent.pairs) if key.value == step)
            (start, end), neighbours = spans[number], spans
        if self._is_flow(parent):
            return self._removed_from_flow(start, end, neighbours)
        first = self._line_start(start)
        last = self._end_of_line(max(end, start + 1))
        dashes = self._text[first:start].count("-") if not self._text[first:start].strip("- ") else 0
        own = 1 if parent.kind == "list" else 0
        if dashes <= own:
            return self._text[:first] + self._text[last:]
        # A dash before it on the same line belongs to the entry around it, and stays.
        following = [span[0] for span in neighbours if span[0] > start]
        if following:
            return self._text[:start] + self._text[following[0] :]
        at = self._text.rindex("-", first, start) if own else start
        return f"{self._text[:at]}{'[]' if own else '{}'}{self._newline}{self._text[last:]}"

    def _own_line(self, node: Node) -> bool:
        """A block mapping or list, which begins on a line below its key."""
        start = node.span[0]
        inner = node.kind != "scalar" and not self._is_flow(node)
        return inner and not self._text[self._line_start(start) : start].strip()

    def _is_flow(self, node: Node) -> bool:
        """{...} or [...], with an anchor or a tag before it perhaps."""
        start, end = node.span
        return node.kind != "scalar" and start < end and self._text[end - 1] in "}]" and self._opens(node)

    def _opens(self, node: Node) -> bool:
        text = self._text[node.span[0] : node.span[1]]
        while text[:1] in ("&", "!"):
            _, _, text = text.partition(" ")
            text = text.lstrip()
        return text.startswith(_FLOW)

    def _added_to_flow(self, parent: Node, name: str, value: object) -> str:
        end = parent.span[1] - 1
        pair = f"{one_line(name)}: {one_line(value, flow=True)}"
        if not parent.pairs:
            return f"{self._text[:end].rstrip()}{pair}{self._text[end:]}"
        last = self._last(parent)
        comma = "," if not self._text[last:end].strip().startswith(",") else ""
        at = last if comma else last + self._text[last:end].index(",") + 1
        return f"{self._text[:at]}{comma} {pair}{self._text[at:]}"

    def _removed_from_flow(self, start: int, end: int, neighbours: list[tuple[int, int]]) -> str:
        following = [span for span in neighbours if span[0] > start]
        before = [span for span in neighbours if span[1] <= start and span[0] < start]
        if following:
            return self._text[:start] + self._text[following[0][0] :]
        return self._text[: before[-1][1]] + self._text[end:] if before else self._text[:start] + self._text[end:]

    def _inserted(self, at: int, indent: int, name: str, value: object, block: bool) -> str:
        if block and isinstance(value, dict) and value:
            lines = [f"{one_line(name)}:", *(f"  {line}" for line in dump(value).splitlines())]
        else:
            lines = [f"{one_line(name)}: {one_line(value)}"]
        written = "".join(f"{' ' * indent}{line}{self._newline}" for line in lines)
        before = self._text[:at]
        if before and not before.endswith("\n"):
            before += self._newline
        return before + written + self._text[at:]

    def _last(self, parent: Node) -> int:
        """Where the last value of a mapping ends."""
        key, value = parent.pairs[-1]
        return max(key.span[1], value.span[1], *(max(k.span[1], v.span[1]) for k, v in parent.pairs))

    def _line_start(self, at: int) -> int:
        return self._text.rfind("\n", 0, at) + 1

    def _end_of_line(self, at: int) -> int:
        """The start of the next line, or the end of the text."""
        if at and self._text[at - 1] == "\n":
            return at
        found = self._text.find("\n", at)
        return len(self._text) if found < 0 else found + 1
