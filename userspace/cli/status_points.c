// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * status_points: what reprotect status says of consistency, tags, holds and snapshots. Called by
 * status.c with what a daemon answered; prints, and does nothing else.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "conf.h"

static void to_do(const json_t *json, FILE *out)
{
	const char *remedy = cli_text(json, "remedy");
	char clean[1024];

	if (*remedy)
		fprintf(out, "    to do: %s\n", format_clean(remedy, clean, sizeof(clean)));
}

/* "crash-12, 3.1 s ago" */
static const char *tag_text(const json_t *tag, char *out, size_t out_bytes)
{
	char name[128], age[32];

	if (!json_is_object(tag))
		snprintf(out, out_bytes, "none yet");
	else
		snprintf(out, out_bytes, "%s (epoch %" PRIu64 "), %s ago",
			 format_clean(cli_text(tag, "name"), name, sizeof(name)), cli_number(tag, "epoch"),
			 format_duration(cli_number(tag, "age_ms"), age, sizeof(age)));
	return out;
}

static const char *time_text(uint64_t ns, char *out, size_t out_bytes)
{
	if (ns < 10000)
		snprintf(out, out_bytes, "%.1f us", (double)ns / 1e3);
	else if (ns < 10000000)
		snprintf(out, out_bytes, "%.0f us", (double)ns / 1e3);
	else
		snprintf(out, out_bytes, "%.0f ms", (double)ns / 1e6);
	return out;
}

static void print_job(const json_t *job, FILE *out)
{
	const json_t *error = json_object_get(job, "error");
	char name[128], message[1024];

	if (cli_true(job, "active"))
		fprintf(out, "  tag job       %s (%s): %s\n", format_clean(cli_text(job, "name"), name, sizeof(name)),
			cli_text(job, "kind"), cli_text(job, "step"));
	if (!json_is_object(error))
		return;
	fprintf(out, "  last tag job  failed: %s\n",
		format_clean(cli_text(error, "message"), message, sizeof(message)));
	to_do(error, out);
}

static void print_snapshot(const json_t *snapshot, FILE *out)
{
	const json_t *error = json_object_get(snapshot, "error");
	char age[32], held[32], budget[32], text[1024];

	if (!json_is_object(snapshot))
		return;
	fprintf(out, "  snapshot      disk %s %s", cli_text(snapshot, "disk"), cli_text(snapshot, "state"));
	if (!strcmp(cli_text(snapshot, "state"), "open"))
		fprintf(out, " for %s at %s, %s of %s held; REPLICATION WAITS",
			format_duration(cli_number(snapshot, "open_ms"), age, sizeof(age)),
			format_clean(cli_text(snapshot, "image"), text, sizeof(text)),
			conf_format_bytes(cli_number(snapshot, "preserved_bytes"), held, sizeof(held)),
			conf_format_bytes(cli_number(snapshot, "budget_bytes"), budget, sizeof(budget)));
	if (json_is_object(error))
		fprintf(out, ": %s", format_clean(cli_text(error, "message"), text, sizeof(text)));
	fputc('\n', out);
	if (json_is_object(error))
		to_do(error, out);
	else if (!strcmp(cli_text(snapshot, "state"), "open"))
		fprintf(out, "    to do: reprotect disk snapshot --release %s\n", cli_text(snapshot, "disk"));
}

void status_points(const json_t *answer, uint64_t now_ms, FILE *out)
{
	const json_t *points = json_object_get(answer, "points"), *tags = json_object_get(answer, "tags");
	const json_t *holds = json_object_get(points, "holds"), *preserve = json_object_get(points, "preserve");
	const char *mode = cli_text(points, "mode");
	char a[160], b[160], c[64], text[1024];

	(void)now_ms;
	if (!json_is_object(points))
		return;
	if (!*mode)
		fprintf(out, "  consistency   no epoch sent yet\n");
	else if (!strcmp(mode, "consistent"))
		fprintf(out, "  consistency   epoch %" PRIu64 " is consistent\n", cli_number(points, "epoch"));
	else
		fprintf(out, "  consistency   epoch %" PRIu64 " is FUZZY: %s\n", cli_number(points, "epoch"),
			format_clean(cli_text(points, "why"), text, sizeof(text)));
	if (!strcmp(mode, "fuzzy"))
		to_do(points, out);
	fprintf(out, "  tags          crash: %s; app: %s\n",
		tag_text(json_object_get(tags, "crash"), a, sizeof(a)),
		tag_text(json_object_get(tags, "app"), b, sizeof(b)));
	print_job(json_object_get(tags, "job"), out);
	if (cli_number(holds, "count"))
		fprintf(out, "  holds         %" PRIu64 ": median up to %s, p99 up to %s, longest %s\n",
			cli_number(holds, "count"), time_text(cli_number(holds, "p50_ns"), a, sizeof(a)),
			time_text(cli_number(holds, "p99_ns"), b, sizeof(b)),
			time_text(cli_number(holds, "max_ns"), c, sizeof(c)));
	fprintf(out, "  preserve      %s held of %s, %" PRIu64 " epochs downgraded\n",
		conf_format_bytes(cli_number(preserve, "held_bytes"), a, sizeof(a)),
		conf_format_bytes(cli_number(preserve, "budget_bytes"), b, sizeof(b)),
		cli_number(points, "downgrades"));
	print_snapshot(json_object_get(answer, "snapshot"), out);
}

