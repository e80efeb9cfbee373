/*
 * verdict.js: fl_rate_verdict as JavaScript, and as HTTP
 *
 * A verdict travels as one JSON array, which fl_rate_json() makes: a driver's
 * cost is per column, and none of the driver's traps is stepped into. bigint
 * arrives as a string, timestamptz is cut to the millisecond (a date would
 * come out too early) and shown in the session's time zone, and an application
 * may have put its own type parsers in place. So dates and intervals travel as
 * whole microseconds, which a double holds exactly.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const DEFAULT_MESSAGE =
  "You've made too many attempts in a short period of time, please try again in a few seconds. " +
  'Read more about rate limiting and how you may be affected by reading our documentation.';
const DEFAULT_REFERENCE_URL = 'https://developers.fliplet.com/Rate-limiting-for-API.html';

/* The largest integer of a structured header field: 15 digits. */
const HEADER_MAX = 999999999999999;

/* What fl_rate_json() would answer when nobody could judge. */
const UNAVAILABLE = [true, 'unavailable', null, 0, null, null, null, null, null, null, null];

/* Milliseconds, rounded up: never a moment too early. */
const toMs = (us) => (us === null ? null : Math.ceil(us / 1000));

const toDate = (us) => (us === null ? null : new Date(toMs(us)));

/* The answer to a request, with the names of fl_rate_json(). */
class Verdict {
  /* Milliseconds from the server's now to resetAt, and when we heard of it. */
  #toReset;
  #heard;

  /* array: what fl_rate_json(verdict, 'array') has made; heard: performance.now() */
  constructor(array, scope, key, api, heard) {
    const [allowed, reason, remaining, delay, next, reset, name, limitId, maxRequests, period] = array;
    const now = allowed ? next : array[10];

    this.#toReset = reset === null ? null : (reset - now) / 1000;
    this.#heard = heard;

    this.allowed = allowed;
    this.reason = reason;
    this.remaining = remaining;
    this.delayMs = toMs(delay ?? 0);
    this.retryAfterMs = allowed ? 0 : next === null ? null : Math.max(toMs(next - now), 0);
    this.nextValidAt = toDate(next);
    this.resetAt = toDate(reset);
    this.scope = scope;
    this.key = key;
    this.api = api;
    this.name = name;
    this.limitId = limitId;
    this.maxRequests = maxRequests;
    this.periodMs = toMs(period);
  }

  /* What failOpen answers when nobody could judge. */
  static unavailable(scope, key, api) {
    return new Verdict(UNAVAILABLE, scope, key, api, 0);
  }

  /*
   * Whole seconds until resetAt and nextValidAt, at least 1, null without the
   * date. By the server's clock and this process's elapsed time, so that a
   * difference between two machines' clocks cannot make a client come back
   * too early. A copy of a verdict has only its dates.
   */
  static secondsLeft(verdict) {
    const seconds = (ms) => Math.max(Math.ceil(ms / 1000), 1);
    const { resetAt, nextValidAt, retryAfterMs } = verdict;
    let toReset = resetAt - Date.now();
    let toNext = nextValidAt - Date.now();
    if (#heard in verdict) {
      const gone = performance.now() - verdict.#heard;
      toReset = verdict.#toReset - gone;
      toNext = retryAfterMs - gone;
    }
    return {
      reset: resetAt === null ? null : seconds(toReset),
      next: nextValidAt === null ? null : seconds(toNext),
    };
  }
}

/* The response's header fields; {} when no limit applies. */
function headers(verdict) {
  const { name, maxRequests, remaining, periodMs } = verdict;
  if (name === null || maxRequests === null) {
    return {};
  }
  const left = Verdict.secondsLeft(verdict);
  let policy = `"${name}";q=${Math.min(maxRequests, HEADER_MAX)}`;
  let state = `"${name}";r=${Math.min(remaining, HEADER_MAX)}`;
  if (periodMs !== null) {
    policy += `;w=${Math.max(Math.ceil(periodMs / 1000), 1)}`;
  }
  if (left.reset !== null) {
    state += `;t=${left.reset}`;
  }
  const fields = { 'RateLimit-Policy': policy, RateLimit: state };
  if (!verdict.allowed && left.next !== null) {
    fields['Retry-After'] = String(left.next);
  }
  return fields;
}

/* The documented body of a 429, these three keys and no others; null when allowed. */
function body(verdict, { message = DEFAULT_MESSAGE, referenceUrl = DEFAULT_REFERENCE_URL } = {}) {
  if (verdict.allowed) {
    return null;
  }
  return { message, referenceUrl, nextValidRequestDate: verdict.nextValidAt };
}

module.exports = { Verdict, headers, body };
