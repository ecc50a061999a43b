"""How a client outlives the restart of a service: gRPC's own retry policy, in options for a channel.

A call that finds the service gone is made again after about 2, 6, 18 and 54 s: longer than a sampler takes to load a
small model, and gRPC makes no call more than five times. All calls of the three services may be repeated.

Not covered: an overloaded service, which says itself when to come back (`overload`), and trees that a sampler held,
which end with it.
"""

import json

from grpc import StatusCode

GONE = (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
"""How a call fails whose service is not there. gRPC's server cancels what arrives in the moment in which it ends."""

_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "2s",
    "backoffMultiplier": 3,
    "maxBackoff": "60s",
    "retryableStatusCodes": [status.name for status in GONE],
}

RETRY_OPTIONS = (
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _POLICY}]})),
    # else a name is asked for again after 30 s at the soonest, though a container may come back at another address
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""Options of a channel, beside those of `grpc_server.CHANNEL_OPTIONS`."""
