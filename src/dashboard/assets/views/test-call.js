/** A test call: a task like any other, made with the payload given, and its answer when it is there. */

import { get, postText } from '../api.js';
import { createTaskBody, curlPost } from '../curl.js';
import { el, fill } from '../dom.js';
import { between, span } from '../format.js';
import { t } from '../i18n.js';
import { button, copy, dialog, field, problem } from '../parts.js';
import { preview } from '../preview.js';
import { hasResult, isOver, stateBadge } from '../states.js';

/** Milliseconds between two looks at the task. */
const PAUSE = 400;

/** The last payload of each model, so that a second test needs no typing. */
const payloads = new Map();

/** Opens the dialog. @param {any} model */
export function testCall(model) {
  const input = el('textarea', { id: 'payload', name: 'payload', spellcheck: 'false', autofocus: true, rows: 6 });
  input.value = payloads.get(model.id) ?? '{\n  "text": "Hello"\n}';
  const outcome = el('div.form', { 'aria-live': 'polite' });
  const submit = el('button.primary', { type: 'submit' }, t('test.send'));
  const body = () => createTaskBody({ modelName: model.modelName, bizName: 'dashboard' }, input.value.trim() || null);
  const watching = new AbortController();
  const onsubmit = async (event) => {
    event.preventDefault();
    input.removeAttribute('aria-invalid');
    const wrong = notJson(input.value);
    if (wrong) {
      input.setAttribute('aria-invalid', 'true');
      fill(outcome, el('p.field-error', {}, t('test.notJson', { error: wrong })));
      return input.focus();
    }
    payloads.set(model.id, input.value);
    submit.disabled = true;
    try {
      const { taskId } = await postText('task/createTask', body());
      await watch(taskId, outcome, watching.signal);
    } catch (error) {
      if (!watching.signal.aborted) fill(outcome, problem(error));
    }
    submit.disabled = false;
  };
  const node = dialog(
    t('test.title', { name: model.modelName }),
    el('p.faint', {}, t('test.lead')),
    el('form.form', { onsubmit }, field(t('test.payload'), input, t('test.payload.hint')), el('div.actions', {}, submit, button(t('do.curl'), () => copy(curlPost('task/createTask', body()))))),
    outcome,
  );
  node.addEventListener('close', () => watching.abort());
}

/** Shows how the task fares until it is over. */
async function watch(taskId, outcome, signal) {
  let state = null;
  while (!signal.aborted) {
    const task = await get('task/getTaskResult', { taskId }, signal);
    const now = `${task.state} ${task.phase} ${task.retryCount}`;
    if (now !== state) fill(outcome, report(task));
    state = now;
    if (isOver(task)) return;
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

function report(task) {
  const took = isOver(task) ? t('test.took', { wait: span(between(task.createdAt, task.startedAt)), run: span(between(task.startedAt, task.finishedAt)) }) : t('test.waiting');
  return [
    el('div.actions', {}, stateBadge(task), el('span.faint', {}, took), el('a', { href: `#/task/${task.taskId}` }, t('test.task'))),
    task.errorMsg ? el('p.reason', {}, task.errorMsg) : null,
    hasResult(task) ? preview(task) : null,
    isOver(task) ? null : el('p.faint', {}, t('test.hint')),
  ];
}

/** What is wrong with it as JSON; empty where nothing is. @param {string} text */
function notJson(text) {
  if (!text.trim()) return '';
  try {
    JSON.parse(text);
    return '';
  } catch (error) {
    return error.message;
  }
}
