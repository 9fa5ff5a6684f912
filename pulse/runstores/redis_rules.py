"""The rules of `pulse.runstores.ledger` in Lua: what the scripts of `redis_scripts` have in common.

What a script is told stands in `terms`, a JSON object; what else it may touch, in KEYS.
Runs are JSON objects with the names that `Run` has, without what is empty. Instants are
microseconds since 1970, as text: as a JSON number they would lose their last digits.
"""

from typing import Final

from pulse.model import QUEUE, Claim
from pulse.runstores.ledger import FORGOTTEN, NOT_RENEWED, NOT_TAKEN, REBORN, RECOVERIES, REPLACED, RUNNING

TERMS: Final = """
local call = redis.call
local terms = cjson.decode(ARGV[1])

local function text(instant)
    return string.format('%.0f', instant)
end
"""

CLOCK: Final = """
local function time_of_server()
    local time = call('TIME')
    return time[1] * 1000000 + time[2]
end

-- Without a tolerance the instants are made up, and those of the caller count alone.
local now = terms.tolerance and time_of_server() or tonumber(terms.now)
local NOW = text(now)
"""

KEYS: Final = """
local LEDGER, PAUSES, HELD = KEYS[1], KEYS[2], KEYS[3]
"""

# Of all that is written on a server: one more with each change that an earlier release would take for something else.
# Processes of such a release then claim nothing more, and finish what they have begun.
FORMAT: Final = 1
LATER: Final = "it was made by a later release of Pulse (format %s)"

MADE: Final = f"""
local FORMAT = {FORMAT}
local LATER = '{LATER}'
"""

BIRTH: Final = """
local LEEWAY = 60000000  -- further the clock of a caller is not believed

-- The birth of what is known here

local function this_server()
    local info = call('INFO', 'server')
    local _, before = string.find(info, 'run_id:', 1, true)  -- as a pattern it takes three times as long
    return before and string.match(info, '^%w+', before + 1) or ''
end

-- No instant that was given out can be behind it: the clock of the server may have been
-- another server's before, which the caller has gone by.
local function horizon()
    local seen = tonumber(terms.seen or 0)
    for _, bid in ipairs(terms.bids or {}) do
        seen = math.max(seen, tonumber(bid.seen or 0))
    end
    if not terms.tolerance then
        return math.max(now, seen)
    end
    return math.max(seen, math.max(now, math.min(tonumber(terms.now), now + LEEWAY)) + terms.tolerance)
end

local function be_born()
    local before = tonumber(call('HGET', LEDGER, 'born') or 0)
    local born = math.max(before, horizon())
    call('HSET', LEDGER, 'server', this_server(), 'born', text(born), 'format', FORMAT)
    return born
end

-- A server that was started again, or has taken another one's place, may have lost what
-- came last: only what is due after its birth may be given out.
local function birth()
    local server, born, format = unpack(call('HMGET', LEDGER, 'server', 'born', 'format'))
    if format and tonumber(format) > FORMAT then
        error(string.format(LATER, format), 0)
    end
    return server == this_server() and tonumber(born or 0) or be_born()
end
"""

WON: Final = Claim.WON.value  # the whole answer, if there is no more to say: the cursor is at the fire

WORDS: Final = f"""
local FORGOTTEN = '{FORGOTTEN}'
local REBORN = '{REBORN}'
local RUNNING = '{RUNNING}'
local REPLACED = '{REPLACED}'
local NOT_RENEWED = '{NOT_RENEWED}'
local NOT_TAKEN = '{NOT_TAKEN}'
local QUEUE = '{QUEUE}'
local WON = '{WON}'
local LATE = '%.1f s late, later than its grace allows'
local LOCKED = '%s is running, and has the lock %s, too'
local RECOVERIES = {RECOVERIES}
"""

