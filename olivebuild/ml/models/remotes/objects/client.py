"""Settings of the clients of object stores.

https://developmentseed.org/obstore/latest/api/store/config/
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

CLIENT: dict[str, Any] = {
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(minutes=10),
    "user_agent": "olivebuild",
}
"""`read_timeout` ends a connection that stalls, `timeout` a request for a segment."""
RETRIES: dict[str, Any] = {
    "max_retries": 6,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
}
"""For answers of 500 and above, and connections that break: about ten seconds in all."""
