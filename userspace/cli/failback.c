// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * failback: reprotect failback and resume. Starts the agent's job and follows it to its
 * end; success means released and verified, nothing less.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "conf.h"
#include "util.h"

#define POLL_MS 250u
#define SILENT_MS 30000u /* how long the agent may not answer */

static bool confirm(const struct cli_options *options)
{
	char line[16];

	if (options->yes)
		return true;
	if (!isatty(STDIN_FILENO)) {
		cli_error("say --yes", "failback: nobody is there to confirm it");
		return false;
	}
	printf("This fails the machine back: its filesystems are frozen, its last changes are sent, the\n"
	       "targets are compared with the disks and released. %s\n"
	       "Go on? [y/N] ",
	       options->thaw ? "Then the filesystems are thawed: what is written after that is not on the targets." :
			       "The filesystems stay frozen: shut this machine down from outside then.");
	fflush(stdout);
	return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}

/* One line for each step, rewritten in place on a terminal. */
static void show(const json_t *job, char *last_step, size_t last_bytes)
{
	static const struct {
		const char *step, *text;
	} texts[] = {
		{ "converge", "sending what has changed" },
		{ "freeze", "freezing the filesystems" },
		{ "final", "sending the last changes" },
		{ "verify", "comparing the targets with the disks" },
		{ "released", "released and verified" },
		{ "failed", "failed" },
	};
	const char *step = cli_text(job, "step"), *text = step;
	bool tty = isatty(STDOUT_FILENO);
	char a[32], b[64], line[256];
	bool fresh = strcmp(step, last_step) != 0;

	for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
		if (!strcmp(texts[i].step, step))
			text = texts[i].text;
	if (!fresh && !tty)
		return;
	if (!strcmp(step, "verify") && cli_number(job, "verify_bytes"))
		snprintf(line, sizeof(line), "%s  %s", text,
			 format_bar(cli_number(job, "verified_bytes"), cli_number(job, "verify_bytes"), 30,
				    b, sizeof(b)));
	else if (!strcmp(step, "converge") || !strcmp(step, "final"))
		snprintf(line, sizeof(line), "%s  %s dirty", text,
			 conf_format_bytes(cli_number(job, "dirty_bytes"), a, sizeof(a)));
	else
		snprintf(line, sizeof(line), "%s", text);
	if (tty)
		printf("%s%s\033[K%s", fresh && *last_step ? "\n" : "\r", line,
		       cli_true(job, "active") ? "" : "\n");
	else
		printf("%s\n", line);
	fflush(stdout);
	snprintf(last_step, last_bytes, "%s", step);
}

static enum cli_exit finish(const struct cli_options *options, const json_t *job)
{
	const json_t *error = json_object_get(job, "error");
	bool good = cli_true(job, "released") && cli_true(job, "verified");
	char text[64];

	if (options->json)
		cli_print_json(job);
	if (json_is_object(error))
		cli_error(cli_text(error, "remedy"), "%s", cli_text(error, "message"));
	if (good && !options->json)
		printf("failed back in %s. Start the machine from its target disks%s.\n",
		       format_duration(cli_number(job, "elapsed_ms"), text, sizeof(text)),
		       options->thaw ? "" : "; here its filesystems stay frozen");
	return good ? CLI_OK : CLI_FAILED;
}

static enum cli_exit follow(const struct cli_options *options)
{
	char last_step[32] = "";
	uint64_t heard = util_now_ms();

	for (;;) {
		struct timespec pause = { 0, (long)POLL_MS * 1000000L };
		CLEANUP_JSON json_t *answer = NULL;
		const json_t *job;
		int rc = cli_ask(cli_socket(options, CLI_AGENT),
				 json_pack("{s:s}", "command", "failback-status"), &answer);

		job = json_object_get(answer, "failback");
		if (!rc && json_is_object(job)) {
			heard = util_now_ms();
			if (!options->json)
				show(job, last_step, sizeof(last_step));
			if (!cli_true(job, "active"))
				return finish(options, job);
		} else if (!rc) {
			cli_error("see: reprotect status; then start the failback again",
				  "failback: the agent does not know of it any more (was it restarted?)");
			return CLI_FAILED;
		} else if (util_now_ms() - heard > SILENT_MS) {
			cli_error("see: systemctl status reprotect-agent; if the agent ended, its helper has "
				  "thawed the filesystems",
				  "failback: the agent does not answer: %s", strerror(-rc));
			return rc == -ENOENT || rc == -ECONNREFUSED ? CLI_NO_DAEMON : CLI_FAILED;
		}
		nanosleep(&pause, NULL);
	}
}

enum cli_exit command_failback(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL;
	enum cli_exit rc;

	if (options->argc) {
		cli_error("reprotect failback [--timeout TIME] [--thaw] [--yes]",
			  "failback: unexpected argument %s", options->argv[0]);
		return CLI_USAGE;
	}
	if (options->stop) {
		rc = cli_call(options, CLI_AGENT, json_pack("{s:s}", "command", "stop-failback"), &answer);
		if (rc == CLI_OK)
			printf("failback stopped; replication goes on\n");
		return rc;
	}
	if (!confirm(options))
		return CLI_FAILED;
	rc = cli_call(options, CLI_AGENT,
		      json_pack("{s:s, s:I, s:b, s:b}", "command", "failback", "timeout_ms",
				(json_int_t)options->timeout_ms, "verify", 1, "thaw", options->thaw),
		      &answer);
	return rc == CLI_OK ? follow(options) : rc;
}

enum cli_exit command_resume(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL;
	enum cli_exit rc;

	if (options->argc) {
		cli_error("reprotect resume", "resume: unexpected argument %s", options->argv[0]);
		return CLI_USAGE;
	}
	rc = cli_call(options, CLI_AGENT, json_pack("{s:s}", "command", "resume"), &answer);
	if (rc == CLI_OK)
		printf("filesystems are thawed, replication begins again (see: reprotect status)\n");
	return rc;
}
