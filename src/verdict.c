/*-------------------------------------------------------------------------
 *
 * verdict.c
 *	  The answer to a request: as fl_rate_verdict, as an error, as HTTP.
 *
 * Headers follow draft-ietf-httpapi-ratelimit-headers-10; the two ways to
 * hand an error to an HTTP client are PostgREST's (SQLSTATE PTxyz, and
 * SQLSTATE PGRST with JSON in message and detail).
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "verdict.h"

/* The largest integer of a structured header field: 15 digits. */
#define HEADER_MAX	INT64CONST(999999999999999)

static const char *const reasons[] = {
	[FLR_REASON_OK] = "ok",
	[FLR_REASON_DELAYED] = "delayed",
	[FLR_REASON_NO_LIMIT] = "no_limit",
	[FLR_REASON_UNLIMITED] = "unlimited",
	[FLR_REASON_REFUSED] = "refused",
	[FLR_REASON_TOO_LARGE] = "too_large",
	[FLR_REASON_BLOCKED] = "blocked",
	[FLR_REASON_STORE_FULL] = "store_full",
	[FLR_REASON_OFF] = "off",
	[FLR_REASON_UNAVAILABLE] = "unavailable"
};

static emit_log_hook_type previous_emit_log_hook = NULL;

/* Copy an argument's text into a string of its own. */
static const char *
to_string(FlrText text)
{
	return pnstrdup(text.data, text.size);
}

/*
 * The date that lies so many microseconds after the decision.  False for
 * never, and for what no timestamp can say.  wall_offset is what the calendar
 * is ahead of elapsed time, for limits that do not follow the calendar
 * themselves.
 */
static bool
date_after(const FlrOutcome *outcome, int64 wall_offset, int64 wait,
		   TimestampTz *date)
{
	TimestampTz now;

	if (outcome->wall_offset != 0)
		now = outcome->now + outcome->wall_offset;
	else
	{
		/* two clocks, each cut to the microsecond: never a moment too early */
		now = outcome->now + wall_offset + (wait > 0);
	}
	if (wait == FLR_NEVER || now >= END_TIMESTAMP - wait)
		return false;
	*date = now + wait;
	return true;
}

/* Is there nothing to say about any limit? */
static bool
says_nothing(const FlrOutcome *outcome)
{
	return outcome->reason == FLR_REASON_OFF ||
		outcome->reason == FLR_REASON_NO_LIMIT ||
		outcome->reason == FLR_REASON_UNAVAILABLE;
}

/* Describe a refusal, for flr_raise_refusal(). */
void
flr_verdict_fill(FlrVerdict *verdict, const FlrRequest *request,
				 const FlrOutcome *outcome)
{
	const FlrPair *pair = &request->pairs[outcome->pair];
	const FlrLimit *limit = outcome->limit;
	int64		wall_offset = flr_counters_date(0);

	memset(verdict, 0, sizeof(FlrVerdict));
	verdict->allowed = outcome->allowed;
	verdict->reason = reasons[outcome->reason];
	verdict->scope = to_string(pair->scope);
	verdict->key = to_string(pair->key);
	verdict->api = to_string(request->api);
	verdict->has_delay = true;
	verdict->delay = outcome->delay;
	verdict->has_next = date_after(outcome, wall_offset, outcome->wait,
								   &verdict->next_valid_at);
	verdict->has_reset = date_after(outcome, wall_offset, outcome->reset,
									&verdict->reset_at);
	verdict->name = limit->name;
	verdict->limit_id = limit->limit_id;
	verdict->has_period = limit->has_period;
	verdict->period = limit->period;
	verdict->has_remaining = true;
	verdict->remaining = outcome->remaining;
	verdict->has_max = true;
	verdict->max_requests = limit->rule.max_requests;
}

/* The name of a reason as a text datum, made once. */
static Datum
reason_datum(FlrReason reason)
{
	static Datum datums[lengthof(reasons)];

	if (datums[reason] == (Datum) 0)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		datums[reason] = CStringGetTextDatum(reasons[reason]);
		MemoryContextSwitchTo(old);
	}
	return datums[reason];
}

/*
 * Fill the FLR_VERDICT_COLUMNS columns of fl_rate_verdict.  wall_offset is
 * flr_counters_date(0); scope, key and api are text datums.  What the values point to
 * lives until the next request, or the next call of this function.
 */
