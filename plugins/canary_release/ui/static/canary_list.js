// The list of services: where each one stands, the most urgent first; and the same in short for the dashboard.

import { Ago, Button, Link, Notice, Pill, ROOT, TrafficBar, duration, h, rounded, tied, useAsked, useNow, useState, word } from "./canary_parts.js";
import { AbortAction, ReleaseAction } from "./canary_actions.js";

const EVERY = 5; // seconds
const LIST = new URL("api/services", ROOT).href;
const FIRST = "canary lint include/releases/checkout.yaml";
const FILTERS = [["all", "All"], ["active", "In progress"], ["mine", "Mine"], ["failed", "Failed"]];
const FAILED = new Set(["rolled_back", "rolling_back", "stuck"]);
const AT_ONCE = 50; // rows that are drawn before somebody asks for more

export const detailPath = (rollout) => `/plugin/rollouts?rollout=${encodeURIComponent(rollout)}`;

export function RolloutList() {
  const { data, error, at, reload } = useAsked(LIST, EVERY);
  const [filter, setFilter] = useState("all");
  const [search, setSearch] = useState("");
  const [most, setMost] = useState(AT_ONCE);
  const now = useNow();
  if (!data) return h("div", { className: "canary-page" }, error ? h(Notice, null, error.message) : h("p", { className: "canary-quiet" }, "Asking the ledger …"));
  const rows = data.services.filter((row) => passes(row, filter, search.trim().toLowerCase()));
  return h("div", { className: "canary-page" },
    h("header", { className: "canary-row apart" },
      h("h1", null, "Rollouts"),
      h("span", { className: "canary-small", "aria-live": "off" }, error ? "" : `updated ${duration(now - at / 1000)} ago`)),
    error && h(Notice, null, `${error.message} What is shown is ${duration(now - at / 1000)} old.`),
    h(Figures, { figures: data.figures, services: data.services }),
    data.services.length === 0 ? h(Empty) : h("div", { className: "canary-row apart tools" },
      h("div", { className: "canary-row", role: "group", "aria-label": "Which services" }, FILTERS.map(([name, label]) =>
        h("button", { key: name, type: "button", className: "canary-tab", "aria-pressed": filter === name, onClick: () => setFilter(name) }, label))),
      h("input", { type: "search", className: "canary-search", placeholder: "Search service, version, person", "aria-label": "Search", value: search, onChange: (event) => setSearch(event.target.value) })),
    data.services.length > 0 && rows.length === 0 && h("p", { className: "canary-quiet" }, "No service fits."),
    rows.length > 0 && h(Table, { rows: rows.slice(0, most), now, reload }),
    rows.length > most && h(Button, { quiet: true, onClick: () => setMost(rows.length) }, `Show the other ${rows.length - most}`));
}

function passes(row, filter, search) {
  if (filter === "active" && !row.in_progress && row.phase.name !== "stuck") return false;
  if (filter === "mine" && !row.yours) return false;
  if (filter === "failed" && !FAILED.has(row.phase.name)) return false;
  return !search || [row.service, row.version, row.old_version, row.started_by, row.reason].some((text) => text.toLowerCase().includes(search));
}

function Figures({ figures, services }) {
  const active = services.filter((row) => row.in_progress).length;
  const waiting = services.filter((row) => row.phase.urgency <= 1).length;
  const time = (seconds) => (seconds === null ? "–" : rounded(seconds));
  const rate = figures.success_rate === null ? "–" : `${Math.round(100 * figures.success_rate)} %`;
  const said = [
    ["In progress", String(active)],
    ["Need a person", String(waiting)],
    [`Promoted, ${figures.days} days`, `${rate}`, `${figures.promoted} of ${figures.finished}`],
    ["Median time to 100\u00a0%", time(figures.seconds_to_full)],
    ["Rolled back", String(figures.rolled_back)],
    ["Mean time, harm to 0\u00a0%", time(figures.seconds_to_zero)],
  ];
  return h("dl", { className: "canary-figures" }, said.map(([label, value, note]) =>
    h("div", { key: label }, h("dt", null, label), h("dd", null, value, note && h("small", null, ` ${note}`)))));
}

function Empty() {
  const [copied, setCopied] = useState(false);
  const copy = () => navigator.clipboard?.writeText(FIRST).then(() => setCopied(true), () => {});
  return h("section", { className: "canary-empty" },
    h("h2", null, "No rollout yet"),
    h("p", null, "Write a release file of about twelve lines into include/releases; it becomes a DAG that releases the service. First see whether it is right:"),
    h("div", { className: "canary-row" }, h("code", null, FIRST), h(Button, { quiet: true, onClick: copy }, copied ? "Copied" : "Copy")),
    h("p", { className: "canary-quiet" }, "Then trigger its DAG with the version that the idle side runs. The rollout appears here."));
}

