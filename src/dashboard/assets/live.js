/**
 * Asking again and again: not while nobody looks, slower while nobody answers.
 */

/** Longest pause between two tries while the service does not answer, in seconds. */
const LONGEST_PAUSE = 60;

/** How the page and the service stand: `live`, `paused` or `lost`. */
/** @typedef {{state: 'live'|'paused'|'lost', at: number, retryIn: number}} Condition */

/** Repeats one question until it is stopped. */
export class Live {
  /**
   * @param {(signal: AbortSignal) => Promise<void>} ask throws where it failed
   * @param {(condition: Condition) => void} told hears how it goes
   */
  constructor(ask, told) {
    this.ask = ask;
    this.told = told;
    this.paused = false;
    this.stop();
    document.addEventListener('visibilitychange', () => this.seen());
  }

  /** Asks now, and then every so many seconds. @param {number} every */
  start(every) {
    this.stop();
    this.every = every;
    return this.now();
  }

  /** No more questions; what is under way is dropped. */
  stop() {
    clearTimeout(this.timer);
    this.controller?.abort();
    this.controller = null;
    this.failures = 0;
    this.every = 0;
  }

  /** Asks at once. What was under way is dropped: it may answer an older question. */
  async now() {
    clearTimeout(this.timer);
    this.controller?.abort();
    const controller = new AbortController();
    this.controller = controller;
    let error = null;
    try {
      await this.ask(controller.signal);
    } catch (thrown) {
      error = thrown;
    }
    if (controller.signal.aborted) return;
    this.controller = null;
    this.failures = error ? this.failures + 1 : 0;
    const pause = error ? Math.min(LONGEST_PAUSE, Math.max(this.every, error.retryAfter ?? 0, 2 ** this.failures)) : this.every;
    if (error) this.told({ state: 'lost', at: Date.now(), retryIn: pause });
    else this.told({ state: this.paused ? 'paused' : 'live', at: Date.now(), retryIn: 0 });
    if (!this.paused && !document.hidden && this.every) this.timer = setTimeout(() => this.now(), pause * 1000);
  }

  /** Stops or goes on, as whoever reads wishes. @param {boolean} paused */
  pause(paused) {
    this.paused = paused;
    clearTimeout(this.timer);
    if (paused) this.told({ state: 'paused', at: Date.now(), retryIn: 0 });
    else if (this.every) this.now();
  }

  /** The tab was hidden or shown. */
  seen() {
    clearTimeout(this.timer);
    if (!document.hidden && !this.paused && this.every) this.now();
  }
}
