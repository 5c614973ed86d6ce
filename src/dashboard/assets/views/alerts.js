/** Alerts as lines: what is wrong, with what, since when. Overview and Health show them. */

import { el } from '../dom.js';
import { number, percent, span, when } from '../format.js';
import { t, tOr } from '../i18n.js';
import { badge } from '../parts.js';

const TONES = { critical: 'bad', warning: 'warn', info: 'info' };

/** What each condition of a rule says when it is broken. */
const CAUSES = {
  pending: ({ tasks, above }) => t('alert.pending', { tasks: number(tasks), above: number(above) }),
  oldest: ({ seconds, aboveSeconds }) => t('alert.oldest', { age: span(seconds * 1000), above: span(aboveSeconds * 1000) }),
  failureRate: ({ rate, above, calls }) => t('alert.failureRate', { rate: percent(rate), above: percent(above), calls: number(calls) }),
  nodeLost: ({ nodes }) => t('alert.nodeLost', { nodes: number(nodes) }),
  dependencyDown: () => t('alert.dependencyDown'),
};

/** @param {any} alert as listAlert has it */
export function alertLine(alert) {
  return el(
    'li',
    { 'data-key': alert.id },
    el('div.actions', {}, badge(tOr(`severity.${alert.severity}`, alert.severity), alert.open ? TONES[alert.severity] : 'neutral'), el('strong', {}, alert.rule), el('span', {}, subject(alert))),
    el('div', { title: alert.message }, why(alert)),
    el('span.sub', {}, t('alerts.since'), ' ', when(alert.beganAt), alert.endedAt ? [' · ', t('alerts.until'), ' ', when(alert.endedAt)] : null),
    alert.undelivered.map((one) => el('span.sub.bad-text', {}, t('alert.undelivered', { channel: one.channel, tries: number(one.tries) }), one.error ? ` ${one.error}` : '')),
  );
}

/** What it is about. */
function subject({ tenantId, modelName, name }) {
  return [modelName, tenantId && t('who.of', { tenant: tenantId }), name && tOr(`dependency.${name}`, name)].filter(Boolean).join(' · ');
}

/** What broke the rule; the service's own words where it says something new. */
function why({ causes, message }) {
  if (!causes.length || causes.some(({ condition }) => !(condition in CAUSES))) return message;
  return causes.map((cause) => CAUSES[cause.condition](cause)).join(' · ');
}
