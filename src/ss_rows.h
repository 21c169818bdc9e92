/*
 * ss_rows.h
 *	  Inside of a mapping: what ss_mapping.c builds, ss_rows.c runs,
 *	  ss_default.c fills gaps with and ss_watch.c declares stale.
 */
#ifndef SS_ROWS_H
#define SS_ROWS_H

#include "fmgr.h"
#include "lib/ilist.h"
#include "nodes/execnodes.h"
#include "ss_decode.h"
#include "ss_mapping.h"
#include "ss_names.h"
#include "ss_shortcut.h"

/* What a column is filled from. */
typedef enum SsSource
{
	SS_SOURCE_NONE,		   /* the server fills it, NULL here */
	SS_SOURCE_FIELD,	   /* a field or payload member */
	SS_SOURCE_PLACEHOLDER, /* of the stream's name; a field where the name gave none */
	SS_SOURCE_REST,
	SS_SOURCE_ID,
	SS_SOURCE_STREAM,
	SS_SOURCE_TIME,
	SS_SOURCE_SEQ,
	SS_SOURCE_FIELDS
} SsSource;

/* How a value gets its type. */
typedef enum SsConversion
{
	SS_CONVERT_INPUT,		/* input function, in the scratch context, result copied */
	SS_CONVERT_INPUT_CLEAN, /* input function that leaves no garbage, in the batch's context */
	SS_CONVERT_TEXT,		/* type text, or varchar of any length, without a domain: the bytes */
	SS_CONVERT_JSON			/* json or jsonb (or a domain over it): as INPUT, but a JSON string is quoted again */
} SsConversion;

typedef enum SsDefaultKind
{
	SS_DEFAULT_NONE,
	SS_DEFAULT_UNPLANNED, /* not looked at yet: planning may run the owner's code */
	SS_DEFAULT_CONST,	  /* known */
	SS_DEFAULT_STABLE,	  /* the same for all rows of a batch */
	SS_DEFAULT_VOLATILE	  /* evaluated for each row */
} SsDefaultKind;

typedef struct SsDefault
{
	SsDefaultKind kind;
	Node		 *raw;
	Expr		 *planned;
	ExprState	 *state;	 /* of this call of ss_mapping_rows, or NULL */
	bool		  evaluated; /* value holds for this call (STABLE) or for ever (CONST) */
	Datum		  value;
	bool		  isnull;
} SsDefault;

typedef struct SsColumn
{
	SsMappingColumn pub;
	SsSource		source;
	int				name;		   /* index into the mapping's names, or -1 */
	int				placeholder;   /* index into SsStream.placeholders */
	bool			natural;	   /* a meta column of its own type: no conversion */
	bool			notnull;	   /* a NULL is refused here */
	bool			needed;		   /* so is a missing field: nothing fills the gap */
	bool			check_missing; /* a domain whose constraints must see the NULL of a missing field */
	bool			byval;
	int16			typlen;

	SsConversion  conversion;
	SsShortcut	  shortcut; /* tried before the input function */
	FmgrInfo	  input;
	Oid			  ioparam;
	MemoryContext input_cxt; /* of the functions' caches; reset after an error in this column */

	/* arrays and composite types out of JSON, as jsonb_populate_record makes them */
	bool			populated;
	FmgrInfo		populate;
	Node		   *populate_call;
	HeapTupleHeader null_row; /* of a row type with this one column */
	TupleDesc		row_desc;

	SsDefault dflt;
} SsColumn;

struct SsMapping
{
	MemoryContext cxt;
	dlist_node	  link; /* in the list that invalidations look through */
	bool		  valid;
	List		 *relations;	 /* OIDs watched */
	List		 *types;		 /* hash values of watched types in TYPEOID */
	bool		  has_functions; /* a default could run a function that gets replaced */

	char *pipeline;
	Oid	  target;
	char *relname; /* for error reports; NULL without a relation */
	char *nspname;
	bool  generated_insert;
	bool  track_present;
	bool  use_fields;
	bool  met_unknown; /* the last conversion saw a field that nobody looks for */
	int64 max_entry_bytes;

	TupleDesc desc;
	SsColumn *columns;
	int		  ncolumns;
	int		  rest; /* column, or -1 */
	int		  nplaceholders;
	char	**placeholders;
	bool	 *placeholder_taken;

	SsNames raw;	 /* names as Redis sends them */
	SsNames members; /* the same in server encoding: a payload's members, messages */
	int		payload; /* index into names, or -1 */
};

/* State of defaults within one call of ss_mapping_rows. */
typedef struct SsDefaults
{
	MemoryContext cxt; /* NULL: nothing set up */
	ExprContext	 *econtext;
	bool		  effects; /* a function ran that may have written something */
} SsDefaults;

/* ---- ss_watch.c ---- */

/* Put a new mapping into the list that invalidations go through; it leaves it with its context. */
extern void ss_watch_begin(SsMapping *mapping);

/* Watch a relation or a type.  Before its definition is read, so that no change is missed. */
extern void ss_watch_relation(SsMapping *mapping, Oid relid);
extern void ss_watch_type(SsMapping *mapping, Oid type);

/* ---- ss_default.c ---- */

/* Forget what earlier calls of ss_mapping_rows evaluated or left behind. */
extern void ss_default_begin(SsMapping *mapping);

/*
 * The default of a column that has one, for one row.  By-reference values are
 * in CurrentMemoryContext, which must outlive the batch's rows, or the mapping's.
 */
extern Datum ss_default_value(SsMapping *mapping, SsColumn *column, SsDefaults *defaults, bool *isnull);

/* Drop the executable states: at the end of a call, and (failed) after any error, which may leave one half run. */
extern void ss_default_release(SsMapping *mapping, SsDefaults *defaults, bool failed);

#endif /* SS_ROWS_H */
