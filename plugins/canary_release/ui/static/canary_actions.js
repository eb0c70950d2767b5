// What a person may do. Aborting is our own request; releasing and answering go to Airflow's API, under Airflow's rules.

import { AIRFLOW, Confirm, Field, Notice, ROOT, ask, h, ownPath, useAsked, useState } from "./canary_parts.js";

/** Two clicks: the question, and yes. The reason may stay empty. */
export function AbortAction({ row, done }) {
  const [reason, setReason] = useState("");
  if (!row.may_change) return null;
  const act = async () => {
    const url = new URL(`api/services/${ownPath(row.service)}/abort`, ROOT);
    const answer = await ask(url, { method: "POST", body: { reason } });
    done?.();
    return answer.sentence;
  };
  const { canary, stable } = row.traffic;
  return h(Confirm, { label: "Abort", danger: true, sure: `Take ${row.version} off now`, act,
    question: `Give all traffic of ${row.service} back to the safe side, now? (${canary} → ${stable})` },
    h(Field, { label: "Reason, kept in the ledger", value: reason, set: setReason, maxLength: 500 }));
}

/** A run of the service's DAG; Airflow checks the version and the right to trigger. */
export function ReleaseAction({ row, done }) {
  const [version, setVersion] = useState("");
  const [reason, setReason] = useState("");
  const [dry, setDry] = useState(false);
  const act = async () => {
    const url = new URL(`api/v2/dags/${ownPath(row.dag_id)}/dagRuns`, AIRFLOW);
    const id = `${row.service}-${version}${dry ? "-dry" : ""}`.replaceAll(/[^A-Za-z0-9_.~:+-]/g, "_");
    const conf = { version, dry_run: dry, ...(reason ? { reason } : {}) };
    const run = await ask(url, { method: "POST", body: { dag_run_id: id, logical_date: null, conf } }).catch((error) => {
      // The id is made of the version, so that the same release is not started twice by chance.
      throw error.status === 409 ? new Error(`The run ${id} exists already: a version is released once. Clear or delete that run to release it again.`) : error;
    });
    done?.();
    return `Run ${run.dag_run_id} is ${run.state}.`;
  };
  return h(Confirm, { label: "Release …", sure: dry ? "Rehearse" : "Release", act,
    question: `Release a version of ${row.service}. The idle side must run it already.` },
    h(Field, { label: "Version", value: version, set: setVersion, placeholder: "v2.4.1", maxLength: 128 }),
    h(Field, { label: "Reason, kept in the ledger", value: reason, set: setReason, maxLength: 500 }),
    h("label", { className: "canary-check" }, h("input", { type: "checkbox", checked: dry, onChange: (event) => setDry(event.target.checked) }), " Dry run: everything but the writes"));
}

/** Back to the side that was kept after a promotion. */
export function ReturnAction({ page, done }) {
  const [reason, setReason] = useState("");
  if (!page.may_return) return null;
  const act = async () => {
    const url = new URL(`api/rollouts/${ownPath(page.row.rollout)}/return`, ROOT);
    const answer = await ask(url, { method: "POST", body: { reason } });
    done?.();
    return answer.sentence;
  };
  const { canary, stable } = page.row.traffic;
  const old = page.row.old_version === "unknown" ? "the old version" : page.row.old_version;
  return h(Confirm, { label: `Return to ${old}`, danger: true, sure: `Return to ${old} now`, act,
    question: `Give all traffic back to the old version? (${canary} → ${stable})` },
    h(Field, { label: "Reason, kept in the ledger", value: reason, set: setReason, maxLength: 500 }));
}

/** The questions of this run that Airflow has open, with the answers it knows. */
export function Questions({ row, done }) {
  const run = `api/v2/dags/${ownPath(row.dag_id)}/dagRuns/${ownPath(row.run_id)}`;
  const url = row.question ? new URL(`${run}/hitlDetails?response_received=false`, AIRFLOW).href : null;
  const { data, error, reload } = useAsked(url, 5);
  if (!url) return null;
  const open = data?.hitl_details ?? [];
  return h("section", { className: "canary-box" },
    h("h2", null, `Approval of ${row.question.weight} %`),
    h("p", null, `Asked of: ${row.question.approvers.join(", ") || "anybody who may"}.`),
    error && h(Notice, null, `Airflow did not say what it asks: ${error.message}`),
    data && open.length === 0 && h("p", { className: "canary-quiet" }, "Airflow has no open question of this run."),
    open.map((each) => h(Answer, { key: each.task_instance.id, question: each, run, done: () => { reload(); done?.(); } })));
}

function Answer({ question, run, done }) {
  const [comment, setComment] = useState("");
  const { task_id: task, map_index: index } = question.task_instance;
  const url = new URL(`${run}/taskInstances/${ownPath(task)}/${index}/hitlDetails`, AIRFLOW);
  const takes = Object.hasOwn(question.params ?? {}, "comment");
  const choose = (option) => async () => {
    const input = takes && comment ? { comment } : {};
    await ask(url, { method: "PATCH", body: { chosen_options: [option], params_input: input } });
    done();
    return `Answered: ${option}.`;
  };
  return h("div", null,
    h("p", { className: "canary-strong" }, question.subject),
    question.body && h("pre", { className: "canary-said" }, question.body),
    takes && h(Field, { label: "Comment", value: comment, set: setComment, maxLength: 2000 }),
    h("div", { className: "canary-row" }, question.options.map((option) =>
      h(Confirm, { key: option, label: option, danger: option === "Reject", loud: true, sure: `${option} now`, question: `${question.subject} ${option}?`, act: choose(option) }))));
}
