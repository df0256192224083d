// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * preflight: reprotect preflight retention: whether a volume is fit for undo logs, by the checks that the master target
 * makes at start (retention_volume.h), made here: so it works before there is a master target, and beside one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "retention_volume.h"
#include "util.h"

#define STATE_DIRECTORY "/var/lib/reprotect"

/* Paths for struct retention_others; borrowed. */
struct paths {
	const char **list; /* ends with NULL */
	size_t count;
	bool failed;
};

static void add(struct paths *paths, const char *path)
{
	const char **list = *path ? realloc(paths->list, (paths->count + 2) * sizeof(*list)) : NULL;

	if (!*path)
		return;
	if (!list) {
		paths->failed = true;
		return;
	}
	paths->list = list;
	list[paths->count++] = path;
	list[paths->count] = NULL;
}

static void add_targets(struct paths *paths, const json_t *status)
{
	const json_t *machines = json_object_get(status, "machines"), *machine, *disks, *disk;
	const json_t *configured = json_object_get(json_object_get(status, "retention"), "targets");
	size_t i, k;

	json_array_foreach(configured, i, disk)
		if (json_is_string(disk))
			add(paths, json_string_value(disk));
	json_array_foreach(machines, i, machine) {
		disks = json_object_get(machine, "disks");
		json_array_foreach(disks, k, disk)
			add(paths, cli_text(disk, "path"));
	}
}

/* By another name too: a symbolic link, a slash more. */
static bool same_path(const char *a, const char *b)
{
	CLEANUP_FREE char *real_a = realpath(a, NULL);
	CLEANUP_FREE char *real_b = realpath(b, NULL);

	return real_a && real_b ? !strcmp(real_a, real_b) : !strcmp(a, b);
}

/* What a daemon says; NULL: it does not run, or does not tell; then @why. */
static json_t *ask(const struct cli_options *options, enum cli_daemon which, char *why, size_t why_bytes)
{
	json_t *answer = NULL;
	int rc = cli_ask(cli_socket(options, which), json_pack("{s:s}", "command", "status"), &answer);

	if (!rc && cli_true(answer, "ok"))
		return answer;
	snprintf(why, why_bytes, "the %s %s: what it keeps and its policy were not looked at", cli_daemon_name(which),
		 rc == -ENOENT || rc == -ECONNREFUSED ? "does not run here" :
		 rc == -EACCES || rc == -EPERM	      ? "tells root only" :
							"gives no answer");
	json_decref(answer);
	return NULL;
}

/* Everything that is printed, one way or the other. */
static json_t *report(const char *path, const struct retention_others *others, const struct retention_demand *demand,
		      const char *note)
{
	struct retention_facts *facts = calloc(1, sizeof(*facts));
	enum retention_level level;
	json_t *checks = NULL, *json;

	if (!facts)
		return NULL;
	retention_volume_look(path, others, facts);
	level = retention_volume_judge(facts, demand, &checks, NULL, NULL);
	json = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:o}", "path", path, "verdict", retention_level_name(level),
			 "type", facts->type, "bytes_total", (json_int_t)facts->bytes_total, "bytes_free",
			 (json_int_t)facts->bytes_free, "bytes_needed", (json_int_t)retention_demand_bytes(demand), "note",
			 note, "checks", checks);
	free(facts);
	return json;
}

static void print_check(const json_t *check, const char *prefix, FILE *out)
{
	const char *message = cli_text(check, "message"), *result = cli_text(check, "result");
	size_t skip = strncmp(message, prefix, strlen(prefix)) ? 0 : strlen(prefix);
	char clean[1024];

	fprintf(out, "  %-8s %-11s %s\n", strcmp(result, "refused") ? result : "REFUSED", cli_text(check, "check"),
		format_clean(message + skip, clean, sizeof(clean)));
	if (*cli_text(check, "remedy"))
		fprintf(out, "    to do: %s\n", format_clean(cli_text(check, "remedy"), clean, sizeof(clean)));
}

void preflight_print(const json_t *json, FILE *out)
{
	const json_t *checks = json_object_get(json, "checks"), *check;
	const char *verdict = cli_text(json, "verdict");
	char clean[1024], prefix[256];
	size_t i;

	fprintf(out, "retention volume %s\n", format_clean(cli_text(json, "path"), clean, sizeof(clean)));
	snprintf(prefix, sizeof(prefix), "retention volume %.200s: ", cli_text(json, "path"));
	json_array_foreach(checks, i, check)
		print_check(check, prefix, out);
	if (*cli_text(json, "note"))
		fprintf(out, "  note     %s\n", format_clean(cli_text(json, "note"), clean, sizeof(clean)));
	fprintf(out, "%s\n", !strcmp(verdict, "good")    ? "verdict: fit for undo logs" :
			     !strcmp(verdict, "warning") ? "verdict: fit for undo logs, with warnings" :
							   "verdict: REFUSED, undo logs cannot be kept there");
}

/* With what the daemons say; @spool may be NULL. */
static json_t *look(const char *path, const json_t *master, const json_t *spool, const char *note)
{
	const json_t *retention = json_object_get(master, "retention");
	struct paths targets = { .list = NULL }, directories = { .list = NULL };
	const struct retention_demand demand = {
		.churn_bytes_per_hour = cli_number(retention, "churn_bytes_per_hour"),
		.keep_all_ms = cli_number(retention, "keep_all_ms"),
		.keep_hourly_ms = cli_number(retention, "keep_hourly_ms"),
		.max_bytes = cli_number(retention, "max_bytes"),
	};
	struct retention_others others;
	json_t *json = NULL;

	add_targets(&targets, master);
	add(&directories, STATE_DIRECTORY);
	add(&directories, cli_text(master, "state_dir"));
	add(&directories, cli_text(json_object_get(spool, "spool"), "path"));
	others = (struct retention_others){ .targets = targets.list, .directories = directories.list,
					    .own_lock = same_path(path, cli_text(retention, "path")) };
	if (!targets.failed && !directories.failed)
		json = report(path, &others, &demand, note);
	free(targets.list);
	free(directories.list);
	return json;
}

enum cli_exit command_preflight_retention(const struct cli_options *options)
{
	CLEANUP_JSON json_t *master = NULL, *spool = NULL, *json = NULL;
	const char *path = options->argc ? options->argv[0] : NULL;
	char note[256] = "", unused[256];

	if (options->argc > 1) {
		cli_error("reprotect preflight retention [PATH] [--json]", "preflight retention: unexpected argument %s",
			  options->argv[1]);
		return CLI_USAGE;
	}
	if (path && path[0] != '/') {
		cli_error("name it from the root, such as " RETENTION_PATH_DEFAULT, "preflight retention: %s: not an absolute path",
			  path);
		return CLI_USAGE;
	}
	master = ask(options, CLI_MASTER_TARGET, note, sizeof(note));
	if (!options->socket)
		spool = ask(options, CLI_PROCESS_SERVER, unused, sizeof(unused));
	if (!path)
		path = cli_text(json_object_get(master, "retention"), "path");
	if (!*path) {
		if (master)
			snprintf(note, sizeof(note), "the master target keeps no undo logs: this is where it would by default");
		path = RETENTION_PATH_DEFAULT;
	}
	json = look(path, master, spool, note);
	if (!json) {
		cli_error("free memory; a path has to be UTF-8", "preflight retention: %s: no report can be made", path);
		return CLI_FAILED;
	}
	if (options->json)
		cli_print_json(json);
	else
		preflight_print(json, stdout);
	return strcmp(cli_text(json, "verdict"), "refused") ? CLI_OK : CLI_FAILED;
}
