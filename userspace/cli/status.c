// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * status: reprotect status. Asks the daemons of this machine (agent, process server, master
 * target), whichever run, and prints a short table, or all of their JSON.
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

#define BAR 30u

static const char *bytes_text(const json_t *json, const char *key, char out[32])
{
	return conf_format_bytes(cli_number(json, key), out, 32);
}

static void print_problem(const json_t *json, const char *key, const char *indent)
{
	const json_t *error = json_object_get(json, key);
	char clean[1024];
	const char *remedy;

	if (!json_is_object(error))
		return;
	printf("%s%s: %s\n", indent, key[0] == 'w' ? "warning" : "error",
	       format_clean(cli_text(error, "message"), clean, sizeof(clean)));
	remedy = cli_text(error, "remedy");
	if (*remedy)
		printf("%sto do: %s\n", indent, format_clean(remedy, clean, sizeof(clean)));
}

static void print_agent(const json_t *json)
{
	const json_t *epochs = json_object_get(json, "epochs"), *open = json_object_get(epochs, "open");
	const json_t *link = json_object_get(json, "link"), *rates = json_object_get(json, "rates");
	const json_t *tracking = json_object_get(json, "tracking");
	const json_t *failback = json_object_get(json, "failback"), *disk;
	char a[64], b[64], c[64], clean[1024];
	size_t i;

	printf("agent           %s  (%s, machine %s, version %s)\n", cli_text(json, "state"),
	       cli_text(json, "host"), cli_text(json, "machine"), cli_text(json, "version"));
	print_problem(json, "error", "  ");
	print_problem(json, "warning", "  ");
	if (cli_true(tracking, "degraded"))
		printf("  tracking      DEGRADED (%s): %s\n", cli_text(tracking, "mode"),
		       format_clean(cli_text(tracking, "reason"), clean, sizeof(clean)));
	status_early(json_object_get(json, "early"), stdout);
	printf("  epoch         %" PRIu64 " committed, %" PRIu64 " applied, %" PRIu64 " cut",
	       cli_number(epochs, "committed"), cli_number(epochs, "applied"), cli_number(epochs, "cut"));
	if (json_is_object(open))
		printf("; %" PRIu64 " %s, %s of %s", cli_number(open, "epoch"), cli_text(open, "phase"),
		       bytes_text(open, "sent_bytes", a), bytes_text(open, "total_bytes", b));
	printf("\n  lag           %s, %s dirty\n",
	       cli_true(json, "synced") ? format_duration(cli_number(json, "lag_ms"), a, sizeof(a)) :
					  "not in sync yet",
	       bytes_text(json, "dirty_bytes", b));
	status_points(json, util_wall_ms(), stdout);
	printf("  rates         read %s, sent %s, memory %s, io %s\n",
	       format_rate(cli_number(rates, "read_bytes_per_s"), a, sizeof(a)),
	       format_rate(cli_number(rates, "sent_bytes_per_s"), b, sizeof(b)),
	       bytes_text(json, "rss_bytes", c), cli_text(json, "io_engine"));
	printf("  link          %s to %s\n", cli_text(link, "state"), cli_text(link, "address"));
	if (json_is_object(json_object_get(link, "error")) &&
	    !json_equal(json_object_get(link, "error"), json_object_get(json, "error")))
		print_problem(link, "error", "    last ");
	if (json_is_object(failback)) {
		printf("  failback      %s\n", cli_text(failback, "step"));
		print_problem(failback, "error", "    ");
	}
	json_array_foreach(json_object_get(json, "disks"), i, disk)
	{
		const json_t *initial = json_object_get(disk, "initial");

		printf("  disk %-10s %s", cli_text(disk, "name"), cli_text(disk, "device"));
		if (cli_true(disk, "detached"))
			printf("  detached");
		else if (!cli_true(disk, "active"))
			printf("  not replicated");
		else
			printf("  %s, %s dirty", bytes_text(disk, "size_bytes", a),
			       bytes_text(disk, "dirty_bytes", b));
		putchar('\n');
		if (cli_true(initial, "active")) {
			printf("    initial sync %s",
			       format_bar(cli_number(initial, "done_bytes"),
					  cli_number(initial, "total_bytes"), BAR, a, sizeof(a)));
			if (cli_number(initial, "eta_s"))
				printf("  %s left", format_duration(cli_number(initial, "eta_s") * 1000, b,
								    sizeof(b)));
			putchar('\n');
		}
		if (!json_equal(json_object_get(disk, "error"), json_object_get(json, "error")))
			print_problem(disk, "error", "    ");
		print_problem(json_object_get(disk, "store"), "error", "    ");
	}
}

