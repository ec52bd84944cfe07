"""Which turns the scheduler gives, and when: short histories with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from server.engine.protocol import Batch, Demand, Generation
from server.errors import EngineNotReady
from server.scheduling.adapter_queue import Turn, TurnState
from server.scheduling.fair_scheduler import LOOKAHEAD, FairScheduler
from tests.until import Until

SEQUENCES = 16
PLACES = SEQUENCES + SEQUENCES // LOOKAHEAD
WORDS = Demand(prompt_tokens=10, max_tokens=50)


class Play:
    """A scheduler and its clock; requests turns and ends them."""

    def __init__(self, *, slots: int = 2, sequences: int = SEQUENCES, tokens: int = 10**6) -> None:
        self.now = 0.0
        self.scheduler = FairScheduler(slots, Batch(sequences, tokens), turn_s=1.0, clock=lambda: self.now)

    def ask(self, key: int | None, count: int = 1, demand: Demand = WORDS, project: str = "default") -> list[Turn]:
        return [self.scheduler.request(key, demand, project=project) for _ in range(count)]

    def end(self, turns: list[Turn], *, prompt: int = 10, written: int = 50) -> None:
        for turn in turns:
            turn.generation = Generation(prompt_tokens=prompt, generated_tokens=written)
            self.scheduler.end(turn)


def states(turns: list[Turn]) -> set[str]:
    return {str(turn.state) for turn in turns}


def taken(turns: list[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.state is TurnState.TAKEN]


@pytest.fixture
def play() -> Play:
    return Play()


def test_nobody_waits_while_the_engine_has_slots_and_places(play: Play) -> None:
    turns = [*play.ask(1, 6), *play.ask(2, 6), *play.ask(None, 6)]
    assert states(turns) == {"taken"}
    assert (play.scheduler.waiting, play.scheduler.active) == (0, 2)


def test_an_adapter_without_a_slot_waits_until_one_is_given_up(play: Play) -> None:
    first, second = play.ask(1), play.ask(2)
    third = play.ask(3)
    assert states(third) == {"waiting"}
    play.end(second)
    assert states(third) == {"taken"}
    assert states(first) == {"taken"}


def test_the_base_model_needs_no_slot(play: Play) -> None:
    play.ask(1), play.ask(2), play.ask(3)
    assert states(play.ask(None, 5)) == {"taken"}


def test_more_than_a_batch_and_a_few_are_not_handed_on(play: Play) -> None:
    turns = play.ask(1, 3 * PLACES)
    assert len(taken(turns)) == PLACES
    play.end(turns[:1])
    assert len(taken(turns)) == PLACES


def test_each_text_of_a_generation_takes_a_place(play: Play) -> None:
    turns = play.ask(1, PLACES, Demand(prompt_tokens=10, max_tokens=50, sequences=3))
    assert len(taken(turns)) == PLACES // 3


def test_a_generation_of_more_texts_than_a_batch_takes_goes_on_alone(play: Play) -> None:
    turns = play.ask(1, 2, Demand(prompt_tokens=10, max_tokens=50, sequences=5 * PLACES))
    assert [turn.state for turn in turns] == [TurnState.TAKEN, TurnState.WAITING]
    play.end(turns[:1])
    assert states(turns[1:]) == {"taken"}


def test_prompts_that_the_engine_has_not_read_are_two_steps_long_at_most() -> None:
    play = Play(tokens=100)
    turns = play.ask(1, 8, Demand(prompt_tokens=50))
    assert len(taken(turns)) == 4
    play.scheduler.read(turns[0])
    play.scheduler.read(turns[0])
    assert len(taken(turns)) == 5
    play.end(turns[4:5])
    assert len(taken(turns)) == 5


def test_two_floods_that_overlap_make_way_for_a_third_adapter(play: Play) -> None:
    floods = {1: play.ask(1, 20), 2: play.ask(2, 20)}
    quiet = play.ask(3)
    ended = 0
    while quiet[0].state is TurnState.WAITING:
        play.now += 0.1
        key = 1 + ended % 2
        play.end(taken(floods[key])[:1])
        floods[key] += play.ask(key)
        ended += 1
    assert 10 < ended <= 10 + 2 * PLACES  # a stay of one second, then what one of the floods had with the engine


def test_a_flood_alone_is_not_held_up_by_its_stay(play: Play) -> None:
    turns = play.ask(1, PLACES)
    play.now += 100
    play.end(turns)
    assert states(play.ask(1, PLACES)) == {"taken"}


def test_a_flood_goes_on_when_nobody_waits_for_its_slot_any_more(play: Play) -> None:
    floods = [*play.ask(1), *play.ask(2, 2)]
    quiet = play.ask(3)
    play.now += 2
    assert states(play.ask(2)) == {"taken"}
    held_up = play.ask(1)
    assert states(held_up) == {"waiting"}
    play.scheduler.end(quiet[0])
    assert states(held_up) == {"taken"}
    assert states(floods) == {"taken"}


def test_where_the_first_to_make_way_takes_for_ever_another_one_does(play: Play) -> None:
    endless, short = play.ask(1), play.ask(2, 2)
    quiet = play.ask(3)
    play.now += 2
    short += play.ask(2)
    assert states(short) == {"taken"}  # the smaller one, which is endless, makes way
    play.now += 20
    assert states(play.ask(2)) == {"waiting"}
    play.end(short)
    assert (states(quiet), states(endless)) == ({"taken"}, {"taken"})


def test_adapter_queues_get_slots_in_the_order_in_which_they_came(play: Play) -> None:
    holders = [*play.ask(1), *play.ask(2)]
    queued = [play.ask(key)[0] for key in (5, 3, 4)]
    order = []
    for turn in [*holders, *queued]:
        play.end([turn])
        order += [waiting.queue.key for waiting in queued if waiting.state is TurnState.TAKEN]
    assert list(dict.fromkeys(order)) == [5, 3, 4]


def test_places_are_shared_by_tokens_and_not_by_requests(play: Play) -> None:
    long, short = Demand(prompt_tokens=900, max_tokens=50), Demand(prompt_tokens=50, max_tokens=50)
    waiting = {1: play.ask(1, 700, long), 2: play.ask(2, 700, short)}
    tokens = {1: 0, 2: 0}
    for number in range(600):
        for key, turns in waiting.items():
            for turn in taken(turns)[:1]:
                play.end([turn], prompt=turn.prompt_tokens)
                if number >= 300:  # the first to ask had all places to itself, and pays for it
                    tokens[key] += turn.prompt_tokens + 50
    assert 0.7 < tokens[1] / tokens[2] < 1.4


def test_an_adapter_queue_pays_for_what_its_generations_came_to(play: Play) -> None:
    """Both ask for the same; the first one's come to a tenth, so it gets the more of them."""
    turns = {1: play.ask(1, 500), 2: play.ask(2, 500)}
    done = {1: 0, 2: 0}
    for _ in range(600):
        running = taken(turns[1] + turns[2])
        turn = min(running, key=lambda turn: turn.requested_at)
        key = turn.queue.key
        assert key is not None
        play.end([turn], prompt=10, written=5 if key == 1 else 990)
        done[key] += 1
    assert done[1] > 3 * done[2]


