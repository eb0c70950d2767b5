// The pages that Airflow shows: it loads this module and takes the component named like the entry in the plugin.

import { Boundary, ROOT, h, ownPath, wear } from "./canary_parts.js";
import { InProgress, RolloutList } from "./canary_list.js";
import { RolloutPage } from "./canary_rollout.js";

const Router = globalThis.ReactRouterDOM ?? {};

wear();

const inside = (page) => h(Boundary, null, page);

/** The list; with ?rollout=… one of its rollouts, which also shows those whose run Airflow has forgotten. */
function Rollouts() {
  const search = Router.useLocation ? Router.useLocation().search : globalThis.location.search;
  const rollout = new URLSearchParams(search).get("rollout");
  if (!rollout) return inside(h(RolloutList));
  return inside(h(RolloutPage, { key: rollout, url: new URL(`api/rollouts/${ownPath(rollout)}`, ROOT).href }));
}

function Rollout({ dagId, runId }) {
  return inside(h(RolloutPage, { key: runId, url: new URL(`api/dags/${ownPath(dagId ?? "")}/runs/${ownPath(runId ?? "")}/rollout`, ROOT).href }));
}

const Dashboard = () => inside(h(InProgress));

globalThis.Rollouts = Rollouts;
globalThis.Rollout = Rollout;
globalThis["Rollouts in progress"] = Dashboard;
export { Dashboard, Rollout, Rollouts };
