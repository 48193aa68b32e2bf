"""Every Redis key of a fleet. All carry the hash tag `{multitude:<fleet>}`, so a fleet lives in one cluster slot.

| key after the tag        | type   | holds                                            | written by     | lives        |
|--------------------------|--------|--------------------------------------------------|----------------|--------------|
| `:worker:<id>`           | string | WorkerLease as protobuf JSON                     | the worker     | its lease    |
| `:load:<worker id>`      | string | WorkerStatus as protobuf JSON, without residency | control planes | redis.ttl_s  |
| `:residency:<worker id>` | hash   | adapter digest -> `host` or `pool`               | control planes | redis.ttl_s  |
| `:request:<id>`          | string | id of the control plane that serves the request  | its owner      | redis.ttl_s  |
| `:control_plane:<id>`    | string | JSON: address, in_flight_count, policy_digest,   | that one       | redis.ttl_s  |
|                          |        | policy_version                                   |                |              |
| `:control_planes`        | zset   | ids of control planes; score: when it last wrote | control planes | for ever     |
|                          |        | its key, in s by Redis' clock                    |                |              |
| `:draining`              | set    | ids of workers that operators take out of        | control planes | for ever     |
|                          |        | service, and `*`                                 |                |              |
| `:policies`              | list   | JSON: version, digest, name, applied_ms,         | control planes | for ever     |
|                          |        | control_plane_id, restored_version; newest       |                |              |
|                          |        | first, `redis.policy_history` at most            |                |              |
| `:policy:<version>`      | string | the applied policy's text                        | control planes | while listed |
| `:tenant_counters`       | hash   | tenant -> virtual token counter of all           | control planes | `:tenants`   |
| `:tenant_tokens`         | hash   | tenant -> tokens used of its quota by all        | control planes | `:tenants`   |
| `:tenants`               | zset   | tenants; score: when one was last charged, in s  | control planes | tenant_ttl_s |
|                          |        | by Redis' clock; those older are taken out       |                |              |
| `:lot:<id>`              | string | number of the last charge of one life of a       | control planes | tenant_ttl_s |
|                          |        | control plane that is in the two hashes          |                |              |

What has a time to live is written again long before it runs out, and after Redis was away. A request's owner claims it
with CLAIM and gives it up with RELEASE; what tenants got is added with CHARGE_TENANTS; policies are applied with
APPLY_POLICY, and put back with RESTORE_POLICY by any control plane that has one in force which a Redis has lost. Each
is one atomic script. Everything here can be lost: who has it writes it again.
"""

from dataclasses import dataclass
from typing import Final

# KEYS[1] request key; ARGV: owner, ttl in ms. Returns the other owner, or '' if the claim holds.
CLAIM: Final = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return owner end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''
"""

# KEYS request keys; ARGV: owner. Deletes those that are the owner's; returns how many.
RELEASE: Final = """
local count = 0
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then count = count + redis.call('DEL', key) end
end
return count
"""

# KEYS: history list; ARGV: entry without version, text, most entries, prefix of text keys, a version known to be taken.
# Adds the entry under the next version, forgets what is beyond the bound, and returns the version.
APPLY_POLICY: Final = """
local newest, version = redis.call('LINDEX', KEYS[1], 0), tonumber(ARGV[5])
if newest then version = math.max(version, cjson.decode(newest)['version']) end
version = version + 1
local entry = cjson.decode(ARGV[1])
entry['version'] = version
redis.call('SET', ARGV[4] .. version, ARGV[2])
redis.call('LPUSH', KEYS[1], cjson.encode(entry))
for _, gone in ipairs(redis.call('LRANGE', KEYS[1], ARGV[3], -1)) do
  redis.call('DEL', ARGV[4] .. cjson.decode(gone)['version'])
end
redis.call('LTRIM', KEYS[1], 0, ARGV[3] - 1)
return version
"""

# KEYS: history list, text key; ARGV: entry, text. Adds the entry back if everything there is older; returns 1 then.
RESTORE_POLICY: Final = """
local newest = redis.call('LINDEX', KEYS[1], 0)
if newest and cjson.decode(newest)['version'] >= cjson.decode(ARGV[1])['version'] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('LPUSH', KEYS[1], ARGV[1])
return 1
"""

# KEYS: counters, tokens used, tenants, lot; ARGV: the lot's number, ttl in s, how many tenants have counters, tenant
# and amount for each of these, then tenant and amount of tokens used for the rest. Adds the lot unless it is in already
# and takes out tenants that were not charged for so long, a hundred at a time; returns the last lot's number and both
# hashes.
CHARGE_TENANTS: Final = """
local now, number, ttl = tonumber(redis.call('TIME')[1]), tonumber(ARGV[1]), tonumber(ARGV[2])
local last = tonumber(redis.call('GET', KEYS[4]) or '0')
if number > last then
  local first_used = 4 + 2 * tonumber(ARGV[3])
  for index = 4, #ARGV, 2 do
    redis.call('HINCRBYFLOAT', index < first_used and KEYS[1] or KEYS[2], ARGV[index], ARGV[index + 1])
    redis.call('ZADD', KEYS[3], now, ARGV[index])
  end
  redis.call('SET', KEYS[4], number, 'EX', ttl)
  last = number
end
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - ttl, 'LIMIT', 0, 100)) do
  redis.call('HDEL', KEYS[1], tenant)
  redis.call('HDEL', KEYS[2], tenant)
  redis.call('ZREM', KEYS[3], tenant)
end
return {last, redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
"""

# KEYS: set of control planes; ARGV: id, ttl in s. Notes that it lives, and forgets those that do not.
NOTE_CONTROL_PLANE: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
return redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2] - 1)
"""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one fleet."""

    fleet: str

    @property
    def prefix(self) -> str:
        """What every key begins with."""
        return f"{{multitude:{self.fleet}}}:"

    @property
    def any_worker(self) -> str:
        """A glob pattern for the leases; a fleet's name holds no glob character."""
        return f"{self.prefix}worker:*"

    def load(self, worker_id: str) -> str:
        """A worker's last status."""
        return f"{self.prefix}load:{worker_id}"

    def residency(self, worker_id: str) -> str:
        """Where a worker's adapters are."""
        return f"{self.prefix}residency:{worker_id}"

    def request(self, request_id: str) -> str:
        """Who serves a request."""
        return f"{self.prefix}request:{request_id}"

    def control_plane(self, control_plane_id: str) -> str:
        """A control plane."""
        return f"{self.prefix}control_plane:{control_plane_id}"

    @property
    def control_planes(self) -> str:
        """Which control planes there are."""
        return f"{self.prefix}control_planes"

    @property
    def tenant_counters(self) -> str:
        """The tenants' virtual token counters."""
        return f"{self.prefix}tenant_counters"

    @property
    def tenant_tokens(self) -> str:
        """The tokens that tenants used of their quotas."""
        return f"{self.prefix}tenant_tokens"

    @property
    def tenants(self) -> str:
        """When each tenant was last charged."""
        return f"{self.prefix}tenants"

    def lot(self, life: str) -> str:
        """The last charge of one life of a control plane."""
        return f"{self.prefix}lot:{life}"

    @property
    def draining(self) -> str:
        """The workers taken out of service."""
        return f"{self.prefix}draining"

    @property
    def policies(self) -> str:
        """The history of policies."""
        return f"{self.prefix}policies"

    @property
    def policy_text_prefix(self) -> str:
        """What the key of a policy's text begins with; its version follows."""
        return f"{self.prefix}policy:"
