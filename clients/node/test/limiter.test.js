/*
 * limiter.test.js: what the limiter promises
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const assert = require('node:assert/strict');
const { before, test } = require('node:test');
const { types } = require('pg');
const { RateLimiter, RateLimiterUnavailable, headers, body } = require('fliplet-ratelimit');
const { newPool, poolOfNobody, until, newKey } = require('./helpers.js');

const pool = newPool();
const limiter = new RateLimiter({ pool });

const batches = (sent) => sent.filter((text) => text.includes('fl_rate_try_batch'));

/* What a limiter sends while something happens. */
async function sentDuring(something) {
  pool.sent.length = 0;
  const result = await something();
  return { result, sent: [...pool.sent] };
}

before(async () => {
  await pool.query(`
    SELECT fl_rate_define('short', 'user', 'short', 3, '1 s'),
           fl_rate_define('huge', 'user', 'huge', 9007199254740993, '1 year', algorithm => 'fixed_window'),
           fl_rate_define('slow', 'user', 'slow', 1, '400 ms', on_limit => 'delay', max_delay => '1 s'),
           fl_rate_define('ten', 'user', 'ten', 10, '1 h'),
           fl_rate_define('ten', 'user', 'ten', 100, '1 h', plan => 'pro'),
           fl_rate_define('blocked', 'user', 'blocked', 0, NULL),
           fl_rate_define('free', 'user', 'free', NULL, NULL)`);
});

test('eight concurrent clients get exactly the documented 200 of data-sources', async () => {
  const key = newKey();
  const verdicts = [];
  let left = 240;
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      while (left-- > 0) verdicts.push(await limiter.check('user', key, 'data-sources'));
    }),
  );
  const granted = verdicts.filter((verdict) => verdict.allowed);
  const refused = verdicts.filter((verdict) => !verdict.allowed);
  assert.equal(granted.length, 200);
  assert.equal(refused.length, 40);
  assert.deepEqual(
    granted.map((verdict) => verdict.remaining).sort((a, b) => b - a),
    Array.from({ length: 200 }, (_, i) => 199 - i),
  );
  for (const { reason, remaining, retryAfterMs, nextValidAt } of refused) {
    assert.deepEqual({ reason, remaining }, { reason: 'refused', remaining: 0 });
    assert.ok(retryAfterMs > 0 && retryAfterMs <= 10000);
    assert.ok(nextValidAt instanceof Date);
  }
});

test('the checks of one turn are one query, answered in order', async () => {
  const [a, b] = [newKey(), newKey()];
  const { result, sent } = await sentDuring(() =>
    Promise.all([
      limiter.check('user', a, 'ten'),
      limiter.check('user', b, 'ten', 4),
      limiter.check('user', a, 'ten', 9),
      limiter.check('user', a, 'ten'),
      limiter.check('user', a, 'ten', 1, 'pro'),
      limiter.check('user', b, 'data-sources'),
    ]),
  );
  assert.equal(sent.length, 1);
  assert.deepEqual(
    result.map(({ key, api, allowed, remaining }) => [key, api, allowed, remaining]),
    [
      [a, 'ten', true, 9],
      [b, 'ten', true, 6],
      [a, 'ten', true, 0],
      [a, 'ten', false, 0],
      [a, 'ten', true, 89],
      [b, 'data-sources', true, 199],
    ],
  );
});

test('500 checks of one turn are one query, also from several callbacks of that turn', async () => {
  const keys = Array.from({ length: 500 }, newKey);
  const { result, sent } = await sentDuring(async () => {
    const checks = [];
    for (const key of keys) {
      await null; // a microtask each, as between two sockets' callbacks
      checks.push(limiter.check('user', key, 'ten'));
    }
    return Promise.all(checks);
  });
  assert.equal(sent.length, 1);
  assert.deepEqual(result.map((verdict) => verdict.key), keys);
});

