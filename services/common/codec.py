"""Domain objects to protobuf messages and back.

Decoding checks what arrives: a message that no client of ours could have built raises InvalidRequestError.
"""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from services.common.errors import InvalidRequestError
from services.common.problem_codec import decode_problem, encode_problem
from services.common.tree import (
    MAX_ANSWER_MARKERS,
    Branch,
    FinishReason,
    ForkSelection,
    Logprobs,
    SamplingParameters,
    SearchParameters,
    SpecialTokens,
    Tree,
    TreeRequest,
    VersionSpan,
    check_tree,
)
from services.common.verdict import CaseResult, Cases, Limits, Outcome, Verdict
from treerl.common.v1 import tree_pb2, verdict_pb2

MAX_TEMPERATURE = 2.0
"""Highest softmax temperature that vLLM takes."""

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
"""The engine looks for every stop string at every token."""

MAX_STOP_TOKENS = 64
"""The most stop token ids of a request: the engine masks each one while `min_tokens` forbids an end."""

MessageT = TypeVar("MessageT", bound=Message)


def parse(message_type: type[MessageT], data: bytes) -> MessageT:
    """Read a serialized message.

    Raises:
        InvalidRequestError: the bytes are not such a message.
    """
    try:
        return message_type.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError(f"{len(data)} bytes are not a {message_type.DESCRIPTOR.full_name}") from error


def encode_verdict(verdict: Verdict) -> verdict_pb2.Verdict:
    """`Verdict` as a message."""
    return verdict_pb2.Verdict(
        outcome=_encode_outcome(verdict.outcome),
        reason=verdict.reason,
        wall_ms=verdict.wall_ms,
        answer=verdict.answer,
        cases=[
            verdict_pb2.CaseResult(
                outcome=_encode_outcome(case.outcome), reason=case.reason, wall_ms=case.wall_ms, cpu_ms=case.cpu_ms
            )
            for case in verdict.cases
        ],
    )


def decode_verdict(message: verdict_pb2.Verdict) -> Verdict:
    """`Verdict` out of a message.

    Raises:
        InvalidRequestError: naming what is wrong in it.
    """
    cases = tuple(CaseResult(_decode_outcome(c.outcome), c.reason, c.wall_ms, c.cpu_ms) for c in message.cases)
    return Verdict(_decode_outcome(message.outcome), message.reason, message.wall_ms, message.answer, cases)


def encode_limits(limits: Limits) -> verdict_pb2.Limits:
    """`Limits` as a message."""
    return verdict_pb2.Limits(
        wall_s=limits.wall_s,
        memory_bytes=limits.memory_bytes,
        output_bytes=limits.output_bytes,
        cases=verdict_pb2.Cases.ValueType(limits.cases.value if limits.cases else 0),
    )


def decode_limits(message: verdict_pb2.Limits) -> Limits:
    """`Limits` out of a message.

    Raises:
        InvalidRequestError: naming what is wrong in it.
    """
    try:
        cases = Cases(message.cases) if message.cases else None
    except ValueError as error:
        raise InvalidRequestError(f"limits have cases {message.cases}: expected 0 to 2") from error
    return Limits(message.wall_s, message.memory_bytes, message.output_bytes, cases)


def _encode_outcome(outcome: Outcome) -> verdict_pb2.Outcome.ValueType:
    return verdict_pb2.Outcome.ValueType(outcome.value)


def _decode_outcome(number: int) -> Outcome:
    try:
        return Outcome(number)
    except ValueError as error:
        raise InvalidRequestError(f"verdict has outcome {number}: expected 1 to 8") from error


def encode_search(search: SearchParameters) -> tree_pb2.SearchParameters:
    """`SearchParameters` as a message."""
    return tree_pb2.SearchParameters(
        chains=search.chains,
        forks=search.forks,
        rounds=search.rounds,
        branches=search.branches,
        selection=tree_pb2.ForkSelection.ValueType(search.selection.value),
        special_tokens=tree_pb2.SpecialTokens.ValueType(search.special_tokens.value),
        answer_markers=search.answer_markers,
    )


