"""Errors of S3 as a stable reason for records and a message for users. Messages contain no secrets."""

from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

FAILURES: Final = (BotoCoreError, ClientError, HTTPError, ResponseParserError)
RETRYABLE_REASONS: Final = frozenset({"throttled", "unavailable"})

_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    SSOError,
)
# Answers to expired or rotated credentials.
_KEY_REFUSED = frozenset(
    {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired"}
)
# The response to a HEAD has no body, and so only a status.
_BARE_REFUSALS = frozenset({"400", "403"})
_CONNECTION = (ConnectionError, HTTPClientError, HTTPError, IncompleteReadError)
_REASON_BY_CODE = {
    "NoSuchKey": "not_found",
    "NoSuchBucket": "not_found",
    "InvalidObjectState": "archived",
    "SlowDown": "throttled",
    "Throttling": "throttled",
    "ThrottlingException": "throttled",
    "RequestLimitExceeded": "throttled",
    "TooManyRequests": "throttled",
    # S3 answers these with status 400.
    "RequestTimeout": "unavailable",
    "ExpiredToken": "access_denied",
    "InvalidToken": "access_denied",
    "TokenRefreshRequired": "access_denied",
}
_REASONS_BY_STATUS = {
    401: "access_denied",
    403: "access_denied",
    404: "not_found",
    408: "unavailable",
    501: "refused",
    429: "throttled",
    503: "throttled",  # in S3 nearly always "SlowDown"
}


def reason(error: Exception) -> str:
    """Return the reason of an `ObjectError` for one of `FAILURES`."""
    if isinstance(error, ClientError):
        by_status = _REASONS_BY_STATUS.get(_status(error), "unavailable" if _status(error) >= 500 else "refused")
        # Tencent's documentation shows this code as the message of "AccessDenied".
        return "archived" if _message(error) == "InvalidObjectState" else _REASON_BY_CODE.get(_code(error), by_status)
    if isinstance(error, _CREDENTIALS):
        return "access_denied"
    if isinstance(error, SSLError):
        return "refused"
    return "unavailable" if isinstance(error, (*_CONNECTION, ResponseParserError)) else "refused"


def is_overload(error: Exception) -> bool:
    """Return True if the endpoint has answered, but may give another answer to the same request later."""
    return isinstance(error, ClientError | ResponseParserError) and reason(error) in RETRYABLE_REASONS


def refuses_credentials(error: Exception) -> bool:
    """Return True if the same request may succeed with newer credentials of the same user."""
    return isinstance(error, ClientError) and _code(error) in _KEY_REFUSED | _BARE_REFUSALS


def refuses_key(error: Exception) -> bool:
    """Return True if the key itself is refused, not its access to one object."""
    return isinstance(error, ClientError) and _code(error) in _KEY_REFUSED


def lacks_credentials(error: Exception) -> bool:
    """Return True if no credentials were found, which may be for a moment only."""
    return isinstance(error, _CREDENTIALS)


def forbids_path_style(error: Exception) -> bool:
    """Return True if the endpoint wants the bucket's name in the host name, as Alibaba's does."""
    return isinstance(error, ClientError) and _code(error) == "SecondLevelDomainForbidden"


def is_bare_refusal(error: Exception) -> bool:
    """Return True for the answer 403 to a HEAD, which has no body that tells why."""
    return isinstance(error, ClientError) and _code(error) == "403"


def summarize(error: Exception, where: str) -> str:
    """Return a short text for the failure record of one object."""
    if isinstance(error, ClientError):
        code, text = _code(error), _message(error)
        return f"{where} answered {code}{f' ({text})' if text and text != code else ''}."
    return f"{type(error).__name__}: {error}".rstrip(".") + "."


def refuses_attributes(error: BaseException | None) -> bool:
    """Return True if an endpoint may have refused a listing because of a parameter that it does not know."""
    return isinstance(error, ClientError) and _status(error) in (400, 501) and not refuses_key(error)


def is_missing_bucket(error: Exception) -> bool:
    """Return True if a listing failed with `error` because the bucket does not exist."""
    return isinstance(error, ClientError) and _code(error) in ("NoSuchBucket", "404")


def explain(error: Exception, bucket: str, where: str, *, anonymous: bool) -> str:
    """Return why `bucket` at `where` cannot be listed, and what to do."""
    code = _code(error) if isinstance(error, ClientError) else ""
    if isinstance(error, NoCredentialsError):
        return (
            f"No credentials for {bucket!r} at {where}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY; for a public bucket set VIEWFINDER_S3_ANONYMOUS=1."
        )
    if isinstance(error, _CREDENTIALS):
        return f"Cannot get credentials for {bucket!r}: {error}. Log in again, or check AWS_PROFILE."
    if isinstance(error, ParamValidationError):
        return f"{bucket!r} is not a valid bucket name; write s3://BUCKET/PREFIX."
    if isinstance(error, SSLError):
        return f"No trusted TLS connection to {where}: {error}. For a private authority set AWS_CA_BUNDLE."
    if isinstance(error, ResponseParserError):
        return f"{where} does not answer like S3. Check VIEWFINDER_S3_ENDPOINT_URL."
    if isinstance(error, _CONNECTION):
        return f"Cannot reach {where} ({type(error).__name__}). Is it running, and is VIEWFINDER_S3_ENDPOINT_URL right?"
    if is_missing_bucket(error):
        return f"There is no bucket {bucket!r} at {where}."
    if code == "InvalidAccessKeyId":
        return f"{where} does not know the access key in use. Check AWS_ACCESS_KEY_ID or AWS_PROFILE, and the endpoint."
    if code == "SignatureDoesNotMatch":
        return (
            f"{where} refused the signature: the secret key does not match the access key. Check AWS_SECRET_ACCESS_KEY."
        )
    if code in ("ExpiredToken", "TokenRefreshRequired", "InvalidToken"):
        return f"The session token in use has expired or is not valid at {where} ({code}). Log in again."
    if code == "SecondLevelDomainForbidden":
        return f"{where} does not serve {bucket!r} under a path. Set VIEWFINDER_S3_ADDRESSING=virtual."
    if code == "RequestTimeTooSkewed":
        return f"{where} refused the request: this machine's clock is wrong."
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"):
        return (
            f"The bucket {bucket!r} is not in the region of {where}. "
            f"Set AWS_DEFAULT_REGION={_region(error) or 'to the region of the bucket'}, and no regional endpoint."
        )
    if reason(error) == "access_denied" and anonymous:
        return f"{bucket!r} at {where} is not public ({code}). Unset VIEWFINDER_S3_ANONYMOUS and provide credentials."
    if reason(error) == "access_denied":
        return (
            f"Access to {bucket!r} at {where} is denied ({code}). The credentials in use need s3:ListBucket on the "
            "bucket and s3:GetObject on its objects; for a public bucket set VIEWFINDER_S3_ANONYMOUS=1, and for one "
            "whose requesters pay VIEWFINDER_S3_REQUESTER_PAYS=1."
        )
    # An S3 endpoint answers with an error code; a bare status comes from another kind of server.
    hint = " Is that an S3 endpoint? Check VIEWFINDER_S3_ENDPOINT_URL." if code.isdecimal() else ""
    return f"Cannot list {bucket!r}: {summarize(error, where)}{hint}"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) or str(_status(error))


def _message(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _region(error: Exception) -> str:
    if not isinstance(error, ClientError):
        return ""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", "") or error.response.get("Error", {}).get("Region", ""))
