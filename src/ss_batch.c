/*
 * ss_batch.c
 *	  A batch: what one transaction settles.
 *
 * NOTES
 *	  The SsBatch itself lives beside its context, so that it survives a reset.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <limits.h>

#include "common/hashfn.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ss_batch.h"

#define FIRST_ENTRIES  256
#define FIRST_BLOCKS   16
#define FIRST_REFUSALS 16

SsBatch *
ss_batch_create(MemoryContext parent, Size arena_limit)
{
	SsBatch *batch = MemoryContextAllocZero(parent, sizeof(SsBatch));

	batch->cxt = AllocSetContextCreate(parent, "streamsink batch", ALLOCSET_DEFAULT_SIZES);
	ss_arena_init(&batch->arena, batch->cxt, arena_limit);
	return batch;
}

void
ss_batch_free(SsBatch *batch)
{
	MemoryContextDelete(batch->cxt);
	pfree(batch);
}

void
ss_batch_reset(SsBatch *batch)
{
	SsBatch old = *batch;

	MemoryContextReset(old.cxt);
	memset(batch, 0, sizeof(SsBatch));
	batch->cxt = old.cxt;
	batch->interlude = old.interlude;
	batch->interlude_arg = old.interlude_arg;
	ss_arena_init(&batch->arena, old.cxt, old.arena.limit);
}

/* Room for one more element in an array of the batch. */
static void *
grow_array(SsBatch *batch, void *array, int used, int *capacity, int first, Size size)
{
	if (used < *capacity)
		return array;

	if (array == NULL)
	{
		*capacity = first;
		return MemoryContextAlloc(batch->cxt, first * size);
	}
	if (*capacity > INT_MAX / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a batch cannot hold more than %d entries", *capacity)));
	*capacity *= 2;
	return repalloc_huge(array, *capacity * size);
}

void
ss_batch_begin_block(SsBatch *batch, SsStream *stream, bool contiguous)
{
	SsBlock *block;

	batch->blocks = grow_array(batch, batch->blocks, batch->nblocks,
							   &batch->blocks_capacity, FIRST_BLOCKS, sizeof(SsBlock));
	block = &batch->blocks[batch->nblocks++];
	block->stream = stream;
	block->first = batch->nentries;
	block->count = 0;
	block->contiguous = contiguous;
}

SsEntry *
ss_batch_add(SsBatch *batch, SsEntryId id, SsReply *fields)
{
	SsBlock *block = &batch->blocks[batch->nblocks - 1];
	SsEntry *entry;
	uint64	 bytes = 0;

	Assert(batch->nblocks > 0);
	batch->entries = grow_array(batch, batch->entries, batch->nentries,
								&batch->capacity, FIRST_ENTRIES, sizeof(SsEntry));
	entry = &batch->entries[batch->nentries];
	memset(entry, 0, sizeof(SsEntry));
	entry->stream = block->stream;
	entry->id = id;

	if (fields != NULL)
	{
		if (fields->type != SS_REPLY_ARRAY || fields->n % 2 != 0)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("entry from Redis is not a list of names and values")));

		for (uint32 i = 0; i < fields->n; i++)
		{
			const SsReply *item = &fields->items[i];

			if (item->type != SS_REPLY_STRING)
				ereport(ERROR,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("entry from Redis holds something that is not a string")));
			if (item->truncated)
			{
				entry->truncated = true;
				bytes += item->full_len;
			}
			else
				bytes += item->n;
		}
		/* an entry with an empty body still has one */
		entry->fields = fields->n > 0 ? fields->items : fields;
		entry->nfields = fields->n / 2;
		entry->bytes = Min(bytes, PG_UINT32_MAX);
	}

	if (batch->nentries == 0)
		batch->started_at = GetCurrentTimestamp();
	batch->nentries++;
	batch->bytes += bytes;
	block->count++;
	return entry;
}

static char *
copy_string(MemoryContext cxt, const char *str)
{
	return str ? MemoryContextStrdup(cxt, str) : NULL;
}

/* A deep copy; the strings that elog.c keeps as constants stay shared. */
static ErrorData *
copy_error(MemoryContext cxt, const ErrorData *error)
{
	ErrorData *copy = MemoryContextAlloc(cxt, sizeof(ErrorData));

	*copy = *error;
	copy->message = copy_string(cxt, error->message);
	copy->detail = copy_string(cxt, error->detail);
	copy->detail_log = copy_string(cxt, error->detail_log);
	copy->hint = copy_string(cxt, error->hint);
	copy->context = copy_string(cxt, error->context);
	copy->backtrace = copy_string(cxt, error->backtrace);
	copy->schema_name = copy_string(cxt, error->schema_name);
	copy->table_name = copy_string(cxt, error->table_name);
	copy->column_name = copy_string(cxt, error->column_name);
	copy->datatype_name = copy_string(cxt, error->datatype_name);
	copy->constraint_name = copy_string(cxt, error->constraint_name);
	copy->internalquery = copy_string(cxt, error->internalquery);
	copy->assoc_context = cxt;
	return copy;
}

void
ss_batch_refuse(SsBatch *batch, int entry, const char *stage, ErrorData *error)
{
	ErrorData *copy = copy_error(batch->cxt, error);
	int		   low = 0;
	int		   high = batch->nrefusals;
	SsRefusal *refusal;

	Assert(entry >= 0 && entry < batch->nentries);
	while (low < high)
	{
		int middle = low + (high - low) / 2;

		if (batch->refusals[middle].entry < entry)
			low = middle + 1;
		else
			high = middle;
	}

	if (low == batch->nrefusals || batch->refusals[low].entry != entry)
	{
		batch->refusals = grow_array(batch, batch->refusals, batch->nrefusals,
									 &batch->refusals_capacity, FIRST_REFUSALS, sizeof(SsRefusal));
		memmove(&batch->refusals[low + 1], &batch->refusals[low],
				(batch->nrefusals - low) * sizeof(SsRefusal));
		batch->nrefusals++;
	}
	refusal = &batch->refusals[low];
	refusal->entry = entry;
	refusal->stage = stage;
	refusal->error = copy;
	/* what crashed the server too often is refused without another one */
	refusal->attempts = batch->crashes + (batch->final ? batch->tries : 0) + (strcmp(stage, "crash") == 0 ? 0 : 1);
	batch->entries[entry].outcome = SS_OUTCOME_REFUSED;
}

uint64
ss_batch_hash(const SsEntry *entry)
{
	uint64 hash = hash_bytes_extended((const unsigned char *) &entry->id, sizeof(SsEntryId), 0);

	for (uint32 i = 0; i < entry->nfields * 2; i++)
	{
		const SsReply *item = &entry->fields[i];
		uint64		   len = item->truncated ? item->full_len : item->n;

		hash = hash_bytes_extended((const unsigned char *) &len, sizeof(len), hash);
		hash = hash_bytes_extended((const unsigned char *) item->str, item->n, hash);
	}
	return hash;
}