def decode_search(message: tree_pb2.SearchParameters) -> SearchParameters:
    """`SearchParameters` out of a message.

    Raises:
        InvalidRequestError: naming what is wrong in it.
    """
    if message.chains < 1:
        raise InvalidRequestError("search has 0 chains: expected at least 1")
    try:
        selection = ForkSelection(message.selection or ForkSelection.SURPRISAL.value)
    except ValueError as error:
        raise InvalidRequestError(f"search has unknown selection {message.selection}") from error
    try:
        special_tokens = SpecialTokens(message.special_tokens or SpecialTokens.MASKED.value)
    except ValueError as error:
        raise InvalidRequestError(
            f"search has special_tokens {message.special_tokens}: expected 1 (masked) or 2 (forkable)"
        ) from error
    if len(message.answer_markers) > MAX_ANSWER_MARKERS:
        raise InvalidRequestError(
            f"search has {len(message.answer_markers)} answer_markers: expected at most {MAX_ANSWER_MARKERS}"
        )
    if "" in message.answer_markers:
        raise InvalidRequestError("search has an empty text among its answer_markers: expected some text, or no marker")
    return SearchParameters(
        chains=message.chains,
        forks=message.forks,
        rounds=message.rounds,
        branches=message.branches,
        selection=selection,
        special_tokens=special_tokens,
        answer_markers=tuple(message.answer_markers),
    )


def encode_sampling(sampling: SamplingParameters) -> tree_pb2.SamplingParameters:
    """`SamplingParameters` as a message."""
    return tree_pb2.SamplingParameters(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
        min_tokens=sampling.min_tokens,
        logprobs=tree_pb2.Logprobs.ValueType(sampling.logprobs.value),
        adapter=sampling.adapter,
    )


def decode_sampling(message: tree_pb2.SamplingParameters) -> SamplingParameters:
    """`SamplingParameters` out of a message.

    Raises:
        InvalidRequestError: naming what is wrong in it.
    """
    if not 0 <= message.temperature <= MAX_TEMPERATURE:
        raise InvalidRequestError(f"temperature is {message.temperature}: expected 0 to {MAX_TEMPERATURE}")
    if not 0 < message.top_p <= 1:
        raise InvalidRequestError(f"top_p is {message.top_p}: expected more than 0 and at most 1")
    if message.max_tokens < 1:
        raise InvalidRequestError("max_tokens is 0: expected at least 1")
    if len(message.stop) > MAX_STOPS:
        raise InvalidRequestError(f"{len(message.stop)} stop strings: expected at most {MAX_STOPS}")
    for stop in message.stop:
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise InvalidRequestError(f"a stop string has {len(stop)} characters: expected 1 to {MAX_STOP_CHARACTERS}")
    if message.min_tokens > message.max_tokens:
        raise InvalidRequestError(
            f"min_tokens is {message.min_tokens}: expected at most max_tokens, which is {message.max_tokens}"
        )
    if len(message.stop_token_ids) > MAX_STOP_TOKENS:
        raise InvalidRequestError(
            f"there are {len(message.stop_token_ids)} stop_token_ids: expected at most {MAX_STOP_TOKENS}"
        )
    try:
        logprobs = Logprobs(message.logprobs or Logprobs.RAW.value)
    except ValueError as error:
        raise InvalidRequestError(f"logprobs is {message.logprobs}: expected RAW or RAW_AND_SAMPLING") from error
    return SamplingParameters(
        temperature=message.temperature,
        top_p=message.top_p,
        max_tokens=message.max_tokens,
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        min_tokens=message.min_tokens,
        logprobs=logprobs,
        adapter=message.adapter,
    )