void status_target(const json_t *machine)
{
	const json_t *epoch = json_object_get(machine, "epoch"), *disk;
	char a[64], b[64];
	size_t i;

	printf("  machine %-12s %s  last epoch applied %" PRIu64 ", %s\n", cli_text(machine, "host"),
	       cli_text(machine, "status"), cli_number(machine, "last_applied"),
	       json_is_string(json_object_get(machine, "connected")) ? "connected" : "not connected");
	status_target_points(machine, util_wall_ms(), stdout);
	printf("    uuid %s, %s\n", cli_text(machine, "machine"),
	       format_rate(cli_number(machine, "rate_bytes_per_second"), a, sizeof(a)));
	if (json_is_object(epoch))
		printf("    epoch %" PRIu64 " %s: %s of %s\n", cli_number(epoch, "epoch"),
		       cli_true(epoch, "verifying") ? "verifying" : "arriving",
		       bytes_text(epoch, "bytes", a), bytes_text(epoch, "expected_bytes", b));
	json_array_foreach(json_object_get(machine, "disks"), i, disk)
		printf("    disk %-10s %s, %s, %s\n", cli_text(disk, "name"), cli_text(disk, "path"),
		       bytes_text(disk, "size_bytes", a), cli_text(disk, "state"));
	print_problem(machine, "last_error", "    last ");
}

/* The retention volume: whether it can be used, what is left of it, and what is wrong. */
static void print_retention(const json_t *retention)
{
	const char *alert = cli_text(retention, "alert");
	char a[32], b[32], text[1024];

	if (!json_is_object(retention))
		return;
	printf("  retention     %s: %s of it used by undo logs, %s free%s\n",
	       format_clean(cli_text(retention, "path"), text, sizeof(text)),
	       conf_format_bytes(cli_number(retention, "bytes_used"), a, sizeof(a)),
	       conf_format_bytes(cli_number(retention, "bytes_free"), b, sizeof(b)),
	       cli_true(retention, "merging") ? "; merging" : "");
	if (*alert)
		printf("    ALERT       %s\n    to do: enlarge it or shorten the policy: reprotect preflight retention\n",
		       format_clean(alert, text, sizeof(text)));
	if (!cli_true(retention, "fit")) {
		printf("    NOT USED    %s\n", format_clean(cli_text(retention, "why"), text, sizeof(text)));
		printf("    to do: %s\n", format_clean(cli_text(retention, "remedy"), text, sizeof(text)));
	}
}

static void print_master_target(const json_t *json)
{
	const json_t *machine;
	size_t i;

	printf("master target   listening on %s, %zu machines, version %s\n", cli_text(json, "listen"),
	       json_array_size(json_object_get(json, "machines")), cli_text(json, "version"));
	json_array_foreach(json_object_get(json, "machines"), i, machine)
		status_target(machine);
	print_retention(json_object_get(json, "retention"));
}

static void print_one(const json_t *answer)
{
	const char *program = cli_text(answer, "program");

	if (!strcmp(program, "reprotect-agent"))
		print_agent(answer);
	else if (!strcmp(program, "reprotect-master-target"))
		print_master_target(answer);
	else
		status_process_server(answer, util_wall_ms(), stdout);
}

static enum cli_exit status_once(const struct cli_options *options)
{
	CLEANUP_JSON json_t *all = json_object();
	enum cli_exit rc = CLI_OK;
	int last = options->socket ? 1 : CLI_DAEMONS;
	unsigned found = 0;

	for (int which = 0; which < last; which++) {
		const char *path = cli_socket(options, (enum cli_daemon)which);
		CLEANUP_JSON json_t *answer = NULL;
		int ask = cli_ask(path, json_pack("{s:s}", "command", "status"), &answer);

		if (ask == -ENOENT || ask == -ECONNREFUSED)
			continue;
		found++;
		if (ask || !cli_true(answer, "ok")) {
			const json_t *error = json_object_get(answer, "error");

			cli_error(ask ? "run this as root; see journalctl -u 'reprotect-*'" :
					cli_text(error, "remedy"),
				  "%s: %s: %s", options->socket ? "daemon" : cli_daemon_name((enum cli_daemon)which),
				  path, ask ? strerror(-ask) : cli_text(error, "message"));
			rc = CLI_FAILED;
			continue;
		}
		if (options->json)
			json_object_set(all, cli_text(answer, "program"), answer);
		else
			print_one(answer);
	}
	if (!found) {
		cli_error("start what belongs here, e.g.: systemctl start reprotect-agent",
			  "status: no reprotect daemon runs on this machine");
		return CLI_NO_DAEMON;
	}
	if (options->json)
		cli_print_json(all);
	return rc;
}

enum cli_exit command_status(const struct cli_options *options)
{
	enum cli_exit rc;

	if (options->argc) {
		cli_error("reprotect status [--json] [--watch[=SECONDS]]", "status: unexpected argument %s",
			  options->argv[0]);
		return CLI_USAGE;
	}
	if (!options->watch)
		return status_once(options);
	for (;;) {
		struct timespec pause = { (time_t)(options->watch_ms / 1000),
					  (long)(options->watch_ms % 1000) * 1000000L };

		if (isatty(STDOUT_FILENO) && !options->json)
			printf("\033[H\033[2J");
		rc = status_once(options);
		if (fflush(stdout) == EOF)
			return rc == CLI_OK ? CLI_FAILED : rc;
		nanosleep(&pause, NULL);
	}
}
