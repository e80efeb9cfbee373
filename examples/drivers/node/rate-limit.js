/*
 * rate-limit.js: spend from a limit by pg, read a refusal, ask again at its date
 *
 *   node rate-limit.js SCOPE KEY API [COST [MAX_WAIT]]
 *
 * The functions are to be copied. main() shows them at work: it spends until it
 * is refused, asks again at the date if that is at most MAX_WAIT seconds (30)
 * away, asks once more without an error, and prints what it saw as JSON.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');
const { Client } = require('pg');

/* The shortest pause before asking again, in milliseconds */
const PAUSE = 50;

/* A request that was refused */
class Refused extends Error {
  constructor(error) {
    super(error.message, { cause: error });
    this.name = 'Refused';
    this.sqlstate = error.code;
    this.body = JSON.parse(error.detail); // of the 429
    this.hint = error.hint;
    this.limit = error.constraint;
    const { nextValidRequestDate: date } = this.body;
    this.retryAt = date === null ? null : new Date(date); // null: never
  }
}

/*
 * Spend, or throw Refused; returns what remains, null if no limit applies. Not
 * in a transaction that is to go on: a refusal aborts it.
 */
async function checked(client, { scope, key, api, cost = 1, plan = null }) {
  try {
    const { rows } = await client.query(
      'SELECT fl_rate_check($1::text, $2::text, $3::text, $4::bigint, $5::text) AS remaining',
      [scope, key, api, cost, plan],
    );
    const { remaining } = rows[0];
    return remaining === null ? null : Number(remaining); // pg has it as a string
  } catch (error) {
    throw error.code === 'PT429' ? new Refused(error) : error;
  }
}

/* Spend, or be told why not: never an error because of a limit. */
async function tried(client, { scope, key, api, cost = 1, plan = null }) {
  const { rows } = await client.query(
    `SELECT fl_rate_json(v) AS verdict, fl_rate_body(v) AS body
     FROM fl_rate_try($1::text, $2::text, $3::text, $4::bigint, $5::text) v`,
    [scope, key, api, cost, plan],
  );
  return { ...rows[0].verdict, body: rows[0].body };
}

/*
 * Make a call again at the date of its refusal, as often as it takes, within
 * maxWait seconds in all. A refusal that has no date, or a later one, is thrown
 * at once.
 */
async function retrying(call, maxWait) {
  const giveUp = Date.now() + maxWait * 1000;
  for (;;) {
    let due;
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof Refused) || error.retryAt === null) {
        throw error;
      }
      // the date may be past already, by a clock that is ahead of the server's
      due = Math.max(error.retryAt, Date.now() + PAUSE);
      if (due > giveUp) {
        throw error;
      }
    }
    let left;
    while ((left = due - Date.now()) > 0) {
      await sleep(left); // a timer may be early
    }
  }
}

const show = (step) => console.log(JSON.stringify(step));

const pidOf = async (client) => (await client.query('SELECT pg_backend_pid() AS pid')).rows[0].pid;

async function main([scope, key, api, cost, maxWait = '30']) {
  const request = { scope, key, api, cost };
  const client = new Client();
  await client.connect();
  show({ connected: await pidOf(client) });

  try {
    for (let n = 0; n < 1000; n++) {
      show({ granted: await checked(client, request) });
    }
  } catch (error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    const { sqlstate, message, body, hint, limit, retryAt } = error;
    show({ refused: { sqlstate, message, body, hint, limit, retryAt } });
  }

  let attempts = 0;
  const again = () => {
    attempts++;
    return checked(client, request);
  };
  try {
    const remaining = await retrying(again, Number(maxWait));
    show({ retried: { attempts, remaining, at: new Date() } });
  } catch (error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    show({ gaveUp: { attempts, retryAt: error.retryAt } });
  }

  // in a transaction that goes on
  await client.query('BEGIN');
  const { allowed, reason, name, nextValidAt } = await tried(client, request);
  show({ tried: { allowed, reason, limit: name, nextValidAt } });
  show({ afterwards: await pidOf(client) });
  await client.query('COMMIT');
  await client.end();
}

if (require.main === module) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

module.exports = { Refused, checked, retrying, tried };
