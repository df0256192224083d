// SPDX-License-Identifier: GPL-2.0-or-later
/* fault: see fault.h. Pure. */
#include "fault.h"
#include "util.h"

int fault_set(struct fault *fault, int result, const char *code, bool fatal, const char *remedy,
	      const char *format, ...)
{
	va_list args;

	/* Written here, not read: callers hand over a fault as it came from the stack. */
	/* cppcheck-suppress ctuuninitvar */
	snprintf(fault->code, sizeof(fault->code), "%s", code);
	snprintf(fault->remedy, sizeof(fault->remedy), "%s", remedy ? remedy : "");
	va_start(args, format);
	vsnprintf(fault->message, sizeof(fault->message), format, args);
	va_end(args);
	fault->fatal = fatal;
	fault->wall_ms = util_wall_ms();
	return result;
}
