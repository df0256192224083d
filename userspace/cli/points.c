// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * points: reprotect points list, pin, unpin, discard and rollback, on the master target. What is said about points is in
 * points_print.c. A rollback is the master target's job: it goes on whether or not somebody watches.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "points_print.h"
#include "util.h"
#include "wall_time.h"

#define POLL_MS 250u
#define SILENT_MS 30000u /* how long the master target may not answer: it reads its whole undo log when it starts */
#define POINT_BYTES 512u

static void add_selector(json_t *request, const char *key, const char *selector)
{
	char ms_key[32];
	uint64_t ms;

	json_object_set_new(request, key, json_string(selector));
	snprintf(ms_key, sizeof(ms_key), "%s_ms", key);
	if (!wall_time_parse(selector, util_wall_ms(), &ms, NULL))
		json_object_set_new(request, ms_key, json_integer((json_int_t)ms));
}

json_t *points_request(const char *command, const char *machine, const char *selector)
{
	json_t *request = json_pack("{s:s, s:s}", "command", command, "machine", machine);

	if (selector)
		add_selector(request, "point", selector);
	return request;
}

/* Arguments MACHINE POINT; a point may be two words, a day and a time. false: a usage error was told. */
static bool machine_and_point(const struct cli_options *options, const char *usage, char point[POINT_BYTES])
{
	if (options->argc == 2)
		snprintf(point, POINT_BYTES, "%s", options->argv[1]);
	else if (options->argc == 3)
		snprintf(point, POINT_BYTES, "%s %s", options->argv[1], options->argv[2]);
	else
		cli_error(usage, "points: name a machine and a point (a # begins a comment for the shell: 57 or '#57')");
	return options->argc == 2 || options->argc == 3;
}

/* @question is on stdout or stderr already. */
static bool confirmed(const struct cli_options *options, const char *what, FILE *talk)
{
	char line[16];

	if (options->yes)
		return true;
	if (!isatty(STDIN_FILENO)) {
		cli_error("say --yes", "%s: nobody is there to confirm it", what);
		return false;
	}
	fprintf(talk, "Go on? [y/N] ");
	fflush(talk);
	return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}

/* Where people are talked to: standard output belongs to JSON when that is wanted. */
static FILE *talk_to(const struct cli_options *options)
{
	return options->json ? stderr : stdout;
}

/* ---- list ------------------------------------------------------------------- */

/* An answer has a bound: fetch the rest of @machine's points. */
static enum cli_exit fetch_rest(const struct cli_options *options, json_t *machine)
{
	json_t *points = json_object_get(machine, "points");

	while (cli_true(machine, "more")) {
		size_t count = json_array_size(points);
		CLEANUP_JSON json_t *answer = NULL;
		json_t *request = json_pack("{s:s, s:s, s:I}", "command", "points", "machine",
					    cli_text(machine, "machine"), "after",
					    (json_int_t)cli_number(json_array_get(points, count - 1), "id"));
		enum cli_exit rc = cli_call(options, CLI_MASTER_TARGET, request, &answer);
		json_t *page = json_array_get(json_object_get(answer, "machines"), 0);

		if (rc != CLI_OK)
			return rc;
		json_array_extend(points, json_object_get(page, "points"));
		json_object_set(machine, "more", json_array_size(points) > count ? json_object_get(page, "more") :
										  json_false());
	}
	json_object_del(machine, "more");
	return CLI_OK;
}

enum cli_exit command_points_list(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL;
	enum cli_exit rc;
	json_t *machines, *machine;
	size_t i;

	if (options->argc > 1) {
		cli_error("reprotect points list [MACHINE] [--json]", "points list: unexpected argument %s",
			  options->argv[1]);
		return CLI_USAGE;
	}
	rc = cli_call(options, CLI_MASTER_TARGET,
		      json_pack("{s:s, s:s*}", "command", "points", "machine", options->argc ? options->argv[0] : NULL),
		      &answer);
	if (rc != CLI_OK)
		return rc;
	machines = json_object_get(answer, "machines");
	json_array_foreach(machines, i, machine)
	{
		rc = fetch_rest(options, machine);
		if (rc != CLI_OK)
			return rc;
		if (!options->json)
			points_print_machine(machine, stdout);
	}
	if (options->json)
		cli_print_json(machines);
	else if (!json_array_size(machines))
		printf("no machine is known here yet\n");
	return CLI_OK;
}

