#include "server/state/redis_script.h"

/* A state lives as long as the longest of those that stand on it; without any it goes. */
#define SETTLE                                                                                     \
    "local function settle(state)\n"                                                               \
    "  if not state or state == '' then return end\n"                                              \
    "  local key, users, longest = 'eddy:state:' .. state, 'eddy:users:' .. state, -2\n"           \
    "  for _, user in ipairs(redis.call('SMEMBERS', users)) do\n"                                  \
    "    local left = -2\n"                                                                        \
    "    if redis.call('HGET', user, 'state') == state then\n"                                     \
    "      left = redis.call('PTTL', user)\n"                                                      \
    "    end\n"                                                                                    \
    "    if left == -2 then\n"                                                                     \
    "      redis.call('SREM', users, user)\n"                                                      \
    "    elseif left == -1 or longest == -1 then\n"                                                \
    "      longest = -1\n"                                                                         \
    "    elseif left > longest then\n"                                                             \
    "      longest = math.max(left, 1)\n"                                                          \
    "    end\n"                                                                                    \
    "  end\n"                                                                                      \
    "  for _, name in ipairs({key, users}) do\n"                                                   \
    "    if longest == -2 then\n"                                                                  \
    "      redis.call('UNLINK', name)\n"                                                           \
    "    elseif longest == -1 then\n"                                                              \
    "      redis.call('PERSIST', name)\n"                                                          \
    "    else\n"                                                                                   \
    "      redis.call('PEXPIRE', name, longest)\n"                                                 \
    "    end\n"                                                                                    \
    "  end\n"                                                                                      \
    "end\n"

/* A session with a turn running does not expire under it. */
#define STRETCH                                                                                    \
    "local function stretch(head, lease)\n"                                                        \
    "  local left = redis.call('PTTL', head)\n"                                                    \
    "  if left >= 0 and left < 2 * lease then\n"                                                   \
    "    redis.call('PEXPIRE', head, 2 * lease)\n"                                                 \
    "    settle(redis.call('HGET', head, 'state'))\n"                                              \
    "  end\n"                                                                                      \
    "end\n"

const char redis_script_look[] = "local head, model = KEYS[1], ARGV[1]\n"
                                 "local is = redis.call('HMGET', head, 'record', 'model')\n"
                                 "if not is[1] then return {'absent'} end\n"
                                 "if is[2] ~= model then return {'foreign', is[2]} end\n"
                                 "return {'done', is[1]}\n";

const char redis_script_take[] =
    SETTLE STRETCH "local head, lease = KEYS[1], KEYS[2]\n"
                   "local model, token, life = ARGV[1], ARGV[2], tonumber(ARGV[3])\n"
                   "local is = redis.call('HMGET', head, 'record', 'model')\n"
                   "if not is[1] then return {'absent'} end\n"
                   "if is[2] ~= model then return {'foreign', is[2]} end\n"
                   "if not redis.call('SET', lease, token, 'NX', 'PX', life) and\n"
                   "   redis.call('GET', lease) ~= token then\n"
                   "  return {'busy', redis.call('PTTL', lease)}\n"
                   "end\n"
                   "stretch(head, life)\n"
                   "return {'done', is[1]}\n";

/* One that ran out unnoticed is taken anew as long as nobody has moved the session. */
const char redis_script_renew[] = SETTLE STRETCH
    "local head, lease = KEYS[1], KEYS[2]\n"
    "local token, life, version, created = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]\n"
    "local is = redis.call('HMGET', head, 'version', 'created')\n"
    "local holder = redis.call('GET', lease)\n"
    "if is[1] ~= version or is[2] ~= created or (holder and holder ~= token) then\n"
    "  return {'lost'}\n"
    "end\n"
    "if holder then\n"
    "  redis.call('PEXPIRE', lease, life)\n"
    "else\n"
    "  redis.call('SET', lease, token, 'PX', life)\n"
    "end\n"
    "stretch(head, life)\n"
    "return {'done'}\n";

const char redis_script_leave[] = "local lease, token = KEYS[1], ARGV[1]\n"
                                  "if redis.call('GET', lease) == token then\n"
                                  "  redis.call('DEL', lease)\n"
                                  "end\n"
                                  "return {'done'}\n";

/* No upload is ever there without a time to go. */
const char redis_script_upload[] =
    "local upload, life, field, bytes = KEYS[1], ARGV[1], ARGV[2], ARGV[3]\n"
    "redis.call('HSET', upload, field, bytes)\n"
    "redis.call('PEXPIRE', upload, life)\n"
    "return {'done'}\n";

/* Checks come before the first write, and commands that may be refused for want of memory
 * before those that may not. A token commits once: what it has done is not done again. */
const char redis_script_commit[] =
    SETTLE "local head, lease, upload = KEYS[1], KEYS[2], KEYS[3]\n"
           "local model, token, old, new, created = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]\n"
           "local state, ttl, record = ARGV[6], tonumber(ARGV[7]), ARGV[8]\n"
           "local is = redis.call('HMGET', head, 'version', 'created', 'token', 'state')\n"
           "if is[3] == token and is[1] == new then return {'done'} end\n"
           "if old == '' then\n"
           "  if is[1] then return {'exists'} end\n"
           "else\n"
           "  if not is[1] or is[2] ~= created then return {'absent'} end\n"
           "  if is[1] ~= old or redis.call('GET', lease) ~= token then return {'lost'} end\n"
           "end\n"
           "if state ~= '' then\n"
           "  local key = 'eddy:state:' .. state\n"
           "  if redis.call('EXISTS', key) == 1 then\n"
           "    redis.call('UNLINK', upload)\n"
           "  else\n"
           "    local chunks = redis.call('HGET', upload, 'chunks')\n"
           "    if not chunks or redis.call('HLEN', upload) ~= tonumber(chunks) + 2 then\n"
           "      return {'missing'}\n"
           "    end\n"
           "    redis.call('RENAME', upload, key)\n"
           "  end\n"
           "  redis.call('SADD', 'eddy:users:' .. state, head)\n"
           "end\n"
           "redis.call('HSET', head, 'version', new, 'created', created, 'token', token,\n"
           "           'state', state, 'model', model, 'record', record)\n"
           "if ttl > 0 then\n"
           "  redis.call('PEXPIRE', head, ttl)\n"
           "else\n"
           "  redis.call('PERSIST', head)\n"
           "end\n"
           "settle(state)\n"
           "if is[4] ~= state then settle(is[4]) end\n"
           "if old ~= '' then redis.call('DEL', lease) end\n"
           "return {'done'}\n";

const char redis_script_delete[] =
    SETTLE "local head, lease = KEYS[1], KEYS[2]\n"
           "local model, version, created = ARGV[1], ARGV[2], ARGV[3]\n"
           "local is = redis.call('HMGET', head, 'version', 'model', 'state', 'created')\n"
           "if not is[1] then return {'absent'} end\n"
           "if is[2] ~= model then return {'foreign', is[2]} end\n"
           "if version and (is[1] ~= version or is[4] ~= created) then return {'lost'} end\n"
           "redis.call('DEL', head, lease)\n"
           "settle(is[3])\n"
           "return {'done'}\n";
