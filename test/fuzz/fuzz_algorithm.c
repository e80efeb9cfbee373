/*-------------------------------------------------------------------------
 *
 * fuzz_algorithm.c
 *	  The traces of the property test, chosen by a fuzzer.
 *
 * The bytes of the input take the place of random numbers: every choice of a
 * rule, an operation, a time or a cost reads as many as it needs.  What is
 * promised and how it is checked is the property test's; the fuzzer sees which
 * branches of src/algorithm.c and src/record.c a choice leads to, and goes on
 * from there.
 *
 * The first byte chooses between the groups of the property test and a trace
 * of this file, in which everything that the groups keep apart may happen to
 * one limit: reservations, changes of the rule, a lack of memory, ageing.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "fuzz.h"
#include "property.h"

/* Of the property test's groups, those without thousands of steps */
#define SHORT_GROUPS 5

#define MAX_STEPS 300

static const uint8_t *input;
static size_t input_left;

/* ---------- instead of random.c ---------- */

void
random_start(uint64 seed)
{
}

static uint64
bytes(int n)
{
	uint64		result = 0;

	for (; n > 0 && input_left > 0; n--)
	{
		result = result << 8 | *input++;
		input_left--;
	}
	return result;
}

uint64
random_bits(void)
{
	return bytes(8);
}

/* Zero when the input is used up, so that what was begun comes to its end */
int64
below(int64 n)
{
	int			size = 1;

	if (n <= 1)
		return 0;
	while (size < 8 && (n - 1) >> (8 * size) != 0)
		size++;
	return (int64) (bytes(size) % (uint64) n);
}

bool
chance(int percent)
{
	return below(100) < percent;
}

/* ---------- a trace of everything ---------- */

/* Numbers of a rule that no list of likely ones contains */
static void
any_rule(Limit *l)
{
	FlrRule    *r = &l->rule;

	r->max_requests = below(PG_INT64_MAX);
	r->burst = below(PG_INT64_MAX);
	if (r->calendar == NULL)
		flr_rule_set_period(r, 1 + below(FLR_MAX_PERIOD));
	limit_say(l);
}

/* The slot, which must be the first one unless something was merged */
static int64
find_slot(Limit *l, int64 from, int64 cost)
{
	int64		slot;

	if (l->exact)
		return limit_slot(l, from, cost);
	slot = flr_slot(arena, &l->rule, &l->state, from, cost);
	if (slot >= FAR_AWAY)
		return FLR_NEVER;
	check(FULL_RESERVED, oracle_grants(&l->oracle, &l->rule, slot, cost),
		  "granted " INT64_FORMAT " at " INT64_FORMAT, cost, slot);
	return slot;
}

/* A request in one step; if it is refused, nothing has changed */
static void
take(Limit *l, int64 now, int64 cost)
{
	FlrState	before;
	Spending   *runs;
	Spending   *copy;
	int			n = limit_dump(l, &runs);
	int64		changes = l->changes;

	/* that a bucket has run empty is noted the next time */
	limit_advance(l, now);
	before = l->state;
	copy = malloc((n + 1) * sizeof(Spending));
	if (copy == NULL)
		abort();
	memcpy(copy, runs, n * sizeof(Spending));
	limit_take(l, now, cost);
	if (l->changes == changes)
		check(HERE(l, TAKE),
			  memcmp(&before, &l->state, sizeof(FlrState)) == 0 &&
			  limit_dump(l, &runs) == n &&
			  memcmp(copy, runs, n * sizeof(Spending)) == 0,
			  "a refusal has changed the record");
	free(copy);
}

static void
reserve(Limit *l, Waiting *waiting, int64 now, int64 cost)
{
	int64		slot = find_slot(l, pick_from(l, now), cost);

	if (slot != FLR_NEVER && waiting->n < MAX_WAITING &&
		!limit_beyond(l, now, slot) && !trace_failed)
		limit_spend(l, now, slot, cost, false,
					&waiting->list[waiting->n++]);
}

static void
spend_in_need(Limit *l, Waiting *waiting, int64 now, int64 cost)
{
	int64		from = chance(40) ? pick_from(l, now) : now;
	int64		slot = find_slot(l, from, cost);

	if (l->rule.algorithm != FLR_TOKEN_BUCKET && slot != FLR_NEVER &&
		waiting->n < MAX_WAITING && !trace_failed)
		spend_without_memory(l, now, slot, cost, (int) below(101), waiting);
}

static void
age(Limit *l, Waiting *waiting, int64 now)
{
	int64		by = limit_pick_time(l, now) - now;

	limit_age(l, by);
	for (int i = 0; i < waiting->n; i++)
		waiting->list[i].slot -= by;
	/* a fixed window's edges do not move with what is in it */
	if (l->rule.algorithm == FLR_FIXED_WINDOW)
		waiting->n = 0;
	limit_advance(l, now);
}

static void
everything_trace(void)
{
	Limit		l;
	Waiting		waiting = {0};
	int64		now = pick_start();

	limit_init(&l, (FlrAlgorithm) below(3));
	if (chance(20))
		any_rule(&l);
	for (int i = 0; i < MAX_STEPS && input_left > 0 && !trace_failed; i++)
	{
		int64		cost;

		steps_done++;
		now = limit_pick_time(&l, now);
		SAY("now " INT64_FORMAT, now);
		limit_advance(&l, now);
		forget_served(&waiting, now);
		cost = chance(90) ? limit_pick_cost(&l, now) :
			1 + below(PG_INT64_MAX);
		switch (below(16))
		{
			case 0:
			case 1:
			case 2:
			case 3:
				take(&l, now, cost);
				break;
			case 4:
			case 5:
				if (find_slot(&l, now, cost) == now && !trace_failed)
					limit_spend(&l, now, now, cost, chance(50), NULL);
				break;
			case 6:
			case 7:
			case 8:
				reserve(&l, &waiting, now, cost);
				break;
			case 9:
			case 10:
				spend_in_need(&l, &waiting, now, cost);
				break;
			case 11:
				cancel_any(&l, &waiting, now);
				break;
			case 12:
				limit_refund(&l, now, cost);
				break;
			case 13:
				limit_change(&l, now);
				limit_advance(&l, now);
				forget_served(&waiting, now);
				break;
			case 14:
				age(&l, &waiting, now);
				break;
			case 15:
				if (chance(20))
				{
					limit_restart(&l, (FlrAlgorithm) below(3));
					l.exact = true;
					waiting.n = 0;
				}
				break;
		}
		if (!trace_failed)
			limit_check_record(&l);
		if (l.exact && !trace_failed)
			limit_look(&l, now);
	}
	limit_end(&l, FULL_RESERVED);
	limit_free(&l);
}

/* ---------- one run ---------- */

static void
run(const uint8_t *data, size_t size)
{
	int64		group;

	input = data;
	input_left = size;
	trace_failed = false;
	arena_init();
	group = below(SHORT_GROUPS + 3);
	if (group < SHORT_GROUPS)
		groups[group].trace();
	else
		everything_trace();
	if (!trace_failed)
		check(BLOCKS_BALANCED, blocks.ntaken == 0,
			  "%d blocks were not given back", blocks.ntaken);
	arena_free();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	run(data, size);
	if (trace_failed)
	{
		/* once more, to print the operations and what they broke */
		verbose = true;
		run(data, size);
		fflush(stdout);
		abort();
	}
	return 0;
}