RULES: Final = """
local TASK, HISTORY  -- of the task whose turn it is

local function turn_to(number)
    TASK, HISTORY = KEYS[2 * number + 2], KEYS[2 * number + 3]
end

local function changed(run, changes)
    local copy = {}
    for name, value in pairs(run) do copy[name] = value end
    for name, value in pairs(changes) do copy[name] = value end
    return copy
end

-- Held runs: all by id, and for each track their ids

local function track_of(run)
    return run.place and run.task .. '@' .. run.place or run.task
end

local known_ids = {}  -- by track, as this step has read or left them

local function know_ids(track, written)
    known_ids[track] = written and cjson.decode(written) or {}
    return known_ids[track]
end

local function ids_at(track)
    return known_ids[track] or know_ids(track, call('HGET', LEDGER, 'held ' .. track))
end

local function keep_ids(track, ids)
    known_ids[track] = ids
    if #ids > 0 then
        call('HSET', LEDGER, 'held ' .. track, cjson.encode(ids))
    else
        call('HDEL', LEDGER, 'held ' .. track)
    end
end

local function ids_but(track, id)
    local others = {}
    for _, other in ipairs(ids_at(track)) do
        if other ~= id then others[#others + 1] = other end
    end
    return others
end

local function held_as(id)
    local run = call('HGET', HELD, id)
    return run and cjson.decode(run) or nil
end

local function find(id, attempt)
    local run = held_as(id)
    return run and run.attempt == attempt and run or nil
end

local function held_at(track)
    local runs = {}
    for _, id in ipairs(ids_at(track)) do
        local run = held_as(id)
        if run then
            runs[#runs + 1] = run
        else
            keep_ids(track, ids_but(track, id))  -- the server has evicted it
        end
    end
    return runs
end

local function holder_of(lock)
    local id = call('HGET', LEDGER, 'lock ' .. lock)
    local run = id and held_as(id)
    return run and run.started and run.lock == lock and run or nil
end

local function hold(run)
    local track = track_of(run)
    local ids = ids_but(track, run.id)
    ids[#ids + 1] = run.id
    keep_ids(track, ids)
    call('HSET', HELD, run.id, cjson.encode(run))
    if run.lock and run.started then
        call('HSET', LEDGER, 'lock ' .. run.lock, run.id)
    end
end

local function release(run)
    local track = track_of(run)
    keep_ids(track, ids_but(track, run.id))
    call('HDEL', HELD, run.id)
    if run.lock and call('HGET', LEDGER, 'lock ' .. run.lock) == run.id then
        call('HDEL', LEDGER, 'lock ' .. run.lock)
    end
end

-- Why another run may not begin beside as many as are running; nil if it may
local function why_busy(running, limits)
    if limits.instances and running >= limits.instances then
        return RUNNING
    end
    local holder = limits.lock and holder_of(limits.lock)
    return holder and string.format(LOCKED, holder.task, limits.lock_shown) or nil
end

-- Records

local ran_on  -- the last day on which a run has ended, once it was looked up

local function count_day(day)
    ran_on = ran_on or tonumber(call('HGET', LEDGER, 'ran_on') or -1)
    if day == ran_on then
        call('HINCRBY', LEDGER, 'ran', 1)
    elseif day > ran_on then
        call('HSET', LEDGER, 'ran_on', day, 'ran', 1)
        ran_on = day
    end
end

-- As `timing` in the ledger has it
local function timing(run)
    if not run.duration then
        return 0, 0, 0
    end
    local late = (tonumber(run.started) - tonumber(run.due)) / 1000000
    return 1, math.max(run.duration, 0), math.max(late, 0)
end

-- All is read at once and written at once: each call takes the server longer than what it adds.
local function count_run(run)
    local timed, seconds, late = timing(run)
    local last = run.outcome == 'success' and 'last_success' or 'last_finished'  -- else the same field once more
    local known = call('HMGET', TASK, run.outcome, 'timed', 'seconds', 'seconds_late')
    call(
        'HSET', TASK, 'last_finished', run.finished, last, run.finished, run.outcome, (known[1] or 0) + run.count,
        'timed', (known[2] or 0) + timed, 'seconds', (known[3] or 0) + seconds,
        'seconds_late', (known[4] or 0) + late
    )
    count_day(math.floor(tonumber(run.finished) / 86400000000))
end

local function count(run)
    if run.started then
        count_run(run)
    else
        call('HINCRBY', TASK, run.outcome, run.count)
    end
end

local function append(run, record)
    if call('LPUSH', HISTORY, record) > terms.history then
        call('LTRIM', HISTORY, 0, terms.history - 1)
    end
    count(run)
end

-- Where the newest record does not reach up to the cursor, an instant behind it is still being run
local function is_continued_by(newest, run, cursor)
    return newest.outcome == run.outcome and newest.reason == run.reason
        and newest.trigger == run.trigger and newest.place == run.place
        and run.trigger ~= 'manual'
        and newest.due == cursor
end

local function joined(newest, run)
    return changed(newest, {
        first_due = newest.first_due or newest.due,
        due = run.due,
        finished = run.finished,
        count = newest.count + run.count,
    })
end

-- The newest record, if another one may continue it; what a run has written would take long to read.
local function newest_unrun()
    local record = call('LINDEX', HISTORY, 0)
    return record and not string.find(record, '"started":', 1, true) and cjson.decode(record)
end

-- `cursor`: the last instant before those that nobody ran
local function note(run, cursor)
    local newest = newest_unrun()
    if newest and is_continued_by(newest, run, cursor) then
        call('LSET', HISTORY, 0, cjson.encode(joined(newest, run)))
        count(run)
    else
        append(run, cjson.encode(run))
    end
end

local function another_attempt(run, trigger, at)
    return {
        id = run.id, task = run.task, due = run.due, trigger = trigger, attempt = run.attempt + 1,
        expires = at, place = run.place, recovers = run.recovers, lock = run.lock, count = 1,
    }
end
"""

