// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * client: one call to a daemon's control socket, and how its failure is told. Called by all
 * commands.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "control.h"
#include "util.h"

#define CALL_MS 10000u

static const struct {
	const char *name, *socket, *unit;
} daemons[CLI_DAEMONS] = {
	[CLI_AGENT] = { "agent", CONTROL_DIR "/agent.sock", "reprotect-agent" },
	[CLI_PROCESS_SERVER] = { "process server", CONTROL_DIR "/process-server.sock",
				 "reprotect-process-server" },
	[CLI_MASTER_TARGET] = { "master target", CONTROL_DIR "/master-target.sock",
				"reprotect-master-target" },
};

const char *cli_socket(const struct cli_options *options, enum cli_daemon which)
{
	return options->socket ? options->socket : daemons[which].socket;
}

const char *cli_daemon_name(enum cli_daemon which)
{
	return daemons[which].name;
}

void cli_error(const char *remedy, const char *format, ...)
{
	char text[2048], clean[2048];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	fprintf(stderr, "reprotect: %s", format_clean(text, clean, sizeof(clean)));
	if (remedy && *remedy)
		fprintf(stderr, " (%s)", format_clean(remedy, clean, sizeof(clean)));
	fputc('\n', stderr);
}

int cli_ask(const char *path, json_t *request, json_t **answer)
{
	int rc = request ? control_call(path, request, CALL_MS, answer) : -ENOMEM;

	json_decref(request);
	return rc;
}

enum cli_exit cli_call(const struct cli_options *options, enum cli_daemon which, json_t *request,
		       json_t **answer)
{
	const char *path = cli_socket(options, which);
	const json_t *error;
	char remedy[160];
	int rc = cli_ask(path, request, answer);

	if (rc == -ENOENT || rc == -ECONNREFUSED) {
		snprintf(remedy, sizeof(remedy), "start it: systemctl start %s", daemons[which].unit);
		cli_error(remedy, "%s: does not run: %s: %s", daemons[which].name, path, strerror(-rc));
		return CLI_NO_DAEMON;
	}
	if (rc == -EACCES || rc == -EPERM) {
		cli_error("run this as root", "%s: %s: %s", daemons[which].name, path, strerror(-rc));
		return CLI_FAILED;
	}
	if (rc) {
		snprintf(remedy, sizeof(remedy), "see its log: journalctl -u %s", daemons[which].unit);
		cli_error(remedy, "%s: %s: no answer: %s", daemons[which].name, path, strerror(-rc));
		return CLI_FAILED;
	}
	if (cli_true(*answer, "ok"))
		return CLI_OK;
	error = json_object_get(*answer, "error");
	cli_error(cli_text(error, "remedy"), "%s", cli_text(error, "message"));
	return CLI_FAILED;
}

void cli_print_json(const json_t *json)
{
	json_dumpf(json, stdout, JSON_INDENT(2));
	putchar('\n');
}

const char *cli_text(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text ? text : "";
}

uint64_t cli_number(const json_t *json, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(json, key));

	return value > 0 ? (uint64_t)value : 0;
}

bool cli_true(const json_t *json, const char *key)
{
	return json_is_true(json_object_get(json, key));
}
