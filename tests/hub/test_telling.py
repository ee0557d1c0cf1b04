"""What is told when the Hub cannot be written to."""

from __future__ import annotations

import errno
import importlib

import pytest
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from hf_transfer.hub.telling import HTTP_ERROR, push_command, status_of, told, unreachable, without_secrets


HTTP = importlib.import_module(HTTP_ERROR.__module__.split(".")[0])  # httpx or httpx2, as the client has it


def answered(status: int, message: str = "") -> HfHubHTTPError:
    request = HTTP.Request("POST", "http://hub/api/models/user/x/commit/main")
    return HfHubHTTPError("no", response=HTTP.Response(status, request=request), server_message=message)


def wrapped(error: Exception) -> RuntimeError:
    outer = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "kind", "text", "later"),
    [
        (answered(401), PermissionError, r"answered 401; log in with `hf auth login`", False),
        (answered(403, "read only"), PermissionError, r"answered 403 \(read only\); the token may not write", False),
        (answered(404), PermissionError, r"answered 404; there is no such repository", False),
        (answered(429), ConnectionError, "answered 429", True),
        (answered(503, "busy"), ConnectionError, r"answered 503 \(busy\)", True),
        (wrapped(answered(500)), ConnectionError, "answered 500", True),
        (wrapped(HTTP.ReadError("cut")), ConnectionError, "ReadError, cut", True),
        (HTTP.ConnectError("Name or service not known"), ConnectionError, "ConnectError, Name or", True),
        (OfflineModeIsEnabled("no"), ConnectionError, "HF_HUB_OFFLINE is set", True),
        (LocalTokenNotFoundError("no"), PermissionError, "there is no token; log in", False),
        (HFValidationError("Repo id must be in the form"), ValueError, "Repo id must be", False),
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left on device", False),
    ],
)
def test_every_trouble_has_its_type_and_its_words(error, kind, text, later):
    new = told(error, what="The push to user/x", then="Everything is in out.")
    assert type(new) is kind and unreachable(error) is later
    with pytest.raises(kind, match=rf"The push to user/x failed: .*{text}.*\. Everything is in out\."):
        raise new


def test_disk_keeps_its_number():
    full = told(OSError(errno.ENOSPC, "No space left on device"), what="It", then="Make room.")
    assert isinstance(full, OSError) and full.errno == errno.ENOSPC


def test_status_is_found_through_what_the_client_wraps():
    assert status_of(wrapped(answered(502))) == 502 and status_of(wrapped(HTTP.ReadError("x"))) is None


def test_tokens_and_signed_addresses_are_not_told(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of-the-machine")
    text = "given, of-the-machine and hf_abcdefghijklmnopqrst at https://s3/x?Signature=abc"
    new = str(told(HTTP.ConnectError(text), what="It", then="Wait.", token="given"))
    assert not any(secret in new for secret in ("given", "of-the-machine", "hf_abc", "Signature"))
    assert without_secrets("python -m hf_transfer push") == "python -m hf_transfer push"


def test_command_is_the_one_that_pushes():
    assert push_command("a b", "user/x", revision="dev", repo_type="dataset").split(" push ")[1] == (
        "'a b' user/x --dataset --revision dev"
    )
