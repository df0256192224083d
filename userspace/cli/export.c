// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * export: reprotect points export, exports and unexport. The master target says where a point's undo log and
 * target disks are; what serves them is exports.c's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "conf.h"
#include "exports.h"
#include "run.h"
#include "util.h"

enum cli_exit point_resolve(const struct cli_options *options, const char *machine, const char *point, const char *disk,
			    json_t **answer)
{
	json_t *request = points_request("point", machine, point);
	enum cli_exit rc;

	if (disk)
		json_object_set_new(request, "disk", json_string(disk));
	rc = cli_call(options, CLI_MASTER_TARGET, request, answer);
	if (rc != CLI_OK)
		return rc;
	if (!*cli_text(*answer, "log")) {
		cli_error("set retention in master-target.conf to a volume that is there",
			  "machine %s: no undo log is kept, so nothing of the past can be shown", machine);
		return CLI_FAILED;
	}
	return CLI_OK;
}

const json_t *point_disk(const json_t *answer, const char *name)
{
	const json_t *disks = json_object_get(json_object_get(answer, "point"), "disks"), *disk;
	size_t i, used = 0;
	char names[512] = "";

	json_array_foreach(disks, i, disk)
	{
		if (!strcmp(cli_text(disk, "name"), name))
			return disk;
		if (used < sizeof(names))
			used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", cli_text(disk, "name"));
	}
	cli_error(NULL, "disk %s: the point has no such disk (it has: %s)", name, names);
	return NULL;
}

static void show(const json_t *entry)
{
	char bytes[32], clean[256];
	const json_t *user = json_object_get(entry, "used_by");

	if (cli_true(entry, "starting")) {
		printf("%s: is being started\n", cli_text(entry, "name"));
		return;
	}
	printf("%s: disk %s of %s", cli_text(entry, "name"), cli_text(entry, "disk_name"), cli_text(entry, "host"));
	printf(" as of %s (point %" PRIu64, cli_text(entry, "time"), cli_number(entry, "point"));
	if (*cli_text(entry, "point_name"))
		printf(", %s", format_clean(cli_text(entry, "point_name"), clean, sizeof(clean)));
	printf("), %s, %s%s\n", conf_format_bytes(cli_number(entry, "size_bytes"), bytes, sizeof(bytes)),
	       cli_true(entry, "writable") ? "writable (thrown away at the end)" : "read-only",
	       cli_true(entry, "running") ? "" : ", HAS ENDED");
	printf("  socket   %s\n  uri      %s\n", cli_text(entry, "socket"), cli_text(entry, "uri"));
	if (*cli_text(user, "device"))
		printf("  used by  %s%s%s\n", cli_text(user, "device"), *cli_text(user, "mount") ? ", mounted at " : "",
		       cli_text(user, "mount"));
}

static void show_use(const json_t *entry)
{
	const char *socket = cli_text(entry, "socket"), *name = cli_text(entry, "name");

	show(entry);
	printf("  copy it  nbdcopy '%s' FILE\n", cli_text(entry, "uri"));
	printf("  use it   modprobe nbd; nbd-client -unix %s /dev/nbd0%s\n", socket,
	       cli_true(entry, "writable") ? "" : " -readonly");
	printf("  end it   reprotect points unexport %s\n", name);
}

static enum cli_exit export_all(const struct cli_options *options, const json_t *answer, const json_t *only, json_t *entries)
{
	const json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(json_object_get(answer, "point"), "disks"), i, disk)
	{
		json_t *entry;
		enum cli_exit rc;

		if (only && disk != only)
			continue;
		rc = exports_start(options, answer, disk, options->writable, &entry);
		if (rc != CLI_OK)
			return rc;
		json_object_set_new(entry, "running", json_true());
		json_array_append_new(entries, entry);
	}
	return CLI_OK;
}

enum cli_exit command_points_export(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL, *entries = json_array();
	const char *name = options->argc == 3 ? options->argv[2] : NULL;
	const json_t *only = NULL, *entry;
	enum cli_exit rc;
	size_t i;

	if (options->argc != 2 && options->argc != 3) {
		cli_error("reprotect points export MACHINE POINT [DISK] [--writable] [--listen SOCKET]",
			  "points export: name a machine and a point");
		return CLI_USAGE;
	}
	rc = point_resolve(options, options->argv[0], options->argv[1], name, &answer);
	if (rc != CLI_OK)
		return rc;
	if (name) {
		only = point_disk(answer, name);
		if (!only)
			return CLI_FAILED;
	}
	if (options->listen && !only && json_array_size(json_object_get(json_object_get(answer, "point"), "disks")) > 1) {
		cli_error("name one disk", "points export: --listen %s is one socket, and the point has several disks",
			  options->listen);
		return CLI_USAGE;
	}
	run_catch();
	rc = export_all(options, answer, only, entries);
	if (rc != CLI_OK) {
		json_array_foreach(entries, i, entry)
			exports_end(options, entry);
		return rc;
	}
	if (options->json)
		cli_print_json(entries);
	else
		json_array_foreach(entries, i, entry)
			show_use(entry);
	return CLI_OK;
}

enum cli_exit command_points_exports(const struct cli_options *options)
{
	CLEANUP_JSON json_t *list = NULL;
	const json_t *entry;
	size_t i;

	if (options->argc) {
		cli_error("reprotect points exports [--json]", "points exports: unexpected argument %s", options->argv[0]);
		return CLI_USAGE;
	}
	list = exports_list(options);
	if (options->json) {
		cli_print_json(list);
		return CLI_OK;
	}
	if (!json_array_size(list))
		printf("nothing is exported\n");
	json_array_foreach(list, i, entry)
		show(entry);
	return CLI_OK;
}

static enum cli_exit unexport(const struct cli_options *options, const json_t *entry)
{
	const char *name = cli_text(entry, "name");

	if (cli_true(entry, "starting")) {
		cli_error("try again", "export %s: is being started", name);
		return CLI_FAILED;
	}
	if (json_is_object(json_object_get(entry, "used_by"))) {
		cli_error("reprotect points unmount NAME, or wait for points verify to end", "export %s: is in use by %s", name,
			  cli_text(json_object_get(entry, "used_by"), "device"));
		return CLI_FAILED;
	}
	return exports_end(options, entry);
}

enum cli_exit command_points_unexport(const struct cli_options *options)
{
	CLEANUP_JSON json_t *list = NULL;
	enum cli_exit rc = CLI_OK;
	const json_t *entry;
	bool found = false;
	size_t i;

	if (options->argc != (options->all ? 0 : 1)) {
		cli_error("reprotect points unexport NAME|--all", "points unexport: name one export (see: reprotect points exports)");
		return CLI_USAGE;
	}
	list = exports_list(options);
	json_array_foreach(list, i, entry)
	{
		if (!options->all && strcmp(cli_text(entry, "name"), options->argv[0]) != 0)
			continue;
		found = true;
		if (unexport(options, entry) != CLI_OK)
			rc = CLI_FAILED;
		else if (!options->json)
			printf("%s: ended\n", cli_text(entry, "name"));
	}
	if (!found && !options->all) {
		cli_error("see: reprotect points exports", "export %s: there is none of that name", options->argv[0]);
		return CLI_FAILED;
	}
	return rc;
}
