"""Adapters prepared in a worker: what stands in for vLLM's manager is a few lines that note what is asked of them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.lora.request import LoRARequest

from server.engine.vllm.worker_extension import Preparation


class Manager:
    """What vLLM's manager does in the engine's loop: reads an adapter, and packs it when it is added."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.packed: list[int] = []
        self._adapter_manager = self

    def _load_adapter(self, request: LoRARequest) -> Any:
        self.read.append(request.lora_name)
        if request.lora_path == "broken":
            raise ValueError("these are no weights")
        return SimpleNamespace(id=request.lora_int_id)

    def _create_merged_loras_inplace(self, model: Any) -> None:
        self.packed.append(model.id)

    def activate_adapter(self, number: int) -> bool:
        return number in self.packed

    def add(self, request: LoRARequest) -> Any:
        model = self._load_adapter(request)
        self._create_merged_loras_inplace(model)
        self.activate_adapter(model.id)
        return model


class Device:
    """Memory of a device that notes what lies in it and when it is given back."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def copy(self, model: Any) -> Any:
        self.held.append(model.id)
        device, number = self.held, model.id

        class Copies:
            in_place = staticmethod(nullcontext)

            def __del__(self) -> None:
                device.remove(number)

        return Copies()

    def release(self, copies: Any) -> None:
        """Nothing is late here."""


def request(number: int, path: str = "fine") -> LoRARequest:
    return LoRARequest(lora_name=f"sql@{number}", lora_int_id=number, lora_path=path)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.setblocking(False)
        bound.bind(str(tmp_path / "reply"))
        yield bound


async def answer(line: Any) -> str:
    return (await asyncio.get_running_loop().sock_recv(line, 65536)).decode()


async def test_what_is_prepared_is_read_and_packed_once_and_nothing_is_left_to_do_when_it_is_loaded(line: Any) -> None:
    manager = Manager()
    prepared = Preparation(manager, None)
    prepared.begin(request(1), line.getsockname())
    assert await answer(line) == ""
    assert (manager.read, manager.packed) == (["sql@1"], [1])
    assert manager.add(request(1)).id == 1
    assert (manager.read, manager.packed) == (["sql@1"], [1])


async def test_what_was_not_prepared_is_loaded_as_ever(line: Any) -> None:
    manager = Manager()
    Preparation(manager, None)
    manager.add(request(2))
    assert (manager.read, manager.packed) == (["sql@2"], [2])


async def test_a_refusal_is_told_in_its_own_words_and_the_next_one_is_prepared(line: Any) -> None:
    manager = Manager()
    prepared = Preparation(manager, None)
    prepared.begin(request(1, "broken"), line.getsockname())
    prepared.begin(request(2), line.getsockname())
    assert await answer(line) == "these are no weights"
    assert await answer(line) == ""
    assert manager.packed == [2]


async def test_what_was_dropped_is_read_anew(line: Any) -> None:
    manager = Manager()
    prepared = Preparation(manager, None)
    prepared.begin(request(1), line.getsockname())
    await answer(line)
    prepared.drop(1)
    prepared.begin(request(2), line.getsockname())  # the same thread: when this is done, so is the drop
    await answer(line)
    manager.add(request(1))
    assert manager.read == ["sql@1", "sql@2", "sql@1"]
    assert manager.packed == [1, 2, 1]


async def test_a_device_holds_what_is_prepared_until_it_is_in_its_slot_or_dropped(line: Any) -> None:
    manager, device = Manager(), Device()
    prepared = Preparation(manager, None, device)
    for number in (1, 2):
        prepared.begin(request(number), line.getsockname())
        await answer(line)
    assert device.held == [1, 2]
    manager.add(request(1))
    assert device.held == [2]
    prepared.drop(2)
    prepared.begin(request(3, "broken"), line.getsockname())
    await answer(line)
    assert device.held == []
