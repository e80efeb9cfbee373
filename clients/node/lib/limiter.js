/*
 * limiter.js: asking the database
 *
 * Checks are not sent one by one. Those that are made before the event loop
 * comes round travel together, as one call of fl_rate_try_batch() on one
 * connection of the pool; while maxInFlight such calls are out, further
 * checks gather for the next. A lone check thereby waits for nothing but the
 * end of the current turn, and a crowd shares round trips.
 *
 * The requests of a batch are judged in the order in which they were made.
 * Between batches that are out at the same time there is no order.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const { createHash } = require('node:crypto');
const { toRequest, toRequestOfPairs, quoteIdentifier, arrayOfTexts } = require('./arguments.js');
const { classify, isAboutARequest, RateLimiterUnavailable } = require('./errors.js');
const { Verdict } = require('./verdict.js');
const { middleware } = require('./middleware.js');

/* Everything is taken as text, whatever parsers the application has set. */
const AS_TEXT = { getTypeParser: () => (text) => text };

/*
 * So many answers are given in one turn. Those who ask again at once then do
 * so while the others still wait, and the database works while this process
 * does, instead of each waiting for the other.
 */
const SLICE = 32;

/*
 * Come back in the turn after next: in the next one goes out what is asked in
 * this one.
 */
const nextTurn = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

function positiveInteger(value, name) {
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new RangeError(`${name} must be an integer, at least 1`);
  }
  return value;
}

class RateLimiter {
  #pool;
  #maxBatch;
  #maxInFlight;
  #failOpen;
  #onError;
  #refusal;
  #statements;
  #queue = [];
  #inFlight = 0;
  #scheduled = false;

  constructor({
    pool,
    schema = 'public',
    maxBatch = 1000,
    maxInFlight = 4,
    failOpen = false,
    onError,
    prepare = true,
    message,
    referenceUrl,
  } = {}) {
    if (typeof pool?.query !== 'function') {
      throw new TypeError('pool must be a pool of the package pg');
    }
    if (onError !== undefined && typeof onError !== 'function') {
      throw new TypeError('onError must be a function');
    }
    this.#pool = pool;
    this.#maxBatch = positiveInteger(maxBatch, 'maxBatch');
    this.#maxInFlight = positiveInteger(maxInFlight, 'maxInFlight');
    this.#failOpen = Boolean(failOpen);
    this.#onError = onError;
    this.#refusal = { message, referenceUrl };
    this.#statements = statements(quoteIdentifier(schema), prepare);
  }

  /* Spend one request if it is granted. */
  check(scope, key, api, cost = 1, plan = null) {
    return this.#check(scope, key, api, cost, plan, this.#failOpen);
  }

  /* The same over several pairs of scope and key: all of them or none. */
  checkAll(pairs, api, cost = 1, plan = null) {
    return this.#checkAll(pairs, api, cost, plan, this.#failOpen);
  }

