// SPDX-License-Identifier: GPL-2.0-or-later
/* points_print: see points_print.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "conf.h"
#include "points_print.h"
#include "util.h"
#include "wall_time.h"

#define NAME_COLUMNS_MAX 40
#define BAR 30u

static const char *clock_text(const json_t *point, char out[WALL_TIME_BYTES])
{
	return wall_time_text(cli_number(point, "time_ms"), out);
}

static const char *clean(const json_t *json, const char *key, char *out, size_t bytes)
{
	return format_clean(cli_text(json, key), out, bytes);
}

const char *points_title(const json_t *point, char *out, size_t out_bytes)
{
	char name[128], time[WALL_TIME_BYTES];

	clean(point, "name", name, sizeof(name));
	snprintf(out, out_bytes, "#%" PRIu64 "%s%s%s (%s, %s)", cli_number(point, "id"), *name ? " \"" : "", name,
		 *name ? "\"" : "", clock_text(point, time),
		 cli_true(point, "consistent") ? cli_text(point, "kind") : "not consistent");
	return out;
}

/* ---- the list --------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static void note(char *out, size_t bytes, size_t *used, const char *format, ...)
{
	va_list list;
	int n;

	if (*used >= bytes)
		return;
	if (*used)
		*used += (size_t)snprintf(out + *used, bytes - *used, ", ");
	if (*used >= bytes)
		return;
	va_start(list, format);
	n = vsnprintf(out + *used, bytes - *used, format, list);
	va_end(list);
	*used += n > 0 ? (size_t)n : 0;
}

static const char *notes(const json_t *point, char *out, size_t bytes)
{
	const json_t *verified = json_object_get(point, "verified");
	char text[256];
	size_t used = 0;

	out[0] = '\0';
	if (cli_true(point, "present"))
		note(out, bytes, &used, "present");
	if (cli_number(point, "copy_of"))
		note(out, bytes, &used, "rolled back to #%" PRIu64, cli_number(point, "copy_of"));
	if (cli_true(point, "before_rollback"))
		note(out, bytes, &used, "before the rollback%s",
		     cli_true(point, "consistent") ? "" : ", NOT CONSISTENT");
	if (!cli_true(point, "complete"))
		note(out, bytes, &used, "not complete: %s", clean(point, "why", text, sizeof(text)));
	if (cli_true(point, "pinned"))
		note(out, bytes, &used, "pinned");
	if (json_is_object(verified))
		note(out, bytes, &used, !strcmp(cli_text(verified, "result"), "good") ? "verified" : "verified: %s",
		     strcmp(cli_text(verified, "result"), "bad") ?
			     clean(verified, "result", text, sizeof(text)) :
			     "BAD");
	return out;
}

static int name_columns(const json_t *points)
{
	const json_t *point;
	size_t i, widest = 4;

	json_array_foreach(points, i, point)
	{
		size_t n = strlen(cli_text(point, "name"));

		widest = n > widest ? n : widest;
	}
	return widest > NAME_COLUMNS_MAX ? NAME_COLUMNS_MAX : (int)widest;
}

static void print_point(const json_t *point, int columns, FILE *out)
{
	char time[WALL_TIME_BYTES], age[32], size[32], name[128], text[512];

	clean(point, "name", name, sizeof(name));
	notes(point, text, sizeof(text));
	fprintf(out, "%8" PRIu64 "  %-19s  %12s  %-5s  %-*s  %10s  %5zu%s%s\n", cli_number(point, "id"),
		clock_text(point, time), format_duration(cli_number(point, "age_ms"), age, sizeof(age)),
		cli_text(point, "kind"), columns, *name ? name : "-",
		cli_true(point, "present") ? "-" :
					     conf_format_bytes(cli_number(point, "size_bytes"), size, sizeof(size)),
		json_array_size(json_object_get(point, "disks")), *text ? "  " : "", text);
}

static void print_summary(const json_t *machine, FILE *out)
{
	const json_t *points = json_object_get(machine, "points"), *point;
	size_t i, count = json_array_size(points), apps = 0, pinned = 0, lacking = 0;
	uint64_t oldest = UINT64_MAX, newest = 0;
	char a[WALL_TIME_BYTES], b[WALL_TIME_BYTES], zone[WALL_TIME_BYTES], bytes[32];

	json_array_foreach(points, i, point)
	{
		uint64_t ms = cli_number(point, "time_ms");

		apps += !strcmp(cli_text(point, "kind"), "app");
		pinned += cli_true(point, "pinned");
		lacking += !cli_true(point, "complete");
		oldest = ms < oldest ? ms : oldest;
		newest = ms > newest ? ms : newest;
	}
	fprintf(out, "%zu point%s, %zu of them app-consistent", count, count == 1 ? "" : "s", apps);
	if (pinned)
		fprintf(out, ", %zu pinned", pinned);
	if (lacking)
		fprintf(out, ", %zu not complete", lacking);
	fprintf(out, "; from %s to %s, local time: %s", wall_time_text(oldest, a), wall_time_text(newest, b),
		wall_time_zone(newest, zone));
	fprintf(out, "; %s on the retention volume\n",
		conf_format_bytes(cli_number(machine, "retention_bytes"), bytes, sizeof(bytes)));
}

static void print_none(const json_t *machine, FILE *out)
{
	if (cli_true(machine, "syncing"))
		fprintf(out, "no recovery point: none comes before the initial sync or resync has ended with a consistent "
			     "epoch\n");
	else if (!*cli_text(machine, "log"))
		fprintf(out, "no recovery point: no undo log is kept (retention in master-target.conf)\n");
	else
		fprintf(out, "no recovery point yet\n");
}

void points_print_machine(const json_t *machine, FILE *out)
{
	const json_t *points = json_object_get(machine, "points"), *point;
	int columns = name_columns(points);
	char host[128], uuid[128], line[512];
	size_t i;

	fprintf(out, "machine %s, %s, uuid %s\n", clean(machine, "host", host, sizeof(host)), cli_text(machine, "status"),
		clean(machine, "machine", uuid, sizeof(uuid)));
	if (strcmp(cli_text(json_object_get(machine, "rollback"), "state"), "done") != 0 &&
	    *points_progress(machine, line, sizeof(line)))
		fprintf(out, "rollback: %s\n", line);
	if (!json_array_size(points)) {
		print_none(machine, out);
		return;
	}
	fprintf(out, "%8s  %-19s  %12s  %-5s  %-*s  %10s  %5s\n", "ID", "TIME", "AGE", "KIND", columns, "NAME", "SIZE",
		"DISKS");
	json_array_foreach(points, i, point)
		print_point(point, columns, out);
	print_summary(machine, out);
	if (cli_true(machine, "syncing"))
		fprintf(out, "syncing: no new point before the initial sync or resync has ended\n");
}

/* ---- rollback --------------------------------------------------------------- */

