"""The explorer as an API, for ``gradio_client`` and for agents: the same answers as the page gives, as JSON data."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gradio as gr

from dit_accel.app import show
from dit_accel.app.points import Front, FrontPoint
from dit_accel.app.views import Explorer, settings_of
from dit_accel.errors import DitAccelError
from dit_accel.pipelines.media import to_pil


def add_api(explorer: Explorer) -> None:
    """Add the endpoints to the page that is being built."""

    def models() -> list[str]:
        """Names of the models that have a front."""
        return explorer.library.names()

    def front(model: str, rivals: bool = False) -> dict[str, Any]:
        """The front of a model: every point with its measurements."""
        with _as_gradio_error():
            found = explorer.library.verify(model)
            return {
                "model": found.model,
                "seconds_plain": found.plain_s,
                "machine": found.machine,
                "points": [_point(found, each) for each in found.visible(rivals=rivals)],
                "notes": list(found.notes),
            }

    def choose(model: str, how: str, value: str, metric: str = "") -> dict[str, Any]:
        """The point for a gesture: how is point, time, brush (two seconds, a comma between), quality or row."""
        with _as_gradio_error():
            choice = explorer.first(model)
            choice = replace(choice, metric=metric) if metric else choice
            given: Any = [float(part) for part in value.split(",")] if how == "brush" else value
            after = explorer.chosen(choice, how, given)
            found, point = explorer.front_and_point(after)
            return {**_point(found, point), "code": show.code(found, point), "words": list(point.words)}

    def draw(model: str, point: str, prompt: str, seed: int = 0, steps: int = 0) -> dict[str, Any]:
        """Draw one prompt with a point; steps 0: the point's own. Of a video the first frame is returned."""
        with _as_gradio_error():
            found = explorer.library.front(model)
            chosen = found.point(point)
            number = steps or chosen.num_steps or None
            plan = (chosen.folder or chosen.preset) if chosen.kind == "ours" else None
            with explorer.device.job(f"drawing with {model}", "api"):
                drawn = explorer.device.draw(found.model, prompt, seed, settings_of(found, number), plan)
            frame = drawn.sample if drawn.sample.dim() == 3 else drawn.sample[0]
            file = io.BytesIO()
            to_pil(frame).save(file, "png")
            return {
                "seconds": drawn.seconds,
                "certified": drawn.certified,
                "summary": drawn.summary,
                "warnings": list(drawn.warnings),
                "frames": 1 if drawn.sample.dim() == 3 else int(drawn.sample.shape[0]),
                "png_base64": base64.b64encode(file.getvalue()).decode(),
            }

    gr.api(models, api_name="models")
    gr.api(front, api_name="front")
    gr.api(choose, api_name="choose")
    gr.api(draw, api_name="draw", concurrency_id="device", concurrency_limit=1)


def _point(front: Front, point: FrontPoint) -> dict[str, Any]:
    return {
        "key": point.key,
        "label": point.label,
        "kind": point.kind,
        "seconds": front.time_s(point),
        "speedup": point.ratio,
        "speedup_ci95": point.ratio_ci95,
        "errors": {name: measured.model_dump() for name, measured in point.errors.items()},
        "n": point.n,
        "certified": point.state == "certified",
    }


@contextmanager
def _as_gradio_error() -> Iterator[None]:
    """Our errors in gradio's class, whose words reach the caller."""
    try:
        yield
    except (DitAccelError, ValueError) as error:
        raise gr.Error(str(error), print_exception=False) from error
