"""The part of GraphQL that clients of the tournament use: one operation, arguments, variables, selection sets.

`parse` turns a query's text into an `Operation`; `check` holds it against a schema, so that an operation with a
mistake has no effect; `project` cuts a value down to the fields that were asked for. No fragments, directives or
introspection: they are refused with an error that says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(
    r"""[\s,\ufeff]+ | \#[^\n]*
    | (?P<name>[_A-Za-z][_0-9A-Za-z]*)
    | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<mark>\.\.\.|[!$():=@\[\]{}|&])""",
    re.VERBOSE,
)


class GraphQLError(Exception):
    """An error that goes into the answer's `errors`; `path` names the root field it belongs to."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.message, self.path = message, path

    def entry(self) -> dict[str, Any]:
        """As it stands in the answer."""
        located: dict[str, Any] = {"message": self.message, "locations": [{"line": 1, "column": 1}]}
        return located | ({"path": [self.path]} if self.path else {})


@dataclass(frozen=True)
class Variable:
    """`$name` where a value stands."""

    name: str


@dataclass(frozen=True)
class Field:
    """One field of a selection set."""

    name: str
    key: str
    """Under which it is answered: the alias, or the name as it was written."""
    arguments: Mapping[str, Any]
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Operation:
    """One query or mutation."""

    kind: str
    fields: tuple[Field, ...]
    required: frozenset[str] = field(default_factory=frozenset)
    """Variables declared with `!` and no default."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    declared: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Root:
    """A root field of the schema."""

    kind: str
    """`query` or `mutation`."""
    type: str | None
    """Its object type; None for a plain value."""
    arguments: frozenset[str]
    required: frozenset[str] = frozenset()


Types = Mapping[str, Mapping[str, str | None]]
"""Object type -> field -> its object type, None for a plain value."""


def parse(text: str) -> Operation:
    """The one operation in `text`. Raises `GraphQLError` if it is not one."""
    return _Parser(text).operation()


def check(operation: Operation, roots: Mapping[str, Root], types: Types, variables: Mapping[str, Any]) -> None:
    """Raise `GraphQLError` for the first field, argument or variable that the schema does not have."""
    for name in sorted(operation.required):
        if variables.get(name) is None:
            raise GraphQLError(f'Variable "{name}": Expected non-null, found null.')
    type_name = "RootMutationType" if operation.kind == "mutation" else "RootQueryType"
    for asked in operation.fields:
        root = roots.get(canonical(asked.name))
        if root is None or root.kind != operation.kind:
            raise GraphQLError(f'Cannot query field "{asked.name}" on type "{type_name}".')
        for argument in asked.arguments:
            if argument not in root.arguments:
                raise GraphQLError(f'Unknown argument "{argument}" on field "{asked.name}" of type "{type_name}".')
        values = bind(asked.arguments, operation, variables)
        for argument in sorted(root.required):
            if values.get(argument) is None:
                raise GraphQLError(f'In argument "{argument}": Expected type "String!", found null.')
        _check_fields(asked, root.type, types)


def bind(arguments: Mapping[str, Any], operation: Operation, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the variables' values in place. Raises `GraphQLError` for an undeclared variable."""

    def value(given: Any) -> Any:
        if isinstance(given, list):
            return [value(item) for item in given]
        if isinstance(given, dict):
            return {name: value(item) for name, item in given.items()}
        if not isinstance(given, Variable):
            return given
        if given.name not in operation.declared:
            raise GraphQLError(f'Variable "{given.name}" is not defined by operation.')
        found = variables.get(given.name)
        return operation.defaults.get(given.name) if found is None else found

    return {name: value(given) for name, given in arguments.items()}


def project(value: Any, fields: Iterable[Field]) -> Any:
    """`value` with only the fields that were asked for, in their order; lists entry by entry."""
    fields = tuple(fields)
    if not fields or value is None:
        return value
    if isinstance(value, list):
        return [project(item, fields) for item in value]
    return {asked.key: project(value[canonical(asked.name)], asked.fields) for asked in fields}


