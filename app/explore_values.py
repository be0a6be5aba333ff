"""What each part of the tab Explore shows of a choice, as arguments of gradio's components."""

from typing import Any

from dit_accel.app import show
from dit_accel.app.choose import choosable
from dit_accel.app.looks import note
from dit_accel.app.points import Front, unbeaten
from dit_accel.app.views import Choice, Explorer
from dit_accel.plan.facts import metric_facts

SHOWN = (
    "metric", "rivals", "message", "plot", "hint", "time", "quality", "verdict", "prompt", "code", "heat", "table",
    "notes", "gallery",
)  # fmt: skip
SET_BY_HAND = ("metric", "rivals")
"""Of these, what a visitor sets himself and nothing but a gesture may change: an answer to something older, on its way
while he clicks, would take the click back."""
HINT = "Click a point, drag across times, set a limit below, or pick a row or a picture."
UNMEASURED = (
    "Nothing is measured on this model yet, so there is no front. Pick a plan in the table below and draw with it, "
    "or let *Calibrate* find plans and certify one."
)
METRIC_WORDS = {
    "st_lpips": "ST-LPIPS is how differently two pictures look to a network that minds no small shifts; 0 is equal.",
    "lpips": "LPIPS is how differently two pictures look to a network; 0 is equal.",
    "psnr_db": "PSNR compares pixel by pixel with the plain picture of the same prompt and seed.",
    "ssim": "SSIM compares structure with the plain picture of the same prompt and seed; 1 is equal.",
}
WORST_FIRST = "Prompt: the worst of the measurement first"
FOR_SHOW = "Prompt: for show, nothing is measured on this model yet"


def values_of(
    explorer: Explorer, choice: Choice, opened: Any, message: str = "", place: int = 0
) -> dict[str, dict[str, Any]]:
    """By the names of ``SHOWN``.

    Args:
        explorer: Answers.
        choice: What is looked at; its point and its metric are of its front.
        opened: What the visitor has opened.
        message: In HTML.
        place: Of the prompt that is chosen.
    """
    front, point = explorer.front_and_point(choice, opened)
    metric, rivals = choice.metric, choice.rivals
    prompts = explorer.prompts(front, point)
    thumbs = [each.key for each in show.thumbnails(front)]
    stops = unbeaten(choosable(front, metric), metric)
    return {
        "metric": {"choices": metrics_of(front), "value": metric},
        "rivals": {"value": rivals, "visible": any(each.kind == "rival" for each in front.points)},
        "message": {"value": message, "visible": bool(message)},
        "plot": {"value": show.plot(front, metric, rivals=rivals, chosen=point.key)},
        "hint": {"value": f"{HINT} {METRIC_WORDS[metric]}" if front.metrics else UNMEASURED},
        "time": {"value": show.time_dial(front, stops, point)},
        "quality": {"value": show.quality_dial(stops, point, metric)},
        "verdict": {"value": show.verdict(front, point, metric)},
        "prompt": {
            "choices": [(show.prompt_words(each), number) for number, each in enumerate(prompts)],
            "value": place if place < len(prompts) else 0,
            "label": WORST_FIRST if any(each.psnr_db is not None for each in prompts) else FOR_SHOW,
        },
        "code": {"value": show.code(front, point)},
        "heat": {"value": explorer.heat(front, point)},
        "table": {"value": show.table(front, metric, rivals=rivals, chosen=point.key)},
        "notes": {"value": "".join(map(note, front.notes)) if rivals else ""},
        "gallery": {"selected_index": thumbs.index(point.key) if point.key in thumbs else None},
    }


def settled(explorer: Explorer, choice: Choice, opened: Any) -> Choice:
    """The choice with a point and a metric that its front has."""
    front, point = explorer.front_and_point(choice, opened)
    metric = choice.metric if choice.metric in front.metrics else metrics_of(front)[0][1]
    return Choice(model=choice.model, metric=metric, rivals=choice.rivals, key=point.key)


def metrics_of(front: Front) -> list[tuple[str, str]]:
    """Titles and names of the errors that can stand on the axis."""
    names = front.metrics or ("psnr_db",)
    return [(show.metric_title(name), name) for name in names if metric_facts(name)]
