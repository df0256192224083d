// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk: reprotect disk attach, detach, list. Attaching and detaching is the agent's; the
 * list comes from the agent, and from the kernel module alone when no agent runs.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cbt.h"
#include "cli.h"
#include "conf.h"
#include "early.h"
#include "util.h"

/* The list of disks that are attached in early boot has changed. */
static void print_boot(const struct cli_options *options, const json_t *answer)
{
	if (!options->json && *cli_text(answer, "boot"))
		printf("so that early boot knows it too, run: %s\n", cli_text(answer, "boot"));
}

enum cli_exit command_disk_attach(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL;
	char path[PATH_MAX], bytes[32];
	const char *device;
	json_t *request;
	enum cli_exit rc;

	if (options->argc != 1) {
		cli_error("reprotect disk attach DEVICE [--name NAME] [--granule 4K] [--store auto]",
			  "disk attach: name one disk");
		return CLI_USAGE;
	}
	device = options->argv[0];
	/* The agent has another working directory. Links (by-id) stay as they are. */
	if (device[0] != '/' && realpath(device, path))
		device = path;
	request = json_pack("{s:s, s:s}", "command", "attach", "device", device);
	if (request && options->name)
		json_object_set_new(request, "name", json_string(options->name));
	if (request && options->granule_bytes)
		json_object_set_new(request, "granule",
				    json_integer((json_int_t)options->granule_bytes));
	if (request && options->store)
		json_object_set_new(request, "store", json_string(options->store));
	rc = cli_call(options, CLI_AGENT, request, &answer);
	if (rc != CLI_OK)
		return rc;
	if (options->json)
		cli_print_json(answer);
	else
		printf("disk %s (%s): attached, %s, initial sync begins (watch it: reprotect status "
		       "--watch)\n",
		       cli_text(answer, "name"), device,
		       conf_format_bytes(cli_number(answer, "size_bytes"), bytes, sizeof(bytes)));
	print_boot(options, answer);
	return CLI_OK;
}

enum cli_exit command_disk_detach(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL;
	enum cli_exit rc;

	if (options->argc != 1) {
		cli_error("reprotect disk detach DEVICE|NAME [--force]", "disk detach: name one disk");
		return CLI_USAGE;
	}
	rc = cli_call(options, CLI_AGENT,
		      json_pack("{s:s, s:s, s:b}", "command", "detach", "device", options->argv[0],
				"force", options->force),
		      &answer);
	if (rc != CLI_OK)
		return rc;
	if (options->json)
		cli_print_json(answer);
	else
		printf("disk %s: detached; it is not replicated any more\n", cli_text(answer, "name"));
	print_boot(options, answer);
	return CLI_OK;
}

static json_t *kernel_store(const struct cbt_disk *disk)
{
	return json_pack("{s:s, s:b, s:s, s:I}", "state", cbt_store_state_name(disk->store_state), "trusted",
			 disk->store_trusted, "reason", disk->store_reason, "risk_bytes",
			 (json_int_t)disk->store_risk_bytes);
}

static json_t *kernel_disk(const struct cbt_disk *disk, const json_t *report)
{
	return json_pack("{s:o, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b}", "store", kernel_store(disk), "kernel_name", disk->name,
			 "early", early_report_disk(report, disk->id) != NULL,
			 "size_bytes", (json_int_t)disk->size_bytes, "granule_bytes",
			 (json_int_t)disk->granule_bytes, "dirty_bytes", (json_int_t)disk->dirty_bytes,
			 "open_bytes", (json_int_t)disk->open_bytes, "epoch", (json_int_t)disk->epoch,
			 "committed", (json_int_t)disk->epoch_committed, "gone",
			 (disk->flags & BLKCBT_DISK_F_GONE) != 0, "resized",
			 (disk->flags & BLKCBT_DISK_F_RESIZED) != 0);
}

/* What the kernel module tracks. */
static enum cli_exit list_kernel(json_t **list)
{
	CLEANUP_JSON json_t *report = early_report_load(EARLY_REPORT_PATH);
	struct cbt_disk *disks = NULL;
	struct cbt *cbt = NULL;
	size_t count = 0;
	int rc = cbt_open(&cbt);

