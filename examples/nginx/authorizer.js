/*
 * authorizer.js: asks the database for nginx whether a request may pass
 *
 * nginx (ratelimit.conf) sends a subrequest with scope, key and API in its
 * header; the answer is 204, or 403 with the real status in X-RateLimit-Status:
 * auth_request knows no other refusal. Never let clients reach this server:
 * whoever does chooses the key.
 *
 *   PGHOST=... PGDATABASE=... node authorizer.js
 *
 * PORT       where to listen on 127.0.0.1 (9090)
 * FAIL_OPEN  1: let everything pass while the database does not answer
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const http = require('node:http');
const { setTimeout: sleep } = require('node:timers/promises');
const { Pool } = require('pg');

const pool = new Pool({ connectionTimeoutMillis: 2000, query_timeout: 2000 });
pool.on('error', (error) => console.error('idle connection lost:', error.message));

const QUERY = `
  SELECT v.allowed, (fl_rate_json(v) ->> 'delayMs')::float8 AS wait, fl_rate_headers(v) AS headers, fl_rate_body(v) AS body
  FROM fl_rate_try($1::text, $2::text, $3::text) v`;

/* JSON that may stand in a header: nothing but ASCII */
const ascii = (value) =>
  JSON.stringify(value).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);

async function judge(request) {
  const pair = ['scope', 'key', 'api'].map((name) => request.headers[`x-ratelimit-${name}`]);
  const { rows } = await pool.query(QUERY, pair);
  const { allowed, wait, headers, body } = rows[0];

  if (!allowed) {
    return [403, { ...headers, 'X-RateLimit-Status': 429, 'X-RateLimit-Body': ascii(body) }];
  }
  // a throttle: the request waits here, and holds no connection of the database
  await sleep(wait);
  return [204, headers];
}

http
  .createServer(async (request, response) => {
    let answer;
    try {
      answer = await judge(request);
    } catch (error) {
      console.error('no verdict:', error.message);
      answer = process.env.FAIL_OPEN === '1' ? [204, {}] : [403, { 'X-RateLimit-Status': 503 }];
    }
    response.writeHead(...answer).end();
  })
  .listen(Number(process.env.PORT ?? 9090), '127.0.0.1');
