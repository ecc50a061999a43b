"""The `treerl` command: what a user may ask, and how mistakes are told.

Nothing heavier than typer is imported before a command is known, so that `treerl --help` stays quick.
"""

import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from services.cli.bench import Target, run_bench
from services.cli.interruption import Interrupted, run_to_end
from services.cli.methods import Method
from services.common.errors import TreerlError

MISTAKE = 2
"""Exit status after an error; one line on standard error says what it was."""

app = typer.Typer(
    help="Tree-structured reinforcement learning of language models (TreeRL).",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path, typer.Option("--config", help="TOML file that configures the run.")]
Samplers = Annotated[int, typer.Option("--samplers", min=1, help="Samplers to run.")]
Verifiers = Annotated[int, typer.Option("--verifiers", min=1, help="Verifiers to run.")]


def main() -> None:
    """Run the command line; an error is one line and exit status 2, an interruption 128 plus the signal's number."""
    try:
        status = app(standalone_mode=False)
    except TreerlError as error:
        _complain(str(error))
    except typer.TyperException as error:
        _complain(error.format_message())
    except Interrupted as interruption:
        sys.exit(interruption.exit_status)
    except typer.Abort:  # Ctrl-C where nothing runs that would have to be stopped
        sys.exit(128 + signal.SIGINT)
    else:
        sys.exit(status)


def _complain(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(MISTAKE)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"treerl {version('treerl')}")
        raise typer.Exit


@app.callback()
def treerl(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Tree-structured reinforcement learning of language models (TreeRL)."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def demo(
    method: Annotated[Method, typer.Option(help="Trees, or other losses on chains at equal tokens.")] = Method.TREERL,
    seed: Annotated[int, typer.Option(min=0, help="Decides problems, their order, and sampling.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.  [default: configs/tiny-cpu.toml]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; an unfinished one is resumed.  [default: runs/demo-…]")
    ] = None,
    samplers: Samplers = 1,
    verifiers: Verifiers = 1,
) -> None:
    """Watch a tiny language model learn to reason by tree search, on this machine, without a GPU."""
    from services.cli.demo import DemoOptions, run_demo

    run_to_end(run_demo(DemoOptions(method, seed, steps, out, samplers, verifiers)))


@app.command()
def up(
    config: Config,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.  [default: output_dir of the config]")] = None,
    samplers: Samplers = 1,
    verifiers: Verifiers = 1,
) -> None:
    """Run all services on this machine; they stay up after training until Ctrl-C."""
    from services.cli.up import run_up

    run_to_end(run_up(config, out, samplers, verifiers))


@app.command()
def train(
    config: Config,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Check the file, print what the run would take, and start nothing.")
    ] = False,
) -> None:
    """Run only the trainer, with services that already run elsewhere."""
    if dry:
        from rich.console import Console

        from services.cli.dry_run import dry_run

        dry_run(config, Console())
        return
    from services.cli.train import run_train

    run_to_end(run_train(config))


@app.command()
def sample(
    prompt: Annotated[str, typer.Option(help="What to answer.")],
    tree: Annotated[bool, typer.Option("--tree", help="Search a tree and print it.")] = False,
    sampler: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Sampler to ask.  [default: that of the current run]")
    ] = None,
    chains: Annotated[int, typer.Option(min=1, help="M: independent chains.")] = 1,
    forks: Annotated[int, typer.Option(min=0, help="N: tokens forked in each chain's tree a round.")] = 2,
    rounds: Annotated[int, typer.Option(min=0, help="L: rounds of forking.")] = 1,
    branches: Annotated[int, typer.Option(min=0, help="T: branches from each forked token.")] = 2,
    selection: Annotated[
        Literal["surprisal", "entropy", "random"], typer.Option(help="How the tokens to fork at are chosen.")
    ] = "surprisal",
    answer_marker: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Fork no token once this is complete; may be repeated.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Softmax temperature; 0 is greedy.")] = 1.2,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus mass.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response, in tokens.")] = 128,
    min_tokens: Annotated[int, typer.Option(min=0, help="Shortest response, in tokens.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Ends a response; may be repeated.")] = None,
    stop_token_id: Annotated[list[int] | None, typer.Option(min=0, help="The same as a token id.")] = None,
    adapter: Annotated[str, typer.Option(metavar="NAME", help="LoRA adapter of the sampler.  [default: none]")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Makes the answer repeatable.")] = None,
) -> None:
    """Sample from a running sampler: a response, or a tree with its forks."""
    from rich.console import Console

    from services.cli.sample import SampleOptions, sample_responses, sample_tree
    from services.common.tree import ForkSelection, SamplingParameters, SearchParameters

    options = SampleOptions(
        prompt=prompt.replace("\\n", "\n"),
        address=sampler,
        search=SearchParameters(
            chains=chains,
            forks=forks,
            rounds=rounds,
            branches=branches,
            selection=ForkSelection[selection.upper()],
            answer_markers=tuple(answer_marker or ()),
        ),
        sampling=SamplingParameters(
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            seed=seed,
            stop=tuple(text.replace("\\n", "\n") for text in stop or ()),
            stop_token_ids=tuple(stop_token_id or ()),
            min_tokens=min_tokens,
            adapter=adapter,
        ),
    )
    run_to_end((sample_tree if tree else sample_responses)(options, Console()))


