// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * target: reprotect target list and forget, on the master target.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "util.h"

enum cli_exit command_target_list(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL;
	const json_t *machines, *machine;
	enum cli_exit rc;
	size_t i;

	if (options->argc) {
		cli_error("reprotect target list [--json]", "target list: unexpected argument %s",
			  options->argv[0]);
		return CLI_USAGE;
	}
	rc = cli_call(options, CLI_MASTER_TARGET, json_pack("{s:s}", "command", "status"), &answer);
	if (rc != CLI_OK)
		return rc;
	machines = json_object_get(answer, "machines");
	if (options->json) {
		cli_print_json(machines);
		return CLI_OK;
	}
	if (!json_array_size(machines))
		printf("no machine is known here yet\n");
	json_array_foreach(machines, i, machine)
		status_target(machine);
	return CLI_OK;
}

enum cli_exit command_target_forget(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL;
	char line[16];
	enum cli_exit rc;

	if (options->argc != 1) {
		cli_error("reprotect target forget MACHINE [--yes]",
			  "target forget: name one machine (host or uuid, see: reprotect target list)");
		return CLI_USAGE;
	}
	if (!options->yes) {
		if (!isatty(STDIN_FILENO)) {
			cli_error("say --yes", "target forget: nobody is there to confirm it");
			return CLI_FAILED;
		}
		printf("The master target forgets how far %s is replicated: its next connection begins with\n"
		       "an initial sync over its target disks. Go on? [y/N] ",
		       options->argv[0]);
		fflush(stdout);
		if (!fgets(line, sizeof(line), stdin) || (line[0] != 'y' && line[0] != 'Y'))
			return CLI_FAILED;
	}
	rc = cli_call(options, CLI_MASTER_TARGET,
		      json_pack("{s:s, s:s}", "command", "forget", "machine", options->argv[0]), &answer);
	if (rc == CLI_OK)
		printf("machine %s: forgotten\n", options->argv[0]);
	return rc;
}
