/*
 * ss_convert.h
 *	  One column of one row: from what the entry has for it to a typed value.
 *	  Between ss_rows.c, which goes through entries, and ss_convert.c.
 */
#ifndef SS_CONVERT_H
#define SS_CONVERT_H

#include "ss_rows.h"

/* A field that the mapping looks for, in the entry being converted. */
typedef struct SsFound
{
	uint32		stamp; /* of the entry it belongs to */
	uint32		len;
	const char *value;
	SsFieldKind kind;
	bool		headroom; /* SsReply's: a varlena header may be written before value */
} SsFound;

/* One call of ss_mapping_rows. */
typedef struct SsConvert
{
	SsMapping	 *mapping;
	SsBatch		 *batch;
	MemoryContext scratch; /* emptied after each row */
	SsDefaults	  defaults;
	bool		  alone; /* only one entry is to be converted */
	bool		  fresh; /* ... and has the whole of a deadline */

	SsRow	  *rows;
	int		   nrows;
	Datum	  *values; /* of all rows */
	bool	  *isnull;
	SsEntryId *ids;

	int		   at; /* entry being converted */
	SsEntry	  *entry;
	uint32	   stamp;	   /* its number, from 1 */
	SsFound	  *found;	   /* by name */
	SsColumn  *column;	   /* being filled, or NULL */
	bool	   in_payload; /* its payload is being parsed */
	ErrorData *error;	   /* of a value, where the type could return it */

	/* columns that the entry had nothing for */
	int *missing;
	int	 nmissing;

	/* what no column takes; only with a rest column */
	uint32	*left; /* numbers of raw fields */
	uint32	 nleft;
	uint32	 left_capacity;
	SsField *members; /* of the payload; a taken one has no name */
	int		 nmembers;

	/* the same for all entries of a stream */
	const SsStream *stream;
	Datum			stream_text;
	Datum		   *constants; /* by column: placeholders' values */
	bool		   *constant_known;

	/* the columns with a value, as bits */
	uint64	  *present;
	uint64	  *last_present;
	int		   present_words;
	Bitmapset *last_set;
} SsConvert;

/* Fill in what conversion to the column's type needs; its name and type are there. */
extern void ss_convert_prepare(SsMapping *mapping, SsColumn *column);

/*
 * Value of a column for the current entry, by-reference values in the batch's
 * context; CurrentMemoryContext is the scratch context.  *present: did the
 * entry give it?  If it did not, the column may be added to convert->missing
 * instead, for ss_convert_missing.  False: convert->error is set (where the
 * type returns errors); others are raised.
 */
extern bool ss_convert_column(SsConvert *convert, SsColumn *column, Datum *value, bool *isnull, bool *present);

/*
 * What a column gets that the entry has nothing for: its default, or NULL.
 * Called when all fields are known to be good: a sequence is not advanced for an
 * entry that is refused.  Result as above.
 */
extern bool ss_convert_missing(SsConvert *convert, SsColumn *column, Datum *value, bool *isnull);

/* Drop what the column's functions keep: after an error in them it may be half made. */
extern void ss_convert_reset(SsColumn *column);

#endif /* SS_CONVERT_H */
