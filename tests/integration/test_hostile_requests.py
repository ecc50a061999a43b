"""Requests that no client of ours would send, over real gRPC: the client is told that the fault is its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.tree import SearchParameters
from services.sampler.request_limits import MAX_REQUEST_BYTES
from tests.scripted_engine import ScriptedEngine
from tests.served_sampler import Service, generate_request, search_request, served_sampler
from treerl.sampler.v1 import sampler_service_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["SamplerService"]
METHODS = {method.name: method for method in SERVICE.methods}

FAIR = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.DATA_LOSS,
}
"""Statuses that say what the client did wrong; UNKNOWN and INTERNAL would be bugs of the service."""


class Caller:
    """Calls a served sampler with any bytes; runs its event loop."""

    def __init__(self, runner: asyncio.Runner, service: Service) -> None:
        self._runner = runner
        self._service = service

    def call(self, method: str, data: bytes) -> grpc.StatusCode:
        """Status of a call."""
        return self._runner.run(self._call(method, data))

    async def _call(self, method: str, data: bytes) -> grpc.StatusCode:
        call = self._service.channel.unary_stream(f"/{SERVICE.full_name}/{method}")(data, timeout=60)
        with suppress(aio.AioRpcError):
            async for _ in call:
                pass
        return await call.code()


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    serving = served_sampler(ScriptedEngine(), max_tree_leaves=64, max_tree_tokens=4096, max_held_trees=8)
    with asyncio.Runner() as runner:
        yield Caller(runner, runner.run(serving.__aenter__()))
        runner.run(serving.__aexit__(None, None, None))


INTEGERS = {
    FieldDescriptor.TYPE_UINT32: st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    FieldDescriptor.TYPE_UINT64: st.one_of(st.just(0), st.integers(0, 2**64 - 1)),
    FieldDescriptor.TYPE_ENUM: st.one_of(st.integers(0, 4), st.integers(-(2**31), 2**31 - 1)),
}
OTHERS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_DOUBLE: st.one_of(st.floats(0, 1), st.floats()),
    FieldDescriptor.TYPE_FLOAT: st.one_of(st.floats(-9, 0, width=32), st.floats(width=32)),
    FieldDescriptor.TYPE_STRING: st.one_of(st.sampled_from(["1+1=", "[", "[" * 20_000, "[1]", "\0", "."]), st.text()),
}


def messages(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of a type with any value in any field."""
    unset = [st.none()] * 3  # so that many messages have but few fields
    fields = {field.name: st.one_of(*unset, values(field)) for field in descriptor.fields}
    return st.fixed_dictionaries(fields).map(lambda chosen: build(descriptor, chosen))


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        value: st.SearchStrategy[Any] = messages(field.message_type)
    else:
        value = {**INTEGERS, **OTHERS}[field.type]
    return st.lists(value, max_size=3) if field.is_repeated else value


def build(descriptor: Descriptor, chosen: dict[str, Any]) -> Message:
    return GetMessageClass(descriptor)(**{name: value for name, value in chosen.items() if value is not None})


@pytest.mark.parametrize("method", sorted(METHODS))
def test_any_fields_are_answered_or_refused_as_the_clients_fault(caller: Caller, method: str) -> None:
    @settings(max_examples=100, deadline=None)
    @given(messages(METHODS[method].input_type))
    def send(message: Message) -> None:
        assert caller.call(method, message.SerializeToString()) in FAIR

    send()


@pytest.mark.parametrize(
    ("method", "valid"),
    [("Generate", generate_request(2, max_tokens=8)), ("SearchTree", search_request(SearchParameters(2, 1, 1, 2), 8))],
)
def test_any_change_to_a_good_request_is_answered_or_refused_as_the_clients_fault(
    caller: Caller, method: str, valid: Message
) -> None:
    @settings(max_examples=200, deadline=None)
    @given(messages(valid.DESCRIPTOR))
    def send(changes: Message) -> None:
        message = type(valid)()
        message.CopyFrom(valid)
        message.MergeFrom(changes)
        assert caller.call(method, message.SerializeToString()) in FAIR

    send()


def test_any_bytes_are_answered_or_refused_as_the_clients_fault(caller: Caller) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(sorted(METHODS)), st.binary(max_size=200))
    def send(method: str, data: bytes) -> None:
        assert caller.call(method, data) in FAIR

    send()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_bytes_that_are_no_message_are_an_invalid_argument(caller: Caller, method: str) -> None:
    assert caller.call(method, b"\x0a\xff\xff") is grpc.StatusCode.INVALID_ARGUMENT


