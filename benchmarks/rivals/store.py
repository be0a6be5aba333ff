"""What a measurement has so far, on disk: one file a contender, one line a timed round, so that it can be resumed."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dit_accel.errors import ConfigError


class Store:
    """A folder.

    Args:
        folder: Made when it does not exist.
        key: What must be the same for results to belong together; plain JSON data.

    Raises:
        ConfigError: The folder holds results of another measurement.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        (folder / "contenders").mkdir(parents=True, exist_ok=True)
        found = self._read("measurement.json")
        wanted = json.loads(json.dumps(key))
        if found is None:
            self._write("measurement.json", wanted)
        elif found != wanted:
            other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            raise ConfigError(
                f"'{folder}' holds a measurement with another {', '.join(other)}; remove the folder or name another"
            )
        self.memory: dict[str, Any] = self._read("calibration.json") or {}

    def outcome(self, name: str) -> dict[str, Any] | None:
        """What is known of a contender; ``None``: nothing yet."""
        return self._read(self._file(name))

    def put_outcome(self, name: str, outcome: Mapping[str, Any]) -> None:
        """Keep what was found out about a contender."""
        self._write(self._file(name), {"name": name, **outcome})

    def put_memory(self) -> None:
        """Keep what rivals learned."""
        self._write("calibration.json", self.memory)

    def reference(self) -> torch.Tensor | None:
        """What the plain run made."""
        file = self.folder / "plain.safetensors"
        return load_file(file)["made"] if file.is_file() else None

    def put_reference(self, made: torch.Tensor) -> None:
        """Keep what the plain run made."""
        file = self.folder / "plain.safetensors"
        save_file({"made": made.contiguous()}, file.with_suffix(".part"))
        os.replace(file.with_suffix(".part"), file)

    def rounds(self) -> list[dict[str, list[float]]]:
        """Complete rounds: contender to seconds of the whole run and of the denoiser. A line cut short is left out."""
        file = self.folder / "rounds.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def add_round(self, seconds: Mapping[str, tuple[float, float]]) -> None:
        """Keep a complete round."""
        rounds = [*self.rounds(), {name: list(pair) for name, pair in seconds.items()}]
        text = "".join(json.dumps(each) + "\n" for each in rounds)
        self._replace("rounds.jsonl", text)

    def _file(self, name: str) -> str:
        plain = "".join(char if char.isalnum() else "-" for char in name)
        return f"contenders/{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}.json"

    def _read(self, name: str) -> Any:
        file = self.folder / name
        if not file.is_file():
            return None
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            return None  # cut short: measured again

    def _write(self, name: str, data: Any) -> None:
        self._replace(name, json.dumps(data, indent=1) + "\n")

    def _replace(self, name: str, text: str) -> None:
        file = self.folder / name
        part = file.with_name(file.name + ".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)
