"""`treerl eval`: how well a policy does on data sets, by the sampler and the verifier that training uses.

    settings.json     what was asked: an evaluation goes on only with the same
    responses.jsonl   one graded response a line, see eval_responses.py
    summary.json      the figures, also printed
    config.toml       settings of a sampler and verifier that the command starts itself

A sampler whose weights are replaced meanwhile is noticed by the versions in the summary, and told.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.cli.documents import read_document, to_toml
from services.cli.eval_client import SamplerClient, ask_all
from services.cli.eval_questions import Drawing, Question, read_questions
from services.cli.eval_responses import Response, ResponseLog, in_order
from services.cli.eval_scores import Scores, by_category, score
from services.cli.eval_table import print_scores
from services.cli.judges import open_judge
from services.cli.local_sampler import local_sampler, sampler_table
from services.cli.remote import connected
from services.common.durable_folder import digest, digests
from services.common.errors import PreconditionError


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What to evaluate, and how.

    Attributes:
        model: Hugging Face folder, served by a sampler of this command's own; None with `samplers`.
        data: files of problems.
        config: TOML file with `[sampler]` and `[verifier]`; None for defaults.
        sampler_changes: settings of the sampler that win over the file's.
        drawing: how responses are drawn.
        limit: problems of each file; None for all.
        output: folder of the evaluation.
        samplers: addresses of running samplers; none to start one.
        verifier: address of a running verifier; None grades in processes of this command.
    """

    model: Path | None
    data: tuple[Path, ...]
    config: Path | None
    sampler_changes: Mapping[str, Any]
    drawing: Drawing
    limit: int | None
    output: Path
    samplers: tuple[str, ...]
    verifier: str | None


async def run_eval(options: EvalOptions, *, as_json: bool) -> None:
    """Evaluate, or go on with an evaluation that was killed; print a table, or the summary as JSON.

    Raises:
        ConfigurationError: a file, the model or the configuration cannot be used.
        PreconditionError: the folder holds an evaluation that was asked for otherwise.
        TreerlError: a service fails; the same command goes on from there.
    """
    questions = read_questions(options.data, options.drawing.samples, options.limit)
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    services = _services(options)
    settings = _settings(options, services)
    _require_same(folder / "settings.json", settings)
    config = folder / "config.toml"
    config.write_text(to_toml(services), encoding="utf-8")
    with ResponseLog(folder / "responses.jsonl") as log:
        done = log.keys()
        left = [question for question in questions if question.key not in done]
        if left:
            await _ask(left, options, config, log)
        responses = in_order(log.responses, [question.key for question in questions])
    groups = _groups(responses, [path.stem for path in options.data])
    rows = {
        name: {**whole.row(), "categories": {category: scores.row() for category, scores in categories.items()}}
        for name, (whole, categories) in groups.items()
    }
    versions = sorted({response.policy_version for response in responses if response.policy_version is not None})
    summary = {"settings": settings, "policy_versions": versions, "data": rows}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        print_scores(groups, options.drawing.samples, versions, Console())


async def _ask(questions: Sequence[Question], options: EvalOptions, config: Path, log: ResponseLog) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("starting services", total=len(questions))
        async with _samplers(options, config) as samplers, open_judge(options.verifier, config) as judge:
            progress.update(bar, description="responses")

            def keep(response: Response) -> None:
                log.append(response)
                progress.advance(bar)

            await ask_all(questions, options.drawing, samplers, judge, keep)


@asynccontextmanager
async def _samplers(options: EvalOptions, config: Path) -> AsyncIterator[list[SamplerClient]]:
    async with AsyncExitStack() as resources:
        addresses = options.samplers or (await resources.enter_async_context(local_sampler(config, options.output)),)
        yield [SamplerClient(await resources.enter_async_context(connected(address)), address) for address in addresses]


def _services(options: EvalOptions) -> dict[str, Any]:
    """Tables of the services that this command starts: the file's, and what wins over it."""
    document = {} if options.config is None else read_document(options.config)
    tables = {table: document.get(table, {}) for table in ("sampler", "verifier")}
    if options.model is not None:
        changed = {**tables["sampler"], **options.sampler_changes}
        tables["sampler"] = sampler_table(options.model, options.drawing.max_tokens, changed)
    return tables


def _settings(options: EvalOptions, services: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the responses and their verdicts."""
    return {
        "model": None if options.model is None else str(options.model.resolve()),
        "weights": None if options.model is None else _sizes(options.model),
        "samplers": list(options.samplers),
        "verifier": options.verifier,
        "data": {str(path.resolve()): digests(path) if path.is_dir() else digest(path) for path in options.data},
        "limit": options.limit,
        "drawing": asdict(options.drawing),
        "services": services,
    }


def _sizes(model: Path) -> dict[str, list[int]]:
    """Size and time of change of each file of weights: reading them all would take minutes."""
    files = sorted(model.glob("*.safetensors"))
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _require_same(path: Path, settings: Mapping[str, Any]) -> None:
    if not path.exists():
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    for key, value in settings.items():
        if begun.get(key) != value:
            raise PreconditionError(
                f"{path.parent} holds an evaluation with another {key} (its settings.json says which): "
                "choose another --output, or delete the folder"
            )


def _groups(responses: Sequence[Response], names: Sequence[str]) -> dict[str, tuple[Scores, dict[str, Scores]]]:
    by_data = {name: [response for response in responses if response.data == name] for name in names}
    return {name: (score(of_data), by_category(of_data)) for name, of_data in by_data.items()}
