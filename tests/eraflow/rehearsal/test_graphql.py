"""Tests of `eraflow.rehearsal.graphql`."""

from __future__ import annotations

from typing import Any

import pytest

from eraflow.rehearsal.graphql import GraphQLError, Variable, bind, check, parse, project
from eraflow.rehearsal.schema import ROOTS, TYPES


def accept(query: str, variables: dict[str, Any] | None = None) -> None:
    check(parse(query), ROOTS, TYPES, variables or {})


def refused(query: str, variables: dict[str, Any] | None = None) -> str:
    with pytest.raises(GraphQLError) as caught:
        accept(query, variables)
    return caught.value.message


def test_arguments_may_be_literals_or_variables() -> None:
    operation = parse('query($n: Int! $t: [String] = ["a"]) { rounds(tournament: 8, number: $n target: $t) { id } }')
    asked = operation.fields[0]
    assert asked.arguments == {"tournament": 8, "number": Variable("n"), "target": Variable("t")}
    bound = bind(asked.arguments, operation, {"n": 0})
    assert bound == {"tournament": 8, "number": 0, "target": ["a"]}


def test_strings_numbers_booleans_null_and_enums_are_read() -> None:
    asked = parse(r'{ f(a: "x\"é", b: -1.5e2, c: true, d: null, e: OPEN, f: {g: [1, 2]}) }').fields[0]
    assert asked.arguments == {"a": 'x"é', "b": -150.0, "c": True, "d": None, "e": "OPEN", "f": {"g": [1, 2]}}


def test_comments_commas_and_newlines_do_not_matter() -> None:
    assert parse("{ a, # no\n b }").fields == parse("query {a b}").fields


def test_only_the_fields_that_were_asked_for_are_answered() -> None:
    fields = parse("{ model { id submissions { filename round { number } } } }").fields[0].fields
    value = {"id": 1, "name": "n", "submissions": [{"filename": "f", "id": 2, "round": {"number": 3, "id": 4}}]}
    assert project(value, fields) == {"id": 1, "submissions": [{"filename": "f", "round": {"number": 3}}]}


def test_a_name_in_snake_case_is_answered_under_the_name_that_was_asked_for() -> None:
    fields = parse("{ account { api: public_id } }").fields[0].fields
    assert project({"publicId": "p"}, fields) == {"api": "p"}


def test_an_unknown_root_field_is_refused_as_a_server_does() -> None:
    assert refused("{ weather { id } }") == 'Cannot query field "weather" on type "RootQueryType".'


def test_a_mutation_is_not_a_query() -> None:
    text = refused('{ create_submission(filename: "f" tournament: 8) { id } }')
    assert text == 'Cannot query field "create_submission" on type "RootQueryType".'


def test_an_unknown_inner_field_is_refused_with_its_type() -> None:
    assert refused("{ account { models { colour } } }") == 'Cannot query field "colour" on type "Model".'


def test_an_object_without_a_selection_is_refused() -> None:
    assert "must have a selection of subfields" in refused("{ account }")
    assert "must not have a selection" in refused("{ listDatasets { name } }")


def test_an_unknown_argument_is_refused() -> None:
    assert refused("{ rounds(colour: 1) { id } }").startswith('Unknown argument "colour" on field "rounds"')


def test_missing_variables_and_arguments_are_refused() -> None:
    assert refused("query($f: String!) { dataset(filename: $f) }") == 'Variable "f": Expected non-null, found null.'
    assert refused("query($f: String) { dataset(filename: $f) }").startswith('In argument "filename"')
    assert refused("{ dataset(filename: $f) }") == 'Variable "f" is not defined by operation.'


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "{ a", "{ a(b: ) }", "subscription { a }", "{ a } { b }", "{ ...f }", "{ a @skip }", "{ ~ }"],
)
def test_what_is_not_one_operation_is_refused(text: str) -> None:
    with pytest.raises(GraphQLError):
        parse(text)
