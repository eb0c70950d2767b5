// One rollout: what happened, why, how sure that is, and who did what.

import { Ago, Link, Notice, Pill, ROOT, TrafficBar, ask, duration, h, instant, ownPath, share, useAsked, useEffect, useNow, useRef, useState, word } from "./canary_parts.js";
import { AbortAction, Questions, ReleaseAction, ReturnAction } from "./canary_actions.js";
import { PhaseShown } from "./canary_list.js";

const EVERY = 5;

/** url: where the page's JSON is. */
export function RolloutPage({ url }) {
  const { data: page, error, at, reload } = useAsked(url, EVERY);
  const now = useNow();
  if (!page) return h("div", { className: "canary-page" }, error ? h(Missing, { error }) : h("p", { className: "canary-quiet" }, "Asking the ledger …"));
  const { row } = page;
  return h("div", { className: "canary-page" },
    error && h(Notice, null, `${error.message} What is shown is ${duration(now - at / 1000)} old.`),
    h(Head, { page, now, at }),
    h("div", { className: "canary-row canary-doing" },
      (row.in_progress || row.phase.name === "stuck") && h(AbortAction, { row, done: reload }),
      h(ReturnAction, { page, done: reload }),
      !row.in_progress && h(ReleaseAction, { row, done: reload }),
      h(ReportLinks, { row })),
    h(Questions, { row, done: reload }),
    h("div", { className: "canary-columns" },
      h("section", { className: "canary-box" }, h("h2", null, "What it did to users"), h("ul", null, page.harm_says.map((each) => h("li", { key: each }, each)))),
      h("section", { className: "canary-box" }, h("h2", null, "Plan"), h(Plan, { page, now }))),
    h(Charts, { rollout: row.rollout, revision: page.revision, moving: row.in_progress }),
    h(Checks, { page }),
    page.approvals.length > 0 && h(Approvals, { page }),
    h(Decisions, { page }),
    h(Outside, { page }),
    h(Audit, { page }),
    h("details", { className: "canary-box" }, h("summary", null, `Release file as it was (${page.release_name}, SHA-256 ${page.release_sha256.slice(0, 12)}…)`), h("pre", { className: "canary-said" }, page.release_text)));
}

function Missing({ error }) {
  if (error.status === 404) return h("p", { className: "canary-quiet" }, "This run has no rollout: it has not begun yet, or its start was refused. The log of the task start says why.");
  return h(Notice, null, error.message);
}

function Head({ page, now, at }) {
  const { row } = page;
  return h("header", null,
    h("div", { className: "canary-row apart" },
      h("h1", null, `${row.service} `, h("span", { className: "canary-quiet" }, row.old_version), " → ", row.version),
      h("span", { className: "canary-small" }, `updated ${duration(now - at / 1000)} ago`)),
    h("div", { className: "canary-row" }, h(PhaseShown, { row, now, short: true }), page.dry_run && h(Pill, { kind: "dry_run" }, "dry run"),
      h("span", { className: "canary-small" }, "started ", h(Ago, { at: row.started_at, now }), ` by ${row.started_by}`, row.ended_at !== null && `, took ${duration(row.ended_at - row.started_at)}`)),
    h("p", { className: `canary-cause is-${row.phase.name}` }, page.cause),
    row.reason && h("p", { className: "canary-small" }, `Reason given: ${row.reason}`),
    h(TrafficBar, { traffic: row.traffic, inProgress: row.in_progress || row.phase.name === "stuck" }),
    row.traffic.differs && h(Notice, { kind: "warn" }, row.traffic.differs));
}

function ReportLinks({ row }) {
  const report = new URL(`rollouts/${ownPath(row.rollout)}/report`, ROOT).href;
  return h("nav", { className: "canary-row", "aria-label": "More of this rollout" },
    h(Link, { to: `/dags/${ownPath(row.dag_id)}/runs/${ownPath(row.run_id)}`, className: "canary-link" }, "Airflow run"),
    h("a", { className: "canary-link", href: report, target: "_blank", rel: "noopener" }, "Report"),
    h("a", { className: "canary-link", href: `${report}?download=true`, download: "" }, "Download report"),
    h("a", { className: "canary-link", href: new URL(`api/rollouts/${ownPath(row.rollout)}`, ROOT).href, target: "_blank", rel: "noopener" }, "JSON"));
}

