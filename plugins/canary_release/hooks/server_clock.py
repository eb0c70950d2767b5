"""What time another machine thinks it is: the ``Date`` of an HTTP answer (RFC 9110, whole seconds)."""

from dataclasses import replace
from email.utils import parsedate_to_datetime

from pydantic import ValidationError

from canary_release.core.problems import CanaryError
from canary_release.hooks.connections import CONNECT_SECONDS, READ_SECONDS, HttpExtra, find_connection, http_server


def http_time(connection_id: str) -> float | None:
    """Seconds since the epoch by the server's clock, up to 1 s behind it; None when the connection is not an HTTP one,
    leads where requests may not go, or the server does not tell. Sends no credentials; any status will do.
    """
    import requests

    try:
        connection = find_connection(connection_id)
        # Each load balancer's extra has keys of its own, which its hook checks.
        extra = connection.extra_dejson
        own = HttpExtra.model_validate({name: extra[name] for name in ("ca_file", "allow_link_local") if name in extra})
        server = replace(http_server(connection, CanaryError, extra=own), login=None, password=None)
    except (CanaryError, ValidationError, ValueError):
        return None
    with server.session() as (session, _):
        try:
            answer = session.head(server.base_url, timeout=(CONNECT_SECONDS, READ_SECONDS), allow_redirects=False)
            return parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (requests.RequestException, OSError, KeyError, ValueError, TypeError):
            return None
