// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * early: what reprotect status and disk list say about early boot. Called by status.c with what
 * the agent answered, by disk.c with the report itself when no agent runs.
 */
#include "early.h"

#include <inttypes.h>
#include <string.h>

#include "cli.h"

static void print_error(const json_t *error, FILE *out)
{
	char clean[1024];

	fprintf(out, "    %s\n", format_clean(cli_text(error, "message"), clean, sizeof(clean)));
	if (*cli_text(error, "remedy"))
		fprintf(out, "    to do: %s\n", format_clean(cli_text(error, "remedy"), clean, sizeof(clean)));
}

static void print_report(const json_t *report, FILE *out)
{
	const json_t *disks = json_object_get(report, "disks"), *disk;
	const json_t *error = json_object_get(report, "error");
	uint64_t last_ms = 0, attached = 0;
	char when[32];
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		attached += cli_true(disk, "attached");
		if (cli_number(disk, "attached_ms") > last_ms)
			last_ms = cli_number(disk, "attached_ms");
	}
	fprintf(out, "  early boot    ");
	if (attached)
		fprintf(out, "%" PRIu64 " of %zu disks attached, %s after the kernel started\n", attached,
			json_array_size(disks), format_duration(last_ms, when, sizeof(when)));
	else
		fprintf(out, json_array_size(disks) || error ? "no disk was attached\n" :
								"no disk was to be attached\n");
	if (error)
		print_error(error, out);
	json_array_foreach(disks, i, disk)
	{
		if (json_is_object(json_object_get(disk, "error")))
			print_error(json_object_get(disk, "error"), out);
	}
}

void status_early(const json_t *early, FILE *out)
{
	const json_t *report = json_object_get(early, "report");

	if (!json_is_object(early))
		return;
	if (json_is_object(report))
		print_report(report, out);
	else if (strcmp(cli_text(early, "initramfs"), "stale") != 0)
		fprintf(out, "  early boot    not in this boot; the initramfs has the list for the next one\n");
	if (!strcmp(cli_text(early, "initramfs"), "stale"))
		fprintf(out, "  early boot    the initramfs is older than the list of disks (run: %s)\n",
			cli_text(early, "remedy"));
}
