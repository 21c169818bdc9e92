/*
 * ss_json.c
 *	  JSON texts out of strings, by cJSON.
 *
 * NOTES
 *	  cJSON's allocator is one for the whole process, and another library in it
 *	  may have chosen its own: it is left as it is.  So between the first call
 *	  of cJSON and the last nothing here can raise an error or serve an
 *	  interrupt, and what cJSON allocated is freed by cJSON at once.
 *	  Only strings are made: a number that passes through cJSON is a double.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <cjson/cJSON.h>

#include "utils/memutils.h"

#include "ss_json.h"

/* Print and free a tree (NULL: memory did not suffice to make it). */
static char *
take_text(cJSON *tree)
{
	char *text = tree == NULL ? NULL : cJSON_PrintUnformatted(tree);
	char *copy = NULL;

	if (text != NULL)
	{
		Size size = strlen(text) + 1;

		if (AllocSizeIsValid(size))
			copy = palloc_extended(size, MCXT_ALLOC_NO_OOM);
		if (copy != NULL)
			memcpy(copy, text, size);
		cJSON_free(text);
	}
	cJSON_Delete(tree);

	if (copy == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("A JSON text could not be made.")));
	return copy;
}

char *
ss_json_object(const SsJsonMember *members, int nmembers)
{
	cJSON *tree = cJSON_CreateObject();

	for (int i = 0; i < nmembers && tree != NULL; i++)
	{
		const SsJsonMember *member = &members[i];
		cJSON			   *item;

		if (member->value == NULL)
			continue;
		item = member->verbatim ? cJSON_CreateRaw(member->value) : cJSON_CreateString(member->value);
		if (item != NULL)
			cJSON_AddItemToObjectCS(tree, member->name, item);
		else
		{
			cJSON_Delete(tree);
			tree = NULL;
		}
	}
	return take_text(tree);
}

static char *
make_array(const char *const *values, int nvalues, bool verbatim)
{
	cJSON *tree = cJSON_CreateArray();

	for (int i = 0; i < nvalues && tree != NULL; i++)
	{
		cJSON *item = verbatim ? cJSON_CreateRaw(values[i]) : cJSON_CreateString(values[i]);

		if (item != NULL)
			cJSON_AddItemToArray(tree, item);
		else
		{
			cJSON_Delete(tree);
			tree = NULL;
		}
	}
	return take_text(tree);
}

char *
ss_json_array(const char *const *strings, int nstrings)
{
	return make_array(strings, nstrings, false);
}

char *
ss_json_list(const char *const *values, int nvalues)
{
	return make_array(values, nvalues, true);
}