/* ---- pin -------------------------------------------------------------------- */

static enum cli_exit set_pinned(const struct cli_options *options, bool pinned)
{
	CLEANUP_JSON json_t *answer = NULL;
	char point[POINT_BYTES], host[128], title[256];
	json_t *request;
	enum cli_exit rc;

	if (!machine_and_point(options, pinned ? "reprotect points pin MACHINE POINT" : "reprotect points unpin MACHINE POINT",
			       point))
		return CLI_USAGE;
	request = points_request("point-pin", options->argv[0], point);
	json_object_set_new(request, "pinned", json_boolean(pinned));
	rc = cli_call(options, CLI_MASTER_TARGET, request, &answer);
	if (rc != CLI_OK)
		return rc;
	if (options->json)
		cli_print_json(json_object_get(answer, "point"));
	else
		printf("machine %s: point %s: %s\n", format_clean(cli_text(answer, "host"), host, sizeof(host)),
		       points_title(json_object_get(answer, "point"), title, sizeof(title)),
		       pinned ? "pinned: it stays until it is unpinned" :
				"no longer pinned: it goes when the policy says so");
	return CLI_OK;
}

enum cli_exit command_points_pin(const struct cli_options *options)
{
	return set_pinned(options, true);
}

enum cli_exit command_points_unpin(const struct cli_options *options)
{
	return set_pinned(options, false);
}

/* ---- discard ---------------------------------------------------------------- */

#define DISCARD_USAGE "reprotect points discard MACHINE POINT | --newer-than POINT | --all [--yes]"

static enum cli_exit discard_all(const struct cli_options *options)
{
	FILE *talk = talk_to(options);
	CLEANUP_JSON json_t *answer = NULL;
	enum cli_exit rc;
	char host[128];

	if (!options->yes)
		fprintf(talk, "This gives up ALL recovery points of machine %s, pinned ones, too, and what they take on the\n"
			      "retention volume, also where that is lost. The disks stay as they are. It cannot be taken back.\n",
			format_clean(options->argv[0], host, sizeof(host)));
	if (!confirmed(options, "points discard", talk))
		return CLI_FAILED;
	rc = cli_call(options, CLI_MASTER_TARGET, points_request("points-drop", options->argv[0], NULL), &answer);
	if (rc == CLI_OK && options->json)
		cli_print_json(answer);
	else if (rc == CLI_OK)
		printf("machine %s: all recovery points are given up\n",
		       format_clean(cli_text(answer, "host"), host, sizeof(host)));
	return rc;
}

static enum cli_exit call_discard(const struct cli_options *options, const char *point, bool dry, json_t **answer)
{
	json_t *request = points_request("point-discard", options->argv[0], NULL);

	add_selector(request, options->newer_than ? "newer_than" : "point", options->newer_than ? options->newer_than : point);
	json_object_set_new(request, "dry", json_boolean(dry));
	return cli_call(options, CLI_MASTER_TARGET, request, answer);
}

enum cli_exit command_points_discard(const struct cli_options *options)
{
	bool several = options->discard_all || options->newer_than;
	CLEANUP_JSON json_t *would = NULL, *answer = NULL;
	FILE *talk = talk_to(options);
	char point[POINT_BYTES] = "";
	enum cli_exit rc;

	if (several && (options->argc != 1 || (options->discard_all && options->newer_than))) {
		cli_error(DISCARD_USAGE, "points discard: name one machine, and say only one of POINT, --newer-than and --all");
		return CLI_USAGE;
	}
	if (!several && !machine_and_point(options, DISCARD_USAGE, point))
		return CLI_USAGE;
	if (options->discard_all)
		return discard_all(options);
	if (!options->yes) {
		rc = call_discard(options, point, true, &would);
		if (rc != CLI_OK)
			return rc;
		points_print_discard(would, false, talk);
		if (!cli_number(would, "discarded")) {
			fprintf(talk, "nothing to discard\n");
			return CLI_OK;
		}
		fprintf(talk, "This cannot be taken back.\n");
	}
	if (!confirmed(options, "points discard", talk))
		return CLI_FAILED;
	rc = call_discard(options, point, false, &answer);
	if (rc == CLI_OK && options->json)
		cli_print_json(answer);
	else if (rc == CLI_OK)
		points_print_discard(answer, true, stdout);
	return rc;
}