test('a batch is never larger than maxBatch, and at most maxInFlight are out', async () => {
  let out = 0;
  let most = 0;
  const sizes = [];
  const counting = {
    async query(config) {
      most = Math.max(most, ++out);
      sizes.push(config.values[1].split(',').length);
      try {
        return await pool.query(config);
      } finally {
        out--;
      }
    },
  };
  const small = new RateLimiter({ pool: counting, maxBatch: 10, maxInFlight: 2 });
  const keys = Array.from({ length: 95 }, newKey);
  const verdicts = await Promise.all(keys.map((key) => small.check('user', key, 'ten')));
  assert.deepEqual(verdicts.map((verdict) => verdict.key), keys);
  assert.deepEqual(sizes.sort((a, b) => b - a), [10, 10, 10, 10, 10, 10, 10, 10, 10, 5]);
  assert.equal(most, 2);
});

test('a batch may mix scopes, APIs, plans and limits', async () => {
  const key = newKey();
  const requests = [
    ['user', key, 'ten'],
    ['user', key, 'ten', 1, 'pro'],
    ['user', key, 'free'],
    ['user', key, 'short'],
    ['app', key, 'app-actions'],
    ['user', key, 'app-actions'],
    ['user', key, 'blocked'],
    ['user', key, 'ten', 7],
    ['user', key, 'ten', 2],
  ];
  const { result, sent } = await sentDuring(() =>
    Promise.all(requests.map((request) => limiter.check(...request))),
  );
  assert.equal(sent.length, 1);
  assert.deepEqual(
    result.map(({ scope, api, name, reason, remaining, maxRequests, periodMs }) => [
      scope, api, name, reason, remaining, maxRequests, periodMs,
    ]),
    [
      ['user', 'ten', 'ten', 'ok', 9, 10, 3600000],
      ['user', 'ten', 'ten', 'ok', 98, 100, 3600000],
      ['user', 'free', 'free', 'unlimited', null, null, null],
      ['user', 'short', 'short', 'ok', 2, 3, 1000],
      ['app', 'app-actions', 'fliplet/app-actions', 'ok', 59, 60, 60000],
      ['user', 'app-actions', null, 'no_limit', null, null, null],
      ['user', 'blocked', 'blocked', 'blocked', 0, 0, null],
      ['user', 'ten', 'ten', 'ok', 1, 10, 3600000],
      ['user', 'ten', 'ten', 'refused', 1, 10, 3600000],
    ],
  );
});

test('a bad argument rejects its own check and is not sent', async () => {
  const key = newKey();
  const good = ['user', key, 'ten'];
  const bad = [
    [undefined, key, 'ten'],
    ['us"er', key, 'ten'],
    ['u'.repeat(64), key, 'ten'],
    ['user', '', 'ten'],
    ['user', '*', 'ten'],
    ['user', null, 'ten'],
    ['user', 'nul\0', 'ten'],
    ['user', 2 ** 53, 'ten'],
    ['user', key, 'te\\n'],
    ['user', key, '*'],
    ['user', key, 'ten', 0],
    ['user', key, 'ten', 1.5],
    ['user', key, 'ten', '1'],
    ['user', key, 'ten', null],
    ['user', key, 'ten', 1, ''],
  ];
  const { result, sent } = await sentDuring(() =>
    Promise.allSettled([good, ...bad, good].map((request) => limiter.check(...request))),
  );
  assert.equal(sent.length, 1);
  assert.deepEqual(
    result.map(({ status }) => status),
    ['fulfilled', ...bad.map(() => 'rejected'), 'fulfilled'],
  );
  assert.equal(result.at(-1).value.remaining, 8);
  for (const { reason } of result.slice(1, -1)) {
    assert.ok(reason instanceof TypeError || reason instanceof RangeError, String(reason));
  }
});

test('an unknown API or scope rejects its own check; the others are spent once', async () => {
  const keys = Array.from({ length: 20 }, newKey);
  const requests = keys.map((key) => ['user', key, 'ten']);
  requests[7] = ['user', keys[7], 'tenn'];
  requests[13] = ['usr', keys[13], 'ten'];
  const results = await Promise.allSettled(requests.map((request) => limiter.check(...request)));
  results.forEach(({ status, value, reason }, i) => {
    if (i === 7 || i === 13) {
      assert.equal(status, 'rejected');
      assert.equal(reason.code, '42704');
      assert.match(reason.message, i === 7 ? /unknown rate limit API "tenn"/ : /unknown rate limit scope "usr"/);
    } else {
      assert.equal(value.remaining, 9);
    }
  });
  for (const i of [0, 6, 8, 19]) {
    assert.equal((await limiter.peek('user', keys[i], 'ten')).remaining, 9);
  }
});

