"""The tab Generate: one prompt, plain and accelerated, side by side, with the seconds that each took here."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import gradio as gr
from PIL import Image

from dit_accel.app.device import CancelledError, Drawn
from dit_accel.app.faults import in_words
from dit_accel.app.looks import note, progress_bar, tiles_of
from dit_accel.app.numbers import number_in, optional_field, whole_in
from dit_accel.app.pictures import difference, enlarged, looping, prune
from dit_accel.app.tab_explore import HEAVY, owner_of
from dit_accel.app.views import Choice, Explorer, settings_of
from dit_accel.app.work import Work
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from dit_accel.pipelines.generation import GenerationSettings

MAX_PROMPT, MAX_STEPS, MAX_GUIDANCE, MAX_SEED = 1000, 200, 50, 2**31 - 1
WARM_UP_STEPS = 2
MAX_GENERATED = 200  # files, after which the oldest go


class GenerateTab:
    """Builds the tab and connects it.

    Args:
        explorer: Its device draws.
        model: First choice.
        opened: State with what the visitor has opened.
        explored: State with what is chosen in Explore.
        output: Folder for files that play.
    """

    def __init__(self, explorer: Explorer, model: str, opened: gr.State, explored: gr.State, output: Path) -> None:
        self.explorer, self.opened, self.output = explorer, opened, output
        first = explorer.first(model)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.model = gr.Dropdown(explorer.library.names(), value=model, label="Model", elem_id="g-model")
                self.point = gr.Dropdown(
                    self._points(model, None), value=first.key, label="Accelerated by", elem_id="g-point"
                )
                self.prompt = gr.Textbox("a red apple", label="Prompt", max_length=MAX_PROMPT, elem_id="g-prompt")
                with gr.Row():
                    self.seed = gr.Number(
                        0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=90, elem_id="g-seed"
                    )
                    self.steps = optional_field("Steps", "g-steps")
                    self.guidance = optional_field("Guidance", "g-guidance")
                with gr.Row():
                    self.go = gr.Button("Draw both", variant="primary", elem_id="g-go")
                    self.stop = gr.Button("Stop", elem_id="g-stop", interactive=False)
                gr.Markdown("One job runs on the device at a time; others wait in the queue.", elem_id="g-queue")
                self.status = gr.HTML("", elem_id="g-status")
            with gr.Column(scale=3, min_width=330):
                with gr.Row():
                    self.plain = gr.Image(**_image("plain", "g-plain"))
                    self.fast = gr.Image(**_image("accelerated", "g-fast"))
                    self.apart = gr.Image(**_image("difference, times 4", "g-difference"))
                self.pair = gr.ImageSlider(
                    label="plain | accelerated", elem_id="g-pair", elem_classes="pixels", type="pil", max_height=420,
                    interactive=False, format="png",
                    visible=False,
                )  # fmt: skip
                self.summary = gr.Code(
                    "",
                    label="What really happened",
                    language=None,
                    elem_id="g-summary",
                    wrap_lines=True,
                    visible=False,
                )
        self._connect(explored)

    def _connect(self, explored: gr.State) -> None:
        asked = [self.model, self.point, self.prompt, self.seed, self.steps, self.guidance, self.opened]
        shown = [self.plain, self.fast, self.apart, self.pair, self.status, self.summary, self.go, self.stop]
        gr.on(
            [self.go.click, self.prompt.submit], self.run, asked, shown, api_name="generate_tab",
            show_progress="hidden", **HEAVY,
        )  # fmt: skip
        self.stop.click(self.cancel, None, self.status, queue=False, api_visibility="private")
        self.model.input(self.on_model, [self.model, self.opened], self.point, api_visibility="private")
        explored.change(
            self.follow, [explored, self.opened], [self.model, self.point], show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip

    def _points(self, model: str, opened: Any) -> list[tuple[str, str]]:
        front = self.explorer.library.front(model, opened)
        return [(f"{p.label} ({p.state or p.kind})", p.key) for p in front.points if p.can_run and p.kind != "plain"]

    def on_model(self, model: str, opened: Any) -> Any:
        """Another model has other points."""
        return gr.update(choices=self._points(model, opened), value=self.explorer.first(model, opened).key)

    def follow(self, choice: Choice, opened: Any) -> Any:
        """What is chosen in Explore is what one wants to draw with."""
        front, point = self.explorer.front_and_point(choice, opened)
        points = self._points(choice.model, opened)
        key = point.key if point.key in dict(points).values() or any(k == point.key for _, k in points) else None
        names = self.explorer.library.names(opened)
        return gr.update(choices=names, value=front.model if choice.model not in names else choice.model), gr.update(
            choices=points, value=key or (points[0][1] if points else None)
        )

    def cancel(self, request: gr.Request) -> str:
        """Stop this visitor's job at its next step."""
        stopped = self.explorer.device.stop(owner_of(request))
        return note("stopping at the next step ...", "wait") if stopped else note("nothing of yours is running")

    def run(
        self,
        model: str,
        key: str,
        prompt: str,
        seed: float | None,
        steps: str,
        guidance: str,
        opened: Any,
        request: gr.Request,
    ) -> Iterator[Any]:
        """Draw plain, then accelerated, and show each as soon as it is there."""
        empty: list[Any] = [None, None, None, gr.update(value=None, visible=False)]
        nothing = gr.update(value="", visible=False)
        idle = [gr.update(interactive=True), gr.update(interactive=False)]
        busy = [gr.update(interactive=False), gr.update(interactive=True)]
        yield [*empty, note("waiting for the device ...", "wait"), nothing, *busy]
        made: dict[str, Drawn] = {}
        work = Work(
            lambda tell: self._both(model, key, prompt, seed, steps, guidance, opened, owner_of(request), made, tell)
        )
        shown_plain = False
        try:
            for words, share in work.watch():
                pictures = [gr.skip()] * 4
                if "plain" in made and not shown_plain:
                    shown_plain = True
                    pictures[0] = looping(_frames(made["plain"]), self._file("plain"), made["plain"].fps)
                yield [*pictures, progress_bar(words, share), gr.skip(), *busy]
        except CancelledError as error:
            yield [*[gr.skip()] * 4, note(f"{error}: nothing is kept of it", "wait"), gr.skip(), *idle]
            return
        except GeneratorExit:  # the page was closed
            self.explorer.device.stop(owner_of(request))
            raise
        except Exception as error:  # torch's out-of-memory has no class of its own on every device
            yield [*[gr.skip()] * 4, note(in_words(error), "bad"), gr.skip(), *idle]
            return
        summary = gr.update(value=made["fast"].summary or "a plain run", visible=True)
        yield [*self._views(made), self._words(made), summary, *idle]
        prune(self.output / "app" / "generated", MAX_GENERATED)

    def _both(
        self, model: str, key: str, prompt: str, seed: Any, steps: Any, guidance: Any, opened: Any, owner: str,
        made: dict[str, Drawn], tell: Callable[[str, float], None],
    ) -> None:  # fmt: skip
        front = self.explorer.library.front(model, opened)
        point = front.point(key)
        number, scale = whole_in(steps, "Steps", 1, MAX_STEPS), number_in(guidance, "Guidance", 0, MAX_GUIDANCE)
        own = point.num_steps or None  # what is chosen was measured in so many steps, which may not be the plain run's
        settings = settings_of(front, number or front.num_steps or None, scale)
        chosen = settings_of(front, own if point.kind == "fewer_steps" else number or own, scale)
        device = self.explorer.device
        if not prompt.strip():
            raise ConfigError("there is no prompt: say what is to be drawn")
        with device.job(f"drawing with {front.model}", owner):
            tell(f"loading {front.model} ...", 0.0)
            device.pipe(front.model)
            tell("warming up ...", 0.02)
            warm = settings_of(front, WARM_UP_STEPS, scale)
            device.draw(front.model, prompt, int(seed or 0), warm)  # else the first run would pay for it
            device.check()
            made["plain"] = self._timed("plain", front.model, prompt, seed, settings, None, 0.05, 0.5, tell)
            plan = (point.folder or point.preset) if point.kind == "ours" else None
            made["fast"] = self._timed(point.label, front.model, prompt, seed, chosen, plan, 0.55, 0.45, tell)

    def _timed(
        self, name: str, model: str, prompt: str, seed: Any, settings: "GenerationSettings", plan: Any, first: float,
        share: float, tell: Callable[[str, float], None],
    ) -> Drawn:  # fmt: skip
        began = time.perf_counter()

        def step(done: int, total: int) -> None:
            seconds = time.perf_counter() - began
            tell(f"{name}: step {done} of {total}, {seconds:.1f} s", first + share * done / max(1, total))

        tell(f"{name} ...", first)
        return self.explorer.device.draw(model, prompt, int(seed or 0), settings, plan, step)

    def _file(self, name: str) -> Path:
        """A new file. Nothing that a browser sends is in its name: that could lead elsewhere."""
        return self.output / "app" / "generated" / f"{uuid4().hex}-{name}.webp"

    def _views(self, made: dict[str, Drawn]) -> list[Any]:
        plain, fast = _frames(made["plain"]), _frames(made["fast"])
        fps = made["plain"].fps
        apart = looping(difference(plain, fast), self._file("difference"), fps)
        files = [looping(plain, self._file("plain"), fps), looping(fast, self._file("fast"), fps)]
        if len(plain) > 1:  # of a video there is no one pair; the three loops stand side by side
            return [*files, apart, gr.update(value=None, visible=False)]
        return [*files, apart, gr.update(value=(enlarged(plain[0]), enlarged(fast[0])), visible=True)]

    def _words(self, made: dict[str, Drawn]) -> str:
        plain, fast = made["plain"], made["fast"]
        tiles = (
            (f"{plain.seconds:.2f} s", "plain"),
            (f"{fast.seconds:.2f} s", "accelerated"),
            (f"{plain.seconds / fast.seconds:.2f}×", "as fast, one run each after a warm-up"),
        )
        words = "One run each is no measurement: a certificate takes several interleaved ones."
        return tiles_of(tiles) + note(words) + "".join(note(each, "wait") for each in fast.warnings)


def _frames(drawn: Drawn) -> list[Image.Image]:
    from dit_accel.pipelines.media import to_pil

    samples = drawn.sample if drawn.sample.dim() == 4 else drawn.sample[None]
    return [to_pil(each) for each in samples]


def _image(label: str, elem_id: str) -> dict[str, Any]:
    return {
        "label": label, "elem_id": elem_id, "elem_classes": "pixels", "interactive": False, "type": "filepath",
        "format": "webp", "min_width": 150, "buttons": ["download", "fullscreen"],
    }  # fmt: skip
