"""The schema is the original demo's."""

from pathlib import Path

import pytest
from graphql import GraphQLInputObjectType, GraphQLSchema, build_schema, is_introspection_type, is_specified_scalar_type

from sam2fast.demo.server.graphql_api import make_schema

SNAPSHOT = Path(__file__).with_name("schema.graphql")


def described(schema: GraphQLSchema) -> dict[str, list[str]]:
    """All types' fields in order, with arguments, defaults and nullability, without descriptions."""
    found = {}
    for name, kind in schema.type_map.items():
        if is_introspection_type(kind) or is_specified_scalar_type(kind):
            continue
        fields = getattr(kind, "fields", {})
        interfaces = [f"implements {interface.name}" for interface in getattr(kind, "interfaces", ())]
        found[name] = interfaces + [
            f"{field}{arguments(content)}: {content.type}" if not isinstance(kind, GraphQLInputObjectType)
            else f"{field}: {content.type} = {content.default_value!r}"
            for field, content in fields.items()
        ]  # fmt: skip
    return found


def arguments(field) -> str:
    return str([(name, str(argument.type), argument.default_value) for name, argument in field.args.items()])


@pytest.fixture(scope="module")
def ours() -> GraphQLSchema:
    return build_schema(make_schema().as_str())


def test_schema_is_the_originals(ours):
    expected = described(build_schema(SNAPSHOT.read_text()))
    assert described(ours) == expected
    assert len(expected) > 20


def test_names_of_roots(ours):
    assert ours.query_type.name == "Query" and ours.mutation_type.name == "Mutation"
    assert ours.subscription_type is None
