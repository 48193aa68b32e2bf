"""Every Redis key of a fleet. All carry the hash tag `{multitude:<fleet>}`, so a fleet lives in one cluster slot.

| key after the tag        | type   | holds                                            | written by     | lives        |
|--------------------------|--------|--------------------------------------------------|----------------|--------------|
| `:worker:<id>`           | string | WorkerLease as protobuf JSON                     | the worker     | its lease    |
| `:load:<worker id>`      | string | WorkerStatus as protobuf JSON, without residency | control planes | redis.ttl_s  |
| `:residency:<worker id>` | hash   | adapter digest -> `host` or `pool`               | control planes | redis.ttl_s  |
| `:request:<id>`          | string | id of the control plane that serves the request  | its owner      | redis.ttl_s  |
| `:control_plane:<id>`    | string | JSON: address, in_flight_count, policy_digest    | that one       | redis.ttl_s  |
| `:policies`              | list   | JSON: digest, name, applied_ms, control_plane_id | control planes | for ever     |
|                          |        | newest first, `redis.policy_history` at most     |                |              |
| `:policy:<digest>`       | string | the policy file's text                           | control planes | while listed |

What has a time to live is written again long before it runs out, and after Redis was away. A request's owner claims it
with CLAIM and gives it up with RELEASE; policy versions are added with ADD_POLICY. Each is one atomic script.
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

# KEYS: history list, text key; ARGV: entry, digest, text, most entries, prefix of text keys.
# Adds the entry unless the newest has its digest; forgets what is beyond the bound; returns 1 if it was added.
ADD_POLICY: Final = """
redis.call('SET', KEYS[2], ARGV[3])
local newest = redis.call('LINDEX', KEYS[1], 0)
if newest and cjson.decode(newest)['digest'] == ARGV[2] then return 0 end
redis.call('LPUSH', KEYS[1], ARGV[1])
local kept = {}
for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, ARGV[4] - 1)) do kept[cjson.decode(entry)['digest']] = true end
for _, entry in ipairs(redis.call('LRANGE', KEYS[1], ARGV[4], -1)) do
  local digest = cjson.decode(entry)['digest']
  if not kept[digest] then redis.call('DEL', ARGV[5] .. digest) end
end
redis.call('LTRIM', KEYS[1], 0, ARGV[4] - 1)
return 1
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
    def policies(self) -> str:
        """The history of policies."""
        return f"{self.prefix}policies"

    @property
    def policy_text_prefix(self) -> str:
        """What the key of a policy's text begins with; its digest follows."""
        return f"{self.prefix}policy:"
