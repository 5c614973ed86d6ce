/** One task: why it failed, what happened when, its result, its payload. */

import { get, getText, post, postText } from '../api.js';
import { createTaskBody, curlGet, curlPost } from '../curl.js';
import { el } from '../dom.js';
import { between, exactly, number, size, span } from '../format.js';
import { t } from '../i18n.js';
import { button, card, code, copy, facts, heading, problem, toast } from '../parts.js';
import { exact, preview, pretty } from '../preview.js';
import { may } from '../session.js';
import { STATE, hasResult, isOver, outcomeBadge, outcomeTone, stateBadge } from '../states.js';

export default {
  title: 'task.title',
  every: 2,

  async load({ id, signal }) {
    const [text, attempts] = await Promise.all([
      getText('task/getTaskResult', { taskId: id }, signal),
      post('task/listAttempt', { taskId: id }, signal).then(({ list }) => ({ list }), (error) => ({ list: [], error })),
    ]);
    const payload = exact(text).data.requestPayload;
    return { task: JSON.parse(text).data, payload: payload === null ? null : JSON.stringify(payload), attempts };
  },

  render({ task, payload, attempts }) {
    const body = createTaskBody(task, payload);
    return [
      heading(
        t('task.title'),
        button(t('do.curl'), () => copy(curlPost('task/createTask', body))),
        may('task:write') && isOver(task) ? button(t('task.again'), () => again(body)) : null,
        el('a.button', { href: `#/tasks?model=${encodeURIComponent(task.modelName)}` }, t('task.more')),
      ),
      el('p.actions', {}, stateBadge(task), el('code', {}, task.taskId), button(t('do.copy'), () => copy(task.taskId), { class: 'small', 'aria-label': `${t('do.copy')}: ${t('task.id')}` })),
      reason(task),
      el('div.pair', {}, [card(t('task.timeline'), {}, timeline(task, attempts)), hasResult(task) ? card(t('task.result'), {}, preview(task)) : null]),
      card(t('task.payload'), {}, payload === null ? el('p.faint', {}, t('task.noPayload')) : code(pretty(payload), t('task.payload'))),
      card(t('task.facts'), {}, about(task)),
      card(t('task.calls'), {}, code(curlGet('task/getTaskResult', { taskId: task.taskId }), t('task.look')), code(curlPost('task/createTask', body), t('task.create'))),
    ];
  },
};

/** What went wrong, before anything else. */
function reason(task) {
  if (!task.errorMsg || task.state === STATE.succeeded || task.state === STATE.pickedUp) return null;
  const title = task.state === STATE.failed ? t('task.why') : t('task.lastFailure');
  return el('section.problem', { 'aria-label': title }, el('h2.problem-title', {}, title), el('p', {}, task.errorMsg));
}

function timeline(task, { list, error }) {
  const point = (tone, at, title, ...more) => el(`li.${tone}`, {}, el('div.actions', {}, el('strong', {}, title), el('span.faint', {}, exactly(at))), more);
  const told = list.length > 0 || !task.startedAt ? list.map((attempt) => step(attempt, point)) : [point('info', task.startedAt, t('task.started'))];
  const first = list[0]?.startedAt ?? task.startedAt;
  return [
    error ? problem(error) : null,
    el(
      'ol.timeline',
      {},
      point('neutral', task.createdAt, t('task.created'), el('span.sub', {}, t('task.by', { creator: task.creator }))),
      first ? el('li.neutral', {}, el('span.faint', {}, t('task.waited', { span: span(between(task.createdAt, first)) }))) : null,
      told,
      task.state === STATE.queued ? point('warn', task.enqueueAt, task.retryCount ? t('task.waitsAgain') : t('task.waits')) : null,
      task.finishedAt ? point(task.state === STATE.failed ? 'bad' : 'good', task.finishedAt, t(task.state === STATE.failed ? 'state.3' : 'state.2'), el('span.sub', {}, t('task.total', { span: span(between(task.createdAt, task.finishedAt)) }))) : null,
      task.state === STATE.pickedUp ? el('li.good', {}, el('strong', {}, t('state.4'))) : null,
      task.expireAt ? el('li.neutral', {}, el('span.faint', {}, t('task.expires'), ' ', exactly(task.expireAt))) : null,
    ),
  ];
}

function step(attempt, point) {
  const about = [attempt.seconds !== null && attempt.seconds !== undefined ? span(attempt.seconds * 1000) : '', attempt.node && t('task.node', { node: attempt.node })].filter(Boolean).join(' · ');
  return point(
    outcomeTone(attempt.outcome),
    attempt.startedAt,
    t('task.attempt', { number: number(attempt.attempt) }),
    el('div', {}, outcomeBadge(attempt.outcome), about && el('span.faint', {}, ` ${about}`)),
    attempt.error && el('span.sub', {}, attempt.error),
  );
}

function about(task) {
  return facts([
    [t('task.model'), task.modelName],
    [t('tenant.label'), task.tenantId],
    [t('task.creator'), task.creator],
    [t('task.biz'), task.bizName],
    [t('task.created'), exactly(task.createdAt)],
    [t('task.enqueued'), exactly(task.enqueueAt)],
    [t('task.startedAt'), exactly(task.startedAt)],
    [t('task.finishedAt'), exactly(task.finishedAt)],
    [t('task.retries'), number(task.retryCount)],
    [t('task.size'), task.ossFile ? `${task.fileType} · ${size(task.fileSize)}` : ''],
    [t('task.inputRef'), task.inputRef],
  ]);
}

async function again(body) {
  try {
    const { taskId } = await postText('task/createTask', body);
    toast(t('task.createdAgain'));
    location.hash = `#/task/${taskId}`;
  } catch (error) {
    toast(error.message, 'bad');
  }
}