LOSSES: Final = """
local born  -- set by the steps that give runs out

-- Lost runs

local function why_lost(run)
    if run.expires and tonumber(run.expires) < now then
        return run.owner == QUEUE and NOT_TAKEN or NOT_RENEWED
    end
    return terms.gone and terms.gone[run.id .. '/' .. run.attempt]  -- what the caller can see, and the server cannot
end

local function is_living(run)
    return terms.living and terms.living[run.id .. '/' .. run.attempt]
end

local function lose(run, reason)
    local record = changed(run, {finished = NOW, outcome = 'lost', reason = reason})
    if run.owner == QUEUE then  -- nobody has ever begun it
        record.outcome, record.started = 'missed', nil
    end
    release(run)
    append(record, cjson.encode(record))
    -- What was due before the birth may have been run again already.
    if run.recovers and run.attempt < RECOVERIES and tonumber(run.due) > born then
        hold(another_attempt(run, 'recover', NOW))
    end
    return record
end

local has_pauses  -- whether any task is paused, once it was looked up

local function pause_now(task)
    if has_pauses == nil then
        has_pauses = call('EXISTS', PAUSES) == 1
    end
    local pause = has_pauses and call('HGET', PAUSES, task)
    pause = pause and cjson.decode(pause)
    if pause and (not pause['until'] or now < tonumber(pause['until'])) then
        return pause
    end
end
"""

JUDGEMENT: Final = """
-- A bid: the fire, what its task observes (`Limits`), and what the caller knows of its track

local function answer(word, bid, more)
    more = more or {}
    more.answer, more.cursor = word, bid.cursor
    return more
end

local function is_manual(bid)
    return bid.fire.trigger == 'manual'  -- a call by hand stands beside the schedule
end

local function unclaimed(bid, outcome, reason)
    return changed(bid.fire, {finished = NOW, outcome = outcome, reason = reason})
end

local function move_cursor(bid, to)
    call('HSET', LEDGER, 'cursor ' .. bid.track, to)
    bid.cursor = to
end

local function pass_over(bid)
    if is_manual(bid) then
        return nil
    end
    local cursor = bid.cursor
    move_cursor(bid, bid.fire.due)
    if not bid.passed_over then
        return nil
    end
    local reason = tonumber(bid.passed_over.due) <= born and REBORN or bid.passed_over.reason
    local record = changed(bid.passed_over, {finished = NOW, reason = reason})
    note(record, cursor)
    return record
end

-- Whether the attempt that a fire is waits to be made without anybody's hand: its record is still to come
local function waits(fire)
    local held = fire.attempt > 1 and held_as(fire.id)
    return held and held.attempt == fire.attempt
end

local function dismiss(word, bid, outcome, reason)
    local cursor = bid.cursor
    local missed = pass_over(bid)
    local record = unclaimed(bid, outcome, reason)
    if not waits(bid.fire) then
        note(record, missed and missed.due or cursor)
    end
    return answer(word, bid, {run = record, missed = missed})
end

local function refuse(bid)
    move_cursor(bid, text(is_manual(bid) and now or math.max(now, tonumber(bid.fire.due))))
    local record = unclaimed(bid, 'missed', FORGOTTEN)
    append(record, cjson.encode(record))
    return answer('refused', bid, {run = record})
end

-- Whether the further attempt that a fire is has begun, or has a record: then nobody makes it again
local function is_made(fire)
    local held = held_as(fire.id)
    if held and (held.attempt > fire.attempt or (held.started and held.attempt == fire.attempt)) then
        return true
    end
    local mine = '"id":' .. cjson.encode(fire.id)
    for _, record in ipairs(call('LRANGE', HISTORY, 0, -1)) do
        record = string.find(record, mine, 1, true) and cjson.decode(record)
        if record and record.id == fire.id and record.attempt >= fire.attempt then
            return true
        end
    end
    return false
end

-- The answer to whoever cannot have the fire at all; nil if it is to be had. `again` asks
-- the caller to come back with what lies between that cursor and the fire.
local function judge(bid)
    local fire = bid.fire
    local due = tonumber(fire.due)
    bid.track = track_of(fire)
    local cursor, ids = unpack(call('HMGET', LEDGER, 'cursor ' .. bid.track, 'held ' .. bid.track))
    bid.cursor = cursor or nil
    know_ids(bid.track, ids)
    if not cursor then
        return refuse(bid)
    end
    if is_manual(bid) then
        return fire.attempt > 1 and is_made(fire) and answer('taken', bid) or nil
    end
    if due <= tonumber(cursor) then
        return answer('taken', bid)
    end
    if bid.seen and tonumber(cursor) < tonumber(bid.seen) then
        born = be_born()  -- it has gone back: somebody has put older data in its place
    end
    if cursor ~= bid.seen then
        return answer('again', bid)
    end
    if due <= born then
        return dismiss('stale', bid, 'missed', REBORN)
    end
    local pause = pause_now(fire.task)
    if pause then
        return dismiss('paused', bid, 'skipped', pause.reason)
    end
end

-- The instant of it all, and a line for each bid: redis-py takes longer to read a list.
local function settle(decide)
    born = birth()
    local lines = {NOW}
    for number, bid in ipairs(terms.bids) do
        turn_to(number)
        local decision = decide(bid)
        lines[number + 1] = decision == WON and WON or cjson.encode(decision)
    end
    return table.concat(lines, '\\n')
end
"""

TIME: Final = TERMS + CLOCK
LEDGER: Final = TIME + KEYS + MADE + BIRTH + WORDS + RULES + LOSSES
