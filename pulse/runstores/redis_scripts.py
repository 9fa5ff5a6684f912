"""The rules of `pulse.runstores.ledger`, as scripts that a Redis server executes in one step each.

A step reads and changes several things that belong together. Redis has no transaction that
may look at what it reads, but it executes nothing else while a script runs, so each step is
one script, and one way to the server and back.

What they have in common, and in which words they are told what, stands in `redis_rules`.

Claims and finishes come several at a time. What the server does for a script as a whole (it
reads the terms, the clock and its own identity, and makes each function anew) takes it longer
than to judge one claim.
"""

from dataclasses import dataclass, field
from hashlib import sha1
from typing import Final

from pulse.runstores.redis_rules import BIRTH, JUDGEMENT, KEYS, LEDGER, MADE, RULES, TERMS, TIME, WORDS


@dataclass(frozen=True, slots=True)
class Script:
    """A step, and the name by which a server that has seen it knows it."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        # Redis names scripts so; nothing is kept secret by it.
        object.__setattr__(self, "digest", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


# Claims, and what is recorded instead


_CLAIM: Final = """
local LEASE_ENDS = text(now + terms.lease)

local function win(bid)
    local run = bid.fire
    run.owner, run.started, run.expires, run.lease = terms.owner, NOW, LEASE_ENDS, terms.lease
    run.recovers, run.lock = bid.recovers, bid.lock
    hold(run)
end

local function wait_for(running, bid, lost)
    for _, run in ipairs(running) do
        if bid.replaces and not run.stop then
            hold(changed(run, {stop = REPLACED}))
        end
    end
    return answer('wait', bid, {lost = lost})
end

local function count_recovering(held)
    local recovering = 0
    for _, run in ipairs(held) do
        recovering = recovering + ((not run.started and run.trigger == 'recover') and 1 or 0)
    end
    return recovering
end

local function is_early(bid)
    return terms.tolerance and not is_manual(bid) and tonumber(bid.fire.due) > now + terms.tolerance
end