function Table({ rows, now, reload }) {
  return h("div", { className: "canary-table", role: "table", "aria-label": "Services" },
    h("div", { className: "canary-tr head", role: "row" }, ["Service", "Version", "Traffic now", "Where it is", "Worst check", "Last outcomes", ""].map((title, place) =>
      h("span", { key: place, role: "columnheader" }, title))),
    rows.map((row) => h(Row, { key: row.service, row, now, reload })));
}

function Row({ row, now, reload }) {
  const stuck = row.phase.name === "stuck";
  const cell = (title, ...inside) => h("div", { role: "cell", className: "canary-td", "data-title": title }, ...inside);
  return h("div", { className: `canary-tr${stuck ? " stuck" : ""}`, role: "row" },
    cell("", h(Link, { to: detailPath(row.rollout), className: "canary-name" }, row.service)),
    cell("Version", h("span", { className: "canary-version" }, h("span", { className: "canary-quiet" }, row.old_version), " → ", h("strong", null, row.version)),
      h("span", { className: "canary-small" }, h(Ago, { at: row.started_at, now }), ` · ${row.started_by}`)),
    cell("Traffic now", h(TrafficBar, { traffic: row.traffic, inProgress: row.in_progress || row.phase.name === "stuck" })),
    cell("Where it is", h(PhaseShown, { row, now })),
    cell("Worst check", h(WorstShown, { row })),
    cell("Last outcomes", h(Outcomes, { past: row.past })),
    cell("", h("div", { className: "canary-actions" },
      row.in_progress || stuck ? h(AbortAction, { row, done: reload }) : h(ReleaseAction, { row, done: reload }),
      row.question && h(Link, { to: detailPath(row.rollout), className: "canary-link" }, "Answer …"))));
}

/** short: without the sentence, where it stands beside. */
export function PhaseShown({ row, now, short = false }) {
  const { name, words, until } = row.phase;
  const left = until === null ? "" : until > now ? `${duration(until - now)} left` : "any moment";
  const said = name === "stuck" ? words : row.phase.why;
  return h("div", { className: "canary-phase" }, h(Pill, { kind: name }, name === "stuck" ? "STUCK" : tied(words)),
    said && !short && h("span", { className: "canary-small warn" }, tied(said)),
    row.in_progress && row.step >= 0 && h("span", { className: "canary-small" }, `step ${row.step + 1} of ${row.steps}${left && ` · ${left}`}`));
}

function WorstShown({ row }) {
  if (row.phase.name === "rolled_back") return h("span", { className: "canary-clip", title: row.outcome_reason }, row.outcome_reason);
  if (row.phase.name === "promoted") return h("span", { className: "canary-quiet" }, "no check failed");
  if (!row.worst) return h("span", { className: "canary-quiet" }, row.in_progress ? "nothing judged yet" : "–");
  return h("div", null, h("span", { className: `canary-verdict is-${row.worst.verdict}` }, `${row.worst.check}: ${word(row.worst.verdict)}`), h("span", { className: "canary-small" }, row.worst.words));
}

function Outcomes({ past }) {
  const ended = past.filter((each) => each.ended_at !== null);
  if (ended.length === 0) return h("span", { className: "canary-quiet" }, "first one");
  const good = ended.filter((each) => each.state === "promoted").length;
  const label = `${good} of the last ${ended.length} promoted, newest first: ${ended.map((each) => `${each.version} ${word(each.state)}`).join(", ")}`;
  return h("div", { className: "canary-outcomes", role: "img", "aria-label": label, title: label },
    [...ended].reverse().map((each) => h("span", { key: each.rollout, className: `canary-outcome is-${each.state}` })),
    h("span", { className: "canary-small", "aria-hidden": true }, `${good}/${ended.length}`));
}

/** On Airflow's home page: what is in flight, and what needs somebody. */
export function InProgress() {
  const { data, error } = useAsked(LIST, EVERY);
  const now = useNow();
  const rows = (data?.services ?? []).filter((row) => row.in_progress || row.phase.name === "stuck");
  if (!data && !error) return null;
  return h("section", { className: "canary-page small" },
    h("div", { className: "canary-row apart" }, h("h2", null, "Rollouts in progress"), h(Link, { to: "/plugin/rollouts", className: "canary-link" }, "All rollouts")),
    error && h(Notice, null, error.message),
    data && rows.length === 0 && h("p", { className: "canary-quiet" }, "None. Every service has all its traffic on one side."),
    rows.slice(0, 5).map((row) => h("div", { key: row.service, className: `canary-brief${row.phase.name === "stuck" ? " stuck" : ""}` },
      h(Link, { to: detailPath(row.rollout), className: "canary-name" }, `${row.service} ${row.version}`),
      h(TrafficBar, { traffic: row.traffic, inProgress: row.in_progress || row.phase.name === "stuck" }),
      h(PhaseShown, { row, now }))),
    rows.length > 5 && h("p", { className: "canary-small" }, `and ${rows.length - 5} more`));
}