def test_what_was_taken_while_nobody_waited_is_no_debt() -> None:
    play = Play(sequences=8)
    alone = play.ask(1, 2)
    for _ in range(1000):
        play.end(alone[:1])
        alone = [*alone[1:], *play.ask(1)]
    turns = {1: [*alone, *play.ask(1, 200)], 2: play.ask(2, 200)}
    for _ in range(200):
        play.end([min(taken(turns[1] + turns[2]), key=lambda turn: turn.taken_at)])
    over = {key: sum(turn.state is TurnState.OVER for turn in each) for key, each in turns.items()}
    assert 0.7 < over[1] / over[2] < 1.4


def test_a_project_with_many_adapters_has_no_more_turns_than_one_with_a_single_adapter(play: Play) -> None:
    turns = {1: play.ask(1, 300, project="one")}
    turns |= {key: play.ask(key, 30, project="many") for key in range(2, 12)}
    ended: Counter[str] = Counter()
    for _ in range(250):
        play.now += 0.1
        turn = min(taken([turn for each in turns.values() for turn in each]), key=lambda turn: turn.taken_at)
        play.end([turn])
        ended[turn.line.project.name] += 1
    assert ended["many"] <= ended["one"] * 1.2


def test_a_project_takes_no_more_than_its_turns_of_the_base_model(play: Play) -> None:
    flood, quiet = play.ask(None, 300, project="flood"), play.ask(None, 3, project="quiet")
    for _ in range(PLACES // 2):
        play.end(taken(flood)[:1])
    assert states(quiet) == {"taken"}


def test_a_free_slot_goes_to_the_project_with_the_fewest() -> None:
    play = Play(slots=3)
    holders = play.ask(1, project="many") + play.ask(2, project="many") + play.ask(3, project="one")
    many, quiet = play.ask(4, project="many"), play.ask(5, project="quiet")
    play.end(holders[:1])
    assert (states(many), states(quiet)) == ({"waiting"}, {"taken"})


def test_a_project_gives_slots_up_to_one_that_has_fewer_and_else_to_its_own_adapters() -> None:
    play = Play(slots=3)
    many = {key: play.ask(key, project="many") for key in (1, 2)}
    one = play.ask(3, project="one")
    play.ask(4, project="many")
    play.now += 2
    assert states(play.ask(3, project="one")) == {"taken"}  # its only slot is not taken from it
    many[1] += play.ask(1, project="many")
    many[2] += play.ask(2, project="many")
    assert sorted(states(turns) == {"taken"} for turns in many.values()) == [False, True]
    assert states(one) == {"taken"}


async def test_a_caller_that_leaves_while_it_waits_gives_its_turn_up(play: Play, until: Until) -> None:
    play.ask(1), play.ask(2)
    leaver = asyncio.ensure_future(play.scheduler.turn(3, WORDS))
    stayer = asyncio.ensure_future(play.scheduler.turn(3, WORDS))
    await until(lambda: play.scheduler.waiting == 2)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    assert (play.scheduler.waiting, stayer.done()) == (1, False)
    stayer.cancel()


async def test_a_caller_that_leaves_as_its_turn_comes_gives_it_back(play: Play, until: Until) -> None:
    first = play.ask(1)
    play.ask(2)
    leaver = asyncio.ensure_future(play.scheduler.turn(3, WORDS))
    await until(lambda: play.scheduler.waiting == 1)
    play.end(first)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    assert states(play.ask(4)) == {"taken"}


async def test_those_who_wait_are_told_when_the_engine_is_gone(play: Play, until: Until) -> None:
    held = [*play.ask(1), *play.ask(2)]
    waiting = [asyncio.ensure_future(play.scheduler.turn(key, WORDS)) for key in (3, 3, 4)]
    await until(lambda: play.scheduler.waiting == 3)
    play.scheduler.close(EngineNotReady("it died"))
    refusals = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(refusal) for refusal in refusals] == [EngineNotReady] * 3
    with pytest.raises(EngineNotReady):
        await play.scheduler.turn(1, WORDS)
    play.end(held)
    assert (play.scheduler.waiting, play.scheduler.active) == (0, 0)


