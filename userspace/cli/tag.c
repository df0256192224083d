// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tag: reprotect tag. Starts the agent's job and follows it until its epoch is on the master
 * target; success means that the point is there and exact.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "util.h"

#define POLL_MS 200u
#define SILENT_MS 30000u
#define TIMEOUT_MS 300000u
#define GRACE_MS 3000u /* so that the agent, whose time is the same, says why */

static const char *step_text(const char *step)
{
	static const struct {
		const char *step, *text;
	} texts[] = {
		{ "settle", "waiting for the epoch before it" },
		{ "sync", "writing back the page caches" },
		{ "pre", "running the pre scripts" },
		{ "freeze", "freezing the filesystems" },
		{ "cut", "cutting" },
		{ "thaw", "thawing" },
		{ "post", "running the post scripts" },
		{ "send", "its epoch is cut and on its way" },
	};

	for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
		if (!strcmp(texts[i].step, step))
			return texts[i].text;
	return step;
}

static void print_scripts(const json_t *job, FILE *out)
{
	const json_t *script;
	char clean[1024];
	size_t i;

	json_array_foreach(json_object_get(job, "scripts"), i, script)
	{
		if (!cli_number(script, "exit"))
			continue;
		fprintf(out, "  %s %s: exit status %" PRIu64 ", %" PRIu64 " ms: %s\n", cli_text(script, "path"),
			cli_text(script, "phase"), cli_number(script, "exit"), cli_number(script, "ms"),
			format_clean(cli_text(script, "output"), clean, sizeof(clean)));
	}
}

static enum cli_exit finish(const struct cli_options *options, const json_t *job)
{
	const json_t *error = json_object_get(job, "error");

	if (options->json)
		cli_print_json(job);
	if (json_is_object(error)) {
		cli_error(cli_text(error, "remedy"), "%s", cli_text(error, "message"));
		if (!options->json)
			print_scripts(job, stderr);
		return CLI_FAILED;
	}
	if (!options->json) {
		printf("tag %s (%s): epoch %" PRIu64 " is on the master target", cli_text(job, "name"),
		       cli_text(job, "kind"), cli_number(job, "epoch"));
		if (cli_number(job, "frozen_ms"))
			printf("; %zu filesystems were frozen for %" PRIu64 " ms",
			       json_array_size(json_object_get(job, "filesystems")), cli_number(job, "frozen_ms"));
		putchar('\n');
	}
	return CLI_OK;
}

static enum cli_exit follow(const struct cli_options *options, json_int_t id)
{
	uint64_t timeout = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS;
	uint64_t heard = util_now_ms(), end = heard + timeout + GRACE_MS;

	for (;;) {
		struct timespec pause = { 0, (long)POLL_MS * 1000000L };
		CLEANUP_JSON json_t *answer = NULL;
		const json_t *job;
		int rc = cli_ask(cli_socket(options, CLI_AGENT), json_pack("{s:s}", "command", "tag-status"),
				 &answer);

		job = json_object_get(json_object_get(answer, "tags"), "job");
		if (!rc && json_integer_value(json_object_get(job, "id")) == id) {
			heard = util_now_ms();
			if (!cli_true(job, "active"))
				return finish(options, job);
			if (heard >= end) {
				cli_error("it goes on; see: reprotect status",
					  "tag %s: not done within %" PRIu64 " s: %s", cli_text(job, "name"),
					  timeout / 1000, step_text(cli_text(job, "step")));
				return CLI_FAILED;
			}
		} else if (!rc) {
			cli_error("try again", "tag: the agent does not know of it any more (was it restarted?)");
			return CLI_FAILED;
		} else if (util_now_ms() - heard > SILENT_MS) {
			cli_error("see: systemctl status reprotect-agent; frozen filesystems are thawed by its helper",
				  "tag: the agent does not answer: %s", strerror(-rc));
			return rc == -ENOENT || rc == -ECONNREFUSED ? CLI_NO_DAEMON : CLI_FAILED;
		}
		nanosleep(&pause, NULL);
	}
}

static enum cli_exit make(const struct cli_options *options, const char *kind)
{
	CLEANUP_JSON json_t *answer = NULL;
	enum cli_exit rc;

	if (options->argc) {
		cli_error("reprotect tag app|crash [--name NAME] [--timeout TIME]", "tag: unexpected argument %s",
			  options->argv[0]);
		return CLI_USAGE;
	}
	rc = cli_call(options, CLI_AGENT,
		      json_pack("{s:s, s:s, s:s?, s:I}", "command", "tag", "kind", kind, "name", options->name,
				"timeout_ms", (json_int_t)options->timeout_ms),
		      &answer);
	if (rc != CLI_OK)
		return rc;
	return follow(options, json_integer_value(json_object_get(
				       json_object_get(json_object_get(answer, "tags"), "job"), "id")));
}

enum cli_exit command_tag_app(const struct cli_options *options)
{
	return make(options, "app");
}

enum cli_exit command_tag_crash(const struct cli_options *options)
{
	return make(options, "crash");
}
