"""How the members of a broadcast meet: over gloo, and as vLLM's NCCL engine does up to where NCCL begins."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from services.common.broadcast_group import GlooGroup, MeetingPoint, join


def wait_for(point: MeetingPoint, members: int) -> None:
    while point.joined() < members:
        time.sleep(0.01)


def test_every_member_receives_each_tensor() -> None:
    point = MeetingPoint("127.0.0.1", 0, patience_s=20)
    sent = [torch.randn(3, 5), torch.arange(7, dtype=torch.bfloat16), torch.tensor(2.0)]

    def receive(rank: int) -> list[torch.Tensor]:
        join(point.host, point.port)
        group = GlooGroup.receiving(point.host, point.port, rank, 3)
        received = [torch.empty_like(tensor) for tensor in sent]
        for tensor in received:
            group.broadcast(tensor)
        return received

    with ThreadPoolExecutor(2) as members:
        receiving = list(map(members.submit, [receive] * 2, (1, 2)))
        wait_for(point, 2)
        group = GlooGroup(point.store, 0, 3, point.host, 20)
        for tensor in sent:
            group.broadcast(tensor)
        for received in receiving:
            assert all(map(torch.equal, received.result(), sent))


def test_who_came_learns_that_the_sender_left() -> None:
    point = MeetingPoint("127.0.0.1", 0, patience_s=60)
    host, port = point.host, point.port

    def receive() -> None:
        join(host, port)
        GlooGroup.receiving(host, port, 1, 2)

    with ThreadPoolExecutor(1) as member:
        receiving = member.submit(receive)
        wait_for(point, 1)
        del point
        with pytest.raises(RuntimeError):
            receiving.result(timeout=30)


def test_nobody_joins_where_nobody_sends() -> None:
    point = MeetingPoint("127.0.0.1", 0, patience_s=60)
    port = point.port
    del point
    with pytest.raises(ConnectionRefusedError):
        join("127.0.0.1", port)


@pytest.mark.vllm
def test_vllms_workers_meet_the_sender_at_the_same_store() -> None:
    from vllm.distributed.utils import StatelessProcessGroup

    point = MeetingPoint("127.0.0.1", 0, patience_s=20)

    def receive(rank: int) -> object:
        join(point.host, point.port)
        return StatelessProcessGroup.create(point.host, point.port, rank, 3).broadcast_obj(None, src=0)

    with ThreadPoolExecutor(2) as members:
        receiving = list(map(members.submit, [receive] * 2, (1, 2)))
        wait_for(point, 2)
        StatelessProcessGroup(0, 3, point.store).broadcast_obj("NCCL's unique id", src=0)
        assert [received.result() for received in receiving] == ["NCCL's unique id"] * 2