/* ---- rollback --------------------------------------------------------------- */

#define ROLLBACK_USAGE "reprotect points rollback MACHINE POINT [--yes] [--no-wait], or MACHINE --status, or MACHINE --stop"

static volatile sig_atomic_t interrupted;

static void on_signal(int signal)
{
	(void)signal;
	interrupted = 1;
}

static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static int ask_status(const struct cli_options *options, const char *machine, json_t **answer)
{
	return cli_ask(cli_socket(options, CLI_MASTER_TARGET), points_request("rollback-status", machine, NULL), answer);
}

/* One line, rewritten in place on a terminal; else one for each state. */
static void show(const json_t *answer, char *last_state, size_t last_bytes)
{
	const char *state = cli_text(json_object_get(answer, "rollback"), "state");
	bool tty = isatty(STDOUT_FILENO), fresh = strcmp(state, last_state) != 0;
	char line[1024];

	if (!fresh && !tty)
		return;
	points_progress(answer, line, sizeof(line));
	if (tty)
		printf("%s%s\033[K", fresh && *last_state ? "\n" : "\r", line);
	else
		printf("%s\n", line);
	fflush(stdout);
	snprintf(last_state, last_bytes, "%s", state);
}

/* @point: or NULL: it was to be stopped. */
static enum cli_exit finish(const struct cli_options *options, const json_t *answer, const json_t *point)
{
	const json_t *rollback = json_object_get(answer, "rollback"), *error = json_object_get(rollback, "error");
	const char *state = cli_text(rollback, "state");

	if (!options->json && isatty(STDOUT_FILENO))
		putchar('\n');
	if (options->json)
		cli_print_json(answer);
	if (!strcmp(state, point ? "done" : "stopped")) {
		if (!options->json && point)
			points_print_done(answer, point, stdout);
		else if (!options->json)
			printf("The disks are as they were before it.\n");
		return CLI_OK;
	}
	if (!strcmp(state, "done"))
		cli_error("take it back: reprotect points rollback MACHINE undo", "points rollback --stop: it was done already");
	else
		cli_error(*cli_text(error, "remedy") ? cli_text(error, "remedy") : "what it did is undone; see: reprotect status",
			  "points rollback: %s", *cli_text(error, "message") ? cli_text(error, "message") : "failed");
	return CLI_FAILED;
}

/* The master target was started anew and has nothing left to do: were the disks rolled back before that? */
static enum cli_exit look(const struct cli_options *options, json_t *answer, const json_t *point)
{
	uint64_t id = cli_number(point, "id");

	if (point && (cli_number(answer, "copy_of") == id || cli_number(answer, "present") == id)) {
		json_object_set_new(json_object_get(answer, "rollback"), "state", json_string("done"));
		return finish(options, answer, point);
	}
	cli_error("see: reprotect points list, then start it again",
		  "points rollback: the master target does not know of it any more (was it restarted?)");
	return CLI_FAILED;
}

static enum cli_exit follow(const struct cli_options *options, const json_t *point)
{
	const char *machine = options->argv[0];
	struct timespec pause = { 0, (long)POLL_MS * 1000000L };
	uint64_t heard = util_now_ms();
	char last_state[32] = "";