test('keys of any characters arrive as they are', async () => {
  const keys = ['"', '\\', '{a,b}', 'NULL', ' ', "o'hara", 'ü 日本 🎈', 'a\nb', '\\"', '$1'].map(
    (key) => key + newKey(),
  );
  await Promise.all(keys.map((key) => limiter.check('user', key, 'ten', 3)));
  for (const key of keys) {
    assert.equal((await limiter.peek('user', key, 'ten')).remaining, 7, key);
  }
  const id = 4000000000 + process.pid;
  await limiter.check('user', id, 'ten');
  assert.equal((await limiter.check('user', BigInt(id), 'ten')).remaining, 8);
  assert.equal((await limiter.check('user', String(id), 'ten')).remaining, 7);
});

test('a verdict has the names and types of fl_rate_json', async () => {
  const key = newKey();
  await limiter.check('user', key, 'ten', 10);
  const cases = [
    ['ten', 1],
    ['ten', 11],
    ['short', 1],
    ['huge', 1],
    ['blocked', 1],
    ['free', 1],
    ['app-actions', 1],
  ];
  for (const [api, cost] of cases) {
    const verdict = JSON.parse(JSON.stringify(await limiter.peek('user', key, api, cost)));
    const { rows } = await pool.query(
      'SELECT fl_rate_json(v) AS json FROM fl_rate_peek($1::text, $2::text, $3, $4) AS v',
      ['user', key, api, cost],
    );
    const { json } = rows[0];
    assert.deepEqual(Object.keys(verdict).sort(), Object.keys(json).sort());
    // the clock goes on between the two
    if (verdict.allowed) {
      assert.ok(Math.abs(new Date(verdict.nextValidAt) - new Date(json.nextValidAt)) < 10000);
      verdict.nextValidAt = json.nextValidAt;
    }
    if (verdict.retryAfterMs) {
      assert.ok(Math.abs(verdict.retryAfterMs - json.retryAfterMs) < 10000);
      verdict.retryAfterMs = json.retryAfterMs;
    }
    for (const name of ['nextValidAt', 'resetAt']) {
      // dates are computed from two clocks, each cut to the microsecond
      if (verdict[name] !== null && Math.abs(new Date(verdict[name]) - new Date(json[name])) <= 1) {
        verdict[name] = json[name];
      }
    }
    assert.deepEqual(verdict, json, api);
  }
});

test('beyond 2^53 numbers are the nearest ones, and headers are clamped', async () => {
  const verdict = await limiter.check('user', newKey(), 'huge');
  assert.equal(verdict.maxRequests, 2 ** 53);
  assert.equal(typeof verdict.remaining, 'number');
  assert.match(headers(verdict)['RateLimit-Policy'], /^"huge";q=999999999999999;w=31557600$/);
  assert.match(headers(verdict).RateLimit, /^"huge";r=999999999999999;t=\d+$/);
});

test('type parsers and time zones of the application change nothing', async () => {
  const saved = [16, 20, 25, 1184].map((oid) => [oid, types.getTypeParser(oid)]);
  const options = '-c timezone=Pacific/Auckland -c intervalstyle=iso_8601 -c datestyle=German -c extra_float_digits=0';
  const other = new RateLimiter({ pool: newPool({ options }) });
  try {
    for (const [oid] of saved) types.setTypeParser(oid, () => 'parsed');
    const key = newKey();
    await Promise.all([1, 2, 3].map(() => other.check('user', key, 'short')));
    const verdict = await other.check('user', key, 'short');
    assert.equal(verdict.allowed, false);
    assert.equal(verdict.remaining, 0);
    assert.ok(verdict.retryAfterMs > 500 && verdict.retryAfterMs <= 1000);
    assert.ok(Math.abs(verdict.nextValidAt - Date.now() - verdict.retryAfterMs) < 500);
    assert.equal((await other.checkAll([{ scope: 'user', key }], 'ten')).key, key);
    assert.equal(await other.refund('user', key, 'ten'), 10);
    assert.equal(await other.reset('user', key, 'short'), 1);
  } finally {
    for (const [oid, parser] of saved) types.setTypeParser(oid, parser);
  }
});

