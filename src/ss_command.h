/*
 * ss_command.h
 *	  Commands as Redis reads them.  Pure.
 */
#ifndef SS_COMMAND_H
#define SS_COMMAND_H

#include "lib/stringinfo.h"

/*
 * Append a command to a buffer whose first cursor bytes are sent already (they
 * may be moved out).  argvlen NULL: C strings.  As a whole or not at all:
 * false if it is too large for any buffer, ERROR 54000 or 53200 if it does not
 * fit behind what is there.
 */
extern bool ss_command_append(StringInfo out, int argc, const char *const *argv, const size_t *argvlen);

#endif /* SS_COMMAND_H */