def test_a_turn_that_nobody_reads_to_the_end_keeps_nobody_waiting(play: Play) -> None:
    stalled, running = play.ask(1), play.ask(2)
    stalled[0].generation = Generation(is_finished=lambda: True)
    running[0].generation = Generation()
    quiet = play.ask(3)
    play.scheduler.sweep()
    assert (states(stalled), states(running), states(quiet)) == ({"over"}, {"taken"}, {"taken"})
    play.scheduler.end(stalled[0])
    assert play.scheduler.active == 2


def deferred(play: Play, key: int | None, count: int = 1, demand: Demand = WORDS) -> list[Turn]:
    return [play.scheduler.request(key, demand, is_deferred=True) for _ in range(count)]


def test_deferred_turns_take_half_of_the_places_and_no_more(play: Play) -> None:
    lines = deferred(play, None, 3 * PLACES)
    assert len(taken(lines)) == SEQUENCES // 2
    assert play.scheduler.waiting == 0
    assert len(taken(play.ask(None, PLACES))) == PLACES - SEQUENCES // 2
    play.end(taken(lines)[:1])
    assert len(taken(lines)) == SEQUENCES // 2 - 1


def test_deferred_turns_wait_while_another_turn_waits(play: Play) -> None:
    live = play.ask(None, PLACES + 3)
    lines = deferred(play, None, 4)
    play.end(live[:3])
    assert (states(live[3:]), states(lines)) == ({"taken"}, {"waiting"})
    play.end(live[3:])
    assert states(lines) == {"taken"}