static void print_disks(const json_t *point, FILE *out)
{
	const json_t *disk;
	char name[128], path[1024];
	size_t i;

	json_array_foreach(json_object_get(point, "disks"), i, disk)
		fprintf(out, "  disk %s, %s\n", clean(disk, "name", name, sizeof(name)),
			clean(disk, "path", path, sizeof(path)));
}

static void print_estimate(const json_t *estimate, FILE *out)
{
	uint64_t undo = cli_number(estimate, "undo_bytes"), room = cli_number(estimate, "free_bytes");
	char a[32], b[32], c[32], time[32];

	fprintf(out,
		"At most %s are written to the disks, in about %s; %s of the retention volume are needed for what is\n"
		"overwritten, %s are free there.\n",
		conf_format_bytes(cli_number(estimate, "bytes"), a, sizeof(a)),
		format_duration(cli_number(estimate, "seconds") * 1000, time, sizeof(time)),
		conf_format_bytes(undo, b, sizeof(b)), conf_format_bytes(room, c, sizeof(c)));
	if (undo > room)
		fprintf(out, "WARNING: that may not be enough. If it is not, the rollback ends, and what it did is undone:\n"
			     "make room there, or choose a newer point.\n");
}

static void print_verdict(const json_t *point, FILE *out)
{
	const json_t *verified = json_object_get(point, "verified");
	const char *result = cli_text(verified, "result");

	if (!json_is_object(verified))
		fprintf(out, "The point was not verified yet (reprotect points verify).\n");
	else if (strcmp(result, "good") != 0)
		fprintf(out, "WARNING: points verify found it %s (see reprotect points list --json).\n",
			!strcmp(result, "bad") ? "BAD" : "doubtful");
	if (!cli_true(point, "consistent"))
		fprintf(out, "WARNING: what was before the rollback is not consistent: of use only to let replication go on.\n");
}

void points_print_plan(const json_t *answer, FILE *out)
{
	const json_t *point = json_object_get(answer, "point");
	char host[128], title[256], age[32];

	clean(answer, "host", host, sizeof(host));
	fprintf(out, "Roll back the disks of machine %s\n  from %s\n", host,
		points_title(json_object_get(answer, "from"), title, sizeof(title)));
	fprintf(out, "  to   %s, %s old\n", points_title(point, title, sizeof(title)),
		format_duration(cli_number(point, "age_ms"), age, sizeof(age)));
	print_disks(point, out);
	print_estimate(json_object_get(answer, "estimate"), out);
	print_verdict(point, out);
	fprintf(out,
		"Nobody may use the disks meanwhile. What is on them now is kept, and newer points stay. Afterwards the\n"
		"disks can be started from; what the protected machine sends is refused until the rollback is taken back\n"
		"(reprotect points rollback %s undo).\n",
		host);
}

