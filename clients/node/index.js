/*
 * index.js: what the package exports
 *
 * CommonJS whose names Node's loader can see, so that one copy of the package
 * serves both require() and import.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const { RateLimiter } = require('./lib/limiter.js');
const { RateLimiterUnavailable } = require('./lib/errors.js');
const { headers, body } = require('./lib/verdict.js');

module.exports = { RateLimiter, RateLimiterUnavailable, headers, body };
