"""Limits of a GraphQL query, checked before its validation, whose time grows with the square of the query's size."""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)
from strawberry.extensions import SchemaExtension

# Far more than the front ends need; GraphiQL's introspection query fits.
MAX_LEVELS, MAX_SELECTIONS, MAX_ALIASES, MAX_TOKENS = 20, 500, 5, 2000
MAX_REPEATS = 40  # repeats of a field in a query; validation compares each pair
# Validation runs only Python code. Several validations at a time would delay all other threads.
_validating = threading.Lock()


class QueryLimiter(SchemaExtension):
    """Refuses queries and fragments that nest too deeply, select too much, or repeat too many fields or aliases."""

    def on_validate(self) -> Iterator[None]:
        """Runs before Strawberry validates the query, which it does not do if there are errors."""
        document = self.execution_context.graphql_document
        assert document is not None
        try:
            _check(document)
        except GraphQLError as error:
            self.execution_context.pre_execution_errors = [error]
        with _validating:
            yield


class _Size(NamedTuple):
    """The size of a part of a query in which each spread stands for its fragment's selections."""

    levels: int = 0
    selections: int = 0
    aliases: int = 0


def _check(document: DocumentNode) -> None:
    fragments = {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
    known: dict[str, _Size] = {}
    repeats = Counter[str]()

    def fragment_size(name: str, level: int) -> _Size:
        if name not in known:
            known[name] = _Size()  # in a cycle, which validation refuses, and where there is no such fragment
            if name in fragments:
                known[name] = size_of(fragments[name].selection_set, level)
        return known[name]

    def size_of(selected: SelectionSetNode | None, level: int) -> _Size:
        levels = selections = aliases = 0
        for node in () if selected is None else selected.selections:
            if level == MAX_LEVELS:
                raise GraphQLError(f"the query has more than {MAX_LEVELS} levels")
            if isinstance(node, FragmentSpreadNode):
                inner = fragment_size(node.name.value, level + 1)
            else:
                assert isinstance(node, FieldNode | InlineFragmentNode)
                inner = size_of(node.selection_set, level + 1)
            if isinstance(node, FieldNode):
                repeats[(node.alias or node.name).value] += 1
            levels = max(levels, 1 + inner.levels)
            selections += 1 + inner.selections
            aliases += inner.aliases + (isinstance(node, FieldNode) and node.alias is not None)
        return _Size(levels, selections, aliases)

    sizes = [fragment_size(name, 0) for name in fragments]
    sizes += [size_of(d.selection_set, 0) for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    for what, limit, found in (
        ("levels", MAX_LEVELS, max(size.levels for size in sizes)),
        ("selections", MAX_SELECTIONS, sum(size.selections for size in sizes)),
        ("aliases", MAX_ALIASES, sum(size.aliases for size in sizes)),
        ("fields of the same name", MAX_REPEATS, max(repeats.values(), default=0)),
    ):
        if found > limit:
            raise GraphQLError(f"the query has more than {limit} {what}")
