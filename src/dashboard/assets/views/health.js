/** Is it well? What it depends on, its nodes, its maintenance, its alerts. */

import { get, post } from '../api.js';
import { el } from '../dom.js';
import { between, number, since, span, when } from '../format.js';
import { t, tOr } from '../i18n.js';
import { badge, button, card, heading, nothing, problem, table, toast } from '../parts.js';
import { who } from '../session.js';
import { alertLine } from './alerts.js';

/** Lines of a history. */
const FEW = 10;

const RUNS = { waiting: 'neutral', running: 'info', succeeded: 'good', failed: 'bad', lost: 'bad' };

export default {
  title: 'nav.health',
  every: 5,

  async load({ signal }) {
    const ask = async (path, body = {}) => {
      try {
        return { data: await post(path, body, signal) };
      } catch (error) {
        if (error.status === 401 || !error.status) throw error;
        return { error };
      }
    };
    const admin = who().admin;
    const page = { pageSize: FEW };
    const [health, nodes, jobs, runs, alerts] = await Promise.all([
      get('node/getHealth', {}, signal),
      admin ? ask('node/listNode') : null,
      admin ? ask('maintenance/listJob') : null,
      admin ? ask('maintenance/listRun', { page }) : null,
      ask('monitor/listAlert', { page }),
    ]);
    return { health, nodes, jobs, runs, alerts };
  },

  render({ health, nodes, jobs, runs, alerts }, { reload }) {
    return [
      heading(t('nav.health')),
      el('p.lead', {}, health.ready ? badge(t('health.ready'), 'good') : badge(t('health.notReady'), 'bad'), ' ', health.startedAt ? t('health.up', { span: span(since(health.startedAt)) }) : ''),
      el('div.pair', {}, card(t('health.dependencies'), {}, dependencies(health.dependencies)), card(t('alerts.title'), {}, shown(alerts, alertsOf))),
      nodes ? card(t('health.nodes'), {}, shown(nodes, nodesOf)) : null,
      jobs ? card(t('health.jobs'), {}, shown(jobs, (data) => jobsOf(data, reload))) : null,
      runs ? card(t('health.runs'), {}, shown(runs, runsOf)) : null,
    ];
  },
};

const shown = ({ data, error }, draw) => (error ? problem(error) : draw(data));

function dependencies(list) {
  return table({
    caption: t('health.dependencies'),
    rows: list,
    key: (one) => one.name,
    columns: [
      { label: t('health.name'), kind: 'wide', cell: (one) => el('strong', {}, tOr(`dependency.${one.name}`, one.name)) },
      { label: t('model.state'), cell: (one) => (one.up ? badge(t('health.upNow'), 'good') : badge(t('health.down'), 'bad')) },
      { label: t('health.latency'), kind: 'num', cell: (one) => span(one.latencyMs) },
      { label: t('health.error'), kind: 'wide', cell: (one) => one.error ?? el('span.faint', {}, '–') },
    ],
  });
}

function nodesOf({ list }) {
  return table({
    caption: t('health.nodes'),
    rows: list,
    key: (node) => node.node,
    columns: [
      { label: t('health.name'), kind: 'wide', cell: (node) => [el('strong', {}, node.name), el('span.sub.mono', {}, node.node)] },
      { label: t('model.state'), cell: (node) => (node.alive ? badge(t('health.alive'), 'good') : badge(t('health.dead'), 'bad')) },
      { label: t('overview.running'), kind: 'num', cell: (node) => number(node.running) },
      { label: t('health.cleans'), cell: (node) => (node.cleans ? t('yes') : t('no')) },
      { label: t('health.since'), cell: (node) => when(node.startedAt) },
      { label: t('health.lease'), kind: 'num', cell: (node) => span(Math.max(0, between(new Date(), node.leaseUntil) ?? 0)) },
    ],
    empty: nothing(t('health.noNodes'), el('p', {}, t('health.noNodes.how'))),
  });
}

function jobsOf({ list }, reload) {
  return table({
    caption: t('health.jobs'),
    rows: list,
    key: (job) => job.job,
    columns: [
      { label: t('health.job'), kind: 'wide', cell: (job) => [el('strong', {}, job.job), el('span.sub', { lang: 'en' }, job.description)] },
      { label: t('health.schedule'), kind: 'short', cell: (job) => [job.schedule ? el('code', {}, job.schedule) : t('health.whenAsked'), el('span.sub', {}, job.timezone ?? '')] },
      { label: t('health.next'), kind: 'short', cell: (job) => when(job.nextAt) },
      { label: t('health.last'), cell: (job) => (job.open ?? job.last ? [runBadge(job.open ?? job.last), el('span.sub', {}, when((job.open ?? job.last).createdAt))] : el('span.faint', {}, '–')) },
      { label: t('do.actions'), kind: 'acts', cell: (job) => button(t('health.runNow'), () => run(job, reload), { class: 'small', 'aria-label': `${t('health.runNow')}: ${job.job}` }) },
    ],
    empty: nothing(t('health.noJobs')),
  });
}

const runBadge = (run) => badge(tOr(`run.${run.state}`, run.state), RUNS[run.state]);

async function run({ job }, reload) {
  try {
    await post('maintenance/runJob', { job });
    toast(t('health.started', { job }));
  } catch (error) {
    toast(error.message, 'bad');
  }
  reload();
}

function runsOf({ list }) {
  return table({
    caption: t('health.runs'),
    rows: list,
    key: (run) => run.runId,
    columns: [
      { label: t('health.job'), kind: 'short', cell: (run) => [el('strong', {}, run.job), el('span.sub', {}, run.creator ? t('task.by', { creator: run.creator }) : tOr(`cause.${run.cause}`, run.cause))] },
      { label: t('log.success'), cell: runBadge },
      { label: t('health.since'), cell: (run) => when(run.startedAt ?? run.createdAt) },
      { label: t('log.cost'), kind: 'num', cell: (run) => span(run.seconds === null ? null : run.seconds * 1000) },
      { label: t('health.node'), cell: (run) => run.node || '–' },
      { label: t('task.outcome'), kind: 'wide', cell: (run) => [run.errorMsg && el('span.bad-text', { lang: 'en' }, run.errorMsg), run.result && el('span', {}, flat(run.result))] },
    ],
    empty: nothing(t('health.noRuns')),
  });
}

/** A result as names and values: what each step deleted. */
const flat = (result) => Object.entries(result).map(([name, value]) => `${name}: ${typeof value === 'number' ? number(value) : JSON.stringify(value)}`).join(' · ');

function alertsOf({ list }) {
  return list.length ? el('ul.form', {}, list.map(alertLine)) : nothing(t('alerts.none'));
}