	if (!rc)
		rc = cbt_list(cbt, &disks, &count);
	if (rc) {
		cli_error(rc == -ENOENT ?
				  "start the agent, it loads the module: systemctl start reprotect-agent" :
				  "see the kernel log: dmesg | grep blkcbt",
			  "disks: no agent runs, and the kernel module %s",
			  rc == -ENOENT ? "is not loaded" : strerror(-rc));
		if (cbt)
			cbt_close(cbt);
		return rc == -ENOENT ? CLI_NO_DAEMON : CLI_FAILED;
	}
	*list = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(*list, kernel_disk(&disks[i], report));
	free(disks);
	cbt_close(cbt);
	return CLI_OK;
}

/* What keeps the map over a restart, and what a power cut now would cost. */
static void print_store(const json_t *disk)
{
	const json_t *store = json_object_get(disk, "store"), *error = json_object_get(store, "error");
	const char *state = cli_text(store, "state"), *path = cli_text(store, "path");
	char risk[32];

	if (!store)
		return;
	printf("    store: %s%s%s; after a power cut now: %s to send again\n", state, *path ? " in " : "", path,
	       conf_format_bytes(cli_number(store, "risk_bytes"), risk, sizeof(risk)));
	if (error)
		printf("    %s (%s)\n", cli_text(error, "message"), cli_text(error, "remedy"));
	else if (!strcmp(state, "failed"))
		printf("    the store was given up: %s\n", cli_text(store, "reason"));
}

static void print_list(const json_t *list)
{
	const json_t *disk;
	size_t i;

	printf("%-12s %-28s %-10s %10s %10s %8s %s\n", "NAME", "DEVICE", "KERNEL", "SIZE", "DIRTY",
	       "EPOCH", "STATE");
	json_array_foreach(list, i, disk)
	{
		char size[32], dirty[32];
		const json_t *error = json_object_get(disk, "error");
		const char *device = cli_text(disk, "device"), *name = cli_text(disk, "name");
		bool agent = json_object_get(disk, "active") != NULL;
		const char *state = cli_true(disk, "detached")			    ? "detached" :
				    error					    ? "error" :
				    !agent					    ? "tracked" :
				    cli_true(json_object_get(disk, "initial"), "active") ? "initial-sync" :
				    cli_true(disk, "active")			    ? "replicated" :
										      "waiting";

		printf("%-12s %-28s %-10s %10s %10s %8" PRIu64 " %s%s\n", *name ? name : "-",
		       *device ? device : "-", cli_text(disk, "kernel_name"),
		       conf_format_bytes(cli_number(disk, "size_bytes"), size, sizeof(size)),
		       conf_format_bytes(cli_number(disk, "dirty_bytes") + cli_number(disk, "open_bytes"),
					 dirty, sizeof(dirty)),
		       cli_number(disk, "committed"), state,
		       cli_true(disk, "early") ? ", since early boot" : "");
		if (error)
			printf("    %s (%s)\n", cli_text(error, "message"), cli_text(error, "remedy"));
		print_store(disk);
	}
}

enum cli_exit command_disk_list(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL, *list = NULL;
	enum cli_exit rc;
	int ask;

	if (options->argc) {
		cli_error("reprotect disk list [--json]", "disk list: unexpected argument %s",
			  options->argv[0]);
		return CLI_USAGE;
	}
	ask = cli_ask(cli_socket(options, CLI_AGENT), json_pack("{s:s}", "command", "status"), &answer);
	if (!ask && json_is_array(json_object_get(answer, "disks"))) {
		list = json_incref(json_object_get(answer, "disks"));
	} else {
		rc = list_kernel(&list);
		if (rc != CLI_OK)
			return rc;
		cli_error("start it: systemctl start reprotect-agent",
			  "agent: does not run: this is what the kernel tracks; nothing is sent");
	}
	if (options->json)
		cli_print_json(list);
	else
		print_list(list);
	return CLI_OK;
}
