/**
 * The service's public API: one function for a call, one error for everything that can go wrong.
 *
 * Paths are relative to the page, so that it works behind a gateway that puts something in front.
 */

/** Longest wait for an answer, in milliseconds. */
const PATIENCE = 20_000;

/** What every call carries; `session.js` fills it in. */
const sent = { token: '', tenant: '' };

/** A call that failed, with all that helps to find out why. */
export class Failure extends Error {
  /**
   * @param {string} message for people
   * @param {{status?: number, kind?: string, field?: string, requestId?: string, bearer?: boolean,
   *   retryAfter?: number}} [about]
   */
  constructor(message, about = {}) {
    super(message);
    this.status = about.status ?? 0;
    this.kind = about.kind ?? 'unreachable';
    this.field = about.field ?? '';
    this.requestId = about.requestId ?? '';
    /** True where a token would help. */
    this.bearer = about.bearer ?? false;
    /** Seconds that the service asks to wait. */
    this.retryAfter = about.retryAfter ?? 0;
  }
}

/** @param {string} token sent with every call from now on; empty for none */
export function useToken(token) {
  sent.token = token;
}

/** @param {string} tenant acted for in every call from now on; empty for the caller's own, or all */
export function useTenant(tenant) {
  sent.tenant = tenant;
}

/** @param {string} path @returns {URL} where that is, seen from this page */
export function address(path) {
  return new URL(path.replace(/^\//, ''), document.baseURI.replace(/[#?].*$/, ''));
}

/**
 * GET with a query. @param {string} path @param {Object<string, any>} [query] @param {AbortSignal} [signal]
 */
export function get(path, query = {}, signal) {
  const url = address(path);
  Object.entries(withTenant(query)).forEach(([name, value]) => url.searchParams.set(name, value));
  return data('GET', url, undefined, signal);
}

/** POST with a JSON body. @param {string} path @param {Object<string, any>} [body] @param {AbortSignal} [signal] */
export function post(path, body = {}, signal) {
  return data('POST', address(path), JSON.stringify(withTenant(body)), signal);
}

/** PUT with a JSON body. @param {string} path @param {Object<string, any>} body */
export function put(path, body) {
  return data('PUT', address(path), JSON.stringify(withTenant(body)));
}

/** POST with a body that is JSON already, to the letter. @param {string} path @param {string} json */
export function postText(path, json) {
  return data('POST', address(path), json);
}

/** GET, as the text of the whole answer. @param {string} path @param {Object<string, any>} query @param {AbortSignal} [signal] */
export async function getText(path, query, signal) {
  const url = address(path);
  Object.entries(withTenant(query)).forEach(([name, value]) => url.searchParams.set(name, value));
  return (await answer('GET', url, undefined, signal)).text;
}

/** The tenant that calls act for, as it goes into a body written by hand: `{"tenantId":"7"}` or `{}`. */
export function withTenant(fields) {
  const named = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== ''));
  return sent.tenant && named.tenantId === undefined ? { ...named, tenantId: sent.tenant } : named;
}

async function data(method, url, body, signal) {
  return (await answer(method, url, body, signal)).envelope.data;
}

/** Sends, and reads the envelope. */
async function answer(method, url, body, signal) {
  const headers = { Accept: 'application/json' };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (sent.token) headers.Authorization = `Bearer ${sent.token}`;
  const late = AbortSignal.timeout(PATIENCE);
  let response;
  let text;
  try {
    response = await fetch(url, { method, headers, body, signal: signal ? AbortSignal.any([signal, late]) : late });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure(late.aborted ? 'no answer in time' : 'no connection', { kind: late.aborted ? 'late' : 'unreachable' });
  }
  const envelope = parsed(text);
  if (response.ok && envelope?.code === 0) return { text, envelope };
  throw new Failure(envelope?.message ?? `${response.status} ${response.statusText}`, {
    status: response.status,
    kind: envelope?.error?.kind ?? 'unexpected',
    field: envelope?.error?.field,
    requestId: envelope?.error?.requestId ?? response.headers.get('X-Request-Id') ?? '',
    bearer: (response.headers.get('WWW-Authenticate') ?? '').startsWith('Bearer'),
    retryAfter: Number(response.headers.get('Retry-After')) || 0,
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // Not from the service, but from something in between.
  }
}
