/*-------------------------------------------------------------------------
 *
 * row.h
 *	  Rows that another server has sent.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_ROW_H
#define FLR_ROW_H

/* for this library only */
#pragma GCC visibility push(hidden)

extern bool flr_row_unpack(const bytea *packed, int ncolumns, const Oid *types,
						   Datum *values, bool *nulls);

#pragma GCC visibility pop

#endif							/* FLR_ROW_H */
