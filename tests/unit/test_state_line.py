"""The line before the connections to Redis: whose turn it is, and when nobody waits any longer."""

import asyncio
from functools import wraps

import pytest

from pulse.errors import StoreUnavailableError
from pulse.state.link.line import Line

SPAN = 2.0  # seconds


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes when a test says so."""

    now = 0.0

    def time(self):
        return self.now


def run(test):
    @wraps(test)
    def on_a_loop():
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(test())

    return on_a_loop


async def turns():
    """Let all tasks go as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def lapse(seconds):
    asyncio.get_running_loop().now += seconds
    await turns()


def comers(line, count, came):
    async def come(number):
        await line.enter()
        came.append(number)

    return [asyncio.ensure_future(come(number)) for number in range(count)]


@run
async def test_as_many_pass_as_there_are_places_and_the_others_in_the_order_of_their_coming():
    line, came = Line(2, SPAN), []
    tasks = comers(line, 5, came)
    await turns()
    assert came == [0, 1]

    for number in (2, 3, 4):
        line.leave(is_answered=True)
        await turns()
        assert came == list(range(number + 1))

    await asyncio.gather(*tasks)


@run
async def test_a_place_that_nobody_waits_for_is_free_again():
    line = Line(1, SPAN)

    for _ in range(3):
        await line.enter()
        line.leave(is_answered=True)

    assert (await asyncio.gather(line.enter(), return_exceptions=True)) == [None]


@run
async def test_who_is_cancelled_in_the_line_is_passed_over():
    line, came = Line(1, SPAN), []
    tasks = comers(line, 3, came)
    await turns()

    tasks[1].cancel()
    await turns()
    line.leave(is_answered=True)
    await turns()

    assert came == [0, 2]


@run
async def test_who_is_cancelled_at_his_turn_hands_the_place_on():
    line, came = Line(1, SPAN), []
    tasks = comers(line, 3, came)
    await turns()

    line.leave(is_answered=True)  # the second has his turn, and does not know it yet
    tasks[1].cancel()
    await turns()

    assert came == [0, 2]
    assert tasks[1].cancelled()


@run
async def test_who_waits_while_nobody_is_answered_is_told_so():
    line, came = Line(1, SPAN), []
    tasks = comers(line, 3, came)
    await turns()

    await lapse(SPAN)
    line.leave(is_answered=False)  # the first had an error, the second has his turn
    await turns()
    await lapse(SPAN)

    with pytest.raises(StoreUnavailableError, match="all connections wait for it"):
        await tasks[2]
    assert came == [0, 1]


@run
async def test_who_comes_behind_an_outage_waits_as_long_for_an_answer():
    line = Line(1, SPAN)
    await line.enter()

    for _ in range(2):
        task = asyncio.ensure_future(line.enter())
        await turns()
        await lapse(SPAN)
        assert not task.done()
        await lapse(SPAN)
        assert isinstance(task.exception(), StoreUnavailableError)


@run
async def test_who_waits_while_others_are_answered_waits_on():
    line, came = Line(1, SPAN), []
    tasks = comers(line, 20, came)

    for _ in range(19):
        await turns()
        await lapse(SPAN)
        line.leave(is_answered=True)
    await asyncio.gather(*tasks)

    assert came == list(range(20))


@run
async def test_a_span_in_which_the_event_loop_itself_stood_still_is_no_outage():
    line, came = Line(1, SPAN), []
    tasks = comers(line, 2, came)
    await turns()

    await lapse(10 * SPAN)  # the answer is there, and who waits for it was not woken yet
    line.leave(is_answered=True)
    await asyncio.gather(*tasks)

    assert came == [0, 1]


@run
async def test_who_is_cancelled_while_he_is_refused_gives_no_place_away():
    line, came = Line(1, SPAN), []
    tasks = comers(line, 2, came)
    await turns()
    await lapse(SPAN)

    loop = asyncio.get_running_loop()
    loop.now += SPAN  # in the next turn the second is refused; in the one behind he is cancelled, before he knows
    loop.call_soon(loop.call_soon, tasks[1].cancel)
    await asyncio.wait(tasks)
    late = comers(line, 1, came)
    await turns()

    assert came == [0]  # the first has the place still
    late[0].cancel()
    await asyncio.wait(late)
