/*
 * errors.js: which failures mean that nobody could judge the request
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

/*
 * The server's complaints about one request of a batch: an unknown scope or
 * API, a bad argument, too many limits. It raises them before it spends
 * anything, so the other requests of the batch may be sent again.
 */
const ABOUT_A_REQUEST = new Set([
  '42704', // undefined_object
  '22004', // null_value_not_allowed
  '22021', // character_not_in_repertoire
  '22023', // invalid_parameter_value
  '22P05', // untranslatable_character
  '54000', // program_limit_exceeded
]);

/*
 * SQLSTATE classes of a server that is going, full or broken: connection,
 * resources, operator intervention, system and internal errors.
 */
const OUT_OF_ORDER = new Set(['08', '53', '57', '58', 'XX']);

/* The database is away, or has no room for another counter. */
class RateLimiterUnavailable extends Error {
  constructor(cause) {
    super('the rate limiter is unavailable', { cause });
    this.name = 'RateLimiterUnavailable';
    this.code = 'RATE_LIMITER_UNAVAILABLE';
    // what Express and its relatives answer with
    this.status = 503;
    this.statusCode = 503;
  }
}

const isAboutARequest = (error) => ABOUT_A_REQUEST.has(error?.code);

/*
 * Turn an outage into a RateLimiterUnavailable, leave everything else as it
 * is. A missing extension, a wrong password or a missing grant is no outage:
 * with failOpen it would switch the limits off for good, unnoticed.
 */
function classify(error) {
  // only what the server itself said has a severity
  const said = typeof error?.severity === 'string';
  if (said && error.code !== 'PT503' && !OUT_OF_ORDER.has(String(error.code).slice(0, 2))) {
    return error;
  }
  return new RateLimiterUnavailable(error);
}

module.exports = { RateLimiterUnavailable, classify, isAboutARequest };
