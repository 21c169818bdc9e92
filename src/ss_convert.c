/*
 * ss_convert.c
 *	  One column of one row: from what the entry has for it to a typed value,
 *	  by the type's own input function or a shortcut that gives the same.
 */
#include "postgres.h"
#define SS_NEED_INPUT
#include "ss_compat.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ss_convert.h"
#include "ss_rest.h"

/* ---- types ---- */

void
ss_convert_prepare(SsMapping *mapping, SsColumn *column)
{
	Oid base = getBaseType(column->pub.type);
	Oid input;

	getTypeInputInfo(column->pub.type, &input, &column->ioparam);
	get_typlenbyval(column->pub.type, &column->typlen, &column->byval);
	column->input_cxt = AllocSetContextCreate(mapping->cxt, "streamsink column", ALLOCSET_SMALL_SIZES);
	fmgr_info_cxt(input, &column->input, column->input_cxt);
	column->shortcut = ss_shortcut_choose(column->pub.type, input, column->pub.typmod);
	ss_watch_type(mapping, column->pub.type);
	if (base != column->pub.type)
		ss_watch_type(mapping, base);

	switch (column->pub.type)
	{
		case TEXTOID:
			column->conversion = SS_CONVERT_TEXT;
			return;
		case VARCHAROID:
			column->conversion = column->pub.typmod < 0 ? SS_CONVERT_TEXT : SS_CONVERT_INPUT_CLEAN;
			return;
		case BPCHAROID:
		case BYTEAOID:
		case UUIDOID:
		case NUMERICOID:
			column->conversion = SS_CONVERT_INPUT_CLEAN;
			return;
		default:
			column->conversion = (base == JSONOID || base == JSONBOID) ? SS_CONVERT_JSON : SS_CONVERT_INPUT;
	}

	if (OidIsValid(get_element_type(base)) || get_typtype(base) == TYPTYPE_COMPOSITE)
	{
		TupleDesc desc = CreateTemplateTupleDesc(1);
		Datum	  value = (Datum) 0;
		bool	  isnull = true;
		HeapTuple tuple;

		TupleDescInitEntry(desc, 1, column->pub.name, column->pub.type, column->pub.typmod, 0);
		column->row_desc = BlessTupleDesc(desc);
		tuple = heap_form_tuple(column->row_desc, &value, &isnull);
		column->null_row = DatumGetHeapTupleHeader(HeapTupleGetDatum(tuple));
		column->populated = true;
		fmgr_info_cxt(F_JSONB_POPULATE_RECORD, &column->populate, column->input_cxt);

		/* the function asks for its argument's type */
		column->populate_call = (Node *)
			makeFuncExpr(F_JSONB_POPULATE_RECORD, RECORDOID,
						 list_make2(makeNullConst(RECORDOID, -1, InvalidOid),
									makeNullConst(JSONBOID, -1, InvalidOid)),
						 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
		fmgr_info_set_expr(column->populate_call, &column->populate);
	}
}

void
ss_convert_reset(SsColumn *column)
{
	MemoryContextReset(column->input_cxt);
	column->input.fn_extra = NULL;
	column->populate.fn_extra = NULL;
}

/* ---- values ---- */

/* Run the input function; NULL gives domains their say.  False: convert->error is set. */
static inline bool
call_input(SsConvert *convert, SsColumn *column, char *text, Datum *value)
{
	return ss_compat_input(&column->input, text, column->ioparam, column->pub.typmod, value, &convert->error);
}

/* JSON array or object into an array or a composite type. */
static Datum
populate_value(SsColumn *column, const char *json, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 2);
	StringInfoData object;
	HeapTupleData  tuple;
	Datum		   result;

	initStringInfo(&object);
	appendStringInfoChar(&object, '{');
	escape_json(&object, column->pub.name);
	appendStringInfo(&object, ":%s}", json);

	InitFunctionCallInfoData(*fcinfo, &column->populate, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = PointerGetDatum(column->null_row);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = DirectFunctionCall1(jsonb_in, CStringGetDatum(object.data));
	fcinfo->args[1].isnull = false;
	result = FunctionCallInvoke(fcinfo);

	tuple.t_data = DatumGetHeapTupleHeader(result);
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	return heap_getattr(&tuple, 1, column->row_desc, isnull);
}

/*
 * One value to the column's type, by-reference results in the batch's context.
 * text is terminated, in server encoding, and has len bytes.
 */
static bool
convert_text(SsConvert *convert, SsColumn *column, SsFieldKind kind, char *text, size_t len,
			 Datum *value, bool *isnull)
{
	MemoryContext kept = convert->batch->cxt;
	MemoryContext old;
	bool		  good;

	*isnull = false;
	if (column->shortcut != SS_SHORTCUT_NONE)
	{
		old = MemoryContextSwitchTo(kept);
		good = ss_shortcut_run(column->shortcut, column->pub.typmod, text, len, value);
		MemoryContextSwitchTo(old);
		if (good)
			return true;
	}

	switch (column->conversion)
	{
		case SS_CONVERT_TEXT:
			old = MemoryContextSwitchTo(kept);
			*value = PointerGetDatum(cstring_to_text_with_len(text, len));
			MemoryContextSwitchTo(old);
			return true;
		case SS_CONVERT_INPUT_CLEAN:
			old = MemoryContextSwitchTo(kept);
			good = call_input(convert, column, text, value);
			MemoryContextSwitchTo(old);
			return good;
		case SS_CONVERT_JSON:
			if (kind == SS_FIELD_JSON_STRING)
			{
				StringInfoData quoted;

				initStringInfo(&quoted);
				escape_json(&quoted, text);
				text = quoted.data;
			}
			break;
		case SS_CONVERT_INPUT:
			break;
	}

	if (column->populated && (kind == SS_FIELD_JSON_ARRAY || kind == SS_FIELD_JSON_OBJECT))
		*value = populate_value(column, text, isnull);
	else if (!call_input(convert, column, text, value))
		return false;

	if (!column->byval && !*isnull)
	{
		old = MemoryContextSwitchTo(kept);
		*value = datumCopy(*value, false, column->typlen);
		MemoryContextSwitchTo(old);
	}
	return true;
}

static void refuse_null(SsConvert *convert, SsColumn *column, bool missing) pg_attribute_noreturn();

static void
refuse_null(SsConvert *convert, SsColumn *column, bool missing)
{
	const char *name = column->name >= 0 ? convert->mapping->members.names[column->name] : NULL;

	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("null value in column \"%s\" of relation \"%s\" violates not-null constraint",
					column->pub.name, convert->mapping->relname ? convert->mapping->relname : ""),
			 name == NULL ? 0 : errdetail(missing ? "The entry has no field \"%s\"." : "Field \"%s\" is null.", name)));
}