-- What is held of the track of a bid and, at whatever place, of the run of which it is another attempt
local function beside(bid)
    local held = held_at(bid.track)
    local same = bid.fire.attempt > 1 and held_as(bid.fire.id)
    if same and track_of(same) ~= bid.track then
        held[#held + 1] = same
    end
    return held
end

-- What the caller has to see to before anything is done: whether the one who has the lock of a bid still lives, or
-- that it is lost. To record it here would be to use the keys of another task.
local function about_holder(bid)
    local holder = bid.lock and holder_of(bid.lock)
    if holder and why_lost(holder) then
        return answer('again', bid, {lost_holder = holder})
    end
    if holder and not (holder.owner == terms.owner or is_living(holder)) then
        return answer('again', bid, {held = {holder}})
    end
end

local function claim(bid)
    if is_early(bid) then
        return answer('wait', bid)
    end
    local judged = judge(bid)
    if judged then
        return judged
    end
    if bid.latest and now > tonumber(bid.latest) then
        return dismiss('stale', bid, 'missed', string.format(LATE, (now - tonumber(bid.fire.due)) / 1000000))
    end
    local unsettled = about_holder(bid)
    if unsettled then
        return unsettled
    end
    local held, running, doubtful, reasons = beside(bid), {}, false, {}
    for _, run in ipairs(held) do
        reasons[run] = run.started and why_lost(run)
        if run.started and not reasons[run] then
            running[#running + 1] = run
            doubtful = doubtful or not (run.owner == terms.owner or is_living(run))
        end
    end
    if doubtful and why_busy(#running, bid) then
        return answer('again', bid, {held = running})  -- one of their processes may have ended
    end
    local lost
    for _, run in ipairs(held) do
        if reasons[run] then
            lost = lost or {}
            lost[#lost + 1] = lose(run, reasons[run])
        end
    end
    -- A lost run that recovers goes first: behind the next instant it would be out of order.
    local reason = why_busy(#running + (is_manual(bid) and 0 or count_recovering(held_at(bid.track))), bid)
    for _, run in ipairs(running) do
        if run.id == bid.fire.id then
            reason = RUNNING  -- two attempts of one run are never under way, whatever the limits
        end
    end
    if reason and bid.waits and not is_manual(bid) then
        return wait_for(running, bid, lost)
    end
    if reason then
        return changed(dismiss('busy', bid, 'skipped', reason), {lost = lost})
    end
    for _, run in ipairs(held) do
        if not run.started and (run.trigger == 'retry' or run.id == bid.fire.id) then
            release(run)
        end
    end
    local missed = pass_over(bid)
    win(bid)
    local is_all = not (missed or lost or is_manual(bid))
    return is_all and WON or answer(WON, bid, {missed = missed, lost = lost})
end

return settle(claim)
"""

_DISMISS: Final = """
return settle(function(bid) return judge(bid) or dismiss('stale', bid, terms.outcome, terms.reason) end)
"""

# Held runs

_FINISH: Final = """
local function finish(ended, record)
    local run = find(ended.id, ended.attempt)
    if not run then
        return '0'
    end
    release(run)
    append(ended, record)
    if terms.again_at then
        hold(another_attempt(run, ended.started and 'retry' or 'recover', terms.again_at))
    end
    return '1'
end

local answers = {}
for number, ended in ipairs(terms.runs) do
    turn_to(number)
    answers[number] = finish(ended, ARGV[number + 1])
end
return table.concat(answers)
"""

_REAP: Final = """
born = birth()
local lost = {}
for number, suspect in ipairs(terms.suspects) do
    turn_to(number)
    local run = find(suspect.id, suspect.attempt)
    local reason = run and run.started and why_lost(run)
    if reason then
        lost[#lost + 1] = cjson.encode(lose(run, reason))
    end
end
return lost
"""

_ADOPT: Final = """
born = birth()
turn_to(1)
local run = find(terms.run.id, terms.run.attempt)
local is_taken_over = run and run.owner == QUEUE and terms.owner ~= QUEUE
if not run or (run.started and not is_taken_over) or not call('HGET', LEDGER, 'cursor ' .. track_of(run)) then
    return false
end
if tonumber(run.due) <= born then  -- another one may have begun it before
    release(run)
    local record = changed(run, {finished = NOW, outcome = 'missed', reason = REBORN})
    append(record, cjson.encode(record))
    return false
end
if not run.started and pause_now(run.task) then
    return false
end
local running = 0
for _, other in ipairs(held_at(track_of(run))) do
    running = running + (other.started and 1 or 0)
end
if why_busy(running, terms) then
    return false
end
local begun = changed(run, {
    owner = terms.owner, started = NOW, expires = text(now + terms.lease), lease = terms.lease,
})
if not run.started then
    begun.lock = terms.lock  -- what was claimed for a queue keeps the one that it has
end
hold(begun)
return cjson.encode(begun)
"""

_RENEW: Final = """
local HELD = KEYS[1]
local lost = {}
for number, mine in ipairs(terms.runs) do
    local run = call('HGET', HELD, mine.id)
    run = run and cjson.decode(run)
    if run and run.attempt == mine.attempt then
        run.expires = terms.tolerance and run.lease and text(now + run.lease) or terms.expires
        call('HSET', HELD, mine.id, cjson.encode(run))
    else
        lost[#lost + 1] = number
    end
end
return lost
"""

_ASK_TO_STOP: Final = """
local HELD = KEYS[1]
local run = call('HGET', HELD, terms.id)
run = run and cjson.decode(run)
if not (run and run.started) then
    return 0
end
run.stop = run.stop or terms.reason
call('HSET', HELD, run.id, cjson.encode(run))
return 1
"""

_REPORT: Final = """
local HELD = KEYS[1]
for id, progress in pairs(terms.progress) do
    local run = call('HGET', HELD, id)
    run = run and cjson.decode(run)
    if run and run.owner == terms.owner then
        run.progress = progress
        call('HSET', HELD, id, cjson.encode(run))
    end
end

-- Most runs are somebody else's, or are not asked to stop: to read all of them would take its time.
local mine = '"owner":' .. cjson.encode(terms.owner)
local stops = {}
for _, text in ipairs(call('HVALS', HELD)) do
    if string.find(text, '"stop":', 1, true) and string.find(text, mine, 1, true) then
        local run = cjson.decode(text)
        if run.stop and run.owner == terms.owner then
            stops[#stops + 1] = {run.id, run.stop}
        end
    end
end
return stops
"""

_LOOK: Final = """
return {NOW, call('HVALS', KEYS[1])}
"""

# Tasks

_REGISTER: Final = """
local INSTANCES = KEYS[4]

if terms.seen or call('EXISTS', LEDGER, HELD) > 0 then
    birth()
else  -- the very first time: nothing can have been forgotten
    call('HSET', LEDGER, 'server', this_server(), 'format', FORMAT)
end

local here = {}
for _, track in ipairs(terms.tracks) do
    here[track] = true
end

local function is_long_gone(track, cursor)
    local place = string.match(track, '@(.*)')
    local after = string.find(place, ':', 1, true) and terms.forget_process_after or terms.forget_host_after
    return tonumber(cursor) < now - after and not here[track] and call('HEXISTS', INSTANCES, place) == 0
end

-- With the attempts that wait there, unless something is under way.
local function forget(track)
    local ids = cjson.decode(call('HGET', LEDGER, 'held ' .. track) or '[]')
    for _, id in ipairs(ids) do
        local run = call('HGET', HELD, id)
        if run and cjson.decode(run).started then
            return
        end
    end
    for _, id in ipairs(ids) do
        call('HDEL', HELD, id)
    end
    call('HDEL', LEDGER, 'cursor ' .. track, 'held ' .. track)
end

local fields, left = call('HGETALL', LEDGER), terms.forgotten_at_once
for number = 1, #fields, 2 do
    local track = string.match(fields[number], '^cursor (.*@.*)')
    if track and left > 0 and is_long_gone(track, fields[number + 1]) then
        forget(track)
        left = left - 1
    end
end
local cursors = {}
for number, track in ipairs(terms.tracks) do
    call('HSETNX', LEDGER, 'cursor ' .. track, terms.since or NOW)
    cursors[number] = call('HGET', LEDGER, 'cursor ' .. track)
end
return cursors
"""

_PURGE: Final = """
local LEDGER, PAUSES, HELD = unpack(KEYS)
for _, track in ipairs(terms.tracks) do
    local ids = call('HGET', LEDGER, 'held ' .. track)
    for _, id in ipairs(ids and cjson.decode(ids) or {}) do
        call('HDEL', HELD, id)
    end
    call('HDEL', LEDGER, 'cursor ' .. track, 'held ' .. track)
end
for _, task in ipairs(terms.tasks) do
    call('HDEL', PAUSES, task)
end
for number = 4, #KEYS do
    call('DEL', KEYS[number])
end
"""

# What people look at

_FIND: Final = """
local mine, found = '"id":' .. cjson.encode(terms.id), {}
for _, record in ipairs(call('LRANGE', KEYS[1], 0, -1)) do
    if string.find(record, mine, 1, true) then
        found[#found + 1] = record
    end
end
return found
"""

# What a run wrote is in Base64: it holds no quotes.
_BRIEF: Final = """
local found = {}
for place, history in ipairs(KEYS) do
    local records = call('LRANGE', history, 0, terms.limit - 1)
    for number, record in ipairs(records) do
        for _, name in ipairs({'body', 'errors', 'log'}) do
            record = string.gsub(record, '"' .. name .. '":"[^"]*"', '"' .. name .. '":""')
        end
        records[number] = record
    end
    found[place] = records
end
return found
"""

_TOTALS: Final = """
local found = {}
for place, task in ipairs(KEYS) do
    found[place] = call('HMGET', task, unpack(terms.fields))
end
return found
"""

_CLEAR: Final = """
local count = call('LLEN', KEYS[1])
call('DEL', KEYS[1])
return count
"""

# Who is there

_BEAT: Final = """
local INSTANCES, CONFIGURATIONS, FINGERPRINTS = unpack(KEYS)
local mine = terms.instance

if call('HEXISTS', FINGERPRINTS, mine.digest) == 0 then
    if not ARGV[2] then
        return false  -- they are sent once, not with every beat
    end
    call('HSET', FINGERPRINTS, mine.digest, ARGV[2])
end

local known, living, is_known = {[mine.digest] = true}, {}, false
for _, one in ipairs(call('HVALS', INSTANCES)) do
    one = cjson.decode(one)
    if tonumber(one.seen) < now - terms.forget_instance_after then
        call('HDEL', INSTANCES, one.owner)
    else
        known[one.digest] = true
        is_known = is_known or (one.owner == mine.owner and one.digest == mine.digest)
    end
    if tonumber(one.seen) + terms.alive > tonumber(mine.seen) then
        living[one.digest] = true
    end
end
call('HSET', INSTANCES, mine.owner, cjson.encode(mine))

-- A process that comes with what nobody lives by any more begins it anew, as when a
-- deployment is rolled back; one that was only frozen does not.
local goes_on, found, own = is_known or living[mine.digest], {}, nil
for _, one in ipairs(call('HVALS', CONFIGURATIONS)) do
    one = cjson.decode(one)
    if one.digest == mine.digest then
        own = goes_on and one or nil
    elseif living[one.digest] then
        found[#found + 1] = {one.digest, one.first_seen}
    elseif not known[one.digest] then
        call('HDEL', CONFIGURATIONS, one.digest)
        call('HDEL', FINGERPRINTS, one.digest)
    end
end
own = own or {digest = mine.digest, first_seen = mine.seen}
call('HSET', CONFIGURATIONS, own.digest, cjson.encode(own))
found[#found + 1] = {own.digest, own.first_seen}
return found
"""


CLAIM: Final = Script(LEDGER + JUDGEMENT + _CLAIM)
DISMISS: Final = Script(LEDGER + JUDGEMENT + _DISMISS)
FINISH: Final = Script(TERMS + KEYS + WORDS + RULES + _FINISH)  # it ended when its runner says
REAP: Final = Script(LEDGER + _REAP)
ADOPT: Final = Script(LEDGER + _ADOPT)
RENEW: Final = Script(TIME + _RENEW)
ASK_TO_STOP: Final = Script(TIME + _ASK_TO_STOP)
REPORT: Final = Script(TIME + _REPORT)
LOOK: Final = Script(TIME + _LOOK)
REGISTER: Final = Script(TIME + KEYS + MADE + BIRTH + _REGISTER)
FIND: Final = Script(TIME + _FIND)
BRIEF: Final = Script(TIME + _BRIEF)
TOTALS: Final = Script(TIME + _TOTALS)
CLEAR: Final = Script(TIME + _CLEAR)
PURGE: Final = Script(TIME + _PURGE)
BEAT: Final = Script(TIME + _BEAT)