/* Age of a tag that carries its time as text only. */
static const char *target_tag(const json_t *tag, uint64_t now_ms, char *out, size_t out_bytes)
{
	const char *time = cli_text(tag, "time");
	char name[128], age[32];
	struct tm tm = { 0 };
	uint64_t then;

	if (!json_is_object(tag))
		return "none yet";
	format_clean(cli_text(tag, "name"), name, sizeof(name));
	if (!strptime(time, "%Y-%m-%dT%H:%M:%S", &tm)) {
		snprintf(out, out_bytes, "%s", name);
		return out;
	}
	then = (uint64_t)timegm(&tm) * 1000;
	snprintf(out, out_bytes, "%s (epoch %" PRIu64 "), %s ago", name, cli_number(tag, "epoch"),
		 format_duration(now_ms > then ? now_ms - then : 0, age, sizeof(age)));
	return out;
}

/* "12, the oldest 2 h 00 min old, the newest 3.0 s; 1.2 GiB on the retention volume" */
static void print_kept(const json_t *points, uint64_t now_ms, FILE *out)
{
	uint64_t count = cli_number(points, "count"), oldest = cli_number(points, "oldest_ms");
	uint64_t newest = cli_number(points, "newest_ms");
	char a[32], b[32], bytes[32];

	if (!json_is_integer(json_object_get(points, "count")))
		return;
	if (!count)
		fprintf(out, "    points       none yet");
	else
		fprintf(out, "    points       %" PRIu64 ", the oldest %s old, the newest %s", count,
			format_duration(now_ms > oldest ? now_ms - oldest : 0, a, sizeof(a)),
			format_duration(now_ms > newest ? now_ms - newest : 0, b, sizeof(b)));
	fprintf(out, "; %s on the retention volume\n",
		conf_format_bytes(cli_number(points, "retention_bytes"), bytes, sizeof(bytes)));
}

static void print_rolled_back(const json_t *machine, FILE *out)
{
	char host[128];

	format_clean(cli_text(machine, "host"), host, sizeof(host));
	fprintf(out, "    point        ROLLED BACK: the disks are as of a recovery point, and what the machine sends is refused\n"
		     "    to do: reprotect points rollback %s undo takes it back; reprotect points list shows what there is\n",
		host);
}

void status_target_points(const json_t *machine, uint64_t now_ms, FILE *out)
{
	const json_t *points = json_object_get(machine, "points");
	const char *word = cli_text(points, "consistency");
	uint64_t epoch = cli_number(points, "consistent_epoch");
	char a[256], b[256];

	if (!json_is_object(points))
		return;
	if (!strcmp(cli_text(machine, "status"), "rolled-back"))
		print_rolled_back(machine, out);
	else if (!strcmp(word, "consistent"))
		fprintf(out, "    point        consistent as of epoch %" PRIu64 "%s\n", epoch,
			!cli_true(points, "in_between") ? "" :
			json_is_object(json_object_get(machine, "epoch")) ?
				"; the next one is being written" :
				"; BUT A PART OF THE NEXT ONE IS ON THE DISKS, it has to be sent again");
	else if (!strcmp(word, "not-consistent"))
		fprintf(out, "    point        NOT CONSISTENT since epoch %" PRIu64
			     ": fuzzy epochs followed (reprotect status on the protected machine says why)\n",
			epoch);
	else
		fprintf(out, "    point        syncing: no consistent epoch since the initial sync or resync began\n");
	fprintf(out, "    tags         crash: %s; app: %s\n",
		target_tag(json_object_get(points, "last_crash"), now_ms, a, sizeof(a)),
		target_tag(json_object_get(points, "last_app"), now_ms, b, sizeof(b)));
	print_kept(points, now_ms, out);
}
