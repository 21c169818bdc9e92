/*
 * ss_reply.h
 *	  Redis replies, built by hiredis's reader straight into an arena of
 *	  palloc'd blocks: no malloc and no free per element.
 */
#ifndef SS_REPLY_H
#define SS_REPLY_H

#include "utils/palloc.h"

typedef enum SsReplyType
{
	SS_REPLY_NIL = 0,
	SS_REPLY_STRING,
	SS_REPLY_STATUS,
	SS_REPLY_ERROR,
	SS_REPLY_INTEGER,
	SS_REPLY_ARRAY
} SsReplyType;

/* One reply or element.  An array's elements lie side by side: items[0 .. n-1]. */
typedef struct SsReply
{
	uint8  type;	  /* SsReplyType */
	bool   truncated; /* string longer than the limit: str holds a prefix, full_len the true length */
	bool   headroom;  /* VARHDRSZ bytes before str, aligned, may be written: see SS_REPLY_LARGE */
	uint32 n;		  /* string: bytes (a NUL follows, not counted); array: elements */
	union
	{
		char		   *str;   /* string, status, error */
		struct SsReply *items; /* array; NULL if empty */
		int64			integer;
	};
	uint64 full_len; /* only of a truncated string */
} SsReply;

/*
 * Strings of this many bytes and more leave room for a varlena header before
 * them, so that a large value becomes a text datum without being copied.
 */
#define SS_REPLY_LARGE 4096

/*
 * A bump allocator in a memory context.  Freed by resetting the context (then
 * ss_arena_init again).  limit bounds the bytes of one reply; over it the
 * parser fails and the connection is closed.
 */
typedef struct SsArena
{
	MemoryContext cxt;
	char		 *next;
	char		 *end;
	Size		  used;	 /* bytes handed out since init */
	Size		  limit; /* most bytes that may be handed out; 0: no bound but 1 GB */
} SsArena;

/* Start an arena.  Nothing is allocated before first use. */
extern void ss_arena_init(SsArena *arena, MemoryContext cxt, Size limit);

/* 8-byte aligned memory, or NULL when over the limit or out of memory: never throws (it runs inside hiredis). */
extern void *ss_arena_alloc(SsArena *arena, Size size);

/* Does the reply equal this C string (string or status)? */
extern bool ss_reply_is(const SsReply *reply, const char *text);

/* First word of an error reply ("NOGROUP", "WRONGTYPE") equals word? */
extern bool ss_reply_error_is(const SsReply *reply, const char *word);

/*
 * Check the shape of a reply: ERROR (protocol_violation) unless it has this
 * type, and for arrays at least min_elements.  what names the command in the
 * message.  An error reply is raised with the SQLSTATE of its first word, see
 * ss_reply_raise.
 */
extern const SsReply *ss_reply_expect(const SsReply *reply, SsReplyType type, uint32 min_elements, const char *what);

/*
 * Raise an error reply of Redis as an ERROR.  The first word decides the
 * SQLSTATE (FAULTS A5): LOADING BUSY MASTERDOWN TRYAGAIN CLUSTERDOWN
 * NOREPLICAS MISCONF OOM EXECABORT: 57P03 (retried); READONLY UNBLOCKED:
 * 08006; NOAUTH WRONGPASS DENIED: 28P01; NOPERM: 42501; WRONGTYPE: 42809;
 * NOGROUP: 42704; BUSYGROUP: 42710; MOVED ASK CROSSSLOT: 0A000; others: HV000.
 * The text is truncated and non-printable bytes are escaped.
 */
extern void ss_reply_raise(const SsReply *reply, const char *what) pg_attribute_noreturn();

/* The SQLSTATE ss_reply_raise would use.  Too many clients has no word of its own: 53300. */
extern int ss_reply_sqlstate(const SsReply *reply);

/* The first word of an error reply if it is one of the above, else NULL. */
extern const char *ss_reply_error_word(const SsReply *reply);

/* Printable copy of len bytes of a peer's text: non-ASCII and control bytes as \xNN, at most max bytes long, palloc'd. */
extern char *ss_reply_printable(const char *str, size_t len, size_t max);

struct redisReplyObjectFunctions;

/*
 * hiredis's constructors over an arena.  The reader's privdata must point to
 * an SsReader (its arena may be changed between replies).  They refuse nesting
 * deeper than 8 and arrays of more than SS_REPLY_MAX_ELEMENTS; a refusal makes
 * redisReaderGetReply fail and leaves its reason in refusal.
 */
#define SS_REPLY_MAX_DEPTH	  8
#define SS_REPLY_MAX_ELEMENTS (8 * 1024 * 1024)

/* What is kept of a string that is longer than the limit, bytes. */
#define SS_REDIS_PREFIX 1024

typedef struct SsReader
{
	SsArena	   *arena;		   /* where the reply being parsed goes */
	SsReply		root;		   /* the top element */
	uint64		max_bulk;	   /* strings longer than this are truncated; 0: no limit */
	uint64		truncated_len; /* set by the connection: true length of the next string, whose prefix alone is fed */
	const char *refusal;	   /* why a constructor refused (a sentence), or NULL */
	int			refusal_code;  /* its SQLSTATE */
} SsReader;

extern struct redisReplyObjectFunctions ss_reply_functions;

#endif /* SS_REPLY_H */
