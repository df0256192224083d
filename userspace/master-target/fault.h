/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fault: why something was refused or failed, as it goes into an ERROR frame, the log and
 * the status: a code for programs (wire.h), a message that names object, action and cause,
 * and what to do about it.
 */
#ifndef MASTER_TARGET_FAULT_H
#define MASTER_TARGET_FAULT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct fault {
	char code[32];
	char message[640];
	char remedy[400];
	bool fatal;	  /* trying again changes nothing until somebody has acted */
	uint64_t wall_ms; /* when; 0: no fault */
};

/** fault_set - fill @fault's code, remedy and message; always returns @result, for `return fault_set(...)` */
int fault_set(struct fault *fault, int result, const char *code, bool fatal, const char *remedy,
	      const char *format, ...) __attribute__((format(printf, 6, 7)));

#endif