BAD_SAMPLING = [
    ({"temperature": -0.1}, "temperature is -0.1: expected 0 to 2"),
    ({"temperature": math.nan}, "temperature is nan"),
    ({"temperature": math.inf}, "temperature is inf"),
    ({"temperature": 2.1}, "temperature is 2.1"),
    ({"top_p": 0.0}, "top_p is 0.0: expected more than 0 and at most 1"),
    ({"top_p": 1.1}, "top_p is 1.1"),
    ({"top_p": math.nan}, "top_p is nan"),
    ({"max_tokens": 0}, "max_tokens is 0"),
    ({"max_tokens": 2**32 - 1}, "1 leaves with max_tokens 4294967295: expected a product of at most"),
    ({"stop": [""]}, "a stop string has 0 characters"),
    ({"stop": ["x" * 257]}, "a stop string has 257 characters: expected 1 to 256"),
    ({"stop": ["x"] * 17}, "17 stop strings: expected at most 16"),
]


@pytest.mark.parametrize(("fields", "complaint"), BAD_SAMPLING)
@pytest.mark.parametrize("method", ["Generate", "SearchTree"])
async def test_sampling_out_of_range_is_refused_with_the_range(
    method: str, fields: dict[str, Any], complaint: str
) -> None:
    async with served_sampler(ScriptedEngine()) as service:
        generate, search = generate_request(1), search_request(SearchParameters(1))
        sampling = generate.sampling if method == "Generate" else search.request.sampling
        for name, value in fields.items():
            sampling.ClearField(name)  # type: ignore[arg-type]
            sampling.MergeFrom(type(sampling)(**{name: value}))
        call = service.stub.Generate(generate) if method == "Generate" else service.stub.SearchTree(search)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert complaint in await call.details()
        assert service.engine.requests == []


async def test_what_is_too_large_is_refused_before_it_costs_anything() -> None:
    async with served_sampler(ScriptedEngine(), max_model_tokens=100) as service:
        chains = generate_request(2**32 - 1)
        prompt = generate_request(1)
        prompt.problem.prompt = "7" * 3201
        forever = search_request(SearchParameters(1, 0, 2**32 - 1, 0))
        early = search_request(SearchParameters(1))
        early.request.min_policy_version = 2**64 - 1
        for call, code, complaint in [
            (service.stub.Generate(chains), grpc.StatusCode.INVALID_ARGUMENT, "a tree of 4294967295 leaves"),
            (service.stub.Generate(prompt), grpc.StatusCode.INVALID_ARGUMENT, "the prompt has 3201 characters"),
            (service.stub.SearchTree(forever), grpc.StatusCode.INVALID_ARGUMENT, "4294967295 rounds: expected at most"),
            (service.stub.SearchTree(early), grpc.StatusCode.FAILED_PRECONDITION, "version 0 is served, at least 1844"),
        ]:
            assert (await call.code(), complaint in await call.details()) == (code, True)
        assert service.engine.requests == []


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"branch_id": 1}, "branch 1 does not exist: the tree has 1 branches"),
        ({"branch_id": 2**32 - 1}, "branch 4294967295 does not exist"),
        ({"token_index": 0}, "token 0 is the first of branch 0"),
        ({"token_index": 2**32 - 1}, "token index 4294967295 is outside the path of branch 0"),
        ({"num_branches": 0}, "num_branches is 0: expected at least 1"),
        ({"num_branches": 2**32 - 1}, "a tree of 4294967295 leaves: expected at most 512"),
    ],
)
async def test_an_impossible_fork_is_refused_with_the_reason(fields: dict[str, int], complaint: str) -> None:
    async with served_sampler(ScriptedEngine()) as service:
        tree_id = (await service.stub.Generate(generate_request(1))).tree.tree_id
        asked = {"branch_id": 0, "token_index": 1, "num_branches": 1, **fields}
        with pytest.raises(aio.AioRpcError, match=complaint) as raised:
            await service.stub.Fork(pb.ForkRequest(tree_id=tree_id, **asked))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_request_larger_than_any_needs_to_be_is_not_received() -> None:
    async with served_sampler(ScriptedEngine()) as service:
        large = generate_request(1)
        large.problem.answer = "x" * MAX_REQUEST_BYTES
        with pytest.raises(aio.AioRpcError, match=f"larger than max .* vs. {MAX_REQUEST_BYTES}") as raised:
            await service.stub.Generate(large)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await service.stub.Generate(generate_request(1))).tree.branches