const SIGNS = { done: "✓", current: "▶", failed: "✗", open: "·" };

function Plan({ page, now }) {
  return h("ol", { className: "canary-plan" }, page.plan.map((step, place) =>
    h("li", { key: place, className: `is-${step.state}`, "aria-current": step.state === "current" ? "step" : undefined },
      h("span", { "aria-hidden": true }, SIGNS[step.state]), h("strong", null, step.weight === null ? "approve" : `${step.weight} %`),
      h("span", { className: "canary-small" }, step.says, step.began_at && h("span", null, " · ", h(Ago, { at: step.began_at, now })), h("span", { className: "canary-hidden" }, ` (${step.state})`)))));
}

/** The server's drawings at the width that there is; drawn anew when the page grows or something happened. */
function Charts({ rollout, revision, moving }) {
  const place = useRef(null);
  const [width, setWidth] = useState(0);
  const [charts, setCharts] = useState(null);
  const [error, setError] = useState(null);
  const now = useNow(moving ? 10 : 3600);
  useEffect(() => {
    const seen = new ResizeObserver(([entry]) => setWidth(10 * Math.floor(entry.contentRect.width / 10)));
    seen.observe(place.current);
    return () => seen.disconnect();
  }, []);
  const tick = moving ? Math.floor(now / 10) : 0;
  useEffect(() => {
    if (width < 50) return undefined;
    const control = new AbortController();
    const two = width >= 1100;
    const each = two ? 10 * Math.floor((width - 32) / 20) : width;
    ask(new URL(`api/rollouts/${ownPath(rollout)}/charts?width=${each}`, ROOT), { signal: control.signal }).then(
      (answer) => { setCharts(answer); setError(null); },
      (problem) => control.signal.aborted || setError(problem.message));
    return () => control.abort();
  }, [rollout, revision, width, tick]);
  const pictures = charts ? [charts.weight, charts.evidence, ...charts.checks.map((each) => each.svg)] : [];
  return h("section", { className: "canary-charts", ref: place, "aria-label": "Charts" },
    error && h(Notice, null, error), pictures.map((svg, number) => h(Picture, { key: number, svg })));
}

/** Read as XML, in which nothing runs; what is no drawing of ours is not shown. */
function Picture({ svg }) {
  const place = useRef(null);
  useEffect(() => {
    const read = new DOMParser().parseFromString(svg, "image/svg+xml").documentElement;
    if (read.localName === "svg" && !read.querySelector("script, foreignObject, parsererror")) place.current.replaceChildren(document.importNode(read, true));
  }, [svg]);
  return h("div", { className: "canary-picture", ref: place });
}

/** words: whether the last column is sentences. */
const Rows = ({ heads, words = true, children }) => h("div", { className: "canary-scroll", tabIndex: 0, role: "region", "aria-label": heads.join(", ") },
  h("table", { className: words ? "words" : undefined }, h("thead", null, h("tr", null, heads.map((each) => h("th", { key: each, scope: "col" }, each)))), h("tbody", null, children)));

function Checks({ page }) {
  const { row } = page;
  const log = (check) => `/dags/${ownPath(row.dag_id)}/runs/${ownPath(row.run_id)}/tasks/${ownPath(check.task_id)}`;
  return h("section", { className: "canary-box" }, h("h2", null, "Checks, as they stood at the end of each step"),
    page.checks.length === 0 ? h("p", { className: "canary-quiet" }, "Nothing was judged yet.") : h(Rows, { words: false, heads: ["Step", "Check", "Verdict", "Canary", "Stable", "Change (95 %)", "Limit", "Evidence", "Log"] },
      page.checks.flatMap((check, place) => {
        const v = check.verdict;
        return [h("tr", { key: place }, h("td", null, `${check.weight} %`), h("td", null, v.check), h("td", null, h("span", { className: `canary-verdict is-${v.verdict}` }, word(v.verdict))),
          h("td", null, quantity(v.canary, v.unit), counts(v.canary_events, v.canary_of)), h("td", null, quantity(v.stable, v.unit), counts(v.stable_events, v.stable_of)),
          h("td", null, change(v)), h("td", null, v.limit), h("td", null, odds(v.evidence), h("span", { className: "canary-small" }, `needed ${odds(v.needed)}`)),
          h("td", null, h(Link, { to: log(check), className: "canary-link" }, "log"))),
        h("tr", { key: `${place}s`, className: "said" }, h("td", null), h("td", { colSpan: 8 }, v.learned ? `${v.sentence} ${v.learned}` : v.sentence))];
      })));
}