/* A NULL that the entry gave. */
static bool
convert_null(SsConvert *convert, SsColumn *column, Datum *value, bool *isnull)
{
	*value = (Datum) 0;
	*isnull = true;
	if (column->notnull)
		refuse_null(convert, column, false);
	return column->input.fn_strict || call_input(convert, column, NULL, value);
}

bool
ss_convert_missing(SsConvert *convert, SsColumn *column, Datum *value, bool *isnull)
{
	*value = (Datum) 0;
	*isnull = true;
	if (column->dflt.kind != SS_DEFAULT_NONE)
	{
		MemoryContext old = MemoryContextSwitchTo(convert->batch->cxt);

		*value = ss_default_value(convert->mapping, column, &convert->defaults, isnull);
		MemoryContextSwitchTo(old);
		if (*isnull && column->notnull)
			refuse_null(convert, column, true);
		return true;
	}
	if (column->needed)
		refuse_null(convert, column, true);
	return !column->check_missing || call_input(convert, column, NULL, value);
}

/* ---- sources ---- */

/* The entry has nothing for this column: see to it when the others are done. */
static bool
leave_missing(SsConvert *convert, SsColumn *column)
{
	convert->missing[convert->nmissing++] = column - convert->mapping->columns;
	return true;
}

static bool
convert_field(SsConvert *convert, SsColumn *column, Datum *value, bool *isnull, bool *present)
{
	SsFound *found = &convert->found[column->name];
	char	*text;

	*present = (found->stamp == convert->stamp);
	if (!*present)
		return leave_missing(convert, column);
	if (found->kind == SS_FIELD_JSON_NULL)
		return convert_null(convert, column, value, isnull);

	text = unconstify(char *, found->value);
	if (found->kind != SS_FIELD_TEXT)
		return convert_text(convert, column, found->kind, text, found->len, value, isnull);
	text = ss_decode_text(found->value, found->len);
	if (text == found->value && found->headroom && column->conversion == SS_CONVERT_TEXT)
	{
		/* a large value becomes a datum where it lies */
		*value = PointerGetDatum(text - VARHDRSZ);
		SET_VARSIZE(DatumGetPointer(*value), found->len + VARHDRSZ);
		*isnull = false;
		return true;
	}
	return convert_text(convert, column, SS_FIELD_TEXT, text,
						text == found->value ? found->len : strlen(text), value, isnull);
}

