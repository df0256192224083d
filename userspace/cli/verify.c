// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * verify: reprotect points verify: whether a recovery point is worth going back to. Nothing is booted. Looked at are
 *
 *	the undo log		every record that counts for the point is read, and its checksum compared
 *	each disk		exported with an overlay, connected as a block device: its partition table
 *	each partition		journal replayed in the overlay, then what checks its file system (fscheck.h)
 *
 * The verdict is kept by the master target with the point. What was not looked into is said, and does not count; but
 * where no file system could be looked at, the verdict is no better than a warning.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "content.h"
#include "exports.h"
#include "fscheck.h"
#include "nbd.h"
#include "run.h"
#include "undo_view.h"
#include "util.h"
#include "verify.h"

#define TIMEOUT_MS (6 * 3600 * 1000u) /* of one program */
#define BAR_MS 200u

/* ---- checks and verdict -------------------------------------------------- */

static const char *const results[] = { [FSCHECK_GOOD] = "good",
				       [FSCHECK_SKIPPED] = "skipped",
				       [FSCHECK_WARNING] = "warning",
				       [FSCHECK_BAD] = "bad" };

const char *verify_verdict(const json_t *checks)
{
	enum fscheck_result worst = FSCHECK_GOOD;
	const json_t *check;
	size_t i;

	json_array_foreach(checks, i, check)
		for (enum fscheck_result r = FSCHECK_WARNING; r <= FSCHECK_BAD; r++)
			if (!strcmp(cli_text(check, "result"), results[r]) && r > worst)
				worst = r;
	return results[worst];
}

struct verify {
	const struct cli_options *options;
	json_t *checks;
	uint64_t timeout_ms, shown_ms; /* when the bar was drawn */
};

/* @disk NULL: of all; @partition 0: the whole. */
static void add(struct verify *verify, const char *disk, unsigned partition, const char *what, enum fscheck_result result,
		const char *detail)
{
	json_t *check = json_pack("{s:s?, s:o, s:s, s:s, s:s}", "disk", disk, "partition",
				  partition ? json_integer(partition) : json_null(), "what", what, "result", results[result],
				  "detail", detail);
	char where[96];

	json_array_append_new(verify->checks, check);
	if (verify->options->json)
		return;
	if (partition)
		snprintf(where, sizeof(where), "%s, partition %u", disk, partition);
	else
		snprintf(where, sizeof(where), "%s", disk ? disk : "all disks");
	printf("  %-24s %-24s %-8s %s\n", where, what, results[result], detail);
	fflush(stdout);
}

/* ---- the undo log -------------------------------------------------------- */

static void progress(void *user, uint64_t done, uint64_t total)
{
	struct verify *verify = user;
	uint64_t now = util_now_ms();
	char bar[64];

	if (verify->options->json || !isatty(STDERR_FILENO) || (done < total && now - verify->shown_ms < BAR_MS))
		return;
	verify->shown_ms = now;
	fprintf(stderr, "\r  undo log  %s\033[K%s", format_bar(done, total, 30, bar, sizeof(bar)), done < total ? "" : "\r\033[K");
}

static void check_records(struct verify *verify, const json_t *answer)
{
	struct undo_view *view = NULL;
	char error[512] = "", detail[600];
	int rc = undo_view_open(&view, cli_text(answer, "log"), cli_number(json_object_get(answer, "point"), "id"), error,
				sizeof(error));

	if (!rc)
		rc = undo_view_check(view, progress, verify, error, sizeof(error));
	if (rc)
		snprintf(detail, sizeof(detail), "%s", *error ? error : strerror(-rc));
	else
		snprintf(detail, sizeof(detail), "%zu pieces", undo_view_pieces(view));
	add(verify, NULL, 0, "undo log", rc ? FSCHECK_BAD : FSCHECK_GOOD, detail);
	if (view)
		undo_view_close(view);
}

/* ---- the disks ----------------------------------------------------------- */

static void check_item(struct verify *verify, const char *disk, const char *device, const struct content_item *item)
{
	enum fscheck_result result = FSCHECK_SKIPPED;
	char detail[FSCHECK_DETAIL_BYTES] = "", path[NBD_DEVICE_BYTES + 16], what[64];

	snprintf(what, sizeof(what), "%s", *item->type ? item->type : "content");
	if (item->ambiguous) {
		result = FSCHECK_WARNING;
		snprintf(detail, sizeof(detail), "signatures of more than one file system");
	} else if (!*item->type && item->bare) {
		snprintf(detail, sizeof(detail), "of a type that holds no file system");
	} else if (!*item->type) {
		result = FSCHECK_WARNING;
		snprintf(detail, sizeof(detail), "nothing that is known: empty, or its file system is destroyed");
	} else if (!strcmp(item->usage, "filesystem")) {
		content_device(device, item->partition, path, sizeof(path));
		result = fscheck(path, item->type, verify->timeout_ms, detail);
	} else if (!strcmp(item->type, "swap")) {
		result = FSCHECK_GOOD;
		snprintf(detail, sizeof(detail), "its signature");
	} else {
		snprintf(detail, sizeof(detail), "not looked into");
	}
	add(verify, disk, item->partition, what, result, detail);
}