const counts = (events, of) => h("span", { className: "canary-small" }, `${events.toLocaleString("en")} of ${of.toLocaleString("en")}`);
const figures = (value) => Number(value.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 6 });

function quantity(value, unit) {
  if (value === null) return "unknown";
  if (unit === "%") return `${figures(100 * value)} %`;
  if (unit === "s") return value < 1 ? `${figures(1000 * value)} ms` : `${figures(value)} s`;
  return figures(value);
}

function change({ change: by, low, high }) {
  if (by === null) return "–";
  const signed = (value) => (value >= 1 ? `${(value + 1).toFixed(1)} ×` : `${value >= 0 ? "+" : ""}${Math.round(100 * value)} %`);
  return h("span", null, signed(by), low !== null && high !== null && h("span", { className: "canary-small" }, `${signed(low)} to ${signed(high)}`));
}

const odds = (value) => (value === null ? "unknown" : value >= 1e6 ? "over 1,000,000 : 1" : value < 0.01 ? "under 0.01 : 1" : `${Number(value.toPrecision(2)).toLocaleString("en")} : 1`);

function Approvals({ page }) {
  return h("section", { className: "canary-box" }, h("h2", null, "Approvals"), h(Rows, { heads: ["Asked", "Before", "Answer", "By", "Comment"] }, page.approvals.map((each) =>
    h("tr", { key: each.id }, h("td", null, instant(each.asked_at)), h("td", null, `step ${each.step + 1}`), h("td", null, h(Pill, { kind: each.answer ?? "waiting" }, word(each.answer ?? "open"))),
      h("td", null, each.answered_by ?? each.approvers.join(", ")), h("td", null, each.comment)))));
}

function Decisions({ page }) {
  return h("section", { className: "canary-box" }, h("h2", null, "Decisions and writes"),
    h(Rows, { heads: ["When", "Step", "Decision", "Why"] }, page.decisions.map((each, place) =>
      h("tr", { key: place }, h("td", null, instant(each.at)), h("td", null, each.step + 1), h("td", null, h("strong", null, word(each.decision)), each.times > 1 && `\u00a0×\u00a0${each.times}`), h("td", null, each.reason)))),
    h(Rows, { heads: ["When", "Asked", "Read back", "Took", "Who", "Why"] }, page.writes.map((each, place) =>
      h("tr", { key: place }, h("td", null, instant(each.at)), h("td", null, share(each.asked)), h("td", null, share(each.read_back)),
        h("td", null, each.seconds === null ? "–" : `${each.seconds.toFixed(2)} s`), h("td", null, each.actor), h("td", null, each.why)))));
}

function Outside({ page }) {
  if (page.hook_calls.length + page.notices.length === 0) return null;
  return h("section", { className: "canary-box" }, h("h2", null, "Hooks and notices"),
    page.hook_calls.length > 0 && h(Rows, { heads: ["When", "Moment", "What", "State", "Detail"] }, page.hook_calls.map((each) =>
      h("tr", { key: each.id }, h("td", null, instant(each.started_at)), h("td", null, word(each.moment)), h("td", null, each.what), h("td", null, each.state), h("td", null, each.detail)))),
    page.notices.length > 0 && h(Rows, { heads: ["When", "To", "Event", "State"] }, page.notices.map((each) =>
      h("tr", { key: each.id }, h("td", null, instant(each.at)), h("td", null, each.channel), h("td", null, word(each.event)), h("td", null, each.sent_at ? "sent" : each.error || "not sent yet")))));
}

function Audit({ page }) {
  return h("details", { className: "canary-box", open: page.audit.length <= 12 }, h("summary", null, `Who did what (${page.audit.length} entries of the audit trail)`),
    h(Rows, { heads: ["When", "Who", "What", "Detail"] }, page.audit.map((each, place) =>
      h("tr", { key: place }, h("td", null, instant(each.at)), h("td", null, each.actor), h("td", null, each.event), h("td", null, each.says)))));
}
