"""Whether the channels of a release file can be used from here; nothing is sent."""

from canary_release.control.doctor_checks import Checked, ok, warn
from canary_release.core.problems import CanaryError
from canary_release.core.release import Release
from canary_release.hooks.connections import find_connection
from canary_release.hooks.notice_channels import missing_provider


def missing_providers(release: Release) -> list[str]:
    """A sentence for each channel of which the provider is not installed here."""
    sentences = [missing_provider(channel.via) for channel in release.notify]
    return [f"notify[{index}]: {said}" for index, said in enumerate(sentences) if said]


def check_channels(release: Release) -> list[Checked]:
    """A result for each channel: its provider, and its connection. Warnings only: no rollout depends on a channel."""
    results = []
    for channel in release.notify:
        check = f"{release.service} tells {channel.name}"
        missing = missing_provider(channel.via)
        if missing:
            results.append(warn(check, missing, "install it wherever tasks, triggers and the guardian run"))
            continue
        try:
            find_connection(channel.connection)
        except CanaryError as error:
            results.append(warn(check, str(error), "no notice can be sent before"))
            continue
        results.append(ok(check, f"is installed and has its connection; hears {', '.join(sorted(channel.on))}"))
    return results
