"""Adapters prepared in a worker, with a stand-in for vLLM's manager that records its calls."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from vllm.lora.request import LoRARequest

from server.engine.vllm.preparation import PreparedAdapters


class Manager:
    """Reads and packs an adapter, as vLLM's manager does in the engine's loop."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.packed: list[int] = []
        self._adapter_manager = self

    def _load_adapter(self, request: LoRARequest) -> SimpleNamespace:
        self.read.append(request.lora_name)
        if request.lora_path == "broken":
            raise ValueError("these are no weights")
        return SimpleNamespace(id=request.lora_int_id)

    def _create_merged_loras_inplace(self, model: SimpleNamespace) -> None:
        self.packed.append(model.id)

    def activate_adapter(self, number: int) -> bool:
        return number in self.packed

    def add(self, request: LoRARequest) -> SimpleNamespace:
        model = self._load_adapter(request)
        self._create_merged_loras_inplace(model)
        self.activate_adapter(model.id)
        return model


class Device:
    """A copier that records which adapters are in the memory of the device."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def copy(self, model: SimpleNamespace) -> object:
        self.held.append(model.id)
        device, number = self.held, model.id

        class Copies:
            in_place = staticmethod(nullcontext)

            def __del__(self) -> None:
                device.remove(number)

        return Copies()

    def release(self, copies: object) -> None:
        """No computing stream has to be waited for."""


def request(number: int, path: str = "fine") -> LoRARequest:
    return LoRARequest(lora_name=f"sql@{number}", lora_int_id=number, lora_path=path)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.setblocking(False)
        bound.bind(str(tmp_path / "reply"))
        yield bound


async def reply(receiver: socket.socket) -> str:
    return (await asyncio.get_running_loop().sock_recv(receiver, 65536)).decode()


async def test_a_prepared_adapter_is_read_and_packed_once_and_loaded_without_either(receiver: socket.socket) -> None:
    manager = Manager()
    prepared = PreparedAdapters(manager, None)
    prepared.prepare(request(1), receiver.getsockname())
    assert await reply(receiver) == ""
    assert (manager.read, manager.packed) == (["sql@1"], [1])
    assert manager.add(request(1)).id == 1
    assert (manager.read, manager.packed) == (["sql@1"], [1])


async def test_an_adapter_that_was_not_prepared_is_loaded_by_vllm(receiver: socket.socket) -> None:
    manager = Manager()
    PreparedAdapters(manager, None)
    manager.add(request(2))
    assert (manager.read, manager.packed) == (["sql@2"], [2])


async def test_a_refusal_is_reported_in_its_own_words_and_the_next_adapter_is_prepared(receiver: socket.socket) -> None:
    manager = Manager()
    prepared = PreparedAdapters(manager, None)
    prepared.prepare(request(1, "broken"), receiver.getsockname())
    prepared.prepare(request(2), receiver.getsockname())
    assert await reply(receiver) == "these are no weights"
    assert await reply(receiver) == ""
    assert manager.packed == [2]


async def test_a_dropped_adapter_is_read_again(receiver: socket.socket) -> None:
    manager = Manager()
    prepared = PreparedAdapters(manager, None)
    prepared.prepare(request(1), receiver.getsockname())
    await reply(receiver)
    prepared.drop(1)
    prepared.prepare(request(2), receiver.getsockname())  # the same thread: when this is done, so is the drop
    await reply(receiver)
    manager.add(request(1))
    assert manager.read == ["sql@1", "sql@2", "sql@1"]
    assert manager.packed == [1, 2, 1]


async def test_a_device_holds_a_prepared_adapter_until_it_is_in_its_slot_or_dropped(receiver: socket.socket) -> None:
    manager, device = Manager(), Device()
    prepared = PreparedAdapters(manager, None, device)
    for number in (1, 2):
        prepared.prepare(request(number), receiver.getsockname())
        await reply(receiver)
    assert device.held == [1, 2]
    manager.add(request(1))
    assert device.held == [2]
    prepared.drop(2)
    prepared.prepare(request(3, "broken"), receiver.getsockname())
    await reply(receiver)
    assert device.held == []
