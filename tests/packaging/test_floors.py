"""Imports run one way: no arrow up, no circle, those under TYPE_CHECKING and inside of functions included."""

from floors import EVALUATION, FLOORS, imports, modules

KNOWN = modules()
# The facade exports from everywhere, by name and lazily, and nobody inside imports it.
FACADE = ("dit_accel", "dit_accel.__main__")
ARROWS = [
    (name, other, line)
    for name, path in KNOWN.items()
    if name not in FACADE
    for other, line in imports(path, KNOWN)
    if other != name
]


def _part(name: str, place: int) -> str:
    parts = name.split(".")
    return parts[place] if len(parts) > place else ""


def test_every_module_stands_on_a_floor() -> None:
    assert {_part(name, 1) for name in KNOWN if name not in FACADE} == set(FLOORS)
    inside = {_part(name, 2) for name in KNOWN if name.startswith("dit_accel.evaluation.")}
    assert inside == set(EVALUATION)


def test_no_arrow_runs_up() -> None:
    wrong = []
    for name, other, line in ARROWS:
        here, there = _part(name, 1), _part(other, 1)
        if here != there and there not in FLOORS[here] and "*" not in FLOORS[here]:
            wrong.append(f"{name}:{line} imports {other}")
    assert wrong == []


def test_nobody_inside_imports_the_facade() -> None:
    assert [f"{name}:{line}" for name, other, line in ARROWS if other in FACADE] == []


def test_inside_of_evaluation_no_arrow_runs_up() -> None:
    wrong = []
    for name, other, line in ARROWS:
        here, there = (_part(each, 2) if _part(each, 1) == "evaluation" else "" for each in (name, other))
        if here and there and here != there and there not in EVALUATION[here]:
            wrong.append(f"{name}:{line} imports {other}")
    assert wrong == []


def test_no_circle_of_modules() -> None:
    graph: dict[str, set[str]] = {name: set() for name in KNOWN}
    for name, other, _ in ARROWS:
        graph[name].add(other)
    done: set[str] = set()
    for start in graph:
        trail: list[str] = []
        stack = [(start, iter(sorted(graph[start])))]
        trail.append(start)
        while stack and start not in done:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                stack.pop()
                trail.pop()
                done.add(name)
            elif following in trail:
                raise AssertionError(" -> ".join([*trail[trail.index(following) :], following]))
            elif following not in done:
                stack.append((following, iter(sorted(graph[following]))))
                trail.append(following)


def test_only_the_command_line_and_the_app_see_everything() -> None:
    assert [floor for floor, below in FLOORS.items() if "*" in below] == ["app", "cli"]
    assert not any({"cli", "app"} & set(below) for below in FLOORS.values())