test('dates and waits are rounded up to the millisecond, never down', async () => {
  const array = [false, 'refused', 0, 0, 1700000000000001, 1700000001000999, 'ten', 1, 10, 3600000001, 1699999999999000];
  const rows = [[JSON.stringify([array])]];
  const fake = new RateLimiter({ pool: { query: async () => ({ rows }) } });
  const verdict = await fake.check('user', 'a', 'ten');
  assert.equal(verdict.nextValidAt.toISOString(), '2023-11-14T22:13:20.001Z');
  assert.equal(verdict.resetAt.toISOString(), '2023-11-14T22:13:21.001Z');
  assert.equal(verdict.retryAfterMs, 2);
  assert.equal(verdict.periodMs, 3600001);
  assert.equal(headers(verdict)['RateLimit-Policy'], '"ten";q=10;w=3601');
});

test('the date is true: waiting until nextValidAt succeeds', async () => {
  const key = newKey();
  for (let round = 0; round < 3; round++) {
    let verdict;
    do {
      verdict = await limiter.check('user', key, 'short');
    } while (verdict.allowed);
    await until(verdict.nextValidAt);
    assert.equal((await limiter.check('user', key, 'short')).allowed, true);
  }
});

test('a throttled request says how long to wait', async () => {
  const key = newKey();
  const [first, second] = await Promise.all([
    limiter.check('user', key, 'slow'),
    limiter.check('user', key, 'slow'),
  ]);
  assert.equal(first.delayMs, 0);
  assert.equal(second.reason, 'delayed');
  assert.ok(second.allowed && second.delayMs > 300 && second.delayMs <= 400);
});

test('several keys: all or nothing, and the verdict names the one that decided', async () => {
  const [a, b] = [newKey(), newKey()];
  await limiter.check('user', a, 'ten', 9);
  const pairs = [
    { scope: 'user', key: a },
    { scope: 'user', key: b },
  ];
  const granted = await limiter.checkAll(pairs, 'ten');
  assert.deepEqual([granted.allowed, granted.key, granted.remaining], [true, a, 0]);
  const refused = await limiter.checkAll(pairs, 'ten');
  assert.deepEqual([refused.allowed, refused.key], [false, a]);
  assert.equal((await limiter.peek('user', b, 'ten')).remaining, 9);
  await assert.rejects(limiter.checkAll([], 'ten'), RangeError);
  await assert.rejects(limiter.checkAll([{ scope: 'user' }], 'ten'), TypeError);
  await assert.rejects(limiter.checkAll([pairs[0], pairs[0]], 'ten'), { code: '22023' });
});

test('peek spends nothing, refund gives back, reset clears', async () => {
  const key = newKey();
  await limiter.check('user', key, 'ten', 8);
  assert.equal((await limiter.peek('user', key, 'ten', 3)).allowed, false);
  assert.equal((await limiter.peek('user', key, 'ten')).remaining, 2);
  assert.equal(await limiter.refund('user', key, 'ten', 5), 7);
  assert.equal(await limiter.reset('user', key, 'ten'), 1);
  assert.equal((await limiter.peek('user', key, 'ten')).remaining, 10);
  assert.equal(await limiter.refund('user', key, 'free'), null);
});

test('body has the three documented keys; no limit means no headers', async () => {
  const [blocked, free] = await Promise.all([
    limiter.check('user', newKey(), 'blocked'),
    limiter.check('user', newKey(), 'free'),
  ]);
  assert.deepEqual(body(blocked), {
    message:
      "You've made too many attempts in a short period of time, please try again in a few seconds. " +
      'Read more about rate limiting and how you may be affected by reading our documentation.',
    referenceUrl: 'https://developers.fliplet.com/Rate-limiting-for-API.html',
    nextValidRequestDate: null,
  });
  assert.equal(headers(blocked)['Retry-After'], undefined);
  assert.equal(body(free), null);
  assert.deepEqual(headers(free), {});
});

