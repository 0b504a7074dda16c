/* SPDX-License-Identifier: BSD-2-Clause */
/* A script runs alone and its writes reach the append-only file as one transaction, but Redis
 * does not undo what a failing script has already written. So whatever can fail is tried before
 * the first write: versions are compared, types and rights are looked at. What no script can
 * foresee - memory, a read-only replica, a disk that is full - Redis checks at the first write,
 * and not again after it. */
#include "gateway/store/scripts.h"

static const char read_text[] =
    "local now = redis.call('TIME')\n"
    /* Only decoration: its being broken must refuse nobody. */
    "local seen = redis.pcall('HGET', KEYS[2], 'at')\n"
    "if type(seen) ~= 'string' then seen = '' end\n"
    "local reply = {now[1], now[2], redis.call('HGETALL', KEYS[1]), seen}\n"
    /* One question for the common answer: nothing is denied. */
    "if redis.call('EXISTS', unpack(KEYS, 3)) > 0 then\n"
    "  for i = 3, #KEYS do reply[i + 2] = redis.call('EXISTS', KEYS[i]) end\n"
    "end\n"
    "return reply\n";

static const char commit_text[] =
    "local at, key = 0, 4\n"
    "local function take() at = at + 1; return ARGV[at] end\n"
    "local function take_list()\n"
    "  local n = tonumber(take())\n"
    "  at = at + n\n"
    "  return {unpack(ARGV, at - n + 1, at)}\n"
    "end\n"
    "local function take_key() key = key + 1; return KEYS[key] end\n"
    "local function is(name, wanted)\n"
    "  local found = redis.call('TYPE', name).ok\n"
    "  return found == wanted or found == 'none'\n"
    "end\n"
    "local function wrong(name)\n"
    "  return redis.error_reply('WRONGTYPE ' .. name .. ' holds the wrong kind of value')\n"
    "end\n"
    "\n"
    "local expected, events_max, record = take(), take(), take_list()\n"
    "if expected ~= '' and (redis.call('HGET', KEYS[1], 'version') or '0') ~= expected then\n"
    "  return 0\n"
    "end\n"
    "local name, since, stalled\n"
    "if expected ~= '' then\n"
    "  name, since, stalled = take(), take(), take()\n"
    /* Changes nothing, but fails as the change below would: where the set is none, or where the
     * user's rights are those of a version that had no sets. */
    "  for i = 3, 4 do redis.call('ZADD', KEYS[i], 'XX', 0, '') end\n"
    "end\n"
    "local denials = {}\n"
    "for i = 1, tonumber(take()) do\n"
    "  local d = {key = take_key(), ends = take(), keeps = take(), fields = take_list()}\n"
    "  if not is(d.key, 'hash') then return wrong(d.key) end\n"
    "  denials[i] = d\n"
    "end\n"
    "local allowed = {}\n"
    "for i = 1, tonumber(take()) do allowed[i] = take_key() end\n"
    "local n_events = tonumber(take())\n"
    "if n_events > 0 and not is(KEYS[2], 'stream') then return wrong(KEYS[2]) end\n"
    "\n"
    "for i = 1, n_events do\n"
    "  local once, fields = take(), take_list()\n"
    "  if once == '0' or redis.call('SET', take_key(), '1', 'NX', 'PX', once) then\n"
    "    redis.call('XADD', KEYS[2], 'MAXLEN', '~', events_max, '*', unpack(fields))\n"
    "  end\n"
    "end\n"
    "for _, name in ipairs(allowed) do redis.call('DEL', name) end\n"
    "for _, d in ipairs(denials) do\n"
    "  local held = d.keeps == '1' and redis.call('HGET', d.key, 'until')\n"
    /* Whatever is no number counts as "for ever". */
    "  local stays = held and ((tonumber(held) or 0) == 0 or\n"
    "    (d.ends ~= '0' and tonumber(held) >= tonumber(d.ends)))\n"
    "  if not stays then\n"
    "    redis.call('DEL', d.key)\n"
    "    redis.call('HSET', d.key, unpack(d.fields))\n"
    "    if d.ends ~= '0' then redis.call('PEXPIREAT', d.key, d.ends) end\n"
    "  end\n"
    "end\n"
    "if expected ~= '' then\n"
    "  redis.call('DEL', KEYS[1])\n"
    "  redis.call('HSET', KEYS[1], unpack(record))\n"
    "  for i = 3, 4 do\n"
    "    if since ~= '' and (stalled == '1') == (i == 4) then\n"
    "      redis.call('ZADD', KEYS[i], since, name)\n"
    "    else\n"
    "      redis.call('ZREM', KEYS[i], name)\n"
    "    end\n"
    "  end\n"
    "end\n"
    "return 1\n";

static const char pending_text[] =
    "local now = redis.call('TIME')\n"
    "local before = now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[1]\n"
    "return {redis.call('ZCARD', KEYS[1]), redis.call('ZCARD', KEYS[2]),\n"
    "  redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', before),\n"
    "    'LIMIT', 0, ARGV[2])}\n";

const struct script script_read = {
    .sha1 = {"92ed8a6cb15e8838e78d187045ebe99e81953d3f", 40},
    .text = {read_text, sizeof(read_text) - 1},
};

const struct script script_commit = {
    .sha1 = {"6994dde09093c14a13031a47a974da81d50a5729", 40},
    .text = {commit_text, sizeof(commit_text) - 1},
};

const struct script script_pending = {
    .sha1 = {"52179a8c3610f4ae9c4cf86f5ac3a6a4794f8610", 40},
    .text = {pending_text, sizeof(pending_text) - 1},
};
