"""The ends of a run: promote, roll back, say the outcome, and settle whatever is left."""

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from canary_release.control.ending import Ended, promote, roll_back, settle
from canary_release.core.problems import RefusedError
from canary_release.core.values import plain
from canary_release.ledger.records import Rollout, State
from canary_release.operators.rollout_task import RolloutOperator, problems_are_final, weights_line


class _EndOperator(RolloutOperator):
    def report(self, verb: str, ended: Ended) -> None:
        lines = [f"{verb:<8} {ended.sentence}"]
        if ended.written is not None:
            lines.append(weights_line("asked", ended.written.asked))
            lines.append(weights_line("read back", ended.written.read_back))
            lines.append(f"  took                  {ended.written.seconds:.3f} s, attempt {ended.written.attempts}")
        facts = {"rollout": ended.rollout.id, "state": str(ended.rollout.state), "why": ended.rollout.outcome_reason}
        if ended.written is not None:
            facts["read_back"] = plain(ended.written.read_back[ended.rollout.canary])
            facts["seconds"] = f"{ended.written.seconds:.3f}"
        self.tell(*lines, event=verb, **facts)

    def rollout_or_skip(self, context: Context) -> Rollout:
        try:
            return self.rollout(self.open_desk(), context)
        except RefusedError as error:
            self.skipped(f"nothing to do: {error}")


class PromoteOperator(_EndOperator):
    """Make the canary the side that holds the traffic, if the ledger says that it earned it."""

    def execute(self, context: Context) -> str:
        with problems_are_final():
            desk = self.open_desk()
            rollout = self.rollout(desk, context)
            if rollout.dry_run:
                self.skipped("dry run: nothing to promote")
            ended = promote(desk, rollout, actor=self.actor(context))
        self.report("promote", ended)
        return str(ended.rollout.state)


class RollBackOperator(_EndOperator):
    """Runs whatever crashed before it: see that the safe side has everything, and record the end."""

    def execute(self, context: Context) -> str:
        rollout = self.rollout_or_skip(context)
        if rollout.state in (State.PROMOTED, State.DRY_RUN):
            self.skipped(f"nothing to roll back: {rollout.id} is {rollout.state.words}")
        ended = roll_back(self.open_desk(), rollout, "a task of the run failed", actor=self.actor(context))
        self.report("rollback", ended)
        return str(ended.rollout.state)


class OutcomeOperator(_EndOperator):
    """The run's last word: green only when the version was promoted (or it was a dry run)."""

    def execute(self, context: Context) -> str:
        try:
            rollout = self.rollout(self.open_desk(), context)
        except RefusedError as error:
            raise AirflowFailException(f"No rollout was started; the log of start says why. ({error})") from error
        sentence = f"{rollout.service} {rollout.old_version} -> {rollout.version}: {rollout.state.words}"
        why = rollout.outcome_reason.removeprefix(f"{rollout.state}: ")
        reason = f" because {why}" if why else ""
        self.tell(
            f"outcome  {sentence}{reason}", event="outcome", rollout=rollout.id, state=str(rollout.state), why=why
        )
        self.note(context, f"{sentence}{reason}")
        if rollout.state not in (State.PROMOTED, State.DRY_RUN):
            raise AirflowFailException(f"{sentence}{reason}")
        return sentence


class SettleOperator(_EndOperator):
    """The teardown: runs even when a person marks the run failed, and looks at nothing but the ledger."""

    def execute(self, context: Context) -> str:
        rollout = self.rollout_or_skip(context)
        ended = settle(self.open_desk(), rollout, actor=self.actor(context))
        if ended is None:
            said = f"settle   {rollout.id} is {rollout.state.words}: nothing left to do"
            self.tell(said, event="settle", rollout=rollout.id, state=str(rollout.state))
            return str(rollout.state)
        self.report("settle", ended)
        raise AirflowFailException(f"The run ended in the middle of its rollout. {ended.sentence}")
