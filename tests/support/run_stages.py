"""Run the stages with keyword arguments, with settings and messages as on the command line."""

from __future__ import annotations

from typing import Any

import stages.compare
import stages.extract
import stages.finetune
import stages.fit_head
import stages.prepare
from pipeline import log
from pipeline.compare.comparison import Comparison
from pipeline.extract.extract import ExtractionSummary
from pipeline.fit_head.run import RunOutcome
from pipeline.manifest import Manifest
from pipeline.predict.command import predict as run_predict
from pipeline.predict.evaluate_command import evaluate as run_evaluate
from pipeline.predict.predict import Prediction
from pipeline.settings.compare import CompareSettings
from pipeline.settings.extract import ExtractSettings
from pipeline.settings.finetune import FinetuneSettings
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.settings.predict import EvaluateSettings, PredictSettings
from pipeline.settings.prepare import PrepareSettings
from pipeline.settings.store import StoreVerifySettings
from pipeline.store.verify import Corruption
from pipeline.store_command.verify import store_verify as run_store_verify


def prepare(dataset: str, root: Any = None, **values: Any) -> Manifest:
    log.configure()
    return stages.prepare.run(PrepareSettings(dataset=dataset, root=root, **values))


def extract_settings(**values: Any) -> ExtractSettings:
    """Create settings for `extract_features`, which gets manifest and location of the store separately."""
    return ExtractSettings(**{"manifest": "unused.csv", "store": "unused.zarr", **values})


def extract(**values: Any) -> ExtractionSummary:
    log.configure()
    return stages.extract.run(ExtractSettings(**values))


def fit_head(**values: Any) -> list[RunOutcome]:
    log.configure()
    return stages.fit_head.run(FitHeadSettings(**values))


def finetune(*, epochs: int | None = None, batch_size: int | None = None, **values: Any) -> dict[str, Any]:
    log.configure()
    given = {"epochs": epochs, "batch_size": batch_size}
    overrides = {**values.pop("overrides", {}), **{name: value for name, value in given.items() if value is not None}}
    return stages.finetune.run(FinetuneSettings(**{"init": "none", **values}, overrides=overrides))


def compare(dirs: Any, **values: Any) -> Comparison:
    log.configure()
    return stages.compare.run(CompareSettings(dirs=tuple(dirs), **values))


def predict(**values: Any) -> list[Prediction]:
    log.configure()
    return run_predict(PredictSettings(**values))


def evaluate(**values: Any) -> dict[str, Any]:
    log.configure()
    return run_evaluate(EvaluateSettings(**values))


def store_verify(**values: Any) -> list[Corruption]:
    return run_store_verify(StoreVerifySettings(**values))
