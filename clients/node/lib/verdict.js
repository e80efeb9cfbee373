/*
 * verdict.js: fl_rate_verdict as JavaScript, and as HTTP
 *
 * The columns are selected so that none of the driver's traps is stepped
 * into: bigint arrives as a string, timestamptz is cut to the millisecond
 * (a date would come out too early) and shown in the session's time zone, and
 * an application may have put its own type parsers in place. So dates and
 * intervals travel as whole microseconds, and every value is taken as text.
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

/* Seconds as whole microseconds; a double holds these dates exactly. */
const micros = (seconds) =>
  `(${seconds} OPERATOR(pg_catalog.*) 1000000::pg_catalog.float8)::pg_catalog.int8`;
const epoch = (value) => `pg_catalog.date_part('epoch', ${value})`;

const orNone = (value) => `coalesce(${value}, -1)`;

/*
 * One text per verdict, because a driver's cost is per column. None of the
 * numbers can be negative, except limit_id, which is there when name is: -1
 * stands for NULL, which concat_ws() would leave out. No text can contain a
 * quotation mark or a line break. The limit comes first, so that verdicts by
 * one limit begin alike. The server's clock is needed where next_valid_at
 * does not tell it.
 */
const FIELDS = [
  "coalesce(v.name, '')",
  orNone('v.limit_id'),
  orNone('v.max_requests'),
  orNone(micros(epoch('v.period'))),
  'v.allowed',
  'v.reason',
  orNone('v.remaining'),
  orNone(micros(epoch('v.delay'))),
  orNone(micros(epoch('v.next_valid_at'))),
  orNone(micros(epoch('v.reset_at'))),
  `CASE WHEN v.allowed THEN -1 ELSE ${micros(epoch('pg_catalog.clock_timestamp()'))} END`,
];
const LIMIT_FIELDS = 4;
const VERDICT = `pg_catalog.concat_ws('"', ${FIELDS.join(', ')})`;

/* Several of them as one text, a line each: a row has its cost, too. */
const VERDICTS = `pg_catalog.string_agg(${VERDICT}, E'\\n')`;

/* The same when nobody could judge. */
const UNAVAILABLE = '"-1"-1"-1"t"unavailable"-1"-1"-1"-1"-1';

const numberOrNull = (text) => (text === '-1' ? null : Number(text));

/* A date, rounded up: never a moment too early. */
const dateOrNull = (us) => (us === null ? null : new Date(Math.ceil(us / 1000)));

/* What a verdict says of its limit, and the text that says so. */
function readLimit(text) {
  let end = 0;
  for (let i = 0; i < LIMIT_FIELDS; i++) {
    end = text.indexOf('"', end) + 1;
  }
  const [name, limitId, maxRequests, period] = text.slice(0, end).split('"');
  return {
    text: text.slice(0, end),
    name: name === '' ? null : name,
    limitId: name === '' ? null : Number(limitId),
    maxRequests: numberOrNull(maxRequests),
    periodMs: period === '-1' ? null : Math.ceil(Number(period) / 1000),
  };
}

/* The limit of the last verdict: that of the next one, as a rule. */
let lastLimit = readLimit(UNAVAILABLE);

/* The answer to a request, with the names of fl_rate_json(). */
class Verdict {
  /* Milliseconds from the server's now to resetAt, and when we heard of it. */
  #toReset;
  #heard;

  /* text: VERDICT's; heard: performance.now() */
  constructor(text, scope, key, api, heard) {
    if (!text.startsWith(lastLimit.text)) {
      lastLimit = readLimit(text);
    }
    const limit = lastLimit;
    const field = text.slice(limit.text.length).split('"');
    const allowed = field[0] === 't';
    const next = numberOrNull(field[4]);
    const reset = numberOrNull(field[5]);
    const now = allowed ? next : Number(field[6]);

    this.#toReset = reset === null ? null : (reset - now) / 1000;
    this.#heard = heard;

    this.allowed = allowed;
    this.reason = field[1];
    this.remaining = numberOrNull(field[2]);
    this.delayMs = field[3] === '0' ? 0 : Math.max(Math.ceil(Number(field[3]) / 1000), 0);
    this.retryAfterMs =
      allowed ? 0 : next === null ? null : Math.max(Math.ceil((next - now) / 1000), 0);
    this.nextValidAt = dateOrNull(next);
    this.resetAt = dateOrNull(reset);
    this.scope = scope;
    this.key = key;
    this.api = api;
    this.name = limit.name;
    this.limitId = limit.limitId;
    this.maxRequests = limit.maxRequests;
    this.periodMs = limit.periodMs;
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

module.exports = { VERDICT, VERDICTS, Verdict, headers, body };