def canonical(name: str) -> str:
    """The schema's name of a field: the real server knows `create_submission` as `createSubmission` too.

    >>> canonical("submission_upload_auth")
    'submissionUploadAuth'
    """
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def _check_fields(asked: Field, type_name: str | None, types: Types) -> None:
    if type_name is None:
        if asked.fields:
            raise GraphQLError(f'Field "{asked.name}" must not have a selection since its type has no subfields.')
        return
    if not asked.fields:
        raise GraphQLError(f'Field "{asked.name}" of type "{type_name}" must have a selection of subfields.')
    for inner in asked.fields:
        known = types[type_name]
        if canonical(inner.name) not in known:
            raise GraphQLError(f'Cannot query field "{inner.name}" on type "{type_name}".')
        if inner.arguments:
            raise GraphQLError(f'Unknown argument "{next(iter(inner.arguments))}" on field "{inner.name}".')
        _check_fields(inner, known[canonical(inner.name)], types)


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.at = 0

    def operation(self) -> Operation:
        kind, declared, required, defaults = "query", set[str](), set[str](), dict[str, Any]()
        if self.peek() != "{":
            kind = self.name()
            if kind not in ("query", "mutation"):
                raise GraphQLError(f'syntax error before: "{kind}"')
            if self.peek() not in ("{", "("):
                self.name()
            if self.accept("("):
                self.variables(declared, required, defaults)
        fields = self.selection()
        if self.at != len(self.tokens):
            raise GraphQLError(f'syntax error before: "{self.peek()}"')
        return Operation(kind, fields, frozenset(required - defaults.keys()), defaults, frozenset(declared))

    def variables(self, declared: set[str], required: set[str], defaults: dict[str, Any]) -> None:
        while not self.accept(")"):
            self.expect("$")
            name = self.name()
            self.expect(":")
            declared.add(name)
            if self.type():
                required.add(name)
            if self.accept("="):
                defaults[name] = self.value()

    def type(self) -> bool:
        """Read a type; whether it may not be null."""
        if self.accept("["):
            self.type()
            self.expect("]")
        else:
            self.name()
        return self.accept("!")

    def selection(self) -> tuple[Field, ...]:
        self.expect("{")
        fields = []
        while not self.accept("}"):
            if self.peek() in ("...", "@"):
                raise GraphQLError("fragments and directives are not part of the local tournament")
            fields.append(self.field())
        if not fields:
            raise GraphQLError('syntax error before: "}"')
        return tuple(fields)

    def field(self) -> Field:
        key = name = self.name()
        if self.accept(":"):
            name = self.name()
        arguments = {}
        if self.accept("("):
            while not self.accept(")"):
                argument = self.name()
                self.expect(":")
                arguments[argument] = self.value()
        fields = self.selection() if self.peek() == "{" else ()
        return Field(name, key, arguments, fields)

    def value(self) -> Any:
        if self.accept("$"):
            return Variable(self.name())
        if self.accept("["):
            items = []
            while not self.accept("]"):
                items.append(self.value())
            return items
        if self.accept("{"):
            table = {}
            while not self.accept("}"):
                name = self.name()
                self.expect(":")
                table[name] = self.value()
            return table
        kind, text = self.next()
        if kind in ("string", "number"):
            return json.loads(text)
        if kind == "name":
            return {"true": True, "false": False, "null": None}.get(text, text)
        raise GraphQLError(f'syntax error before: "{text}"')

    def peek(self) -> str | None:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else None

    def next(self) -> tuple[str, str]:
        if self.at >= len(self.tokens):
            raise GraphQLError("syntax error before: end of the query")
        self.at += 1
        return self.tokens[self.at - 1]

    def accept(self, mark: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == ("mark", mark):
            self.at += 1
            return True
        return False

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            raise GraphQLError(f'syntax error before: "{self.peek()}", "{mark}" was expected')

    def name(self) -> str:
        kind, text = self.next()
        if kind != "name":
            raise GraphQLError(f'syntax error before: "{text}"')
        return text


def _tokens(text: str) -> Iterable[tuple[str, str]]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise GraphQLError(f'syntax error before: "{text[at]}"')
        at = found.end()
        if found.lastgroup:
            yield found.lastgroup, found[found.lastgroup]