/* A copy of a placeholder's value; a ? beside it may have cut a character in two. */
static char *
placeholder_text(const SsSlice *slice)
{
	(void) pg_verify_mbstr(GetDatabaseEncoding(), slice->str, slice->len, false);
	return pnstrdup(slice->str, slice->len);
}

static bool
convert_placeholder(SsConvert *convert, SsColumn *column, Datum *value, bool *isnull, bool *present)
{
	int				number = column - convert->mapping->columns;
	const SsStream *stream = convert->entry->stream;
	const SsSlice  *slice = stream->placeholders ? &stream->placeholders[column->placeholder] : NULL;

	if (slice == NULL || slice->str == NULL)
		return convert_field(convert, column, value, isnull, present);

	*present = true;
	*isnull = false;
	if (!convert->constant_known[number])
	{
		if (!convert_text(convert, column, SS_FIELD_TEXT, placeholder_text(slice), slice->len,
						  &convert->constants[number], isnull))
			return false;
		convert->constant_known[number] = true;
	}
	*value = convert->constants[number];
	return true;
}

static bool
convert_rest(SsConvert *convert, SsColumn *column, Datum *value, bool *isnull, bool *present)
{
	SsMapping	   *mapping = convert->mapping;
	const SsStream *stream = convert->entry->stream;
	SsFound		   *own = &convert->found[column->name];
	SsRest			rest = {0};
	MemoryContext	old;
	SsField			field;

	if (own->stamp == convert->stamp && column->name != mapping->payload)
	{
		field.name = mapping->members.names[column->name];
		field.name_len = mapping->members.lens[column->name];
		field.kind = own->kind;
		field.value = own->kind == SS_FIELD_TEXT ? ss_decode_text(own->value, own->len) : own->value;
		field.value_len = field.value == own->value ? own->len : strlen(field.value);
		ss_rest_merge(&rest, &field);
	}

	/* later ones win: members, fields, placeholders */
	for (int i = 0; i < convert->nmembers; i++)
	{
		if (convert->members[i].name != NULL)
			ss_rest_add(&rest, &convert->members[i]);
	}
	for (uint32 i = 0; i < convert->nleft; i++)
	{
		const SsReply *item = &convert->entry->fields[convert->left[i] * 2];

		field.name = ss_decode_text(item[0].str, item[0].n);
		field.name_len = field.name == item[0].str ? item[0].n : strlen(field.name);
		field.kind = SS_FIELD_TEXT;
		field.value = ss_decode_text(item[1].str, item[1].n);
		field.value_len = field.value == item[1].str ? item[1].n : strlen(field.value);
		ss_rest_add(&rest, &field);
	}
	for (int i = 0; i < mapping->nplaceholders; i++)
	{
		if (mapping->placeholder_taken[i] || stream->placeholders == NULL || stream->placeholders[i].str == NULL)
			continue;
		field.name = mapping->placeholders[i];
		field.name_len = strlen(field.name);
		field.kind = SS_FIELD_TEXT;
		field.value = placeholder_text(&stream->placeholders[i]);
		field.value_len = stream->placeholders[i].len;
		ss_rest_add(&rest, &field);
	}

	*isnull = false;
	*present = (rest.state != NULL);
	if (!*present && column->dflt.kind != SS_DEFAULT_NONE)
		return leave_missing(convert, column);

	*value = ss_rest_end(&rest);
	old = MemoryContextSwitchTo(convert->batch->cxt);
	*value = datumCopy(*value, false, -1);
	MemoryContextSwitchTo(old);
	return true;
}

