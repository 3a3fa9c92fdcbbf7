"""What a search for a decision layer tried, on how many rows, and what it chose: for log, results.json and card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

logger = logging.get_logger(__name__)

# The entry of `TrainerState.log_history` that holds a report.
ENTRY = "tuning"


@dataclass
class TuningReport:
    """Filled in by `tune_decision_layer` while it searches.

    Attributes:
        num_held_out: rows that the candidates were compared on; 0 where nothing was compared.
        num_folds: training rows held out in turn, by this many fits; 0 where the held-out rows were given.
        candidates: "name", "negative_log_likelihood" (nats a held-out row, with what follows), "temperature",
            "variance_scale" and "settings" of each that met all held-out rows.
        notes: whatever else there is to say, in sentences.
        chosen: name of the candidate that was kept.
        temperature: of the layer; None where none was fitted.
        is_memorised: whether the training images were known to the backbone, so that nothing could be tuned on them.
        is_made_sparse: whether the layer was then made sparse, as the preset "interpretable" is.
    """

    num_held_out: int = 0
    num_folds: int = 0
    candidates: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chosen: str | None = None
    temperature: float | None = None
    is_memorised: bool = False
    is_made_sparse: bool = False

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> TuningReport:
        """The report that an entry of a Trainer's log, or of results.json, was written from."""
        return cls(**{f.name: entry[f.name] for f in fields(cls)})

    def note(self, sentence: str, warns: bool = False) -> None:
        """Log a sentence and keep it."""
        (logger.warning if warns else logger.info)(sentence)
        self.notes.append(sentence)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    def scalars(self) -> dict[str, float]:
        """What a chart can show of it, named as the Trainer logs it."""
        chosen = next((c for c in self.candidates if c["name"] == self.chosen), {})
        values = {
            "negative_log_likelihood": chosen.get("negative_log_likelihood"),
            "temperature": self.temperature,
            "num_held_out": self.num_held_out,
        }
        return {f"{ENTRY}_{name}": value for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        lines = [f"Decision layer: {self.chosen}{', then made sparse' if self.is_made_sparse else ''}"]
        if self.candidates:
            folds = {0: "", 1: " (a fold of the training images)"}
            rows = folds.get(self.num_folds, f" (the training images, in {self.num_folds} folds)")
            lines[0] += f", judged by its negative log-likelihood on {self.num_held_out} held-out images{rows}"
        width = max((len(c["name"]) for c in self.candidates), default=0)
        for c in self.candidates:
            loss, temperature, scale = c["negative_log_likelihood"], c["temperature"], c["variance_scale"]
            recalibrated = f"temperature {temperature:.3f}, variance times {scale:.3f}"
            lines.append(f"  {c['name']:<{width}}  {loss:.4f} nats  {recalibrated}  {c['settings']}")
        return "\n".join([*map(str.rstrip, lines), *(f"  {sentence}" for sentence in self.notes)])


def tuning_entry(log_history: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The newest report in a Trainer's log, None where nothing was tuned."""
    found = [entry[ENTRY] for entry in log_history if ENTRY in entry]
    return found[-1] if found else None


def tuning_of_checkpoint(folder: str) -> dict[str, Any] | None:
    """The report in the trainer_state.json of a checkpoint, None where its decision layer was not tuned."""
    return tuning_entry(json.loads((Path(folder) / TRAINER_STATE_NAME).read_text()).get("log_history", []))