def encode_request(request: TreeRequest) -> tree_pb2.TreeRequest:
    """`TreeRequest` as a message."""
    return tree_pb2.TreeRequest(
        tree_id=request.tree_id,
        problem=encode_problem(request.problem),
        search=encode_search(request.search),
        sampling=encode_sampling(request.sampling),
        min_policy_version=request.min_policy_version,
    )


def decode_request(message: tree_pb2.TreeRequest) -> TreeRequest:
    """`TreeRequest` out of a message.

    Raises:
        InvalidRequestError: naming what is wrong in it.
    """
    return TreeRequest(
        tree_id=message.tree_id,
        problem=decode_problem(message.problem),
        search=decode_search(message.search),
        sampling=decode_sampling(message.sampling),
        min_policy_version=message.min_policy_version,
    )


def encode_branch(branch: Branch) -> tree_pb2.Branch:
    """`Branch` as a message."""
    message = tree_pb2.Branch(
        id=branch.id,
        parent_id=branch.parent_id,
        fork_index=branch.fork_index,
        token_ids=branch.token_ids,
        logprobs=branch.logprobs,
        entropies=branch.entropies,
        versions=[
            tree_pb2.VersionSpan(policy_version=s.policy_version, num_tokens=s.num_tokens) for s in branch.versions
        ],
        finish_reason=tree_pb2.FinishReason.ValueType(branch.finish_reason.value),
        response_text=branch.response_text,
        prefilled_tokens=branch.prefilled_tokens,
        verdict=None if branch.verdict is None else encode_verdict(branch.verdict),
        sampling_logprobs=branch.sampling_logprobs,
    )
    match branch.stop_reason:
        case str(string):
            message.stop_string = string
        case int(token_id):
            message.stop_token_id = token_id
    return message


def decode_branch(message: tree_pb2.Branch) -> Branch:
    """`Branch` out of a message.

    Raises:
        InvalidRequestError: naming what is wrong in it.
    """
    try:
        finish_reason = FinishReason(message.finish_reason)
    except ValueError as error:
        raise InvalidRequestError(f"branch {message.id} has unknown finish reason {message.finish_reason}") from error
    return Branch(
        id=message.id,
        parent_id=message.parent_id if message.HasField("parent_id") else None,
        fork_index=message.fork_index,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(message.logprobs),
        entropies=tuple(message.entropies),
        versions=tuple(VersionSpan(s.policy_version, s.num_tokens) for s in message.versions),
        finish_reason=finish_reason,
        response_text=message.response_text,
        prefilled_tokens=message.prefilled_tokens,
        verdict=decode_verdict(message.verdict) if message.HasField("verdict") else None,
        sampling_logprobs=tuple(message.sampling_logprobs),
        stop_reason=_decode_stop_reason(message),
    )


def _decode_stop_reason(message: tree_pb2.Branch) -> str | int | None:
    match message.WhichOneof("stop_reason"):
        case "stop_string":
            return message.stop_string
        case "stop_token_id":
            return message.stop_token_id
    return None


def encode_tree(tree: Tree) -> tree_pb2.Tree:
    """`Tree` as a message."""
    return tree_pb2.Tree(
        tree_id=tree.tree_id,
        problem=encode_problem(tree.problem),
        search=encode_search(tree.search),
        sampling=encode_sampling(tree.sampling),
        prompt_token_ids=tree.prompt_token_ids,
        branches=[encode_branch(branch) for branch in tree.branches],
        sample_s=tree.sample_s,
        sampler=tree.sampler,
    )


def decode_tree(message: tree_pb2.Tree) -> Tree:
    """`Tree` out of a message.

    Raises:
        InvalidRequestError: naming what is wrong in it.
    """
    branches = tuple(decode_branch(branch) for branch in message.branches)
    check_tree(branches)
    return Tree(
        tree_id=message.tree_id,
        problem=decode_problem(message.problem),
        search=decode_search(message.search),
        sampling=decode_sampling(message.sampling),
        prompt_token_ids=tuple(message.prompt_token_ids),
        branches=branches,
        sample_s=message.sample_s,
        sampler=message.sampler,
    )