  /* What check() would answer; spends nothing. */
  async peek(scope, key, api, cost = 1, plan = null) {
    const request = toRequest(scope, key, api, cost, plan);
    const [[verdict]] = await this.#query(this.#statements.peek, [
      request.scope,
      request.key,
      request.api,
      String(request.cost),
      request.plan,
    ]);
    return new Verdict(
      JSON.parse(verdict),
      request.scope,
      request.key,
      request.api,
      performance.now(),
    );
  }

  /* Give back what was spent and not used; resolves to what remains. */
  async refund(scope, key, api, cost = 1, plan = null) {
    const request = toRequest(scope, key, api, cost, plan);
    const [[value]] = await this.#query(this.#statements.refund, [
      request.scope,
      request.key,
      request.api,
      String(request.cost),
      request.plan,
    ]);
    return value === null ? null : Number(value);
  }

  /* Clear what such a request would spend from; resolves to the number of counters. */
  async reset(scope, key, api) {
    const request = toRequest(scope, key, api, 1, null);
    const [[value]] = await this.#query(this.#statements.reset, [
      request.scope,
      request.key,
      request.api,
    ]);
    return Number(value);
  }

  /* An Express middleware. */
  middleware(options) {
    const { failOpen = this.#failOpen, ...rest } = options ?? {};
    return middleware({
      ...this.#refusal,
      ...rest,
      failOpen: Boolean(failOpen),
      check: (...request) => this.#check(...request, Boolean(failOpen)),
      checkAll: (...request) => this.#checkAll(...request, Boolean(failOpen)),
    });
  }

  #check(scope, key, api, cost, plan, failOpen) {
    return new Promise((resolve, reject) => {
      const request = toRequest(scope, key, api, cost, plan);
      request.failOpen = failOpen;
      request.resolve = resolve;
      request.reject = reject;
      this.#queue.push(request);
      if (this.#queue.length >= this.#maxBatch) {
        this.#send();
      } else {
        this.#schedule();
      }
    });
  }

  async #checkAll(pairs, api, cost, plan, failOpen) {
    const request = toRequestOfPairs(pairs, api, cost, plan);
    try {
      const [[verdict, scope, key]] = await this.#query(this.#statements.tryAll, [
        arrayOfTexts(request.scopes),
        arrayOfTexts(request.keys),
        request.api,
        String(request.cost),
        request.plan,
      ]);
      return new Verdict(JSON.parse(verdict), scope, key, request.api, performance.now());
    } catch (error) {
      if (failOpen && error instanceof RateLimiterUnavailable) {
        return Verdict.unavailable(request.scopes[0], request.keys[0], request.api);
      }
      throw error;
    }
  }

  /*
   * Not a microtask: those run between two sockets of the same turn, so that
   * each of a hundred incoming HTTP requests would be a batch of its own.
   */
  #schedule() {
    if (!this.#scheduled && this.#inFlight < this.#maxInFlight) {
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        this.#send();
      });
    }
  }

  #send() {
    while (this.#queue.length > 0 && this.#inFlight < this.#maxInFlight) {
      const batch = this.#queue.splice(0, this.#maxBatch);
      this.#inFlight++;
      this.#judge(batch).then(() => {
        this.#inFlight--;
        // not at once: those who just got their answers may ask again
        if (this.#queue.length > 0) {
          this.#schedule();
        }
      });
    }
  }

  /* Settle every request of a batch. Never rejects. */
  async #judge(batch) {
    let verdicts;
    try {
      const [statement, values] = this.#batchQuery(batch);
      const [[text]] = await this.#query(statement, values);
      verdicts = JSON.parse(text);
      if (verdicts.length !== batch.length) {
        throw new Error(`${batch.length} checks, but ${verdicts.length} verdicts`);
      }
    } catch (error) {
      if (batch.length > 1 && isAboutARequest(error)) {
        // Nothing has been spent. Find the culprit by halves, in order.
        const half = batch.length >> 1;
        await this.#judge(batch.slice(0, half));
        await this.#judge(batch.slice(half));
        return;
      }
      for (const request of batch) {
        if (request.failOpen && error instanceof RateLimiterUnavailable) {
          request.resolve(Verdict.unavailable(request.scope, request.key, request.api));
        } else {
          request.reject(error);
        }
      }
      return;
    }
    const heard = performance.now();
    for (let i = 0; i < batch.length; i++) {
      if (i > 0 && i % SLICE === 0) {
        await nextTurn();
      }
      const { scope, key, api, resolve } = batch[i];
      resolve(new Verdict(verdicts[i], scope, key, api, heard));
    }
  }

  /*
   * A call of fl_rate_try_batch(): its statement and arguments. A scope and an
   * API that all requests share are sent once; the usual costs and plans go
   * unsaid.
   */
  #batchQuery(batch) {
    const [{ scope, api }] = batch;
    const alike = batch.every((request) => request.scope === scope && request.api === api);
    const usualCosts = batch.every((request) => request.cost === 1);
    const noPlans = batch.every((request) => request.plan === null);
    return [
      alike ? this.#statements.tryAlike : this.#statements.tryBatch,
      [
        alike ? scope : arrayOfTexts(batch.map((request) => request.scope)),
        arrayOfTexts(batch.map((request) => request.key)),
        alike ? api : arrayOfTexts(batch.map((request) => request.api)),
        usualCosts ? null : `{${batch.map((request) => request.cost).join(',')}}`,
        noPlans
          ? null
          : `{${batch.map(({ plan }) => (plan === null ? 'NULL' : `"${plan}"`)).join(',')}}`,
      ],
    ];
  }

  /* Rows as arrays of strings. */
  async #query(statement, values) {
    try {
      const result = await this.#pool.query({ ...statement, values });
      return result.rows;
    } catch (cause) {
      const error = classify(cause);
      if (error instanceof RateLimiterUnavailable) {
        this.#report(error);
      }
      throw error;
    }
  }

  /* Tell the application of an outage. */
  #report(error) {
    try {
      this.#onError?.(error);
    } catch (fault) {
      // the request that met the outage is not to blame for a faulty logger
      process.emitWarning(fault);
    }
  }
}

/*
 * The statements, planned once per connection. A statement's name contains a
 * digest of its text, since two limiters with different schemas may share a
 * pool. Verdicts are read in FROM: "(f()).*" calls f once for every column.
 */
function statements(schema, prepare) {
  const text = 'pg_catalog.text';
  const bigint = 'pg_catalog.int8';
  const request = `$1::${text}, $2::${text}, $3::${text}, $4::${bigint}, $5::${text}`;
  const pairs = `$1::${text}[], $2::${text}[], $3::${text}, $4::${bigint}, $5::${text}`;
  const costsAndPlans = `$4::${bigint}[], $5::${text}[]`;
  const batch = `$1::${text}[], $2::${text}[], $3::${text}[], ${costsAndPlans}`;
  const each = (value) =>
    `pg_catalog.array_fill(${value}::${text}, ARRAY[pg_catalog.cardinality($2::${text}[])])`;
  const alike = `${each('$1')}, $2::${text}[], ${each('$3')}, ${costsAndPlans}`;
  const verdict = `${schema}.fl_rate_json(v, 'array')`;
  // several of them as one text: a row has its cost, too
  const verdicts = `pg_catalog.json_agg(${verdict})`;
  const texts = {
    tryBatch: `SELECT ${verdicts} FROM ${schema}.fl_rate_try_batch(${batch}) AS v`,
    tryAlike: `SELECT ${verdicts} FROM ${schema}.fl_rate_try_batch(${alike}) AS v`,
    tryAll: `SELECT ${verdict}, v.scope, v.key FROM ${schema}.fl_rate_try_all(${pairs}) AS v`,
    peek: `SELECT ${verdict} FROM ${schema}.fl_rate_peek(${request}) AS v`,
    refund: `SELECT ${schema}.fl_rate_refund(${request})`,
    reset: `SELECT ${schema}.fl_rate_reset($1::${text}, $2::${text}, $3::${text})`,
  };
  return Object.fromEntries(
    Object.entries(texts).map(([key, sql]) => {
      const digest = createHash('sha256').update(sql).digest('hex').slice(0, 16);
      const name = prepare ? `fl_rate_${digest}` : undefined;
      return [key, { name, text: sql, rowMode: 'array', types: AS_TEXT }];
    }),
  );
}

module.exports = { RateLimiter };
