"""``canary release``, ``approve`` and ``reject``: through the REST API of a running Airflow."""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from canary_release.cli_rollouts import POLL, watch
from canary_release.core.problems import CanaryError
from canary_release.hooks.airflow_remote import AirflowRefusedError, NotInAirflowError, OpenQuestion, RemoteAirflow

_Add = Callable[[Any, str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add_remote_commands(commands: Any, add: _Add) -> None:
    release = add(commands, "release", _release, "release a version that the idle side runs (needs CANARY_AIRFLOW_URL)")
    release.add_argument("service", metavar="SERVICE")
    release.add_argument("version", metavar="VERSION")
    release.add_argument("--profile", help="a profile of the release file (default: standard)")
    release.add_argument("--steps", help="a part of its weights, for example 5,100")
    release.add_argument("--reason", help="kept in the ledger, for example a ticket")
    release.add_argument("--dry-run", action="store_true", help="everything but the writes")
    release.add_argument("--watch", action="store_true", help="until it is over; exit 0 when promoted, else 1")
    release.add_argument("--run-id", help="default: SERVICE-VERSION; the same id is never started twice")
    release.add_argument("--dag", metavar="DAG", help="where several DAGs release the service")

    for word, summary in (("approve", "let a rollout go on"), ("reject", "take a rollout's canary off instead")):
        answer = add(commands, word, _answer, f"{summary} that waits for an answer (needs CANARY_AIRFLOW_URL)")
        answer.add_argument("service", metavar="SERVICE")
        answer.add_argument("--weight", metavar="PERCENT", help="only if this is what is asked about, for example 25")
        answer.add_argument("--comment", default="", help="kept in the ledger")
        answer.add_argument("--dag", metavar="DAG", help="where several DAGs release the service")
        answer.set_defaults(option=word.capitalize())


def _release(arguments: argparse.Namespace) -> int:
    remote = RemoteAirflow.from_environment(os.environ)
    dag_id = arguments.dag or remote.dag_of(arguments.service)
    run_id = arguments.run_id or f"{arguments.service}-{arguments.version}"
    conf = {
        "version": arguments.version,
        "profile": arguments.profile,
        "steps": arguments.steps,
        "reason": arguments.reason,
        "dry_run": arguments.dry_run or None,
    }
    remote.release(dag_id, run_id, {key: value for key, value in conf.items() if value is not None})
    print(f"{arguments.service} {arguments.version}: run {run_id} of {dag_id} was started", flush=True)
    if not arguments.watch:
        return 0
    if not _rollout_began(remote, dag_id, run_id):
        raise CanaryError(f"the run {run_id} of {dag_id} ended before its rollout began; the log of start says why.")
    return watch(lambda: remote.rollout_of_run(dag_id, run_id))


def _rollout_began(remote: RemoteAirflow, dag_id: str, run_id: str) -> bool:
    """Waits for as long as the run does; it may be queued behind another or until a later time, or wait for its
    calendar, which its note says where notes can be written.
    """
    from canary_release.cli_tree import clean

    told = ""
    while True:
        run = remote.run(dag_id, run_id)
        over, note = run["state"] in ("success", "failed"), clean(run.get("note") or "")
        if note and note != told and not over:
            print(f"{run_id} {note}", flush=True)
            told = note
        try:
            remote.rollout_of_run(dag_id, run_id)
        except NotInAirflowError:
            if over:
                return False
            time.sleep(POLL)
            continue
        return True


def _answer(arguments: argparse.Namespace) -> int:
    remote = RemoteAirflow.from_environment(os.environ)
    question = _the_question(remote, arguments.dag or remote.dag_of(arguments.service), arguments.weight)
    remote.answer(question, arguments.option, arguments.comment)
    print(
        f"{question.subject}  {arguments.option.lower()}ed"
        if arguments.option == "Reject"
        else f"{question.subject}  approved"
    )
    return 0


def _the_question(remote: RemoteAirflow, dag_id: str, weight: str | None) -> OpenQuestion:
    questions = remote.questions(dag_id)
    if weight is not None:
        task = f"approve_{weight.rstrip(' %').replace('.', '_')}"
        questions = [question for question in questions if question.task_id.rpartition(".")[2] == task]
    if not questions:
        about = f" about {weight.rstrip(' %')} %" if weight is not None else ""
        raise AirflowRefusedError(f"nothing{about} waits for an answer in {dag_id}.")
    if len(questions) > 1:
        asked = "; ".join(question.subject for question in questions)
        raise AirflowRefusedError(f"several questions wait in {dag_id} ({asked}); choose one with --weight.")
    return questions[0]
