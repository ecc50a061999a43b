"""`treerl report`: one self-contained page about a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from services.cli.chart import Chart, Series, line_chart, stacked_chart
from services.cli.comparison import by_category, overall, total_share
from services.cli.fork_table import ForkTable, largest_share
from services.cli.forks import run_forks
from services.cli.run_folder import RunFolder, TrainedTree
from services.cli.segment_text import load_tokenizer
from services.cli.summary import summarize_folder
from services.cli.tree_drawing import Drawing, draw_tree, passing_share
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2

_TEMPLATES = Path(__file__).with_name("templates")


def write_report(folder: RunFolder, compared: RunFolder | None = None) -> Path:
    """Write `report.html` into a run's folder; returns its path.

    Args:
        folder: of the run.
        compared: another run, whose forks are shown beside this one's.

    Raises:
        PreconditionError: the run has no steps yet, or was not evaluated before and after; or the other one left no
            tokenizer.
    """
    path = folder.path / "report.html"
    path.write_text(render_report(folder, compared), encoding="utf-8")
    return path


def render_report(folder: RunFolder, compared: RunFolder | None = None) -> str:
    """The page as HTML; it loads nothing from anywhere."""
    summary = summarize_folder(folder)
    trees = list(folder.trees())
    tables = _fork_tables(folder, trees, compared)
    steps, evaluations = folder.steps(), folder.evaluations()
    before, after = evaluations[0], evaluations[-1]
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            name=folder.path.resolve().name,
            summary=summary,
            total=overall(before, after),
            categories=by_category(before, after),
            charts=charts(steps, evaluations),
            fork_tables=tables,
            fork_scale=largest_share(tables),
            trees=_drawn_trees(folder, trees),
        )
    )


def templates() -> jinja2.Environment:
    """What pages are made of: the report, its style, and how charts and trees are drawn."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def charts(steps: Sequence[trainer_pb2.StepMetrics], evaluations: Sequence[trainer_pb2.Evaluation]) -> list[Chart]:
    """The run's curves."""
    return [
        line_chart(
            "Held-out accuracy",
            "Greedy answers to problems that training never sees; the band is the 95 % interval.",
            [_accuracy(steps, evaluations)],
            unit="share",
        ),
        line_chart(
            "Reward",
            "Share of correct leaves among the sampled ones (pass rate), and of prompts whose leaves all agree "
            "and so teach nothing.",
            [
                Series("pass rate", 1, [(s.step, s.pass_rate) for s in steps]),
                Series("prompts without a signal", 4, [(s.step, s.zero_variance_share) for s in steps]),
            ],
            unit="share",
        ),
        line_chart(
            "Entropy",
            "Mean entropy of the policy at the trained tokens, at temperature 1.",
            [Series("entropy", 3, [(s.step, s.entropy) for s in steps])],
            unit="nats",
        ),
        line_chart(
            "Mismatch KL",
            "How far the sampling engine's probabilities are from the trainer's; a jump would mean stale weights.",
            [Series("mismatch KL", 2, [(s.step, s.mismatch_kl) for s in steps])],
            unit="nats",
        ),
        stacked_chart(
            "Where a step's time goes",
            "Seconds a step: waiting for graded trees, forward and backward passes, publishing and reloading weights.",
            [
                Series("sampling and grading", 1, [(s.step, s.sample_wait_s) for s in steps]),
                Series("training", 2, [(s.step, s.train_s) for s in steps]),
                Series("publishing", 3, [(s.step, s.publish_s) for s in steps]),
            ],
            unit="s",
        ),
    ]


def pick_trees(trees: Sequence[TrainedTree]) -> list[TrainedTree]:
    """Of the first, the middle and the last step, the tree whose verdicts are most mixed."""
    steps = sorted({tree.step for tree in trees})
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    return [min((tree for tree in trees if tree.step == step), key=_sameness) for step in chosen]


def _sameness(trained: TrainedTree) -> float:
    share = passing_share(trained.tree)
    return 1.0 if share is None else abs(share - 0.5)


def _fork_tables(folder: RunFolder, trees: Sequence[TrainedTree], compared: RunFolder | None) -> list[ForkTable]:
    own = [] if folder.tokenizer_file() is None else run_forks(folder, trees)
    return own if compared is None else own + run_forks(compared, compared.trees())


def _drawn_trees(folder: RunFolder, trees: Sequence[TrainedTree]) -> list[tuple[TrainedTree, Drawing]]:
    tokenizer = load_tokenizer(folder.tokenizer_file())
    return [(trained, draw_tree(trained, tokenizer)) for trained in pick_trees(trees)]


def _accuracy(steps: Sequence[trainer_pb2.StepMetrics], evaluations: Sequence[trainer_pb2.Evaluation]) -> Series:
    step_of: dict[int, int] = {0: 0, **{step.policy_version: step.step for step in steps}}
    shares: list[Any] = [(step_of.get(e.policy_version, e.policy_version), total_share(e)) for e in evaluations]
    return Series(
        "held-out accuracy",
        1,
        [(step, share.value) for step, share in shares],
        [(step, share.interval.low, share.interval.high) for step, share in shares],
    )
