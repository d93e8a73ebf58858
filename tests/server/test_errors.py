"""Errors in OpenAI's form."""

from __future__ import annotations

from olivebuild.server.errors import ApiError, of_event


def test_a_refusal_is_the_requests_fault_and_a_failure_ours() -> None:
    event = {"event": "refused", "error": "TooLong", "fact": "too long", "hint": "cut it"}
    refused = of_event(event)
    assert refused.status == 400
    assert refused.to_json()["error"] == {
        "message": "too long; cut it",
        "type": "invalid_request_error",
        "param": None,
        "code": "context_length_exceeded",
    }
    failed = of_event(event | {"event": "failed", "hint": ""})
    assert (failed.status, str(failed)) == (500, "too long")
    assert failed.to_json()["error"]["type"] == "server_error"
    assert ApiError(404, "x").to_json()["error"]["code"] is None
