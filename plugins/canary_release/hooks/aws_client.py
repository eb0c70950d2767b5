"""Calls to AWS through an Airflow connection of type ``aws``, and each of AWS's errors as one sentence of ours.

Credentials, region, role and endpoint come from the Amazon provider's own reading of the connection.  botocore's
retries are off: a rollback must not wait behind them unseen, and whoever calls tries again by itself.  Only throttling
is waited for here, shortly, because AWS refused it before anything was done.
"""

import hashlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field

from canary_release.core.problems import CanaryError, ConnectionSettingsError
from canary_release.hooks.connections import find_connection, is_link_local

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
THROTTLE_PAUSES = (0.2, 0.4, 0.8, 1.6)  # seconds, halved at random; AWS fills its buckets once a second
LONGEST_PAUSE = 5.0  # seconds that a server's Retry-After can make us wait
KEPT_SECONDS = 900.0  # making a client reads megabytes of models, and a bake polls for hours
WORDS = 300  # characters of AWS's answer that an error quotes
DOCUMENT = "docs/aws.md"

THROTTLED = {
    *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException"),
    *("RequestLimitExceeded", "TooManyRequestsException", "PriorRequestNotComplete", "SlowDown", "LimitExceeded"),
}
FORBIDDEN = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError"}
BAD_CREDENTIALS = {
    *("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"),
    *("SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "AuthFailure"),
    *("MissingAuthenticationToken", "MissingAuthenticationTokenException", "RequestExpired", "OptInRequired"),
}
# IAM's name of a service where it is not botocore's.
IAM_PREFIX = {"elbv2": "elasticloadbalancing"}

Region = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d{1,2}$")]


@dataclass(frozen=True)
class Arn:
    """An Amazon resource name in its parts. resource: everything after the fifth colon."""

    service: str
    region: str
    resource: str

    @classmethod
    def read(cls, text: str) -> "Arn":
        """ValueError when it is none."""
        parts = text.split(":", 5)
        if len(parts) != 6 or parts[0] != "arn" or not parts[2] or not parts[5]:
            raise ValueError(f"{text[:WORDS]!r} is no ARN")
        return cls(parts[2], parts[3], parts[5])


class AwsClient:
    """One service of AWS for one connection. ``raises``: the error for whatever goes wrong; ``missing``: the one for
    the error codes in ``unknown``, which say that there is no such thing; ``kinds``: errors of their own by code.

    Nothing is contacted before the first call.
    """

    def __init__(
        self,
        connection_id: str,
        service: str,
        *,
        raises: type[CanaryError],
        missing: type[CanaryError] | None = None,
        unknown: frozenset[str] = frozenset(),
        region: str | None = None,
        kinds: Mapping[str, type[CanaryError]] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.connection_id = connection_id
        self.service = service
        self.region = region
        self._raises = raises
        self._missing = missing or raises
        self._kinds = {**dict.fromkeys(unknown, self._missing), **(kinds or {})}
        self._sleep = sleep

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one operation, named as in boto3 (``modify_rule``). Absolute writes only: a call may be made
        again when it was throttled.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

        client = kept_client(self.connection_id, self.service, self.region)
        pauses = iter(THROTTLE_PAUSES)
        while True:
            try:
                answer: dict[str, Any] = getattr(client, operation)(**parameters)
                return _Answer(answer, lambda: self._no_answer(operation))
            except ClientError as error:
                pause = next(pauses, None) if _code(error) in THROTTLED else None
                if pause is None:
                    raise self._refusal(operation, error) from None
                self._sleep(_asked_pause(error) or random.uniform(pause / 2, pause))
            except (BotoCoreError, ResponseParserError, ValueError, OSError) as error:
                raise self._failure(operation, error) from None

    def pages(self, operation: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """All answers of an operation that pages with ``NextToken``."""
        more: dict[str, Any] = {}
        while True:
            answer = self.call(operation, **parameters, **more)
            yield answer
            if not answer.get("NextToken"):
                return
            more = {"NextToken": answer["NextToken"]}

    def _refusal(self, operation: str, error: "ClientError") -> CanaryError:
        code, action = _code(error), iam_action(self.service, operation)
        if code in BAD_CREDENTIALS:
            # Not AWS's words: they may repeat what was signed.
            return self._raises(
                f"AWS does not accept the credentials of connection {self.connection_id} for {action} ({code}); "
                f"renew them there."
            )
        words = _words(error)
        if code in FORBIDDEN:
            return self._raises(
                f"AWS does not allow {action} to connection {self.connection_id}: {words}. Give its role this action; "
                f"the whole policy is in {DOCUMENT}."
            )
        if code in THROTTLED:
            return self._raises(
                f"AWS throttles {action} of connection {self.connection_id} ({code}), {len(THROTTLE_PAUSES)} more "
                f"tries included; see what else calls it in this account and region."
            )
        kind = self._kinds.get(code, self._raises)
        return kind(f"AWS refused {action} for connection {self.connection_id} with {code or 'no code'}: {words}.")

    def _failure(self, operation: str, error: Exception) -> CanaryError:
        """The error for a call that AWS never answered. botocore's words are not quoted: they may hold an endpoint's
        whole answer.
        """
        from botocore import exceptions as kinds  # type: ignore[import-untyped]
        from botocore.parsers import ResponseParserError

        where, action = f"connection {self.connection_id}", iam_action(self.service, operation)
        if isinstance(error, kinds.NoCredentialsError | kinds.PartialCredentialsError | kinds.CredentialRetrievalError):
            return self._raises(f"There are no AWS credentials for {action}; set login and password of {where}.")
        if isinstance(error, kinds.NoRegionError):
            return self._raises(f"There is no AWS region for {action}; set region_name in the extra of {where}.")
        if isinstance(error, kinds.ConnectTimeoutError | kinds.ReadTimeoutError):
            limits = f"{CONNECT_SECONDS:g} s to connect, {READ_SECONDS:g} s to read"
            return self._raises(f"AWS did not answer {action} of {where} in time ({limits}).")
        if isinstance(error, kinds.HTTPClientError | kinds.EndpointConnectionError | OSError):
            return self._raises(f"AWS cannot be reached for {action}; check the network and the endpoint of {where}.")
        if isinstance(error, kinds.ParamValidationError):
            report = " ".join(str(error.kwargs.get("report", "")).split())[:WORDS]
            return self._raises(f"{action} cannot be asked like this: {report}.")
        if isinstance(error, ResponseParserError):
            return self._no_answer(operation)
        kind = type(error).__name__
        return self._raises(f"{action} of {where} failed ({kind}); check what the connection says.")

    def _no_answer(self, operation: str) -> CanaryError:
        where = f"connection {self.connection_id}"
        return self._raises(
            f"{iam_action(self.service, operation)} of {where} was answered by something that is not AWS; check its "
            f"endpoint_url, and what stands between."
        )


class _Answer(dict[str, Any]):
    """What AWS said; asked for something that every answer of this operation has, it raises when it is not there.

    botocore takes a page of some proxy, sent with the status 200 in place of JSON, for an answer that says nothing.
    """

    def __init__(self, answer: Mapping[str, Any], lacks: Callable[[], CanaryError]) -> None:
        super().__init__(answer)
        self._lacks = lacks

    def __missing__(self, key: str) -> Any:
        raise self._lacks()


def iam_action(service: str, operation: str) -> str:
    """``elasticloadbalancing:ModifyRule`` for ``elbv2`` and ``modify_rule``, as a policy names it."""
    camel = "".join(part.capitalize() for part in operation.split("_"))
    return f"{IAM_PREFIX.get(service, service)}:{camel}"


_kept: dict[tuple[str, str, str | None, str], tuple[float, Any]] = {}
_lock = threading.Lock()


def kept_client(connection_id: str, service: str, region: str | None) -> Any:
    """A boto3 client, the same for as long as the connection says the same, for a quarter of an hour at most.

    Clients may be shared between threads.  Raises ConnectionSettingsError.
    """
    connection = find_connection(connection_id)
    said = f"{connection.conn_type} {connection.login} {connection.password} {connection.extra}"
    key = (connection_id, service, region, hashlib.sha256(said.encode()).hexdigest())
    with _lock:
        now = time.monotonic()
        for old in [old for old, (made, _) in _kept.items() if now - made > KEPT_SECONDS]:
            del _kept[old]
        if key not in _kept:
            _kept[key] = now, new_client(connection, service, region)
        return _kept[key][1]


def new_client(connection: "Connection", service: str, region: str | None) -> Any:
    """A new boto3 client as the Amazon provider makes it, without botocore's retries. ConnectionSettingsError."""
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
    from airflow.sdk.exceptions import AirflowException
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError, ClientError

    name = connection.conn_id
    if connection.conn_type != "aws":
        raise ConnectionSettingsError(f"Connection {name} has type {connection.conn_type}; it must be aws.")
    _check_endpoints(connection)
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    try:
        hook: Any = AwsGenericHook(aws_conn_id=name, client_type=service, region_name=region)
        # The connection's own settings, such as proxies, hold for the rest.
        return hook.get_client_type(region_name=region or hook.region_name, config=hook.config.merge(config))
    except (BotoCoreError, ClientError, AirflowException, ValueError, TypeError, OSError, LookupError) as error:
        # The text of the error may hold what the connection holds.
        raise ConnectionSettingsError(
            f"Connection {name} makes no AWS client for {service} ({type(error).__name__}); check its region_name, "
            f"role_arn and endpoint_url."
        ) from None


def _check_endpoints(connection: "Connection") -> None:
    """An endpoint must not lead to where clouds hand out credentials."""
    try:
        extra = connection.extra_dejson
    except ValueError:
        extra = {}
    services = extra.get("service_config")
    configured = [extra, *(services.values() if isinstance(services, Mapping) else ())]
    for one in configured:
        url = one.get("endpoint_url") if isinstance(one, Mapping) else None
        if url is None:
            continue
        parts = urlsplit(str(url))
        if parts.scheme not in ("http", "https") or not parts.hostname or is_link_local(parts.hostname):
            raise ConnectionSettingsError(
                f"Connection {connection.conn_id} has an endpoint_url that is no http or https address of a service; "
                f"correct or delete it."
            )


def _code(error: "ClientError") -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _words(error: "ClientError") -> str:
    text = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    # Long random words are signatures and tokens.
    text = re.sub(r"[A-Za-z0-9+=]{40,}", "***", text)
    return "".join(character for character in text[:WORDS] if character.isprintable()).rstrip(".") or "no reason given"


def _asked_pause(error: "ClientError") -> float | None:
    """Seconds that AWS asked to wait, if it did."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    text = str(headers.get("retry-after", ""))
    return min(float(text), LONGEST_PAUSE) if re.fullmatch(r"\d{1,6}(\.\d+)?", text) else None