void
flr_outcome_values(const FlrOutcome *outcome, int64 wall_offset, Datum scope,
				   Datum key, Datum api, Datum *values, bool *nulls)
{
	static Interval delay;
	const FlrLimit *limit = outcome->limit;
	TimestampTz date = 0;

	memset(nulls, true, FLR_VERDICT_COLUMNS * sizeof(bool));
	nulls[0] = nulls[1] = nulls[6] = nulls[7] = nulls[8] = false;
	values[0] = BoolGetDatum(outcome->allowed);
	values[1] = reason_datum(outcome->reason);
	values[6] = scope;
	values[7] = key;
	values[8] = api;
	if (says_nothing(outcome))
		return;

	delay.time = outcome->delay;
	values[3] = IntervalPGetDatum(&delay);
	nulls[3] = false;
	nulls[4] = !date_after(outcome, wall_offset, outcome->wait, &date);
	values[4] = TimestampTzGetDatum(date);
	nulls[5] = !date_after(outcome, wall_offset, outcome->reset, &date);
	values[5] = TimestampTzGetDatum(date);
	if (limit == NULL)
		return;
	values[9] = limit->name_datum;
	nulls[9] = false;
	values[10] = Int32GetDatum(limit->limit_id);
	nulls[10] = false;
	values[12] = IntervalPGetDatum(&limit->period);
	nulls[12] = !limit->has_period;
	if (limit->unlimited)
		return;
	values[2] = Int64GetDatum(outcome->remaining);
	nulls[2] = false;
	values[11] = Int64GetDatum(limit->rule.max_requests);
	nulls[11] = false;
}

/* A text datum of an argument's text. */
Datum
flr_text_datum(FlrText text)
{
	return PointerGetDatum(cstring_to_text_with_len(text.data, text.size));
}

/* A datum of type fl_rate_verdict, which the called function returns. */
Datum
flr_outcome_datum(FunctionCallInfo fcinfo, const FlrRequest *request,
				  const FlrOutcome *outcome)
{
	const FlrPair *pair = &request->pairs[outcome->pair];
	Datum		values[FLR_VERDICT_COLUMNS];
	bool		nulls[FLR_VERDICT_COLUMNS];
	TupleDesc	desc = fcinfo->flinfo->fn_extra;

	if (desc == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
			desc->natts != FLR_VERDICT_COLUMNS)
			elog(ERROR, "return type must be fl_rate_verdict");
		desc = BlessTupleDesc(CreateTupleDescCopy(desc));
		fcinfo->flinfo->fn_extra = desc;
		MemoryContextSwitchTo(old);
	}
	flr_outcome_values(outcome,
					   says_nothing(outcome) ? 0 : flr_counters_date(0),
					   flr_text_datum(pair->scope), flr_text_datum(pair->key),
					   flr_text_datum(request->api), values, nulls);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/*
 * Read a datum of type fl_rate_verdict.  Anybody may make one by hand.  The
 * limit's name goes into headers and has to be one, and an infinite date is
 * none.
 */
