"""What Redis does in one atomic step: each change looks at what is there, and keeps its indices right.

An index is a sorted set of what it points at, by the millisecond when that expires; it is
trimmed by every use, and expires itself with the last thing that it points at. All times are
those of the Redis server, so that the clocks of hosts do not matter; records hold microseconds.
"""

from dataclasses import dataclass
from hashlib import sha1
from typing import Final


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name under which Redis keeps it."""

    text: str
    sha: str


_COMMON: Final = """
local time = redis.call('TIME')
local past = time[1] * 1000 + math.floor(time[2] / 1000)  -- milliseconds, as expiries are
-- Microseconds, which no call is as short as: in milliseconds a record would seem older than the call that made it.
local now = time[1] * 1000000 + time[2]

local function whole(number)  -- Lua would write large ones as 1.7e+15
  return string.format('%.0f', number)
end

local function tidy(index)  -- how many it pointed at that have expired
  local gone = redis.call('ZREMRANGEBYSCORE', index, '-inf', '(' .. whole(past))
  local last = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')[2]
  if last == 'inf' then
    redis.call('PERSIST', index)
  elseif last then
    redis.call('PEXPIREAT', index, whole(tonumber(last)))
  end
  return gone
end

local function keep(key, index, member, span)  -- for so many microseconds; '' for ever
  if span == '' then
    redis.call('PERSIST', key)
    redis.call('ZADD', index, '+inf', member)
  else
    -- A record does not end before it says so; nor at an instant that Redis cannot count to, at which it would
    -- fail with half of the record written.
    local ends = whole(math.min(math.ceil((now + span) / 1000), 9e18))
    redis.call('PEXPIREAT', key, ends)
    redis.call('ZADD', index, ends, member)
  end
  tidy(index)
end

local function drop(key, member)  -- whether it was there
  local index = redis.call('HGET', key, 'index')
  if not index then
    return 0
  end
  redis.call('DEL', key)
  redis.call('ZREM', index, member)
  tidy(index)
  return 1
end

local function put(fields)  -- KEYS: record, index; ARGV: member, span, field, value, ...
  drop(KEYS[1], ARGV[1])
  redis.call('HSET', KEYS[1], 'index', KEYS[2], unpack(fields))
  for at = 3, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  end
  keep(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
  return whole(now)
end
"""


def _script(text: str, common: str = _COMMON) -> Script:
    whole = common + text
    return Script(whole, sha1(whole.encode(), usedforsecurity=False).hexdigest())


PUT: Final = _script("return put({'created', whole(now)})")

DROP: Final = _script("return drop(KEYS[1], ARGV[1])")

# An update never makes a record again that has expired since somebody looked.
UPDATE: Final = _script("""
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
""")

MEMBERS: Final = _script("""
tidy(KEYS[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)
""")

COUNT: Final = _script("""
tidy(KEYS[1])
return redis.call('ZCARD', KEYS[1])
""")

TIDY: Final = _script("""
local gone = 0
for _, index in ipairs(KEYS) do
  gone = gone + tidy(index)
end
return gone
""")

# KEYS: connection; ARGV: member, span
BEAT: Final = _script("""
local index = redis.call('HGET', KEYS[1], 'index')
if not index then
  return 0
end
redis.call('HSET', KEYS[1], 'beat', whole(now))
keep(KEYS[1], index, ARGV[1], ARGV[2])
return 1
""")

# KEYS: session; ARGV: member, span or '' for that of its creation
REFRESH: Final = _script("""
local session = redis.call('HMGET', KEYS[1], 'index', 'ttl')
if not session[1] then
  return 0
end
local span = ARGV[2]
if span == '' then
  span = session[2]
end
if span ~= '' then
  redis.call('HSET', KEYS[1], 'since', whole(now), 'span', span)
  keep(KEYS[1], session[1], ARGV[1], span)
end
return 1
""")

_KEEP_DATA: Final = (
    _COMMON
    + """
local function keep_data(key, member, data, span)  -- span of a session without a user; '' for that of its creation
  local session = redis.call('HMGET', key, 'index', 'user', 'ttl')
  redis.call('HSET', key, 'data', data)
  if span == '' then
    span = session[3]
  end
  if session[2] == '' and span ~= '' then
    redis.call('HSET', key, 'ttl', span, 'since', whole(now), 'span', span)
    keep(key, session[1], member, span)
  end
  return 1
end
"""
)

# KEYS: session; ARGV: member, data, span, and maybe what the data, or else the metadata, must still be; -1 if they are
# not. The data have a field of their own: what else is in the metadata may be changed at the same time.
DATA: Final = _script(
    """
local session = redis.call('HMGET', KEYS[1], 'index', 'data', 'metadata')
if not session[1] then
  return 0
end
if ARGV[4] and ARGV[4] ~= (session[2] or session[3]) then
  return -1
end
return keep_data(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
""",
    common=_KEEP_DATA,
)

# KEYS: session, that which it is to be; ARGV: member, new member, new id, data, span
MOVE: Final = _script(
    """
local index = redis.call('HGET', KEYS[1], 'index')
if not index then
  -- Sent twice, perhaps: the first time it was moved, and only the answer was lost.
  return redis.call('HGET', KEYS[2], 'data') == ARGV[4] and 1 or 0
end
if KEYS[1] ~= KEYS[2] then
  drop(KEYS[2], ARGV[2])
  redis.call('RENAME', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[2], 'id', ARGV[3])
  local ends = redis.call('ZSCORE', index, ARGV[1])
  if ends then  -- else Redis was full, and has evicted the index
    redis.call('ZADD', index, ends, ARGV[2])
    redis.call('ZREM', index, ARGV[1])
  end
end
return keep_data(KEYS[2], ARGV[2], ARGV[4], ARGV[5])
""",
    common=_KEEP_DATA,
)

RECORDS: Final = _script("""
tidy(KEYS[1])
local found = {}
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local record = redis.call('HGETALL', key)
  if #record > 0 then
    found[#found + 1] = record
  end
end
return found
""")

# KEYS: session, roles
RIGHTS: Final = _script("""
return {redis.call('HMGET', KEYS[1], 'roles', 'metadata'), redis.call('HGETALL', KEYS[2])}
""")

# KEYS: stream; ARGV: token, event, greatest length, milliseconds until an unused stream ends.
# The entries are numbered, so that a subscriber sees whether it has missed any.
PUBLISH: Final = _script(
    """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local number = 1
if last and last[2][1] == 'n' then
  number = (tonumber(last[2][2]) or 0) + 1
end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'n', string.format('%.0f', number), 't', ARGV[1], 'e', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return number
""",
    common="",
)

# KEYS: the stream of a bell; it ends by itself when nobody rings any more.
RING: Final = _script(
    """
redis.call('XADD', KEYS[1], 'MAXLEN', 1, '*', 'r', '1')
redis.call('PEXPIRE', KEYS[1], 60000)
return 1
""",
    common="",
)

# KEYS: stream. Id and number of its last entry, without what that carries.
LAST: Final = _script(
    """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then
  return {'0-0', '0'}
end
return {last[1], last[2][1] == 'n' and last[2][2] or '0'}
""",
    common="",
)
