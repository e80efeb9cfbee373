/*-------------------------------------------------------------------------
 *
 * maintain.c
 *	  The SQL functions that change counters by hand.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "utils/builtins.h"

#include "request.h"

/*
 * Read scope, key and api (arguments 0 to 2) and find every limit that such
 * a request may spend from, whatever its plan.  Returns their number.
 */
static int
read_candidates(FunctionCallInfo fcinfo, FlrSignature signature,
				FlrHash *subject, FlrCandidate **candidates)
{
	static const FlrText no_plan = {NULL, 0};
	char		buffer[FLR_BIGINT_SIZE];
	FlrRequest	request;
	FlrText		api;
	int			n;

	flr_read_pairs(fcinfo, signature, &request, buffer);
	api = flr_text_arg(fcinfo, 2, "api");
	flr_limits_begin(fcinfo->flinfo->fn_oid);
	n = flr_limits_candidates(request.pairs[0].scope, request.pairs[0].key,
							  api, no_plan, candidates);
	if (n > 0)
		*subject = flr_limits_subject(request.pairs[0].scope,
									  request.pairs[0].key);
	return n;
}

/* The body of fl_rate_reset() and its form for numbers. */
static Datum
reset(FunctionCallInfo fcinfo, FlrSignature signature)
{
	FlrCandidate *candidates;
	FlrHash		subject;
	int			n = read_candidates(fcinfo, signature, &subject, &candidates);

	PG_RETURN_INT64(n == 0 ? 0 : flr_counters_reset(subject, candidates, n));
}

PG_FUNCTION_INFO_V1(fl_rate_reset);

/* fl_rate_reset(scope, key, api): clear what such requests spend from. */
Datum
fl_rate_reset(PG_FUNCTION_ARGS)
{
	return reset(fcinfo, FLR_TEXT_KEY);
}

PG_FUNCTION_INFO_V1(fl_rate_reset_bigint);

/* fl_rate_reset(scope, key bigint, api) */
Datum
fl_rate_reset_bigint(PG_FUNCTION_ARGS)
{
	return reset(fcinfo, FLR_BIGINT_KEY);
}

PG_FUNCTION_INFO_V1(fl_rate_age);

/* fl_rate_age(scope, key, api, by): pretend that time has passed. */
Datum
fl_rate_age(PG_FUNCTION_ARGS)
{
	int64		by = flr_interval_arg(fcinfo, 3, "by");
	FlrCandidate *candidates;
	FlrHash		subject;
	int			n = read_candidates(fcinfo, FLR_TEXT_KEY, &subject, &candidates);

	PG_RETURN_INT64(n == 0 ? 0 :
					flr_counters_age(subject, candidates, n, by));
}

PG_FUNCTION_INFO_V1(fl_rate_forget);

/* fl_rate_forget(scope, key): erase a subject. */
Datum
fl_rate_forget(PG_FUNCTION_ARGS)
{
	char		buffer[FLR_BIGINT_SIZE];
	FlrRequest	request;

	flr_read_pairs(fcinfo, FLR_TEXT_KEY, &request, buffer);
	flr_limits_begin(fcinfo->flinfo->fn_oid);
	PG_RETURN_INT64(flr_counters_forget(flr_limits_subject(request.pairs[0].scope,
														   request.pairs[0].key)));
}

PG_FUNCTION_INFO_V1(fl_rate_reset_all);

/* fl_rate_reset_all(): erase every counter of this database. */
Datum
fl_rate_reset_all(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	PG_RETURN_INT64(flr_counters_reset_all());
}