void points_print_done(const json_t *answer, const json_t *point, FILE *out)
{
	bool waits = !strcmp(cli_text(answer, "status"), "rolled-back");
	char host[128], title[256], size[32];

	clean(answer, "host", host, sizeof(host));
	fprintf(out, "machine %s: its disks are as they were at point %s; %s were written.\n", host,
		points_title(point, title, sizeof(title)),
		conf_format_bytes(cli_number(json_object_get(answer, "rollback"), "total_bytes"), size, sizeof(size)));
	if (!waits) {
		fprintf(out, "That is the newest epoch: replication goes on.\n");
		return;
	}
	fprintf(out,
		"What was on them before and all newer points are kept.\n"
		"  take it back:       reprotect points rollback %s undo\n"
		"  discard the newer:  reprotect points discard %s --newer-than %" PRIu64 "\n"
		"The disks can be started from. What the protected machine sends is refused until the rollback is taken back;\n"
		"to protect it anew over these disks: reprotect target forget %s\n",
		host, host, cli_number(point, "id"), host);
}

const char *points_progress(const json_t *answer, char *out, size_t out_bytes)
{
	const json_t *rollback = json_object_get(answer, "rollback"), *failing = json_object_get(answer, "failing");
	const json_t *error = json_object_get(rollback, "error");
	const char *state = cli_text(rollback, "state");
	uint64_t done = cli_number(rollback, "done_bytes"), total = cli_number(rollback, "total_bytes");
	char bar[64], a[32], b[32], rate[32], left[32] = "", text[640];

	out[0] = '\0';
	if (!strcmp(state, "waiting"))
		snprintf(out, out_bytes, "waiting for what is under way to end%s%s", json_is_object(failing) ? ": " : "",
			 clean(failing, "message", text, sizeof(text)));
	else if (!strcmp(state, "failed"))
		snprintf(out, out_bytes, "failed: %s", clean(error, "message", text, sizeof(text)));
	else if (!strcmp(state, "done") || !strcmp(state, "stopped"))
		snprintf(out, out_bytes, "%s", state);
	else if (!strcmp(state, "undoing") || !strcmp(state, "restoring")) {
		if (cli_number(rollback, "eta_ms"))
			format_duration(cli_number(rollback, "eta_ms"), left, sizeof(left));
		snprintf(out, out_bytes, "%s  %s  %s of %s, %s%s%s%s",
			 *state == 'u' ? "undoing what was not completed" : "restoring",
			 format_bar(done, total, BAR, bar, sizeof(bar)), conf_format_bytes(done, a, sizeof(a)),
			 conf_format_bytes(total, b, sizeof(b)),
			 format_rate(cli_number(rollback, "rate_bytes_per_second"), rate, sizeof(rate)),
			 *left ? ", " : "", left, *left ? " left" : "");
	}
	return out;
}

/* ---- discard ---------------------------------------------------------------- */

static void print_some(const json_t *points, uint64_t count, const char *what, FILE *out)
{
	const json_t *point;
	char text[256], why[128];
	size_t i;

	json_array_foreach(points, i, point)
	{
		fprintf(out, "  %s %s", what, clean(point, "text", text, sizeof(text)));
		if (*cli_text(point, "why"))
			fprintf(out, ": %s", clean(point, "why", why, sizeof(why)));
		fputc('\n', out);
	}
	if (count > json_array_size(points))
		fprintf(out, "  %s %" PRIu64 " more\n", what, count - json_array_size(points));
}

void points_print_discard(const json_t *answer, bool done, FILE *out)
{
	uint64_t count = cli_number(answer, "discarded"), kept = cli_number(answer, "kept");
	char host[128], bytes[32];

	fprintf(out, "machine %s: %" PRIu64 " recovery point%s %s (up to %s are given back)\n",
		clean(answer, "host", host, sizeof(host)), count, count == 1 ? "" : "s",
		done ? "discarded" : "would be discarded",
		conf_format_bytes(cli_number(answer, "bytes"), bytes, sizeof(bytes)));
	if (!done)
		print_some(json_object_get(answer, "discarded_points"), count, "discard", out);
	print_some(json_object_get(answer, "kept_points"), kept, "keep", out);
}
