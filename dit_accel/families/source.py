"""What the source of a ``forward`` says: its arguments, the order of its loops, its calls, its residual streams."""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Sequence

from torch import nn

from dit_accel.errors import UnsupportedModelError

MANY = 2


def forward_ast(cls: type[nn.Module]) -> ast.FunctionDef | None:
    """The syntax tree of a class's ``forward``; ``None`` when there is no source to read."""
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(cls.forward)))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return None
    return next((node for node in tree.body if isinstance(node, ast.FunctionDef)), None)


def parameter_names(cls: type[nn.Module]) -> tuple[str, ...]:
    """Names of ``forward``'s parameters without ``self``."""
    names = tuple(inspect.signature(cls.forward).parameters)
    return names[1:]


def first_mentions(cls: type[nn.Module], attributes: Sequence[str]) -> list[str]:
    """The attributes in the order in which ``forward`` first mentions ``self.<attribute>``; unmentioned ones last."""
    function = forward_ast(cls)
    lines: dict[str, tuple[int, int]] = {}
    for node in ast.walk(function) if function is not None else ():
        name = _self_attribute(node)
        if name in attributes:
            assert isinstance(node, ast.expr) and name is not None
            lines[name] = min(lines.get(name, (node.lineno, node.col_offset)), (node.lineno, node.col_offset))
    unmentioned = (2**31, 0)
    return sorted(attributes, key=lambda name: lines.get(name, unmentioned))


def most_calls(cls: type[nn.Module], attribute: str) -> int:
    """How often one ``forward`` can mention ``self.<attribute>`` at most, up to :data:`MANY`; 1 without source.

    Branches of an ``if`` exclude each other; a loop counts as many.
    """
    function = forward_ast(cls)
    return 1 if function is None else min(_most(function.body, attribute), MANY)


def _most(nodes: Iterable[ast.AST], attribute: str) -> int:
    return sum(_most_of(node, attribute) for node in nodes)


def _most_of(node: ast.AST, attribute: str) -> int:
    if isinstance(node, ast.If | ast.IfExp):
        body = node.body if isinstance(node.body, list) else [node.body]
        other = node.orelse if isinstance(node.orelse, list) else [node.orelse]
        # A test mentions a module to ask whether it is there; it does not call it.
        return max(_most(body, attribute), _most(other, attribute))
    count = _most(ast.iter_child_nodes(node), attribute)
    if isinstance(node, ast.For | ast.While):
        return count * MANY
    return count + (_self_attribute(node) == attribute)


def _self_attribute(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return None


def residual_streams(cls: type[nn.Module]) -> tuple[str, ...]:
    """Parameters of ``forward`` that it adds to and returns, in the order of the returned values.

    Empty when there is no source, the returns differ, or a returned value is anything else than such a parameter.
    """
    function = forward_ast(cls)
    if function is None:
        return ()
    parameters = set(parameter_names(cls))
    added = {
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign | ast.AugAssign) and _has_addition(node)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    returned = {_returned_names(node.value) for node in ast.walk(function) if isinstance(node, ast.Return)}
    if len(returned) != 1:
        return ()
    (names,) = returned
    return names if names and all(name in parameters and name in added for name in names) else ()


def _has_addition(node: ast.Assign | ast.AugAssign) -> bool:
    if isinstance(node, ast.AugAssign):
        return isinstance(node.op, ast.Add)
    return isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Add)


def _returned_names(value: ast.expr | None) -> tuple[str, ...]:
    """The names in ``return a`` or ``return a, b``; empty for any other expression."""
    elements = value.elts if isinstance(value, ast.Tuple) else [value]
    names = tuple(element.id for element in elements if isinstance(element, ast.Name))
    return names if len(names) == len(elements) else ()


def required_parameters(cls: type[nn.Module]) -> tuple[str, ...]:
    """Names of the parameters that ``forward`` cannot do without; ``self``, ``*args`` and ``**kwargs`` left out."""
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variadic)


def stream_positions(block: nn.Module, streams: tuple[str, ...]) -> tuple[tuple[int, str], ...]:
    """Positions of the named parameters in a block's ``forward`` (without ``self``), in the order given.

    Raises:
        UnsupportedModelError: ``forward`` has no parameter of that name.
    """
    # The class's forward, not the instance's: offloading hooks put theirs over it.
    names = list(inspect.signature(type(block).forward).parameters)[1:]
    if not set(streams) <= set(names):
        names = list(inspect.signature(block.forward).parameters)
    for stream in streams:
        if stream not in names:
            raise UnsupportedModelError(
                f"{type(block).__name__}.forward has no parameter '{stream}' to be a residual stream; "
                f"it takes {', '.join(names)}"
            )
    return tuple((names.index(stream), stream) for stream in streams)