static void check_content(struct verify *verify, const char *disk, const char *device)
{
	CLEANUP_FREE struct content *content = malloc(sizeof(*content));
	CLEANUP_FD int fd = open(device, O_RDONLY | O_CLOEXEC);
	char detail[FSCHECK_DETAIL_BYTES];
	int rc = !content ? -ENOMEM : fd < 0 ? -errno : content_find(fd, content);

	if (rc) {
		snprintf(detail, sizeof(detail), "cannot be read: %s", strerror(-rc));
		add(verify, disk, 0, "content", rc == -ENOMEM ? FSCHECK_WARNING : FSCHECK_BAD, detail);
		return;
	}
	if (*content->table) {
		char what[48];
		enum fscheck_result result = fscheck_table(device, verify->timeout_ms, detail);

		snprintf(what, sizeof(what), "partition table %s", content->table);
		if (!*detail)
			snprintf(detail, sizeof(detail), "%zu partitions", content->count);
		add(verify, disk, 0, what, result, detail);
	}
	for (size_t i = 0; i < content->count && !run_interrupted(); i++)
		check_item(verify, disk, device, &content->items[i]);
}

/* Exported and connected, and given back whatever is found. */
static enum cli_exit check_disk(struct verify *verify, const json_t *answer, const json_t *disk)
{
	char device[NBD_DEVICE_BYTES], error[512];
	const char *name = cli_text(disk, "name");
	enum cli_exit rc, end;
	json_t *entry;

	rc = exports_start(verify->options, answer, disk, true, &entry);
	if (rc != CLI_OK)
		return rc;
	if (nbd_connect(cli_text(entry, "socket"), cli_number(entry, "size_bytes"), false, device, error, sizeof(error))) {
		cli_error(NULL, "disk %s: %s", name, error);
		rc = CLI_FAILED;
	} else {
		exports_use(verify->options, entry, device, NULL);
		check_content(verify, name, device);
		if (run_interrupted()) {
			cli_error(NULL, "points verify: interrupted");
			rc = CLI_FAILED;
			run_undo();
		}
		if (nbd_disconnect(device, error, sizeof(error))) {
			cli_error("disconnect it with nbd-client -d", "disk %s: %s", name, error);
			rc = CLI_FAILED;
		}
	}
	end = exports_end(verify->options, entry);
	json_decref(entry);
	return rc == CLI_OK ? end : rc;
}

static enum cli_exit check_disks(struct verify *verify, const json_t *answer)
{
	char error[400], detail[512];
	const json_t *disk;
	size_t i;

	if (nbd_ready(error, sizeof(error))) {
		snprintf(detail, sizeof(detail), "not looked at: %s", error);
		add(verify, NULL, 0, "file systems", FSCHECK_WARNING, detail);
		return CLI_OK;
	}
	json_array_foreach(json_object_get(json_object_get(answer, "point"), "disks"), i, disk)
	{
		enum cli_exit rc = check_disk(verify, answer, disk);

		if (rc != CLI_OK)
			return rc;
	}
	return CLI_OK;
}

/* ---- the command --------------------------------------------------------- */

static enum cli_exit record(const struct verify *verify, const json_t *answer, json_t *verdict)
{
	CLEANUP_JSON json_t *recorded = NULL;

	return cli_call(verify->options, CLI_MASTER_TARGET,
			json_pack("{s:s, s:s, s:I, s:O}", "command", "point-verdict", "machine", cli_text(answer, "machine"), "id",
				  (json_int_t)cli_number(json_object_get(answer, "point"), "id"), "verdict", verdict),
			&recorded);
}

enum cli_exit command_points_verify(const struct cli_options *options)
{
	struct verify verify = { .options = options, .timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS };
	CLEANUP_JSON json_t *answer = NULL, *checks = json_array(), *verdict = NULL;
	const json_t *point;
	enum cli_exit rc;

	if (options->argc != 2) {
		cli_error("reprotect points verify MACHINE POINT [--timeout TIME] [--json]",
			  "points verify: name a machine and a point");
		return CLI_USAGE;
	}
	rc = point_resolve(options, options->argv[0], options->argv[1], NULL, &answer);
	if (rc != CLI_OK)
		return rc;
	verify.checks = checks;
	point = json_object_get(answer, "point");
	if (!options->json)
		printf("%s, point %" PRIu64 " of %s\n", cli_text(answer, "host"), cli_number(point, "id"), cli_text(point, "time"));
	check_records(&verify, answer);
	run_catch();
	rc = check_disks(&verify, answer);
	if (rc != CLI_OK)
		return rc;
	verdict = json_pack("{s:s, s:I, s:O}", "result", verify_verdict(checks), "time_ms", (json_int_t)util_wall_ms(), "checks",
			    checks);
	if (options->json)
		cli_print_json(verdict);
	else
		printf("verdict: %s\n", verify_verdict(checks));
	rc = record(&verify, answer, verdict);
	return !strcmp(verify_verdict(checks), "bad") ? CLI_FAILED : rc;
}
