// What all pages share: the host's React, ways to ask, and small elements. Every text becomes a text node, never markup.

const React = globalThis.React;
const Chakra = globalThis.ChakraUI ?? {};
const Router = globalThis.ReactRouterDOM ?? {};
export const { createElement: h, useCallback, useEffect, useRef, useState } = React;

export const ROOT = new URL("../", import.meta.url); // …/canary/
export const AIRFLOW = new URL("./", document.baseURI); // where Airflow itself is served

/** The host's own element where it has one, so that it looks like the rest of Airflow; else the plain one. */
const hosts = (name, plain) => Chakra[name] ?? plain;
const HostButton = hosts("Button", "button");

export const Button = ({ danger = false, quiet = false, children, ...rest }) => {
  const looks = HostButton === "button" ? {} : { size: "sm", variant: quiet ? "outline" : "solid" };
  const palette = HostButton === "button" || quiet ? {} : { colorPalette: danger ? "red" : "brand" };
  const kind = `canary-button${danger ? " danger" : ""}${quiet ? " quiet" : ""}`;
  return h(HostButton, { type: "button", className: kind, ...looks, ...palette, ...rest }, children);
};

/** An Airflow page inside this tab; a plain link where the host gives no router. */
export const Link = ({ to, children, ...rest }) =>
  Router.Link
    ? h(Router.Link, { to, ...rest }, children)
    : h("a", { href: new URL(to.replace(/^\//, ""), AIRFLOW).href, ...rest }, children);

export const ownPath = (...parts) => parts.map(encodeURIComponent).join("/");

class AskError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** JSON from this server, with the login that the browser has. Throws AskError with the server's own sentence. */
export async function ask(url, { method = "GET", body, signal } = {}) {
  const headers = body === undefined ? { Accept: "application/json" } : { "Content-Type": "application/json" };
  const options = { method, headers, signal, credentials: "same-origin" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new AskError("Airflow's server does not answer.", 0);
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new AskError(sentenceOf(answer, response), response.status);
  return answer;
}

function sentenceOf(answer, response) {
  const detail = answer?.detail;
  if (response.status === 401) return "You are not signed in any more; reload this page.";
  if (typeof detail === "string") return detail;
  if (Array.isArray(detail)) return detail.map((each) => each.msg ?? String(each)).join("; ");
  if (typeof detail?.reason === "string") return detail.reason;
  return `The server answered ${response.status} ${response.statusText}.`;
}

/** Ask again every few seconds while the page is in front; the last answer stays while a newer one is missing. */
export function useAsked(url, seconds) {
  const [state, setState] = useState({ data: null, error: null, at: 0 });
  const [again, setAgain] = useState(0);
  useEffect(() => {
    if (!url) return undefined;
    const control = new AbortController();
    let timer;
    const look = async () => {
      if (!document.hidden) {
        try {
          const data = await ask(url, { signal: control.signal });
          setState({ data, error: null, at: Date.now() });
        } catch (error) {
          if (control.signal.aborted) return;
          setState((before) => ({ ...before, error }));
        }
      }
      if (seconds && !control.signal.aborted) timer = setTimeout(look, 1000 * seconds);
    };
    look();
    return () => {
      control.abort();
      clearTimeout(timer);
    };
  }, [url, seconds, again]);
  return { ...state, reload: useCallback(() => setAgain((count) => count + 1), []) };
}

/** The instant in seconds, moving. */
export function useNow(seconds = 1) {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1000), 1000 * seconds);
    return () => clearInterval(timer);
  }, [seconds]);
  return now;
}

export const duration = (seconds) => {
  const whole = Math.max(Math.round(seconds), 0);
  const parts = [[Math.floor(whole / 86400), "d"], [Math.floor(whole / 3600) % 24, "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0\u00a0s";
  return parts.slice(first, first + (first < 2 ? 2 : first === 2 ? 2 : 1)).filter(([count]) => count > 0).map(([count, unit]) => `${count}\u00a0${unit}`).join(" ");
};

/** For figures that are compared: no seconds beyond ten minutes. */
export const rounded = (seconds) => duration(seconds < 600 ? seconds : 60 * Math.round(seconds / 60));

/** How long ago, as exactly as anybody wants to know. */
const age = (seconds) => (seconds < 60 ? duration(seconds) : duration(seconds).split(" ")[0]);
export const share = (percent) => (percent === null || percent === undefined ? "unknown" : `${Number(percent.toPrecision(3))}\u00a0%`);
export const word = (text) => String(text ?? "").replaceAll("_", " ");
/** Year first, in the reader's own time zone. */
export const instant = (at) => (at ? new Date(1000 * at).toLocaleString("sv-SE") : "not yet");

export const Ago = ({ at, now }) => h("time", { dateTime: new Date(1000 * at).toISOString(), title: instant(at) }, `${age(now - at)} ago`);

/** A number stays beside its unit when a line is broken. */
export const tied = (text) => String(text).replaceAll(" %", "\u00a0%");

/** What is in force is said in words, too; colour is never alone. */
export const Pill = ({ kind, children }) => h("span", { className: `canary-pill is-${kind}` }, children);

export const Notice = ({ kind = "bad", children }) => h("p", { className: `canary-notice is-${kind}`, role: kind === "bad" ? "alert" : "status" }, children);

/** The canary's share as a bar: filled what the load balancer says, hatched when the three figures disagree. */
export function TrafficBar({ traffic, inProgress }) {
  const { asked, read_back: readBack, observed, differs, canary, stable } = traffic;
  if (readBack === null && asked === null) return h("span", { className: "canary-quiet" }, "nothing written yet");
  const filled = readBack ?? asked;
  const parts = [`canary ${share(filled)}`];
  if (asked !== null && asked !== readBack) parts.push(`asked ${share(asked)}`);
  if (observed !== null) parts.push(`seen ${share(observed)}`);
  const label = `${canary} ${share(filled)}, ${stable} ${share(100 - filled)}${differs ? `; ${differs}` : ""}`;
  return h("div", { className: "canary-traffic" },
    h("svg", { className: "canary-bar", role: "img", width: "100%", height: 10, preserveAspectRatio: "none", viewBox: "0 0 100 10" },
      h("title", null, label),
      h("defs", null, h("pattern", { id: "canary-hatch", width: 3, height: 10, patternUnits: "userSpaceOnUse" },
        h("rect", { className: "hatch", x: 0, y: 0, width: 1.5, height: 10 }))),
      h("rect", { className: "rest", x: 0, y: 0, width: 100, height: 10 }),
      filled > 0 && h("rect", { className: inProgress ? "part" : "part over", x: 0, y: 0, width: Math.max(filled, 1.5), height: 10 }),
      differs && h("rect", { x: 0, y: 0, width: 100, height: 10, fill: "url(#canary-hatch)" })),
    h("span", { className: differs ? "canary-small warn" : "canary-small" }, parts.join(" · ")));
}

/** Asks once more before it acts. children: fields that belong to the question. */
export function Confirm({ label, question, sure, danger = false, loud = danger, disabled = false, act, children }) {
  const [open, setOpen] = useState(false);
  const [state, setState] = useState({ busy: false, error: null, done: null });
  const place = useRef(null);
  useEffect(() => {
    if (open) place.current?.querySelector(".canary-sure")?.focus();
  }, [open]);
  const go = async () => {
    setState({ busy: true, error: null, done: null });
    try {
      const done = await act();
      setState({ busy: false, error: null, done });
      setOpen(false);
    } catch (error) {
      setState({ busy: false, error: error.message, done: null });
    }
  };
  return h("div", { className: "canary-confirm", ref: place },
    !open && h(Button, { danger, quiet: !loud, disabled, onClick: () => setOpen(true), "aria-expanded": false }, label),
    open && h("div", { className: "canary-question", role: "group", "aria-label": label },
      h("p", null, question),
      children,
      h("div", { className: "canary-row" },
        h(Button, { danger, disabled: state.busy, onClick: go, className: `canary-button canary-sure${danger ? " danger" : ""}` }, state.busy ? "…" : sure),
        h(Button, { quiet: true, disabled: state.busy, onClick: () => setOpen(false) }, "Back"))),
    state.error && h(Notice, null, state.error),
    state.done && h(Notice, { kind: "good" }, state.done));
}

export const Field = ({ label, value, set, ...rest }) =>
  h("label", { className: "canary-field" }, h("span", null, label), h("input", { type: "text", value, onChange: (event) => set(event.target.value), ...rest }));

/** Whatever breaks inside our page stays inside it. */
export class Boundary extends React.Component {
  constructor(props) {
    super(props);
    this.state = { error: null };
  }

  static getDerivedStateFromError(error) {
    return { error };
  }

  render() {
    if (!this.state.error) return this.props.children;
    return h("div", { className: "canary-page" },
      h(Notice, null, `This page could not be shown: ${this.state.error.message}. The rollouts themselves go on.`),
      h(Button, { quiet: true, onClick: () => this.setState({ error: null }) }, "Try again"));
  }
}

/** The style sheets, once in a document. */
export function wear() {
  for (const name of ["canary_charts.css", "canary_pages.css"]) {
    const href = new URL(`static/${name}`, ROOT).href;
    if ([...document.styleSheets].some((sheet) => sheet.href === href)) continue;
    if (document.querySelector(`link[data-canary="${name}"]`)) continue;
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = href;
    link.dataset.canary = name;
    document.head.append(link);
  }
}
