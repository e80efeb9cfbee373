/*-------------------------------------------------------------------------
 *
 * request.h
 *	  Reading the arguments that all functions share.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_REQUEST_H
#define FLR_REQUEST_H

#include "fmgr.h"

#include "counters.h"

/* How a function takes its scopes and keys. */
typedef enum FlrSignature
{
	FLR_TEXT_KEY,				/* scope text, key text */
	FLR_BIGINT_KEY,				/* scope text, key bigint */
	FLR_ARRAYS					/* scopes text[], keys text[] */
} FlrSignature;

/* Room for a bigint as text. */
#define FLR_BIGINT_SIZE		24

extern FlrText flr_text_of(text * value);
extern FlrText flr_text_arg(FunctionCallInfo fcinfo, int number,
							const char *name);
extern void flr_check_key(FlrText key);
extern void flr_read_pairs(FunctionCallInfo fcinfo, FlrSignature signature,
						   FlrRequest *request, char *buffer);
extern void flr_read_request(FunctionCallInfo fcinfo, FlrSignature signature,
							 FlrRequest *request, char *buffer);
extern void flr_find_limits(FlrRequest *request, Oid function);
extern int64 flr_interval_arg(FunctionCallInfo fcinfo, int number,
							  const char *name);

#endif							/* FLR_REQUEST_H */