def test_deferred_turns_leave_slots_to_other_adapters() -> None:
    play = Play(slots=4)
    lines = [turn for key in range(1, 7) for turn in deferred(play, key)]
    assert states(lines[:2]) == {"taken"}
    assert states(lines[2:]) == {"waiting"}
    assert states([*play.ask(7), *play.ask(8)]) == {"taken"}
    assert states(deferred(play, 7)) == {"taken"}, "it needs no slot beside the one that its adapter has"


def test_deferred_turns_run_with_a_single_slot_and_a_single_place() -> None:
    play = Play(slots=1, sequences=1)
    lines = deferred(play, 1, 3)
    assert len(taken(lines)) == 1
    play.end(taken(lines))
    assert len(taken(lines)) == 1


def test_deferred_turns_read_half_of_the_prompts_that_may_be_unread() -> None:
    play = Play(tokens=100)
    lines = deferred(play, None, 5, Demand(prompt_tokens=60, max_tokens=50))
    assert len(taken(lines)) == 2
    play.scheduler.read(lines[0])
    assert len(taken(lines)) == 3


def test_an_adapter_is_not_charged_for_deferred_turns(play: Play) -> None:
    for _ in range(50):
        play.end(deferred(play, 1), written=1000)
    play.ask(None, PLACES)
    first, second = play.ask(1, 8), play.ask(2, 8)
    assert first[0].line.balance == second[0].line.balance
    assert states([*first, *second]) == {"waiting"}


def test_a_deferred_turn_that_is_given_up_is_forgotten(play: Play) -> None:
    live, lines = play.ask(None, PLACES), deferred(play, 1, 2)
    play.scheduler.end(lines[0])
    play.end(live)
    assert [str(turn.state) for turn in lines] == ["over", "taken"]
    play.end(lines[1:])
    assert (play.scheduler.active, play.scheduler.waiting) == (0, 0)


async def test_a_closed_scheduler_refuses_deferred_turns(play: Play, until: Until) -> None:
    play.ask(None, PLACES)
    waiting = asyncio.ensure_future(play.scheduler.turn(1, WORDS, is_deferred=True))
    await asyncio.sleep(0)
    play.scheduler.close(EngineNotReady("gone"))
    with pytest.raises(EngineNotReady):
        await waiting


def test_a_turn_of_many_sequences_waits_until_all_of_them_have_places(play: Play) -> None:
    small = play.ask(1, PLACES - 2)
    (large,) = play.ask(1, demand=Demand(10, 50, sequences=4))
    assert states([large]) == {"waiting"}
    (later,) = play.ask(2)
    assert states([later]) == {"waiting"}  # it does not pass by, or the large one would wait for ever
    play.end(small[:2])
    assert states([large]) == {"taken"}
    play.end(small[2:3])
    assert states([later]) == {"taken"}


def test_a_turn_larger_than_the_engine_is_taken_once_the_engine_is_empty(play: Play) -> None:
    small = play.ask(1, 2)
    (large,) = play.ask(2, demand=Demand(10, 50, sequences=PLACES + 5))
    assert states([large]) == {"waiting"}
    play.end(small)
    assert states([large]) == {"taken"}