@app.command()
def verify(
    gold: Annotated[str | None, typer.Option(help="The right answer.")] = None,
    answer: Annotated[str | None, typer.Option(help="The answer to judge.")] = None,
    file: Annotated[
        Path | None, typer.Option(help='JSONL of {"gold", "pred"} or {"domain", "answer" or "tests", "response"}.')
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON objects.")] = False,
    verifier: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Verifier to ask.  [default: grade in this process]")
    ] = None,
) -> None:
    """Judge an answer (exit status 0 CORRECT, 1 WRONG, 2 anything else), or a file of them, in its order."""
    from services.cli.verify import verify_file, verify_one

    if file is not None and gold is None and answer is None:
        run_to_end(verify_file(file, verifier, as_json=as_json))
    elif file is None and gold is not None and answer is not None:
        raise typer.Exit(run_to_end(verify_one(gold, answer, verifier, as_json=as_json)))
    else:
        raise typer.BadParameter("give either --gold and --answer, or --file")


@app.command("eval")
def evaluate(
    data: Annotated[list[Path], typer.Option(help="JSONL, Parquet or saved Hugging Face data set; may be repeated.")],
    model: Annotated[Path | None, typer.Option(help="Hugging Face folder; a sampler is started for it.")] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Running sampler, in place of --model; may be repeated."),
    ] = None,
    verifier: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Verifier to ask.  [default: grade in this process]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with [sampler] and [verifier].")] = None,
    samples: Annotated[int, typer.Option(min=0, help="k: responses drawn for each problem, beside a greedy one.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Softmax temperature of those.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus mass of those.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response, in tokens.")] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Decides what is drawn.")] = 0,
    problems: Annotated[int | None, typer.Option(min=1, help="Problems of each file.  [default: all]")] = None,
    prompt_format: Annotated[
        Literal["plain", "chat"] | None, typer.Option(help="As in [sampler]: chat uses the chat template.")
    ] = None,
    system_prompt: Annotated[str | None, typer.Option(help="System turn of the chat template.")] = None,
    chat_template: Annotated[Path | None, typer.Option(help="Jinja file in place of the tokenizer's template.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the evaluation; an unfinished one goes on.  [default: runs/eval-…]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Measure a policy on data sets: greedy accuracy, avg@k and pass@k with intervals, by category."""
    from services.cli.eval import EvalOptions, run_eval
    from services.cli.eval_questions import Drawing

    if (model is None) == (not sampler):
        raise typer.BadParameter("give either --model, or --sampler of a running one")
    given = {
        "prompt_format": prompt_format,
        "system_prompt": system_prompt,
        "chat_template": None if chat_template is None else str(chat_template.resolve()),
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if changes and model is None:
        raise typer.BadParameter("the prompt format is the running sampler's own: give it with --model only")
    name = "sampler" if model is None else model.resolve().name
    options = EvalOptions(
        model=model,
        data=tuple(data),
        config=config,
        sampler_changes=changes,
        drawing=Drawing(samples, temperature, top_p, max_tokens, seed),
        limit=problems,
        output=output or Path("runs") / f"eval-{name}",
        samplers=tuple(sampler or ()),
        verifier=verifier,
    )
    run_to_end(run_eval(options, as_json=as_json))


@app.command()
def sft(
    model: Annotated[Path, typer.Option(help="Hugging Face folder to start from.")],
    data: Annotated[Path, typer.Option(help="Prompts and responses: JSONL, Parquet or saved Hugging Face data set.")],
    output: Annotated[Path, typer.Option(help="Folder of the new model; appears when it is complete.")],
    prompt_column: Annotated[str, typer.Option(help="[default: prompt, problem or question]")] = "",
    response_column: Annotated[str, typer.Option(help="[default: response, completion or solution]")] = "",
    prompt_format: Annotated[Literal["plain", "chat"], typer.Option(help="As the sampler will be set.")] = "plain",
    system_prompt: Annotated[str, typer.Option(help="System turn of the chat template.")] = "",
    epochs: Annotated[int, typer.Option(min=1, help="Times that every demonstration is seen.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Demonstrations of one optimizer step.")] = 32,
    microbatch: Annotated[int, typer.Option(min=1, help="Computed at once; fewer need less memory.")] = 8,
    learning_rate: Annotated[float, typer.Option(min=0, help="AdamW's, at its highest.")] = 1e-5,
    max_tokens: Annotated[int, typer.Option(min=2, help="Longer demonstrations are left out.")] = 2048,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of activations; weights stay fp32.")] = "fp32",
    seed: Annotated[int, typer.Option(min=0, help="Decides the order.")] = 0,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Steps between checkpoints, in OUTPUT.checkpoints")
    ] = 200,
    resume: Annotated[Literal["auto", "never"], typer.Option(help="auto goes on from a checkpoint.")] = "auto",
) -> None:
    """Teach a model by demonstrations, with the loss on responses alone; a killed fine-tuning goes on."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the trainer, and before torch is loaded
    from services.cli.sft import run_sft
    from services.sft.fine_tuning import Recipe

    recipe = Recipe(
        model=model,
        data=data,
        prompt_column=prompt_column,
        response_column=response_column,
        prompt_format=prompt_format,
        system_prompt=system_prompt,
        epochs=epochs,
        batch_size=batch_size,
        microbatch=microbatch,
        learning_rate=learning_rate,
        max_tokens=max_tokens,
        precision=precision,
        seed=seed,
    )
    run_sft(recipe, output, checkpoint_every, resume)


@app.command()
def advantages(
    file: Annotated[Path, typer.Option(help="JSONL of trees with rewards, or a run's trees.jsonl.zst.")],
    advantage: Annotated[str, typer.Option(help="As in the trainer's settings.")] = "treerl",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON objects.")] = False,
) -> None:
    """Show what each segment of recorded trees is worth (exit status 2 if a row is none), in the file's order."""
    from services.cli.advantages import print_advantages

    raise typer.Exit(print_advantages(file, advantage, as_json=as_json))


@app.command()
def bench(
    target: Annotated[Target, typer.Argument(help="Service to measure, or pass-rate: trees against chains.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a service on this machine (a few minutes), or trees against chains at equal tokens (about ten)."""
    run_to_end(run_bench(target, as_json=as_json))


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="Folder of a run.")],
    output: Annotated[Path, typer.Option(help="Folder to write; it must not exist, or be empty.")],
    checkpoint: Annotated[
        int | None, typer.Option(metavar="STEP", help="Step of the checkpoint.  [default: the newest]")
    ] = None,
) -> None:
    """Write the policy of a checkpoint as a Hugging Face folder, which transformers and vLLM load."""
    from services.cli.export import export_policy
    from services.cli.run_folder import RunFolder
    from services.common.logs import configure_logs

    configure_logs("export", "export", level="error")  # a damaged checkpoint that is passed over is told
    exported = export_policy(RunFolder(run), checkpoint, output)
    print(f"{output}: policy after step {exported.step}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    compare: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Another run, whose forks are shown beside this one's.")
    ] = None,
) -> None:
    """Write report.html into a run's folder: accuracy before and after, curves, where it forked, and three trees."""
    from services.cli.report import write_report
    from services.cli.run_folder import RunFolder

    print(write_report(RunFolder(folder), None if compare is None else RunFolder(compare)))


@app.command()
def forks(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of runs.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Show which tokens runs forked at, what that brought, and what forking at random would have met."""
    from rich.console import Console

    from services.cli.forks import show_forks

    show_forks(folders, Console(), as_json=as_json)