	catch_signals();
	for (;;) {
		CLEANUP_JSON json_t *answer = NULL;
		int rc = ask_status(options, machine, &answer);
		const char *state = cli_text(json_object_get(answer, "rollback"), "state");

		if (!rc && cli_true(answer, "ok")) {
			heard = util_now_ms();
			if (!strcmp(state, "idle"))
				return look(options, answer, point);
			if (!options->json)
				show(answer, last_state, sizeof(last_state));
			if (!strcmp(state, "done") || !strcmp(state, "failed") || !strcmp(state, "stopped"))
				return finish(options, answer, point);
		} else if (!rc) {
			cli_error(cli_text(json_object_get(answer, "error"), "remedy"), "%s",
				  cli_text(json_object_get(answer, "error"), "message"));
			return CLI_FAILED;
		} else if (util_now_ms() - heard > SILENT_MS) {
			cli_error("see: systemctl status reprotect-master-target; when it runs again the rollback goes on",
				  "points rollback: the master target does not answer: %s", strerror(-rc));
			return rc == -ENOENT || rc == -ECONNREFUSED ? CLI_NO_DAEMON : CLI_FAILED;
		}
		if (interrupted) {
			fprintf(talk_to(options), "%sIt goes on. See: reprotect points rollback %s --status\n",
				isatty(STDOUT_FILENO) ? "\n" : "", machine);
			return CLI_FAILED;
		}
		nanosleep(&pause, NULL);
	}
}

static enum cli_exit print_status(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL;
	const json_t *rollback;
	char line[1024], host[128], name[128];
	enum cli_exit rc;

	if (options->argc != 1) {
		cli_error(ROLLBACK_USAGE, "points rollback --status: name one machine");
		return CLI_USAGE;
	}
	rc = cli_call(options, CLI_MASTER_TARGET, points_request("rollback-status", options->argv[0], NULL), &answer);
	if (rc != CLI_OK)
		return rc;
	rollback = json_object_get(answer, "rollback");
	if (options->json) {
		cli_print_json(answer);
	} else {
		const json_t *point = json_object_get(rollback, "point");

		points_progress(answer, line, sizeof(line));
		printf("machine %s: ", format_clean(cli_text(answer, "host"), host, sizeof(host)));
		if (json_is_object(point) && *line)
			printf("rollback to point #%" PRIu64 " %s: ", cli_number(point, "id"),
			       format_clean(cli_text(point, "name"), name, sizeof(name)));
		printf("%s\n", *line ? line : "no rollback is under way");
		if (*cli_text(json_object_get(rollback, "error"), "remedy"))
			printf("to do: %s\n", format_clean(cli_text(json_object_get(rollback, "error"), "remedy"), line,
							   sizeof(line)));
	}
	return strcmp(cli_text(rollback, "state"), "failed") ? CLI_OK : CLI_FAILED;
}

static enum cli_exit stop(const struct cli_options *options)
{
	CLEANUP_JSON json_t *answer = NULL;
	enum cli_exit rc;

	if (options->argc != 1) {
		cli_error(ROLLBACK_USAGE, "points rollback --stop: name one machine");
		return CLI_USAGE;
	}
	rc = cli_call(options, CLI_MASTER_TARGET, points_request("rollback-stop", options->argv[0], NULL), &answer);
	return rc == CLI_OK ? follow(options, NULL) : rc;
}

enum cli_exit command_points_rollback(const struct cli_options *options)
{
	CLEANUP_JSON json_t *plan = NULL, *answer = NULL;
	FILE *talk = talk_to(options);
	char point[POINT_BYTES], number[32], host[128];
	const json_t *to;
	json_t *request;
	enum cli_exit rc;

	if (options->status)
		return print_status(options);
	if (options->stop)
		return stop(options);
	if (!machine_and_point(options, ROLLBACK_USAGE, point))
		return CLI_USAGE;
	request = points_request("rollback", options->argv[0], point);
	json_object_set_new(request, "dry", json_true());
	rc = cli_call(options, CLI_MASTER_TARGET, request, &plan);
	if (rc != CLI_OK)
		return rc;
	points_print_plan(plan, talk);
	if (!confirmed(options, "points rollback", talk))
		return CLI_FAILED;
	/* The one that was shown, whatever "latest" means by now. */
	to = json_object_get(plan, "point");
	snprintf(number, sizeof(number), "#%" PRIu64, cli_number(to, "id"));
	rc = cli_call(options, CLI_MASTER_TARGET, points_request("rollback", options->argv[0], number), &answer);
	if (rc != CLI_OK)
		return rc;
	if (!options->no_wait)
		return follow(options, to);
	if (options->json)
		cli_print_json(answer);
	else
		printf("begun. See: reprotect points rollback %s --status\n",
		       format_clean(options->argv[0], host, sizeof(host)));
	return CLI_OK;
}
