import re
import shutil
from pathlib import Path

import pytest

from services.cli.chart import Series, line_chart, nice_ticks
from services.cli.report import pick_trees, render_report
from services.cli.run_folder import RunFolder, TrainedTree
from services.cli.segment_text import load_tokenizer, segment_texts
from services.cli.tree_drawing import draw_tree
from services.common.errors import NotFoundError, PreconditionError
from services.common.tree import segments
from tests.unit.cli.synthetic_run import make_tree, write_run, write_tokenizer


def trained(folder: Path) -> list[TrainedTree]:
    return list(RunFolder(folder).trees())


def test_the_page_shows_the_gain_every_category_and_three_trees(tmp_path: Path) -> None:
    page = render_report(RunFolder(write_run(tmp_path)))
    assert "25.0&nbsp;%" in page
    assert "72.5&nbsp;%" in page
    assert "+47.5" in page
    assert {"cube", "square"} <= set(re.findall(r'<th scope="row">(\w+)</th>', page))
    assert page.count('<svg class="tree"') == 3
    assert [int(step) for step in re.findall(r"<h3>Step (\d+)", page)] == [1, 3, 4]
    assert "selects among ways of answering that the policy already samples" in page


def test_the_page_shows_the_forks_of_both_runs(tmp_path: Path) -> None:
    run, other = RunFolder(write_run(tmp_path / "one")), RunFolder(write_run(tmp_path / "two"))
    assert re.findall(r"(\w+): 37 forks by (\w+)", render_report(run)) == [("one", "surprisal")]
    page = render_report(run, compared=other)
    assert re.findall(r"(\w+): 37 forks by (\w+)", page) == [("one", "surprisal"), ("two", "surprisal")]
    assert page.count('<th scope="row">operator</th>') == 2


def test_a_run_without_a_tokenizer_is_reported_without_its_forks_but_not_compared(tmp_path: Path) -> None:
    run, other = RunFolder(write_run(tmp_path / "one")), RunFolder(write_run(tmp_path / "two"))
    shutil.rmtree(tmp_path / "one" / "weights")
    assert "Where the trees were forked" not in render_report(run)
    with pytest.raises(PreconditionError, match="one holds no weights"):
        render_report(other, compared=run)


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page = render_report(RunFolder(write_run(tmp_path)))
    assert not re.search(r"https?://|@import|url\(|<script|<link|<img|\ssrc=", page)


def test_text_of_the_policy_is_escaped(tmp_path: Path) -> None:
    page = render_report(RunFolder(write_run(tmp_path)))
    assert "-&gt;" in page
    assert "= 49 ->" not in page


def test_the_chosen_trees_are_the_most_mixed_of_their_steps(tmp_path: Path) -> None:
    trees = trained(write_run(tmp_path))
    chosen = pick_trees(trees)
    assert [tree.step for tree in chosen] == [1, 3, 4]
    assert pick_trees([]) == []


def test_segment_texts_join_to_the_responses(tmp_path: Path) -> None:
    tree = make_tree("t")
    texts = segment_texts(tree.branches, load_tokenizer(write_tokenizer(tmp_path)))
    for branch in tree.branches:
        along = [texts[segment.id] for segment in segments(tree.branches) if branch.id in segment.leaf_ids]
        assert "".join(along) == branch.response_text


def test_without_a_tokenizer_segments_say_how_many_tokens_they_have(tmp_path: Path) -> None:
    tree = make_tree("t")
    assert load_tokenizer(tmp_path / "tokenizer.json") is None
    assert set(segment_texts(tree.branches, None).values()) <= {f"({n} tokens)" for n in range(100)}


def test_a_drawing_has_a_box_a_segment_a_mark_a_leaf_and_a_diamond_a_fork(tmp_path: Path) -> None:
    tree = trained(write_run(tmp_path))[0]
    drawing = draw_tree(tree, load_tokenizer(RunFolder(tmp_path).tokenizer_file()))
    assert len(drawing.boxes) == len(tree.segments)
    assert len(drawing.leaves) == len(tree.tree.branches)
    forks = {(branch.parent_id, branch.fork_index) for branch in tree.tree.branches if branch.parent_id is not None}
    assert len(drawing.forks) == len(forks)
    assert len({box.y for box in drawing.boxes}) == len(tree.tree.branches)
    assert all(box.x + box.width < drawing.width and box.y < drawing.height for box in drawing.boxes)


def test_a_run_without_trees_or_steps_says_so(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "trees.jsonl.zst").unlink()
    assert "recorded no trees" in render_report(RunFolder(tmp_path))
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(PreconditionError):
        render_report(RunFolder(tmp_path))
    with pytest.raises(NotFoundError):
        RunFolder(tmp_path / "nowhere")


@pytest.mark.parametrize(("high", "ticks"), [(1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (7.0, [0, 2, 4, 6, 8]), (0.0, [0.0])])
def test_ticks_are_round_and_cover_the_values(high: float, ticks: list[float]) -> None:
    assert nice_ticks(0.0, high) == pytest.approx(ticks)


def test_an_axis_of_something_else_than_steps_begins_at_zero_and_has_round_ticks() -> None:
    chart = line_chart("t", "n", [Series("s", 1, [(95.0, 0.5), (850.0, 1.0)])], unit="share", over="tokens")
    assert [tick.label for tick in chart.x_ticks] == ["0", "200", "400", "600", "800", "1000"]
    assert chart.x_ticks[0].at == chart.left
    assert chart.x_ticks[-1].at == chart.right
    assert chart.lines[0].dots[0].title == "tokens 95: 50.0%"
