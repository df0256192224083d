// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * main: options of reprotect-early, which runs in the initramfs: it attaches the disks that the
 * agent has listed before the root file system is mounted or its journal replayed. The work is in
 * attach.c.
 *
 * Nothing depends on it: its script (initramfs/scripts/reprotect) goes on whatever happens here. An alarm
 * ends it after LIMIT_SECONDS; the report then says what it was doing.
 */
#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attach.h"
#include "early.h"
#include "log.h"
#include "util.h"

#define LIMIT_SECONDS 5
#define LIMIT_SECONDS_MAX 60

const char *argp_program_version = "reprotect-early " REPROTECT_VERSION;
const char *argp_program_bug_address;

struct main_options {
	struct early_options run;
	unsigned limit_seconds;
};

enum { OPTION_REPORT = 256, OPTION_WHEN, OPTION_NO_WAIT, OPTION_LIMIT, OPTION_LAST, OPTION_STORES };

static const struct argp_option argp_table[] = {
	{ "config", 'c', "FILE", 0, "Read FILE instead of " EARLY_CONF_PATH, 0 },
	{ "report", OPTION_REPORT, "FILE", 0, "Write the report to FILE instead of " EARLY_REPORT_PATH, 0 },
	{ "when", OPTION_WHEN, "TEXT", 0, "Where in the boot this is, for the report", 0 },
	{ "no-wait", OPTION_NO_WAIT, NULL, 0, "Do not wait for disks that are not there", 0 },
	{ "last", OPTION_LAST, NULL, 0, "The root file system is mounted next: leave nothing for later", 0 },
	{ "stores", OPTION_STORES, "ROOT", 0, "The root file system is mounted at ROOT: give the disks their stores", 0 },
	{ "limit", OPTION_LIMIT, "SECONDS", 0, "End after so many seconds whatever happens (1 to 60; default 5)", 0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct main_options *options = state->input;
	char *end;
	long value;

	switch (key) {
	case 'c':
		options->run.config = arg;
		return 0;
	case OPTION_REPORT:
		options->run.report = arg;
		return 0;
	case OPTION_WHEN:
		options->run.when = arg;
		return 0;
	case OPTION_NO_WAIT:
		options->run.wait = false;
		return 0;
	case OPTION_LAST:
		options->run.last = true;
		return 0;
	case OPTION_STORES:
		options->run.stores = arg;
		return 0;
	case OPTION_LIMIT:
		value = strtol(arg, &end, 10);
		if (*end || end == arg || value < 1 || value > LIMIT_SECONDS_MAX)
			argp_error(state, "--limit %s: not a number from 1 to %d", arg, LIMIT_SECONDS_MAX);
		options->limit_seconds = (unsigned)value;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument %s", arg);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	argp_table, parse, NULL,
	"Attaches change tracking to the listed disks before they are mounted. Run by the initramfs.\v"
	"Exit status: 0 all are attached, 1 not all (the report says why), 2 wrong usage. See reprotect-early(8).",
	NULL, NULL, NULL
};

int main(int argc, char **argv)
{
	struct main_options options = {
		.run = { .config = EARLY_CONF_PATH, .report = EARLY_REPORT_PATH, .when = "by hand", .wait = true },
		.limit_seconds = LIMIT_SECONDS,
	};

	argp_err_exit_status = 2;
	if (argp_parse(&argp, argc, argv, 0, NULL, &options))
		return 2;
	alarm(options.limit_seconds);
	log_init("reprotect-early", LOG_LEVEL_INFO);
	return early_run(&options.run);
}
