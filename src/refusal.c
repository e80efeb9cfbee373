/*-------------------------------------------------------------------------
 *
 * refusal.c
 *	  A verdict for clients: as an error, as JSON, as HTTP.
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

#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "refusal.h"
#include "request.h"

/* The largest integer of a structured header field: 15 digits. */
#define HEADER_MAX	INT64CONST(999999999999999)

static emit_log_hook_type previous_emit_log_hook = NULL;

/* Read an argument of type fl_rate_verdict; NULL is an error. */
static void
read_row(FunctionCallInfo fcinfo, FlrVerdictRow *row)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("verdict must not be null")));
	flr_row_read(PG_GETARG_HEAPTUPLEHEADER(0), row);
}

/* The same, ready for use. */
static void
read_verdict(FunctionCallInfo fcinfo, FlrVerdict *verdict)
{
	FlrVerdictRow row;

	read_row(fcinfo, &row);
	flr_verdict_of_row(verdict, &row);
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

/* Append an integer, or null. */
static void
append_integer(StringInfo json, bool has, int64 number)
{
	if (!has)
	{
		appendStringInfoString(json, "null");
		return;
	}
	enlargeStringInfo(json, MAXINT8LEN + 1);
	json->len += pg_lltoa(number, json->data + json->len);
}

/* Append "name": number-or-null to an open JSON object. */
static void
append_number(StringInfo json, const char *name, bool has, int64 number)
{
	appendStringInfo(json, ", \"%s\": ", name);
	append_integer(json, has, number);
}

/* Append a verdict with JavaScript's types and names. */
static void
append_object(StringInfo json, const FlrVerdict *verdict)
{
	appendStringInfo(json, "{\"allowed\": %s, \"reason\": ",
					 verdict->allowed ? "true" : "false");
	append_string(json, verdict->reason);
	append_number(json, "remaining", verdict->has_remaining,
				  verdict->remaining);
	append_number(json, "delayMs", true, round_up(verdict->delay, 1000));
	append_number(json, "retryAfterMs",
				  verdict->allowed || verdict->has_next,
				  verdict->allowed ? 0 :
				  round_up(time_left(verdict->next_valid_at), 1000));
	appendStringInfoString(json, ", \"nextValidAt\": ");
	append_date(json, verdict->has_next, verdict->next_valid_at);
	appendStringInfoString(json, ", \"resetAt\": ");
	append_date(json, verdict->has_reset, verdict->reset_at);
	appendStringInfoString(json, ", \"scope\": ");
	append_string(json, verdict->scope);
	appendStringInfoString(json, ", \"key\": ");
	append_string(json, verdict->key);
	appendStringInfoString(json, ", \"api\": ");
	append_string(json, verdict->api);
	appendStringInfoString(json, ", \"name\": ");
	append_string(json, verdict->name);
	append_number(json, "limitId", verdict->name != NULL, verdict->limit_id);
	append_number(json, "maxRequests", verdict->has_max,
				  verdict->max_requests);
	append_number(json, "periodMs", verdict->has_period,
				  round_up(flr_interval_usecs(&verdict->period), 1000));
	appendStringInfoChar(json, '}');
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
	append_object(&json, &verdict);
	return jsonb_of(json.data);
}

/* Append a column that is a text, or null, to an open JSON array. */
static void
append_text(StringInfo json, const FlrVerdictRow *row, int column)
{
	append_string(json, row->nulls[column] ? NULL :
				  TextDatumGetCString(row->values[column]));
	appendStringInfoChar(json, ',');
}

/* The same for one that is a bigint. */
static void
append_bigint(StringInfo json, const FlrVerdictRow *row, int column)
{
	append_integer(json, !row->nulls[column],
				   DatumGetInt64(row->values[column]));
	appendStringInfoChar(json, ',');
}

/* The same for an interval, in microseconds. */
static void
append_interval(StringInfo json, const FlrVerdictRow *row, int column)
{
	append_integer(json, !row->nulls[column], row->nulls[column] ? 0 :
				   flr_interval_usecs(DatumGetIntervalP(row->values[column])));
	appendStringInfoChar(json, ',');
}

/*
 * Append the microseconds of a date since 1970, or null.  A date that 64 bits
 * cannot say that way, of a verdict made by hand, is null as well.
 */
static void
append_epoch(StringInfo json, bool has_date, TimestampTz date)
{
	const int64 ahead = USECS_PER_DAY *
	(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE);

	has_date = has_date && !TIMESTAMP_NOT_FINITE(date) &&
		date <= PG_INT64_MAX - ahead;
	append_integer(json, has_date, has_date ? date + ahead : 0);
}

/* The same for a column. */
static void
append_timestamp(StringInfo json, const FlrVerdictRow *row, int column)
{
	append_epoch(json, !row->nulls[column],
				 DatumGetTimestampTz(row->values[column]));
	appendStringInfoChar(json, ',');
}

/*
 * Append a verdict as an array: its columns in their order, but for what the
 * caller has said himself, and the time, which is next_valid_at's when allowed.
 */
static void
append_array(StringInfo json, const FlrVerdictRow *row)
{
	bool		allowed = DatumGetBool(row->values[0]);

	appendStringInfoString(json, allowed ? "[true," : "[false,");
	append_text(json, row, 1);
	append_bigint(json, row, 2);
	append_interval(json, row, 3);
	append_timestamp(json, row, 4);
	append_timestamp(json, row, 5);
	if (!row->nulls[9])
		flr_check_name(flr_text_of(row->values[9]), "name of a verdict");
	append_text(json, row, 9);
	append_integer(json, !row->nulls[10], DatumGetInt32(row->values[10]));
	appendStringInfoChar(json, ',');
	append_bigint(json, row, 11);
	append_interval(json, row, 12);
	append_epoch(json, !allowed, allowed ? 0 : GetCurrentTimestamp());
	appendStringInfoChar(json, ']');
}

PG_FUNCTION_INFO_V1(fl_rate_json_as);

/*
 * fl_rate_json(verdict, form): as text.  form is "object", which has what
 * fl_rate_json(verdict) answers, or "array", which is shorter and faster.
 */
Datum
fl_rate_json_as(PG_FUNCTION_ARGS)
{
	FlrVerdictRow row;
	FlrVerdict	verdict;
	FlrText		form;
	StringInfoData json;

	read_row(fcinfo, &row);
	form = flr_text_arg(fcinfo, 1, "form");
	initStringInfo(&json);
	json.len = VARHDRSZ;
	if (flr_text_equals("array", form))
		append_array(&json, &row);
	else if (flr_text_equals("object", form))
	{
		flr_verdict_of_row(&verdict, &row);
		append_object(&json, &verdict);
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown form of JSON \"%.*s\"", form.size, form.data),
				 errhint("The forms are \"object\" and \"array\".")));
	SET_VARSIZE(json.data, json.len);
	PG_RETURN_TEXT_P(json.data);
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

	if (strcmp(verdict->reason, flr_reason_name(FLR_REASON_STORE_FULL)) == 0)
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

/* Raise the refusal of a verdict; else return what remains, or NULL. */
Datum
flr_verdict_result(FunctionCallInfo fcinfo, const FlrVerdict *verdict)
{
	if (!verdict->allowed)
		flr_raise_refusal(verdict);
	if (!verdict->has_remaining)
		PG_RETURN_NULL();
	PG_RETURN_INT64(verdict->remaining);
}

PG_FUNCTION_INFO_V1(fl_rate_raise);

/* fl_rate_raise(verdict): raise a refusal; else what remains. */
Datum
fl_rate_raise(PG_FUNCTION_ARGS)
{
	FlrVerdict	verdict;

	read_verdict(fcinfo, &verdict);
	return flr_verdict_result(fcinfo, &verdict);
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
		edata->filename && strcmp(edata->filename, "refusal.c") == 0)
		edata->output_to_server = false;
	if (previous_emit_log_hook)
		previous_emit_log_hook(edata);
}

/* Once per backend, when the library is loaded. */
void
flr_refusal_init(void)
{
	previous_emit_log_hook = emit_log_hook;
	emit_log_hook = hide_refusal;
}