void
flr_verdict_read(HeapTupleHeader header, FlrVerdict *verdict)
{
	HeapTupleData tuple;
	TupleDesc	desc;
	Datum		values[FLR_VERDICT_COLUMNS];
	bool		nulls[FLR_VERDICT_COLUMNS];

	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
								  HeapTupleHeaderGetTypMod(header));
	if (desc->natts != FLR_VERDICT_COLUMNS)
		elog(ERROR, "argument must be of type fl_rate_verdict");
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, nulls);
	ReleaseTupleDesc(desc);

	if (nulls[0])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("column \"allowed\" of a verdict must not be null")));
	memset(verdict, 0, sizeof(FlrVerdict));
	verdict->allowed = DatumGetBool(values[0]);
	verdict->reason = nulls[1] ? (verdict->allowed ? "ok" : "refused") :
		TextDatumGetCString(values[1]);
	verdict->has_remaining = !nulls[2];
	verdict->remaining = nulls[2] ? 0 : DatumGetInt64(values[2]);
	verdict->has_delay = !nulls[3];
	verdict->delay = nulls[3] ? 0 :
		flr_interval_usecs(DatumGetIntervalP(values[3]));
	verdict->next_valid_at = nulls[4] ? 0 : DatumGetTimestampTz(values[4]);
	verdict->has_next = !nulls[4] &&
		!TIMESTAMP_NOT_FINITE(verdict->next_valid_at);
	verdict->reset_at = nulls[5] ? 0 : DatumGetTimestampTz(values[5]);
	verdict->has_reset = !nulls[5] && !TIMESTAMP_NOT_FINITE(verdict->reset_at);
	verdict->scope = nulls[6] ? NULL : TextDatumGetCString(values[6]);
	verdict->key = nulls[7] ? NULL : TextDatumGetCString(values[7]);
	verdict->api = nulls[8] ? NULL : TextDatumGetCString(values[8]);
	if (!nulls[9])
	{
		FlrText		name;

		verdict->name = TextDatumGetCString(values[9]);
		name.data = verdict->name;
		name.size = strlen(verdict->name);
		flr_check_name(name, "name of a verdict");
	}
	verdict->limit_id = nulls[10] ? 0 : DatumGetInt32(values[10]);
	verdict->has_max = !nulls[11];
	verdict->max_requests = nulls[11] ? 0 : DatumGetInt64(values[11]);
	verdict->has_period = !nulls[12];
	if (!nulls[12])
		verdict->period = *DatumGetIntervalP(values[12]);
}

/* Read an argument of type fl_rate_verdict; NULL is an error. */
static void
read_verdict(FunctionCallInfo fcinfo, FlrVerdict *verdict)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("verdict must not be null")));
	flr_verdict_read(PG_GETARG_HEAPTUPLEHEADER(0), verdict);
}

/* ------------------------------------------------------------------------
 * JSON and HTTP
 * ------------------------------------------------------------------------
 */

/* a / b rounded up, at least 0 */
static int64
round_up(int64 a, int64 b)
{
	return a <= 0 ? 0 : (a - 1) / b + 1;
}

/* Append a JSON string, or null. */
static void
append_string(StringInfo json, const char *string)
{
	if (string)
		escape_json(json, string);
	else
		appendStringInfoString(json, "null");
}

/*
 * Append a date as JavaScript writes it, in UTC and rounded up to the
 * millisecond, or null.
 */
static void
append_date(StringInfo json, bool has_date, TimestampTz date)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int64		rest = date % 1000;

	has_date = has_date && !TIMESTAMP_NOT_FINITE(date);
	if (has_date && rest != 0)
		date += rest > 0 ? 1000 - rest : -rest;
	if (!has_date || TIMESTAMP_NOT_FINITE(date) ||
		timestamp2tm(date, NULL, &tm, &fsec, NULL, NULL) != 0)
	{
		appendStringInfoString(json, "null");
		return;
	}
	/* ECMAScript has six digits for years beyond the usual four */
	appendStringInfo(json, tm.tm_year >= 0 && tm.tm_year <= 9999 ?
					 "\"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ\"" :
					 "\"%+07d-%02d-%02dT%02d:%02d:%02d.%03dZ\"",
					 tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour,
					 tm.tm_min, tm.tm_sec, (int) (fsec / 1000));
}

/* The documented body of a 429: three keys and no others. */
static char *
body_of(const FlrVerdict *verdict)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"message\": ");
	escape_json(&json, flr_message);
	appendStringInfoString(&json, ", \"referenceUrl\": ");
	escape_json(&json, flr_reference_url);
	appendStringInfoString(&json, ", \"nextValidRequestDate\": ");
	append_date(&json, verdict->has_next, verdict->next_valid_at);
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* Microseconds until the date of a refusal, 0 when it has passed. */
static int64
time_left(TimestampTz date)
{
	TimestampTz now = GetCurrentTimestamp();

	return date > now ? date - now : 0;
}

/* A number as a header may have it: no sign, at most 15 digits. */
static int64
header_number(int64 number)
{
	return Max(Min(number, HEADER_MAX), 0);
}

/* Append "name": "value" to an open JSON object; the value is ASCII. */
static void
append_header(StringInfo json, const char *name, const char *value)
{
	if (json->data[json->len - 1] != '{')
		appendStringInfoString(json, ", ");
	escape_json(json, name);
	appendStringInfoString(json, ": ");
	escape_json(json, value);
}