test('a copy of a verdict has headers too', async () => {
  const key = newKey();
  await limiter.check('user', key, 'ten', 10);
  await new Promise((resolve) => setTimeout(resolve, 20)); // off the whole second
  const verdict = await limiter.check('user', key, 'ten');
  assert.deepEqual(headers({ ...verdict }), headers(verdict));
  assert.equal(headers(verdict)['Retry-After'], '3600');
});

test('the schema is an identifier, whatever it contains', async () => {
  const name = 'a"; DROP TABLE fl_rate_limit; --';
  const evil = new RateLimiter({ pool, schema: name });
  await assert.rejects(evil.check('user', newKey(), 'ten'), (error) => {
    assert.equal(error.code, '3F000'); // invalid_schema_name
    assert.ok(error.message.includes(name));
    return true;
  });
  // one pool, two schemas: their prepared statements do not clash
  assert.equal((await limiter.check('user', newKey(), 'ten')).allowed, true);
});

test('also without prepared statements', async () => {
  const plain = new RateLimiter({ pool, prepare: false });
  assert.equal((await plain.check('user', newKey(), 'ten')).remaining, 9);
});

test('database away: rejects with status 503, or lets in when told to; the application hears of it', async () => {
  const heard = [];
  const onError = (error) => heard.push(error);
  const closed = new RateLimiter({ pool: poolOfNobody(), onError });
  const results = await Promise.allSettled([
    closed.check('user', 'a', 'ten'),
    closed.check('user', 'b', 'ten'),
    closed.checkAll([{ scope: 'user', key: 'a' }], 'ten'),
  ]);
  for (const { status, reason } of results) {
    assert.equal(status, 'rejected');
    assert.ok(reason instanceof RateLimiterUnavailable);
    assert.equal(reason.status, 503);
    assert.equal(reason.cause.code, 'ENOENT');
  }
  assert.equal(heard.length, 2);

  const open = new RateLimiter({
    pool: poolOfNobody(),
    failOpen: true,
    onError: () => {
      throw new Error('a faulty logger');
    },
  });
  const warning = new Promise((resolve) => process.once('warning', resolve));
  for (const verdict of [
    await open.check('user', 'a', 'ten'),
    await open.checkAll([{ scope: 'user', key: 'a' }], 'ten'),
  ]) {
    assert.deepEqual(
      { ...verdict },
      {
        allowed: true,
        reason: 'unavailable',
        remaining: null,
        delayMs: 0,
        retryAfterMs: 0,
        nextValidAt: null,
        resetAt: null,
        scope: 'user',
        key: 'a',
        api: 'ten',
        name: null,
        limitId: null,
        maxRequests: null,
        periodMs: null,
      },
    );
    assert.deepEqual(headers(verdict), {});
  }
  assert.equal((await warning).message, 'a faulty logger');
});

test('failOpen does not hide mistakes', async () => {
  const open = new RateLimiter({ pool, failOpen: true });
  await assert.rejects(open.check('user', 'a', 'tenn'), { code: '42704' });
  await assert.rejects(open.check('user', '', 'ten'), RangeError);
  const elsewhere = new RateLimiter({ pool, failOpen: true, schema: 'elsewhere' });
  await assert.rejects(elsewhere.check('user', 'a', 'ten'), { code: '3F000' });
});

test('connections that the server has closed are replaced', async () => {
  const own = newPool({ max: 1, application_name: 'victim' });
  const other = new RateLimiter({ pool: own });
  await other.check('user', newKey(), 'ten');
  await pool.query("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'victim'");
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal((await other.check('user', newKey(), 'ten')).allowed, true);
});

test('bad options are errors at once', () => {
  assert.throws(() => new RateLimiter(), TypeError);
  assert.throws(() => new RateLimiter({ pool, maxBatch: 0 }), RangeError);
  assert.throws(() => new RateLimiter({ pool, maxInFlight: 1.5 }), RangeError);
  assert.throws(() => new RateLimiter({ pool, schema: '' }), TypeError);
  assert.throws(() => new RateLimiter({ pool, onError: 'log' }), TypeError);
});

test('import works like require', async () => {
  const module = await import('fliplet-ratelimit');
  assert.equal(module.RateLimiter, RateLimiter);
  assert.equal(module.headers, headers);
});
