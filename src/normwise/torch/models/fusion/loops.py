"""The items of a sequence after which a method that calls them one by one may stop, or may keep what it has by then.

``for i, layer in enumerate(self.features): x = layer(x)`` ends as the sequence does. With ``if i in self.ends:
found.append(x)`` in the loop, the outputs of the items at these places are the user's too.
"""

from __future__ import annotations

import ast

from normwise.torch.models.fusion.reading import Reading
from normwise.torch.models.fusion.sources import nodes_of

_WHOLE = {"children", "named_children", "values", "items"}
_LEAVES = (ast.Break, ast.Continue, ast.Return, ast.Yield, ast.YieldFrom, ast.Raise)


def stops_of(call: ast.Call, reading: Reading) -> set[int] | None:
    """The places of items whose output a method may use, where it calls one item at a time; None for any of them.

    Args:
        call: of the item.
        reading: of the method.
    """
    for loop in nodes_of(reading.tree):
        if isinstance(loop, ast.For):
            for statement in loop.body:
                match statement:
                    case ast.Assign(targets=[ast.Name(id=name)], value=value) if value is call:
                        return _in_loop(loop, statement, name, call, reading)
    return None


def _in_loop(loop: ast.For, statement: ast.stmt, name: str, call: ast.Call, reading: Reading) -> set[int] | None:
    match call:
        case ast.Call(func=ast.Name(id=item), args=[ast.Name(id=given)], keywords=[]) if given == name:
            pass
        case _:
            return None
    walked, index = loop.iter, ""
    match loop.iter, loop.target:
        case ast.Call(func=ast.Name(id="enumerate"), args=[walked], keywords=[]), ast.Tuple(
            elts=[ast.Name(id=index), _]
        ):
            pass
    found = _ends_of(walked, reading)
    for other in loop.body:
        if found is None or other is statement:
            continue
        match other:
            case ast.If(test=ast.Compare(left=ast.Name(id=left), ops=[ast.Eq() | ast.In()], comparators=[places])) if (
                left == index and not any(_touches(each, {name, item}) for each in other.orelse)
            ):
                known = places_of(places, reading)
                found = None if known is None else found | known
            case _ if _touches(other, {name, item, index or name}):
                found = None
    return found


def _ends_of(walked: ast.expr, reading: Reading) -> set[int] | None:
    """The places of the last items, apart from that of the whole sequence; None if they are not known."""
    match walked:
        case ast.Attribute():
            return set()
        case ast.Call(func=ast.Attribute(value=about, attr=name), args=[], keywords=[]) if name in _WHOLE:
            return _ends_of(about, reading)
        case ast.Subscript(value=about, slice=ast.Slice(lower=None, upper=ast.expr() as upper, step=None)):
            whole, ends = _ends_of(about, reading), places_of(upper, reading)
            return None if whole is None or ends is None else whole | {end - 1 for end in ends}
        case ast.IfExp(body=one, orelse=other):
            both = [_ends_of(each, reading) for each in (one, other)]
            return None if None in both else set[int]().union(*filter(None, both))
        case ast.Name(id=name):
            found = set[int]()
            given = [
                node.value
                for node in nodes_of(reading.tree)
                if isinstance(node, ast.Assign)
                and any(
                    isinstance(each, ast.Name) and each.id == name
                    for target in node.targets
                    for each in ast.walk(target)
                )
            ]
            bound = [node for node in nodes_of(reading.tree) if isinstance(node, ast.Name) and node.id == name]
            stored = [node for node in bound if isinstance(node.ctx, ast.Store)]
            if len(stored) != len(given):  # by a loop, for example
                return None
            for value in given:
                ends = None if isinstance(value, ast.Name) else _ends_of(value, reading)
                if ends is None:
                    return None
                found |= ends
            return found
    return None


def places_of(node: ast.expr | None, reading: Reading) -> set[int] | None:
    """The whole numbers that an expression may stand for; None if they are not known."""
    match node:
        case ast.Constant(value=int(number)):
            values: list[object] = [number]
        case ast.BinOp(left=left, op=ast.Add(), right=ast.Constant(value=int(more))):
            known = places_of(left, reading)
            return None if known is None else {number + more for number in known}
        case ast.Attribute() | ast.Subscript(slice=ast.Name() | ast.Constant()):
            values = [thing.value for thing in reading.things(node)]
        case _:
            return None
    numbers: list[object] = []
    for value in values:
        numbers += value if isinstance(value, list | tuple | set | frozenset | range) else [value]
    if not numbers or not all(isinstance(each, int) and each >= 0 for each in numbers):
        return None
    return {each for each in numbers if isinstance(each, int)}


def _touches(statement: ast.stmt, names: set[str]) -> bool:
    """True if a statement in a loop has to do with the item or its output, or may end the loop."""
    return any(
        isinstance(node, _LEAVES) or (isinstance(node, ast.Name) and node.id in names) for node in ast.walk(statement)
    )