/* The header fields of a response, as a JSON object of strings. */
static char *
headers_of(const FlrVerdict *verdict)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	if (verdict->name != NULL && verdict->has_max)
	{
		StringInfoData value;

		initStringInfo(&value);
		appendStringInfo(&value, "\"%s\";q=" INT64_FORMAT, verdict->name,
						 header_number(verdict->max_requests));
		if (verdict->has_period)
		{
			int64		seconds =
			round_up(flr_interval_usecs(&verdict->period), USECS_PER_SEC);

			appendStringInfo(&value, ";w=" INT64_FORMAT, Max(seconds, 1));
		}
		append_header(&json, "RateLimit-Policy", value.data);

		resetStringInfo(&value);
		appendStringInfo(&value, "\"%s\";r=" INT64_FORMAT, verdict->name,
						 header_number(verdict->remaining));
		if (verdict->has_reset)
		{
			int64		seconds = round_up(time_left(verdict->reset_at),
										   USECS_PER_SEC);

			appendStringInfo(&value, ";t=" INT64_FORMAT, Max(seconds, 1));
		}
		append_header(&json, "RateLimit", value.data);
		if (!verdict->allowed && verdict->has_next)
		{
			int64		seconds = round_up(time_left(verdict->next_valid_at),
										   USECS_PER_SEC);

			append_header(&json, "Retry-After",
						  psprintf(INT64_FORMAT, Max(seconds, 1)));
		}
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* A jsonb datum of JSON text. */
static Datum
jsonb_of(char *json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

PG_FUNCTION_INFO_V1(fl_rate_body);

/* fl_rate_body(verdict): the documented JSON; NULL when allowed. */
Datum
fl_rate_body(PG_FUNCTION_ARGS)
{
	FlrVerdict	verdict;

	read_verdict(fcinfo, &verdict);
	if (verdict.allowed)
		PG_RETURN_NULL();
	return jsonb_of(body_of(&verdict));
}

PG_FUNCTION_INFO_V1(fl_rate_headers);

/* fl_rate_headers(verdict): header fields; {} when no limit applies. */
Datum
fl_rate_headers(PG_FUNCTION_ARGS)
{
	FlrVerdict	verdict;

	read_verdict(fcinfo, &verdict);
	return jsonb_of(headers_of(&verdict));
}

/* Append "name": number-or-null to an open JSON object. */
static void
append_number(StringInfo json, const char *name, bool has, int64 number)
{
	appendStringInfo(json, ", \"%s\": ", name);
	if (has)
		appendStringInfo(json, INT64_FORMAT, number);
	else
		appendStringInfoString(json, "null");
}

PG_FUNCTION_INFO_V1(fl_rate_json);

/* fl_rate_json(verdict): the verdict with JavaScript's types and names. */
Datum
fl_rate_json(PG_FUNCTION_ARGS)
{
	FlrVerdict	verdict;
	StringInfoData json;

	read_verdict(fcinfo, &verdict);
	initStringInfo(&json);
	appendStringInfo(&json, "{\"allowed\": %s, \"reason\": ",
					 verdict.allowed ? "true" : "false");
	append_string(&json, verdict.reason);
	append_number(&json, "remaining", verdict.has_remaining,
				  verdict.remaining);
	append_number(&json, "delayMs", true, round_up(verdict.delay, 1000));
	append_number(&json, "retryAfterMs",
				  verdict.allowed || verdict.has_next,
				  verdict.allowed ? 0 :
				  round_up(time_left(verdict.next_valid_at), 1000));
	appendStringInfoString(&json, ", \"nextValidAt\": ");
	append_date(&json, verdict.has_next, verdict.next_valid_at);
	appendStringInfoString(&json, ", \"resetAt\": ");
	append_date(&json, verdict.has_reset, verdict.reset_at);
	appendStringInfoString(&json, ", \"scope\": ");
	append_string(&json, verdict.scope);
	appendStringInfoString(&json, ", \"key\": ");
	append_string(&json, verdict.key);
	appendStringInfoString(&json, ", \"api\": ");
	append_string(&json, verdict.api);
	appendStringInfoString(&json, ", \"name\": ");
	append_string(&json, verdict.name);
	append_number(&json, "limitId", verdict.name != NULL, verdict.limit_id);
	append_number(&json, "maxRequests", verdict.has_max,
				  verdict.max_requests);
	append_number(&json, "periodMs", verdict.has_period,
				  round_up(flr_interval_usecs(&verdict.period), 1000));
	appendStringInfoChar(&json, '}');
	return jsonb_of(json.data);
}

/* ------------------------------------------------------------------------
 * The error
 * ------------------------------------------------------------------------
 */

/* What the client can do about a refusal. */
static char *
hint_of(const FlrVerdict *verdict)
{
	int64		msecs;

	if (verdict->has_next)
	{
		msecs = round_up(time_left(verdict->next_valid_at), 1000);
		return psprintf("Retry after " INT64_FORMAT ".%03d seconds.",
						msecs / 1000, (int) (msecs % 1000));
	}
	if (strcmp(verdict->reason, "blocked") == 0)
		return pstrdup("This can never succeed: the limit allows no requests.");
	return pstrdup("This can never succeed: the cost exceeds what the limit allows at once.");
}

/*
 * Raise the refusal that a verdict describes.  The name of this function and
 * of this file are how hide_refusal() knows the error.
 */
void
flr_raise_refusal(const FlrVerdict *verdict)
{
	char	   *body;
	char	   *hint;

	if (strcmp(verdict->reason, reasons[FLR_REASON_STORE_FULL]) == 0)
		ereport(ERROR,
				(errcode(FLR_ERRCODE_STORE_FULL),
				 errmsg("no room for another rate limit counter"),
				 errhint("Raise fliplet_ratelimit.max_memory, or make room for dynamic shared memory."),
				 errhidestmt(true), errhidecontext(true)));
	body = body_of(verdict);
	hint = hint_of(verdict);
	if (flr_error_style == FLR_STYLE_PGRST)
	{
		StringInfoData message;

		initStringInfo(&message);
		appendStringInfoString(&message, "{\"code\": \"PT429\", \"message\": ");
		escape_json(&message, flr_message);
		appendStringInfoString(&message, ", \"details\": ");
		escape_json(&message, body);
		appendStringInfoString(&message, ", \"hint\": ");
		escape_json(&message, hint);
		appendStringInfoChar(&message, '}');
		ereport(ERROR,
				(errcode(FLR_ERRCODE_PGRST),
				 errmsg_internal("%s", message.data),
				 errdetail_internal("{\"status\": 429, \"headers\": %s}",
									headers_of(verdict)),
				 verdict->name ? err_generic_string(PG_DIAG_CONSTRAINT_NAME,
													verdict->name) : 0,
				 errhidestmt(true), errhidecontext(true)));
	}
	ereport(ERROR,
			(errcode(FLR_ERRCODE_REFUSED),
			 errmsg_internal("%s", flr_message),
			 errdetail_internal("%s", body),
			 errhint("%s", hint),
			 verdict->name ? err_generic_string(PG_DIAG_CONSTRAINT_NAME,
												verdict->name) : 0,
			 errhidestmt(true), errhidecontext(true)));
}

PG_FUNCTION_INFO_V1(fl_rate_raise);

/* fl_rate_raise(verdict): raise a refusal; else what remains. */
Datum
fl_rate_raise(PG_FUNCTION_ARGS)
{
	FlrVerdict	verdict;

	read_verdict(fcinfo, &verdict);
	if (!verdict.allowed)
		flr_raise_refusal(&verdict);
	if (!verdict.has_remaining)
		PG_RETURN_NULL();
	PG_RETURN_INT64(verdict.remaining);
}

/* emit_log_hook: keep our refusals, and only ours, out of the server log. */
static void
hide_refusal(ErrorData *edata)
{
	if (!flr_log_refusals &&
		(edata->sqlerrcode == FLR_ERRCODE_REFUSED ||
		 edata->sqlerrcode == FLR_ERRCODE_STORE_FULL ||
		 edata->sqlerrcode == FLR_ERRCODE_PGRST) &&
		edata->funcname && strcmp(edata->funcname, "flr_raise_refusal") == 0 &&
		edata->filename && strcmp(edata->filename, "verdict.c") == 0)
		edata->output_to_server = false;
	if (previous_emit_log_hook)
		previous_emit_log_hook(edata);
}

/* Once per backend, when the library is loaded. */
void
flr_verdict_init(void)
{
	previous_emit_log_hook = emit_log_hook;
	emit_log_hook = hide_refusal;
}
