/*
 * ss_command.c
 *	  Commands as Redis reads them: an array of strings with lengths, so that
 *	  no byte of an argument means anything.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/builtins.h"
#include "utils/memutils.h"

#include "ss_command.h"

/* A kind byte, 20 digits and two line ends, rounded up. */
#define OVERHEAD 32

/* Bytes sent already that are worth moving the rest for. */
#define COMPACT_MIN (64 * 1024)

/* Kind, number, line end: "*3\r\n". */
static char *
put_header(char *p, char kind, uint64 number)
{
	*p++ = kind;
	p += pg_ulltoa_n(number, p);
	*p++ = '\r';
	*p++ = '\n';
	return p;
}

bool
ss_command_append(StringInfo out, int argc, const char *const *argv, const size_t *argvlen)
{
	Size  need = OVERHEAD;
	char *p;

	for (int i = 0; i < argc; i++)
	{
		Size len = argvlen ? argvlen[i] : strlen(argv[i]);

		if (len >= MaxAllocSize || (need += len + OVERHEAD) >= MaxAllocSize)
			return false;
	}

	/* moved only when most is sent, so that the moves cost less than the bytes did */
	if (out->cursor > COMPACT_MIN && out->cursor > out->len / 2)
	{
		out->len -= out->cursor;
		memmove(out->data, out->data + out->cursor, out->len);
		out->cursor = 0;
	}
	enlargeStringInfo(out, (int) need);

	p = put_header(out->data + out->len, '*', argc);
	for (int i = 0; i < argc; i++)
	{
		Size len = argvlen ? argvlen[i] : strlen(argv[i]);

		p = put_header(p, '$', len);
		memcpy(p, argv[i], len);
		p += len;
		*p++ = '\r';
		*p++ = '\n';
	}
	*p = '\0';
	out->len = (int) (p - out->data);
	return true;
}