/* A meta column, of its own type or by way of text. */
static bool
convert_meta(SsConvert *convert, SsColumn *column, Datum *value, bool *isnull)
{
	SsEntry		 *entry = convert->entry;
	char		  id[SS_ENTRYID_MAXLEN];
	char		 *text = NULL;
	SsFieldKind	  kind = SS_FIELD_JSON_STRING;
	MemoryContext old;

	*isnull = false;
	switch (column->source)
	{
		case SS_SOURCE_ID:
			if (column->natural)
			{
				convert->ids[convert->nrows] = entry->id;
				*value = EntryIdPGetDatum(&convert->ids[convert->nrows]);
				return true;
			}
			ss_entryid_print(entry->id, id);
			text = id;
			break;
		case SS_SOURCE_STREAM:
			*value = convert->stream_text;
			if (column->natural)
				return true;
			text = entry->stream->name;
			break;
		case SS_SOURCE_TIME:
			*value = TimestampTzGetDatum(ss_entryid_time(entry->id));
			if (column->natural)
				return true;
			text = DatumGetCString(DirectFunctionCall1(timestamptz_out, *value));
			break;
		case SS_SOURCE_SEQ:
			*value = Int32GetDatum(convert->nrows);
			if (column->natural)
				return true;
			text = psprintf("%d", convert->nrows);
			kind = SS_FIELD_JSON_SCALAR;
			break;
		case SS_SOURCE_FIELDS:
			if (column->pub.is_meta && !column->pub.insert && !convert->mapping->use_fields)
			{
				*value = (Datum) 0;
				*isnull = true;
				return true;
			}
			*value = ss_decode_fields_jsonb(entry);
			if (column->natural)
			{
				old = MemoryContextSwitchTo(convert->batch->cxt);
				*value = datumCopy(*value, false, -1);
				MemoryContextSwitchTo(old);
				return true;
			}
			text = JsonbToCString(NULL, &DatumGetJsonbP(*value)->root, -1);
			kind = SS_FIELD_JSON_OBJECT;
			break;
		default:
			elog(ERROR, "unexpected source %d", (int) column->source);
	}
	return convert_text(convert, column, kind, text, strlen(text), value, isnull);
}

bool
ss_convert_column(SsConvert *convert, SsColumn *column, Datum *value, bool *isnull, bool *present)
{
	*present = true;
	switch (column->source)
	{
		case SS_SOURCE_FIELD:
			return convert_field(convert, column, value, isnull, present);
		case SS_SOURCE_PLACEHOLDER:
			return convert_placeholder(convert, column, value, isnull, present);
		case SS_SOURCE_REST:
			return convert_rest(convert, column, value, isnull, present);
		case SS_SOURCE_NONE:
			*value = (Datum) 0;
			*isnull = true;
			*present = false;
			return true;
		default:
			return convert_meta(convert, column, value, isnull);
	}
}
