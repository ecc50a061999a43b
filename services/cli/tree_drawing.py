"""A tree of responses as geometry: a row a branch, a box a segment, a diamond where the tree forks."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.cli.run_folder import TrainedTree, ValuedSegment
from services.cli.segment_text import segment_texts, token_text
from services.common.tree import Branch, Segment, Tree
from services.common.verdict import Outcome

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ROW, _BOX, _TOP, _LEFT = 42, 20, 22, 8
_CHARACTER, _PADDING, _NARROWEST, _GAP = 6.7, 6, 92, 36
_ROOT_WIDTH, _VERDICT_WIDTH, _VERDICT_GAP = 74, 150, 12
_HEAD, _TAIL = 34, 12

_MARKS = {Outcome.CORRECT: ("✓", "good"), Outcome.WRONG: ("✗", "bad"), Outcome.INFRA_ERROR: ("?", "unknown")}


@dataclass(frozen=True, slots=True)
class Box:
    """A segment: its text, what it is worth, and how strongly it is rewarded (`strength`, -1 to 1)."""

    x: float
    y: float
    width: float
    first_token: str
    text: str
    text_width: float
    label: str
    title: str
    strength: float


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a token was resampled, and how surprising it had been, in nats."""

    x: float
    y: float
    surprisal: str
    title: str


@dataclass(frozen=True, slots=True)
class Leaf:
    """The end of a response and its verdict."""

    x: float
    y: float
    mark: str
    style: str
    verdict: str
    title: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """What the template draws; sizes in pixels."""

    width: float
    height: float
    box_height: float
    left: float
    top: float
    root_width: float
    root_label: str
    boxes: tuple[Box, ...]
    forks: tuple[Fork, ...]
    leaves: tuple[Leaf, ...]
    links: tuple[str, ...]


def draw_tree(trained: TrainedTree, tokenizer: "Tokenizer | None") -> Drawing:
    """Lay a tree out; without a tokenizer, segments show how many tokens they have."""
    tree = trained.tree
    texts = segment_texts(tree.branches, tokenizer)
    tops = {branch_id: _TOP + row * _ROW for row, branch_id in enumerate(_row_order(tree.branches))}
    strongest = max((abs(s.reward) for s in trained.segments if s.reward is not None), default=0.0) or 1.0
    ends: dict[int | None, tuple[float, float]] = {None: (_LEFT + _ROOT_WIDTH, _TOP)}
    boxes: list[Box] = []
    forks: list[Fork] = []
    leaves: list[Leaf] = []
    links: list[str] = []
    for valued in trained.segments:
        segment, branch = valued.segment, tree.branches[valued.segment.branch_id]
        parent_x, parent_y = ends[segment.parent_id]
        x, y = parent_x + _GAP, tops[segment.branch_id]
        forked = "" if segment.parent_id is None else token_text(tree.branches, segment, tokenizer)
        box = _box(x, y, valued, texts[segment.id], forked, strongest)
        boxes.append(box)
        ends[segment.id] = (x + box.width, y)
        links.append(_link(parent_x, parent_y, x, y))
        if segment.start > branch.fork_index:  # the old way on from a fork, not a branch sampled there
            forks.append(_fork(branch, segment, forked, parent_x, y))
        if segment.end == branch.end:
            leaves.append(_leaf(branch, x + box.width + _VERDICT_GAP, y))
    return Drawing(
        width=max(x for x, _ in ends.values()) + _VERDICT_WIDTH,
        height=_TOP + len(tops) * _ROW,
        box_height=_BOX,
        left=_LEFT,
        top=_TOP,
        root_width=_ROOT_WIDTH,
        root_label=f"V {_number(passing_share(tree), '.2f')}",
        boxes=tuple(boxes),
        forks=tuple(forks),
        leaves=tuple(leaves),
        links=tuple(links),
    )


def passing_share(tree: Tree) -> float | None:
    """Share of correct leaves among those whose verdict is known: V of the root."""
    rewards = [b.verdict.reward for b in tree.branches if b.verdict is not None and b.verdict.reward is not None]
    return sum(rewards) / len(rewards) if rewards else None


def _row_order(branches: Sequence[Branch]) -> list[int]:
    """Branches from top to bottom: below its parent, the one forked last comes first, so that no lines cross."""
    children: defaultdict[int | None, list[Branch]] = defaultdict(list)
    for branch in branches:
        children[branch.parent_id].append(branch)
    order: list[int] = []
    waiting = [branch.id for branch in reversed(children[None])]
    while waiting:
        branch_id = waiting.pop()
        order.append(branch_id)
        waiting += [child.id for child in sorted(children[branch_id], key=lambda c: (c.fork_index, -c.id))]
    return order


def _box(x: float, y: float, valued: ValuedSegment, text: str, forked: str, strongest: float) -> Box:
    value, reward = _number(valued.value, ".2f"), _number(valued.reward, "+.2f")
    shown = _visible(text)
    first = _visible(forked) if shown.startswith(_visible(forked)) else ""
    segment = valued.segment
    facts = f"V {value}   R {reward}   tokens {segment.start}–{segment.end - 1}   {len(segment.leaf_ids)} leaves"
    return Box(
        x=x,
        y=y,
        width=max(_NARROWEST, len(shown) * _CHARACTER + 2 * _PADDING),
        first_token=first,
        text=shown[len(first) :],
        text_width=len(shown) * _CHARACTER,
        label=f"V {value}  R {reward}",
        title=f"{facts}\n{text}",
        strength=(valued.reward or 0.0) / strongest,
    )


def _fork(branch: Branch, segment: Segment, token: str, x: float, y: float) -> Fork:
    surprisal = -branch.logprobs[segment.start - branch.fork_index]
    title = f"fork at token {segment.start}: {token!r} had a surprisal of {surprisal:.2f} nats"
    return Fork(x + _GAP / 2, y, f"{surprisal:.1f}", title)


def _leaf(branch: Branch, x: float, y: float) -> Leaf:
    if branch.verdict is None:
        return Leaf(x, y, "?", "unknown", "not graded", branch.response_text)
    mark, style = _MARKS.get(branch.verdict.outcome, ("!", "odd"))
    name = branch.verdict.outcome.name.replace("_", " ").lower()
    return Leaf(x, y, mark, style, name, f"{branch.verdict.reason}\n\n{branch.response_text}")


def _link(x1: float, y1: float, x2: float, y2: float) -> str:
    """From the end of one box to the start of the next, turning within the gap."""
    middle, down = x1 + _GAP / 2, _BOX / 2
    return f"M{x1:.1f},{y1 + down:.1f} H{middle:.1f} V{y2 + down:.1f} H{x2:.1f}"


def _number(number: float | None, form: str) -> str:
    return "?" if number is None else format(number, form)


def _visible(text: str) -> str:
    shown = text.replace("\n", "↵").replace("\t", "→")
    return shown if len(shown) <= _HEAD + _TAIL else f"{shown[:_HEAD]} … {shown[-_TAIL:]}"
